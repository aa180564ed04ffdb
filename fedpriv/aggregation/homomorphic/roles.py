"""The roles of homomorphic protocols: clients encrypt, the server or an authority adds, whoever holds the key decrypts.

A scheme brings three parts, each with no more than its party may hold: an :class:`Encryptor` (the clients' key), an
:class:`Adder` (no secret), a :class:`Decryptor` (secret key). The roles here do the rest: envelopes, turns, duplicates,
minimum contributors, one decryption in a round.

Whoever adds folds a client's upload into the total as soon as its last chunk is there: it keeps one encrypted vector,
and one for each client whose upload is under way. A client whose upload never completes is not in the sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fedpriv.aggregation.homomorphic import envelope
from fedpriv.aggregation.homomorphic.envelope import Label, Part, seal, unseal
from fedpriv.aggregation.homomorphic.keys import Decryptions, KeyModel
from fedpriv.aggregation.protocol import Session, Sum, Terms
from fedpriv.aggregation.roles import Movable, OneInput
from fedpriv.crypto import signing
from fedpriv.encoding import Bounded, Integers, check_sum_bound
from fedpriv.errors import (
    DecryptionFailed,
    EncodingOverflow,
    MalformedMessage,
    PlanError,
    ProtocolError,
    UnexpectedMessage,
)
from fedpriv.network import Message
from fedpriv.threat import AUTHORITY, CLIENT, SERVER, Party, client_index

ENCRYPT, ADD, FORWARD, DECRYPT = "encrypt", "add", "forward", "decrypt"


class Encryptor(Protocol):
    """What a client encrypts with; can be pickled where clients are hosted in other processes."""

    def encrypt(self, vector: Integers) -> Iterable[bytes]:
        """``[length] int64`` → one payload for each chunk, under fresh randomness."""
        ...


class Adder(Protocol):
    """What adds ciphertexts. Holds no secret."""

    def load(self, payload: bytes) -> Any:
        """A chunk's ciphertext. Raises MalformedMessage."""
        ...

    def add(self, total: Any, other: Any) -> Any:
        """``total + other``; ``total`` may be changed."""
        ...

    def dump(self, total: Any) -> bytes: ...

    def seed_of(self, payload: bytes) -> bytes | None:
        """The seed that a seeded ciphertext was expanded from, which no other may have; None where there is none."""
        ...


class Decryptor(Protocol):
    """What holds the secret key."""

    def decrypt(self, payloads: Sequence[bytes], contributors: int) -> Integers:
        """The sum over this many vectors, ``[length] int64``.

        Raises:
            DecryptionFailed: the plaintext is not the sum of so many encodings.
        """
        ...


def client_bound(terms: Terms) -> int:
    """No coordinate of one client's vector, noise included, exceeds it."""
    return terms.input_bound + terms.noise_headroom


def bounded(sum_bound: int) -> Bounded:
    """Integers within ±sum_bound. Raises PlanError where they do not fit into 62 bits."""
    try:
        check_sum_bound(sum_bound)
    except EncodingOverflow as error:
        raise PlanError(error.rule, value=error.value, remedy=error.remedy) from error
    return Bounded(sum_bound)


def check_terms(terms: Terms) -> None:
    """Raises PlanError unless every sum of a full cohort's clipped vectors lies in the terms' domain."""
    bounded(terms.cohort * client_bound(terms))
    if terms.cohort * terms.input_bound > terms.domain.largest:
        raise PlanError(
            f"Every sum of a cohort fits into {terms.domain.name}.",
            value=f"{terms.cohort} vectors within ±{terms.input_bound}",
            remedy="Ask domain() for this cohort and bound; use fewer bits or a smaller cohort.",
        )


