"""A key that all clients hold: each checks and decrypts the aggregate once, and the server refuses repeated seeds."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from he_keys import deployed, handed_on, hear, session_of, terms_of, uploads, vectors_of

from fedpriv.aggregation.homomorphic import envelope
from fedpriv.aggregation.homomorphic.adding import ServerRecord
from fedpriv.aggregation.homomorphic.bfv import BFV
from fedpriv.aggregation.homomorphic.ckks import CKKS
from fedpriv.aggregation.homomorphic.clients import DecryptingClient
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.homomorphic.keys import KeyAuthority, SharedClientKey
from fedpriv.aggregation.performance import perform
from fedpriv.errors import (
    AuthenticationFailed,
    CohortTooSmall,
    ContextMismatch,
    DecryptionFailed,
    MalformedMessage,
    ProtocolError,
    TooFewSurvivors,
    UnexpectedMessage,
)
from fedpriv.network import Message, Network, Wire
from fedpriv.threat import CLIENT, SERVER, client

KEYS = SharedClientKey()


@pytest.fixture
def deployment() -> HomomorphicDeployment:
    return BFV(keys=KEYS).deploy(terms_of(3))


def ask(roles: Any, party: str, sent: list[Message]) -> DecryptingClient:
    """A client hears what it was sent."""
    role: DecryptingClient = roles[party]
    hear(role, [message for message in sent if message.recipient == party])
    return role


def test_every_client_decrypts_the_sum(deployment: HomomorphicDeployment) -> None:
    session = session_of()
    roles = dict(deployment.round(session))
    sent = handed_on(roles, session)
    assert [message.recipient for message in sent] == list(session.parties)
    for party in session.parties:
        role = ask(roles, party, sent)
        with pytest.raises(ProtocolError):
            role.result()
        assert role.step("decrypt") == []
        assert np.array_equal(role.result().total, [7, 7, 7])
    assert deployment.decryptions == 1, "three clients, one aggregate"
    assert set(roles) == {*session.parties, SERVER}, "there is no authority"


# --- what a client refuses ------------------------------------------------------------------------------------------


def test_each_client_refuses_too_few(deployment: HomomorphicDeployment) -> None:
    """A server without the check sends the aggregate of one client: no client opens it."""
    session = session_of()
    roles: dict[str, Any] = dict(deployment.round(session))
    roles[SERVER]._keys = KeyAuthority(min_contributors=1)
    sent = uploads(roles, vectors_of(session))
    hear(roles[SERVER], sent[client(0)])
    aggregate = roles[SERVER].step("add")
    for party in session.parties:
        with pytest.raises(TooFewSurvivors):
            ask(roles, party, aggregate).step("decrypt")
    assert not any(record.rounds for record in deployment._decryptions.values())
    with pytest.raises(CohortTooSmall):
        deployment.round(session_of((0, 1), round=1))


def test_each_client_decrypts_once_in_a_round(deployment: HomomorphicDeployment) -> None:
    for attempt in range(2):
        session = session_of(attempt=attempt)
        roles: dict[str, Any] = dict(deployment.round(session))
        roles[SERVER]._record = ServerRecord()  # a server that does not remember
        sent = handed_on(roles, session)
        for party in session.parties:
            role = ask(roles, party, sent)
            if attempt == 0 and party != client(2):
                role.step("decrypt")
            elif attempt == 1 and party != client(2):
                with pytest.raises(UnexpectedMessage, match="One aggregate"):
                    role.step("decrypt")
            elif attempt == 1:  # it was not there the first time
                role.step("decrypt")


def test_the_server_hands_out_one_aggregate_in_a_round(deployment: HomomorphicDeployment) -> None:
    """Where clients' roles live in other processes, their own records do not reach the next attempt."""
    handed_on(dict(deployment.round(session_of())), session_of())
    again = session_of((0, 1, 2, 3), attempt=1)
    with pytest.raises(UnexpectedMessage, match="one aggregate"):
        handed_on(dict(deployment.round(again)), again)
    assert deployment.decryptions == 1


def test_an_attempt_that_ended_before_any_decryption_is_followed_by_another(deployment: HomomorphicDeployment) -> None:
    vectors = vectors_of(session_of())
    feed = lambda here: [(party, vectors[party]) for party in here]  # noqa: E731
    with pytest.raises(TooFewSurvivors):
        perform(deployment, session_of(), Wire(Network(), schedule={client(0): "encrypt"}), feed, CLIENT)
    assert np.array_equal(perform(deployment, session_of(attempt=1), Wire(Network()), feed, CLIENT).total, [7, 7, 7])


