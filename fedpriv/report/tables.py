"""Tables over seeds: means, intervals, paired differences; as data frames, text and LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fedpriv.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
_KEYS = ["federation", "label"]
_MEANS = (
    "accuracy",
    "epsilon",
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


def half_width(values: Iterable[float]) -> float:
    """Half the 95 % interval of the mean (Student's t); NaN for fewer than two values, or where one is infinite."""
    from scipy import stats  # type: ignore[import-untyped]

    sample = np.asarray([value for value in values if not math.isnan(value)], dtype=float)
    if sample.size < 2 or not np.isfinite(sample).all():
        return math.nan
    spread = sample.std(ddof=1) / math.sqrt(sample.size)
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, sample.size - 1) * spread)


def over_seeds(runs: pd.DataFrame, columns: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per federation and label: means over the seeds, ``accuracy_ci`` the half-width of its 95 % interval.

    Of ε the largest over the seeds: a mean of guarantees is none. Where the rows' ``epsilon`` is against different
    observers, or at different δ, a column says which.
    """
    import pandas as pd

    wanted = [columns] if isinstance(columns, str) else list(columns or ())
    for name in wanted:
        if name not in runs.columns or runs[name].dtype.kind not in "fiu":
            raise _not_a_number(runs, name)
    chosen = wanted or [name for name in _MEANS if name in runs.columns]
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
        if len(group) == 1 and "sha256" in group:  # one seed: labels with the same model are seen at a glance
            row["sha256"] = "" if group["refused"].any() else str(group["sha256"].iloc[0])[:12]
        row["refused"] = next((reason for reason in group["refused"] if reason), "")
        rows.append(row)
    table = pd.DataFrame(rows)
    return table if table["refused"].any() else table.drop(columns="refused")


def paired_differences(runs: pd.DataFrame, baseline: str, y: str) -> pd.DataFrame:
    """Differences to a label over the same seeds of the same federation: mean and 95 % interval."""
    import pandas as pd

    labels = list(dict.fromkeys(runs["label"]))
    if baseline not in labels:
        raise ConfigurationError(
            f"The baseline is one of {labels}.", value=baseline, remedy="Use a label of the study."
        )
    if y not in runs.columns or runs[y].dtype.kind not in "fiu":
        raise _not_a_number(runs, y)
    wide = runs.pivot(index=["federation", "seed"], columns="label", values=y)[labels]
    rows = []
    for place in dict.fromkeys(runs["federation"]):
        here = wide.loc[place]
        for label in [name for name in labels if name != baseline]:
            # A seed counts where both runs have a finite value: ∞ − ∞ is no difference.
            both = here[[label, baseline]].replace([np.inf, -np.inf], np.nan).dropna()
            pairs = both[label] - both[baseline]
            mean, half = float(pairs.mean()) if len(pairs) else math.nan, half_width(pairs)
            rows.append(
                {
                    "federation": place,
                    "label": label,
                    "baseline": baseline,
                    "pairs": len(pairs),
                    "difference": mean,
                    "low": mean - half,
                    "high": mean + half,
                }
            )
    return pd.DataFrame(rows)


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