class _Turns:
    """A role that acts in its stages in order, and hears others before its last. Whatever is refused ends it."""

    def __init__(self, party: Party, label: Label, *stages: str) -> None:
        self.party = party
        self._label, self._left = label, list(stages)
        self._acted = self._over = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.party}>"

    def _hear(self, message: Message, stage: str, senders: frozenset[Party]) -> None:
        """A message is due now; the caller clears ``_over`` once it has proved sound."""
        over, self._acted, self._over = self._over or len(self._left) != 1, True, True
        if over or message.stage != stage or message.recipient != self.party or message.sender not in senders:
            raise self._refused("A message arrives in its stage, from its sender, at its recipient.", message)

    def _begin(self, stage: str) -> None:
        over, self._acted, self._over = self._over, True, True
        if over or self._left[:1] != [stage]:
            raise UnexpectedMessage(
                "A role acts once in each of its stages, in order.",
                value=(self.party, stage),
                remedy="Start a new attempt; one is never resumed.",
            )
        self._left.pop(0)

    def _refused(self, rule: str, message: Message) -> UnexpectedMessage:
        found = (message.sender, message.recipient, message.stage)
        return UnexpectedMessage(rule, value=found, remedy="Start a new attempt; one is never resumed.")

    def _next(self, message: Message, part: Part, received: int) -> None:
        """Raises UnexpectedMessage unless the part is the next of its sender's vector."""
        if part.chunk != received:
            raise self._refused("The chunks of a vector come once each and in order.", message)


# --- clients --------------------------------------------------------------------------------------------------------


class _Uploads:
    """One vector, encrypted and sealed; signed where the client has an identity."""

    def __init__(
        self, party: Party, label: Label, terms: Terms, encryptor: Encryptor, identity: signing.SigningKey | None
    ) -> None:
        self.input = OneInput(terms)
        self._party, self._label, self._encryptor, self._identity = party, label, encryptor, identity

    def messages(self) -> list[Message]:
        own = (client_index(self._party),)
        payloads = enumerate(self._encryptor.encrypt(self.input.take()))
        sealed = (seal(self._label, chunk, own, payload) for chunk, payload in payloads)
        bodies = sealed if self._identity is None else (envelope.sign(self._identity, body) for body in sealed)
        return [Message(self._party, SERVER, ENCRYPT, body) for body in bodies]


class HomomorphicClient(Movable, _Turns):
    """Encrypts one vector; signs it where it has an identity."""

    def __init__(
        self,
        party: Party,
        label: Label,
        terms: Terms,
        encryptor: Encryptor,
        identity: signing.SigningKey | None = None,
    ) -> None:
        super().__init__(party, label, ENCRYPT)
        self._uploads = _Uploads(party, label, terms, encryptor, identity)

    @property
    def begun(self) -> bool:
        return self._acted or self._uploads.input.taken

    def submit(self, vector: Integers) -> None:
        self._uploads.input.put(vector)

    def receive(self, message: Message) -> None:
        self._acted = self._over = True
        raise self._refused("A client receives nothing in this protocol.", message)

    def step(self, stage: str) -> list[Message]:
        self._begin(stage)
        return self._uploads.messages()


# --- who adds -------------------------------------------------------------------------------------------------------


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


class HomomorphicServer(_Turns):
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


class ForwardingServer(_Turns):
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


# --- who decrypts ---------------------------------------------------------------------------------------------------


class Opener:
    """The secret key's one use in a round, and what may come out of it. ``repr`` shows the decryptor's."""

    def __init__(
        self, session: Session, terms: Terms, keys: KeyModel, decryptor: Decryptor, decryptions: Decryptions
    ) -> None:
        self._round = session.round
        self._terms, self._keys, self._decryptor, self._decryptions = terms, keys, decryptor, decryptions

    def __repr__(self) -> str:
        return f"<Opener with {self._decryptor!r}>"

    def open(self, payloads: Sequence[bytes], contributors: tuple[int, ...]) -> Sum:
        """The exact sum.

        Raises:
            TooFewSurvivors: below the minimum; nothing is decrypted.
            UnexpectedMessage: a second decryption in the round, or one after a failure.
            DecryptionFailed: no sum of so many vectors. The key opens nothing any more.
        """
        self._keys.check_contributors(len(contributors))
        with self._decryptions.once(self._round):
            total = self._decrypt(payloads, len(contributors))
            bound = min(self._terms.domain.largest, len(contributors) * client_bound(self._terms))
            if np.abs(total).max(initial=0) > bound:
                raise DecryptionFailed(
                    "A decrypted sum lies within the bound of its contributors.",
                    remedy="The key or the additions are wrong; discard the aggregate and the attempt.",
                )
        return Sum(total=total, contributors=contributors)

    def _decrypt(self, payloads: Sequence[bytes], contributors: int) -> Integers:
        try:
            return self._decryptor.decrypt(payloads, contributors)
        except MalformedMessage as error:  # an aggregate that came whole, as its sender sealed it
            raise DecryptionFailed(
                "An aggregate is a ciphertext under this key.", remedy="Discard the aggregate and the attempt."
            ) from error


