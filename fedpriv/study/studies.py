"""What a comparison returns: its runs, as tables and figures."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.report.tables import CHARGED, CHARGED_BUT_SCORES, EXCLUDED
from fedpriv.study.cells import Cell, Refusal
from fedpriv.study.runs import Run, epsilon_of
from fedpriv.study.tuning import Tuning, charged

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Study:
    """The runs of a comparison, as tables and figures."""

    cells: tuple[Cell, ...]
    partial: bool = False
    """Whether an interruption ended the study: runs are missing."""
    charge_tuning: bool = False
    """Whether ε includes the trials by which plans were tuned."""

    def __repr__(self) -> str:
        refused = sum(isinstance(cell.outcome, Refusal) for cell in self.cells)
        labels = len({(cell.federation, cell.label) for cell in self.cells})
        interrupted = ", interrupted" if self.partial else ""
        return f"Study({labels} cells, {len(self.cells)} runs, {refused} refused{interrupted})"

    def _repr_html_(self) -> str:
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        return self.table().to_html(float_format="{:.4g}".format) + note

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

        Where plans were tuned, besides:

        - ``tuned_<path>``: the value that was chosen; ``validation_accuracy``: its mean over the tuning seeds.
        - ``trials``: how many runs were made or refused to choose it, with the seeds ``tune_seeds``;
          ``validation_records``: how many records they were measured on, and ``validation``: whose these are.
        - ``tuning``: whether the row's ε include the trials. Where they are charged, all columns of ε are, and
          ``epsilon_of_run`` is what ``epsilon`` would be without them.

        A refused plan is a row with its reason in ``refused``.
        """
        import pandas as pd

        return pd.DataFrame([_row(cell, self.charge_tuning) for cell in self.cells])

    @cached_property
    def tunings(self) -> tuple[Tuning, ...]:
        """What was tried and chosen, once for each plan and federation; empty where nothing was tuned."""
        return tuple({id(cell.tuning): cell.tuning for cell in self.cells if cell.tuning is not None}.values())

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial: a combination of values with a tuning seed.

        ``accuracy`` and ``loss`` on the validation records; ``refused``: why there are none; ``chosen``: whether the
        report's runs have these values; ``seed``: of the report, where its federation is a function of the seed.
        """
        import pandas as pd

        paths = dict.fromkeys(path for tuning in self.tunings for path in tuning.trials[0].values)
        return pd.DataFrame(
            [
                {
                    "federation": tuning.federation,
                    "label": tuning.label,
                    "seed": np.nan if tuning.seed is None else tuning.seed,
                    **{f"tuned_{path}": trial.values.get(path) for path in paths},
                    "tune_seed": trial.seed,
                    "accuracy": trial.accuracy,
                    "loss": trial.loss,
                    "chosen": trial.values == tuning.values,
                    "refused": trial.refused,
                }
                for tuning in self.tunings
                for trial in tuning.trials
            ]
        )

    @property
    def note(self) -> str:
        """What stands under every table of tuned plans with a finite ε; empty where there are none."""
        from fedpriv.report.tables import tuning_note

        return tuning_note(self.frame)

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

    def equivalent(self, baseline: str, within: float, y: str = "accuracy", alpha: float = 0.05) -> pd.DataFrame:
        """Whether ``y`` is the same as one label's, up to ±``within``: two one-sided paired t-tests over the seeds.

        One row per federation and other label:

        - ``pairs``: how many seeds it rests on; ``difference``: their mean; ``low``, ``high``: its 1 - 2 ``alpha``
          interval, which lies inside ±``within`` exactly where the test says "equivalent".
        - ``p``: the larger of the two one-sided p-values; NaN for fewer than two pairs.
        - ``verdict``: ``"equivalent"``: p < ``alpha``; ``"different"``: the interval lies outside ±``within``;
          ``"undecided"``: the seeds are too few, or differ too much, for either. No difference found is not
          equivalence.

        Each row is a test at ``alpha`` by itself; several rows are not corrected for.

        Args:
            baseline: the label to compare with.
            within: the largest difference that is taken to be none, > 0, in units of ``y``; chosen before looking.
            y: a column of :attr:`frame`.
            alpha: the probability to call a difference of ``within`` or more equivalent, in (0, 0.5).

        Reference: Schuirmann 1987, A comparison of the two one-sided tests procedure and the power approach.

        Raises:
            ConfigurationError: no run has this label, no such column, ``within`` or ``alpha`` out of range.
        """
        from fedpriv.report.tables import equivalence

        return equivalence(self.frame, baseline, within, y, alpha)

    def learns(self) -> pd.DataFrame:
        """Who learns what: one row per label and party."""
        import pandas as pd

        seen: dict[str, dict[str, str]] = {}
        for cell in self.cells:
            if isinstance(cell.outcome, Run):
                seen.setdefault(cell.label, dict(cell.outcome.learns))
        return pd.DataFrame.from_dict(seen, orient="index").rename_axis("label").reset_index().fillna("–")

    def plot(self, x: str = "label", y: str = "accuracy") -> Figure:
        """``y`` against ``x`` with error bars over the seeds: a column of :attr:`frame`, or ``"round"`` for curves.

        Below a figure of any ε of tuned plans stands whether that includes the tuning.
        """
        from fedpriv.report import figures

        if x == "round":
            return figures.curves(self.rounds, y)
        figure = figures.trade_off(self.frame, x, y)
        if any(name.startswith("epsilon") for name in (x, y)) and self.note:
            marks = dict.fromkeys(mark for mark in self.frame["tuning"] if mark and isinstance(mark, str))
            figure.supxlabel("; ".join(marks), fontsize="small")
        return figure

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
        return latex(self.table(columns), caption=" ".join(filter(None, [caption, self.note])))

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
        tables = {"trials": self.trials} if self.tunings else {}
        if self.tunings:
            about |= {
                "tuning": [tuning.describe() for tuning in self.tunings],
                "charge_tuning": self.charge_tuning,
                "note": self.note,
            }
        return save(
            folder,
            tables={
                "runs": self.frame,
                "rounds": self.rounds.drop(columns="sha256", errors="ignore"),
                "table": self.table(),
                **tables,
            },
            documents={"study": about},
            figures={"study": self.plot(x=x, y=y)},
            texts={"table.tex": self.to_latex()},
        )


def _row(cell: Cell, charge: bool) -> dict[str, Any]:
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
    if cell.tuning is not None:
        row |= _tuned(cell.tuning)
    if isinstance(cell.outcome, Refusal):
        return row | {"accuracy": np.nan, "epsilon": np.nan, "refused": cell.outcome.reason}
    run = cell.outcome
    summary = run.summary(cell.delta)
    row |= {"epsilon": epsilon_of(run.ledger, summary["delta"], cell.observer)} | summary
    if cell.tuning is not None and charge:
        row["epsilon_of_run"] = row["epsilon"]
        for ledger in charged(run.ledger, cell.tuning):
            whole = {"epsilon": epsilon_of(ledger, summary["delta"], cell.observer)}
            whole |= replace(run, ledger=ledger).summary(cell.delta)
            row |= {name: float(np.maximum(row[name], whole[name])) for name in whole if name.startswith("epsilon")}
    if cell.tuning is not None and any(np.isfinite(row[name]) for name in row if name.startswith("epsilon")):
        row["tuning"] = EXCLUDED if not charge else CHARGED if cell.tuning.public else CHARGED_BUT_SCORES
    return row


def _tuned(tuning: Tuning) -> dict[str, Any]:
    return {
        **{f"tuned_{path}": value for path, value in tuning.values.items()},
        "trials": len(tuning.trials),
        "tune_seeds": ", ".join(map(str, tuning.seeds)),
        "validation": tuning.validation,
        "validation_records": tuning.records,
        "validation_accuracy": tuning.accuracy,
        "tuning": "",
    }


def _about(cell: Cell) -> dict[str, Any]:
    about: dict[str, Any] = {
        "federation": cell.federation,
        "label": cell.label,
        "seed": cell.seed,
        "plan": cell.plan.describe(),
    }
    if cell.tuning is not None:
        about["tuned"] = dict(cell.tuning.values)
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
