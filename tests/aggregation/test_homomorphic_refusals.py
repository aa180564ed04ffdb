"""What CKKS and Paillier refuse: terms that overflow, foreign, damaged and false messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from schemes import BOUND, COHORT, Protected, both, run, session_of, terms_of

from fedpriv.aggregation.homomorphic.adding import HomomorphicServer
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.homomorphic.paillier import Paillier
from fedpriv.aggregation.protocol import Session
from fedpriv.encoding import Bounded
from fedpriv.errors import (
    AuthenticationFailed,
    ContextMismatch,
    DecryptionFailed,
    EncodingOverflow,
    PlanError,
    ProtocolError,
    UnexpectedMessage,
)
from fedpriv.network import Message
from fedpriv.threat import AUTHORITY, SERVER, Party, client


@both
def test_one_client_too_many_is_refused(aggregator: Protected) -> None:
    deployment = aggregator.deploy(terms_of(aggregator, 3))
    for refuse in (deployment.round, lambda session: deployment.contributors(session, {})):
        with pytest.raises(UnexpectedMessage):
            refuse(session_of(COHORT + 1))


@both
def test_terms_that_can_overflow_are_refused(aggregator: Protected) -> None:
    """A domain for six clients does not serve seven."""
    small = terms_of(aggregator, 3)
    with pytest.raises(PlanError):
        aggregator.deploy(replace(small, cohort=COHORT + 1))
    with pytest.raises(PlanError):
        aggregator.deploy(replace(small, domain=Bounded(COHORT * BOUND - 1)))
    with pytest.raises(PlanError):
        aggregator.domain(sum_bound=2**62, length=3, cohort=3)
    with pytest.raises(PlanError):  # of all clients together
        aggregator.deploy(replace(small, input_bound=2**60, domain=Bounded(2**61)))


def damage(kind: str, change: Callable[[Message], Message | None]) -> Callable[[Message], Message | None]:
    return lambda message: change(message) if message.stage == kind else message


def flip(message: Message) -> Message:
    body = bytearray(message.body)
    body[len(body) // 2] ^= 1
    return replace(message, body=bytes(body))


@both
@pytest.mark.parametrize("stage", ["encrypt", "add"])
def test_a_flipped_bit_is_an_authentication_failure(aggregator: Protected, stage: str) -> None:
    deployment = aggregator.deploy(terms_of(aggregator, 3))
    with pytest.raises(AuthenticationFailed):
        run(deployment, session_of(3), np.ones((3, 3), dtype=np.int64), damage(stage, flip))


@both
def test_uploads_of_another_key_context_or_round_are_refused(aggregator: Protected) -> None:
    terms = terms_of(aggregator, 3)
    deployment, other = aggregator.deploy(terms), aggregator.deploy(terms)
    cases: list[tuple[HomomorphicDeployment, Session, type[ProtocolError]]] = [
        (other, session_of(3), ContextMismatch),
        (deployment, replace(session_of(3, attempt=1), context=b"another model"), UnexpectedMessage),
        (other, replace(session_of(3), attempt=9), UnexpectedMessage),
        (other, replace(session_of(3), round=9), UnexpectedMessage),
    ]
    for attempt, (source, session, error) in enumerate(cases):
        role = source.round(session)[client(0)]
        role.submit(np.ones(3, dtype=np.int64))  # type: ignore[attr-defined]
        server = deployment.round(session_of(3, attempt=0 if attempt == 0 else 10 + attempt))[SERVER]
        for message in role.step("encrypt"):
            with pytest.raises(error):
                server.receive(message)
            with pytest.raises(UnexpectedMessage):  # the attempt is over
                server.step("add")


@both
@pytest.mark.parametrize("change", [{"sender": client(1)}, {"recipient": AUTHORITY}], ids=["sender", "recipient"])
def test_an_upload_is_its_senders_and_for_its_recipient(aggregator: Protected, change: dict[str, Party]) -> None:
    """A vector under the name of a client that has sent nothing yet; a message that was meant for another."""
    roles = aggregator.deploy(terms_of(aggregator, 3)).round(session_of(3))
    roles[client(0)].submit(np.ones(3, dtype=np.int64))  # type: ignore[attr-defined]
    (message,) = roles[client(0)].step("encrypt")
    with pytest.raises(UnexpectedMessage):
        roles[SERVER].receive(replace(message, **change))


@both
def test_a_lost_or_altered_aggregate_is_refused(aggregator: Protected) -> None:
    deployment = aggregator.deploy(terms_of(aggregator, 3))
    vectors = np.ones((3, 3), dtype=np.int64)
    with pytest.raises(UnexpectedMessage, match="1 chunks"):
        run(deployment, session_of(3), vectors, damage("add", lambda message: None))
    assert deployment.decryptions == 0


@both
def test_a_wrong_number_of_additions_shows(aggregator: Protected) -> None:
    """A server that folds one client's ciphertext in twice: the counter in the ciphertext does not fit."""
    deployment = aggregator.deploy(terms_of(aggregator, 3))
    roles = dict(deployment.round(session_of(4)))
    server = roles[SERVER]
    assert isinstance(server, HomomorphicServer)
    for party in map(client, range(3)):
        roles[party].submit(np.ones(3, dtype=np.int64))  # type: ignore[attr-defined]
        for message in roles[party].step("encrypt"):
            server.receive(message)
            if party == client(0):
                server._fold._contributors.clear()
                server.receive(message)
    for message in server.step("add"):
        roles[AUTHORITY].receive(message)
    with pytest.raises(DecryptionFailed):
        roles[AUTHORITY].step("decrypt")
    with pytest.raises(ProtocolError):
        roles[AUTHORITY].result()  # type: ignore[attr-defined]


@both
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_beyond_the_bound_is_refused(aggregator: Protected, sign: int) -> None:
    """Inputs that a client's role would refuse are encrypted all the same: the authority releases nothing."""
    deployment = aggregator.deploy(terms_of(aggregator, 3, cohort=3, bound=1000))
    roles = deployment.round(session_of(3))
    for party in map(client, range(3)):
        role = roles[party]
        role._uploads.input._vector = np.full(3, sign * 1010)  # type: ignore[attr-defined]
        if isinstance(aggregator, Paillier):
            with pytest.raises(EncodingOverflow):  # it is not even packed: lanes would borrow or carry
                role.step("encrypt")
            return
        for message in role.step("encrypt"):
            roles[SERVER].receive(message)
    for message in roles[SERVER].step("add"):
        roles[AUTHORITY].receive(message)
    with pytest.raises(DecryptionFailed):
        roles[AUTHORITY].step("decrypt")
