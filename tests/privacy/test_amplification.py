"""Hidden cohorts: when sampling lowers ε, and when it must not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from ledgers import DELTA, gaussian_epsilon, ledger_of
from scipy.stats import binom

from fedpriv.privacy import FixedSizeSampling, FullParticipation, PoissonSampling
from fedpriv.threat import Coalition


def test_a_hidden_poisson_cohort_gives_the_reference_figures(plain, event) -> None:
    sampling = PoissonSampling(0.1).accounting(1000)
    ledger = ledger_of(plain, event((), 1.0, sampling=sampling, count=100), population=1000)
    statement = ledger.statement(DELTA, observer="public")
    assert statement.epsilon == pytest.approx(7.04660, abs=1e-4)
    assert statement.rdp_epsilon == pytest.approx(7.9039, abs=1e-4)
    assert statement.accountant == "pld"
    assert ledger.epsilon(DELTA, observer="public", accountant="rdp") == statement.rdp_epsilon
    classic = ledger.epsilon(DELTA, observer="public", accountant="rdp", conversion="classic")
    assert classic > statement.rdp_epsilon
    assert ledger.delta(statement.epsilon, observer="public") == pytest.approx(DELTA, rel=1e-6)


def test_amplified_and_plain_rounds_compose(plain, event) -> None:
    sampled = event((0,), 2.0, sampling=PoissonSampling(0.1).accounting(10), count=20)
    full = event(range(10), 8.0, round=1, sampling=FullParticipation().accounting(10), count=4)
    both = ledger_of(plain, sampled, full).statement(DELTA, observer="public")
    assert both.epsilon > ledger_of(plain, sampled).epsilon(DELTA, observer="public")
    assert both.epsilon > ledger_of(plain, full).epsilon(DELTA, observer="public")
    assert both.amplified
    assert "4 releases count in full" in both.reason


def test_fixed_size_cohorts(plain, event) -> None:
    sampling = FixedSizeSampling(2).accounting(10)
    cohorts = [(0, 1), (1, 2), (1, 3), (4, 5)]
    zero_out = ledger_of(plain, *(event(c, 3.0, round=r, sampling=sampling) for r, c in enumerate(cohorts)))
    statement = zero_out.statement(DELTA, observer="public")
    assert statement.epsilon == pytest.approx(gaussian_epsilon(3 / math.sqrt(3)), abs=1e-6)
    assert "conditional on the cohorts" in statement.reason
    assert statement.participations == 3
    events = (event(c, 3.0, round=r, sampling=sampling, adjacency="replace-one") for r, c in enumerate(cohorts))
    replaced = ledger_of(plain, *events, adjacency="replace-one").statement(DELTA, observer="public")
    assert replaced.amplified
    assert replaced.accountant == "rdp"
    assert replaced.epsilon == replaced.rdp_epsilon < gaussian_epsilon(3 / 2 / math.sqrt(4)) * 1.2


def test_a_sampling_that_nobody_models_is_charged_in_full(plain, event) -> None:
    statement = ledger_of(plain, event((1,), 3.0), event((1,), 3.0, round=1)).statement(DELTA, observer="public")
    assert not statement.amplified
    assert statement.participations == 2


def test_a_participant_knows_of_itself_whether_it_was_drawn(keyed, event) -> None:
    """Where cohorts are limited in size, one client outside makes every other one likelier to be inside."""
    for sampling in (FixedSizeSampling(2).accounting(10), PoissonSampling(0.3, 3).accounting(10)):
        events = [event((0, 1), 3.0, sampling=sampling, adjacency="replace-one", round=r) for r in range(4)]
        ledger = ledger_of(keyed, *events, adjacency="replace-one")
        assert ledger.statement(DELTA, observer="public").amplified
        for observer in ("participant", Coalition(clients=0.5)):
            statement = ledger.statement(DELTA, observer=observer)
            assert not statement.amplified
            assert statement.epsilon == pytest.approx(gaussian_epsilon(3 / 2 / math.sqrt(4)), abs=1e-6)
    # A cut that hardly ever happens tells hardly anything.
    rare = event((0,), 3.0, sampling=PoissonSampling(0.1, 60).accounting(200), count=9)
    ledger = ledger_of(keyed, rare, population=200)
    inside, outside = (ledger.statement(DELTA, observer=observer) for observer in ("participant", "public"))
    assert inside.amplified
    assert inside.epsilon == pytest.approx(outside.epsilon, rel=1e-3)
    # Independent coins tell a participant nothing of the others, nor does a limit that is never reached.
    for sampling in (PoissonSampling(0.1).accounting(10), PoissonSampling(0.1, 10).accounting(10)):
        assert ledger_of(keyed, event((0,), sampling=sampling)).statement(DELTA, observer="participant").amplified


@pytest.mark.parametrize("sampling", [FixedSizeSampling(2), PoissonSampling(1.0, 2)])
def test_a_client_that_leaves_a_limited_cohort_makes_room_for_another(keyed, event, sampling) -> None:
    """Clients at −C, −C and +C, one drawn: the sum without the last is −C for sure, with it is at times +C."""
    record = sampling.accounting(10)
    events = [event((r, r + 1), 3.0, sampling=record, adjacency="add-remove", round=r) for r in range(4)]
    statement = ledger_of(keyed, *events, adjacency="add-remove").statement(DELTA, observer="public")
    # It may be in every cohort, whatever was drawn, and moves the sum by twice the clip norm.
    assert statement.epsilon == pytest.approx(gaussian_epsilon(3 / 2 / math.sqrt(4)), abs=1e-6)
    assert statement.participations is None
    assert "takes another's place" in statement.reason


def test_lost_clients_that_end_a_round_end_amplification(keyed, event) -> None:
    """Too few survivors: who was drawn decides that, and no theorem covers it. Too few drawn: charged already."""
    sampling = replace(PoissonSampling(0.3).accounting(200), min_cohort=2)
    released = event((0, 1, 2), 2.0, sampling=sampling)
    small = event((1,), 2.0, sampling=sampling, contributors=0, round=1)
    starved = event((1, 2, 3), 2.0, sampling=sampling, contributors=0, round=2)
    empty = event((), 2.0, sampling=PoissonSampling(0.3).accounting(200), contributors=0, round=3)
    assert ledger_of(keyed, released, small, empty, population=200).statement(DELTA, observer="public").amplified
    statement = ledger_of(keyed, released, starved, population=200).statement(DELTA, observer="public")
    assert not statement.amplified
    assert "too few survivors" in statement.reason
    assert statement.epsilon == pytest.approx(gaussian_epsilon(2.0), abs=1e-6)


def test_amplification_rests_on_a_secret_seed(plain, event) -> None:
    sampled = ledger_of(plain, event((0,), 2.0, sampling=PoissonSampling(0.1).accounting(10)))
    assert "seed that drew the cohorts stays secret" in str(sampled.statement(DELTA, observer="public"))
    full = ledger_of(plain, event((0,), 2.0, sampling=FullParticipation().accounting(10)))
    assert "seed" not in str(full.statement(DELTA, observer="public"))


def test_sampling_that_amplifies_nothing_is_not_said_to(plain, event) -> None:
    """Most cohorts are empty and abort: the tail eats δ, and what is left is the bound without amplification."""
    sampling = replace(PoissonSampling(0.05).accounting(10), min_cohort=1)
    statement = ledger_of(plain, event((0,), 2.0, sampling=sampling)).statement(DELTA, observer="public")
    assert statement.epsilon == pytest.approx(gaussian_epsilon(2.0), abs=1e-6)
    assert not statement.amplified
    assert "amplifies nothing" in statement.reason
    assert "seed" not in str(statement)


def test_the_tail_that_takes_amplification_away_is_named(keyed, event) -> None:
    """60 clients at the rate 0.1: fewer than two of them, or more than eight, come far more often than δ permits."""

    def stated(min_cohort: int, max_cohort: int | None, observer: str, population: int = 60, rate: float = 0.1):
        sampling = replace(PoissonSampling(rate, max_cohort).accounting(population), min_cohort=min_cohort)
        ledger = ledger_of(keyed, event((0,), 2.0, sampling=sampling, count=20), population=population)
        return ledger.statement(DELTA, observer=observer)

    few = stated(2, 40, "public")
    assert not few.amplified
    tail = 20 * (0.9**60 + 60 * 0.1 * 0.9**59)
    assert f"below min_cohort with probability {tail:.2g}, which at δ = 1e-05" in few.reason
    assert "a higher rate or more clients would help" in few.reason
    assert "max_cohort" not in few.reason
    many = stated(0, 8, "participant")
    assert "above max_cohort with probability 1," in many.reason  # the bound, 2.8, is of a sum over rounds
    assert "a larger max_cohort would help" in many.reason
    assert "min_cohort" not in many.reason
    both = stated(2, 8, "participant").reason
    assert "min_cohort" in both
    assert "max_cohort" in both
    # What is said to help does.
    assert stated(2, 40, "public", rate=0.5).amplified
    assert stated(2, 160, "public", population=400).amplified
    assert stated(0, 30, "participant").amplified
    # Where something else takes it, no tail is blamed.
    drawn = event((0,), 2.0, sampling=FixedSizeSampling(9).accounting(10), adjacency="replace-one")
    alone = ledger_of(keyed, drawn, adjacency="replace-one").statement(DELTA, observer="public")
    assert "amplifies nothing" in alone.reason
    assert "probability" not in alone.reason


@pytest.mark.parametrize("sigma", [3.0, 10.0])
def test_an_amplified_bound_above_the_unamplified_one_is_not_stated(keyed, event, sigma) -> None:
    """Nine of ten clients drawn: RDP's amplified bound is above the Gaussian curve of every release in full."""
    sampling = FixedSizeSampling(9).accounting(10)
    drawn = event(range(9), sigma, sampling=sampling, count=20, adjacency="replace-one")
    ledger = ledger_of(keyed, drawn, adjacency="replace-one")
    statement = ledger.statement(DELTA, observer="public")
    assert statement.epsilon == pytest.approx(gaussian_epsilon(sigma / 2 / math.sqrt(20)), abs=1e-6)
    assert (statement.accountant, statement.amplified) == ("pld", False)
    assert statement.rdp_epsilon == ledger.epsilon(DELTA, observer="public", accountant="rdp") > statement.epsilon
    assert ledger.delta(statement.epsilon, observer="public") == pytest.approx(DELTA, rel=1e-6)
    assert statement.epsilon <= ledger.epsilon(DELTA, observer="server")  # who sees that this client came every time