def test_a_failed_decryption_spends_the_key_for_its_client(deployment: HomomorphicDeployment) -> None:
    """The server adds one upload twice: the counter shows it, and this client opens nothing any more."""
    session = session_of()
    roles: dict[str, Any] = dict(deployment.round(session))
    sent = uploads(roles, vectors_of(session))
    roles[SERVER]._record = ServerRecord()
    for party in session.parties:
        hear(roles[SERVER], sent[party])
    roles[SERVER]._fold._contributors.discard(0)
    roles[SERVER]._record = ServerRecord()
    roles[SERVER]._over = False
    hear(roles[SERVER], sent[client(0)])
    aggregate = roles[SERVER].step("add")
    role = ask(roles, client(0), aggregate)
    with pytest.raises(DecryptionFailed):
        role.step("decrypt")
    with pytest.raises(ProtocolError):
        role.result()
    for again in (session_of(round=1), session_of(round=2)):
        roles = dict(deployment.round(again))
        role = ask(roles, client(0), handed_on(roles, again))
        with pytest.raises(UnexpectedMessage, match="after a failure"):
            role.step("decrypt")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"sender": client(1)}, UnexpectedMessage),
        ({"recipient": client(1)}, UnexpectedMessage),
        ({"stage": "encrypt"}, UnexpectedMessage),
        ({"body": b""}, MalformedMessage),
    ],
    ids=["sender", "recipient", "stage", "empty"],
)
def test_an_aggregate_comes_from_the_server(
    deployment: HomomorphicDeployment, change: dict[str, Any], error: type[ProtocolError]
) -> None:
    session = session_of()
    roles: dict[str, Any] = dict(deployment.round(session))
    (message, *_) = handed_on(roles, session)
    with pytest.raises(error):
        roles[client(0)].receive(replace(message, **change))
    with pytest.raises(UnexpectedMessage):
        roles[client(0)].step("decrypt")


def test_an_aggregate_comes_after_the_upload(deployment: HomomorphicDeployment) -> None:
    """A client that has put nothing in is not made to open anything."""
    session = session_of()
    roles: dict[str, Any] = dict(deployment.round(session))
    message = Message(SERVER, client(0), "add", b"")
    with pytest.raises(UnexpectedMessage, match="in its stage"):
        roles[client(0)].receive(message)


def test_any_flipped_bit_of_an_aggregate_is_noticed(deployment: HomomorphicDeployment) -> None:
    rng = np.random.default_rng(0)
    for round in range(12):
        session = session_of(round=round)
        roles: dict[str, Any] = dict(deployment.round(session))
        (message, *_) = handed_on(roles, session)
        body = bytearray(message.body)
        place = (0, len(body) - 1)[round] if round < 2 else int(rng.integers(len(body)))
        body[place] ^= 1 << int(rng.integers(8))
        with pytest.raises((AuthenticationFailed, MalformedMessage)):
            roles[client(0)].receive(replace(message, body=bytes(body)))


def test_an_aggregate_of_another_round_or_key_is_refused(deployment: HomomorphicDeployment) -> None:
    session, other = session_of(), BFV(keys=KEYS).deploy(terms_of(3))
    earlier = handed_on(dict(deployment.round(session)), session)
    roles: dict[str, Any] = dict(deployment.round(session_of(round=1)))
    uploads(roles, vectors_of(session))
    with pytest.raises(UnexpectedMessage, match="round 1"):
        roles[client(0)].receive(earlier[0])
    foreign = handed_on(dict(other.round(session)), session)
    roles = dict(deployment.round(session_of(attempt=1)))
    uploads(roles, vectors_of(session))
    with pytest.raises(UnexpectedMessage, match="attempt 1"):
        roles[client(0)].receive(foreign[0])
    roles = dict(deployment.round(session_of(round=2)))
    uploads(roles, vectors_of(session))
    later = session_of(round=2)
    with pytest.raises(ContextMismatch):
        roles[client(0)].receive(handed_on(dict(other.round(later)), later)[0])


