"""SecureAggregation does what every aggregator must do."""

from __future__ import annotations

import pytest

from fedpriv.aggregation import SecureAggregation, conformance


@pytest.fixture(scope="module", params=[SecureAggregation(), SecureAggregation(corrupt=0.0, dropout=0.3)], ids=repr)
def bench(request: pytest.FixtureRequest) -> conformance.Bench:
    return conformance.Bench(aggregator=request.param, cohorts=(4, 5, 8))


@pytest.mark.conformance
@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: conformance.Check, bench: conformance.Bench) -> None:
    check(bench)
