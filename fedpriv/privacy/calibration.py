"""The least noise with which a whole run stays within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeAlias

from fedpriv.errors import BudgetUnreachable, PlanError, UnsupportedAccounting
from fedpriv.privacy.budget import Budget, check_delta
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.ledger.accounting import Accountant
from fedpriv.privacy.ledger.event import GAUSSIAN, LedgerEvent, record_event
from fedpriv.privacy.mechanism import Setting, Trust
from fedpriv.privacy.sampling import SamplingRecord
from fedpriv.threat import PUBLIC, ThreatModel, View

_PRECISION = 5e-4
"""The solved noise spends the budget to within this share of ε."""

Planned: TypeAlias = Callable[[float, SamplingRecord | None], Sequence[LedgerEvent]]
"""Noise multiplier and sampling → the events of a whole run whose worst-placed client takes part whenever it can."""


def solve_noise_multiplier(budget: Budget, setting: Setting, planned: Planned | None = None) -> float:
    """The smallest noise multiplier with which the whole run stays within the budget.

    Solved through the very ledger that states ε afterwards. Where the observer sees the cohort, or where no
    amplification theorem applies, every client is planned to take part in every round.

    Args:
        budget: with unit ``"client"``.
        setting: what the plan has settled.
        planned: what the mechanism amounts to at a noise multiplier; None: central Gaussian noise in every round.

    Raises:
        BudgetUnreachable: the observer sees more than noisy releases: no noise helps.
        ConfigurationError: δ is not below 1 / population.
        PlanError: a budget per record.
        UnsupportedAccounting: no theorem for this sampling and adjacency.
    """
    if budget.unit != "client":
        raise PlanError(
            "Noise on the sum of clients' updates is budgeted per client.",
            value=budget.unit,
            remedy='Use unit="client", or clip and noise per example inside the client.',
        )
    check_delta(budget.delta, setting.population)

    record = setting.sampling_record()
    events = planned or partial(_central, setting)

    def ledger(noise_multiplier: float, record: SamplingRecord | None) -> Ledger:
        return Ledger(
            threat=setting.threat,
            population=setting.population,
            adjacency=setting.adjacency,
            events=events(noise_multiplier, record),
        )

    def stated(noise_multiplier: float, record: SamplingRecord | None = record) -> float:
        return ledger(noise_multiplier, record).epsilon(budget.delta, observer=budget.observer)

    start = max(1.0, math.sqrt(setting.rounds))
    first = ledger(start, record).statement(budget.delta, observer=budget.observer, beside=False)
    if math.isinf(first.epsilon) and first.planned is None:
        raise BudgetUnreachable(
            f"A finite ε against the {budget.observer} needs noise that this observer cannot see past.",
            value=first.reason,
            remedy='Name the observer "public", or use an aggregator or mechanism whose noise is inside the sum.',
        )
    if math.isinf(first.epsilon) and math.isinf(stated(1e6 * start)):
        raise BudgetUnreachable(
            f"A finite ε against the {budget.observer} needs cohorts that are seldom too small for a release.",
            value=first.reason,
            remedy='Draw at a higher rate or from more clients, or state "zero-out" adjacency.',
        )
    if first.epsilon == 0.0:
        raise PlanError(
            f"A budget names an observer who sees a release; against the {budget.observer} any noise gives ε = 0.",
            value=budget,
            remedy="Name an observer who is told the noisy sum or a model. Where nobody is, use an aggregator that "
            "tells somebody (SharedClientKey: tell_server=True).",
        )
    # What is fast to account comes first and brackets what is slow: RDP, then PLD, then PLD of a cut cohort.
    uncut = record and replace(record, max_cohort=None)
    with suppress(UnsupportedAccounting):
        start = _solve(
            lambda z: ledger(z, uncut).epsilon(budget.delta, observer=budget.observer, accountant="rdp"),
            budget.epsilon,
            start,
            factor=2.0,
        )
    start = _solve(lambda z: stated(z, uncut), budget.epsilon, start, factor=1.25)
    return start if uncut == record else _solve(stated, budget.epsilon, start, factor=1.01)


@lru_cache(maxsize=256)
def solve_record_noise_multiplier(budget: Budget, *, rate: float, steps: int, participations: int) -> float:
    """The smallest noise multiplier of DP-SGD with which a client's records stay within the budget.

    The same against every observer: each client's noise is inside what it sends.

    Args:
        budget: with unit ``"record"``.
        rate: at which each step draws its batch, in (0, 1].
        steps: noisy steps in a round.
        participations: the most rounds that a client takes part in.

    Raises:
        PlanError: a budget per client.
    """
    if budget.unit != "record":
        raise PlanError(
            "Noise on a client's own steps is budgeted per record.",
            value=budget.unit,
            remedy='Use unit="record", or a mechanism that noises the sum of clients\' updates.',
        )
    everybody = ThreatModel(
        adversary="honest-but-curious",
        corrupt=0.0,
        assumptions=(),
        reference="",
        learns={PUBLIC: frozenset({View.FINAL_MODEL})},
    )

    def spent(noise_multiplier: float, accountant: Accountant | None = None) -> float:
        steps_taken = record_event(
            client=0, rate=rate, steps=steps, noise_multiplier=noise_multiplier, clip_norm=1.0, noise_source="os"
        )
        ledger = Ledger(threat=everybody, population=1, events=(replace(steps_taken, count=steps * participations),))
        return ledger.epsilon(budget.delta, observer="public", unit="record", accountant=accountant)

    start = _solve(lambda z: spent(z, "rdp"), budget.epsilon, 1.0, factor=2.0)
    return _solve(spent, budget.epsilon, start, factor=1.25)


def _central(setting: Setting, noise_multiplier: float, record: SamplingRecord | None) -> tuple[LedgerEvent, ...]:
    """The worst-placed client takes part in every round."""
    return (planned_event(setting, noise_multiplier, record, mechanism=GAUSSIAN, trust="central", clip_norm=1.0),)


def planned_event(
    setting: Setting,
    noise_multiplier: float,
    record: SamplingRecord | None,
    *,
    mechanism: str,
    trust: Trust,
    clip_norm: float | None,
    contributors: int = 1,
    **more: Any,
) -> LedgerEvent:
    """One client's part in a run, before it begins: every round, or where turns are public its turns."""
    return LedgerEvent(
        **{
            "round": 0,
            "mechanism": mechanism,
            "unit": "client",
            "adjacency": setting.adjacency,
            "sampling": record,
            "clip_norm": clip_norm,
            "planned_noise_multiplier": noise_multiplier,
            "noise_multiplier": noise_multiplier,
            "planned_contributors": setting.least_honest,
            "contributors": contributors,
            "cohort": (0,),
            "trust": trust,
            "noise_source": "os",
            "count": _most_rounds(setting, record),
            **more,
        }
    )


