"""When the key authority of CKKS and Paillier decrypts."""

from __future__ import annotations

import numpy as np
import pytest
from schemes import Protected, both, run, session_of, terms_of

from fedpriv.aggregation.homomorphic.keys import Decryptions, KeyAuthority
from fedpriv.aggregation.homomorphic.paillier import Paillier
from fedpriv.aggregation.homomorphic.roles import HomomorphicServer
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
    for attempt in range(2):
        run(deployment, session_of(3, attempt), np.ones((3, 3), dtype=np.int64))
    assert deployment.decryptions == 2
    assert "2 decryptions" in repr(deployment)


def test_one_decryption_in_an_attempt_and_none_after_a_failure() -> None:
    record = Decryptions()
    record.begin(0, 0)
    with pytest.raises(UnexpectedMessage):
        record.begin(0, 0)
    record.begin(0, 1)
    record.failed(0)
    with pytest.raises(UnexpectedMessage):
        record.begin(0, 2)
    record.begin(1, 0)
    assert record.count == 3


@both
def test_a_failed_decryption_is_final_for_its_round(aggregator: Protected) -> None:
    terms = terms_of(aggregator, 3)
    deployment, other = aggregator.deploy(terms), aggregator.deploy(terms)
    right, deployment._decryptor = deployment._decryptor, other._decryptor
    vectors = np.ones((3, 3), dtype=np.int64)
    with pytest.raises(ProtocolError) as failure:
        run(deployment, session_of(3), vectors)
    assert isinstance(failure.value, DecryptionFailed) or isinstance(aggregator, Paillier)  # or a residue beyond n²
    deployment._decryptor = right
    with pytest.raises(UnexpectedMessage, match="never again"):
        run(deployment, session_of(3, attempt=1), vectors)
    assert np.array_equal(run(deployment, session_of(3, round=1), vectors).total, [3, 3, 3])


@pytest.mark.parametrize("least", [0, -1, 2.5, True, "3"])
def test_minimum_is_a_positive_integer(least: object) -> None:
    with pytest.raises(ConfigurationError):
        KeyAuthority(min_contributors=least)  # type: ignore[arg-type]
