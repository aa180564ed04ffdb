"""A run that was stopped goes on as if it never had been: bit for bit, ε included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcomes import TIMINGS, execute, untimed

import fedpriv as fp
from fedpriv.errors import CheckpointError
from fedpriv.learning.update import Broadcast, Update, per_client

Make = Callable[..., fp.Plan]
NOISED = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)


class Crash(Exception):
    """What no run expects."""


def crashed(federation: Any, plan: fp.Plan, folder: Path, after: int, monkeypatch: Any, **options: Any) -> None:
    """A run that dies after this many rounds, wherever its last checkpoint was."""
    from fedpriv.study.course import Course

    take = Course.take

    def dying(course: Any, *arguments: Any) -> bool:
        if len(course.done) == after:
            raise Crash
        return take(course, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Course, "take", dying)
        with pytest.raises(Crash):
            execute(federation, plan, checkpoint=folder, **options)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a client of :class:`Remembers` keeps: containers, arrays, tensors."""

    drift: np.ndarray[Any, Any]
    rounds: tuple[int, ...]
    notes: dict[str, Any]


@per_client
class Remembers:
    """Its update depends on all of its earlier rounds."""

    def init(self, client: Any) -> Memory:
        import torch

        return Memory(drift=np.zeros(15), rounds=(), notes={"t": torch.zeros(3), "s": np.float32(0.1), "inf": np.inf})

    def train_one(self, model: Any, broadcast: Broadcast, client: Any, state: Any, rng: Any) -> Update:
        move = rng.normal(size=len(broadcast.parameters))
        drift = 0.9 * state.drift + move + float(state.notes["t"].sum())
        notes = {**state.notes, "t": state.notes["t"] + 0.01}
        kept = Memory(drift=drift, rounds=(*state.rounds, len(state.rounds)), notes=notes)
        return Update(payload={"delta": 0.01 * drift.astype(np.float32)}, state=kept, metrics={"loss": float(drift[0])})


