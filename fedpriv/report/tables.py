"""Tables over seeds: means, intervals, paired differences; as data frames, text and LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
EXCLUDED = "ε excludes tuning"
CHARGED = "ε includes tuning"
CHARGED_BUT_SCORES = "ε includes trials, not scores"
"""What a row of a tuned plan says of its ε."""
_NOTES = {
    EXCLUDED: "ε excludes tuning: the trials that chose the plans' values read the same clients' data, and are not "
    "counted.",
    CHARGED: "ε includes tuning: the releases of all trials that chose the plans' values are composed with the run's.",
    CHARGED_BUT_SCORES: "ε includes the models of all trials that chose the plans' values, but not their scores on "
    "clients' validation records, which chose them without noise.",
}
_KEYS = ["federation", "label"]
_MEANS = (
    "accuracy",
    "epsilon",
    "epsilon_of_run",
    "epsilon_server",
    "epsilon_participant",
    "epsilon_public",
    "epsilon_authority",
    "client_bytes_up",
    "client_bytes_down",
    "client_key_bytes",
    "client_seconds",
    "server_seconds",
    "wall_seconds",
    "aborted_rounds",
)


def half_width(values: Iterable[float], confidence: float = CONFIDENCE) -> float:
    """Half the interval of the mean (Student's t), of 95 %; NaN for fewer than two values, or where one is infinite."""
    from scipy import stats  # type: ignore[import-untyped]

    sample = np.asarray([value for value in values if not math.isnan(value)], dtype=float)
    if sample.size < 2 or not np.isfinite(sample).all():
        return math.nan
    spread = sample.std(ddof=1) / math.sqrt(sample.size)
    return float(stats.t.ppf(0.5 + confidence / 2, sample.size - 1) * spread)


def over_seeds(runs: pd.DataFrame, columns: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per federation and label: means over the seeds, ``accuracy_ci`` the half-width of its 95 % interval.

    Of ε the largest over the seeds: a mean of guarantees is none. Where the rows' ``epsilon`` is against different
    observers, or at different δ, a column says which. Of tuned plans the values, and with any ε whether that includes
    the tuning.
    """
    import pandas as pd

    wanted = [columns] if isinstance(columns, str) else list(columns or ())
    for name in wanted:
        if name not in runs.columns or runs[name].dtype.kind not in "fiu":
            raise _not_a_number(runs, name)
    chosen = wanted or [name for name in _MEANS if name in runs.columns]
    tuned = [] if columns else [name for name in runs.columns if name.startswith("tuned_") or name == "trials"]
    if "tuning" in runs and any(name.startswith("epsilon") for name in chosen):
        tuned.append("tuning")
    named = [name for name in ("observer", "delta") if name in runs.columns and runs[name].nunique() > 1]
    rows = []
    for keys, group in runs.groupby(_KEYS, sort=False):
        row: dict[str, Any] = dict(zip(_KEYS, keys, strict=True))
        row["seeds"] = int((group["refused"] == "").sum())
        for name in chosen:
            row[name] = group[name].max() if name.startswith("epsilon") else group[name].mean()
            if name == "epsilon":
                row |= {which: group[which].bfill().iloc[0] for which in named}
            if name == "accuracy":
                row["accuracy_ci"] = half_width(group[name])
        row |= {name: _together(group[name]) for name in tuned}
        if len(group) == 1 and "sha256" in group:  # one seed: labels with the same model are seen at a glance
            row["sha256"] = "" if group["refused"].any() else str(group["sha256"].iloc[0])[:12]
        row["refused"] = next((reason for reason in group["refused"] if reason), "")
        rows.append(row)
    table = pd.DataFrame(rows)
    return table if table["refused"].any() else table.drop(columns="refused")


def _together(values: pd.Series[Any]) -> Any:
    """One value where the seeds have the same; else all of them, in words."""
    there = list(dict.fromkeys(value for value in values if value is not None and value == value and value != ""))
    if not there:
        return "" if values.name == "tuning" else None
    return there[0] if len(there) == 1 else " / ".join(map(str, there))


def tuning_note(runs: pd.DataFrame) -> str:
    """What has to be said under a table of tuned plans; empty where no ε of one is finite."""
    said = set(runs["tuning"]) if "tuning" in runs else set()
    return " ".join(words for mark, words in _NOTES.items() if mark in said)


def paired_differences(runs: pd.DataFrame, baseline: str, y: str) -> pd.DataFrame:
    """Differences to a label over the same seeds of the same federation: mean and 95 % interval."""
    import pandas as pd

    rows = []
    for keys, pairs in _pairs(runs, baseline, y):
        mean, half = float(np.mean(pairs)) if pairs else math.nan, half_width(pairs)
        rows.append({**keys, "pairs": len(pairs), "difference": mean, "low": mean - half, "high": mean + half})
    return pd.DataFrame(rows)


def equivalence(runs: pd.DataFrame, baseline: str, within: float, y: str, alpha: float = 0.05) -> pd.DataFrame:
    """Two one-sided tests of the differences to a label over the same seeds; see :meth:`fedpriv.Study.equivalent`."""
    import pandas as pd

    if not (math.isfinite(within) and within > 0):
        raise ConfigurationError(
            "The largest difference that is taken to be none is finite and > 0.", value=within, remedy="Give 0.01."
        )
    if not 0.0 < alpha < 0.5:
        raise ConfigurationError("A test's level is in (0, 0.5).", value=alpha, remedy="Give alpha=0.05.")
    rows = []
    for keys, pairs in _pairs(runs, baseline, y):
        mean, half = float(np.mean(pairs)) if pairs else math.nan, half_width(pairs, confidence=1 - 2 * alpha)
        p = two_one_sided(pairs, within)
        apart = mean - half > within or mean + half < -within
        rows.append(
            {
                **keys,
                "pairs": len(pairs),
                "difference": mean,
                "low": mean - half,
                "high": mean + half,
                "within": within,
                "p": p,
                "verdict": "equivalent" if p < alpha else "different" if apart else "undecided",
            }
        )
    return pd.DataFrame(rows)


def two_one_sided(differences: Sequence[float], within: float) -> float:
    """The p-value against a mean difference of at least ``within``; NaN for fewer than two (Schuirmann 1987)."""
    from scipy import stats

    sample = np.asarray(differences, dtype=float)
    if sample.size < 2:
        return math.nan
    room = within - abs(float(sample.mean()))  # of the two tests the one with less room has the larger p
    error = float(sample.std(ddof=1)) / math.sqrt(sample.size)
    if error == 0.0:
        return 0.0 if room > 0 else 1.0
    return float(stats.t.sf(room / error, sample.size - 1))


def _pairs(runs: pd.DataFrame, baseline: str, y: str) -> Iterator[tuple[dict[str, str], list[float]]]:
    """Of every federation and other label, the differences of the seeds at which both have a finite value."""
    labels = list(dict.fromkeys(runs["label"]))
    if baseline not in labels:
        raise ConfigurationError(
            f"The baseline is one of {labels}.", value=baseline, remedy="Use a label of the study."
        )
    if y not in runs.columns or runs[y].dtype.kind not in "fiu":
        raise _not_a_number(runs, y)
    wide = runs.pivot(index=["federation", "seed"], columns="label", values=y)[labels]
    for place in dict.fromkeys(runs["federation"]):
        here = wide.loc[place]
        for label in [name for name in labels if name != baseline]:
            # ∞ − ∞ is no difference.
            both = here[[label, baseline]].replace([np.inf, -np.inf], np.nan).dropna()
            pairs = [float(difference) for difference in both[label] - both[baseline]]
            yield {"federation": place, "label": label, "baseline": baseline}, pairs


def _not_a_number(runs: pd.DataFrame, name: str) -> ConfigurationError:
    known = [str(column) for column in runs.columns if runs[column].dtype.kind in "fiu"]
    return ConfigurationError(f"The columns of numbers are {', '.join(known)}.", value=name, remedy="Use one of them.")


def number(value: Any, digits: int = 3) -> str:
    """A number as a reader wants it: ∞ as a sign, NaN as a dash, large and small ones short."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | str):
        return str(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, int):
        return f"{value:,}"
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"


def text(table: pd.DataFrame, max_width: int = 44) -> str:
    """A table in plain text, aligned, for a terminal; names wider than their column are broken at ``_`` and space."""
    body = [[_cut(number(value), max_width) for value in row] for row in table.itertuples(index=False)]
    names = [_broken(str(name), max((len(row[i]) for row in body), default=0)) for i, name in enumerate(table.columns)]
    height = max(map(len, names), default=1)
    head = [[name[i - height] if i >= height - len(name) else "" for name in names] for i in range(height)]
    widths = [max(len(line[i]) for line in [*head, *body]) for i in range(len(names))]
    numeric = [table.dtypes.iloc[i].kind in "fiu" for i in range(len(names))]

    def line(cells: list[str]) -> str:
        aligned = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)]
        return "  ".join(aligned).rstrip()

    rule = "  ".join("─" * width for width in widths)
    return "\n".join([*map(line, head), rule, *map(line, body)])


