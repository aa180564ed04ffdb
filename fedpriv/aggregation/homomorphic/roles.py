"""What homomorphic protocols share: clients encrypt, the server adds, the key authority decrypts and releases.

A scheme brings three parts, each with no more than its party may hold: an :class:`Encryptor` (public key), an
:class:`Adder` (no secret), a :class:`Decryptor` (secret key). The roles here do the rest: envelopes, turns, duplicates,
minimum contributors, one decryption in an attempt.

The server folds a client's upload into its total as soon as the last chunk is there: it keeps one encrypted vector, and
one for each client whose upload is under way. A client whose upload never completes is not in the sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from fedpriv.aggregation.homomorphic.envelope import Label, Part, seal, unseal
from fedpriv.aggregation.homomorphic.keys import Decryptions, KeyAuthority
from fedpriv.aggregation.protocol import Role, Session, Sum, Terms, survivors
from fedpriv.aggregation.roles import Attempts, OneInput, checked_participants
from fedpriv.encoding import Bounded, Integers, check_sum_bound
from fedpriv.errors import DecryptionFailed, EncodingOverflow, PlanError, ProtocolError, UnexpectedMessage
from fedpriv.network import Message, Schedule, Stage
from fedpriv.threat import AUTHORITY, CLIENT, SERVER, Party, client_index

ENCRYPT, ADD, DECRYPT = "encrypt", "add", "decrypt"
STAGES = (Stage(ENCRYPT, CLIENT, "upload"), Stage(ADD, SERVER, "upload"), Stage(DECRYPT, AUTHORITY, "upload"))


class Encryptor(Protocol):
    """What a client holds."""

    def encrypt(self, vector: Integers) -> Iterable[bytes]:
        """``[length] int64`` → one payload for each chunk, under fresh randomness."""
        ...


class Adder(Protocol):
    """What the server holds."""

    def load(self, payload: bytes) -> Any:
        """A chunk's ciphertext. Raises MalformedMessage."""
        ...

    def add(self, total: Any, other: Any) -> Any:
        """``total + other``; ``total`` may be changed."""
        ...

    def dump(self, total: Any) -> bytes: ...


class Decryptor(Protocol):
    """What the authority holds."""

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


class HomomorphicDeployment:
    """Keys for a run, and the roles of its attempts. ``repr`` shows the scheme and the key's name.

    Args:
        scheme: its name.
        keys: the authority's policy.
        terms: the plan's.
        parameters: bytes that name the scheme's parameters.
        key_id: names the public key.
        key_bytes: its size.
        chunks: messages that carry one vector.
        encryptor: the clients' part.
        adder: the server's part.
        decryptor: the authority's part.
    """

    def __init__(
        self,
        *,
        scheme: str,
        keys: KeyAuthority,
        terms: Terms,
        parameters: bytes,
        key_id: bytes,
        key_bytes: int,
        chunks: int,
        encryptor: Encryptor,
        adder: Adder,
        decryptor: Decryptor,
    ) -> None:
        self._scheme, self._keys, self._terms, self._key_id, self._chunks = scheme, keys, terms, key_id, chunks
        self._encryptor, self._adder, self._decryptor = encryptor, adder, decryptor
        self._key_bytes = key_bytes
        described = (terms.length, terms.input_bound, terms.noise_headroom, terms.cohort, terms.domain.largest)
        self._parameters = hashlib.sha256(parameters + repr(described).encode()).digest()[:16]
        self._attempts = Attempts(terms.cohort)
        self._decryptions = Decryptions()

    def __repr__(self) -> str:
        return f"<{self._scheme} under key {self._key_id.hex()}, {self.decryptions} decryptions>"

    @property
    def stages(self) -> tuple[Stage, ...]:
        return STAGES

    @property
    def key_bytes(self) -> int:
        """The authority's public key."""
        return self._key_bytes

    @property
    def decryptions(self) -> int:
        """Aggregates that the authority has decrypted under this key."""
        return self._decryptions.count

    def round(self, session: Session) -> Mapping[Party, Role]:
        self._attempts.open(session)
        self._keys.check_cohort(len(session.participants))
        label = Label(
            scheme=self._scheme,
            parameters=self._parameters,
            key=self._key_id,
            context=hashlib.sha256(session.context).digest(),
            round=session.round,
            attempt=session.attempt,
            chunks=self._chunks,
        )
        roles: dict[Party, Role] = {
            party: HomomorphicClient(party, label, self._terms, self._encryptor) for party in session.parties
        }
        roles[SERVER] = HomomorphicServer(session, label, self._keys, self._adder)
        roles[AUTHORITY] = HomomorphicAuthority(
            session, label, self._terms, self._keys, self._decryptor, self._decryptions
        )
        return roles

    def contributors(self, session: Session, schedule: Schedule) -> tuple[int, ...]:
        checked_participants(session, self._terms.cohort)
        self._keys.check_cohort(len(session.participants))
        left = survivors(session, schedule, STAGES, ENCRYPT)
        self._keys.check_contributors(len(left))
        return left


