"""Many runs, side by side: plans × federations × seeds."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from fedpriv.data import Federation
from fedpriv.engine.executors import Executor, Inline, Shared
from fedpriv.engine.plan import Plan
from fedpriv.engine.resolution import Resolved
from fedpriv.engine.training import Device
from fedpriv.errors import CheckpointError, ConfigurationError, FedprivError, without_frames
from fedpriv.randomness import NoiseSource
from fedpriv.study.callbacks import Callback, RoundLog, check
from fedpriv.study.progress import bar
from fedpriv.study.runs import Run, epsilon_of, run
from fedpriv.threat import Observer, parties_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Source: TypeAlias = Federation | Callable[[int], Federation]
"""A federation, or a function seed → federation."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Refusal:
    """A plan that was refused before it ran, or whose run ended with an error: a row with its reason."""

    error: FedprivError

    @property
    def reason(self) -> str:
        """The error's message, and its round where it has one."""
        return " ".join([str(self.error), *getattr(self.error, "__notes__", ())])


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One plan over one federation with one seed."""

    federation: str
    label: str
    plan: Plan
    seed: int
    outcome: Run | Refusal
    observer: Observer
    delta: float | None


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
    work = _Work(dict(sources), dict(plans), options, folder, on_invalid)
    if on_invalid == "raise":  # before anything runs: a plan that is refused costs no other plan's hours
        for place, label in itertools.product(sources, plans):
            work.resolved(_Job(place, seeds[0], label))
    jobs = [_Job(*job) for job in itertools.product(sources, seeds, plans)]
    cells: list[Cell] = []
    partial = False
    try:
        with closing(_outcomes(work, jobs, executor)) as outcomes:
            for job, outcome in zip(jobs, bar(outcomes, len(jobs), "runs", progress), strict=True):
                cells.append(_cell(work, job, outcome, observer, delta))
    except KeyboardInterrupt:
        if not cells:
            raise
        partial = True
        logging.getLogger("fedpriv").warning("Interrupted after %d of %d runs.", len(cells), len(jobs))
    return Study(cells=tuple(cells), partial=partial)


class _Job(NamedTuple):
    """One run of a comparison."""

    place: str
    seed: int
    label: str


class _Work:
    """What all runs of a comparison have in common, wherever they are done. Pickled, it leaves its caches behind."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        plans: Mapping[str, Plan],
        options: Mapping[str, Any],
        folder: Path | None,
        on_invalid: str,
    ) -> None:
        self._given = sources, plans, options, folder, on_invalid
        self.plans = plans
        self._resolve, self._build = _Resolver(), _Builder()

    def __reduce__(self) -> tuple[object, ...]:
        return _Work, self._given

    def federation(self, job: _Job) -> Federation:
        """Of a run."""
        return self._build(job.place, self._given[0][job.place], job.seed)

    def resolved(self, job: _Job) -> Resolved:
        """Of a run."""
        return self._resolve(job.place, job.label, self.plans[job.label], self.federation(job))

    def perform(self, job: _Job, executor: Executor) -> Left:
        """Do a run, or go on with it.

        Raises:
            CheckpointError, and with ``on_invalid="raise"`` every other error of fedpriv's.
            KeyboardInterrupt: it was interrupted; what it has is in its checkpoint.
        """
        _, _, options, folder, on_invalid = self._given
        plan, data = self.plans[job.label], self.federation(job)
        measured = options["evaluate_every"]
        try:
            done = run(
                data,
                self.resolved(job),
                seed=job.seed,
                **{**options, "evaluate_every": plan.rounds if measured is None else measured},
                progress=False,
                executor=executor,
                checkpoint=folder and folder / _name_of(job),
            )
        except CheckpointError:
            raise
        except FedprivError as error:
            if on_invalid == "raise":
                raise
            return Refusal(error=without_frames(error))
        if done.partial:
            raise KeyboardInterrupt
        return {item.name: getattr(done, item.name) for item in fields(done) if item.name != "resolved"}


Left: TypeAlias = Refusal | Mapping[str, Any]
"""What a worker sends back of a run: all but the plan and the federation, which are here already."""


@dataclass(frozen=True)
class _Whole:
    """Does whole runs, in a worker."""

    work: Shared[_Work]
    threads: int

    def __call__(self, job: _Job) -> Left:
        return self.work.value.perform(job, Inline(threads=self.threads))


def _outcomes(work: _Work, jobs: Sequence[_Job], executor: Executor | None) -> Generator[Left, None, None]:
    if len(jobs) == 1:
        yield work.perform(jobs[0], executor or Inline())
        return
    with (executor or Inline()).start() as crew:
        yield from crew.map(_Whole(crew.share(work), crew.threads), jobs)


def _cell(work: _Work, job: _Job, left: Left, observer: Observer, delta: float | None) -> Cell:
    plan = work.plans[job.label]
    target = getattr(plan.mechanism, "target", None)
    return Cell(
        federation=job.place or work.federation(job).name,
        label=job.label,
        plan=plan,
        seed=job.seed,
        outcome=left if isinstance(left, Refusal) else Run(resolved=work.resolved(job), **left),
        observer=target.observer if target is not None else observer,
        delta=delta,
    )


def _name_of(job: _Job) -> str:
    """A run's folder: legible, and its own."""
    digest = hashlib.sha256(repr((job.place, job.label, int(job.seed))).encode()).hexdigest()[:12]
    words = re.sub(r"[^A-Za-z0-9]+", "-", f"{job.place} {job.label}").strip("-")[:60]
    return f"{words}-seed-{int(job.seed)}-{digest}"


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


class _Builder:
    """Builds a federation once per seed, and keeps the last of each name."""

    def __init__(self) -> None:
        self._built: dict[str, tuple[int, Federation]] = {}

    def __call__(self, place: str, source: Source, seed: int) -> Federation:
        if isinstance(source, Federation):
            return source
        if place not in self._built or self._built[place][0] != seed:
            self._built[place] = (seed, source(seed))
        return self._built[place][1]


class _Resolver:
    """Resolves each plan once per federation: solving σ and timing primitives need not be repeated for every seed."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Resolved] = {}

    def __call__(self, place: str, label: str, plan: Plan, federation: Federation) -> Resolved:
        known = self._known.get((place, label))
        if known is None or known.federation is not federation:
            known = self._known[place, label] = plan.resolve(federation)
        return known


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
