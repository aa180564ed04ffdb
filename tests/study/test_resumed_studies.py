"""Studies that were killed, interrupted or spread over processes: the same table, timings apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from outcomes import TIMINGS

import fedpriv as fp
from fedpriv.cli import main
from fedpriv.errors import CheckpointError, PlanError

Make = Callable[..., fp.Plan]

NOISED = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)
STUDY = """
from dataclasses import dataclass
import numpy as np
import fedpriv as fp
from fedpriv.learning.update import Update, per_client

@dataclass(frozen=True)
class Kept:
    drift: np.ndarray

@per_client
class Drifts:  # its state's type is known to no module
    def train_one(self, model, broadcast, client, state, rng):
        drift = (0 if state is None else 0.5 * state.drift) + rng.normal(size=len(broadcast.parameters))
        return Update(payload={"delta": 0.01 * drift.astype(np.float32)}, state=Kept(drift))

def federation(seed):
    return fp.data.digits(clients=10, partition=fp.data.Dirichlet(0.5), seed=seed)

plan = fp.Plan(model=fp.models.logistic, client=fp.LocalSGD(steps=2, learning_rate=0.3), rounds=60)
plans = fp.grid(
    plan,
    aggregation=[fp.PlainSum(), fp.SecureAggregation()],
    mechanism=[fp.CentralGaussian(clip_norm=1.0, noise_multiplier=z) for z in (2.0, 8.0)],
)
plans["drifts"] = fp.Plan(model=fp.models.logistic, client=Drifts(), rounds=60)
plans["refused"] = fp.Plan(
    model=fp.models.logistic, client=plan.client, rounds=60, aggregation=fp.SecureAggregation(min_cohort=11)
)
seeds = range(2)
ideal = True
evaluate_every = 20
on_invalid = "record"
"""


def table(folder: Path, name: str) -> str:
    frame = pd.read_csv(folder / f"{name}.csv")
    return frame.drop(columns=[c for c in frame if any(c.startswith(t) for t in TIMINGS)]).to_csv()


def started(study: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fedpriv.cli", "run", str(study), "--out", str(out), "--every", "7", *more]
    # In a group of its own: its workers are killed with it.
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A shell's background job ignores SIGINT, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def ended(process: subprocess.Popen[bytes], how: signal.Signals, kept: Path, runs: int) -> bytes:
    """End a study and all of its workers when some runs are done, and another has begun; what it said."""
    deadline = time.monotonic() + 60
    while len(list(kept.glob("*/round-000060.checkpoint"))) < runs:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert runs <= len(list(kept.glob("*/round-000060.checkpoint"))) < 10
    return said


def test_a_study_that_was_ended_midway_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: Path, study: Path
) -> None:
    """Interrupted in its first runs, gone on with over two workers, all killed, and gone on with to its end."""
    out, kept = tmp_path / "out", tmp_path / "out.checkpoint"
    assert b"go on with --resume" in ended(started(study, out), signal.SIGINT, kept, 2)
    assert not out.exists()
    assert main(["run", str(study), "--out", str(out)]) == 2
    assert "--resume" in capsys.readouterr().err
    ended(started(study, out, "--resume", "--workers", "2"), signal.SIGKILL, kept, 5)
    assert not out.exists()
    assert main(["run", str(study), "--out", str(out), "--every", "7", "--resume"]) == 0
    for name in ("runs", "rounds", "table"):
        assert table(out, name) == table(whole, name)
    assert not kept.exists()
    assert len(pd.read_csv(out / "runs.csv")) == 12


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "little.py"
    path.write_text(STUDY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(study: Path) -> Path:
    """The study's results, never interrupted."""
    out = study.parent / "whole"
    assert main(["run", str(study), "--out", str(out)]) == 0
    return out


def compared(federation: Any, plans: Any, **options: Any) -> fp.Study:
    return fp.compare(federation, plans, seeds=[0, 1], progress=False, **options)


def rows(study: fp.Study) -> str:
    return study.frame.drop(columns=TIMINGS, errors="ignore").to_csv()


def test_finished_runs_are_read_back(
    federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = fp.grid(planned(mechanism=NOISED), aggregation=[fp.PlainSum(), fp.SecureAggregation(min_cohort=9)])
    first = compared(federation, plans, checkpoint=tmp_path, on_invalid="record")
    from fedpriv.engine.training import ClientWork

    def never(*_: Any) -> Any:
        raise AssertionError("it trains")

    monkeypatch.setattr(ClientWork, "_train", never)
    again = compared(federation, plans, checkpoint=tmp_path, on_invalid="record")
    assert again.frame.to_csv() == first.frame.to_csv()  # timings as well
    assert (first.frame["refused"] != "").tolist() == [False, True] * 2


def test_a_checkpoint_of_another_plan_is_no_row_of_a_table(federation: Any, planned: Make, tmp_path: Path) -> None:
    compared(federation, {"a": planned()}, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match=r"plan\.rounds: 2 → 3"):
        compared(federation, {"a": planned(rounds=3)}, checkpoint=tmp_path, on_invalid="record")


def test_runs_spread_over_processes(federation: Any, planned: Make, tmp_path: Path) -> None:
    plans = fp.grid(
        planned(mechanism=NOISED),
        aggregation=[fp.PlainSum(), fp.SecureAggregation(min_cohort=9), fp.SecureAggregation()],
    )
    options: dict[str, Any] = {"on_invalid": "record", "callbacks": [lambda progress: "stop"]}
    options |= {"tune": {"mechanism.clip_norm": [0.5, 1.0]}, "tune_seeds": [7], "charge_tuning": True}
    here = compared(federation, plans, **options)
    spread = compared(federation, plans, executor=fp.Processes(2), checkpoint=tmp_path, **options)
    assert rows(spread) == rows(here)
    assert spread.trials.to_csv() == here.trials.to_csv()
    assert spread.rounds.drop(columns=TIMINGS).to_csv() == here.rounds.drop(columns=TIMINGS).to_csv()
    assert len(list(tmp_path.iterdir())) == 4 + 1  # and the trials'
    with pytest.raises(PlanError, match="min_cohort"):
        compared(federation, plans, executor=fp.Processes(2))


def test_an_interruption_leaves_what_is_finished(
    federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedpriv.engine.training import ClientWork

    plans = {"a": planned(rounds=3), "b": planned(rounds=3, mechanism=NOISED)}
    whole = compared(federation, plans)
    real, calls = ClientWork._train, []

    def pressed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ClientWork, "_train", pressed)
        partial = compared(federation, plans, checkpoint=tmp_path)
    assert partial.partial
    assert [(cell.label, cell.seed) for cell in partial.cells] == [("a", 0)]
    assert "interrupted" in repr(partial)
    resumed = compared(federation, plans, checkpoint=tmp_path)
    assert not resumed.partial
    assert rows(resumed) == rows(whole)
