"""The runs by which the plans of a comparison are tuned, before the comparison's own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedpriv.data import Federation
from fedpriv.engine.explain import planned_ledger
from fedpriv.engine.plan import Plan
from fedpriv.errors import ConfigurationError, FedprivError, without_frames
from fedpriv.privacy.ledger.event import LedgerEvent
from fedpriv.study.cells import Job, Left, Refusal, Source, Work, Workers, outcomes_of
from fedpriv.study.progress import bar
from fedpriv.study.tuning import (
    Candidate,
    HeldOut,
    Public,
    Trial,
    Tuning,
    best,
    candidates,
    check,
    in_a_row,
    part_of,
    seeds_of,
)


class Tuner:
    """Tunes every plan of a comparison over every one of its federations.

    A federation that is a function of the seed is another one for each seed of the report, and its test set too: what
    one of them trains on may be in the test set of the next. Plans are tuned for each by itself then.

    Args:
        tune: path → values.
        select: see :func:`fedpriv.compare`.
        seeds: of the tuning; None: derived from the report's.
        held_out: the share of each client's records that choose.
        charge: whether the ledgers of the trials are kept.

    Raises:
        ConfigurationError: see :func:`fedpriv.compare`.
    """

    def __init__(
        self,
        tune: Mapping[str, Sequence[Any]],
        select: object,
        seeds: Iterable[int] | None,
        held_out: float,
        charge: bool,
        *,
        sources: Mapping[str, Source],
        plans: Mapping[str, Plan],
        report: Sequence[int],
    ) -> None:
        check(tune, plans)
        self.part = part_of(select, held_out)
        self.charge = charge
        self._sources, self._plans, self._report = sources, plans, report
        given = None if seeds is None else seeds_of(seeds, report, 0)
        self._seeds = {first: given or seeds_of(None, report, first) for first in report}
        found = {label: candidates(plan, tune) for label, plan in plans.items()}
        self._candidates = {label: among for label, among in found.items() if among[0].values}

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the plans that have something to tune."""
        return tuple(self._candidates)

    def __call__(
        self,
        whole: Work,
        options: Mapping[str, Any],
        folder: Path | None,
        workers: Workers,
        progress: bool,
        *,
        raises: bool,
    ) -> dict[tuple[str, int, str], Tuning]:
        """Tune: (federation, seed of the report, label) → what was chosen.

        Args:
            whole: the comparison, to check candidates against its federations before anything runs.
            options: of every run.
            folder: where each trial has a checkpoint, or None.
            workers: over which the trials are spread.
            progress: show a progress bar on a terminal.
            raises: a plan without a candidate that fits is an error: where that is known, before anything runs.

        Raises:
            FedprivError: why the first candidate of such a plan is none.
        """
        cells = {
            (place, drawn, label): _Tried(
                among, self._refusals(whole, place, label) if drawn == self._report[0] else {}
            )
            for place, source in self._sources.items()
            for drawn in (self._report[:1] if isinstance(source, Federation) else self._report)
            for label, among in self._candidates.items()
        }
        if raises:
            for tried in cells.values():
                if len(tried.refused) == len(tried.among):
                    raise tried.refused[0]
        self._try(cells, options, folder, workers, progress)
        found: dict[tuple[str, int, str], Tuning] = {}
        for (place, drawn, label), tried in cells.items():
            fixed = isinstance(self._sources[place], Federation)
            tuning = tried.tuning(
                federation=place or whole.federation(Job(place, drawn, label)).name,
                label=label,
                seed=None if fixed else drawn,
                plan=self._plans[label],
                seeds=self._seeds[drawn],
                part=self.part,
            )
            if raises and tuning.error is not None:
                raise tuning.error
            found |= {(place, seed, label): tuning for seed in (self._report if fixed else [drawn])}
        return found

    def _refusals(self, whole: Work, place: str, label: str) -> dict[int, FedprivError]:
        """The candidates that do not fit the first federation of the report, and why."""
        refused: dict[int, FedprivError] = {}
        seen: list[object] = []
        for number, candidate in enumerate(self._candidates[label]):
            try:
                if not isinstance(candidate.plan, Plan):
                    raise candidate.plan
                resolved = candidate.plan.resolve(whole.federation(Job(place, self._report[0], label)))
            except FedprivError as error:
                refused[number] = without_frames(error)
                continue
            if self.charge:
                seen.append((resolved.threat, resolved.setting.adjacency))
                if resolved.spec.correlation is not None or seen[-1] != seen[0]:
                    raise ConfigurationError(
                        "Trials are charged to one threat model and adjacency, with noise of its own in every round.",
                        value=f"{label}: {candidate.name}",
                        remedy="Leave out charge_tuning, or tune something else.",
                    )
        return refused

    def _try(
        self,
        cells: Mapping[tuple[str, int, str], _Tried],
        options: Mapping[str, Any],
        folder: Path | None,
        workers: Workers,
        progress: bool,
    ) -> None:
        """Run every candidate that fits with every tuning seed."""
        plans: dict[str, Plan] = {}
        jobs: list[Job] = []
        meant: list[tuple[_Tried, int]] = []
        for (place, drawn, label), tried in cells.items():
            for seed in self._seeds[drawn]:
                for number, candidate in enumerate(tried.among):
                    if isinstance(candidate.plan, Plan) and number not in tried.refused:
                        name = f"{label} · {candidate.name}"
                        plans[name] = candidate.plan
                        jobs.append(Job(place, seed, name, drawn))
                        meant.append((tried, number))
        work = Work(self._sources, plans, options, folder and folder / "tuning", "record", self.part)
        with closing(outcomes_of(work, jobs, workers)) as outcomes:
            shown = bar(outcomes, len(jobs), "trials", progress)
            for job, (tried, number), left in zip(jobs, meant, shown, strict=True):
                tried.take(number, job.seed, left)
                tried.records = tried.records or len(work.federation(job).test_y)
                if self.charge:
                    tried.released[number, job.seed] = _released(work, job, left)


