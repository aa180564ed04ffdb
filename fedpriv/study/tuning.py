"""Tuning inside the cells of a comparison: candidates, the records that choose among them, and what was chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from fedpriv.data import Federation
from fedpriv.data.federation import Examples, Labels, check_records
from fedpriv.engine.plan import Plan
from fedpriv.errors import ConfigurationError, DataError, FedprivError
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.ledger.event import LedgerEvent
from fedpriv.randomness import Streams
from fedpriv.study.grids import label_values

Select: TypeAlias = Literal["validation"] | tuple[Examples, Labels]
"""What chooses: records that are held out of the clients' training records, or public examples and labels."""

HELD_OUT = 0.2
"""Which share of each client's training records is held out where none is given."""

TUNE_SEEDS = 3
"""How many seeds a candidate is tried with where none are given."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plan with some of its values exchanged."""

    values: Mapping[str, Any]
    """Path → value, as a table shows it."""
    plan: Plan | FedprivError
    """Or why there is none."""

    @property
    def name(self) -> str:
        return ", ".join(f"{path}={value}" for path, value in self.values.items())


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate with one tuning seed."""

    values: Mapping[str, Any]
    seed: int
    accuracy: float = math.nan
    """On the validation records; NaN where it was refused."""
    loss: float = math.nan
    refused: str = ""
    """Why the candidate was refused, or its run ended with an error."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was tried for one plan over one federation, and what was chosen.

    Args:
        federation: its name.
        label: the plan's.
        seed: of the report, where its federation is a function of the seed; None: for all seeds of the report.
        plan: with the values chosen; the plan as it was given where every candidate was refused.
        values: path → value chosen; empty where every candidate was refused.
        accuracy: mean validation accuracy of the chosen.
        trials: every candidate with every seed, in their order.
        seeds: of the tuning.
        validation: where the validation records come from, in words.
        public: whether they are public.
        records: how many there are.
        error: why every candidate was refused.
        events: of the ledgers of all trials, one run after the other; empty unless tuning is charged.
        instead: what a run would have released, had another candidate been chosen, where that differs; likewise.
    """

    federation: str
    label: str
    seed: int | None
    plan: Plan
    values: Mapping[str, Any]
    accuracy: float
    trials: tuple[Trial, ...]
    seeds: tuple[int, ...]
    validation: str
    public: bool
    records: int
    error: FedprivError | None = None
    events: tuple[LedgerEvent, ...] = field(default=(), repr=False)
    instead: tuple[tuple[LedgerEvent, ...], ...] = field(default=(), repr=False)

    def describe(self) -> dict[str, Any]:
        """As plain values, for files."""
        return {
            "federation": self.federation,
            "label": self.label,
            "seed": self.seed,
            "chosen": dict(self.values),
            "validation_accuracy": self.accuracy,
            "seeds": list(self.seeds),
            "validation": {"origin": self.validation, "public": self.public, "records": self.records},
            "refused": "" if self.error is None else str(self.error),
            "trials": [vars(trial) for trial in self.trials],
        }


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A federation for tuning: a share of each client's records becomes the test set, and the report's is left out.

    Args:
        share: of each client's records, in (0, 1): at least one of two and more, never all; none of a single one.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ConfigurationError(
                "The share of records held out for validation is in (0, 1).", value=self.share, remedy="Give 0.2."
            )

    def __str__(self) -> str:
        return f"{self.share:.3g} of each client's training records"

    def __call__(self, federation: Federation, seed: int) -> Federation:
        """The same clients without the records held out, on which models are measured; drawn from the seed.

        Raises:
            DataError: no client holds two records.
        """
        streams = Streams(seed)
        clients, x, y = [], [], []
        for client in federation.clients:
            size = len(client)
            held = min(size - 1, max(1, round(self.share * size)))
            order = streams.generator("validation", 0, client.index).permutation(size)
            validation, training = np.sort(order[:held]), np.sort(order[held:])
            clients.append(replace(client, x=client.x[training], y=client.y[training]))
            x.append(client.x[validation])
            y.append(client.y[validation])
        if not any(map(len, y)):
            raise DataError(
                "Validation records are held out of clients with two records or more.",
                value=f"{len(federation)} clients with one record each",
                remedy="Give public examples: select=(x, y).",
            )
        return _for_tuning(federation, clients=tuple(clients), test_x=np.concatenate(x), test_y=np.concatenate(y))


@dataclass(frozen=True, kw_only=True, eq=False)
class Public:
    """A federation for tuning: models are measured on public examples, and clients train on all of their records."""

    x: Examples
    y: Labels

    def __post_init__(self) -> None:
        x, y = check_records(self.x, self.y, "the public validation data")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    def __str__(self) -> str:
        return "public"

    def __call__(self, federation: Federation, seed: int) -> Federation:
        """The same clients; the seed changes nothing.

        Raises:
            DataError: the examples are not of the federation's shape and classes.
        """
        return _for_tuning(federation, test_x=self.x, test_y=self.y)


Part: TypeAlias = Callable[[Federation, int], Federation]
"""The federation of the report and a seed → the one for tuning."""


def part_of(select: object, held_out: float) -> HeldOut | Public:
    """What chooses among the candidates.

    Raises:
        ConfigurationError: the test set, or a training loss.
        DataError: public examples that are none.
    """
    if isinstance(select, tuple) and len(select) == 2:
        return Public(x=select[0], y=select[1])
    if not isinstance(select, str) or select != "validation":
        why = "validation records are"
        if select == "test":
            why = "the report is measured on the test set, and what was chosen by it looks better there than it is"
        elif select == "train_loss":
            why = "the loss that clients train by favours whatever overfits, and no party of the protocol sees it"
        raise ConfigurationError(
            f'Candidates are chosen by "validation" or by public examples (x, y): {why}.'
            if select in ("test", "train_loss")
            else 'Candidates are chosen by "validation", or by public examples (x, y).',
            value=select if isinstance(select, str) else type(select).__name__,
            remedy='Use select="validation".',
        )
    return HeldOut(share=held_out)


def seeds_of(given: Iterable[int] | None, report: Sequence[int], first: int) -> tuple[int, ...]:
    """The seeds of the tuning: those given, or :data:`TUNE_SEEDS` derived from a seed of the report.

    Raises:
        ConfigurationError: none, one given twice, one of the report's.
    """
    if given is None:
        drawn = (Streams(first).integer("tuning", number) % 2**31 for number in itertools.count())
        found: dict[int, None] = {}
        while len(found) < TUNE_SEEDS:
            found |= {seed: None for seed in [next(drawn)] if seed not in report}
        return tuple(found)
    if not isinstance(given, Iterable):
        raise ConfigurationError("Tuning seeds are a list of integers.", value=given, remedy=f"Give [{given}].")
    seeds = tuple(given)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigurationError(
            "There is at least one tuning seed, and each is given once.", value=seeds, remedy="Give [100, 101]."
        )
    if shared := sorted(set(seeds) & set(report)):
        raise ConfigurationError(
            "Tuning has seeds of its own: what was chosen for a run's own randomness looks better in it than it is.",
            value=shared,
            remedy="Give others, or leave tune_seeds out.",
        )
    for seed in seeds:
        Streams(seed)
    return seeds


def candidates(plan: Plan, tune: Mapping[str, Sequence[Any]]) -> tuple[Candidate, ...]:
    """Every combination of the values of those paths that the plan has."""
    there = [path for path in tune if has(plan, path)]
    shown = {path: _shown(tune[path]) for path in there}
    found = []
    for chosen in itertools.product(*(range(len(tune[path])) for path in there)):
        values = {path: shown[path][index] for path, index in zip(there, chosen, strict=True)}
        made: Plan | FedprivError = plan
        try:
            for path, index in zip(there, chosen, strict=True):
                assert isinstance(made, Plan)
                made = exchanged(made, path, tune[path][index])
        except FedprivError as error:
            made = error
        found.append(Candidate(values=values, plan=made))
    return tuple(found)


def check(tune: Mapping[str, Sequence[Any]], plans: Mapping[str, Plan]) -> None:
    """Raises ConfigurationError: paths that no plan has or that overlap, values that are no list, or are equal."""
    if not isinstance(tune, Mapping) or not tune:
        raise ConfigurationError(
            "Tuning takes {path: values}.",
            value=tune,
            remedy='Give e.g. tune={"client.learning_rate": [0.1, 0.3]}.',
        )
    for path, values in tune.items():
        if isinstance(values, str | Mapping) or not isinstance(values, Sequence) or not values:
            raise ConfigurationError(
                f"The values of {path} are a list of at least one.", value=values, remedy=f'Give "{path}": […].'
            )
        label_values(values)
        if not any(has(plan, path) for plan in plans.values()):
            raise ConfigurationError(
                "A path leads along the fields of a plan's parts, in at least one plan.",
                value=path,
                remedy="Name one such as client.learning_rate, mechanism.clip_norm or rounds.",
            )
        for other in tune:
            if other.startswith(f"{path}."):
                raise ConfigurationError(
                    "What is exchanged as a whole has no field to tune.", value=other, remedy=f"Leave out {path}."
                )
    for label, plan in plans.items():
        if plan.model is None:
            raise ConfigurationError(
                "Tuning chooses by accuracy, and a plan without a model has none.",
                value=label,
                remedy="Give the plan a model.",
            )


def has(part: Any, path: str) -> bool:
    """Whether a path leads to a field of a dataclass, or to a keyword of a partial."""
    head, _, rest = path.partition(".")
    if isinstance(part, partial):
        there = head in part.keywords
        return there and (not rest or has(part.keywords[head], rest))
    if not is_dataclass(part) or isinstance(part, type) or head not in [item.name for item in fields(part)]:
        return False
    return not rest or has(getattr(part, head), rest)


def exchanged(part: Any, path: str, value: Any) -> Any:
    """A copy with another value at the path's end.

    Raises:
        FedprivError: the part that holds it refuses it.
    """
    head, _, rest = path.partition(".")
    if isinstance(part, partial):
        value = exchanged(part.keywords[head], rest, value) if rest else value
        return partial(part.func, *part.args, **{**part.keywords, head: value})
    return replace(part, **{head: exchanged(getattr(part, head), rest, value) if rest else value})


def best(trials: Sequence[Trial]) -> Mapping[str, Any] | None:
    """The values with the largest mean accuracy over the seeds, of equal ones the first.

    A candidate of which a run was refused is none; None where all were.
    """
    by_values: dict[str, list[Trial]] = {}
    for trial in trials:
        by_values.setdefault(repr(dict(trial.values)), []).append(trial)
    means = [
        (math.fsum(trial.accuracy for trial in group) / len(group), group[0].values)
        for group in by_values.values()
        if not any(trial.refused for trial in group)
    ]
    return max(means, key=lambda found: found[0])[1] if means else None


def in_a_row(runs: Iterable[Iterable[LedgerEvent]]) -> tuple[LedgerEvent, ...]:
    """The events of several runs: the rounds of each come after those of the one before."""
    events: list[LedgerEvent] = []
    start = 0
    for run in runs:
        events += (replace(event, round=start + event.round) for event in run)
        start = 1 + max((event.round for event in events), default=-1)
    return tuple(events)


def charged(ledger: Ledger, tuning: Tuning) -> tuple[Ledger, ...]:
    """A run's ledger with the releases of all trials that were made to choose its plan; the largest ε counts.

    The same clients took part in all of them, so they compose one after the other, as rounds of one run do. The first
    ledger is of the run that was made. How much a run spends must not depend on what trials released: where candidates
    differ in that, there is a ledger for each that could have been chosen, its run as in its first trial.

    Guarantees: ε of the models and everything else that the trials and the run released.
    Assumes: the trials had the run's threat model and adjacency. Of candidates that differ in what they spend, one
        spends the most at every δ, as is so for Gaussian noise of different σ or over different numbers of rounds.
    Does not hide: validation scores. Where the validation records are clients' own, the choice depends on them
        without noise, and no ε covers it; where they are public, the choice is a function of what was released.
    Reference: Dwork, Rothblum and Vadhan 2010 (composition). Sharper bounds for the best of many (Liu and Talwar 2019;
        Papernot and Steinke 2022, which are dp-accounting's RepeatAndSelect) do not apply: they are of a random number
        of runs, with candidates drawn at random and scores that are private themselves, and of all runs only the best
        is released. Here each candidate is tried, and a table of all scores is part of the result.
    """
    return tuple(
        Ledger(
            threat=ledger.threat,
            population=ledger.population,
            adjacency=ledger.adjacency,
            records=ledger.records,
            events=in_a_row([tuning.events, run]),
        )
        for run in (ledger.events, *tuning.instead)
    )


def _for_tuning(federation: Federation, **parts: Any) -> Federation:
    return replace(federation, name=f"{federation.name} (tuning)", test_groups=None, test_names=(), **parts)


def _shown(values: Sequence[Any]) -> list[Any]:
    """Each value as a table shows it: itself where it is plain, else its label."""
    if all(value is None or isinstance(value, bool | int | float | str) for value in values):
        return list(values)
    return list(label_values(values))
