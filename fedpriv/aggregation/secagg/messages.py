"""What one attempt is about, and the bytes of its messages.

Clients are named by their position among the invited, 0 … n − 1; the client at position i holds the shares at point
i + 1. Every message has one canonical form; each lies in a frame (:func:`fedpriv.crypto.wire.frame`) bound to T0.

=================  =======================================================================================
advertise-keys     envelope key (32) ‖ mask key (32), both public X25519
roster             U1, one bit for each invited client ‖ both keys of each member, in order
share-keys         commitment to the self-mask seed (32) ‖ an envelope (96) for each other member of U1
route-shares       U2, one bit for each invited client ‖ the envelope from each other member of U2
masked-input       the masked vector, bit-packed
survivors          the dead, U2 without U3, one bit for each invited client; nothing else
unmask             a share (34) for each member of U2: of the mask key if dead, of the self-mask seed if alive
=================  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedpriv.aggregation.protocol import Session, Terms
from fedpriv.aggregation.roles import session_hash
from fedpriv.aggregation.secagg.parameters import Parameters
from fedpriv.crypto import agreement, envelope, shamir, wire
from fedpriv.encoding import Ring
from fedpriv.errors import CohortTooSmall, MalformedMessage, TooFewSurvivors, UnexpectedMessage
from fedpriv.network import Stage
from fedpriv.threat import CLIENT, SERVER, Party

SUITE = "secagg/v1 X25519 HKDF-SHA256 AES256-GCM AES256-CTR Shamir-65537"

ADVERTISE, ROSTER = "advertise-keys", "roster"
SHARE, ROUTE = "share-keys", "route-shares"
MASKED, SURVIVORS = "masked-input", "survivors"
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

KEYS = 2 * agreement.KEY
LIMBS = agreement.KEY * 8 // shamir.LIMB_BITS
SHARE_BYTES = shamir.packed_size(LIMBS)
"""One share of a 32-byte secret: 34 bytes."""
ENVELOPE = 2 * SHARE_BYTES + envelope.OVERHEAD
"""An envelope with a share of the mask key and one of the self-mask seed."""

Members = tuple[int, ...]
"""Positions in increasing order."""


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """What all parties of an attempt know before its first message; public."""

    terms: Terms
    ring: Ring
    parameters: Parameters
    parties: tuple[Party, ...]
    """The invited, by position."""
    transcript: bytes
    """T0: a hash of all of this, the round, the attempt and the context."""

    @classmethod
    def on(cls, terms: Terms, ring: Ring, parameters: Parameters, session: Session) -> Agreed:
        """The agreement of a session."""
        transcript = session_hash(SUITE, terms, session, repr(parameters).encode())
        return cls(terms=terms, ring=ring, parameters=parameters, parties=session.parties, transcript=transcript)

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

    def require_cohort(self, advertised: Sequence[int]) -> None:
        """Raises CohortTooSmall or TooFewSurvivors where U1 is too small."""
        if len(advertised) < self.parameters.min_cohort:
            raise CohortTooSmall(
                f"A cohort has at least min_cohort = {self.parameters.min_cohort} clients.",
                value=len(advertised),
                remedy="Start a new attempt with more clients.",
            )
        self.require_survivors(advertised, self.parameters.least)

    def require_survivors(self, members: Sequence[int], least: int) -> None:
        """Raises TooFewSurvivors where fewer than ``least`` are left."""
        if len(members) < least:
            raise TooFewSurvivors(
                f"At least {least} of {self.invited} invited clients must stay (threshold {self.parameters.threshold}, "
                f"min_cohort {self.parameters.min_cohort}).",
                value=len(members),
                remedy="Start a new attempt, or permit more dropout in the description.",
            )


@dataclass(frozen=True)
class Roster:
    """U1 and its keys, and T1, the hash that binds everything later to exactly them."""

    members: Members
    envelope_keys: tuple[bytes, ...]
    mask_keys: tuple[bytes, ...]
    transcript: bytes

    @classmethod
    def decode(cls, agreed: Agreed, payload: bytes | memoryview) -> Roster:
        """Raises MalformedMessage: not a roster, or one that names a key twice."""
        reader = wire.Reader(payload, ROSTER)
        members = reader.members(agreed.invited)
        keys = bytes(reader.take(KEYS * len(members)))
        reader.end()
        half = agreement.KEY
        if len({keys[i : i + half] for i in range(0, len(keys), half)}) != 2 * len(members):
            raise MalformedMessage("The public keys of a roster are different.", remedy="Start a new attempt.")
        rows = [keys[i : i + KEYS] for i in range(0, len(keys), KEYS)]
        transcript = wire.digest(b"T1", SUITE.encode(), agreed.transcript, bytes(payload))
        return cls(members, tuple(row[:half] for row in rows), tuple(row[half:] for row in rows), transcript)

    @staticmethod
    def encode(agreed: Agreed, keys: dict[int, bytes]) -> bytes:
        """From the advertised keys by position."""
        return wire.members(keys, agreed.invited) + b"".join(keys[position] for position in sorted(keys))

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


def _shape(agreed: Agreed) -> bytes:
    return wire.u32(agreed.ring.bits) + wire.u32(agreed.terms.length)


def decode_members(agreed: Agreed, reader: wire.Reader, *, within: Members, name: str) -> Members:
    """A subset of ``within``.

    Raises:
        MalformedMessage: padding. UnexpectedMessage: somebody who is not in it.
    """
    members = reader.members(agreed.invited)
    if not set(members) <= set(within):
        raise UnexpectedMessage(
            f"A {name} message names members of the previous stage only.",
            value=len(set(members) - set(within)),
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