RECORDS = fp.DPSGD(
    noise_multiplier=1.0, clip_norm=1.0, sampling_rate=0.5, expected_batch=3.0, steps=2, learning_rate=0.3
)
CASES: dict[str, dict[str, Any]] = {
    "adam, noise, Poisson": {
        "server": fp.FedAdam(learning_rate=0.1),
        "mechanism": NOISED,
        "sampling": fp.PoissonSampling(0.6),
    },
    "momentum, masks, dropout": {
        "server": fp.FedAvgM(),
        "aggregation": fp.SecureAggregation(corrupt=0.1, dropout=0.3),
        "network": fp.Network(dropout=0.3, stragglers=0.5),
    },
    "client states": {"client": Remembers()},
    "record level": {"client": RECORDS, "mechanism": fp.NoDP(weighting="equal")},
    "BFV": {"aggregation": fp.BFV(), "sampling": fp.FixedSizeSampling(5)},
    "a key that only clients hold": {
        "aggregation": fp.BFV(keys=fp.SharedClientKey()),
        "sampling": fp.FixedSizeSampling(5),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_uninterrupted_one(
    case: str, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(rounds=5, **CASES[case])
    whole = execute(federation, plan, evaluate_every=2)
    options = {"evaluate_every": 2, "every": 2}
    crashed(federation, plan, tmp_path, 3, monkeypatch, **options)  # the third round is lost: it is done again
    resumed = execute(federation, plan, checkpoint=tmp_path, **options)
    assert untimed(resumed) == untimed(whole)
    read_back = execute(federation, plan, checkpoint=tmp_path, **options)
    assert read_back.frame.to_csv() == resumed.frame.to_csv()  # timings too: nothing ran
    assert untimed(read_back) == untimed(whole)


class TestFreshNoise:
    """Under noise="os" a lost round was released for good, and the one that is done in its place is another."""

    @pytest.mark.parametrize(
        "parts", [{"mechanism": NOISED}, {"client": RECORDS, "mechanism": fp.NoDP(weighting="equal")}]
    )
    def test_a_lost_attempt_is_charged(
        self, parts: Any, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = planned(rounds=3, **parts)
        whole = execute(federation, plan, noise="os")
        for _ in range(2):  # the same round is lost twice
            crashed(federation, plan, tmp_path, 1, monkeypatch, noise="os", every=10)
        resumed = execute(federation, plan, checkpoint=tmp_path, noise="os", every=10)
        assert len(resumed.records) == 3
        assert [event.round for event in resumed.ledger.events if event.scope in ("population", "client/0")] == (
            [0, 1, 1, 1, 2] if "client" not in parts else [0, 0, 1, 1, 1, 1, 1, 1, 2, 2]
        )
        unit = "record" if "client" in parts else "client"
        spent = [run.ledger.epsilon(1e-2, observer="public", unit=unit) for run in (whole, resumed)]
        assert spent[1] > spent[0] * 1.1

    def test_a_lost_first_round_is_charged(
        self, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There is no checkpoint yet; that it had begun is known, and of which run."""
        plan = planned(mechanism=NOISED, aggregation=fp.CKKS())
        crashed(federation, plan, tmp_path, 0, monkeypatch, noise="os")
        with pytest.raises(CheckpointError, match=r"plan\.rounds: 2 → 3"):
            execute(
                federation, planned(mechanism=NOISED, aggregation=fp.CKKS(), rounds=3), checkpoint=tmp_path, noise="os"
            )
        crashed(federation, plan, tmp_path, 0, monkeypatch, noise="os")
        resumed = execute(federation, plan, checkpoint=tmp_path, noise="os")
        assert [event.round for event in resumed.ledger.events if event.scope == "population"] == [0, 0, 0, 1]
        assert resumed.key_bytes > 0

    def test_each_attempt_is_charged_though_a_checkpoint_was_damaged_as_well(
        self, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = planned(mechanism=NOISED, rounds=4)
        crashed(federation, plan, tmp_path, 2, monkeypatch, noise="os")
        (tmp_path / "round-000002.checkpoint").write_bytes(b"")
        with pytest.warns(RuntimeWarning, match="damaged"):  # so that round 1 is lost too; and once more
            crashed(federation, plan, tmp_path, 1, monkeypatch, noise="os")
        with pytest.warns(RuntimeWarning, match="damaged"):
            resumed = execute(federation, plan, checkpoint=tmp_path, noise="os")
        assert [event.round for event in resumed.ledger.events] == [0, 1, 2, 1, 1, 2, 3]

    def test_a_budget_holds_with_what_was_lost(
        self, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = planned(rounds=5, mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=4.0))
        three = execute(federation, planned(rounds=3, mechanism=plan.mechanism))
        spent = three.ledger.epsilon(1e-2, observer="public")
        stop = fp.callbacks.BudgetStop(budget=fp.Budget(epsilon=1.01 * spent, delta=1e-2, observer="public"))
        options: dict[str, Any] = {"noise": "os", "callbacks": [stop], "evaluate_every": 9}
        crashed(federation, plan, tmp_path, 2, monkeypatch, **options)  # the last round within
        for _ in range(2):
            resumed = execute(federation, plan, checkpoint=tmp_path, **options)
            assert (len(resumed.records), len(resumed.ledger), resumed.stopped) == (2, 3, "BudgetStop")
            assert resumed.ledger.epsilon(1e-2, observer="public") == spent <= stop.budget.epsilon
            assert "accuracy" in resumed.metrics[-1]


class TestInterruption:
    @pytest.mark.parametrize("at", ["training", "measuring"])
    def test_it_ends_a_run_with_what_it_has(
        self, at: str, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fedpriv.engine.training import ClientWork
        from fedpriv.study.course import Evaluation

        plan = planned(rounds=6, mechanism=NOISED, server=fp.FedAdam(learning_rate=0.1))
        whole = execute(federation, plan)
        owner, name = (ClientWork, "_train") if at == "training" else (Evaluation, "__call__")
        real, calls = getattr(owner, name), []

        def pressed(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, pressed)
            partial = execute(federation, plan, checkpoint=tmp_path)
        assert partial.partial
        assert len(partial.records) == len(partial.ledger) == 3
        assert "interrupted" in repr(partial)
        assert partial.frame.drop(columns=TIMINGS).equals(whole.frame.drop(columns=TIMINGS).iloc[:3])
        resumed = execute(federation, plan, checkpoint=tmp_path)
        assert not resumed.partial
        assert untimed(resumed) == untimed(whole)

    def test_before_the_first_round_there_is_nothing(
        self, federation: Any, planned: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fedpriv.engine.training import ClientWork

        def pressed(*_: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(ClientWork, "_train", pressed)
        with pytest.raises(KeyboardInterrupt):
            execute(federation, planned())
