"""Figures draw what the tables say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedpriv.errors import ConfigurationError
from fedpriv.report.figures import curves, new_figure, over_rounds, trade_off
from fedpriv.report.tables import half_width


def runs(rows: list[tuple[str, str, float, float]], federation: str = "f") -> pd.DataFrame:
    """Rows of (aggregation, label, ε, accuracy)."""
    columns = ["aggregation", "label", "epsilon", "accuracy"]
    return pd.DataFrame(rows, columns=columns).assign(federation=federation)


def bars_of(axes: Any) -> list[tuple[list[float], list[float], list[float]]]:
    """Per error-bar container: x, mean, half-width."""
    found = []
    for container in axes.containers:
        line, _, (ranges,) = container.lines
        halves = [(segment[1][1] - segment[0][1]) / 2 for segment in ranges.get_segments()]
        found.append((list(map(float, line.get_xdata())), list(map(float, line.get_ydata())), halves))
    return found


TWO = runs(
    [
        *(("PlainSum", "p1", 1.0, accuracy) for accuracy in (0.5, 0.7)),
        *(("PlainSum", "p2", 2.0, accuracy) for accuracy in (0.8, 0.9)),
        *(("PlainSum", "none", np.inf, accuracy) for accuracy in (0.95, 0.97)),
    ]
)


class TestTradeOff:
    def test_error_bars_are_the_interval_over_seeds(self) -> None:
        (axes,) = trade_off(TWO, "epsilon", "accuracy").axes
        ((x, mean, half),) = bars_of(axes)
        assert mean == pytest.approx([0.6, 0.85, 0.96])
        assert half == pytest.approx([half_width([0.5, 0.7]), half_width([0.8, 0.9]), half_width([0.95, 0.97])])
        assert x[:2] == [1.0, 2.0]

    def test_infinity_stands_at_the_right_and_no_line_leads_there(self) -> None:
        (axes,) = trade_off(TWO, "epsilon", "accuracy").axes
        ((x, _, _),) = bars_of(axes)
        assert x[2] > 2.0
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "∞"]
        assert axes.get_xticks().tolist() == x
        connecting = [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]
        assert [list(line.get_xdata()) for line in connecting] == [[1.0, 2.0]]

    def test_only_infinity(self) -> None:
        frame = TWO[TWO["label"] == "none"]
        (axes,) = trade_off(frame, "epsilon", "accuracy").axes
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["∞"]

    def test_axes_are_named_as_a_reader_expects(self) -> None:
        (axes,) = trade_off(TWO, "epsilon", "accuracy").axes
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("ε", "test accuracy")
        assert axes.get_legend() is None

    def test_epsilon_is_against_somebody(self) -> None:
        """There is no "the ε"."""
        (axes,) = trade_off(TWO.assign(observer="public", delta=1e-5), "epsilon", "accuracy").axes
        assert axes.get_xlabel() == "ε against the public, δ = 1e-05"
        frame = TWO.assign(observer=["server"] * 3 + ["public"] * 3, delta=[1e-5, 1e-6] * 3)
        (axes,) = trade_off(frame, "epsilon", "accuracy").axes
        assert axes.get_xlabel() == "ε against server, public"

    def test_ticks_do_not_run_into_one_another(self) -> None:
        frame = runs([("PlainSum", str(e), e, 0.5) for e in (6000.0, 6551.0, 6632.0, 65814.0)])
        (axes,) = trade_off(frame, "epsilon", "accuracy").axes
        assert axes.get_xticks().tolist() == [6000.0, 65814.0]

    def test_long_names_stand_upright_in_a_taller_figure(self) -> None:
        short, long = (trade_off(TWO.assign(label=TWO["label"] + "x" * n), "label", "accuracy") for n in (0, 40))
        assert long.axes[0].get_xticklabels()[0].get_rotation() == 90
        assert long.get_figheight() > short.get_figheight() + 2

    def test_what_is_drawn_upwards_is_a_number(self) -> None:
        with pytest.raises(ConfigurationError, match=r"column of numbers.*'label'"):
            trade_off(TWO, "epsilon", "label")

    def test_a_wide_range_is_logarithmic(self) -> None:
        frame = runs([("PlainSum", str(e), e, 0.5) for e in (0.1, 1.0, 10.0, np.inf)])
        (axes,) = trade_off(frame, "epsilon", "accuracy").axes
        assert axes.get_xscale() == "log"
        ((x, _, _),) = bars_of(axes)
        assert x[-1] == 25.0

    def test_one_line_an_aggregation(self) -> None:
        both = pd.concat([TWO, TWO.assign(aggregation="CKKS", label=TWO["label"] + "c")])
        (axes,) = trade_off(both, "epsilon", "accuracy").axes
        assert len(axes.containers) == 2
        assert [label.get_text() for label in axes.get_legend().get_texts()] == ["PlainSum", "CKKS"]
        assert len({container.lines[0].get_color() for container in axes.containers}) == 2

    def test_labels_that_share_a_value_are_not_pooled(self) -> None:
        frame = runs([("PlainSum", "FedAvg", np.inf, 0.5), ("PlainSum", "FedAdam", np.inf, 0.9)])
        (axes,) = trade_off(frame, "epsilon", "accuracy").axes
        ((_, mean, half),) = bars_of(axes)
        assert (mean, half) == ([0.5, 0.9], [0.0, 0.0])

    def test_seeds_that_differ_in_x_are_one_point(self) -> None:
        """At the largest ε: a mean of guarantees is none."""
        frame = runs([("PlainSum", "a", 1.0, 0.5), ("PlainSum", "a", 1.2, 0.7)])
        (axes,) = trade_off(frame, "epsilon", "accuracy").axes
        ((x, mean, half),) = bars_of(axes)
        assert (x, mean) == (pytest.approx([1.2]), pytest.approx([0.6]))
        assert half == pytest.approx([half_width([0.5, 0.7])])

    def test_many_values_have_few_ticks(self) -> None:
        frame = runs([("PlainSum", str(i), 1.0 + 0.1 * i, 0.5) for i in range(50)])
        (axes,) = trade_off(frame, "epsilon", "accuracy").axes
        assert len(axes.get_xticks()) <= 8

    def test_labels_as_places(self) -> None:
        (axes,) = trade_off(TWO, "label", "accuracy").axes
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["p1", "p2", "none"]
        ((x, mean, half),) = bars_of(axes)
        assert x == [0.0, 1.0, 2.0]
        assert mean == pytest.approx([0.6, 0.85, 0.96])
        assert half[0] == pytest.approx(half_width([0.5, 0.7]))

    def test_two_federations_stand_side_by_side(self) -> None:
        both = pd.concat([TWO, TWO.assign(federation="g", accuracy=0.1)])
        (axes,) = trade_off(both, "label", "accuracy").axes
        first, second = bars_of(axes)
        assert first[0] == pytest.approx([-0.08, 0.92, 1.92])
        assert second[0] == pytest.approx([0.08, 1.08, 2.08])
        assert second[1] == pytest.approx([0.1] * 3)
        (axes,) = trade_off(both, "epsilon", "accuracy").axes
        assert [label.get_text() for label in axes.get_legend().get_texts()] == ["f: PlainSum", "g: PlainSum"]

    def test_refused_runs_are_left_out(self) -> None:
        frame = pd.concat([TWO, runs([("CKKS", "refused", np.nan, np.nan)])])
        (axes,) = trade_off(frame, "label", "accuracy").axes
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["p1", "p2", "none"]

    @pytest.mark.parametrize(("x", "y"), [("epsilno", "accuracy"), ("epsilon", "acuracy")])
    def test_unknown_columns(self, x: str, y: str) -> None:
        with pytest.raises(ConfigurationError, match="epsilon, accuracy"):
            trade_off(TWO, x, y)

    def test_into_axes_of_the_users_own(self) -> None:
        figure, (left, right) = new_figure(columns=2)
        assert trade_off(TWO, "epsilon", "accuracy", axes=right) is figure
        assert not left.containers
        assert right.containers


class TestCurves:
    @pytest.fixture
    def rounds(self) -> pd.DataFrame:
        rows = [
            {"federation": "f", "label": label, "seed": seed, "round": step, "accuracy": 0.1 * step + 0.05 * seed}
            for label in ("a", "b")
            for seed in (0, 1, 2)
            for step in (1, 2, 3)
        ]
        return pd.DataFrame(rows)

    def test_many_lines_differ_and_their_legend_stands_beside_them(self, rounds: pd.DataFrame) -> None:
        many = pd.concat([rounds.assign(label=rounds["label"] + str(i)) for i in range(6)])
        figure = curves(many, "accuracy")
        (axes,) = figure.axes
        assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 12
        figure.canvas.draw()
        assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1

    def test_mean_and_band(self, rounds: pd.DataFrame) -> None:
        (axes,) = curves(rounds, "accuracy").axes
        assert [label.get_text() for label in axes.get_legend().get_texts()] == ["a", "b"]
        assert axes.lines[0].get_ydata() == pytest.approx([0.15, 0.25, 0.35])
        half = half_width([0.1, 0.15, 0.2])
        heights = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((0.15 - half, 0.35 + half))

    def test_rounds_that_were_not_measured_are_left_out(self, rounds: pd.DataFrame) -> None:
        rounds.loc[rounds["round"] == 2, "accuracy"] = np.nan
        (axes,) = curves(rounds, "accuracy").axes
        assert axes.lines[0].get_xdata().tolist() == [1, 3]

    def test_one_seed(self, rounds: pd.DataFrame) -> None:
        (axes,) = curves(rounds[rounds["seed"] == 0], "accuracy").axes
        assert axes.lines[0].get_ydata() == pytest.approx([0.1, 0.2, 0.3])

    def test_over_rounds_draws_each_frame(self, rounds: pd.DataFrame) -> None:
        frame = rounds[(rounds["seed"] == 0) & (rounds["label"] == "a")]
        (axes,) = over_rounds({"one": frame, "two": frame}, "accuracy").axes
        assert len(axes.lines) == 2
        assert axes.get_xlabel() == "round"


def test_no_window_is_opened() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    trade_off(TWO, "epsilon", "accuracy")
    assert plt.get_fignums() == before
