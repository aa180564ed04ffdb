"""The threshold: worked by hand, and its promises for every accepted description."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.aggregation import SecureAggregation, Session, Terms
from fedpriv.encoding import Bounded
from fedpriv.errors import CohortTooSmall, ConfigurationError, PlanError
from fedpriv.threat import Coalition, View


@pytest.mark.parametrize(
    ("n", "corrupt", "dropout", "c", "f", "t"),
    [
        (4, 0.1, 0.1, 1, 1, 3),  # min(⌊5/2⌋ + 1, 3)
        (5, 0.1, 0.1, 1, 1, 4),  # min(⌊6/2⌋ + 1, 4)
        (10, 0.1, 0.1, 1, 1, 6),  # min(⌊11/2⌋ + 1, 9)
        (30, 0.1, 0.1, 3, 3, 17),
        (100, 0.07, 0.07, 7, 7, 54),  # 0.07 · 100 is 7, though 0.07 * 100 > 7 in floats
        (100, 0.1, 0.1, 10, 10, 56),
        (100, 0.1, 0.6, 10, 60, 40),  # losses lower it: n − f
        (100, 0.0, 0.0, 0, 0, 51),
        (3, 0.0, 0.0, 0, 0, 2),
        (200, 0.33, 0.3, 66, 60, 134),
    ],
)
def test_thresholds_worked_by_hand(n: int, corrupt: float, dropout: float, c: int, f: int, t: int) -> None:
    found = SecureAggregation(corrupt=corrupt, dropout=dropout).parameters(n)
    assert (found.corrupt, found.dropouts, found.threshold) == (c, f, t)


@given(st.integers(1, 2000), st.floats(0, 0.99), st.floats(0, 0.99), st.integers(2, 20))
def test_what_holds_for_every_accepted_cohort(n: int, corrupt: float, dropout: float, min_cohort: int) -> None:
    try:
        found = SecureAggregation(corrupt=corrupt, dropout=dropout, min_cohort=min_cohort).parameters(n)
    except PlanError:
        return
    assert found.threshold - found.corrupt >= 2
    assert 2 <= found.threshold <= found.least <= n - found.dropouts
    assert found.least >= min_cohort
    assert found.corrupt >= corrupt * n - 1e-6
    assert found.dropouts >= dropout * n - 1e-6


@pytest.mark.parametrize(
    ("n", "arguments"),
    [
        (3, {}),  # c = f = 1, t = 2: one honest client
        (10, {"corrupt": 0.5, "dropout": 0.5}),  # t = c
        (10, {"corrupt": 0.9}),
        (2, {"min_cohort": 3}),
        (5, {"min_cohort": 5, "dropout": 0.2}),  # a permitted loss would always abort
        (1, {"corrupt": 0.0, "dropout": 0.0, "min_cohort": 2}),
    ],
)
def test_refused_in_a_plan(n: int, arguments: dict[str, float]) -> None:
    description = SecureAggregation(**arguments)  # type: ignore[arg-type]
    with pytest.raises(PlanError):
        description.least_contributors(n)
    with pytest.raises(PlanError):
        description.deploy(terms(description, n))


def test_a_cohort_that_was_sampled_too_small_is_an_abort() -> None:
    """Poisson sampling may draw one: the run goes on, the attempt does not."""
    description = SecureAggregation()
    deployment = description.deploy(terms(description, 50))
    session = Session(round=0, attempt=0, participants=(0, 1, 2), context=b"")
    with pytest.raises(CohortTooSmall):
        deployment.contributors(session, {})
    with pytest.raises(CohortTooSmall):
        deployment.round(session)


def terms(description: SecureAggregation, cohort: int) -> Terms:
    domain = description.domain(sum_bound=10 * cohort, length=3, cohort=cohort)
    return Terms(length=3, input_bound=10, cohort=cohort, domain=domain)


@pytest.mark.parametrize(
    "arguments",
    [
        {"adversary": "malicious"},
        {"adversary": "semi-malicious"},
        {"adversary": "benign"},
        {"corrupt": 1.0},
        {"corrupt": -0.1},
        {"dropout": 1.5},
        {"dropout": float("nan")},
        {"dropout": "0.1"},
        {"min_cohort": 1},
        {"min_cohort": 2.5},
        {"min_cohort": True},
    ],
)
def test_arguments_outside_their_range(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        SecureAggregation(**arguments)  # type: ignore[arg-type]


def test_sums_live_in_a_ring() -> None:
    description = SecureAggregation()
    with pytest.raises(PlanError):
        description.deploy(Terms(length=3, input_bound=10, cohort=10, domain=Bounded(100)))


def test_the_ring_is_the_smallest() -> None:
    ring = SecureAggregation().domain(sum_bound=2**19, length=1, cohort=10)
    assert ring.largest >= 2**19
    assert ring == type(ring)(21)
    assert SecureAggregation().domain(sum_bound=2**19 - 1, length=1, cohort=10) == type(ring)(20)


def test_eavesdroppers_are_assumed_away() -> None:
    """Whoever reads all channels sees what the server sees, and the claim on clients would not hold."""
    assert any("confidential" in assumption for assumption in SecureAggregation().threat_model.assumptions)


def test_who_learns_what() -> None:
    model = SecureAggregation(corrupt=0.1).threat_model
    assert View.UPDATES not in model.sees("server")
    assert View.EXACT_SUM in model.sees("server")
    assert View.EXACT_SUM not in model.sees("participant")
    assert View.UPDATES not in model.sees(Coalition(server=True, clients=0.1))
    assert View.UPDATES in model.sees(Coalition(server=True, clients=0.2))