def test_what_is_conditional_on_the_cohorts_is_said_to_be(keyed, event) -> None:
    """A public bound holds whoever was drawn, and may exceed that of a server for the cohorts that it saw."""
    sampling = PoissonSampling(0.5).accounting(10)
    ledger = ledger_of(keyed, *(event((r,), 2.0, round=r, sampling=sampling) for r in range(9)))
    server, public = (ledger.statement(DELTA, observer=observer) for observer in ("server", "public"))
    assert public.epsilon > server.epsilon
    assert "conditional on the cohorts that were drawn" in server.reason
    assert "whichever cohorts were drawn" in public.reason
    full = ledger_of(keyed, event(range(10), 2.0, sampling=FullParticipation().accounting(10)))
    assert "conditional" not in full.statement(DELTA, observer="server").reason


def test_a_client_that_joins_may_decide_whether_a_round_is_released(keyed, event) -> None:
    """Thirty clients at the rate 0.3, three for a release: of 29 more rounds end without one, however much the noise.

    That a round ended tells add-remove neighbours apart, at δ = P[Bin(29, q) < 3] - P[Bin(30, q) < 3] = 7e-4 alone.
    """
    apart = float(binom.cdf(2, 29, 0.3) - binom.cdf(2, 30, 0.3))
    sampling = replace(PoissonSampling(0.3).accounting(30), min_cohort=3)
    drawn = event(range(10), 1000.0, sampling=sampling, adjacency="add-remove")
    ledger = ledger_of(keyed, drawn, population=30, adjacency="add-remove")
    for accountant in (None, "pld", "rdp"):
        assert ledger.delta(0.0, observer="public", accountant=accountant) >= apart
        assert ledger.epsilon(apart / 2, observer="public", accountant=accountant) == math.inf
    statement = ledger.statement(DELTA, observer="public")
    assert not statement.amplified
    assert "a client that joins or leaves may decide whether a round is released" in str(statement)
    assert "below min_cohort with probability 0.0028" in str(statement)
    assert "every release counts in full" not in str(statement)
    # Where a small cohort is unlikely enough it costs a part of δ, in full as with amplification.
    sampling = replace(PoissonSampling(0.3).accounting(100), min_cohort=3)
    many = event(range(30), 1000.0, sampling=sampling, adjacency="add-remove")
    statement = ledger_of(keyed, many, population=100, adjacency="add-remove").statement(DELTA, observer="public")
    assert 0.0 < statement.epsilon < gaussian_epsilon(1000.0)
    # A client that is zeroed is in its cohorts all the same.
    zeroed = event(range(10), 1000.0, sampling=replace(PoissonSampling(0.3).accounting(30), min_cohort=3))
    zero_out = ledger_of(keyed, zeroed, population=30)
    assert zero_out.epsilon(DELTA, observer="public") == pytest.approx(gaussian_epsilon(1000.0), rel=1e-6)


def test_a_client_that_joins_may_save_a_round_from_too_few_survivors(keyed, event) -> None:
    sampling = replace(PoissonSampling(0.3).accounting(200), min_cohort=2)
    starved = event((1, 2, 3), 2.0, sampling=sampling, contributors=0, adjacency="add-remove", round=1)
    released = event((0, 1, 2), 2.0, sampling=sampling, adjacency="add-remove")
    ledger = ledger_of(keyed, released, starved, population=200, adjacency="add-remove")
    statement = ledger.statement(DELTA, observer="public")
    assert statement.epsilon == math.inf
    assert "in round 2 too few clients were left" in statement.reason
