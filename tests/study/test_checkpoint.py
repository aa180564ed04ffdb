"""A run that was stopped goes on as if it never had been: bit for bit, ε included; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fedpriv as fp
from fedpriv.engine.checkpoint import Checkpoint
from fedpriv.errors import CheckpointError, ConfigurationError
from fedpriv.learning.update import Broadcast, Update, per_client

Make = Callable[..., fp.Plan]
TIMINGS = ["client_seconds", "train_seconds", "server_seconds", "wall_seconds", "seconds", "evaluate_seconds"]
NOISED = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)


class Crash(Exception):
    """What no run expects."""


@dataclass
class CrashAfter:
    """Ends the process's work in the middle of things: nothing is saved any more."""

    rounds: int

    def __call__(self, progress: Any) -> None:
        if progress.rounds == self.rounds:
            raise Crash


def execute(federation: Any, plan: fp.Plan, **options: Any) -> fp.Run:
    return fp.run(federation, plan, seed=7, progress=False, **options)


def crashed(federation: Any, plan: fp.Plan, folder: Path, after: int, monkeypatch: Any, **options: Any) -> None:
    """A run that dies after this many rounds, wherever its last checkpoint was."""
    from fedpriv.study import runs

    take = runs._Course.take

    def dying(course: Any, *arguments: Any) -> bool:
        if len(course.done) == after:
            raise Crash
        return take(course, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(runs._Course, "take", dying)
        with pytest.raises(Crash):
            execute(federation, plan, checkpoint=folder, **options)


def untimed(run: fp.Run) -> tuple[Any, ...]:
    """All that a run says, but for timings and for what TenSEAL's compression makes of fresh ciphertexts."""
    costs = run.costs.drop(columns=["cpu_seconds", "modelled_seconds"])
    if isinstance(run.plan.aggregation, fp.BFV):
        frame = run.frame.drop(columns=[*TIMINGS, "client_bytes_up", "client_bytes_down"])
        return frame.to_csv(), costs["messages"].tolist(), run.parameters.tobytes(), run.ledger.to_json()
    return (
        run.frame.drop(columns=TIMINGS).to_csv(),
        costs.to_csv(),
        run.parameters.tobytes(),
        None if run.mean is None else run.mean.tobytes(),
        json.loads(run.ledger.to_json()),
        run.key_bytes,
        {k: v for k, v in run.summary().items() if k not in TIMINGS}.__repr__(),
    )


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
