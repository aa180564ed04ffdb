"""Many runs, side by side: plans × federations × seeds."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedpriv.data import Federation
from fedpriv.engine.executors import Executor
from fedpriv.engine.plan import Plan
from fedpriv.engine.training import Device
from fedpriv.errors import ConfigurationError
from fedpriv.randomness import NoiseSource
from fedpriv.study.callbacks import Callback, RoundLog, check
from fedpriv.study.cells import Cell, Job, Refusal, Source, Work, cell_of, outcomes_of
from fedpriv.study.progress import bar
from fedpriv.study.runs import Run, epsilon_of
from fedpriv.threat import Observer, parties_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def compare(
    federation: Source | Mapping[str, Source],
    plans: Mapping[str, Plan],
    *,
    seeds: Iterable[int],
    noise: NoiseSource = "seeded",
    ideal: bool = False,
    observer: Observer = "public",
    delta: float | None = None,
    on_invalid: Literal["raise", "record"] = "raise",
    evaluate_every: int | None = None,
    progress: bool = True,
    executor: Executor | None = None,
    device: Device = "auto",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    every: int = 10,
) -> Study:
    """Run every plan over every federation with every seed.

    Args:
        federation: one federation, a function seed → federation, or several of either by name.
        plans: label → plan, for instance from :func:`fedpriv.grid`.
        seeds: one run each; all plans take the same ones, so that differences are paired.
        noise: see :func:`fedpriv.run`.
        ideal: see :func:`fedpriv.run`.
        observer: whose ε stands in the column ``epsilon`` where a plan has no budget of its own.
        delta: of the ε columns; by default that of a plan's budget, else a tenth of 1 / population, at most 1e-5.
        on_invalid: ``"record"``: a plan that is refused, or a run that ends with an error of fedpriv's (a client's
            training diverged), becomes a row with the reason.
        evaluate_every: as for :func:`fedpriv.run`; by default only the last round is measured.
        progress: show a progress bar on a terminal.
        executor: whose workers the runs are spread over, each run whole in one of them; a single run's clients are
            spread instead. The results are the same.
        device: see :func:`fedpriv.run`.
        callbacks: of every run, see :func:`fedpriv.run`; no logs, which are of one run each.
        checkpoint: a folder, in which every run has one of its own. A study that was interrupted or killed goes on
            from there: finished runs are read back, the others resume; see :func:`fedpriv.run`. Workers on other
            machines must see the same folder.
        every: rounds between two checkpoints of a run.

    An interruption (Ctrl-C, SIGINT) ends the study with the runs that are finished, marked :attr:`Study.partial`;
    before the first one is, it is raised.

    Raises:
        CheckpointError: a run's checkpoint is of another plan, federation or seed, or damaged.
        PlanError: a plan does not fit, with ``on_invalid="raise"``; over the federations of the first seed nothing has
            run by then.
        ConfigurationError: nothing to compare, a seed given twice, an unknown observer, δ out of range.
    """
    if not isinstance(seeds, Iterable):
        raise ConfigurationError("Seeds are a list of integers.", value=seeds, remedy=f"Give seeds=[{seeds}].")
    seeds = list(seeds)
    sources = federation if isinstance(federation, Mapping) else {"": federation}
    if not isinstance(plans, Mapping) or not plans or not seeds or not sources:
        raise ConfigurationError(
            "A comparison has at least one federation, one labelled plan and one seed.",
            value={"federations": len(sources), "plans": type(plans).__name__, "seeds": seeds},
            remedy='Give {"label": plan} and seeds=range(5).',
        )
    _check_kinds(sources, plans)
    if len(set(seeds)) < len(seeds):
        raise ConfigurationError(
            "Every seed is given once: the same run twice is no second sample.", value=seeds, remedy="Leave one out."
        )
    if on_invalid not in ("raise", "record"):
        raise ConfigurationError('on_invalid is "raise" or "record".', value=on_invalid, remedy='Use "record".')
    if delta is not None and not 0.0 < delta < 1.0:
        raise ConfigurationError("δ is in (0, 1).", value=delta, remedy="Give less than one over the population.")
    parties_of(observer)
    callbacks = check(callbacks)
    if any(isinstance(callback, RoundLog) for callback in callbacks):
        raise ConfigurationError(
            "A log is of one run.", value="RoundLog", remedy="Read Study.rounds, or give it to fp.run."
        )
    options = {
        "noise": noise,
        "ideal": ideal,
        "evaluate_every": evaluate_every,
        "device": device,
        "callbacks": callbacks,
        "every": every,
    }
    folder = Path(checkpoint).absolute() if checkpoint is not None else None
    work = Work(dict(sources), dict(plans), options, folder, on_invalid)
    if on_invalid == "raise":  # before anything runs: a plan that is refused costs no other plan's hours
        for place, label in itertools.product(sources, plans):
            work.resolved(Job(place, seeds[0], label))
    jobs = [Job(*job) for job in itertools.product(sources, seeds, plans)]
    cells: list[Cell] = []
    partial = False
    try:
        with closing(outcomes_of(work, jobs, executor)) as outcomes:
            for job, outcome in zip(jobs, bar(outcomes, len(jobs), "runs", progress), strict=True):
                cells.append(cell_of(work, job, outcome, observer, delta))
    except KeyboardInterrupt:
        if not cells:
            raise
        partial = True
        logging.getLogger("fedpriv").warning("Interrupted after %d of %d runs.", len(cells), len(jobs))
    return Study(cells=tuple(cells), partial=partial)


def _check_kinds(sources: Mapping[str, Any], plans: Mapping[str, Any]) -> None:
    for source in sources.values():
        if not (isinstance(source, Federation) or callable(source)):
            raise ConfigurationError(
                "A federation is a Federation, a function seed → Federation, or {name: federation}.",
                value=type(source).__name__,
                remedy="Call fp.compare(federation, plans, seeds=range(5)).",
            )
    for label, plan in plans.items():
        if not isinstance(plan, Plan):
            raise ConfigurationError(
                "Plans are {label: Plan}.", value={label: type(plan).__name__}, remedy="Use fp.grid(plan, …)."
            )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Study:
    """The runs of a comparison, as tables and figures."""

    cells: tuple[Cell, ...]
    partial: bool = False
    """Whether an interruption ended the study: runs are missing."""

    def __repr__(self) -> str:
        refused = sum(isinstance(cell.outcome, Refusal) for cell in self.cells)
        labels = len({(cell.federation, cell.label) for cell in self.cells})
        interrupted = ", interrupted" if self.partial else ""
        return f"Study({labels} cells, {len(self.cells)} runs, {refused} refused{interrupted})"

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format="{:.4g}".format)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per run.

        - ``federation``, ``label``, ``aggregation``, ``mechanism``, ``seed``: what was run.
        - ``epsilon``: at ``delta`` against ``observer``, its plan's budget's or the one given to
          :func:`fedpriv.compare`; ``epsilon_server``, ``epsilon_participant``, ``epsilon_public`` and, where the
          protocol has one, ``epsilon_authority``: against each. A participant is a client of the cohort.
        - ``accuracy``, ``loss``: after the last round.
        - bytes and seconds as in :attr:`Run.frame`, means over the rounds; ``costs``: measured, or modelled (ideal);
          ``client_key_bytes``: sent to each client once, before its first round.
        - ``rounding_error``: the largest of any round; ``aborted_rounds``; ``sha256``: of the final model.

        A refused plan is a row with its reason in ``refused``.
        """
        import pandas as pd

        return pd.DataFrame([_row(cell) for cell in self.cells])

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """One row per run and round, see :attr:`Run.frame`."""
        import pandas as pd

        parts = [
            cell.outcome.frame.assign(federation=cell.federation, label=cell.label, seed=cell.seed)
            for cell in self.cells
            if isinstance(cell.outcome, Run)
        ]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def table(self, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """Mean over the seeds, and the 95 % interval of the mean for accuracy, one row per federation and label.

        Of ε the largest over the seeds, with its observer and δ where they differ between rows.
        """
        from fedpriv.report.tables import over_seeds

        return over_seeds(self.frame, columns)

    def differences(self, baseline: str, y: str = "accuracy") -> pd.DataFrame:
        """Paired differences to one label over the same seeds, with 95 % intervals (Student's t).

        The intervals are of what the seeds vary: initialisation, batches, dropouts, noise and, where the federation is
        a function of the seed, the partition. They say nothing of other data.

        Raises:
            ConfigurationError: no run has this label.
        """
        from fedpriv.report.tables import paired_differences

        return paired_differences(self.frame, baseline, y)

    def learns(self) -> pd.DataFrame:
        """Who learns what: one row per label and party."""
        import pandas as pd

        seen: dict[str, dict[str, str]] = {}
        for cell in self.cells:
            if isinstance(cell.outcome, Run):
                seen.setdefault(cell.label, dict(cell.outcome.learns))
        return pd.DataFrame.from_dict(seen, orient="index").rename_axis("label").reset_index().fillna("–")

    def plot(self, x: str = "label", y: str = "accuracy") -> Figure:
        """``y`` against ``x`` with error bars over the seeds: a column of :attr:`frame`, or ``"round"`` for curves."""
        from fedpriv.report import figures

        return figures.curves(self.rounds, y) if x == "round" else figures.trade_off(self.frame, x, y)

    def to_latex(self, columns: Iterable[str] | None = None) -> str:
        """:meth:`table` as a LaTeX table; the document loads booktabs. All columns are wider than most pages."""
        from fedpriv.report.tables import latex

        seeds = len({cell.seed for cell in self.cells})
        caption = f"Means over {seeds} seeds, of ε the largest; intervals are 95 % (Student's t)."
        frame = self.frame
        if frame["observer"].nunique() == 1 and "delta" in frame and frame["delta"].nunique() == 1:
            caption += (
                f" ε at δ = {frame['delta'].max():g}; the column epsilon is against: {frame['observer'].iloc[0]}."
            )
        return latex(self.table(columns), caption=caption)

    def save(self, folder: str | Path, x: str = "label", y: str = "accuracy") -> Path:
        """Write tables, plans, versions and the figure into a folder: whole, or not at all.

        An existing folder of results is replaced; one that holds anything else is refused.
        """
        from fedpriv.report.saving import provenance, save

        about: dict[str, Any] = {
            "partial": self.partial,
            "cells": [_about(cell) for cell in self.cells],
            **provenance(),
        }
        return save(
            folder,
            tables={
                "runs": self.frame,
                "rounds": self.rounds.drop(columns="sha256", errors="ignore"),
                "table": self.table(),
            },
            documents={"study": about},
            figures={"study": self.plot(x=x, y=y)},
            texts={"table.tex": self.to_latex()},
        )


def _row(cell: Cell) -> dict[str, Any]:
    plan = cell.plan
    row: dict[str, Any] = {
        "federation": cell.federation,
        "label": cell.label,
        "aggregation": type(plan.aggregation).__name__,
        "mechanism": type(plan.mechanism).__name__,
        "seed": cell.seed,
        "observer": str(cell.observer),
        "refused": "",
    }
    if isinstance(cell.outcome, Refusal):
        return row | {"accuracy": np.nan, "epsilon": np.nan, "refused": cell.outcome.reason}
    summary = cell.outcome.summary(cell.delta)
    return row | {"epsilon": epsilon_of(cell.outcome.ledger, summary["delta"], cell.observer)} | summary


def _about(cell: Cell) -> dict[str, Any]:
    about: dict[str, Any] = {
        "federation": cell.federation,
        "label": cell.label,
        "seed": cell.seed,
        "plan": cell.plan.describe(),
    }
    if isinstance(cell.outcome, Refusal):
        return about | {"refused": cell.outcome.reason}
    run = cell.outcome
    return about | {
        "noise": run.noise,
        "ideal": run.ideal,
        "federation_sha256": run.resolved.federation.fingerprint,
        "sha256": run.sha256,
        "learns": dict(run.learns),
    }
