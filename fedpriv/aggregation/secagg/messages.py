"""What one attempt is about, and the bytes of its messages.

Clients are named by their position among the invited, 0 … n − 1. To each client the server speaks of the clients within
its reach (:mod:`.reach`): of all n on the complete graph, of itself and its k neighbours on a regular one. A subset of
them is one bit for each. Every message has one canonical form; each lies in a frame (:func:`fedpriv.crypto.wire.frame`)
bound to T0.

==================  ======================================================================================
advertise-keys      envelope key (32) ‖ mask key (32), both public X25519; malicious: ‖ a signature (64)
roster, complete    U1, one bit for each invited client ‖ what each member advertised, in order
roster, regular     U1 likewise ‖ what each member within reach advertised ‖ hashes that lead from these to the root of
                    the Merkle tree over all of U1
share-keys          commitment to the self-mask seed (32) ‖ an envelope (96) for each other holder in U1
route-shares        U2 within reach ‖ the envelope from each other member of U2 within reach
masked-input        the masked vector, bit-packed
survivors           the dead, U2 without U3, within reach; nothing else
consistency-check   malicious: a signature (64) of T1, U2 and U3
signatures          malicious: t signers ‖ their signatures
unmask              a share (34) for each member of U2 whose secrets the client holds shares of: of the mask key if
                    dead, of the self-mask seed if alive
==================  ======================================================================================
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedpriv.aggregation.protocol import Session, Terms
from fedpriv.aggregation.roles import session_hash
from fedpriv.aggregation.secagg.parameters import Parameters
from fedpriv.aggregation.secagg.reach import Complete, Members, Reach, drawn
from fedpriv.crypto import agreement, envelope, merkle, shamir, signing, wire
from fedpriv.crypto.prg import MaskCipher
from fedpriv.encoding import Ring
from fedpriv.errors import CohortTooSmall, MalformedMessage, TooFewSurvivors, UnexpectedMessage
from fedpriv.network import Stage
from fedpriv.threat import CLIENT, SERVER, Adversary, Party

SUITE = "secagg/v1 X25519 HKDF-SHA256 AES256-GCM Shamir-65537"

ADVERTISE, ROSTER = "advertise-keys", "roster"
SHARE, ROUTE = "share-keys", "route-shares"
MASKED, SURVIVORS = "masked-input", "survivors"
CONSISTENCY, SIGNATURES = "consistency-check", "signatures"
UNMASK, RECONSTRUCT = "unmask", "reconstruct"

STAGES = (
    Stage(ADVERTISE, CLIENT, "setup"),
    Stage(ROSTER, SERVER, "setup"),
    Stage(SHARE, CLIENT, "setup"),
    Stage(ROUTE, SERVER, "setup"),
    Stage(MASKED, CLIENT, "upload"),
    Stage(SURVIVORS, SERVER, "recovery"),
    Stage(UNMASK, CLIENT, "recovery"),
    Stage(RECONSTRUCT, SERVER, "recovery"),
)
SIGNED_STAGES = (
    *STAGES[:6],
    Stage(CONSISTENCY, CLIENT, "recovery"),
    Stage(SIGNATURES, SERVER, "recovery"),
    *STAGES[6:],
)

KEYS = 2 * agreement.KEY
LIMBS = agreement.KEY * 8 // shamir.LIMB_BITS
SHARE_BYTES = shamir.packed_size(LIMBS)
"""One share of a 32-byte secret: 34 bytes."""
ENVELOPE = 2 * SHARE_BYTES + envelope.OVERHEAD
"""An envelope with a share of the mask key and one of the self-mask seed."""


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """What all parties of an attempt know before its first message; public."""

    terms: Terms
    ring: Ring
    parameters: Parameters
    parties: tuple[Party, ...]
    """The invited, by position."""
    identities: tuple[bytes, ...]
    """The invited's registered verification keys, by position; none against an honest-but-curious server."""
    masks: MaskCipher
    """Whose keystream the masks are."""
    transcript: bytes
    """T0: a hash of all of this, the round, the attempt and the context."""

    @classmethod
    def on(
        cls,
        terms: Terms,
        ring: Ring,
        parameters: Parameters,
        session: Session,
        identities: tuple[bytes, ...] = (),
        *,
        masks: MaskCipher = "aes-256-ctr",
    ) -> Agreed:
        """The agreement of a session."""
        adversary: Adversary = "malicious" if identities else "honest-but-curious"
        settled = (masks.encode(), adversary.encode(), parameters.canonical())
        transcript = session_hash(SUITE, terms, session, *settled, *identities)
        return cls(
            terms=terms,
            ring=ring,
            parameters=parameters,
            parties=session.parties,
            identities=identities,
            masks=masks,
            transcript=transcript,
        )

    @property
    def word(self) -> np.dtype[np.unsignedinteger]:
        """In which ring elements are held: arithmetic mod 2^16, 2^32 or 2^64 reduces to the ring's."""
        return wire.word_type(self.ring.bits)

    @property
    def invited(self) -> int:
        """How many clients were invited: n."""
        return len(self.parties)

    @property
    def vector_bytes(self) -> int:
        """A masked vector on the wire."""
        return wire.packed_size(self.terms.length, self.ring.bits)

    @property
    def advertised_bytes(self) -> int:
        """What a client advertises: two keys, and its signature where there are identities."""
        return KEYS + (signing.SIGNATURE if self.identities else 0)

    def reach(self, members: bytes) -> Reach:
        """Who reaches whom, once U1 is fixed.

        A regular graph follows from a hash of T0 and U1. Nobody chooses it; and nobody who follows the protocol lets
        it decide whether to take part, which is what its failure probabilities rest on. It does not depend on keys, so
        that the ideal functionality draws the same graph and aborts with the real attempt.
        """
        if self.parameters.graph == "complete":
            return Complete(self.invited)
        seed = wire.digest(b"graph", self.transcript, members)
        return drawn(self.invited, self.parameters.degree, seed)

    def require_cohort(self, advertised: Collection[int]) -> None:
        """Raises CohortTooSmall or TooFewSurvivors where U1 is too small."""
        if len(advertised) < self.parameters.min_cohort:
            raise CohortTooSmall(
                f"A cohort has at least min_cohort = {self.parameters.min_cohort} clients.",
                value=len(advertised),
                remedy="Start a new attempt with more clients.",
            )
        self.require_survivors(advertised)

    def require_survivors(self, members: Collection[int]) -> None:
        """Raises TooFewSurvivors where too few are left for a sum."""
        self._require(members, self.parameters.least)

    def require_threshold(self, members: Collection[int]) -> None:
        """Raises TooFewSurvivors where too few are left, of all or of a client's neighbours, to open a secret."""
        self._require(members, self.parameters.threshold)

    def require_holders(self, reach: Reach, owners: Iterable[int], left: Collection[int]) -> None:
        """Raises TooFewSurvivors where the secrets of one of these clients can no longer be opened."""
        if reach.whole:
            self.require_threshold(left)
            return
        present = frozenset(left)
        for owner in owners:
            self.require_threshold([holder for holder in reach.holders(owner) if holder in present])

    def _require(self, members: Collection[int], least: int) -> None:
        if len(members) < least:
            among = f"{self.invited} invited clients"
            if self.parameters.graph == "regular" and least == self.parameters.threshold:
                among = f"a client's {self.parameters.degree} neighbours"
            raise TooFewSurvivors(
                f"At least {least} of {among} must stay (threshold {self.parameters.threshold}, "
                f"min_cohort {self.parameters.min_cohort}).",
                value=len(members),
                remedy="Start a new attempt, or permit more losses: SecureAggregation(dropout=…).",
            )


