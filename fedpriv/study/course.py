"""A run under way: what it has after each round, and what is then measured, kept and called."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedpriv.engine.checkpoint import Checkpoint, Done, Saved
from fedpriv.engine.resolution import Resolved
from fedpriv.engine.rounds import RoundState, State, first_state
from fedpriv.learning.vector import Vector
from fedpriv.randomness import NoiseSource
from fedpriv.study import callbacks as between
from fedpriv.study.callbacks import Callback, Progress

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Reached:
    """The end of a round, whole."""

    rounds: int
    events: int
    """Of the ledger."""
    state: State
    parameters: Vector
    mean: Any


class Course:
    """A run under way: what it has, what is measured, kept and called after a round."""

    def __init__(
        self,
        resolved: Resolved,
        seed: int,
        noise: NoiseSource,
        evaluate_every: int,
        callbacks: Sequence[Callback],
        keeper: Checkpoint | None,
        saved: Saved | None,
    ) -> None:
        self.resolved, self.seed, self.noise = resolved, seed, noise
        self.evaluate_every, self.callbacks, self.keeper = evaluate_every, callbacks, keeper
        self.evaluate = Evaluation(resolved)
        self.done = list(saved.done) if saved is not None else []
        self.ended = saved.ended if saved is not None else ""
        self.reached: Reached | None = None
        """None before the first round has ended."""
        self._first = saved.state if saved is not None else first_state(resolved, seed, 0)
        if saved is not None and saved.done:
            self._reach(saved.state, resolved.plan.server.broadcast(saved.state.server).parameters, saved.mean)

    def progress(self) -> Progress:
        """What callbacks see."""
        state = self.reached.state if self.reached is not None else self._first
        parameters = self.resolved.plan.server.broadcast(state.server).parameters
        return Progress(
            resolved=self.resolved,
            seed=self.seed,
            noise=self.noise,
            done=self.done,
            parameters=parameters,
            state=state,
        )

    @property
    def stopped(self) -> str:
        """The callbacks that ended it; empty where none did."""
        return self.ended if self.ended != "all rounds" else ""

    def start(self) -> None:
        """Before the first round that is run, if there is one."""
        if self.ended:
            return
        self.ended = between.start(self.callbacks, self.progress())
        if self.ended:
            if not self.done[-1].metrics:
                self._measure()
            if self.keeper is not None:
                self._save()

    def begin(self) -> None:
        """Before a round."""
        if self.keeper is not None:
            self.keeper.begin(len(self.done))

    def take(self, state: RoundState, carried: State) -> bool:
        """After a round; whether the run ends with it."""
        total = self.resolved.plan.rounds
        last, number = len(self.done) + 1 == total, len(self.done) + 1
        due = last or number % self.evaluate_every == 0
        measured, seconds = self.evaluate(state.parameters) if due else ({}, math.nan)
        # In this order an interruption finds the round either whole or not at all.
        self.done.append(Done(record=state.record, metrics=measured, evaluate_seconds=seconds))
        self._reach(carried, state.parameters, state.mean)
        stopped = between.stopped_by(self.callbacks, self.progress()) if self.callbacks else ""
        if stopped and not due:
            self._measure()
        self.ended = "all rounds" if last else stopped
        if self.keeper is not None:
            if self.ended or self.keeper.due(number):
                self._save()
            if not self.ended:
                self.begin()
        return self.ended != ""

    def interrupted(self) -> None:
        """Keep what is whole, and measure the model that it came to."""
        assert self.reached is not None
        del self.done[self.reached.rounds :]
        ledger = self.reached.state.ledger
        if len(ledger) > self.reached.events:  # of the round that was not finished
            whole = self.resolved.new_ledger()
            for event in ledger.events[: self.reached.events]:
                whole.append(event)
            self.reached = replace(self.reached, state=replace(self.reached.state, ledger=whole))
        if self.keeper is not None:
            self._save()
        if not self.done[-1].metrics:
            self._measure()

    def _reach(self, state: State, parameters: Vector, mean: Any) -> None:
        self.reached = Reached(
            rounds=state.round, events=len(state.ledger), state=state, parameters=parameters, mean=mean
        )

    def _measure(self) -> None:
        assert self.reached is not None
        measured, seconds = self.evaluate(self.reached.parameters)
        self.done[-1] = replace(self.done[-1], metrics=measured, evaluate_seconds=seconds)

    def _save(self) -> None:
        assert self.reached is not None
        assert self.keeper is not None
        self.keeper.save(
            Saved(done=tuple(self.done), state=self.reached.state, mean=self.reached.mean, ended=self.ended)
        )


class Evaluation:
    """Measures models on the test set, all in one module: to build one takes as long as to measure a small one."""

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._module: torch.nn.Module | None = None

    def __call__(self, parameters: Vector) -> tuple[Mapping[str, float], float]:
        """Metrics, and the seconds that it took; nothing, and NaN, of a plan without a model."""
        if self._resolved.plan.model is None:
            return {}, math.nan
        from fedpriv.learning.evaluation import evaluate
        from fedpriv.learning.vector import load

        started = time.perf_counter()
        if self._module is None:
            self._module = self._resolved.module()
        load(self._module, parameters)
        metrics = evaluate(self._module, self._resolved.federation.test_x, self._resolved.federation.test_y)
        return metrics, time.perf_counter() - started