class _Turns:
    """A role with one stage. Whatever is refused ends it."""

    def __init__(self, party: Party, stage: str, label: Label) -> None:
        self.party = party
        self._stage, self._label = stage, label
        self._over = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.party}>"

    def _hear(self, message: Message, stage: str, senders: frozenset[Party]) -> Part:
        """Open a message that is due now; the caller clears ``_over`` once it has proved sound."""
        over, self._over = self._over, True
        if over or message.stage != stage or message.recipient != self.party or message.sender not in senders:
            raise self._refused("A message arrives in its stage, from its sender, at its recipient.", message)
        return unseal(self._label, message.body)

    def _begin(self, stage: str) -> None:
        over, self._over = self._over, True
        if over or stage != self._stage:
            raise UnexpectedMessage(
                "A role acts once, in its own stage.",
                value=(self.party, stage),
                remedy="Start a new attempt; one is never resumed.",
            )

    def _refused(self, rule: str, message: Message) -> UnexpectedMessage:
        found = (message.sender, message.recipient, message.stage)
        return UnexpectedMessage(rule, value=found, remedy="Start a new attempt; one is never resumed.")

    def _next(self, message: Message, part: Part, received: int) -> None:
        """Raises UnexpectedMessage unless the part is the next of its sender's vector."""
        if part.chunk != received:
            raise self._refused("The chunks of a vector come once each and in order.", message)


class HomomorphicClient(_Turns):
    """Encrypts one vector."""

    def __init__(self, party: Party, label: Label, terms: Terms, encryptor: Encryptor) -> None:
        super().__init__(party, ENCRYPT, label)
        self._input = OneInput(terms)
        self._encryptor = encryptor

    def submit(self, vector: Integers) -> None:
        self._input.put(vector)

    def receive(self, message: Message) -> None:
        self._over = True
        raise self._refused("A client receives nothing in this protocol.", message)

    def step(self, stage: str) -> list[Message]:
        self._begin(stage)
        own = (client_index(self.party),)
        return [
            Message(self.party, SERVER, ENCRYPT, seal(self._label, chunk, own, payload))
            for chunk, payload in enumerate(self._encryptor.encrypt(self._input.take()))
        ]


class HomomorphicServer(_Turns):
    """Adds ciphertexts as they arrive."""

    def __init__(self, session: Session, label: Label, keys: KeyAuthority, adder: Adder) -> None:
        super().__init__(SERVER, ADD, label)
        self._senders = frozenset(session.parties)
        self._keys, self._adder = keys, adder
        self._totals: list[Any] = []
        self._arriving: dict[Party, list[Any]] = {}
        self._contributors: set[int] = set()

    def receive(self, message: Message) -> None:
        part = self._hear(message, ENCRYPT, self._senders)
        index = client_index(message.sender)
        if part.contributors != (index,) or index in self._contributors:
            raise self._refused("A client uploads its own vector, once.", message)
        arrived = self._arriving.setdefault(message.sender, [])
        self._next(message, part, len(arrived))
        arrived.append(self._adder.load(part.payload))
        if len(arrived) == self._label.chunks:
            del self._arriving[message.sender]
            self._fold(arrived)
            self._contributors.add(index)
        self._over = False

    def _fold(self, vector: list[Any]) -> None:
        if self._totals:
            pairs = zip(self._totals, vector, strict=True)
            self._totals = [self._adder.add(total, other) for total, other in pairs]
        else:
            self._totals = vector

    def step(self, stage: str) -> list[Message]:
        self._begin(stage)
        self._keys.check_contributors(len(self._contributors))
        contributors = tuple(sorted(self._contributors))
        totals, self._totals = self._totals, []
        return [
            Message(SERVER, AUTHORITY, ADD, seal(self._label, chunk, contributors, self._adder.dump(total)))
            for chunk, total in enumerate(totals)
        ]


class HomomorphicAuthority(_Turns):
    """Decrypts the aggregate and holds the exact sum."""

    def __init__(
        self,
        session: Session,
        label: Label,
        terms: Terms,
        keys: KeyAuthority,
        decryptor: Decryptor,
        decryptions: Decryptions,
    ) -> None:
        super().__init__(AUTHORITY, DECRYPT, label)
        self._participants = frozenset(session.participants)
        self._terms, self._keys, self._decryptor, self._decryptions = terms, keys, decryptor, decryptions
        self._payloads: list[bytes] = []
        self._contributors: tuple[int, ...] = ()
        self._sum: Sum | None = None

    def receive(self, message: Message) -> None:
        part = self._hear(message, ADD, frozenset({SERVER}))
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
        if len(self._payloads) != self._label.chunks:
            raise UnexpectedMessage(
                f"An aggregate has {self._label.chunks} chunks.",
                value=len(self._payloads),
                remedy="Some were lost on the way; start a new attempt.",
            )
        self._keys.check_contributors(len(self._contributors))
        self._decryptions.begin(self._label.round, self._label.attempt)
        try:
            total = self._decryptor.decrypt(self._payloads, len(self._contributors))
            self._check(total)
        except ProtocolError:
            self._decryptions.failed(self._label.round)
            raise
        self._payloads = []
        self._sum = Sum(total=total, contributors=self._contributors)
        return []

    def _check(self, total: Integers) -> None:
        """No sum of so many vectors lies beyond the proved bound."""
        bound = min(self._terms.domain.largest, len(self._contributors) * client_bound(self._terms))
        if np.abs(total).max(initial=0) > bound:
            raise DecryptionFailed(
                "A decrypted sum lies within the bound of its contributors.",
                remedy="The key or the additions are wrong; discard the aggregate and the attempt.",
            )

    def result(self) -> Sum:
        """The exact sum.

        Raises:
            ProtocolError: the aggregate was not decrypted.
        """
        if self._sum is None:
            raise ProtocolError("A sum exists after the last stage.", remedy="Perform every stage first.")
        return self._sum
