"""The runs of a comparison, each done whole: in this process or in a worker."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

from fedpriv.data import Federation
from fedpriv.engine.executors import Crew, Executor, Inline, Shared, check
from fedpriv.engine.plan import Plan
from fedpriv.engine.resolution import Resolved
from fedpriv.errors import CheckpointError, FedprivError, without_frames
from fedpriv.study.runs import Run, run
from fedpriv.study.tuning import Part, Tuning
from fedpriv.threat import Observer

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
    """With the values that tuning chose."""
    seed: int
    outcome: Run | Refusal
    observer: Observer
    delta: float | None
    tuning: Tuning | None = None
    """How its plan was chosen; None where nothing was tuned."""


class Job(NamedTuple):
    """One run of a comparison."""

    place: str
    seed: int
    label: str
    drawn: int | None = None
    """The seed of its federation, where that is not the run's own: of a trial."""


class Work:
    """What all runs of a comparison have in common, wherever they are done. Pickled, it leaves its caches behind."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        plans: Mapping[str, Plan],
        options: Mapping[str, Any],
        folder: Path | None,
        on_invalid: str,
        part: Part | None = None,
        chosen: Mapping[tuple[str, int, str], Plan] | None = None,
    ) -> None:
        """``part`` makes a federation for tuning; ``chosen``: a run → its plan, where it is not its label's."""
        self._given = sources, plans, options, folder, on_invalid, part, chosen
        self._resolve, self._build = _Resolver(), _Builder(part)

    def __reduce__(self) -> tuple[object, ...]:
        return Work, self._given

    def plan(self, job: Job) -> Plan:
        """Of a run."""
        _, plans, *_, chosen = self._given
        return (chosen or {}).get(job[:3]) or plans[job.label]

    def federation(self, job: Job) -> Federation:
        """Of a run."""
        return self._build(job.place, self._given[0][job.place], job.seed if job.drawn is None else job.drawn)

    def resolved(self, job: Job) -> Resolved:
        """Of a run."""
        return self._resolve(job.place, job.label, self.plan(job), self.federation(job))

    def perform(self, job: Job, executor: Executor) -> Left:
        """Do a run, or go on with it.

        Raises:
            CheckpointError, and with ``on_invalid="raise"`` every other error of fedpriv's.
            KeyboardInterrupt: it was interrupted; what it has is in its checkpoint.
        """
        _, _, options, folder, on_invalid, *_ = self._given
        plan, data = self.plan(job), self.federation(job)
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

    work: Shared[Work]
    threads: int

    def __call__(self, job: Job) -> Left:
        return self.work.value.perform(job, Inline(threads=self.threads))


class Workers:
    """The workers of a comparison: made when they are first needed, ended with it."""

    def __init__(self, executor: Executor | None) -> None:
        self.executor = check(executor)
        self._crew: Crew | None = None
        self._held = ExitStack()

    def crew(self) -> Crew:
        """All of them."""
        if self._crew is None:
            self._crew = self._held.enter_context(self.executor.start())
        return self._crew

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()


def outcomes_of(work: Work, jobs: Sequence[Job], workers: Workers) -> Generator[Left, None, None]:
    """Of all runs, in their order: a single one here, several over the workers."""
    if len(jobs) == 1:
        yield work.perform(jobs[0], workers.executor)
    elif jobs:
        crew = workers.crew()
        yield from crew.map(_Whole(crew.share(work), crew.threads), jobs)


def cell_of(
    work: Work, job: Job, left: Left, observer: Observer, delta: float | None, tuning: Tuning | None = None
) -> Cell:
    """What a worker sent back, with the plan and the federation again."""
    plan = work.plan(job)
    target = getattr(plan.mechanism, "target", None)
    return Cell(
        federation=job.place or work.federation(job).name,
        label=job.label,
        plan=plan,
        seed=job.seed,
        outcome=left if isinstance(left, Refusal) else Run(resolved=work.resolved(job), **left),
        observer=target.observer if target is not None else observer,
        delta=delta,
        tuning=tuning,
    )


def _name_of(job: Job) -> str:
    """A run's folder: legible, and its own."""
    own = (job.place, job.label, int(job.seed), *(() if job.drawn is None else (int(job.drawn),)))
    digest = hashlib.sha256(repr(own).encode()).hexdigest()[:12]
    words = re.sub(r"[^A-Za-z0-9]+", "-", f"{job.place} {job.label}").strip("-")[:60]
    return f"{words}-seed-{int(job.seed)}-{digest}"


class _Builder:
    """Builds a federation once per seed, and keeps the last of each name."""

    def __init__(self, part: Part | None) -> None:
        self._part = part
        self._built: dict[str, tuple[int, Federation]] = {}

    def __call__(self, place: str, source: Source, seed: int) -> Federation:
        if isinstance(source, Federation) and self._part is None:
            return source
        if place not in self._built or self._built[place][0] != seed:
            whole = source if isinstance(source, Federation) else source(seed)
            self._built[place] = (seed, whole if self._part is None else self._part(whole, seed))
        return self._built[place][1]


class _Resolver:
    """Resolves each plan once per federation: solving σ and timing primitives need not be repeated for every seed."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Resolved] = {}

    def __call__(self, place: str, label: str, plan: Plan, federation: Federation) -> Resolved:
        known = self._known.get((place, label))
        if known is None or known.federation is not federation or known.plan is not plan:
            known = self._known[place, label] = plan.resolve(federation)
        return known
