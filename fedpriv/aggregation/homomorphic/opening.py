"""Who decrypts: the secret key's one use in a round, and the authorities that make it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedpriv.aggregation.homomorphic import envelope
from fedpriv.aggregation.homomorphic.adding import Fold
from fedpriv.aggregation.homomorphic.envelope import Label, unseal
from fedpriv.aggregation.homomorphic.keys import Decryptions, KeyModel
from fedpriv.aggregation.homomorphic.parts import Adder, Decryptor
from fedpriv.aggregation.homomorphic.turns import ADD, DECRYPT, FORWARD, Turns
from fedpriv.aggregation.protocol import Session, Sum, Terms
from fedpriv.encoding import Integers
from fedpriv.errors import DecryptionFailed, MalformedMessage, ProtocolError, UnexpectedMessage
from fedpriv.network import Message
from fedpriv.threat import AUTHORITY, SERVER, Party


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
            bound = min(self._terms.domain.largest, len(contributors) * self._terms.input_bound)
            if total.max(initial=0) > bound or total.min(initial=0) < -bound:
                raise DecryptionFailed(
                    "A decrypted sum lies within the bound of its contributors.",
                    remedy="The key or the additions are wrong; discard the aggregate and the attempt.",
                )
        return Sum(total=total, contributors=contributors)

    def _decrypt(self, payloads: Sequence[bytes], contributors: int) -> Integers:
        try:
            return self._decryptor.decrypt(payloads, contributors)
        except (MalformedMessage, OverflowError) as error:  # of an aggregate that came whole, as its sender sealed it
            raise DecryptionFailed(
                "An aggregate is a ciphertext under this key, of sums that fit into 64 bits.",
                remedy="The key or the additions are wrong; discard the aggregate and the attempt.",
            ) from error


class Holder(Turns):
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


class AggregateHolder(Holder):
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


class HomomorphicAuthority(AggregateHolder):
    """Decrypts the server's aggregate and holds the exact sum."""

    def __init__(self, session: Session, label: Label, opener: Opener) -> None:
        super().__init__(AUTHORITY, session, label, opener, DECRYPT)


class AddingAuthority(Holder):
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
