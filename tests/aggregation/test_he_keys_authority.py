"""An authority that adds signed uploads itself: a server that lies can drop some of them, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from he_keys import deployed, handed_on, hear, session_of, two_chunks, uploads, vectors_of

from fedpriv.aggregation.homomorphic import envelope, paillier
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.homomorphic.keys import KeyAuthority
from fedpriv.aggregation.homomorphic.opening import AddingAuthority
from fedpriv.crypto.signing import SIGNATURE, SigningKey
from fedpriv.errors import (
    AuthenticationFailed,
    ContextMismatch,
    FedprivError,
    MalformedMessage,
    ProtocolError,
    TooFewSurvivors,
    UnexpectedMessage,
)
from fedpriv.network import Message
from fedpriv.threat import AUTHORITY, SERVER, client

KEYS = KeyAuthority(additions="trusted-authority")
CLIENTS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def deployment() -> HomomorphicDeployment:
    return deployed(KEYS)


ROUND = iter(range(10**6))


class Attempt:
    """A new round, honest up to what the server forwards; then the test is the server."""

    def __init__(self, deployment: HomomorphicDeployment, clients: tuple[int, ...] = CLIENTS) -> None:
        self.session = session_of(clients, round=next(ROUND))
        self.roles: dict[str, Any] = dict(deployment.round(self.session))
        self.authority: AddingAuthority = self.roles[AUTHORITY]
        self.sent = handed_on(self.roles, self.session)


def altered(message: Message, change: Callable[[bytes], bytes]) -> Message:
    return replace(message, body=change(message.body))


def resealed(attempt: Attempt, message: Message, signer: SigningKey, **changes: Any) -> Message:
    """The same ciphertext in an envelope that the server made up."""
    label = attempt.authority._label
    part = envelope.unseal(label, envelope.unsigned(message.body))._replace(**changes)
    return replace(message, body=envelope.sign(signer, envelope.seal(label, *part)))


def test_the_authority_adds_and_opens_the_sum_alone(deployment: HomomorphicDeployment) -> None:
    attempt = Attempt(deployment)
    assert {message.recipient for message in attempt.sent} == {AUTHORITY}
    assert len(attempt.sent) == len(CLIENTS), "every upload is forwarded"
    hear(attempt.authority, attempt.sent)
    assert attempt.authority.step("decrypt") == []
    assert np.array_equal(attempt.authority.result().total, [15, 15, 15])


def test_the_server_can_drop_uploads(deployment: HomomorphicDeployment) -> None:
    attempt = Attempt(deployment)
    hear(attempt.authority, attempt.sent[1:])
    attempt.authority.step("decrypt")
    assert attempt.authority.result().contributors == (1, 2, 3)
    assert np.array_equal(attempt.authority.result().total, [14, 14, 14])


def test_it_cannot_drop_all_but_a_few(deployment: HomomorphicDeployment) -> None:
    before = deployment.decryptions
    attempt = Attempt(deployment)
    hear(attempt.authority, attempt.sent[:2])
    with pytest.raises(TooFewSurvivors):
        attempt.authority.step("decrypt")
    assert deployment.decryptions == before


def test_it_cannot_forward_an_upload_twice(deployment: HomomorphicDeployment) -> None:
    attempt = Attempt(deployment)
    with pytest.raises(UnexpectedMessage, match="once"):
        hear(attempt.authority, [attempt.sent[0], attempt.sent[0]])
    with pytest.raises(UnexpectedMessage):  # the attempt is over
        attempt.authority.step("decrypt")


def test_it_cannot_forward_a_strangers_upload(deployment: HomomorphicDeployment) -> None:
    """Neither of one that was never registered, nor of one that is registered but takes no part."""
    Attempt(deployment, (0, 1, 4))
    for index in (4, 77):
        attempt = Attempt(deployment)
        signer = deployment._identities.get(index) or SigningKey()
        with pytest.raises(UnexpectedMessage, match="participant"):
            attempt.authority.receive(resealed(attempt, attempt.sent[0], signer, contributors=(index,)))


def test_it_cannot_name_several_clients(deployment: HomomorphicDeployment) -> None:
    attempt = Attempt(deployment)
    forged = resealed(attempt, attempt.sent[0], deployment._identities[0], contributors=(0, 1))
    with pytest.raises(UnexpectedMessage, match="one participant"):
        attempt.authority.receive(forged)


def test_it_cannot_replay_an_upload(deployment: HomomorphicDeployment) -> None:
    earlier = Attempt(deployment).sent[0]
    with pytest.raises(UnexpectedMessage, match="round"):
        Attempt(deployment).authority.receive(earlier)


def test_it_cannot_replay_an_upload_of_another_attempt(deployment: HomomorphicDeployment) -> None:
    first = Attempt(deployment)
    again: Any = deployment.round(replace(first.session, attempt=1))[AUTHORITY]
    with pytest.raises(UnexpectedMessage, match="attempt 1"):
        again.receive(first.sent[0])


def test_it_cannot_relabel_an_earlier_upload(deployment: HomomorphicDeployment) -> None:
    """A client's ciphertext of another round, in this round's envelope under its old signature."""
    earlier, attempt = Attempt(deployment), Attempt(deployment)
    part = envelope.unseal(earlier.authority._label, envelope.unsigned(earlier.sent[0].body))
    sealed = envelope.seal(attempt.authority._label, *part)
    with pytest.raises(AuthenticationFailed):
        attempt.authority.receive(replace(earlier.sent[0], body=sealed + earlier.sent[0].body[-SIGNATURE:]))


def test_it_cannot_sign_for_a_client(deployment: HomomorphicDeployment) -> None:
    for signer in (SigningKey(), deployment._identities.get(1) or SigningKey()):
        attempt = Attempt(deployment)
        with pytest.raises(AuthenticationFailed):
            attempt.authority.receive(resealed(attempt, attempt.sent[0], signer))


def test_it_cannot_put_one_clients_upload_in_anothers_place(deployment: HomomorphicDeployment) -> None:
    """Client 0's ciphertext as client 1's: neither client signed that."""
    for signer in (0, 1):
        attempt = Attempt(deployment)
        forged = resealed(attempt, attempt.sent[0], deployment._identities[signer], contributors=(1,))
        genuine = attempt.sent[signer].body[-SIGNATURE:]
        with pytest.raises(AuthenticationFailed):
            attempt.authority.receive(altered(forged, lambda body, tail=genuine: body[:-SIGNATURE] + tail))


def test_it_cannot_change_a_bit(deployment: HomomorphicDeployment) -> None:
    """Any bit, anywhere; and a server that computes the checksum afresh changes nothing either."""
    rng = np.random.default_rng(0)
    length = 8 * len(Attempt(deployment).sent[0].body)
    for bit in [0, length - 1, length - 8 * SIGNATURE, *rng.integers(0, length, 12).tolist()]:
        attempt = Attempt(deployment)

        def flip(body: bytes, bit: int = bit) -> bytes:
            damaged = bytearray(body)
            damaged[bit // 8] ^= 1 << bit % 8
            return bytes(damaged)

        with pytest.raises((AuthenticationFailed, MalformedMessage)):
            attempt.authority.receive(altered(attempt.sent[0], flip))
    attempt = Attempt(deployment)
    part = envelope.unseal(attempt.authority._label, envelope.unsigned(attempt.sent[0].body))
    doubled = bytes([part.payload[0] ^ 1]) + part.payload[1:]
    sealed = envelope.seal(attempt.authority._label, part.chunk, part.contributors, doubled)
    with pytest.raises(AuthenticationFailed):
        attempt.authority.receive(replace(attempt.sent[0], body=sealed + attempt.sent[0].body[-SIGNATURE:]))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda body: body[:-1], MalformedMessage),
        (lambda body: b"", MalformedMessage),
        (lambda body: body[:-SIGNATURE], MalformedMessage),
        (lambda body: body[:-SIGNATURE] + bytes(SIGNATURE), AuthenticationFailed),
    ],
    ids=["cut", "empty", "unsigned", "zeros"],
)
def test_other_bytes_are_refused(
    deployment: HomomorphicDeployment, change: Callable[[bytes], bytes], error: type[FedprivError]
) -> None:
    attempt = Attempt(deployment)
    with pytest.raises(error):
        attempt.authority.receive(altered(attempt.sent[0], change))


def test_an_upload_under_another_key_is_refused(deployment: HomomorphicDeployment) -> None:
    attempt = Attempt(deployment)
    foreign = handed_on(dict(deployed(KEYS).round(attempt.session)), attempt.session)
    with pytest.raises(ContextMismatch):
        attempt.authority.receive(foreign[0])


def test_uploads_come_from_the_server(deployment: HomomorphicDeployment) -> None:
    attempt = Attempt(deployment)
    with pytest.raises(UnexpectedMessage):
        attempt.authority.receive(replace(attempt.sent[0], sender=client(0)))


def test_one_decryption_in_a_round(deployment: HomomorphicDeployment) -> None:
    """A server that calls for another attempt, with other clients, learns no second sum."""
    first = Attempt(deployment)
    hear(first.authority, first.sent)
    first.authority.step("decrypt")
    second = session_of((0, 1, 2), round=first.session.round, attempt=1)
    roles: dict[str, Any] = dict(deployment.round(second))
    hear(roles[AUTHORITY], handed_on(roles, second))
    with pytest.raises(UnexpectedMessage, match="One aggregate"):
        roles[AUTHORITY].step("decrypt")
    with pytest.raises(ProtocolError):
        roles[AUTHORITY].result()


# --- vectors of several messages -------------------------------------------------------------------------------------


@pytest.fixture
def chunked(monkeypatch: pytest.MonkeyPatch) -> HomomorphicDeployment:
    monkeypatch.setattr(paillier, "MESSAGE_BYTES", 512)  # one ciphertext of a 2048-bit key
    return deployed(KEYS, two_chunks())


def test_uploads_arrive_whole_one_client_after_another(chunked: HomomorphicDeployment) -> None:
    """So that the authority keeps one sum and one upload, whatever the server does."""
    session = session_of()
    roles: dict[str, Any] = dict(chunked.round(session))
    sent = handed_on(roles, session, two_chunks())
    assert len(sent) == 6
    hear(roles[AUTHORITY], sent)
    roles[AUTHORITY].step("decrypt")
    assert np.array_equal(roles[AUTHORITY].result().total, np.full(two_chunks(), 7))
    for order, rule in (([0, 2], "client after client"), ([1], "in order"), ([0, 0], "in order")):
        again = session_of(round=next(ROUND) + 1)
        roles = dict(chunked.round(again))
        sent = handed_on(roles, again, two_chunks())
        with pytest.raises(UnexpectedMessage, match=rule):
            hear(roles[AUTHORITY], [sent[place] for place in order])


def test_half_an_upload_is_not_in_the_sum(chunked: HomomorphicDeployment) -> None:
    """Not forwarded by an honest server; not added by the authority where a server forwards it."""
    session = session_of((0, 1, 2, 3))
    roles: dict[str, Any] = dict(chunked.round(session))
    halves = uploads(roles, vectors_of(session, two_chunks()))
    for party, messages in halves.items():
        hear(roles[SERVER], messages[: 1 if party == client(3) else 2])
    sent = roles[SERVER].step("forward")
    assert len(sent) == 6
    last = replace(halves[client(3)][0], sender=SERVER, recipient=AUTHORITY, stage="forward")
    hear(roles[AUTHORITY], [*sent, last])
    roles[AUTHORITY].step("decrypt")
    assert roles[AUTHORITY].result().contributors == (0, 1, 2)
    assert np.array_equal(roles[AUTHORITY].result().total, np.full(two_chunks(), 7))


def test_the_server_forwards_its_clients_uploads_only(deployment: HomomorphicDeployment) -> None:
    """It refuses what an honest authority would: a vector in another's name, twice, and too few."""
    session = session_of(round=next(ROUND))
    sent = uploads(roles := dict(deployment.round(session)), vectors_of(session))
    with pytest.raises(UnexpectedMessage, match="own vector"):
        roles[SERVER].receive(replace(sent[client(0)][0], sender=client(1)))
    session = session_of(round=next(ROUND))
    sent = uploads(roles := dict(deployment.round(session)), vectors_of(session))
    with pytest.raises(UnexpectedMessage, match="in order"):
        hear(roles[SERVER], sent[client(0)] * 2)
    session = session_of(round=next(ROUND))
    sent = uploads(roles := dict(deployment.round(session)), vectors_of(session))
    hear(roles[SERVER], sent[client(0)])
    with pytest.raises(TooFewSurvivors):
        roles[SERVER].step("forward")
