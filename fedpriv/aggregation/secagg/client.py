"""The client of Bonawitz et al. 2017, Figure 4, on the complete or (Bell et al. 2020) a regular graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedpriv.aggregation.roles import Act, Hear, OneInput, Script, ScriptedRole
from fedpriv.aggregation.secagg import messages as m
from fedpriv.aggregation.secagg.reach import Members
from fedpriv.crypto import agreement, envelope, prg, shamir, wire
from fedpriv.encoding import Integers
from fedpriv.errors import ContextMismatch, UnexpectedMessage
from fedpriv.network import Message
from fedpriv.randomness import secret_bytes
from fedpriv.threat import SERVER

_SERVER = frozenset({SERVER})


class Client(ScriptedRole):
    """Keys and seeds are made for this attempt alone and dropped after the last answer.

    Args:
        agreed: what the attempt is about.
        position: this client's, among the invited.
    """

    def __init__(self, agreed: m.Agreed, position: int) -> None:
        super().__init__(agreed.parties[position], agreed.transcript)
        self._agreed = agreed
        self._position = position
        self._input = OneInput(agreed.terms)
        self._envelope_key: agreement.KeyPair
        self._mask_key: agreement.KeyPair
        self._seed: bytes
        self._advertised: bytes
        self._roster: m.Roster
        self._openers: dict[int, bytes] = {}
        self._sealed: dict[int, bytes] = {}
        self._shares: dict[int, bytes] = {}
        self._sharers: Members = ()
        self._dead: frozenset[int] = frozenset()
        self.follow(
            Act(m.ADVERTISE, self._advertise),
            Hear(m.ROSTER, _SERVER, lambda _, payload: self._meet(payload)),
            Act(m.SHARE, self._share),
            Hear(m.ROUTE, _SERVER, lambda _, payload: self._collect(payload)),
            Act(m.MASKED, self._mask),
            Hear(m.SURVIVORS, _SERVER, lambda _, payload: self._mourn(payload)),
            *self._confirmation(),
            Act(m.UNMASK, self._reveal),
        )

    def _confirmation(self) -> Script:
        """What lies between the survivor set and the shares; nothing, where the server is trusted to send one set."""
        return ()

    def submit(self, vector: Integers) -> None:
        """The one vector, ``[length] int64``; see :meth:`fedpriv.aggregation.protocol.ClientRole.submit`."""
        self._input.put(vector)

    def _advertise(self) -> list[Message]:
        """Fresh keys and a fresh seed, for this attempt alone."""
        self._envelope_key, self._mask_key = agreement.KeyPair(), agreement.KeyPair()
        self._seed = secret_bytes(agreement.KEY)
        self._advertised = self._advertisement(self._envelope_key.public + self._mask_key.public)
        return [self.send(SERVER, m.ADVERTISE, self._advertised)]

    def _advertisement(self, keys: bytes) -> bytes:
        return keys

    def _meet(self, payload: memoryview) -> None:
        """U1: refused where it is too small, or names other keys for this client than it advertised."""
        roster = m.Roster.decode(self._agreed, payload, self._position)
        if roster.advertised.get(self._position) != self._advertised:
            raise ContextMismatch(
                "A roster carries the keys that this client advertised.", remedy="Start a new attempt."
            )
        self._holders(roster, roster.members)
        self._roster = roster

    def _share(self) -> list[Message]:
        """Shares of the mask key and of the self-mask seed, one envelope for each other holder in U1."""
        roster = self._required(m.ROSTER)
        places = roster.reach.holders(self._position)
        points = {holder: place for place, holder in enumerate(places, start=1) if holder in roster.advertised}
        limbs = shamir.split(
            shamir.limbs(self._mask_key.secret() + self._seed),
            threshold=self._agreed.parameters.threshold,
            points=list(points.values()),
        )
        shares = [row.tobytes() for row in shamir.pack(limbs.reshape(-1, m.LIMBS)).reshape(len(limbs), -1)]
        envelopes = [roster.commitment(self._position, self._seed)]
        for member, share in zip(points, shares, strict=True):
            if member == self._position:
                self._shares[member] = share
                continue
            secret = self._envelope_key.agree(roster.envelope_key(member))
            there = roster.envelope_context(self._position, member)
            back = roster.envelope_context(member, self._position)
            key = agreement.derive(secret, salt=roster.transcript, info=there)
            self._openers[member] = agreement.derive(secret, salt=roster.transcript, info=back)
            envelopes.append(envelope.seal(key, share, there))
        return [self.send(SERVER, m.SHARE, b"".join(envelopes))]

    def _collect(self, payload: memoryview) -> None:
        """U2 and its envelopes."""
        roster = self._roster
        reader = wire.Reader(payload, m.ROUTE)
        seats = roster.reach.seats(self._position)
        sharers = m.decode_subset(seats, reader, within=roster.advertised, name=m.ROUTE)
        self._enough(sharers)
        if self._position not in sharers:
            raise UnexpectedMessage(
                "A client that shared its keys is among those that did.", remedy="Start a new attempt."
            )
        self._sealed = {member: bytes(reader.take(m.ENVELOPE)) for member in sharers if member != self._position}
        reader.end()
        self._sharers = sharers

    def _mask(self) -> list[Message]:
        """Open every envelope first: a server that told others another roster or model gets no masked vector."""
        roster = self._required(m.ROUTE)
        for member, sealed in self._sealed.items():
            context = roster.envelope_context(member, self._position)
            self._shares[member] = envelope.unseal(self._openers[member], sealed, context)
        shamir.unpack(b"".join(self._shares.values()), m.LIMBS)  # who handed on what is no share would be blamed for it
        keys = {
            member: roster.pairwise_mask(
                self._agreed, self._position, member, self._mask_key.agree(roster.mask_key(member))
            )
            for member in self._sharers
            if member != self._position
        }
        vector = self._input.take().astype(self._agreed.word)
        prg.mask(
            vector,
            add=[
                roster.self_mask(self._agreed, self._position, self._seed),
                *(key for member, key in keys.items() if self._position < member),
            ],
            subtract=[key for member, key in keys.items() if self._position > member],
            cipher=self._agreed.masks,
        )
        self._openers, self._sealed = {}, {}
        return [self.send(SERVER, m.MASKED, wire.pack_bits(vector, self._agreed.ring.bits))]

    def _mourn(self, payload: memoryview) -> None:
        """A dead-list alone decides who is dead and who is alive: nobody can be both."""
        reader = wire.Reader(payload, m.SURVIVORS)
        seats = self._roster.reach.seats(self._position)
        dead = frozenset(m.decode_subset(seats, reader, within=self._sharers, name=m.SURVIVORS))
        reader.end()
        if self._position in dead:
            raise UnexpectedMessage("A client that sent its vector is alive.", remedy="Start a new attempt.")
        self._enough([member for member in self._sharers if member not in dead])
        self._dead = dead

    def _enough(self, members: Sequence[int]) -> None:
        """Of a whole survivor set its size is checked; of a part of one, whether it can open this client's secrets."""
        if self._roster.reach.whole:
            self._agreed.require_survivors(members)
        else:
            self._holders(self._roster, members)

    def _holders(self, roster: m.Roster, members: Sequence[int]) -> None:
        self._agreed.require_holders(roster.reach, [self._position], members)

    def _reveal(self) -> list[Message]:
        """Of each member of U2 within reach one share: of the mask key if dead, of the seed if alive; never both."""
        self._required(m.SURVIVORS)
        size = m.SHARE_BYTES
        chosen = [
            self._shares[member][:size] if member in self._dead else self._shares[member][size:]
            for member in self._sharers
            if member in self._shares
        ]
        self.forget()
        return [self.send(SERVER, m.UNMASK, b"".join(chosen))]

    def _required(self, stage: str) -> m.Roster:
        if SERVER not in self._heard:
            raise UnexpectedMessage(f"A client acts after the server's {stage} message.", remedy="Start a new attempt.")
        return self._roster

    def forget(self) -> None:
        """Drop keys, seed, shares and vector; nothing is done with them once the role is over."""
        for secret in ("_envelope_key", "_mask_key", "_seed", "_openers", "_shares"):
            vars(self).pop(secret, None)
        self._input.drop()


def lifted(words: wire.Words, bits: int) -> Integers:
    """Ring elements as the signed integers of least magnitude: ``int64`` in [-2^(bits-1), 2^(bits-1))."""
    shift = np.int64(64 - bits)
    return (words.astype("<u8").view(np.int64) << shift) >> shift