def test_clients_that_are_sent_different_aggregates_hold_no_sum(deployment: HomomorphicDeployment) -> None:
    session = session_of((0, 1, 2, 3))
    fewer: list[bytes] = []

    class TwoFaced:
        """Sends client 0 the sum of three."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def receive(self, message: Message) -> None:
            self.inner.receive(message)
            if message.sender == client(2):
                total = self.inner._adder.dump(self.inner._fold._totals[0])
                fewer.append(envelope.seal(self.inner._label, 0, (0, 1, 2), total))

        def step(self, stage: str) -> list[Message]:
            first, *rest = self.inner.step(stage)
            return [replace(first, body=fewer[0]), *rest]

    class Lying:
        stages, contributors = deployment.stages, deployment.contributors

        def round(self, session: Any) -> Any:
            roles = dict(deployment.round(session))
            return roles | {SERVER: TwoFaced(roles[SERVER])}

    vectors = vectors_of(session)
    with pytest.raises(ProtocolError, match="same sum"):
        perform(Lying(), session, Wire(Network()), lambda here: [(p, vectors[p]) for p in here], CLIENT)  # type: ignore[arg-type]


# --- what the server refuses, and what it cannot see ----------------------------------------------------------------


@pytest.mark.parametrize("scheme", [CKKS, BFV])
def test_a_repeated_seed_is_refused_over_the_whole_run(scheme: Any) -> None:
    """One client's seed in another's upload, or in another round: two ciphertexts of one seed show a difference."""
    deployment = scheme(keys=KEYS).deploy(terms_of(3))
    first = session_of()
    roles: dict[str, Any] = dict(deployment.round(first))
    sent = uploads(roles, vectors_of(first))
    for messages in sent.values():
        hear(roles[SERVER], messages)
    payload = envelope.unseal(roles[SERVER]._label, sent[client(0)][0].body).payload
    assert len({deployment._adder.seed_of(payload) for _ in range(2)} - {None}) == 1
    for session in (session_of(attempt=1), session_of(round=1)):
        server: Any = deployment.round(session)[SERVER]
        again = envelope.seal(server._label, 0, (1,), payload)
        with pytest.raises(UnexpectedMessage, match="seed of its own"):
            server.receive(Message(client(1), SERVER, "encrypt", again))
        with pytest.raises(UnexpectedMessage):  # the attempt is over
            server.step("add")


def test_seeds_are_remembered_by_sixteen_bytes() -> None:
    record = ServerRecord()
    assert record.first(b"a" * 64)
    assert record.first(b"b" * 64)
    assert not record.first(b"a" * 64)
    assert {len(seed) for seed in record._seeds} == {16}
    assert "2 seeds" in repr(record)


def test_uploads_are_seeded_afresh(deployment: HomomorphicDeployment) -> None:
    """Clients' uploads, of the same vector too, share no seed."""
    seeds = []
    for round in range(2):
        session = session_of(round=round)
        roles: dict[str, Any] = dict(deployment.round(session))
        for messages in uploads(roles, dict.fromkeys(session.parties, np.zeros(3, dtype=np.int64))).values():
            for message in messages:
                payload = envelope.unseal(roles[SERVER]._label, message.body).payload
                seeds.append(deployment._adder.seed_of(payload))
    assert None not in seeds
    assert len(set(seeds)) == len(seeds) == 6


def test_the_server_cannot_test_guesses_of_the_model(deployment: HomomorphicDeployment) -> None:
    """Its messages name their context by a tag under a secret of the clients, not by a hash."""
    session = session_of()
    roles: dict[str, Any] = dict(deployment.round(session))
    context = roles[SERVER]._label.context
    assert context not in (hashlib.sha256(session.context).digest(), hmac.digest(b"", session.context, "sha256"))
    other = BFV(keys=KEYS).deploy(terms_of(3)).round(session)[SERVER]
    assert context != other._label.context  # type: ignore[attr-defined]
    with_authority: Any = deployed(KeyAuthority()).round(session)[SERVER]
    assert with_authority._label.context == hmac.digest(b"", session.context, "sha256")


def test_the_server_holds_neither_key_nor_common_secret(deployment: HomomorphicDeployment) -> None:
    """Everything that its role refers to, however deep, is searched."""
    roles: dict[str, Any] = dict(deployment.round(session_of()))
    hidden = {id(deployment._decryptor), id(deployment._decryptor._key), id(deployment._common)}  # type: ignore[attr-defined]

    def reaches(thing: object, seen: set[int]) -> bool:
        if id(thing) in hidden:
            return True
        if id(thing) in seen:
            return False
        seen.add(id(thing))
        inside = list(getattr(thing, "__dict__", {}).values())
        inside += thing if isinstance(thing, list | tuple | set) else []
        return any(reaches(part, seen) for part in inside)

    assert reaches(roles[client(0)], set()), "the search finds it where it is"
    assert not reaches(roles[SERVER], set())