def _broken(name: str, width: int) -> list[str]:
    """A column's name on as many lines as it takes to be no wider than the column, or than its longest word."""
    words = re.findall(r"[^_ ]+_?", name)
    width = max([width, *map(len, words)])
    lines = [""]
    for word in words:
        glue = "" if not lines[-1] or lines[-1].endswith("_") else " "
        if lines[-1] and len(lines[-1] + glue + word) > width:
            lines.append(word)
        else:
            lines[-1] += glue + word
    return lines


def latex(table: pd.DataFrame, caption: str) -> str:
    """A table in the style of booktabs; the document loads that package."""
    head = " & ".join(_escape(str(name).replace("_", " ")) for name in table.columns)
    rows = [" & ".join(_escape(number(value)) for value in row) for row in table.itertuples(index=False)]
    align = "".join("r" if kind.kind in "fiu" else "l" for kind in table.dtypes)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape(caption)}}}",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *(row + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "∞": r"$\infty$",
    "ε": r"$\varepsilon$",
    "δ": r"$\delta$",
    "σ": r"$\sigma$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "→": r"$\to$",
    "⌈": r"$\lceil$",
    "⌉": r"$\rceil$",
    "⌊": r"$\lfloor$",
    "⌋": r"$\rfloor$",
    "±": r"$\pm$",
    "ℤ": "Z",
    "…": r"\dots{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\n": " ",
}


def _escape(words: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in words)


def _cut(words: str, width: int) -> str:
    return words if len(words) <= width else words[: width - 1] + "…"
