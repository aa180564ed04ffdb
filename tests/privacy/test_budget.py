from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedpriv.errors import BudgetUnreachable, ConfigurationError, PlanError
from fedpriv.privacy import (
    Budget,
    CentralGaussian,
    FixedSizeSampling,
    FullParticipation,
    Ledger,
    MinSeparation,
    Outcome,
    PoissonSampling,
    Setting,
    solve_noise_multiplier,
)
from fedpriv.privacy.ledger.accounting import epsilon
from fedpriv.privacy.ledger.composition import Composition, Sampled
from fedpriv.threat import ThreatModel

DELTA = 1e-5


@pytest.fixture
def setting(keyed: ThreatModel) -> Callable[..., Setting]:
    def make(**more: Any) -> Setting:
        fields: dict[str, Any] = {
            "length": 3,
            "population": 1000,
            "rounds": 20,
            "sampling": FullParticipation(),
            "adjacency": "zero-out",
            "threat": keyed,
            "largest_client": 10,
            "least_contributors": 950,
            "least_honest": 900,
        }
        return Setting(**{**fields, **more})

    return make


@pytest.mark.parametrize(
    ("sampling", "adjacency", "observer"),
    [
        (MinSeparation(3, max_participations=7), "zero-out", "server"),
        (FullParticipation(), "zero-out", "server"),
        (FullParticipation(), "replace-one", "public"),
        (PoissonSampling(0.1), "zero-out", "public"),
        (PoissonSampling(0.1), "add-remove", "participant"),
        (FixedSizeSampling(50), "replace-one", "public"),
    ],
)
@pytest.mark.parametrize("target", [0.5, 8.0])
def test_what_was_solved_is_what_is_stated(setting, sampling, adjacency, observer, target) -> None:
    """Calibrate, run every round through the mechanism's own events, ask the ledger."""
    here = setting(sampling=sampling, adjacency=adjacency)
    budget = Budget(epsilon=target, delta=DELTA, observer=observer)
    mechanism = CentralGaussian(clip_norm=1.0, target=budget)
    state = mechanism.init(here)
    ledger = Ledger(threat=here.threat, population=here.population, adjacency=adjacency)
    everybody = tuple(range(1000))
    for number in range(here.rounds):
        there = sampling.turn(1000, number) if isinstance(sampling, MinSeparation) else everybody
        outcome = Outcome(cohort=there, contributors=there, noise="os")
        for event in mechanism.events(mechanism.begin(state, number), outcome):
            ledger.append(event)
    stated = ledger.epsilon(DELTA, observer=observer)
    assert stated <= target
    assert stated == pytest.approx(target, rel=1e-3)
    assert not ledger.would_exceed(budget)


def test_calibration_oracles() -> None:
    """ε = 1, q = 0.01, T = 1000: σ = 1.4146 by PLD, 1.5131 by RDP."""

    def spent(sigma: float, accountant: Any) -> float:
        release = Sampled(noise_multiplier=sigma, kind="poisson", rate=0.01, population=10_000)
        return epsilon(Composition(sampled=((release, 1000),)), DELTA, "zero-out", accountant)

    assert spent(1.5131, "rdp") == pytest.approx(1.0, abs=2e-4)
    assert spent(1.4146, "pld") == pytest.approx(1.0, abs=2e-4)


def test_the_solver_meets_the_oracle(setting) -> None:
    here = setting(population=10_000, rounds=1000, sampling=PoissonSampling(0.01))
    solved = solve_noise_multiplier(Budget(epsilon=1.0, delta=DELTA, observer="public"), here)
    assert solved == pytest.approx(1.4146, rel=1e-3)


def test_who_sees_the_cohort_is_planned_for_the_worst_case(setting) -> None:
    budget = Budget(epsilon=2.0, delta=DELTA, observer="server")
    every_round = solve_noise_multiplier(budget, setting())
    for sampling in (PoissonSampling(0.1), FixedSizeSampling(100)):
        assert solve_noise_multiplier(budget, setting(sampling=sampling)) == every_round
    hidden = Budget(epsilon=2.0, delta=DELTA, observer="public")
    assert solve_noise_multiplier(hidden, setting(sampling=PoissonSampling(0.1))) < every_round / 3


def test_noise_after_the_sum_cannot_meet_a_budget_against_the_server(setting, masked, plain) -> None:
    for threat in (masked, plain):
        with pytest.raises(BudgetUnreachable, match="server") as caught:
            CentralGaussian(clip_norm=1.0, target=Budget(epsilon=100.0, delta=DELTA, observer="server")).init(
                setting(threat=threat)
            )
        assert "public" in caught.value.remedy


def test_adding_a_client_in_sight_cannot_be_hidden(setting) -> None:
    with pytest.raises(BudgetUnreachable):
        solve_noise_multiplier(Budget(epsilon=9.0, delta=DELTA, observer="server"), setting(adjacency="add-remove"))


def test_an_observer_who_sees_nothing_is_no_target(setting, keyed) -> None:
    blind = ThreatModel(
        adversary="honest-but-curious", corrupt=0.0, assumptions=(), reference="tests", learns={}, releaser="authority"
    )
    with pytest.raises(PlanError, match="any noise"):
        solve_noise_multiplier(Budget(epsilon=1.0, delta=DELTA, observer="public"), setting(threat=blind))


def test_delta_is_below_one_over_the_population(setting) -> None:
    with pytest.raises(ConfigurationError, match="1/1000"):
        solve_noise_multiplier(Budget(epsilon=1.0, delta=1e-3, observer="public"), setting())
    assert solve_noise_multiplier(Budget(epsilon=1.0, delta=9e-4, observer="public"), setting()) > 0


def test_a_record_budget_is_not_this_mechanisms(setting) -> None:
    with pytest.raises(PlanError, match="per client"):
        solve_noise_multiplier(Budget(epsilon=1.0, delta=DELTA, observer="public", unit="record"), setting())


@pytest.mark.parametrize(
    "bad",
    [
        {"epsilon": 0.0},
        {"epsilon": float("inf")},
        {"epsilon": "2"},
        {"epsilon": True},
        {"delta": "1e-5"},
        {"observer": ["server"]},
        {"unit": ["client"]},
        {"delta": 0.0},
        {"delta": 1.0},
        {"observer": "everyone"},
        {"unit": "hospital"},
    ],
)
def test_bad_budgets_are_refused(bad) -> None:
    with pytest.raises(ConfigurationError):
        Budget(**{"epsilon": 1.0, "delta": DELTA, "observer": "public", **bad})