class _Tried:
    """The candidates of one cell under way."""

    def __init__(self, among: Sequence[Candidate], refused: dict[int, FedprivError]) -> None:
        self.among, self.refused = among, refused
        self.errors: dict[tuple[int, int], FedprivError] = {}
        self.metrics: dict[tuple[int, int], Mapping[str, float]] = {}
        self.released: dict[tuple[int, int], tuple[LedgerEvent, ...]] = {}
        self.records = 0

    def take(self, number: int, seed: int, left: Left) -> None:
        """A trial that was run."""
        if isinstance(left, Refusal):
            self.errors[number, seed] = left.error
        else:
            self.metrics[number, seed] = left["done"][-1].metrics

    def tuning(
        self, *, federation: str, label: str, seed: int | None, plan: Plan, seeds: Sequence[int], part: HeldOut | Public
    ) -> Tuning:
        """What came of them."""
        trials = tuple(self._trial(number, seed) for number in range(len(self.among)) for seed in seeds)
        values = best(trials)
        chosen = next((c.plan for c in self.among if c.values == values), plan)
        assert isinstance(chosen, Plan)
        scores = [trial.accuracy for trial in trials if trial.values == values]
        first = next((self._error(number, seed) for number in range(len(self.among)) for seed in seeds), None)
        return Tuning(
            federation=federation,
            label=label,
            seed=seed,
            plan=chosen,
            values=values or {},
            accuracy=math.fsum(scores) / len(scores) if scores else math.nan,
            trials=trials,
            seeds=tuple(seeds),
            validation=str(part),
            public=isinstance(part, Public),
            records=self.records,
            error=first if values is None else None,
            events=in_a_row(self.released.values()),
            instead=self._instead(values, seeds[0]),
        )

    def _instead(self, values: Mapping[str, Any] | None, seed: int) -> tuple[tuple[LedgerEvent, ...], ...]:
        """What candidates release that is not, but for the clip norm, what the chosen one does."""
        distinct: dict[tuple[LedgerEvent, ...], None] = {}
        chosen: tuple[LedgerEvent, ...] = ()
        for number, candidate in enumerate(self.among):
            events = tuple(replace(event, clip_norm=None) for event in self.released.get((number, seed), ()))
            distinct[events] = None
            if candidate.values == values:
                chosen = events
        return tuple(events for events in distinct if events and events != chosen)

    def _error(self, number: int, seed: int) -> FedprivError | None:
        plan = self.among[number].plan
        if not isinstance(plan, Plan):
            return plan
        return self.refused.get(number) or self.errors.get((number, seed))

    def _trial(self, number: int, seed: int) -> Trial:
        values, error = self.among[number].values, self._error(number, seed)
        if error is not None:
            return Trial(values=values, seed=seed, refused=Refusal(error=error).reason)
        found = self.metrics[number, seed]
        return Trial(values=values, seed=seed, accuracy=found["accuracy"], loss=found["loss"])


def _released(work: Work, job: Job, left: Left) -> tuple[LedgerEvent, ...]:
    """What a trial put into its ledger; of one that ended with an error, all that it was to."""
    if not isinstance(left, Refusal):
        events: tuple[LedgerEvent, ...] = left["ledger"].events
        return events
    try:
        return planned_ledger(work.resolved(job)).events
    except FedprivError:  # refused before it ran
        return ()
