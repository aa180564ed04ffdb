"""SecureAggregation does what every aggregator must do."""

from __future__ import annotations

import pytest

from fedpriv.aggregation import SecureAggregation, conformance

BENCHES = {
    "complete": conformance.Bench(aggregator=SecureAggregation(), cohorts=(4, 5, 8)),
    "complete, many losses": conformance.Bench(
        aggregator=SecureAggregation(corrupt=0.0, dropout=0.3), cohorts=(4, 5, 8)
    ),
    "malicious": conformance.Bench(aggregator=SecureAggregation(adversary="malicious"), cohorts=(4, 5, 8)),
    "chacha20": conformance.Bench(aggregator=SecureAggregation(masks="chacha20"), cohorts=(4, 5, 8)),
    # How long an opening of the roster is differs with the graph; the estimate is the mean of another one.
    "regular": conformance.Bench(
        aggregator=SecureAggregation(graph="regular", corrupt=0.03, dropout=0.03),
        cohorts=(35, 40),
        lengths=(7, 130),
        flips=3,
        bytes_tolerance=0.05,
    ),
}


@pytest.fixture(scope="module", params=BENCHES)
def bench(request: pytest.FixtureRequest) -> conformance.Bench:
    return BENCHES[request.param]


@pytest.mark.conformance
@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: conformance.Check, bench: conformance.Bench) -> None:
    check(bench)
