"""Paired differences between plans, and whether they are too small to matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import fedpriv as fp
from fedpriv.errors import ConfigurationError
from fedpriv.report.tables import equivalence, paired_differences, two_one_sided

Make = Callable[..., fp.Plan]


def compared(federation: Any, plans: Any, **options: Any) -> fp.Study:
    return fp.compare(federation, plans, seeds=(0, 1), progress=False, **options)


def frame_of(values: dict[str, list[float]], federation: str = "f") -> pd.DataFrame:
    rows = [
        {"federation": federation, "label": label, "seed": seed, "accuracy": value, "refused": ""}
        for label, column in values.items()
        for seed, value in enumerate(column)
    ]
    return pd.DataFrame(rows)


class TestDifferences:
    def test_by_hand(self) -> None:
        """Differences 0.1, 0.2, 0.3: mean 0.2, s = 0.1, t(2, 0.975) = 4.302653: half-width 0.248414."""
        found = paired_differences(frame_of({"a": [0.5, 0.6, 0.7], "b": [0.6, 0.8, 1.0]}), "a", "accuracy").iloc[0]
        assert (found["federation"], found["label"], found["baseline"], found["pairs"]) == ("f", "b", "a", 3)
        assert found["difference"] == pytest.approx(0.2)
        assert found["low"] == pytest.approx(0.2 - 0.248414, abs=1e-6)
        assert found["high"] == pytest.approx(0.2 + 0.248414, abs=1e-6)

    def test_against_scipy(self) -> None:
        rng = np.random.default_rng(0)
        one, two = rng.normal(size=7), rng.normal(size=7)
        found = paired_differences(frame_of({"a": list(one), "b": list(two)}), "a", "accuracy").iloc[0]
        interval = stats.ttest_rel(two, one).confidence_interval(0.95)
        assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))

    def test_pairs_are_of_one_seed_and_one_federation(self) -> None:
        first = frame_of({"a": [0.0, 1.0], "b": [0.5, 1.5]}, "f")
        second = frame_of({"a": [5.0, 6.0], "b": [4.0, 5.0]}, "g")
        shuffled = pd.concat([first, second]).sample(frac=1.0, random_state=1)
        found = paired_differences(shuffled, "a", "accuracy").set_index("federation")
        assert found["difference"].to_dict() == {"f": 0.5, "g": -1.0}
        assert (found["low"] == found["high"]).all()

    def test_seeds_that_one_side_lacks_do_not_count(self) -> None:
        found = paired_differences(frame_of({"a": [0.0, 1.0, np.nan], "b": [0.5, np.nan, 9.0]}), "a", "accuracy")
        assert (found["pairs"].iloc[0], found["difference"].iloc[0]) == (1, 0.5)
        assert np.isnan(found["low"].iloc[0])

    def test_infinite_values_have_no_difference(self) -> None:
        frame = frame_of({"a": [np.inf, 1.0], "b": [np.inf, 2.0]})
        found = paired_differences(frame, "a", "accuracy")
        assert (found["pairs"].iloc[0], found["difference"].iloc[0]) == (1, 1.0)

    @pytest.mark.parametrize("baseline", ["fits", "not"])
    def test_a_refused_side_is_a_row_without_pairs(self, baseline: str, federation: Any, planned: Make) -> None:
        plans = {"fits": planned(), "not": planned(aggregation=fp.SecureAggregation(min_cohort=9))}
        found = compared(federation, plans, on_invalid="record").differences(baseline)
        assert found["pairs"].tolist() == [0]
        assert found["difference"].isna().all()

    def test_unknown_names(self) -> None:
        with pytest.raises(ConfigurationError, match="baseline"):
            paired_differences(frame_of({"a": [0.5]}), "c", "accuracy")
        for column in ("acuracy", "label"):
            with pytest.raises(ConfigurationError, match="accuracy"):
                paired_differences(frame_of({"a": [0.5]}), "a", column)


class TestEquivalence:
    def test_by_hand(self) -> None:
        """Differences 0.1, 0.2, 0.3: mean 0.2, standard error 0.057735; within 0.4 t = 3.4641, P[t₂ > 3.4641] = 0.0371.

        The 90 % interval, t(2, 0.95) = 2.919986: 0.2 ± 0.168586.
        """
        frame = frame_of({"a": [0.5, 0.6, 0.7], "b": [0.6, 0.8, 1.0]})
        found = equivalence(frame, "a", 0.4, "accuracy").iloc[0]
        assert (found["label"], found["baseline"], found["pairs"], found["within"]) == ("b", "a", 3, 0.4)
        assert found["p"] == pytest.approx(0.0370899, abs=1e-6)
        assert (found["low"], found["high"]) == pytest.approx((0.2 - 0.168586, 0.2 + 0.168586), abs=1e-6)
        assert found["verdict"] == "equivalent"
        assert equivalence(frame, "a", 0.4, "accuracy", alpha=0.01)["verdict"].tolist() == ["undecided"]
        assert equivalence(frame, "a", 0.3, "accuracy")["verdict"].tolist() == ["undecided"]
        assert equivalence(frame, "a", 0.03, "accuracy")["verdict"].tolist() == ["different"]
        assert equivalence(frame, "b", 0.03, "accuracy")["verdict"].tolist() == ["different"]  # the other sign

    def test_against_scipy(self) -> None:
        rng = np.random.default_rng(0)
        one, two = rng.normal(size=9), rng.normal(size=9)
        low = stats.ttest_rel(two + 0.5, one, alternative="greater").pvalue
        high = stats.ttest_rel(two - 0.5, one, alternative="less").pvalue
        assert two_one_sided(list(two - one), 0.5) == pytest.approx(max(low, high))

    def test_the_verdict_is_the_intervals(self) -> None:
        rng = np.random.default_rng(1)
        for _ in range(50):
            values = {"a": list(rng.normal(size=5)), "b": list(rng.normal(size=5))}
            found = equivalence(frame_of(values), "a", 1.0, "accuracy").iloc[0]
            inside, outside = max(-found["low"], found["high"]) < 1, found["low"] > 1 or found["high"] < -1
            assert found["verdict"] == ("equivalent" if inside else "different" if outside else "undecided")

    def test_too_few_seeds_and_equal_ones(self) -> None:
        one = equivalence(frame_of({"a": [0.5], "b": [0.5]}), "a", 0.1, "accuracy").iloc[0]
        assert (one["pairs"], one["verdict"]) == (1, "undecided")
        assert np.isnan(one["p"])
        same = equivalence(frame_of({"a": [0.5, 0.6], "b": [0.5, 0.6]}), "a", 0.1, "accuracy").iloc[0]
        assert (same["p"], same["verdict"]) == (0.0, "equivalent")
        apart = equivalence(frame_of({"a": [0.0, 0.0], "b": [0.5, 0.5]}), "a", 0.1, "accuracy").iloc[0]
        assert (apart["p"], apart["verdict"]) == (1.0, "different")
        edge = equivalence(frame_of({"a": [0.0, 0.0], "b": [0.5, 0.5]}), "a", 0.5, "accuracy").iloc[0]
        assert (edge["p"], edge["verdict"]) == (1.0, "undecided")

    @pytest.mark.parametrize("wrong", [{"within": 0.0}, {"within": np.inf}, {"alpha": 0.5}, {"alpha": 0.0}])
    def test_refused(self, wrong: dict[str, float]) -> None:
        given: dict[str, Any] = {"within": 0.1, "alpha": 0.05} | wrong
        with pytest.raises(ConfigurationError):
            equivalence(frame_of({"a": [0.5], "b": [0.5]}), "a", y="accuracy", **given)

    def test_of_a_study(self, federation: Any, planned: Make) -> None:
        plans = {"plain": planned(), "masked": planned(aggregation=fp.SecureAggregation())}
        found = compared(federation, plans, ideal=True).equivalent("plain", within=0.01).iloc[0]
        assert (found["label"], found["pairs"], found["p"], found["verdict"]) == ("masked", 2, 0.0, "equivalent")
        with pytest.raises(ConfigurationError, match="baseline"):
            compared(federation, plans, ideal=True).equivalent("mask", within=0.01)

    @pytest.mark.statistical
    def test_its_level_and_power(self) -> None:
        """N = 4,000 studies of 10 paired seeds at level 0.05; counts are binomial, each checked at α = 1e-6.

        At a true difference of exactly ``within`` it says "equivalent" with probability 0.05 (spread 0.3 · within:
        the other bound is out of reach); levels of 0.03 and 0.075 are told apart. At no difference, with the spread
        equal to ``within``, its power is P[|d̄| + t s/√10 < within], here from 200,000 draws of another generator; with
        2/3 or 3/2 of that spread the power is told apart.
        """
        studies, within, seeds = 4_000, 0.01, 10
        rng = np.random.default_rng(11)

        def said(mean: float, spread: float) -> int:
            samples = rng.normal(mean, spread, size=(studies, seeds))
            return sum(two_one_sided(list(sample), within) < 0.05 for sample in samples)

        def accepted(count: int, probability: float) -> bool:
            low, high = stats.binom.ppf([5e-7, 1 - 5e-7], studies, probability)
            return bool(low <= count <= high)

        for edge in (within, -within):
            count = said(edge, 0.3 * within)
            assert accepted(count, 0.05)
            assert not accepted(count, 0.03)
            assert not accepted(count, 0.075)
        other = np.random.default_rng(12).normal(0, within, size=(200_000, seeds))
        half = stats.t.ppf(0.95, seeds - 1) * other.std(axis=1, ddof=1) / np.sqrt(seeds)
        power = float((np.abs(other.mean(axis=1)) + half < within).mean())
        count = said(0.0, within)
        assert accepted(count, power)
        assert not accepted(said(0.0, 2 / 3 * within), power)
        assert not accepted(said(0.0, 3 / 2 * within), power)
