"""The server of Bonawitz et al. 2017, Figure 4. It holds one vector, whatever the number of clients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from fedpriv.aggregation.protocol import Sum
from fedpriv.aggregation.roles import Act, Hear, ScriptedRole
from fedpriv.aggregation.secagg import messages as m
from fedpriv.aggregation.secagg.client import lifted
from fedpriv.crypto import agreement, prg, shamir, wire
from fedpriv.errors import InvalidShare, UnexpectedMessage
from fedpriv.network import Message
from fedpriv.threat import SERVER, Party, client_index


class Server(ScriptedRole):
    """Relays keys and envelopes, folds masked vectors into one, removes the masks.

    Args:
        agreed: what the attempt is about.
    """

    def __init__(self, agreed: m.Agreed) -> None:
        super().__init__(SERVER, agreed.transcript)
        self._agreed = agreed
        self._positions = {party: position for position, party in enumerate(agreed.parties)}
        self._keys: dict[int, bytes] = {}
        self._roster: m.Roster
        self._slots: dict[int, int] = {}
        self._commitments: dict[int, bytes] = {}
        self._envelopes: dict[int, bytes] = {}
        self._vector = np.zeros(agreed.terms.length, dtype=agreed.word)
        self._sharers: m.Members = ()
        self._uploaders: set[int] = set()
        self._alive: m.Members = ()
        self._answers: dict[int, bytes] = {}
        self._sum: Sum | None = None
        everybody = frozenset(agreed.parties)
        self.follow(
            Hear(m.ADVERTISE, everybody, self._register),
            Act(m.ROSTER, self._introduce),
            Hear(m.SHARE, everybody, self._take_envelopes),
            Act(m.ROUTE, self._route),
            Hear(m.MASKED, everybody, self._fold),
            Act(m.SURVIVORS, self._announce),
            Hear(m.UNMASK, everybody, self._take_answer),
            Act(m.RECONSTRUCT, self._reconstruct),
        )

    def result(self) -> Sum:
        """The exact sum.

        Raises:
            UnexpectedMessage: the attempt did not come to its end.
        """
        if self._sum is None:
            raise UnexpectedMessage("There is a sum after the last stage.", remedy="Perform every stage.")
        return self._sum

    def _register(self, sender: Party, payload: memoryview) -> None:
        self._keys[self._positions[sender]] = bytes(m.exactly(payload, m.KEYS, m.ADVERTISE))

    def _introduce(self) -> list[Message]:
        members = tuple(sorted(self._keys))
        self._agreed.require_cohort(members)
        payload = m.Roster.encode(self._agreed, self._keys)
        self._roster = m.Roster.decode(self._agreed, payload)
        self._slots = {member: slot for slot, member in enumerate(members)}
        return self._to_each(members, m.ROSTER, payload)

    def _take_envelopes(self, sender: Party, payload: memoryview) -> None:
        position = self._member(sender, self._roster.members)
        size = agreement.KEY + m.ENVELOPE * (len(self._roster.members) - 1)
        body = bytes(m.exactly(payload, size, m.SHARE))
        self._commitments[position], self._envelopes[position] = body[: agreement.KEY], body[agreement.KEY :]

    def _route(self) -> list[Message]:
        self._sharers = tuple(sorted(self._envelopes))
        self._agreed.require_survivors(self._sharers, self._agreed.parameters.least)
        head = wire.members(self._sharers, self._agreed.invited)
        sent = [
            self.send(self._agreed.parties[member], m.ROUTE, head + b"".join(self._envelopes_to(member)))
            for member in self._sharers
        ]
        self._envelopes = {}
        return sent

    def _envelopes_to(self, recipient: int) -> Iterator[bytes]:
        """In the order of U2. A sender's envelopes lie in the order of U1, itself left out."""
        slot = self._slots[recipient]
        for sender in self._sharers:
            if sender != recipient:
                start = m.ENVELOPE * (slot - (self._slots[sender] < slot))
                yield self._envelopes[sender][start : start + m.ENVELOPE]

    def _fold(self, sender: Party, payload: memoryview) -> None:
        position = self._member(sender, self._sharers)
        self._vector += wire.unpack_bits(
            m.exactly(payload, self._agreed.vector_bytes, m.MASKED),
            self._agreed.terms.length,
            self._agreed.ring.bits,
            self._agreed.word,
        )
        self._uploaders.add(position)

    def _announce(self) -> list[Message]:
        self._alive = tuple(sorted(self._uploaders))
        self._agreed.require_survivors(self._alive, self._agreed.parameters.least)
        dead = (member for member in self._sharers if member not in self._uploaders)
        return self._to_each(self._alive, m.SURVIVORS, wire.members(dead, self._agreed.invited))

    def _take_answer(self, sender: Party, payload: memoryview) -> None:
        position = self._member(sender, self._alive)
        answer = m.exactly(payload, m.SHARE_BYTES * len(self._sharers), m.UNMASK)
        shamir.unpack(answer, m.LIMBS)  # refuse what is no share while it is known whose it is
        self._answers[position] = bytes(answer)

    def _reconstruct(self) -> list[Message]:
        """Open the self-mask seeds of the living and the mask keys of the dead, and take their masks away."""
        threshold = self._agreed.parameters.threshold
        self._agreed.require_survivors(tuple(self._answers), threshold)
        holders = sorted(self._answers)[:threshold]
        shares = shamir.unpack(b"".join(self._answers[holder] for holder in holders), m.LIMBS)
        opened = shamir.combine([holder + 1 for holder in holders], shares.reshape(threshold, -1))
        secrets = {
            member: shamir.from_limbs(limbs)
            for member, limbs in zip(self._sharers, opened.reshape(-1, m.LIMBS), strict=True)
        }
        added, subtracted = self._masks_of_the_dead(secrets)
        prg.mask(self._vector, subtract=self._self_masks(secrets))
        prg.mask(self._vector, subtract=added, add=subtracted)
        self._sum = Sum(
            total=lifted(self._vector, self._agreed.ring.bits),
            contributors=tuple(client_index(self._agreed.parties[member]) for member in self._alive),
        )
        self._answers = {}
        return []

    def _self_masks(self, secrets: dict[int, bytes]) -> Iterator[bytes]:
        for member in self._alive:
            if self._roster.commitment(member, secrets[member]) != self._commitments[member]:
                raise _not_the_secret("A reconstructed self-mask seed is the one that was committed to.")
            yield self._roster.self_mask(self._agreed, member, secrets[member])

    def _masks_of_the_dead(self, secrets: dict[int, bytes]) -> tuple[list[bytes], list[bytes]]:
        """Keys of the masks between the dead and the living: those that the living added, those they subtracted."""
        publics = dict(zip(self._roster.members, self._roster.mask_keys, strict=True))
        added: list[bytes] = []
        subtracted: list[bytes] = []
        for dead in sorted(set(self._sharers) - set(self._alive)):
            pair = agreement.KeyPair(secrets[dead])
            if pair.public != publics[dead]:
                raise _not_the_secret("A reconstructed mask key is the one that was advertised.")
            for alive in self._alive:
                key = self._roster.pairwise_mask(self._agreed, alive, dead, pair.agree(publics[alive]))
                (added if alive < dead else subtracted).append(key)
        return added, subtracted

    def _member(self, sender: Party, members: m.Members) -> int:
        position = self._positions[sender]
        if position not in members:
            raise UnexpectedMessage(
                "A client that left does not come back.", value=sender, remedy="Drop the sender or the attempt."
            )
        return position

    def _to_each(self, members: Iterable[int], stage: str, payload: bytes) -> list[Message]:
        return [self.send(self._agreed.parties[member], stage, payload) for member in members]


def _not_the_secret(rule: str) -> InvalidShare:
    return InvalidShare(rule, remedy="A client sent a wrong share; start a new attempt.")
