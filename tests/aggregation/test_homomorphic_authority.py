"""When the key authority of CKKS and Paillier decrypts."""

from __future__ import annotations

import numpy as np
import pytest
from schemes import Protected, both, run, session_of, terms_of

from fedpriv.aggregation.homomorphic.adding import HomomorphicServer
from fedpriv.aggregation.homomorphic.keys import Decryptions, KeyAuthority
from fedpriv.aggregation.homomorphic.paillier import Paillier
from fedpriv.errors import (
    CohortTooSmall,
    ConfigurationError,
    DecryptionFailed,
    PlanError,
    ProtocolError,
    TooFewSurvivors,
    UnexpectedMessage,
)
from fedpriv.threat import AUTHORITY, SERVER, client


@both
def test_fewer_than_the_minimum_are_refused(aggregator: Protected) -> None:
    deployment = aggregator.deploy(terms_of(aggregator, 3))
    with pytest.raises(CohortTooSmall):
        deployment.round(session_of(2))
    with pytest.raises(CohortTooSmall):
        deployment.contributors(session_of(2), {})
    with pytest.raises(PlanError):
        aggregator.least_contributors(2)
    assert aggregator.least_contributors(3) == 3


@both
def test_the_authority_itself_refuses_too_few(aggregator: Protected) -> None:
    """A server without the check hands over the aggregate of one client: the authority does not decrypt it."""
    deployment = aggregator.deploy(terms_of(aggregator, 3))
    roles = deployment.round(session_of(3))
    server = roles[SERVER]
    assert isinstance(server, HomomorphicServer)
    server._keys = KeyAuthority(min_contributors=1)
    roles[client(0)].submit(np.ones(3, dtype=np.int64))  # type: ignore[attr-defined]
    for message in roles[client(0)].step("encrypt"):
        server.receive(message)
    for message in server.step("add"):
        roles[AUTHORITY].receive(message)
    with pytest.raises(TooFewSurvivors):
        roles[AUTHORITY].step("decrypt")
    assert deployment.decryptions == 0


@both
def test_decryptions_are_counted(aggregator: Protected) -> None:
    deployment = aggregator.deploy(terms_of(aggregator, 3))
    for round in range(2):
        run(deployment, session_of(3, round=round), np.ones((3, 3), dtype=np.int64))
    assert deployment.decryptions == 2
    assert "2 decryptions" in repr(deployment)


@both
def test_one_decryption_in_a_round(aggregator: Protected) -> None:
    """Whatever the server calls a second aggregate of the round: another attempt, other clients."""
    deployment = aggregator.deploy(terms_of(aggregator, 3))
    run(deployment, session_of(4), np.ones((4, 3), dtype=np.int64))
    with pytest.raises(UnexpectedMessage, match="One aggregate"):
        run(deployment, session_of(3, attempt=1), np.ones((3, 3), dtype=np.int64))
    assert deployment.decryptions == 1
    assert np.array_equal(run(deployment, session_of(3, round=1), np.ones((3, 3), dtype=np.int64)).total, [3, 3, 3])


@both
def test_an_attempt_that_ended_before_its_decryption_is_followed_by_another(aggregator: Protected) -> None:
    deployment = aggregator.deploy(terms_of(aggregator, 3))
    with pytest.raises(TooFewSurvivors):
        run(
            deployment,
            session_of(3),
            np.ones((3, 3), dtype=np.int64),
            lambda message: None if message.sender == client(0) else message,
        )
    again = run(deployment, session_of(3, attempt=1), np.ones((3, 3), dtype=np.int64))
    assert np.array_equal(again.total, [3, 3, 3])


def test_a_record_of_decryptions() -> None:
    record = Decryptions()
    with record.once(0):
        pass
    with pytest.raises(UnexpectedMessage), record.once(0):
        raise AssertionError("a second decryption began")
    with pytest.raises(ZeroDivisionError), record.once(1):
        raise ZeroDivisionError  # whatever goes wrong inside
    with pytest.raises(UnexpectedMessage, match="failure"), record.once(2):
        raise AssertionError("a decryption began under a spent key")
    assert record.rounds == {0, 1}


@both
def test_a_failed_decryption_spends_the_key(aggregator: Protected) -> None:
    terms = terms_of(aggregator, 3)
    deployment, other = aggregator.deploy(terms), aggregator.deploy(terms)
    right, deployment._decryptor = deployment._decryptor, other._decryptor
    vectors = np.ones((3, 3), dtype=np.int64)
    with pytest.raises(ProtocolError) as failure:
        run(deployment, session_of(3), vectors)
    assert isinstance(failure.value, DecryptionFailed) or isinstance(aggregator, Paillier)  # or a residue beyond n²
    deployment._decryptor = right
    for again in (session_of(3, attempt=1), session_of(3, round=1)):
        with pytest.raises(UnexpectedMessage, match="after a failure"):
            run(deployment, again, vectors)


@pytest.mark.parametrize("least", [0, -1, 2.5, True, "3"])
def test_minimum_is_a_positive_integer(least: object) -> None:
    with pytest.raises(ConfigurationError):
        KeyAuthority(min_contributors=least)  # type: ignore[arg-type]
