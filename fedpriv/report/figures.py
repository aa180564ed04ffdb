"""Figures that go straight into a paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.errors import ConfigurationError
from fedpriv.report.tables import half_width, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008: distinguishable with every kind of colour vision, and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MOST_TICKS = 8
MOST_LETTERS = 70
INCHES_A_LETTER = 0.07
MOST_INSIDE = 5
"""Longer legends stand beside the axes."""
STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def new_figure(width: float = 5.6, height: float = 3.6, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of the library's style, drawn without any window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, columns, place + 1) for place in range(columns)]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", alpha=0.25, linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes


def over_rounds(frames: Mapping[str, pd.DataFrame], y: str) -> Figure:
    """A column over the rounds, one line per frame."""
    figure, (axes,) = new_figure()
    for place, (label, frame) in enumerate(frames.items()):
        known = frame.dropna(subset=[_numbers(frame, y)])
        axes.plot(known["round"], known[y], marker=".", color=_colour(place), label=label)
    _finish(axes, "round", y, len(frames) > 1)
    return figure


def curves(rounds: pd.DataFrame, y: str) -> Figure:
    """A column over the rounds, one line per label: mean over the seeds, band of the 95 % interval."""
    figure, (axes,) = new_figure()
    known = rounds.dropna(subset=[_numbers(rounds, y)])
    groups = list(known.groupby(["federation", "label"], sort=False))
    for place, ((federation, label), group) in enumerate(groups):
        steps = group.groupby("round")[y]
        mean, half = steps.mean(), steps.apply(half_width)
        style = STYLES[place // len(COLOURS) % len(STYLES)]
        name = _label(known, federation, label)
        axes.plot(mean.index, mean, color=_colour(place), linestyle=style, label=name)
        axes.fill_between(mean.index, mean - half, mean + half, color=_colour(place), alpha=0.2, linewidth=0)
    _finish(axes, "round", y, len(groups) > 1)
    return figure


def trade_off(runs: pd.DataFrame, x: str, y: str, axes: Axes | None = None) -> Figure:
    """``y`` against ``x``: means over the seeds, error bars of the 95 % interval.

    Where x is a number, one line per aggregation; ∞ has a place of its own at the right. Else one bar position a label.
    """
    figure, (axes,) = new_figure() if axes is None else (axes.get_figure(root=True), [axes])
    known = runs.dropna(subset=[_numbers(runs, y)])
    if x == "label" or known[_column(known, x)].dtype.kind not in "fiu":
        _by_category(axes, known, x, y)
    else:
        _by_number(axes, known, x, y)
    if figure is None:
        raise ConfigurationError("The axes belong to a figure.", remedy="Make them with plt.subplots().")
    return figure


def bars(axes: Axes, frame: pd.DataFrame, x: str, columns: Mapping[str, str]) -> None:
    """Columns of a table side by side, on a logarithmic axis, each bar with its value.

    Args:
        axes: where to draw.
        frame: one row per group of bars.
        x: the column that names the groups.
        columns: column → what the legend calls it.
    """
    width = 0.8 / len(columns)
    for place, (column, words) in enumerate(columns.items()):
        at = np.arange(len(frame)) + width * (place - (len(columns) - 1) / 2)
        drawn = axes.bar(at, frame[column], width=0.92 * width, color=_colour(place), label=words)
        axes.bar_label(drawn, [number(value, 2) for value in frame[column]], fontsize="x-small", padding=2)
    axes.set_yscale("log")
    axes.margins(y=0.12)
    axes.set_xticks(range(len(frame)), list(frame[x]))
    axes.legend(frameon=False, fontsize="small", loc="upper left")


def _by_category(axes: Axes, runs: pd.DataFrame, x: str, y: str) -> None:
    names = list(dict.fromkeys(runs[x]))
    places = list(dict.fromkeys(runs["federation"]))
    for shift, place in enumerate(places):
        part = runs[runs["federation"] == place].groupby(x, sort=False)[y]
        mean, half = part.mean(), [_or_zero(half_width(group)) for _, group in part]
        at = [names.index(name) + 0.16 * (shift - (len(places) - 1) / 2) for name in mean.index]
        axes.errorbar(
            at, mean, yerr=half, fmt=MARKERS[shift % len(MARKERS)], capsize=3, color=_colour(shift), label=place
        )
    crowded = len(names) > 2
    # Many long names stand upright under their points, in a figure that is taller by what they take.
    long = sum(map(len, names)) > MOST_LETTERS
    turn = 90 if long else (20 if crowded else 0)
    axes.set_xticks(range(len(names)), names, rotation=turn, ha="center" if long or not crowded else "right")
    figure = axes.get_figure(root=True)
    if long and figure is not None and len(figure.axes) == 1:
        axes.tick_params(axis="x", labelsize="small")
        figure.set_figheight(figure.get_figheight() + INCHES_A_LETTER * max(map(len, names)))
    _finish(axes, "" if x == "label" else x, y, len(places) > 1)


def _by_number(axes: Axes, runs: pd.DataFrame, x: str, y: str) -> None:
    # A point is a label over its seeds, whatever x is: seeds may differ in x, and labels may share it. A mean of ε over
    # seeds would be no guarantee.
    points = runs.groupby(["federation", "aggregation", "label"], sort=False, as_index=False).agg(
        at=(x, "max" if x.startswith("epsilon") else "mean"),
        mean=(y, "mean"),
        half=(y, lambda values: _or_zero(half_width(values))),
    )
    finite = sorted({value for value in points["at"] if math.isfinite(value)})
    logarithmic = len(finite) > 1 and finite[0] > 0 and finite[-1] / finite[0] > 8
    beyond = (finite[-1] * 2.5 if logarithmic else finite[-1] * 1.25 + 0.25) if finite else 1.0
    groups = list(points.groupby(["federation", "aggregation"], sort=False))
    for place, ((federation, aggregation), group) in enumerate(groups):
        group = group.sort_values("at", kind="stable")
        at, inside = group["at"].replace(np.inf, beyond), np.isfinite(group["at"])
        marker, colour = MARKERS[place % len(MARKERS)], _colour(place)
        label = _label(runs, federation, aggregation)
        axes.errorbar(at, group["mean"], yerr=group["half"], label=label, fmt=marker, color=colour, capsize=3)
        axes.plot(at[inside], group["mean"][inside], color=colour)
    if logarithmic:
        axes.set_xscale("log")
    shown = _apart(finite, logarithmic)
    shown = shown if len(shown) <= MOST_TICKS else shown[:: -(-len(shown) // MOST_TICKS)]
    ends = [beyond] if np.isinf(points["at"]).any() else []
    axes.set_xticks([*shown, *ends], [*map(number, shown), *(["∞"] if ends else [])])
    axes.minorticks_off()
    _finish(axes, x, y, len(groups) > 1)
    if x == "epsilon" and "observer" in runs.columns:
        axes.set_xlabel(_against(runs))


def _apart(values: list[float], logarithmic: bool) -> list[float]:
    """Those of the sorted values whose ticks do not run into one another."""
    scale = math.log if logarithmic else float
    kept: list[float] = []
    for value in values:
        if not kept or scale(value) - scale(kept[-1]) > 0.08 * (scale(values[-1]) - scale(values[0])):
            kept.append(value)
    return kept


def _against(runs: pd.DataFrame) -> str:
    """There is no "the ε": the axis says whose, and at which δ, where that is one."""
    observers = list(dict.fromkeys(runs["observer"]))
    deltas = list(dict.fromkeys(runs["delta"].dropna())) if "delta" in runs.columns else []
    at = f", δ = {deltas[0]:.3g}" if len(deltas) == 1 else ""
    return f"ε against {'the ' if len(observers) == 1 else ''}{', '.join(map(str, observers))}{at}"


def _finish(axes: Axes, x: str, y: str, legend: bool) -> None:
    names = {"epsilon": "ε", "accuracy": "test accuracy", "client_bytes_up": "bytes sent per client and round"}
    axes.set_xlabel(names.get(x, x.replace("_", " ")))
    axes.set_ylabel(names.get(y, y.replace("_", " ")))
    entries = len(axes.get_legend_handles_labels()[1])
    figure = axes.get_figure(root=True)
    if legend and entries > MOST_INSIDE and figure is not None and len(figure.axes) == 1:
        axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
        longest = max(map(len, axes.get_legend_handles_labels()[1]))
        figure.set_figwidth(figure.get_figwidth() + 0.5 + INCHES_A_LETTER * longest)
        figure.set_figheight(max(figure.get_figheight(), 0.19 * entries + 0.6))
    elif legend:
        axes.legend(frameon=False, fontsize="small")


def _label(frame: pd.DataFrame, federation: object, label: object) -> str:
    return f"{federation}: {label}" if frame["federation"].nunique() > 1 else str(label)


def _column(frame: pd.DataFrame, name: str) -> str:
    if name not in frame.columns:
        raise ConfigurationError(
            f"The table has the columns {', '.join(map(str, frame.columns))}.", value=name, remedy="Use one of them."
        )
    return name


def _numbers(frame: pd.DataFrame, name: str) -> str:
    if frame[_column(frame, name)].dtype.kind not in "fiu":
        raise ConfigurationError(
            "What is drawn upwards is a column of numbers.", value=name, remedy='Use y="accuracy", for instance.'
        )
    return name


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]
