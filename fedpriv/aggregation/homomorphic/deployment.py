"""A homomorphic protocol set up for a run: keys, identities, counters, and the roles of every attempt."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from fedpriv.aggregation.homomorphic.adding import ForwardingServer, HomomorphicServer, ServerRecord
from fedpriv.aggregation.homomorphic.clients import DecryptingClient, HomomorphicClient
from fedpriv.aggregation.homomorphic.envelope import Label
from fedpriv.aggregation.homomorphic.keys import Decryptions, KeyModel
from fedpriv.aggregation.homomorphic.opening import AddingAuthority, HomomorphicAuthority, Opener
from fedpriv.aggregation.homomorphic.parts import Adder, Decryptor, Encryptor
from fedpriv.aggregation.homomorphic.turns import ADD, DECRYPT, ENCRYPT, FORWARD
from fedpriv.aggregation.protocol import Role, Session, Terms, survivors
from fedpriv.aggregation.roles import Attempts, checked_participants
from fedpriv.crypto import signing
from fedpriv.errors import TooFewSurvivors
from fedpriv.network import Schedule, Stage
from fedpriv.randomness import secret_bytes
from fedpriv.threat import AUTHORITY, CLIENT, SERVER, Party, client_index

COMMON_SECRET = 32
"""Bytes that clients who share the key share besides: what they derive noise and the name of their context from."""


def stages_of(keys: KeyModel) -> tuple[Stage, ...]:
    """The stages under a key model."""
    at_server = Stage(ADD if keys.adder == SERVER else FORWARD, SERVER, "upload")
    last = Stage(DECRYPT, CLIENT, "recovery") if keys.decryptor == CLIENT else Stage(DECRYPT, keys.decryptor, "upload")
    return (Stage(ENCRYPT, CLIENT, "upload"), at_server, last)


class HomomorphicDeployment:
    """Keys for a run, and the roles of its attempts. ``repr`` shows the scheme and the key's name.

    Where clients hold the secret key, messages name their context by a tag that only clients can compute: its hash
    would let the server, who is shown no model, test guesses of it.

    Args:
        scheme: its name.
        keys: the key model.
        terms: the plan's.
        parameters: bytes that name the scheme's parameters.
        key_id: names the key.
        key_bytes: what a client must be sent of it.
        chunks: messages that carry one vector.
        encryptor: the clients' part.
        adder: the part of whoever adds.
        decryptor: the part of whoever decrypts.
    """

    def __init__(
        self,
        *,
        scheme: str,
        keys: KeyModel,
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
        self._common = secret_bytes(COMMON_SECRET) if keys.clients_hold_secret else b""
        self._key_bytes = key_bytes + len(self._common)
        described = (terms.length, terms.input_bound, terms.cohort, terms.domain.largest)
        self._parameters = hashlib.sha256(parameters + repr(described).encode()).digest()[:16]
        self._attempts = Attempts(terms.cohort)
        self._server = ServerRecord()
        self._decryptions: dict[Party, Decryptions] = {}
        self._identities: dict[int, signing.SigningKey] = {}

    def __repr__(self) -> str:
        return f"<{self._scheme} under key {self._key_id.hex()}, {self.decryptions} decryptions>"

    @property
    def stages(self) -> tuple[Stage, ...]:
        return stages_of(self._keys)

    @property
    def key_bytes(self) -> int:
        """What every client is sent once: the public key, or the one that all clients share."""
        return self._key_bytes

    @property
    def decryptions(self) -> int:
        """Aggregates that have been decrypted under this key, failures included. One that the server handed to the
        clients counts, once.
        """
        handed = self._server.rounds if self._keys.decryptor == CLIENT else frozenset[int]()
        return len(handed.union(*(record.rounds for record in self._decryptions.values())))

    def round(self, session: Session) -> Mapping[Party, Role]:
        self._attempts.open(session)
        self._keys.check_cohort(len(session.participants))
        label = self._label(session)
        if self._keys.decryptor == CLIENT:
            return self._with_shared_key(session, label)
        return self._with_authority(session, label)

    def contributors(self, session: Session, schedule: Schedule) -> tuple[int, ...]:
        checked_participants(session, self._terms.cohort)
        self._keys.check_cohort(len(session.participants))
        left = survivors(session, schedule, self.stages, ENCRYPT)
        self._keys.check_contributors(len(left))
        if self._keys.decryptor == CLIENT and not survivors(session, schedule, self.stages, DECRYPT):
            raise TooFewSurvivors(
                "A client is there to decrypt the aggregate.",
                value=0,
                remedy="Permit less dropout; start a new attempt.",
            )
        return left

    def _label(self, session: Session) -> Label:
        return Label(
            scheme=self._scheme,
            parameters=self._parameters,
            key=self._key_id,
            context=hmac.digest(self._common, session.context, "sha256"),
            round=session.round,
            attempt=session.attempt,
            chunks=self._chunks,
        )

    def _opener(self, session: Session, holder: Party) -> Opener:
        record = self._decryptions.setdefault(holder, Decryptions())
        return Opener(session, self._terms, self._keys, self._decryptor, record)

    def _with_shared_key(self, session: Session, label: Label) -> dict[Party, Role]:
        roles: dict[Party, Role] = {
            party: DecryptingClient(party, session, label, self._terms, self._encryptor, self._opener(session, party))
            for party in session.parties
        }
        roles[SERVER] = HomomorphicServer(session, label, self._keys, self._adder, self._server, session.parties)
        return roles

    def _with_authority(self, session: Session, label: Label) -> dict[Party, Role]:
        opener = self._opener(session, AUTHORITY)
        roles: dict[Party, Role] = {
            party: HomomorphicClient(party, label, self._terms, self._encryptor, self._identity(client_index(party)))
            for party in session.parties
        }
        if self._keys.adder == AUTHORITY:
            registered = {index: identity.public for index, identity in self._identities.items()}
            roles[SERVER] = ForwardingServer(session, label, self._keys)
            roles[AUTHORITY] = AddingAuthority(session, label, self._adder, opener, registered)
        else:
            roles[SERVER] = HomomorphicServer(session, label, self._keys, self._adder, self._server, (AUTHORITY,))
            roles[AUTHORITY] = HomomorphicAuthority(session, label, opener)
        return roles

    def _identity(self, index: int) -> signing.SigningKey | None:
        """A client's key pair, made when it is first invited, its public half registered with the authority."""
        if not self._keys.signed:
            return None
        return self._identities.setdefault(index, signing.SigningKey())
