"""Where the clients of an attempt live: in this process, or spread over others.

Clients are kept in blocks. A block is cut by the cohort alone, never by the number of workers, so that what is computed
block by block (training, above all) is the same wherever the block lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, cast

from fedpriv.aggregation.protocol import ClientRole, Inputs, Releaser, Role, Sum
from fedpriv.errors import ProtocolError
from fedpriv.network import Message
from fedpriv.threat import Party

BLOCK = 32
"""Clients that live together."""

Collect: TypeAlias = Callable[[Any], None]
"""Takes what the inputs of one block return when they are exhausted; called in the blocks' order."""


@dataclass(frozen=True)
class Acted:
    """One client's step: what it sends, and the CPU seconds it took."""

    party: Party
    messages: list[Message] = field(repr=False)
    seconds: float


class Hosts(Protocol):
    """Keeps the clients' roles of one attempt. Errors of a role arise here, as if it had acted in this process."""

    def open(self, roles: Mapping[Party, Role]) -> None:
        """Take in the clients' fresh roles, in the cohort's order; those of an earlier attempt are dropped."""
        ...

    def act(self, stage: str, present: Sequence[Party]) -> Iterator[Acted]:
        """Every present client's step."""
        ...

    def upload(self, stage: str, present: Sequence[Party], inputs: Inputs, collect: Collect) -> Iterator[Acted]:
        """Every present client's step, once it was given its vector; ``inputs`` is called for each block."""
        ...

    def deliver(self, message: Message) -> None:
        """Hand over a message to one of the clients; it is taken in by the end of :meth:`settle`."""
        ...

    def settle(self) -> Iterable[tuple[Party, float]]:
        """Everything delivered is taken in; CPU seconds of the clients that took it in."""
        ...

    def results(self, parties: Sequence[Party]) -> list[Sum]:
        """The sums that these clients hold."""
        ...

    def close(self) -> None:
        """The attempt is over: drop the roles."""
        ...


def blocks(parties: Sequence[Party]) -> list[Sequence[Party]]:
    """Consecutive blocks of at most :data:`BLOCK` clients."""
    return [parties[start : start + BLOCK] for start in range(0, len(parties), BLOCK)]


class Block:
    """Some clients' roles, in this process."""

    def __init__(self, roles: Mapping[Party, Role]) -> None:
        self._roles = dict(roles)

    def act(self, stage: str, present: Iterable[Party]) -> Iterator[Acted]:
        for party in present:
            yield self._step(party, stage)

    def upload(self, stage: str, present: Sequence[Party], inputs: Inputs) -> Generator[Acted, None, Any]:
        """A client's vector exists only between training and its upload. Returns what ``inputs`` returns."""
        vectors = _Exhausted(inputs(present))
        for party, vector in vectors:
            role = self._roles[party]
            if not isinstance(role, ClientRole):
                raise ProtocolError("A client's role takes an input.", value=party, remedy="Implement ClientRole.")
            role.submit(vector)
            yield self._step(party, stage)
        return vectors.returned

    def receive(self, message: Message) -> float:
        """CPU seconds of the recipient."""
        started = time.process_time()
        self._roles[message.recipient].receive(message)
        return time.process_time() - started

    def result(self, party: Party) -> Sum:
        role = self._roles[party]
        if not isinstance(role, Releaser):
            raise ProtocolError(
                "A client that releases has a role with a result.", value=party, remedy="Implement Releaser."
            )
        return role.result()

    def _step(self, party: Party, stage: str) -> Acted:
        started = time.process_time()
        messages = self._roles[party].step(stage)
        return Acted(party, messages, time.process_time() - started)


class Here:
    """Everything in this process, one client after another."""

    def __init__(self) -> None:
        self._blocks: list[tuple[Sequence[Party], Block]] = []
        self._home: dict[Party, Block] = {}
        self._received: list[tuple[Party, float]] = []

    def open(self, roles: Mapping[Party, Role]) -> None:
        self._blocks = [(block, Block({party: roles[party] for party in block})) for block in blocks(list(roles))]
        self._home = {party: home for block, home in self._blocks for party in block}

    def act(self, stage: str, present: Sequence[Party]) -> Iterator[Acted]:
        left = set(present)
        for block, home in self._blocks:
            yield from home.act(stage, [party for party in block if party in left])

    def upload(self, stage: str, present: Sequence[Party], inputs: Inputs, collect: Collect) -> Iterator[Acted]:
        left = set(present)
        for block, home in self._blocks:
            here = [party for party in block if party in left]
            if here:
                collect((yield from home.upload(stage, here, inputs)))

    def deliver(self, message: Message) -> None:
        self._received.append((message.recipient, self._home[message.recipient].receive(message)))

    def settle(self) -> list[tuple[Party, float]]:
        received, self._received = self._received, []
        return received

    def results(self, parties: Sequence[Party]) -> list[Sum]:
        return [self._home[party].result(party) for party in parties]

    def close(self) -> None:
        self._blocks, self._home = [], {}


class _Exhausted:
    """Iterates, and keeps what a generator returns at its end."""

    def __init__(self, iterable: Iterable[tuple[Party, Any]]) -> None:
        self._iterable = iterable
        self.returned: Any = None

    def __iter__(self) -> Generator[tuple[Party, Any], None, None]:
        self.returned = yield from cast("Generator[tuple[Party, Any], None, Any]", self._iterable)