class _Holder(_Turns):
    """Ends up with the sum."""

    def __init__(self, party: Party, label: Label, opener: Opener, *stages: str) -> None:
        super().__init__(party, label, *stages)
        self._opener = opener
        self._sum: Sum | None = None

    def result(self) -> Sum:
        """The exact sum.

        Raises:
            ProtocolError: no aggregate was decrypted.
        """
        if self._sum is None:
            raise ProtocolError("A sum exists after the last stage.", remedy="Perform every stage first.")
        return self._sum


class _AggregateHolder(_Holder):
    """Takes in the server's aggregate and decrypts it."""

    def __init__(self, party: Party, session: Session, label: Label, opener: Opener, *stages: str) -> None:
        super().__init__(party, label, opener, *stages)
        self._participants = frozenset(session.participants)
        self._payloads: list[bytes] = []
        self._contributors: tuple[int, ...] = ()

    def receive(self, message: Message) -> None:
        self._hear(message, ADD, frozenset({SERVER}))
        part = unseal(self._label, message.body)
        self._next(message, part, len(self._payloads))
        if self._payloads and part.contributors != self._contributors:
            raise self._refused("All chunks of an aggregate have the same contributors.", message)
        if not self._participants.issuperset(part.contributors):
            raise self._refused("Only participants are in an aggregate.", message)
        self._contributors = part.contributors
        self._payloads.append(part.payload)
        self._over = False

    def step(self, stage: str) -> list[Message]:
        self._begin(stage)
        payloads, self._payloads = self._payloads, []
        if len(payloads) != self._label.chunks:
            raise UnexpectedMessage(
                f"An aggregate has {self._label.chunks} chunks.",
                value=len(payloads),
                remedy="Some were lost on the way; start a new attempt.",
            )
        self._sum = self._opener.open(payloads, self._contributors)
        return []


class HomomorphicAuthority(_AggregateHolder):
    """Decrypts the server's aggregate and holds the exact sum."""

    def __init__(self, session: Session, label: Label, opener: Opener) -> None:
        super().__init__(AUTHORITY, session, label, opener, DECRYPT)


class DecryptingClient(Movable, _AggregateHolder):
    """Encrypts one vector under the key that all clients share; decrypts the aggregate and holds the exact sum.

    The record of its decryptions goes with it to another process and is not brought back: across attempts of one round
    it is then the server's record alone that tells.
    """

    def __init__(
        self, party: Party, session: Session, label: Label, terms: Terms, encryptor: Encryptor, opener: Opener
    ) -> None:
        super().__init__(party, session, label, opener, ENCRYPT, DECRYPT)
        self._uploads = _Uploads(party, label, terms, encryptor, None)

    @property
    def begun(self) -> bool:
        return self._acted or self._uploads.input.taken

    def submit(self, vector: Integers) -> None:
        self._uploads.input.put(vector)

    def step(self, stage: str) -> list[Message]:
        if stage != ENCRYPT:
            return super().step(stage)
        self._begin(stage)
        messages = self._uploads.messages()
        self._over = False
        return messages


class AddingAuthority(_Holder):
    """Verifies the clients' uploads, adds them itself, decrypts the sum and holds it.

    Args:
        identities: client → its verification key, of the participants.
    """

    def __init__(
        self, session: Session, label: Label, adder: Adder, opener: Opener, identities: Mapping[int, bytes]
    ) -> None:
        super().__init__(AUTHORITY, label, opener, DECRYPT)
        self._identities = {index: identities[index] for index in session.participants}
        self._fold = Fold(adder, label.chunks)

    def receive(self, message: Message) -> None:
        self._hear(message, FORWARD, frozenset({SERVER}))
        part = unseal(self._label, envelope.unsigned(message.body))
        index = part.contributors[0]
        if len(part.contributors) != 1 or index not in self._identities:
            raise self._refused("A forwarded upload is of one participant.", message)
        envelope.verify(self._identities[index], message.body)
        if index in self._fold.contributors:
            raise self._refused("A client uploads its own vector, once.", message)
        if self._fold.arriving - {index}:  # so that the server cannot fill the authority's memory
            raise self._refused("Uploads are forwarded whole, client after client.", message)
        self._next(message, part, self._fold.received(index))
        self._fold.take(index, part.payload)
        self._over = False

    def step(self, stage: str) -> list[Message]:
        self._begin(stage)
        contributors = self._fold.contributors
        self._sum = self._opener.open(self._fold.totals(), contributors)
        return []
