"""How clients come by the round's model: the server sends it, or they make it from the aggregates that they decrypt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Sent(NamedTuple):
    """What the server sends one client before its round."""

    messages: int
    size: int
    """Bytes."""


@dataclass(kw_only=True)
class Delivery:
    """Who was sent what so far. The simulator's; part of a run's state.

    A server that knows the model sends it to every client of a cohort. One that does not has sent each client the
    initial model, once, and sends it the aggregates that were published since the client was last sent one: the client
    decrypts them and makes the same steps as the others. (The processor's time for that is not counted.)

    Args:
        server_knows_model: which of the two.
    """

    server_knows_model: bool
    published: list[int] = field(default_factory=list)
    """Bytes of each aggregate so far, as a client is sent it."""
    held: dict[int, int] = field(default_factory=dict)
    """Client → how many of the aggregates it has; a client that was sent nothing yet is not there."""

    def copy(self) -> Delivery:
        """Another one, to go on from here. Where the server knows the model there is nothing to go on from."""
        if self.server_knows_model:
            return self
        return Delivery(server_knows_model=False, published=[*self.published], held={**self.held})

    def bring(self, cohort: Sequence[int], model: int) -> list[Sent]:
        """Bring a cohort up to date: what each of its clients is sent.

        Args:
            cohort: indices of clients.
            model: bytes of a model.
        """
        if self.server_knows_model:
            return [Sent(1, model) for _ in cohort]
        sent = []
        for index in cohort:
            missed = self.published[self.held.get(index, 0) :]
            first = index not in self.held
            sent.append(Sent(first + len(missed), first * model + sum(missed)))
            self.held[index] = len(self.published)
        return sent

    def publish(self, received: Iterable[int], size: int) -> None:
        """The next aggregate: these clients got it in their round, the others will be sent it when they come back."""
        self.published.append(size)
        self.held.update(dict.fromkeys(received, len(self.published)))