@dataclass(frozen=True)
class Roster:
    """U1 as one client sees it, and T1, the hash that binds everything later to exactly this roster."""

    reach: Reach
    members: Members
    """U1, within reach."""
    advertised: Mapping[int, bytes]
    """What each of them advertised."""
    transcript: bytes
    """T1 = H(T0, U1 and the Merkle root of what its members advertised; on the complete graph, the list itself)."""

    @classmethod
    def decode(cls, agreed: Agreed, payload: bytes | memoryview, position: int = 0) -> Roster:
        """The roster that was sent to the client at ``position``.

        Raises:
            CohortTooSmall: U1 is smaller than min_cohort.
            TooFewSurvivors: it is too small for a sum, or for this client's shares.
            MalformedMessage: anything else than one roster, or one that names a key twice, in whatever encoding.
        """
        reader = wire.Reader(payload, ROSTER)
        bitmap = bytes(reader.take(wire.packed_size(agreed.invited, 1)))
        everybody = wire.Reader(bitmap, ROSTER).members(agreed.invited)
        agreed.require_cohort(everybody)
        reach = agreed.reach(bitmap)
        if reach.whole:
            members = everybody
            rows = _advertised(agreed, reader, members)
            transcript = wire.digest(b"T1", SUITE.encode(), agreed.transcript, bytes(payload))
        else:
            members = tuple(seat for seat in reach.seats(position) if bitmap[seat // 8] >> seat % 8 & 1)
            rows = _advertised(agreed, reader, members)
            leaves = {_place(everybody, member): _leaf(member, row) for member, row in rows.items()}
            if not leaves:
                raise reader.malformed("nobody within reach")
            transcript = _committed(agreed, bitmap, merkle.root(len(everybody), leaves, reader))
        reader.end()
        half = agreement.KEY
        keys = {row[i : i + half] for row in rows.values() for i in (0, half)}
        if len(keys) != 2 * len(rows) or not all(map(agreement.canonical, keys)):
            raise MalformedMessage(
                "The public keys of a roster are different, each in its one encoding.", remedy="Start a new attempt."
            )
        return cls(reach, members, rows, transcript)

    def mask_key(self, member: int) -> bytes:
        """Its public half."""
        return self.advertised[member][agreement.KEY : KEYS]

    def envelope_key(self, member: int) -> bytes:
        """Its public half."""
        return self.advertised[member][: agreement.KEY]

    @cached_property
    def _heads(self) -> dict[str, bytes]:
        """Each purpose, bound to T1; what follows a head has a fixed length, so that it is unambiguous."""
        purposes = ("envelope", "commitment", "self-mask", "pairwise-mask")
        return {purpose: wire.prefixed(SUITE.encode(), purpose.encode(), self.transcript) for purpose in purposes}

    def envelope_context(self, sender: int, recipient: int) -> bytes:
        """Of one envelope: HKDF info and associated data."""
        return self._heads["envelope"] + wire.u32(sender) + wire.u32(recipient)

    def commitment(self, position: int, seed: bytes) -> bytes:
        """To a self-mask seed: a key derived from it for no other purpose."""
        info = self._heads["commitment"] + wire.u32(position)
        return agreement.derive(seed, salt=self.transcript, info=info)

    def self_mask(self, agreed: Agreed, position: int, seed: bytes) -> bytes:
        """The key of a client's own mask."""
        info = self._heads["self-mask"] + wire.u32(position) + _shape(agreed)
        return agreement.derive(seed, salt=self.transcript, info=info)

    def pairwise_mask(self, agreed: Agreed, one: int, other: int, secret: bytes) -> bytes:
        """The key of the mask that two clients share; the lower position adds it, the higher subtracts it."""
        info = self._heads["pairwise-mask"] + wire.u32(min(one, other)) + wire.u32(max(one, other)) + _shape(agreed)
        return agreement.derive(secret, salt=self.transcript, info=info)


@dataclass(frozen=True)
class FullRoster(Roster):
    """The server's, who makes every client's."""

    bitmap: bytes
    tree: merkle.Tree | None

    @classmethod
    def of(cls, agreed: Agreed, advertised: Mapping[int, bytes]) -> FullRoster:
        """From what each member of U1 advertised, by position."""
        members = tuple(sorted(advertised))
        bitmap = wire.members(members, agreed.invited)
        reach = agreed.reach(bitmap)
        rows = {member: advertised[member] for member in members}
        if reach.whole:
            transcript = wire.digest(b"T1", SUITE.encode(), agreed.transcript, bitmap + b"".join(rows.values()))
            return cls(reach, members, rows, transcript, bitmap, None)
        tree = merkle.Tree(_leaf(member, row) for member, row in rows.items())
        return cls(reach, members, rows, _committed(agreed, bitmap, tree.root), bitmap, tree)

    def encode(self, position: int) -> bytes:
        """For one client; on the complete graph the same for all."""
        if self.tree is None:
            return b"".join((self.bitmap, *self.advertised.values()))
        known = [member for member in self.reach.seats(position) if member in self.advertised]
        opening = self.tree.opening([_place(self.members, member) for member in known])
        return b"".join((self.bitmap, *(self.advertised[member] for member in known), opening))


def _advertised(agreed: Agreed, reader: wire.Reader, members: Members) -> dict[int, bytes]:
    return {member: bytes(reader.take(agreed.advertised_bytes)) for member in members}


def _place(members: Members, member: int) -> int:
    return bisect_left(members, member)


def _leaf(member: int, advertised: bytes) -> bytes:
    return wire.u32(member) + advertised


def _committed(agreed: Agreed, bitmap: bytes, root: bytes) -> bytes:
    return wire.digest(b"T1", SUITE.encode(), agreed.transcript, bitmap, root)


def _shape(agreed: Agreed) -> bytes:
    return wire.u32(agreed.ring.bits) + wire.u32(agreed.terms.length)


def advertisement(agreed: Agreed, position: int, keys: bytes) -> bytes:
    """What a client signs when it advertises: T0, its position and its keys."""
    return wire.digest(b"advertisement", SUITE.encode(), agreed.transcript, wire.u32(position), keys)


def survivor_statement(roster: Roster, sharers: Iterable[int], alive: Iterable[int], invited: int) -> bytes:
    """What a client signs before it reveals a share: T1, U2 and U3."""
    sets = wire.members(sharers, invited) + wire.members(alive, invited)
    return wire.digest(b"survivors", SUITE.encode(), roster.transcript, sets)


def encode_subset(seats: Sequence[int], members: Collection[int]) -> bytes:
    """Which of the seats are members, one bit for each."""
    return wire.members([slot for slot, seat in enumerate(seats) if seat in members], len(seats))


def decode_subset(seats: Sequence[int], reader: wire.Reader, *, within: Collection[int], name: str) -> Members:
    """A subset of ``within``.

    Raises:
        MalformedMessage: padding. UnexpectedMessage: somebody who is not in it.
    """
    members = tuple(seats[slot] for slot in reader.members(len(seats)))
    strangers = set(members) - set(within)
    if strangers:
        raise UnexpectedMessage(
            f"A {name} message names members of the previous stage only.",
            value=len(strangers),
            remedy="Start a new attempt.",
        )
    return members


def exactly(payload: memoryview, size: int, name: str) -> memoryview:
    """The payload itself. Raises MalformedMessage unless it has this size."""
    if len(payload) != size:
        raise MalformedMessage(
            f"A {name} message has {size} bytes.", value=len(payload), remedy="Drop the sender or the attempt."
        )
    return payload
