"""Clients: they encrypt; where they hold the secret key, they decrypt the aggregate as well."""

from __future__ import annotations

from fedpriv.aggregation.homomorphic import envelope
from fedpriv.aggregation.homomorphic.envelope import Label, seal
from fedpriv.aggregation.homomorphic.opening import AggregateHolder, Opener
from fedpriv.aggregation.homomorphic.parts import Encryptor
from fedpriv.aggregation.homomorphic.turns import DECRYPT, ENCRYPT, Turns
from fedpriv.aggregation.protocol import Session, Terms
from fedpriv.aggregation.roles import Movable, OneInput
from fedpriv.crypto import signing
from fedpriv.encoding import Integers
from fedpriv.network import Message
from fedpriv.threat import SERVER, Party, client_index


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


class HomomorphicClient(Movable, Turns):
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


class DecryptingClient(Movable, AggregateHolder):
    """Encrypts one vector under the key that all clients share; decrypts the aggregate and holds the exact sum.

    The record of its decryptions goes with it to another process and is not brought back: across attempts of one round
    it is then the server's record alone that tells, and after a decryption that failed it is the caller who ends the
    run, as the engine does.
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
