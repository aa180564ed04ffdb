"""Clients that take turns."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import DELTA, ledger_of

from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.privacy import Ledger, MinSeparation, SamplingRecord

NOTHING: Any = None
"""No generator: nothing can be drawn from it."""


@given(
    separation=st.integers(1, 9),
    most=st.none() | st.integers(1, 4),
    population=st.integers(9, 30),
    rounds=st.integers(1, 50),
)
def test_clients_take_part_so_far_apart_and_so_often(separation, most, population, rounds) -> None:
    sampling = MinSeparation(separation, most)
    cohorts = [sampling.cohort(NOTHING, population, round) for round in range(rounds)]
    for client in range(population):
        there = [round for round, cohort in enumerate(cohorts) if client in cohort]
        assert all(after - before >= separation for before, after in pairwise(there))
        assert len(there) <= (most or rounds)
    lasts = rounds if most is None else min(rounds, separation * most)
    assert all(list(cohort) == sorted(set(cohort)) for cohort in cohorts)
    assert all(sampling.least(population) <= len(cohort) <= sampling.largest(population) for cohort in cohorts[:lasts])
    assert all(cohort == () for cohort in cohorts[lasts:])
    assert sampling.least(population) <= sampling.expected(population) <= sampling.largest(population)
    if lasts >= separation:  # everybody has a turn
        assert set().union(*cohorts[:separation]) == set(range(population))
        assert np.mean([len(cohort) for cohort in cohorts[:separation]]) == pytest.approx(sampling.expected(population))


def test_a_run_that_outlasts_the_participations_is_refused() -> None:
    MinSeparation(4, 3).check(12)
    MinSeparation(4).check(10**6)
    with pytest.raises(PlanError, match=r"12 rounds.*max_participations=4"):
        MinSeparation(4, 3).check(13)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: MinSeparation(0), ConfigurationError),
        (lambda: MinSeparation(2.0), ConfigurationError),  # type: ignore[arg-type]
        (lambda: MinSeparation(2, 0), ConfigurationError),
        (lambda: MinSeparation(2, True), ConfigurationError),
        (lambda: MinSeparation(11).cohort(NOTHING, 10), PlanError),
        (lambda: MinSeparation(11).largest(10), PlanError),
        (lambda: MinSeparation(11).accounting(10), PlanError),
    ],
)
def test_what_cannot_be_is_refused(make, error) -> None:
    with pytest.raises(error):
        make()


def test_the_ledger_keeps_it_and_claims_no_amplification(keyed, event) -> None:
    """Also of a round that ended with too few survivors: that tells nothing of who was drawn, as nobody was."""
    record = MinSeparation(3, 2).accounting(10)
    assert record == SamplingRecord(kind="min-separation", rate=1.0, population=10, separation=3, max_participations=2)
    rounds = [event(MinSeparation(3, 2).turn(10, r), 2.0, round=r, sampling=record) for r in range(6)]
    rounds[4] = event(rounds[4].cohort, 2.0, round=4, sampling=record, contributors=0)
    ledger = ledger_of(keyed, *rounds)
    assert Ledger.from_json(ledger.to_json()).events == tuple(rounds)
    for observer in ("server", "public"):  # who does, and does not, see cohorts
        statement = ledger.statement(DELTA, observer=observer)
        assert (statement.amplified, statement.participations) == (False, 2)
    assert "turns" in ledger.statement(DELTA, observer="public").reason
    assert "whose turn it is" in ledger.frame["words"][0]


def test_a_client_that_joins_has_a_turn_as_others_have(keyed, event) -> None:
    record = MinSeparation(3, 2).accounting(10)
    rounds = [
        event(MinSeparation(3, 2).turn(10, r), 2.0, round=r, sampling=record, adjacency="add-remove") for r in range(6)
    ]
    joined = ledger_of(keyed, *rounds, adjacency="add-remove").statement(DELTA, observer="public")
    assert joined.participations == 2
