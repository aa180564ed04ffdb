"""Noise in clients' shares, from plan to ledger: what a plan counted on holds in every round of its run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from settings import outcome

import fedpriv as fp
from fedpriv.engine.rounds import first_state, planned_events, run_rounds
from fedpriv.privacy import Budget, DistributedDiscreteGaussian, DistributedSkellam, Ledger
from fedpriv.study import mean
from fedpriv.threat import Coalition, Observer

DELTA = 1e-3
KINDS = [DistributedDiscreteGaussian, DistributedSkellam]


def resolved(mechanism: Any, dropout: Any = 0.0, rounds: int = 3, clients: int = 20, **more: Any) -> Any:
    """Twenty clients' masked sums, at most four of them corrupt and six lost."""
    rows = np.random.default_rng(1).standard_normal((clients, 16))
    plan = fp.Plan(
        **{
            "model": None,
            "client": mean._Vectors(),
            "mechanism": mechanism,
            "aggregation": fp.SecureAggregation(corrupt=0.2, dropout=0.3),
            "server": mean._KeepMean(),
            "rounds": rounds,
            "network": fp.Network(dropout=dropout),
        }
        | more
    )
    return plan.resolve(mean._federation(rows / np.linalg.norm(rows, axis=1, keepdims=True)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_is_planned_with_the_least_noise_that_it_can_end_with(kind: Any) -> None:
    """Before a round nobody knows who will drop out: by what it can amount to, it is charged, or not begun."""
    here = resolved(kind(clip_norm=1.0, noise_multiplier=1.0), dropout={"upload": 0.3}, rounds=8)
    start = first_state(here, 3, 0)
    done = [(step, state) for step, state in run_rounds(here, seed=3, ideal=True)]
    released = [step.record for step, _ in done if step.record.contributors]
    assert any(len(record.contributors) < len(record.cohort) for record in released)
    events = done[-1][1].ledger.events
    for observer in ("server", "participant", Coalition(server=True, clients=0.2)):
        for round, event in enumerate(events):
            spent = {}
            for name, charged in (("planned", planned_events(here, start, 3, "os", round)), ("done", (event,))):
                ledger = Ledger(threat=here.threat, population=20, events=charged)
                spent[name] = ledger.epsilon(DELTA, observer=observer)
            assert 0.0 < spent["done"] <= spent["planned"]


OBSERVERS: list[Observer] = ["server", "participant", "public"]
OBSERVERS += [Coalition(clients=0.5), Coalition(server=True, clients=0.2)]


@pytest.mark.parametrize("observer", OBSERVERS, ids=str)
def test_a_budget_holds_whoever_drops_out_and_whatever_is_aborted(observer: Any) -> None:
    """In an aborted round too: what the plan left out as known to this observer is not left out once more."""
    target = Budget(epsilon=4.0, delta=DELTA, observer=observer)
    solved = resolved(DistributedSkellam(clip_norm=1.0, target=target, corrupt=0.0))
    for dropout in ({"upload": 0.3}, {"upload": 0.9}):
        here = replace(solved, plan=replace(solved.plan, network=fp.Network(dropout=dropout)))
        *_, (_, state) = run_rounds(here, seed=3, ideal=True)
        assert any(not event.contributors for event in state.ledger.events) == (dropout == {"upload": 0.9})
        assert 0.0 < state.ledger.epsilon(DELTA, observer=observer) <= 4.0


def test_an_aborted_round_has_no_more_honest_shares_than_came() -> None:
    """A mechanism that takes nobody for corrupt planned with shares that a coalition knows."""
    trusting = DistributedSkellam(clip_norm=1.0, noise_multiplier=1.0, corrupt=0.0)
    coalition = Coalition(server=True, clients=0.2)
    spent = []
    for dropout in ({"upload": 0.9}, 0.0):
        here = resolved(trusting, dropout=dropout, rounds=1)
        *_, (step, state) = run_rounds(here, seed=3, ideal=True)
        least = here.setting.least_contributors
        event = state.ledger.events[0]
        assert event.planned_contributors == least
        (fewest,) = trusting.events(here.spec, outcome(20, least))
        worst = Ledger(threat=here.threat, population=20, events=[fewest]).epsilon(DELTA, observer=coalition)
        spent.append(state.ledger.epsilon(DELTA, observer=coalition))
        assert spent[-1] == pytest.approx(worst) if step.record.aborted else spent[-1] < worst
