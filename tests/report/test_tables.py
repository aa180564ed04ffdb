"""Numbers, tables over seeds, LaTeX."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedpriv.errors import ConfigurationError
from fedpriv.report.tables import half_width, latex, number, over_seeds, text


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [0.5, 0.25], list(np.random.default_rng(1).normal(size=30))])
def test_half_width_is_students(values: list[float]) -> None:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2)
    assert half_width([*values, math.nan]) == half_width(values)


@pytest.mark.parametrize("values", [[], [1.0], [math.nan, 1.0], [1.0, math.inf], [math.inf, math.inf]])
def test_no_interval(values: list[float]) -> None:
    assert math.isnan(half_width(values))


def test_half_width_of_equal_values() -> None:
    assert half_width([0.5, 0.5, 0.5]) == 0.0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (np.float32(np.inf), "∞"),
        (math.nan, "–"),
        (None, "–"),
        (True, "True"),
        (np.bool_(False), "False"),
        (0, "0"),
        (0.0, "0"),
        (12, "12"),
        (np.int64(1234567), "1,234,567"),
        (2.0, "2"),
        (1234.0, "1,234"),
        (1234567.0, "1,234,567"),
        (0.123456, "0.123"),
        (12.3456, "12.3"),
        (999.4, "999"),
        (999.7, "1,000"),
        (1234.56, "1,235"),
        (-1234.56, "-1,235"),
        (1.5e-5, "1.5e-05"),
        ("PlainSum", "PlainSum"),
    ],
)
def test_number(value: Any, shown: str) -> None:
    assert number(value) == shown


def test_number_of_fewer_digits() -> None:
    assert [number(value, 2) for value in (99.4, 99.7, 0.123, 123.4)] == ["99", "100", "0.12", "123"]


def runs(**columns: Any) -> pd.DataFrame:
    size = len(next(iter(columns.values())))
    base = {"federation": ["f"] * size, "label": ["a"] * size, "seed": list(range(size)), "refused": [""] * size}
    return pd.DataFrame(base | columns)


class TestOverSeeds:
    def test_means_and_the_interval_of_accuracy(self) -> None:
        frame = runs(label=["a", "b", "a", "b"], seed=[0, 0, 1, 1], accuracy=[0.5, 0.6, 0.7, 0.8], epsilon=[np.inf] * 4)
        table = over_seeds(frame)
        assert table["label"].tolist() == ["a", "b"]
        assert table["seeds"].tolist() == [2, 2]
        assert table["accuracy"].tolist() == pytest.approx([0.6, 0.7])
        assert table["accuracy_ci"].tolist() == pytest.approx([half_width([0.5, 0.7])] * 2)
        assert np.isinf(table["epsilon"]).all()
        assert "refused" not in table

    def test_federations_are_not_mixed(self) -> None:
        table = over_seeds(runs(federation=["f", "g"], accuracy=[0.0, 1.0]))
        assert table["accuracy"].tolist() == [0.0, 1.0]

    def test_chosen_columns(self) -> None:
        table = over_seeds(runs(accuracy=[0.5, 0.7], loss=[1.0, 3.0]), ["loss"])
        assert table["loss"].tolist() == [2.0]
        assert "accuracy" not in table
        assert over_seeds(runs(accuracy=[0.5, 0.7], loss=[1.0, 3.0]), "loss").equals(table)

    @pytest.mark.parametrize("name", ["acuracy", "label"])
    def test_a_column_without_numbers_is_not_left_out_in_silence(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match=f"columns of numbers are .*accuracy.*Got '{name}'"):
            over_seeds(runs(accuracy=[0.5, 0.7]), [name])

    def test_a_refused_seed_is_not_counted(self) -> None:
        table = over_seeds(runs(accuracy=[0.5, np.nan, 0.7], refused=["", "Because.", ""]))
        assert table["seeds"].tolist() == [2]
        assert table["accuracy"].tolist() == pytest.approx([0.6])
        assert table["refused"].tolist() == ["Because."]

    def test_one_seed_shows_the_model(self) -> None:
        frame = runs(label=["a", "b"], accuracy=[0.5, np.nan], sha256=["0123456789abcdef", np.nan], refused=["", "No."])
        assert over_seeds(frame)["sha256"].tolist() == ["0123456789ab", ""]


class TestText:
    def test_columns_are_aligned(self) -> None:
        table = pd.DataFrame({"label": ["PlainSum", "CKKS"], "bytes": [12, 1234567], "accuracy": [0.5, np.nan]})
        lines = text(table).splitlines()
        assert lines[0] == "label         bytes  accuracy"
        assert lines[2] == "PlainSum         12       0.5"
        assert lines[3] == "CKKS      1,234,567         –"

    def test_names_wider_than_their_columns_are_broken(self) -> None:
        table = pd.DataFrame({"label": ["CKKS"], "client_bytes_up": [1234], "client, ms": [2.5], "": ["x"]})
        assert text(table).splitlines() == [
            "       client_",
            "        bytes_  client,",
            "label       up       ms",
            "─────  ───────  ───────  ─",
            "CKKS     1,234      2.5  x",
        ]

    def test_long_words_are_cut_and_say_so(self) -> None:
        assert text(pd.DataFrame({"refused": ["x" * 100]}), max_width=10).splitlines()[-1] == "x" * 9 + "…"


class TestLatex:
    def test_what_latex_would_misread_is_escaped(self) -> None:
        hostile = r"50 % & $x_1$ #{a} ~ ^ \input{x}"
        line = latex(pd.DataFrame({"label": [hostile]}), caption="c").splitlines()[7]
        assert line == (r"50 \% \& \$x\_1\$ \#\{a\} \textasciitilde{} \textasciicircum{} \textbackslash{}input\{x\} \\")

    def test_signs_of_the_field_are_math(self) -> None:
        table = pd.DataFrame({"ε": [np.inf], "label": ["σ · δ ≤ ≥ ⌈n⌉ −1 <3>\n"]})
        written = latex(table, caption="ε – δ")
        assert written.isascii()
        for words in (r"$\infty$", r"$\varepsilon$", r"$\sigma$", r"$\lceil$", r"\textless{}"):
            assert words in written

    def test_the_shape_of_a_booktabs_table(self) -> None:
        table = pd.DataFrame({"label": ["a", "b"], "client_bytes_up": [1, 2], "x": [0.5, np.nan]})
        written = latex(table, caption="Means over 5 seeds.")
        assert r"\begin{tabular}{lrr}" in written
        assert r"label & client bytes up & x \\" in written
        assert r"a & 1 & 0.5 \\" in written
        assert r"b & 2 & -- \\" in written
        assert written.count("{") == written.count("}")
        assert re.findall(r"\\(\w+rule)", written) == ["toprule", "midrule", "bottomrule"]


class TestEpsilonOverSeeds:
    def test_the_largest_and_not_the_mean(self) -> None:
        """Realised participations differ by seed; a mean of guarantees is none."""
        frame = runs(accuracy=[0.5, 0.7], epsilon=[1.0, 3.0], epsilon_server=[2.0, np.inf], observer=["public"] * 2)
        table = over_seeds(frame)
        assert table["epsilon"].tolist() == [3.0]
        assert np.isinf(table["epsilon_server"]).all()
        assert "observer" not in table

    def test_different_observers_are_named(self) -> None:
        frame = runs(label=["a", "b"], epsilon=[1.0, 3.0], observer=["public", "server"])
        table = over_seeds(frame, ["epsilon"])
        assert table["observer"].tolist() == ["public", "server"]
        assert list(table.columns).index("observer") == list(table.columns).index("epsilon") + 1

    def test_different_deltas_are_named(self) -> None:
        frame = runs(label=["a", "b"], epsilon=[1.0, 3.0], observer=["public"] * 2, delta=[1e-5, 1e-6])
        assert over_seeds(frame, ["epsilon"])["delta"].tolist() == [1e-5, 1e-6]