def _most_rounds(setting: Setting, record: SamplingRecord | None) -> int:
    """In how many rounds the worst-placed client can take part."""
    if record is None or record.separation is None:
        return setting.rounds
    turns = -(-setting.rounds // record.separation)
    return turns if record.max_participations is None else min(turns, record.max_participations)


def _solve(spent: Callable[[float], float], target: float, start: float, *, factor: float) -> float:
    """The noise at which ``spent``, falling, is just at or below the target: regula falsi (Illinois) in log-log."""
    high, at_high = start, spent(start)
    low, at_low, step = high, at_high, factor
    while at_high > target:
        low, at_low = high, at_high
        high, step = high * step, step * step
        at_high = spent(high)
    while at_low <= target:
        high, at_high = low, at_low
        low, step = low / step, step * step
        at_low = spent(low)
    # Aim at the middle of the tolerated band, so that one side of it is soon hit.
    goal = math.log(target * (1.0 - 0.5 * _PRECISION))
    left, right, side = math.log(at_low) - goal, math.log(max(at_high, 1e-300)) - goal, 0
    while at_high < target * (1.0 - _PRECISION) and high / low > 1.0 + 1e-12:
        share = min(max(left / (left - right), 1e-3), 1.0 - 1e-3) if math.isfinite(left) else 0.5
        middle = low * (high / low) ** share
        value = spent(middle)
        if value <= target:
            high, at_high, right = middle, value, math.log(max(value, 1e-300)) - goal
            left *= 0.5 if side == 1 else 1.0  # the same end twice running: let the other one pull harder
            side = 1
        else:
            low, left = middle, math.log(value) - goal
            right *= 0.5 if side == -1 else 1.0
            side = -1
    return high
