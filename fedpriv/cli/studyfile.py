"""Studies as Python files."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv.data import Federation
from fedpriv.engine.plan import Plan
from fedpriv.engine.processes import Processes
from fedpriv.errors import ConfigurationError, FedprivError
from fedpriv.report.saving import check_replaceable
from fedpriv.report.tables import number, text
from fedpriv.study import Study, compare
from fedpriv.study.tuning import Tuning

if TYPE_CHECKING:
    import pandas as pd

_TUNING = ("tune", "select", "tune_seeds", "held_out", "charge_tuning")
_OPTIONAL = ("noise", "observer", "delta", "evaluate_every", "on_invalid", *_TUNING)
_NAMES = ("federation", "plan", "plans", "seeds", "ideal", "x", "y", *_OPTIONAL)
_SHOWN = (
    "accuracy",
    "epsilon",
    "client_bytes_up",
    "client_bytes_down",
    "client_seconds",
    "wall_seconds",
    "aborted_rounds",
)


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """What a study file defines."""

    path: Path
    federation: Any
    plans: Mapping[str, Plan]
    seeds: tuple[int, ...]
    ideal: bool
    options: Mapping[str, Any]
    x: str
    y: str

    @property
    def name(self) -> str:
        return self.path.stem


def load(path: str) -> StudyFile:
    """Execute a study file and take what it defines.

    Raises:
        ConfigurationError: no such file, or it does not define what a study needs.
    """
    file = Path(path)
    if not file.is_file() or file.suffix != ".py":
        raise ConfigurationError(
            "A study is a file that is there and ends in .py.", value=path, remedy="See `fedpriv run --help`."
        )
    names = runpy.run_path(str(file))
    missing = [name for name in ("federation", "plans") if name not in names]
    if missing:
        raise ConfigurationError(
            "A study defines `federation` and `plans`.",
            value=f"{path} lacks {', '.join(missing)}",
            remedy="See `fedpriv run --help`.",
        )
    for name in [name for name in names if not name.startswith("_") and name not in _NAMES]:
        meant = get_close_matches(name, _NAMES, n=1, cutoff=0.85)
        if meant and not callable(names[name]):
            raise ConfigurationError(
                "A study's options are told by their names.", value=name, remedy=f"Write {meant[0]}, or rename it."
            )
    plans = names["plans"]
    if isinstance(plans, Plan):
        plans = {"plan": plans}
    if not isinstance(plans, Mapping) or not all(isinstance(plan, Plan) for plan in plans.values()):
        raise ConfigurationError(
            "`plans` is a Plan or {label: Plan}.", value=type(plans).__name__, remedy="Use fp.grid(plan, …)."
        )
    federation = names["federation"]
    if not (isinstance(federation, Federation | Mapping) or callable(federation)):
        raise ConfigurationError(
            "`federation` is a Federation, a function seed -> Federation, or {name: federation}.",
            value=type(federation).__name__,
            remedy="Use fp.data.digits(…), fp.data.federate(…).",
        )
    seeds = names.get("seeds", (0,))
    if not isinstance(seeds, Iterable):
        raise ConfigurationError(
            "`seeds` are a list of integers.", value=seeds, remedy=f"Write seeds = range({seeds})."
        )
    return StudyFile(
        path=file,
        federation=federation,
        plans=plans,
        seeds=tuple(seeds),
        ideal=bool(names.get("ideal", False)),
        options={name: names[name] for name in _OPTIONAL if name in names},
        x=names.get("x", "label"),
        y=names.get("y", "accuracy"),
    )


def run_study(
    study: StudyFile,
    *,
    out: str | None,
    seeds: int | None,
    ideal: bool,
    resume: bool = False,
    every: int = 10,
    workers: int | None = None,
) -> Study:
    """Run, print the table, save. Until it is saved, a folder beside the results holds its checkpoints.

    Raises:
        ConfigurationError: there are checkpoints, and ``resume`` is not given.
        KeyboardInterrupt: with a message: it was interrupted.
    """
    target = out or f"results/{study.name}"
    check_replaceable(target)
    kept = Path(f"{target.rstrip('/')}.checkpoint")
    if not resume and kept.exists():
        raise ConfigurationError(
            "A study begins anew where no unfinished one lies.",
            value=str(kept),
            remedy="Go on with it by --resume, or remove this folder.",
        )
    chosen = tuple(range(seeds)) if seeds is not None else study.seeds
    try:
        result = compare(
            study.federation,
            study.plans,
            seeds=chosen,
            ideal=ideal or study.ideal,
            checkpoint=kept,
            every=every,
            executor=Processes(workers) if workers is not None else None,
            **dict(study.options),
        )
        if result.partial:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; what is done lies in {kept}: go on with --resume.") from None
    table = result.table([name for name in _SHOWN if name in result.frame.columns])
    print(text(table.drop(columns="refused", errors="ignore")))
    for tuning in result.tunings:
        print(f"\n{_tuned(tuning)}")
    if result.note:
        print(f"\n{result.note}")
    for reason in dict.fromkeys(table.get("refused", [])):
        if reason:
            refused = [_name(row) for _, row in table.iterrows() if row["refused"] == reason]
            print(f"\nRefused: {', '.join(refused)}. {reason}")
    folder = result.save(target, x=study.x, y=study.y)
    shutil.rmtree(kept, ignore_errors=True)
    print(f"\nSaved to {folder}.")
    return result


def explain_study(study: StudyFile) -> None:
    """Say what each plan will do over each federation, or why it is refused."""
    sources = study.federation if isinstance(study.federation, Mapping) else {"": study.federation}
    for place, source in sources.items():
        federation = source if isinstance(source, Federation) else source(study.seeds[0])
        for label, plan in study.plans.items():
            print(f"── {' · '.join(part for part in (place, label) if part)}")
            try:
                print(plan.resolve(federation).explain())
            except FedprivError as error:
                print(f"refused: {type(error).__name__}: {error}")
            print()


def _tuned(tuning: Tuning) -> str:
    """What tuning chose, and by what."""
    of = "" if tuning.seed is None else f", seed {tuning.seed}"
    values = ", ".join(f"{path} = {number(value)}" for path, value in tuning.values.items()) or "nothing"
    return (
        f"Tuned: {tuning.federation} · {tuning.label}{of}: {values}; {len(tuning.trials)} trials, seeds "
        f"{', '.join(map(str, tuning.seeds))}, on {tuning.records} validation records ({tuning.validation})."
    )


def _name(row: pd.Series[Any]) -> str:
    return f"{row['federation']} · {row['label']}"
