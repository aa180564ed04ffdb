"""What happens between two rounds: stop early, stop at a budget, write a log; or what a user's own callback does.

A callback is anything with ``on_round(progress)``, or a function that takes a :class:`Progress`. It is called after
every round; what returns ``"stop"`` ends the run there. Those of this module keep no history of their own and read the
run's: a run that goes on from a checkpoint stops where an uninterrupted one does. What another callback counts by
itself is in no checkpoint: let it read ``progress.done``.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from fedpriv.engine.checkpoint import Done
from fedpriv.engine.description import describe
from fedpriv.engine.resolution import Resolved
from fedpriv.engine.rounds import RoundRecord, State, planned_events
from fedpriv.errors import BudgetUnreachable, ConfigurationError
from fedpriv.learning.vector import Vector
from fedpriv.privacy.budget import Budget
from fedpriv.privacy.ledger import Ledger, LedgerEvent
from fedpriv.randomness import NoiseSource
from fedpriv.study.rows import row_of


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Progress:
    """A run after some of its rounds. The simulator's view: metrics and losses are in no party's."""

    resolved: Resolved
    seed: int
    noise: NoiseSource
    done: Sequence[Done]
    """The rounds so far, with what was measured after each."""
    parameters: Vector
    """``[d] float32``: the model."""
    state: State

    @property
    def rounds(self) -> int:
        """How many rounds are done."""
        return len(self.done)

    @property
    def record(self) -> RoundRecord:
        """Of the last round."""
        return self.done[-1].record

    @property
    def metrics(self) -> dict[str, float]:
        """Measured after the last round; empty where nothing was."""
        return dict(self.done[-1].metrics)

    @property
    def ledger(self) -> Ledger:
        """What was released so far; read it only."""
        return self.state.ledger

    def next_events(self) -> tuple[LedgerEvent, ...]:
        """What the next round would add to the ledger, at most."""
        return planned_events(self.resolved, self.state, self.seed, self.noise, self.rounds)


class OnRound(Protocol):
    """A callback. One that also has ``on_start(progress)`` is called before the first round that is run; where it
    returns ``"stop"``, a run that goes on from a checkpoint ends there.
    """

    def on_round(self, progress: Progress) -> Literal["stop"] | None: ...


Callback: TypeAlias = OnRound | Callable[[Progress], Literal["stop"] | None]


def check(callbacks: Any) -> tuple[Callback, ...]:
    """Refuse what cannot be called after a round.

    Raises:
        ConfigurationError: no list, or something in it is no callback.
    """
    if isinstance(callbacks, str) or not isinstance(callbacks, Sequence):
        raise ConfigurationError(
            "Callbacks are a list.",
            value=type(callbacks).__name__,
            remedy="Give callbacks=[EarlyStopping()].",
        )
    for callback in callbacks:
        if isinstance(callback, type) or not (hasattr(callback, "on_round") or callable(callback)):
            raise ConfigurationError(
                "A callback has on_round(progress), or is a function of it.",
                value=callback.__name__ if isinstance(callback, type) else type(callback).__name__,
                remedy="Give an instance, e.g. fp.callbacks.EarlyStopping(patience=5).",
            )
    return tuple(callbacks)


def start(callbacks: Sequence[Callback], progress: Progress) -> str:
    """Call what wants to be called before the first round; the names of those that end the run here, or nothing.

    Raises:
        ConfigurationError: see :func:`stopped_by`; or there is no round yet to end with.
    """
    ready = [callback for callback in callbacks if hasattr(callback, "on_start")]
    names = _stopping([(callback, callback.on_start) for callback in ready], progress)
    if names and not progress.done:
        raise ConfigurationError("A run has a round.", value=names, remedy="Stop in on_round, or raise an error.")
    return names


def stopped_by(callbacks: Sequence[Callback], progress: Progress) -> str:
    """Call each; the names of those that end the run here, or nothing.

    Raises:
        ConfigurationError: one returned something else than None or "stop".
    """
    return _stopping([(callback, getattr(callback, "on_round", callback)) for callback in callbacks], progress)


def _stopping(calls: Sequence[tuple[Callback, Any]], progress: Progress) -> str:
    names = []
    for callback, act in calls:
        answer = act(progress)
        name = getattr(callback, "__name__", type(callback).__name__)
        if answer not in (None, "stop"):
            raise ConfigurationError(
                'A callback returns None or "stop".', value=answer, remedy=f"Look at what {name} returns."
            )
        if answer == "stop":
            names.append(name)
    return ", ".join(names)


def settings(callbacks: Sequence[Callback]) -> list[Any]:
    """What a checkpoint knows of callbacks, but for logs: functions, and what cannot change, by their settings; of
    others the type, as they may count.
    """
    return [
        describe(callback) if _settled(callback) else type(callback).__name__
        for callback in callbacks
        if not isinstance(callback, RoundLog)
    ]


def _settled(callback: Callback) -> bool:
    parameters = getattr(callback, "__dataclass_params__", None)
    return bool(parameters.frozen) if parameters is not None else callable(callback)


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop when a metric has not improved for some evaluations.

    A run that stops by what it measured reads held-out data: where those are a client's, when it stops is a release
    that no ledger counts.

    Args:
        metric: ``"accuracy"``, ``"loss"``, or another that is measured.
        patience: evaluations without an improvement after which to stop, ≥ 1.
        least: the smallest change that is an improvement, ≥ 0.
        mode: whether larger or smaller is better; by default larger, but for ``"loss"``.

    Raises:
        ConfigurationError: a number or mode out of range.
    """

    metric: str = "accuracy"
    patience: int = 5
    least: float = 0.0
    mode: Literal["max", "min"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 1:
            raise ConfigurationError("patience is an integer ≥ 1.", value=self.patience, remedy="Use 5.")
        if not (math.isfinite(self.least) and self.least >= 0):
            raise ConfigurationError("least is finite and ≥ 0.", value=self.least, remedy="Use 0.0.")
        if self.mode not in (None, "max", "min"):
            raise ConfigurationError('mode is "max" or "min".', value=self.mode, remedy='Use "max" for accuracy.')

    def on_round(self, progress: Progress) -> Literal["stop"] | None:
        """See :class:`OnRound`.

        Raises:
            ConfigurationError: the metric is not among what was measured.
        """
        if not progress.metrics:
            return None
        if self.metric not in progress.metrics:
            raise ConfigurationError(
                "Early stopping watches a metric that is measured.",
                value=self.metric,
                remedy=f"Use one of {', '.join(sorted(progress.metrics))}.",
            )
        sign = -1.0 if (self.mode or ("min" if self.metric == "loss" else "max")) == "min" else 1.0
        best, since = -math.inf, 0
        for done in progress.done:
            if self.metric in done.metrics:
                value = sign * done.metrics[self.metric]
                better = value > best + self.least if math.isfinite(best) else value > best
                best, since = (value, 0) if better else (best, since + 1)
        return "stop" if since >= self.patience else None


@dataclass(frozen=True, kw_only=True)
class BudgetStop:
    """Stop before a round that would exceed a privacy budget.

    The next round counts in full before it is run, with everybody who will be drawn for it as a contributor: after
    the last round the ledger is within the budget. Unless that round, of a cohort that was drawn and is hidden, ends
    with too few survivors: then no round is amplified any more, and the ledger may state more. It depends on the ledger
    alone, on no client's data.

    Args:
        budget: ε at δ, against an observer, per client or per record.
    """

    budget: Budget

    def on_start(self, progress: Progress) -> Literal["stop"] | None:
        """Before anything is released, or released again: a run under ``noise="os"`` that goes on from a checkpoint is
        charged for what the interrupted round may have released.

        Raises:
            BudgetUnreachable: the first round alone would exceed the budget.
        """
        stop = self.on_round(progress)
        if progress.rounds == 0 and stop:
            budget, ledger = self.budget, progress.resolved.new_ledger()
            for event in (*progress.ledger.events, *progress.next_events()):
                ledger.append(event)
            raise BudgetUnreachable(
                f"The first round stays within the budget of ε = {budget.epsilon:g} per {budget.unit}.",
                value=str(ledger.statement(budget.delta, observer=budget.observer, unit=budget.unit)),
                remedy="Add more noise, or allow more.",
            )
        return stop

    def on_round(self, progress: Progress) -> Literal["stop"] | None:
        """See :class:`OnRound`.

        Raises:
            UnsupportedAccounting: no accountant has a theorem for what is released.
        """
        return "stop" if progress.ledger.would_exceed(self.budget, *progress.next_events()) else None


class RoundLog:
    """Write each round's row, as in :attr:`fedpriv.Run.frame`, to a file as it ends: JSON lines, or CSV.

    A run that goes on from a checkpoint writes its file anew from its first round, so that no round is there twice.

    Args:
        path: ends in ``.jsonl`` or ``.csv``. What stands there is replaced when the run starts.

    Raises:
        ConfigurationError: another ending.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix not in (".jsonl", ".csv"):
            raise ConfigurationError(
                "A log of rounds is a .jsonl or a .csv file.", value=str(path), remedy='Name it "rounds.jsonl".'
            )

    def on_start(self, progress: Progress) -> None:
        """Write the rounds that are done already.

        Raises:
            ConfigurationError: it cannot be written there.
        """
        try:
            self._replace("".join(self._line(done, first=not turn) for turn, done in enumerate(progress.done)))
        except OSError as error:
            raise ConfigurationError(
                "A log of rounds is a file that can be written.",
                value=f"{self.path}: {error.strerror}",
                remedy="Name one in a folder that can be written to.",
            ) from error

    def _replace(self, text: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        beside.write_text(text, "utf-8")
        os.replace(beside, self.path)

    def on_round(self, progress: Progress) -> None:
        """See :class:`OnRound`."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._line(progress.done[-1], first=progress.rounds == 1))

    def _line(self, done: Done, first: bool) -> str:
        row = row_of(done)
        if self.path.suffix == ".csv":
            text = io.StringIO()
            table = csv.DictWriter(text, list(row), lineterminator="\n")
            if first:
                table.writeheader()
            table.writerow({name: "" if _missing(value) else value for name, value in row.items()})
            return text.getvalue()
        return json.dumps({name: None if _missing(value) else value for name, value in row.items()}) + "\n"


def _missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
