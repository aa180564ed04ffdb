"""Many runs, side by side: plans × federations × seeds."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from fedpriv.data import Federation
from fedpriv.engine.executors import Executor
from fedpriv.engine.plan import Plan
from fedpriv.engine.training import Device
from fedpriv.errors import ConfigurationError
from fedpriv.randomness import NoiseSource
from fedpriv.study.callbacks import Callback, RoundLog, check
from fedpriv.study.cells import Cell, Job, Left, Refusal, Source, Work, Workers, cell_of, outcomes_of
from fedpriv.study.progress import bar
from fedpriv.study.studies import Study
from fedpriv.study.trials import Tuner
from fedpriv.study.tuning import HELD_OUT, Select, Tuning
from fedpriv.threat import Observer, parties_of


def compare(
    federation: Source | Mapping[str, Source],
    plans: Mapping[str, Plan],
    *,
    seeds: Iterable[int],
    tune: Mapping[str, Sequence[Any]] | None = None,
    select: Select = "validation",
    tune_seeds: Iterable[int] | None = None,
    held_out: float = HELD_OUT,
    charge_tuning: bool = False,
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
        tune: path → values, e.g. ``{"client.learning_rate": [0.1, 0.3], "mechanism.clip_norm": [0.5, 1.0]}``. Each
            plan runs with the combination of values that does best, by the mean accuracy over ``tune_seeds`` of whole
            runs of its own; of equal ones the first. A plan is tuned along those paths that it has. A combination that
            is refused, or whose run ends with an error, is a trial with its reason. Plans are tuned for each federation
            by itself; where that is a function of the seed, for each of the seeds. Callbacks are of these runs too.
        select: what measures a trial: ``"validation"``: records of the clients that trials do not train on; ``(x, y)``:
            public examples. Never the test set.
        tune_seeds: of the trials, none of them in ``seeds``; by default three that are derived from the report's.
        held_out: the share of each client's training records that trials are measured on, and do not train on.
        charge_tuning: compose the releases of all trials of a cell into the ε of each of its runs. Else every table
            says "ε excludes tuning". What it covers, and what not: :func:`fedpriv.study.tuning.charged`.
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
        DataError: no client has a record to hold out for tuning; public examples of another shape.
        PlanError: a plan does not fit, with ``on_invalid="raise"``; over the federations of the first seed nothing has
            run by then. With ``tune``: no combination of a plan's values fits.
        ConfigurationError: nothing to compare, a seed given twice, an unknown observer, δ out of range; a path that no
            plan has, tuning by the test set or with the report's seeds, trials that cannot be charged together.
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
    sources, plans = dict(sources), dict(plans)
    work = Work(sources, plans, options, folder, on_invalid)
    tuner = None
    if tune is not None:
        tuner = Tuner(tune, select, tune_seeds, held_out, charge_tuning, sources=sources, plans=plans, report=seeds)
    elif charge_tuning or tune_seeds is not None or held_out != HELD_OUT or select != "validation":
        raise ConfigurationError(
            "Nothing is tuned.",
            value={"select": "(x, y)" if isinstance(select, tuple) else select, "tune_seeds": tune_seeds}
            | {"held_out": held_out, "charge_tuning": charge_tuning},
            remedy='Give tune={"client.learning_rate": [0.1, 0.3]}, or leave these out.',
        )
    if on_invalid == "raise":  # before anything runs: a plan that is refused costs no other plan's hours
        for place, label in itertools.product(sources, plans):
            if tuner is None or label not in tuner.labels:
                work.resolved(Job(place, seeds[0], label))
    tunings: dict[tuple[str, int, str], Tuning] = {}
    cells: list[Cell] = []
    partial = False
    with Workers(executor) as workers:
        if tuner is not None:
            tunings = tuner(work, options, folder, workers, progress, raises=on_invalid == "raise")
            chosen = {key: tuning.plan for key, tuning in tunings.items()}
            work = Work(sources, plans, options, folder, on_invalid, chosen=chosen)
        jobs = [Job(*job) for job in itertools.product(sources, seeds, plans)]
        refused = {key for key, tuning in tunings.items() if tuning.error is not None}
        try:
            with closing(outcomes_of(work, [job for job in jobs if job[:3] not in refused], workers)) as outcomes:
                for job, left in bar(_all(jobs, tunings, outcomes), len(jobs), "runs", progress):
                    cells.append(cell_of(work, job, left, observer, delta, tunings.get(job[:3])))
        except KeyboardInterrupt:
            if not cells:
                raise
            partial = True
            logging.getLogger("fedpriv").warning("Interrupted after %d of %d runs.", len(cells), len(jobs))
    return Study(cells=tuple(cells), partial=partial, charge_tuning=charge_tuning)


def _all(
    jobs: Sequence[Job], tunings: Mapping[tuple[str, int, str], Tuning], outcomes: Iterator[Left]
) -> Iterator[tuple[Job, Left]]:
    """Every run with what came of it; of a plan without a candidate that fits, why."""
    for job in jobs:
        tuning = tunings.get(job[:3])
        error = None if tuning is None else tuning.error
        yield job, next(outcomes) if error is None else Refusal(error=error)


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
