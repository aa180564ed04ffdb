"""The server of Bonawitz et al. 2017 and Bell et al. 2020. It holds one vector, whatever the number of clients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from fedpriv.aggregation.protocol import Sum
from fedpriv.aggregation.roles import Act, Hear, Script, ScriptedRole
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
        self._roster: m.FullRoster
        self._commitments: dict[int, bytes] = {}
        self._envelopes: dict[int, bytes] = {}
        self._vector = np.zeros(agreed.terms.length, dtype=agreed.word)
        self._sharers: dict[int, None] = {}  # a set in increasing order
        self._uploaders: set[int] = set()
        self._alive: dict[int, None] = {}
        self._answers: dict[int, bytes] = {}
        self._sum: Sum | None = None
        self._everybody = frozenset(agreed.parties)
        self.follow(
            Hear(m.ADVERTISE, self._everybody, self._register),
            Act(m.ROSTER, self._introduce),
            Hear(m.SHARE, self._everybody, self._take_envelopes),
            Act(m.ROUTE, self._route),
            Hear(m.MASKED, self._everybody, self._fold),
            Act(m.SURVIVORS, self._announce),
            *self._confirmation(),
            Hear(m.UNMASK, self._everybody, self._take_answer),
            Act(m.RECONSTRUCT, self._reconstruct),
        )

    def _confirmation(self) -> Script:
        """What lies between the survivor set and the shares."""
        return ()

    def result(self) -> Sum:
        """The exact sum.

        Raises:
            UnexpectedMessage: the attempt did not come to its end.
        """
        if self._sum is None:
            raise UnexpectedMessage("There is a sum after the last stage.", remedy="Perform every stage.")
        return self._sum

    def _register(self, sender: Party, payload: memoryview) -> None:
        self._keys[self._positions[sender]] = bytes(m.exactly(payload, self._agreed.advertised_bytes, m.ADVERTISE))

    def _introduce(self) -> list[Message]:
        self._agreed.require_cohort(self._keys)
        self._roster = m.FullRoster.of(self._agreed, self._keys)
        self._agreed.require_holders(self._roster.reach, self._roster.members, self._roster.members)
        return self._to_each(self._roster.members, m.ROSTER, self._roster.encode)

    def _take_envelopes(self, sender: Party, payload: memoryview) -> None:
        position = self._member(sender, self._roster.advertised)
        size = agreement.KEY + m.ENVELOPE * len(self._recipients(position))
        body = bytes(m.exactly(payload, size, m.SHARE))
        self._commitments[position], self._envelopes[position] = body[: agreement.KEY], body[agreement.KEY :]

    def _recipients(self, sender: int) -> list[int]:
        """Whom a client's envelopes are for, in the order in which it sends them."""
        holders = self._roster.reach.holders(sender)
        return [holder for holder in holders if holder != sender and holder in self._roster.advertised]

    def _route(self) -> list[Message]:
        """Each envelope lies in its sender's message at the place of its recipient."""
        self._sharers = dict.fromkeys(sorted(self._envelopes))
        self._left(self._sharers)
        routed: dict[int, list[bytes]] = defaultdict(list)
        for sender in self._sharers:
            body = self._envelopes.pop(sender)
            for place, recipient in enumerate(self._recipients(sender)):
                if recipient in self._sharers:
                    routed[recipient].append(body[m.ENVELOPE * place : m.ENVELOPE * (place + 1)])
        told = self._telling(self._sharers)
        return self._to_each(self._sharers, m.ROUTE, lambda member: b"".join((told(member), *routed.pop(member, ()))))

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
        self._alive = dict.fromkeys(sorted(self._uploaders))
        self._left(self._alive)
        dead = self._sharers.keys() - self._alive.keys()
        return self._to_each(self._alive, m.SURVIVORS, self._telling(dead))

    def _left(self, members: Collection[int]) -> None:
        self._agreed.require_survivors(members)
        self._agreed.require_holders(self._roster.reach, members, members)

    def _take_answer(self, sender: Party, payload: memoryview) -> None:
        position = self._member(sender, self._alive)
        answer = m.exactly(payload, m.SHARE_BYTES * len(self._owners(position)), m.UNMASK)
        shamir.unpack(answer, m.LIMBS)  # refuse what is no share while it is known whose it is
        self._answers[position] = bytes(answer)

    def _owners(self, holder: int) -> list[int]:
        """Whose shares a client holds, in the order in which it answers: reach is mutual."""
        return [owner for owner in self._roster.reach.holders(holder) if owner in self._sharers]

    def _reconstruct(self) -> list[Message]:
        """Open the self-mask seeds of the living and the mask keys of the dead, and take their masks away."""
        self._agreed.require_holders(self._roster.reach, self._sharers, self._answers)
        secrets = self._open()
        added, subtracted = self._masks_of_the_dead(secrets)
        prg.mask(self._vector, subtract=self._self_masks(secrets), cipher=self._agreed.masks)
        prg.mask(self._vector, subtract=added, add=subtracted, cipher=self._agreed.masks)
        self._sum = Sum(
            total=lifted(self._vector, self._agreed.ring.bits),
            contributors=tuple(client_index(self._agreed.parties[member]) for member in self._alive),
        )
        self._answers = {}
        return []

    def _open(self) -> dict[int, bytes]:
        """The secret of each member of U2, from the first t of its holders that answered."""
        threshold, reach = self._agreed.parameters.threshold, self._roster.reach
        if reach.whole:
            chosen = sorted(self._answers)[:threshold]
            held = shamir.unpack(b"".join(self._answers[holder] for holder in chosen), m.LIMBS)
            return self._combined([holder + 1 for holder in chosen], list(self._sharers), held)
        shares: dict[tuple[int, int], bytes] = {}
        for holder, answer in self._answers.items():
            for place, owner in enumerate(self._owners(holder)):
                shares[owner, holder] = answer[m.SHARE_BYTES * place : m.SHARE_BYTES * (place + 1)]
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for owner in self._sharers:  # neighbourhoods in which the same places answered are opened together
            places = (place for place, holder in enumerate(reach.holders(owner)) if (owner, holder) in shares)
            alike[tuple(islice(places, threshold))].append(owner)
        secrets: dict[int, bytes] = {}
        for picked, owners in alike.items():
            parts = (shares.pop((owner, reach.holders(owner)[place])) for place in picked for owner in owners)
            secrets |= self._combined([place + 1 for place in picked], owners, shamir.unpack(b"".join(parts), m.LIMBS))
        return secrets

    def _combined(self, points: Sequence[int], owners: Sequence[int], held: shamir.Field) -> dict[int, bytes]:
        """From the shares of every owner, ``[t · owners, limbs]``, point by point."""
        opened = shamir.combine(points, held.reshape(len(points), -1)).reshape(-1, m.LIMBS)
        return {owner: shamir.from_limbs(limbs) for owner, limbs in zip(owners, opened, strict=True)}

    def _self_masks(self, secrets: dict[int, bytes]) -> Iterator[bytes]:
        for member in self._alive:
            if self._roster.commitment(member, secrets[member]) != self._commitments[member]:
                raise _not_the_secret("A reconstructed self-mask seed is the one that was committed to.")
            yield self._roster.self_mask(self._agreed, member, secrets[member])

    def _masks_of_the_dead(self, secrets: dict[int, bytes]) -> tuple[list[bytes], list[bytes]]:
        """Keys of the masks between the dead and the living: those that the living added, those they subtracted."""
        added: list[bytes] = []
        subtracted: list[bytes] = []
        for dead in sorted(self._sharers.keys() - self._alive.keys()):
            pair = agreement.KeyPair(secrets[dead])
            if pair.public != self._roster.mask_key(dead):
                raise _not_the_secret("A reconstructed mask key is the one that was advertised.")
            for alive in self._roster.reach.seats(dead):
                if alive not in self._alive:
                    continue
                shared = pair.agree(self._roster.mask_key(alive))
                key = self._roster.pairwise_mask(self._agreed, alive, dead, shared)
                (added if alive < dead else subtracted).append(key)
        return added, subtracted

    def forget(self) -> None:
        """Drop the shares that clients answered with, and a vector that may be unmasked in part."""
        self._answers, self._envelopes = {}, {}
        self._vector = np.zeros(0, dtype=self._agreed.word)  # no view, which would keep the whole

    def _member(self, sender: Party, members: Collection[int]) -> int:
        position = self._positions[sender]
        if position not in members:
            raise UnexpectedMessage(
                "A client that left does not come back.", value=sender, remedy="Drop the sender or the attempt."
            )
        return position

    def _telling(self, subset: Collection[int]) -> Callable[[int], bytes]:
        """A client → who of those within its reach is in the subset."""
        reach = self._roster.reach
        if reach.whole:
            same = wire.members(subset, self._agreed.invited)
            return lambda member: same
        return lambda member: m.encode_subset(reach.seats(member), subset)

    def _to_each(self, members: Iterable[int], stage: str, payload: Callable[[int], bytes]) -> list[Message]:
        return [self.send(self._agreed.parties[member], stage, payload(member)) for member in members]


def _not_the_secret(rule: str) -> InvalidShare:
    return InvalidShare(rule, remedy="A client sent a wrong share; start a new attempt.")
