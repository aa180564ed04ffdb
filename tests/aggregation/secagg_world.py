"""A server that tells each client something else, with some clients on its side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from secagg_by_hand import IDENTITIES, Attempt, Make, agreed_on, inside, opened, reframed

from fedpriv.aggregation.secagg import messages as m
from fedpriv.crypto import shamir, wire
from fedpriv.network import Message


class World(Attempt):
    """An attempt whose server is the adversary's from the survivor set on, with the last ``corrupt`` clients its own.

    It holds every message, the corrupt clients' whole state and their identities; of honest clients nothing else. A
    ``threshold`` is a weakness: it is not the one that the description gives.
    """

    def __init__(self, n: int, *, threshold: int | None = None, make: Make | None = None, **description: Any) -> None:
        forced = {} if threshold is None else {"threshold": threshold, "least": threshold}
        super().__init__(agreed_on(n, forced=forced, graph="complete", **description), make=make)
        first = n - self.agreed.parameters.corrupt
        self.honest, self.corrupt = list(range(first)), list(range(first, n))
        self.dead: dict[int, frozenset[int]] = {}

    def upload(self, partners: Mapping[int, Sequence[int]] | None = None) -> None:
        """Everything up to the masked inputs, played honestly by all, but for whom the server names as U2 to some."""

        def carry(message: Message) -> Iterable[Message]:
            for i, members in (partners or {}).items():
                if (message.stage, message.recipient) == (m.ROUTE, self.agreed.parties[i]):
                    return [reframed(message, self.narrowed(i, members, inside(message)))]
            return [message]

        self.carry = carry
        super().upload()

    def narrowed(self, position: int, members: Sequence[int], payload: bytes) -> bytes:
        """U2 as these members only, with their envelopes out of a message that has everybody's."""
        n, size = self.agreed.invited, m.ENVELOPE
        body = payload[wire.packed_size(n, 1) :]
        places = {other: place for place, other in enumerate(i for i in range(n) if i != position)}
        return wire.members(members, n) + b"".join(
            body[size * places[i] : size * (places[i] + 1)] for i in members if i != position
        )

    def tell(self, dead: Mapping[int, Sequence[int]]) -> None:
        """Each honest client its own dead-list."""
        for i in self.honest:
            self.dead[i] = frozenset(dead.get(i, ()))
            self.say(i, m.SURVIVORS, wire.members(self.dead[i], self.agreed.invited))
        if self.agreed.identities:
            self.convince()

    def convince(self) -> None:
        """Each honest client gets every signature on *its* view that there is: honest ones, and the adversary's."""
        n = self.agreed.invited
        own = {i: inside(self.clients[i].step(m.CONSISTENCY)[0]) for i in self.honest}
        for i in self.honest:
            alive = [j for j in range(n) if j not in self.dead[i]]
            statement = m.survivor_statement(self.server._roster, range(n), alive, n)
            found = {j: own[j] for j in self.honest if self.dead[j] == self.dead[i]}
            found |= {j: IDENTITIES[j].sign(statement) for j in self.corrupt}
            self.say(i, m.SIGNATURES, wire.members(found, n) + b"".join(found[j] for j in sorted(found)))

    def secrets(self) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Mask keys and self-mask seeds of whom the adversary has t shares, from answers and from its own clients."""
        size, n = m.SHARE_BYTES, self.agreed.invited
        shares: dict[tuple[int, bool], dict[int, bytes]] = {}
        for i in self.honest:
            answer = inside(self.clients[i].step(m.UNMASK)[0])
            for owner in range(n):
                part = answer[size * owner : size * (owner + 1)]
                shares.setdefault((owner, owner in self.dead[i]), {})[i] = part
        for i in self.corrupt:
            for owner, both in self.clients[i]._shares.items():
                shares.setdefault((owner, True), {})[i] = both[:size]
                shares.setdefault((owner, False), {})[i] = both[size:]
        secrets: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
        for (owner, is_key), held in shares.items():
            chosen = sorted(held)[: self.agreed.parameters.threshold]
            if len(chosen) == self.agreed.parameters.threshold:
                rows = shamir.unpack(b"".join(held[i] for i in chosen), m.LIMBS)
                secrets[0 if is_key else 1][owner] = opened(chosen, rows)
        return secrets

    def sum_of(self, targets: Sequence[int], among: Iterable[int] | None = None) -> list[int] | None:
        """The sum of these clients' vectors alone, masked with those ``among``, where the opened secrets give it."""
        keys, seeds = self.secrets()
        keys |= {i: self.clients[i]._mask_key.secret() for i in self.corrupt}
        return self.unmasked(targets, keys, seeds, among)
