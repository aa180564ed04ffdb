"""The plain sum, and the conformance suite's own power."""

from __future__ import annotations

import numpy as np
import pytest

from fedpriv.aggregation import PlainSum, Terms, conformance
from fedpriv.aggregation.protocol import ClientRole, Session
from fedpriv.encoding import Bounded
from fedpriv.errors import EncodingOverflow
from fedpriv.threat import View


@pytest.fixture(scope="module")
def bench() -> conformance.Bench:
    return conformance.Bench(aggregator=PlainSum())


@pytest.mark.conformance
@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: conformance.Check, bench: conformance.Bench) -> None:
    check(bench)


def test_the_server_is_said_to_see_updates() -> None:
    assert View.UPDATES in PlainSum().threat_model.sees("server")
    assert not PlainSum().threat_model.sees("participant")


def test_bytes_are_those_of_the_smallest_integers() -> None:
    terms = Terms(length=1000, input_bound=2**11 - 1, cohort=4, domain=Bounded(2**14))
    (up, _) = PlainSum().estimate(terms, 4)
    assert up.bytes_sent == 4 * (1000 * 12 // 8 + 32)


def test_sums_beyond_62_bits_are_refused() -> None:
    with pytest.raises(EncodingOverflow):
        PlainSum().domain(sum_bound=2**62, length=1, cohort=1)


def test_a_client_needs_nothing_of_the_cohort_that_it_is_said_not_to_see() -> None:
    """Not even a hash of it: with a few guesses that would tell who else takes part."""
    terms = Terms(length=3, input_bound=10, cohort=4, domain=Bounded(100))
    sent = []
    for others in ((1,), (2, 3)):
        session = Session(round=0, attempt=0, participants=(0, *others), context=b"c")
        role = PlainSum().deploy(terms).round(session)["client/0"]
        assert isinstance(role, ClientRole)
        role.submit(np.array([1, -2, 3]))
        sent.append([message.body for message in role.step("upload")])
    assert sent[0] == sent[1]
