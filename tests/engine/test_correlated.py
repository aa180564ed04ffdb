"""Noise that later rounds take back, in whole runs: resumed, aborted, and in no message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from algorithms import Constant, Make, execute

import fedpriv as fp
from fedpriv.engine.rounds import run_rounds
from fedpriv.errors import BudgetUnreachable, PlanError
from fedpriv.privacy import Budget, MatrixFactorization, MinSeparation, TreeMechanism
from fedpriv.randomness import Streams, noise

KINDS = {
    "tree": TreeMechanism(clip_norm=4.0, noise_multiplier=1.0),
    "banded": MatrixFactorization(clip_norm=4.0, noise_multiplier=1.0, bands=3),
}
both = pytest.mark.parametrize("kind", KINDS)


class Crash(Exception):
    """What no run expects."""


@pytest.fixture
def plan(planned: Make) -> Make:
    """Seven rounds in which the eight clients take turns; their updates are known beforehand."""

    def make(kind: str, **parts: Any) -> fp.Plan:
        defaults: dict[str, Any] = {"mechanism": KINDS[kind], "sampling": MinSeparation(4), "rounds": 7}
        return planned(client=Constant(scale=0.01), **(defaults | parts))

    return make


def added_to(step: Any, resolved: Any) -> Any:
    """What was added to the sum of a round's contributors."""
    exact = sum(0.01 * (index + 1) for index in step.record.contributors)
    return step.mean * resolved.spec.divisor - exact


def crash_after(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedpriv.study.course import Course

    take = Course.take

    def dying(course: Any, *arguments: Any) -> bool:
        if len(course.done) == rounds:
            raise Crash
        return take(course, *arguments)

    monkeypatch.setattr(Course, "take", dying)


@both
@pytest.mark.parametrize("lost", [0, 1])
def test_a_resumed_run_is_the_uninterrupted_one(
    kind: str, lost: int, plan: Make, federation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint holds the noise that later rounds take back; rounds after it are done again."""
    whole = execute(federation, plan(kind))
    with monkeypatch.context() as patch:
        crash_after(3 + lost, patch)
        with pytest.raises(Crash):
            execute(federation, plan(kind), checkpoint=tmp_path, every=3)
    resumed = execute(federation, plan(kind), checkpoint=tmp_path, every=3)
    assert np.array_equal(resumed.parameters, whole.parameters)
    assert [record.sha256 for record in resumed.records] == [record.sha256 for record in whole.records]
    assert json.loads(resumed.ledger.to_json()) == json.loads(whole.ledger.to_json())


@both
def test_a_lost_attempt_under_fresh_noise_is_charged(
    kind: str, plan: Make, federation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight = plan(kind, rounds=8)
    whole = execute(federation, eight, noise="os")
    with monkeypatch.context() as patch:
        crash_after(3, patch)
        with pytest.raises(Crash):
            execute(federation, eight, checkpoint=tmp_path, noise="os")
    resumed = execute(federation, eight, checkpoint=tmp_path, noise="os")
    assert [event.round for event in resumed.ledger.events] == [0, 1, 2, 3, 3, 4, 5, 6, 7]
    spent = [run.ledger.epsilon(1e-2, observer="public") for run in (whole, resumed)]
    assert spent[0] < spent[1] < 2 * spent[0]


@both
def test_sums_of_releases_keep_the_noise_of_the_prefix(kind: str, plan: Make, federation: Any) -> None:
    """C times what was added to the rounds' sums, round by round, is the independent noise that was drawn."""
    here = plan(kind).resolve(federation)
    added = [added_to(step, here) for step, _ in run_rounds(here, seed=7)]
    drawn = [noise("seeded", Streams(7), "central-noise", r).normal(here.spec.length) for r in range(7)]
    assert here.spec.correlation is not None
    white = here.spec.correlation.matrix() @ np.array(added) / KINDS[kind].clip_norm
    assert white == pytest.approx(np.array(drawn), abs=8 * here.spec.codec.step)


@both
def test_an_aborted_round_takes_its_noise_with_it(kind: str, plan: Make, federation: Any) -> None:
    """The rounds that were released have the noise that they have in a run without aborts."""
    network = fp.Network(dropout={"upload": 0.75})
    aborting = fp.SecureAggregation(corrupt=0.0, dropout=0.0, min_cohort=2)
    here, there = (
        plan(kind, sampling=MinSeparation(3), **more).resolve(federation)
        for more in ({}, {"network": network, "aggregation": aborting})
    )
    whole, parts = ([step for step, _ in run_rounds(resolved, seed=7)] for resolved in (here, there))
    lost = [step.record.aborted is not None for step in parts]
    assert 0 < sum(lost) < 7
    assert any(lost[: max(round for round in range(7) if not lost[round])]), "a release after an abort"
    for step, other in zip(whole, parts, strict=True):
        if other.mean is not None:
            assert added_to(other, there) == pytest.approx(added_to(step, here), abs=8 * here.spec.codec.step)


@both
def test_where_noise_is_not_one_partys_it_is_refused(kind: str, plan: Make, federation: Any) -> None:
    with pytest.raises(PlanError, match="kept by one party"):
        plan(kind, aggregation=fp.BFV(keys=fp.SharedClientKey(min_contributors=2))).resolve(federation)
    target = Budget(epsilon=2.0, delta=1e-2, observer="server")
    made: dict[str, Any] = {"clip_norm": 4.0, "target": target}
    mechanism = TreeMechanism(**made) if kind == "tree" else MatrixFactorization(bands=3, **made)
    for aggregation in (fp.PlainSum(), fp.SecureAggregation(corrupt=0.0, dropout=0.0, min_cohort=2)):
        with pytest.raises(BudgetUnreachable):
            plan(kind, mechanism=mechanism, aggregation=aggregation).resolve(federation)
    authority = fp.BFV(keys=fp.KeyAuthority(min_contributors=2))
    plan(kind, mechanism=mechanism, aggregation=authority).resolve(federation)


@both
def test_neither_a_run_nor_its_messages_show_held_noise(kind: str, plan: Make, federation: Any) -> None:
    here = plan(kind, rounds=3).resolve(federation)
    for step, state in run_rounds(here, seed=7):
        assert len(state.mechanism.held) >= 1
        assert "held" not in repr(state.mechanism)
        assert "array" not in repr(state.mechanism)
        assert repr(state.mechanism) in repr(state)
        assert not hasattr(step, "carried")
    assert not here.mechanism_state.held, "what workers are given"


@both
def test_a_budget_is_watched_to_the_last_round(kind: str, plan: Make, federation: Any) -> None:
    """C has no row for a round after it: a callback that asked what such a round costs ended the run with an error."""
    stop = fp.callbacks.BudgetStop(budget=Budget(epsilon=50.0, delta=1e-2, observer="public"))
    run = execute(federation, plan(kind, rounds=3), callbacks=[stop])
    assert (len(run.records), run.stopped) == (3, "")
