"""Who adds: an encrypted sum that grows upload by upload, and the server that adds or only forwards.

An upload is folded into the sum as soon as its last chunk is there: one encrypted vector is kept, and one for each
client whose upload is under way. A client whose upload never completes is not in the sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from fedpriv.aggregation.homomorphic import envelope
from fedpriv.aggregation.homomorphic.envelope import Label, seal, unseal
from fedpriv.aggregation.homomorphic.keys import KeyModel
from fedpriv.aggregation.homomorphic.parts import Adder
from fedpriv.aggregation.homomorphic.turns import ADD, ENCRYPT, FORWARD, Turns
from fedpriv.aggregation.protocol import Session
from fedpriv.errors import UnexpectedMessage
from fedpriv.network import Message
from fedpriv.threat import AUTHORITY, CLIENT, SERVER, Party, client_index


class Fold:
    """An encrypted sum that takes in one vector after the other, chunk by chunk."""

    def __init__(self, adder: Adder, chunks: int) -> None:
        self._adder, self._chunks = adder, chunks
        self._totals: list[Any] = []
        self._arriving: dict[int, list[Any]] = {}
        self._contributors: set[int] = set()

    @property
    def contributors(self) -> tuple[int, ...]:
        """Sorted indices of the clients whose vectors are whole and in the sum."""
        return tuple(sorted(self._contributors))

    @property
    def arriving(self) -> frozenset[int]:
        """Clients whose upload is under way."""
        return frozenset(self._arriving)

    def received(self, index: int) -> int:
        """Chunks of a client's upload that is under way."""
        return len(self._arriving.get(index, ()))

    def take(self, index: int, payload: bytes) -> None:
        """The next chunk of a client's vector. Raises MalformedMessage where it is no ciphertext."""
        arrived = self._arriving.setdefault(index, [])
        arrived.append(self._adder.load(payload))
        if len(arrived) < self._chunks:
            return
        del self._arriving[index]
        if self._totals:
            pairs = zip(self._totals, arrived, strict=True)
            self._totals = [self._adder.add(total, other) for total, other in pairs]
        else:
            self._totals = arrived
        self._contributors.add(index)

    def totals(self) -> list[bytes]:
        """The sum's chunks; the reference is dropped."""
        totals, self._totals = self._totals, []
        return [self._adder.dump(total) for total in totals]


class ServerRecord:
    """What a server remembers of one key: seeds of uploads, as 16 bytes of their hash, and aggregates handed out."""

    def __init__(self) -> None:
        self._seeds: set[bytes] = set()
        self._rounds: set[int] = set()

    def __repr__(self) -> str:
        return f"<{len(self._seeds)} seeds, {len(self._rounds)} aggregates>"

    @property
    def rounds(self) -> frozenset[int]:
        """Rounds whose aggregate was handed out."""
        return frozenset(self._rounds)

    def first(self, seed: bytes) -> bool:
        """Whether this seed is new; from now on it is not."""
        name = hashlib.sha256(seed).digest()[:16]
        known = name in self._seeds
        self._seeds.add(name)
        return not known

    def hand_out(self, round: int) -> None:
        """The round's aggregate leaves the server."""
        self._rounds.add(round)


class HomomorphicServer(Turns):
    """Adds ciphertexts as they arrive, and hands the aggregate to whoever decrypts."""

    def __init__(
        self,
        session: Session,
        label: Label,
        keys: KeyModel,
        adder: Adder,
        record: ServerRecord,
        recipients: Sequence[Party],
    ) -> None:
        super().__init__(SERVER, label, ADD)
        self._senders = frozenset(session.parties)
        self._keys, self._adder, self._record, self._recipients = keys, adder, record, tuple(recipients)
        self._fold = Fold(adder, label.chunks)

    def receive(self, message: Message) -> None:
        self._hear(message, ENCRYPT, self._senders)
        part = unseal(self._label, message.body)
        index = client_index(message.sender)
        if part.contributors != (index,) or index in self._fold.contributors:
            raise self._refused("A client uploads its own vector, once.", message)
        self._next(message, part, self._fold.received(index))
        self._fresh(message, part.payload)
        self._fold.take(index, part.payload)
        self._over = False

    def _fresh(self, message: Message, payload: bytes) -> None:
        """Two ciphertexts of one seed show the difference of what they hold."""
        seed = self._adder.seed_of(payload)
        if seed is not None and not self._record.first(seed):
            raise self._refused("Every seeded ciphertext under a key has a seed of its own.", message)

    def step(self, stage: str) -> list[Message]:
        self._begin(stage)
        contributors = self._fold.contributors
        self._keys.check_contributors(len(contributors))
        if self._keys.decryptor == CLIENT and self._label.round in self._record.rounds:
            raise UnexpectedMessage(
                "Clients are handed one aggregate in a round.",
                value=f"round {self._label.round}",
                remedy="Some may have opened the one that they had; go on with the next round.",
            )
        self._record.hand_out(self._label.round)
        sealed = [seal(self._label, chunk, contributors, total) for chunk, total in enumerate(self._fold.totals())]
        return [Message(SERVER, recipient, ADD, body) for recipient in self._recipients for body in sealed]


class ForwardingServer(Turns):
    """Keeps signed uploads until the cohort's are there, and forwards those that are whole, client after client."""

    def __init__(self, session: Session, label: Label, keys: KeyModel) -> None:
        super().__init__(SERVER, label, FORWARD)
        self._senders = frozenset(session.parties)
        self._keys = keys
        self._uploads: dict[Party, list[bytes]] = {}

    def receive(self, message: Message) -> None:
        self._hear(message, ENCRYPT, self._senders)
        part = unseal(self._label, envelope.unsigned(message.body))
        if part.contributors != (client_index(message.sender),):
            raise self._refused("A client uploads its own vector, once.", message)
        upload = self._uploads.setdefault(message.sender, [])
        self._next(message, part, len(upload))
        upload.append(message.body)
        self._over = False

    def step(self, stage: str) -> list[Message]:
        self._begin(stage)
        whole = {sender: upload for sender, upload in self._uploads.items() if len(upload) == self._label.chunks}
        self._uploads = {}
        self._keys.check_contributors(len(whole))
        return [
            Message(SERVER, AUTHORITY, FORWARD, body)
            for sender in sorted(whole, key=client_index)
            for body in whole[sender]
        ]
