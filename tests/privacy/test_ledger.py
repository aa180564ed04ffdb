"""Who may be told which ε: every rule by hand."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fedpriv.aggregation import SecureAggregation
from fedpriv.errors import ConfigurationError, PrivacyError, UnsupportedAccounting
from fedpriv.privacy import Budget, FixedSizeSampling, FullParticipation, Ledger, LedgerEvent, PoissonSampling
from fedpriv.threat import PUBLIC, SERVER, Coalition, ThreatModel, View

DELTA = 1e-5


def gaussian_epsilon(sigma: float) -> float:
    """Balle and Wang 2018, theorem 8, by hand."""

    def excess(eps: float) -> float:
        second = math.exp(eps + norm.logcdf(-1 / (2 * sigma) - eps * sigma))
        return norm.cdf(1 / (2 * sigma) - eps * sigma) - second - DELTA

    return brentq(excess, 0, 300, xtol=1e-12)


def ledger_of(threat, *events, population=10, adjacency="zero-out") -> Ledger:
    return Ledger(threat=threat, population=population, adjacency=adjacency, events=events)


def test_central_noise_protects_the_public_but_not_the_server(plain, event) -> None:
    ledger = ledger_of(plain, *(event(range(10), 4.0, round=r) for r in range(16)))
    assert ledger.epsilon(DELTA, observer="server") == math.inf
    assert ledger.delta(1.0, observer="server") == 1.0
    statement = ledger.statement(DELTA, observer="server")
    assert "single updates" in statement.reason
    assert "not the server" in statement.reason
    assert "∞" in str(statement)
    for observer in ("public", "participant", "authority"):
        assert ledger.epsilon(DELTA, observer=observer) == pytest.approx(gaussian_epsilon(4 / math.sqrt(16)), abs=1e-6)
        assert ledger.epsilon(DELTA, observer=observer) == pytest.approx(4.377178, abs=1e-6)
    assert ledger.epsilon(DELTA, observer=Coalition(server=True)) == math.inf


def test_secure_aggregation_does_not_hide_the_sum_from_the_server(masked, event) -> None:
    ledger = ledger_of(masked, event(range(10)))
    statement = ledger.statement(DELTA, observer="server")
    assert statement.epsilon == math.inf
    assert "the sum before the noise" in statement.reason
    assert not statement.computational  # nothing is hidden, so nothing is hidden computationally


def test_with_a_key_authority_the_server_is_finite_and_the_authority_is_not(keyed, event) -> None:
    ledger = ledger_of(keyed, event(range(10), 2.0))
    server = ledger.statement(DELTA, observer="server")
    assert server.epsilon == pytest.approx(gaussian_epsilon(2.0), abs=1e-6)
    assert server.computational
    assert "if the cryptography holds" in str(server)
    authority = ledger.statement(DELTA, observer="authority")
    assert authority.epsilon == math.inf
    assert "not the authority" in authority.reason
    together = ledger.statement(DELTA, observer=Coalition(server=True, authority=True))
    assert together.epsilon == math.inf
    assert "single updates" in together.reason


def test_who_sees_the_cohort_gets_realised_participations_and_no_amplification(keyed, event) -> None:
    sampling = PoissonSampling(0.3).accounting(10)
    cohorts = [(0, 1, 2), (2, 3), (2, 4, 5), (), (1, 2)]  # client 2 takes part in 4, client 1 in 2
    ledger = ledger_of(keyed, *(event(c, 3.0, round=r, sampling=sampling) for r, c in enumerate(cohorts)))
    server = ledger.statement(DELTA, observer="server")
    assert server.participations == 4
    assert not server.amplified
    assert server.epsilon == pytest.approx(gaussian_epsilon(3.0 / math.sqrt(4)), abs=1e-6)
    public = ledger.statement(DELTA, observer="public")
    assert public.amplified
    assert public.participations is None
    assert 0 < public.epsilon < server.epsilon
    # The public's ε does not depend on who was drawn; the server's does.
    others = ledger_of(keyed, *(event((r,), 3.0, round=r, sampling=sampling) for r in range(5)))
    assert others.epsilon(DELTA, observer="public") == public.epsilon
    assert others.epsilon(DELTA, observer="server") == pytest.approx(gaussian_epsilon(3.0), abs=1e-6)


def test_the_survivors_give_the_cohort_away(keyed, event) -> None:
    sampling = PoissonSampling(0.1).accounting(10)
    told = keyed.with_views({PUBLIC: frozenset({View.SURVIVORS})})
    ledger = ledger_of(told, event((1,), 2.0, sampling=sampling))
    assert not ledger.statement(DELTA, observer="public").amplified


def test_the_worst_client_is_the_most_exposed_not_the_most_frequent(keyed, event) -> None:
    noisy = [event((0,), 10.0, round=r) for r in range(5)]
    ledger = ledger_of(keyed, *noisy, event((1,), 1.0, round=5))
    statement = ledger.statement(DELTA, observer="server")
    assert statement.epsilon == pytest.approx(gaussian_epsilon(1.0), abs=1e-6)
    assert statement.participations == 1


def test_different_noise_composes_exactly(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0,), 1.5), event((0,), 4.0, round=1, count=3))
    sigma = 1 / math.sqrt(1 / 1.5**2 + 3 / 4.0**2)
    assert ledger.epsilon(DELTA, observer="public") == pytest.approx(gaussian_epsilon(sigma), abs=1e-6)


def test_achieved_noise_counts_not_planned(keyed, event) -> None:
    starved = event((0,), 2.0, planned_noise_multiplier=4.0)
    assert ledger_of(keyed, starved).epsilon(DELTA, observer="public") == pytest.approx(gaussian_epsilon(2.0), abs=1e-6)


def test_dropped_clients_are_charged(keyed, event) -> None:
    assert ledger_of(keyed, event((0, 1), 2.0, contributors=1)).statement(DELTA, observer="server").participations == 1


def test_rounds_without_a_release(keyed, event) -> None:
    """They cost nothing to whom the cohort is open, and count as drawn to whom it is hidden."""
    sampling = PoissonSampling(0.1).accounting(10)
    released = event((0, 1), 2.0, sampling=sampling)
    aborted = event((1, 2), 2.0, sampling=sampling, contributors=0, round=1)
    both, one = ledger_of(keyed, released, aborted), ledger_of(keyed, released)
    assert both.epsilon(DELTA, observer="server") == one.epsilon(DELTA, observer="server")
    assert both.epsilon(DELTA, observer="public") > one.epsilon(DELTA, observer="public")
    exact = event((0,), 0.0, mechanism="non-private", trust="none", clip_norm=None, contributors=0)
    assert ledger_of(keyed, exact).epsilon(DELTA, observer="server") == 0.0


@pytest.mark.parametrize("observer", ["public", "server", "participant", "authority"])
def test_a_release_without_noise_is_infinite_for_whoever_sees_it(keyed, event, observer) -> None:
    exact = event((0,), 0.0, mechanism="non-private", trust="none", clip_norm=None)
    statement = ledger_of(keyed, event((0,), 5.0), exact).statement(DELTA, observer=observer)
    assert statement.epsilon == math.inf
    assert statement.rdp_epsilon is None
    assert not statement.simulated


def test_who_sees_nothing_learns_nothing(event) -> None:
    blind = ThreatModel(
        adversary="honest-but-curious",
        corrupt=0.5,
        assumptions=(),
        reference="tests",
        learns={SERVER: frozenset({View.CIPHERTEXTS, View.COHORT}), PUBLIC: frozenset()},
        computational=frozenset({SERVER}),
    )
    exact = event((0,), 0.0, mechanism="non-private", trust="none", clip_norm=None)
    ledger = ledger_of(blind, exact)
    server = ledger.statement(DELTA, observer="server")
    assert (server.epsilon, server.computational) == (0.0, True)
    public = ledger.statement(DELTA, observer="public")
    assert (public.epsilon, public.computational) == (0.0, False)
    # One client too many in the coalition, and updates are open.
    assert ledger.epsilon(DELTA, observer=Coalition(server=True, clients=0.6)) == math.inf


def test_an_empty_ledger_released_nothing(plain) -> None:
    ledger = ledger_of(plain)
    statement = ledger.statement(DELTA, observer="server")
    assert statement.epsilon == 0.0
    assert "nothing was released" in str(statement)
    assert ledger.delta(0.0, observer="server") == 0.0
    assert len(ledger) == 0
    assert "nothing released" in ledger._repr_html_()


def test_adjacencies(keyed, event) -> None:
    """σ = 4, 16 rounds, everybody: 4.3772 for zeroing a client, 9.9973 for replacing one, ∞ for adding one in sight."""
    full = FullParticipation().accounting(10)

    def stated(adjacency: str, observer: str) -> float:
        events = [event(range(10), 4.0, round=r, adjacency=adjacency, sampling=full) for r in range(16)]
        return ledger_of(keyed, *events, adjacency=adjacency).epsilon(DELTA, observer=observer)

    for observer in ("server", "public"):
        assert stated("zero-out", observer) == pytest.approx(4.37718, abs=1e-4)
        assert stated("replace-one", observer) == pytest.approx(9.9973, abs=1e-4)
    assert stated("add-remove", "public") == pytest.approx(4.37718, abs=1e-4)
    assert stated("add-remove", "server") == math.inf
    event_ = event(range(10), 4.0, adjacency="add-remove")
    why = ledger_of(keyed, event_, adjacency="add-remove").statement(DELTA, observer="server").reason
    assert "sees who takes part" in why
    assert "zero-out" in why


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


def test_seeded_noise_is_labelled(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0,), 2.0), event((0,), 2.0, round=1, noise_source="seeded"))
    assert ledger.statement(DELTA, observer="public").simulated
    assert "of the mechanism, simulated" in str(ledger.statement(DELTA, observer="public"))
    assert not ledger_of(keyed, event((0,), 2.0)).statement(DELTA, observer="public").simulated


def test_a_delta_too_large_for_the_population_is_said(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0,), 2.0))
    assert "not below 1/10" in ledger.statement(0.1, observer="public").reason
    assert "not below" not in ledger.statement(0.09, observer="public").reason


def test_units_adjacencies_and_strangers_are_refused(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0,), 2.0))
    with pytest.raises(PrivacyError, match="per client"):
        ledger.append(event((0,), 2.0, unit="record"))
    with pytest.raises(PrivacyError, match="zero-out"):
        ledger.append(event((0,), 2.0, adjacency="add-remove"))
    with pytest.raises(ConfigurationError):
        ledger.append(event((10,), 2.0))
    assert len(ledger) == 1
    with pytest.raises(ConfigurationError):
        ledger_of(keyed, adjacency="swap")
    with pytest.raises(ConfigurationError):
        ledger_of(keyed, population=0)


def test_what_has_no_accountant_is_refused(keyed, event) -> None:
    for odd in ({"mechanism": "skellam"}, {"trust": "local"}, {"unit": "record", "scope": "client/0"}):
        with pytest.raises(UnsupportedAccounting):
            ledger_of(keyed, event((0,), 2.0, **odd)).epsilon(DELTA, observer="public")


@pytest.mark.parametrize(
    "call",
    [
        lambda ledger: ledger.epsilon(0.0, observer="public"),
        lambda ledger: ledger.epsilon(DELTA, observer="nobody"),
        lambda ledger: ledger.epsilon(DELTA, observer="public", accountant="prv"),
        lambda ledger: ledger.delta(1.0, observer="public", conversion="best"),
        lambda ledger: ledger.delta(-1.0, observer="public"),
    ],
)
def test_bad_questions_are_refused(keyed, event, call) -> None:
    with pytest.raises(ConfigurationError):
        call(ledger_of(keyed, event((0,), 2.0)))


@pytest.mark.parametrize(
    "bad",
    [
        {"noise_multiplier": float("nan")},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": 0.0},
        {"planned_noise_multiplier": math.inf},
        {"count": 0},
        {"round": -1},
    ],
)
def test_impossible_events_are_refused(event, bad) -> None:
    with pytest.raises(ConfigurationError):
        event((0,), 2.0, **bad)


EVENTS = st.lists(
    st.tuples(
        st.sets(st.integers(0, 5), max_size=6), st.sampled_from([0.7, 1.1, 3.0]), st.booleans(), st.integers(1, 3)
    ),
    max_size=6,
)


@settings(max_examples=15)
@given(parts=EVENTS, data=st.data())
def test_order_and_grouping_do_not_matter_and_json_keeps_everything(parts, data) -> None:
    model = ThreatModel(
        adversary="honest-but-curious",
        corrupt=0.25,
        assumptions=("a",),
        reference="tests",
        learns={SERVER: frozenset({View.COHORT, View.NOISY_SUM}), PUBLIC: frozenset({View.FINAL_MODEL})},
        exposing=(frozenset({"server", "authority"}),),
        computational=frozenset({SERVER}),
    )
    sampling = PoissonSampling(0.2, 5).accounting(6)
    events = [
        LedgerEvent(
            round=r,
            mechanism="gaussian",
            unit="client",
            adjacency="zero-out",
            sampling=sampling if drawn else None,
            clip_norm=1.0,
            planned_noise_multiplier=sigma,
            noise_multiplier=sigma,
            planned_contributors=1,
            contributors=len(cohort),
            cohort=tuple(sorted(cohort)),
            trust="central",
            noise_source="seeded",
            count=count,
        )
        for r, (cohort, sigma, drawn, count) in enumerate(parts)
    ]

    def spent(ledger: Ledger) -> list[float]:
        return [
            ledger.epsilon(DELTA, observer="server"),
            ledger.epsilon(DELTA, observer="public", accountant="rdp"),
        ]

    ledger = ledger_of(model, *events, population=6)
    expected = spent(ledger)
    assert spent(ledger_of(model, *data.draw(st.permutations(events)), population=6)) == expected
    split = [replace(event, count=1) for event in events for _ in range(event.count)]
    assert spent(ledger_of(model, *split, population=6)) == expected
    back = Ledger.from_json(ledger.to_json())
    assert (back.events, back.threat, back.population, back.adjacency) == (
        ledger.events,
        ledger.threat,
        ledger.population,
        ledger.adjacency,
    )
    assert spent(back) == expected


def test_json_of_something_else_is_refused(plain) -> None:
    good = json.loads(ledger_of(plain).to_json())
    for bad in ("", "[]", "{}", json.dumps({**good, "format": "other"}), json.dumps({**good, "events": [{}]})):
        with pytest.raises(ConfigurationError):
            Ledger.from_json(bad)


def test_a_thousand_clients_and_two_hundred_rounds_are_fast(keyed, event) -> None:
    rng = np.random.default_rng(0)
    sampling = PoissonSampling(0.1)
    record = sampling.accounting(1000)
    events = [
        event(sampling.cohort(rng, 1000), 1 + r / 100, round=r, sampling=record) for r in range(200)
    ]  # noise of its own each round, so that nearly every client's history is unique
    ledger = ledger_of(keyed, *events, population=1000)
    started = time.process_time()
    statement = ledger.statement(DELTA, observer="server")
    assert time.process_time() - started < 2.0
    costs = np.zeros(1000)
    for made in events:
        costs[list(made.cohort)] += made.noise_multiplier**-2.0
    assert statement.epsilon == pytest.approx(gaussian_epsilon(1 / math.sqrt(costs.max())), abs=1e-6)


def test_would_exceed(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0,), 4.0, count=15))
    budget = Budget(epsilon=4.3772, delta=DELTA, observer="public")
    assert not ledger.would_exceed(budget)
    assert not ledger.would_exceed(budget, event((0,), 4.0, round=15))
    assert ledger.would_exceed(budget, event((0,), 4.0, round=15, count=2))
    assert len(ledger) == 1
    assert ledger.would_exceed(Budget(epsilon=100, delta=DELTA, observer="authority"))
    with pytest.raises(PrivacyError):
        ledger.would_exceed(replace(budget, unit="record"))


def test_the_events_cannot_be_changed_from_outside(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0,), 4.0))
    assert isinstance(ledger.events, tuple)
    with pytest.raises(AttributeError):
        ledger.events[0].count = 0  # type: ignore[misc]


def test_frame_and_words(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0, 1), 4.0, sampling=PoissonSampling(0.2).accounting(10)), event((2,), 4.0))
    frame = ledger.frame()
    assert list(frame["cohort"]) == [2, 1]
    assert list(frame["sampling"]) == ["poisson", "unknown"]
    statement = ledger_of(keyed, event((0,), 1.0)).statement(DELTA, observer="server")
    assert "Against the server: ε = 4.378 at δ = 1e-05" in str(statement)  # rounded up, never down
    assert "RDP: 4.729" in str(statement)
    assert "<table>" in statement._repr_html_()
    assert "&lt;" in replace(statement, reason="<b>")._repr_html_()
    assert repr(ledger) == "Ledger(2 releases, 10 clients, zero-out)"


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


def test_an_aborted_sum_is_no_secret_to_whoever_sees_updates(keyed, event) -> None:
    """Two ciphertexts reached the server before the authority refused; together they decrypt them."""
    aborted = event((0, 1), 0.0, mechanism="non-private", trust="none", clip_norm=None, contributors=0)
    ledger = ledger_of(keyed, aborted)
    assert ledger.epsilon(DELTA, observer="server") == 0.0
    assert ledger.epsilon(DELTA, observer=Coalition(server=True, authority=True)) == math.inf


def test_an_aborted_sum_is_no_secret_to_whoever_can_open_it(event) -> None:
    """Honest clients had answered before the last was lost; corrupt ones hold the shares that were still wanting."""
    aborted = event((0, 1), 0.0, mechanism="non-private", trust="none", clip_norm=None, contributors=0)
    ledger = ledger_of(SecureAggregation(corrupt=0.2).threat_model, aborted)
    assert ledger.epsilon(DELTA, observer=Coalition(server=True, clients=0.2)) == math.inf
    assert ledger.epsilon(DELTA, observer="participant") == 0.0


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
