"""grid and compare: labels, refusals, pairs of runs, tidy tables."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import fedpriv as fp
from fedpriv.errors import ConfigurationError, NonFiniteInput, PlanError
from fedpriv.learning.update import Broadcast, Update, per_client
from fedpriv.report.tables import equivalence, number, paired_differences, text, two_one_sided
from fedpriv.study import Refusal

Make = Callable[..., fp.Plan]
NOISED = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0)


def compared(federation: Any, plans: Any, seeds: Any = (0, 1), **options: Any) -> fp.Study:
    return fp.compare(federation, plans, seeds=seeds, progress=False, **options)


@per_client
class Diverges:
    """Sends NaN, in every round."""

    def train_one(self, model: Any, broadcast: Broadcast, client: Any, state: Any, rng: Any) -> Update:
        return Update(payload={"delta": np.full(len(broadcast.parameters), np.nan, dtype=np.float32)})


class TestGrid:
    def test_labels_name_types_and_the_fields_that_differ(self, planned: Make) -> None:
        plans = fp.grid(
            planned(),
            aggregation=[fp.PlainSum(), fp.SecureAggregation(corrupt=0.1), fp.SecureAggregation(corrupt=0.2)],
            mechanism=[fp.NoDP(), NOISED],
        )
        assert list(plans) == [
            "PlainSum · NoDP",
            "PlainSum · CentralGaussian",
            "SecureAggregation(corrupt=0.1) · NoDP",
            "SecureAggregation(corrupt=0.1) · CentralGaussian",
            "SecureAggregation(corrupt=0.2) · NoDP",
            "SecureAggregation(corrupt=0.2) · CentralGaussian",
        ]
        assert plans["SecureAggregation(corrupt=0.2) · CentralGaussian"] == planned(
            aggregation=fp.SecureAggregation(corrupt=0.2), mechanism=NOISED
        )

    def test_nested_fields_numbers_and_callables(self, planned: Make) -> None:
        budgets = [fp.Budget(epsilon=e, delta=1e-5, observer="public") for e in (0.5, 2.0)]
        plans = fp.grid(
            planned(),
            mechanism=[fp.CentralGaussian(clip_norm=1.0, target=budget) for budget in budgets],
            rounds=[5, 10],
            model=[fp.models.logistic, functools.partial(fp.models.mlp, hidden=(8,))],
        )
        assert len(plans) == 8
        assert "CentralGaussian(epsilon=0.5) · 5 · logistic" in plans
        assert any(label.startswith("CentralGaussian(epsilon=2) · 10 · mlp") for label in plans)

    def test_an_object_of_the_users_own_has_no_address_in_its_label(self, planned: Make) -> None:
        class Mine:
            def __getattr__(self, name: str) -> Any:
                return getattr(fp.FedAvg(), name)

        assert list(fp.grid(planned(), server=[Mine(), fp.FedAvg()])) == ["Mine", "FedAvg"]

    def test_without_axes(self, planned: Make) -> None:
        assert fp.grid(planned()) == {"plan": planned()}

    @pytest.mark.parametrize(
        "axes",
        [
            {"agregation": [fp.PlainSum()]},
            {"aggregation": []},
            {"aggregation": fp.PlainSum()},
            {"aggregation": "PlainSum"},
            {"aggregation": [fp.PlainSum(), fp.PlainSum()]},
            {"rounds": [1, 1]},
            {"rounds": [0]},
        ],
    )
    def test_refused(self, axes: dict[str, Any], planned: Make) -> None:
        with pytest.raises(ConfigurationError):
            fp.grid(planned(), **axes)


class TestMistakes:
    """What a newcomer gets wrong is said in the terms of the call, not of what it broke inside."""

    @pytest.mark.parametrize("call", [fp.run, fp.rounds])
    def test_a_plan_before_the_federation(self, call: Any, federation: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match=r"federation first.*'Federation'"):
            list(call(planned(), federation, seed=0))

    def test_many_plans_in_one_run(self, federation: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match=r"fp\.compare"):
            fp.run(federation, {"a": planned()}, seed=0)  # type: ignore[arg-type]

    def test_no_federation(self, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match=r"'list'.*fp\.data\.federate"):
            fp.run([1, 2], planned(), seed=0)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="'NoneType'"):
            compared(lambda seed: None, {"a": planned()})
        with pytest.raises(ConfigurationError, match=r"'Plan'.*fp\.compare"):
            compared(planned(), {"a": planned()})

    def test_no_plan(self, federation: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match=r"{'a': 'str'}"):
            compared(federation, {"a": "plan"})
        with pytest.raises(ConfigurationError, match=r"one plan.*'dict'"):
            fp.grid({"a": planned()}, rounds=[1, 2])  # type: ignore[arg-type]

    def test_one_seed_instead_of_a_list(self, federation: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match=r"Give seeds=\[3\]"):
            compared(federation, {"a": planned()}, seeds=3)

    def test_nothing_runs_where_a_later_plan_is_refused(
        self, federation: Any, planned: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran: list[int] = []
        monkeypatch.setattr("fedpriv.study.cells.run", lambda *_, **__: ran.append(1))
        with pytest.raises(PlanError, match="min_cohort"):
            compared(federation, {"a": planned(), "b": planned(aggregation=fp.SecureAggregation(min_cohort=9))})
        assert not ran


class TestCompare:
    def test_one_tidy_row_a_run(self, federation: Any, planned: Make) -> None:
        study = compared(federation, fp.grid(planned(), mechanism=[fp.NoDP(), NOISED]), seeds=[3, 5, 9])
        frame = study.frame
        assert list(zip(frame["label"], frame["seed"], strict=True)) == [
            (label, seed) for seed in (3, 5, 9) for label in ("NoDP", "CentralGaussian")
        ]
        assert frame.columns.is_unique
        assert set(frame["federation"]) == {"blobs"}
        for column in ("accuracy", "epsilon", "epsilon_server", "client_bytes_up", "server_seconds", "sha256"):
            assert frame[column].notna().all()
        assert not frame.map(lambda value: isinstance(value, list | dict | tuple)).to_numpy().any()
        public = frame.set_index("label")["epsilon_public"]
        assert np.isinf(public["NoDP"]).all()
        assert np.isfinite(public["CentralGaussian"]).all()
        assert repr(study) == "Study(2 cells, 6 runs, 0 refused)"

    def test_a_row_is_its_run(self, federation: Any, planned: Make) -> None:
        study = compared(federation, {"a": planned()}, seeds=[4])
        run = fp.run(federation, planned(), seed=4, progress=False)
        assert study.frame["sha256"].tolist() == [run.sha256]
        assert study.frame["accuracy"].tolist() == [run.summary()["accuracy"]]

    def test_rounds_of_every_run(self, federation: Any, planned: Make) -> None:
        study = compared(federation, {"a": planned(rounds=2), "b": planned(rounds=3)}, evaluate_every=1)
        assert study.rounds.groupby(["label", "seed"])["round"].apply(list).to_dict() == {
            ("a", 0): [1, 2],
            ("a", 1): [1, 2],
            ("b", 0): [1, 2, 3],
            ("b", 1): [1, 2, 3],
        }
        assert study.rounds["accuracy"].notna().all()
        assert compared(federation, {"a": planned(rounds=3)}).rounds["accuracy"].notna().tolist() == [
            False, False, True, False, False, True,
        ]  # fmt: skip

    def test_whose_epsilon(self, federation: Any, planned: Make) -> None:
        target = fp.CentralGaussian(clip_norm=1.0, target=fp.Budget(epsilon=2.0, delta=1e-3, observer="participant"))
        plans = {"target": planned(mechanism=target), "noise": planned(mechanism=NOISED)}
        frame = compared(federation, plans, seeds=[0], observer="server", delta=1e-3).frame.set_index("label")
        assert frame["observer"].to_dict() == {"target": "participant", "noise": "server"}
        assert frame.loc["target", "epsilon"] == pytest.approx(2.0, rel=1e-3)
        assert frame.loc["noise", "epsilon"] == np.inf

    def test_refused_cells_are_rows_with_their_reason(self, federation: Any, planned: Make, tmp_path: Any) -> None:
        plans = {"fits": planned(), "not": planned(aggregation=fp.SecureAggregation(min_cohort=9))}
        with pytest.raises(PlanError):
            compared(federation, plans)
        study = compared(federation, plans, on_invalid="record")
        frame = study.frame.set_index("label")
        assert frame.loc["fits", "refused"].tolist() == ["", ""]
        assert all("min_cohort = 9" in reason for reason in frame.loc["not", "refused"])
        assert frame.loc["not", "accuracy"].isna().all()
        table = study.table().set_index("label")
        assert table["seeds"].to_dict() == {"fits": 2, "not": 0}
        assert "min_cohort = 9" in table.loc["not", "refused"]
        assert repr(study).endswith("2 refused)")
        about = json.loads((study.save(tmp_path / "study") / "study.json").read_text(encoding="utf-8"))
        assert ["refused" in cell for cell in about["cells"]] == [False, True, False, True]

    def test_a_run_that_fails_does_not_take_the_study_with_it(self, federation: Any, planned: Make) -> None:
        plans = {"diverges": planned(client=Diverges()), "fits": planned()}
        with pytest.raises(NonFiniteInput):
            compared(federation, plans)
        study = compared(federation, plans, on_invalid="record")
        assert [isinstance(cell.outcome, Refusal) for cell in study.cells] == [True, False] * 2
        reason = study.frame["refused"].iloc[0]
        assert "client/0" in reason
        assert "In round 1." in reason

    def test_only_refusals(self, federation: Any, planned: Make, tmp_path: Any) -> None:
        plans = {"not": planned(aggregation=fp.SecureAggregation(min_cohort=9))}
        study = compared(federation, plans, seeds=[0], on_invalid="record")
        assert len(study.rounds) == 0
        assert len(study.learns()) == 0
        assert study.table()["seeds"].tolist() == [0]
        assert (study.save(tmp_path / "study") / "runs.csv").is_file()

    def test_a_federation_for_every_seed(self, federations: Any, planned: Make) -> None:
        asked = []

        def source(seed: int) -> Any:
            asked.append(seed)
            return federations(seed=seed)

        study = compared(source, {"a": planned(), "b": planned(rounds=1)}, seeds=[2, 6])
        assert asked == [2, 6]
        prints = [cell.outcome.resolved.federation.fingerprint for cell in study.cells]
        assert prints[0] == prints[1] != prints[2] == prints[3]

    def test_federations_by_name(self, federation: Any, federations: Any, planned: Make) -> None:
        sources = {"fixed": federation, "drawn": lambda seed: federations(clients=4, seed=seed)}
        study = compared(sources, {"a": planned(), "b": planned(rounds=1)})
        assert study.frame.groupby("federation", sort=False).size().to_dict() == {"fixed": 4, "drawn": 4}
        assert study.table()["federation"].tolist() == ["fixed", "fixed", "drawn", "drawn"]
        assert len(study.differences("a")) == 2

    def test_who_learns_what(self, federation: Any, planned: Make) -> None:
        noised = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, bits=16)
        plans = fp.grid(planned(mechanism=noised), aggregation=[fp.PlainSum(), fp.CKKS()])
        views = compared(federation, plans, ideal=True).learns().set_index("label")
        assert views.loc["PlainSum", "authority"] == "–"
        assert "exact sum" in views.loc["CKKS", "authority"]
        assert "exact sum" not in views.loc["CKKS", "server"]
        assert "noisy sum" in views.loc["CKKS", "server"]
        assert "updates" in views.loc["PlainSum", "server"]

    @pytest.mark.parametrize(
        "arguments",
        [
            {"seeds": []},
            {"seeds": [1, 1]},
            {"plans": {}},
            {"plans": "plan"},
            {"federation": {}},
            {"on_invalid": "skip"},
            {"observer": "sever"},
            {"delta": 0.0},
            {"delta": 2.0},
        ],
    )
    def test_what_makes_no_comparison(self, arguments: dict[str, Any], federation: Any, planned: Make) -> None:
        given = {"federation": federation, "plans": {"a": planned(client=Diverges())}, "seeds": [0]} | arguments
        with pytest.raises(ConfigurationError):
            fp.compare(**given, progress=False)


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


class TestIntervals:
    def test_one_seed_has_none(self, federation: Any, planned: Make) -> None:
        study = compared(federation, {"a": planned()}, seeds=[0])
        assert study.table()["accuracy_ci"].isna().all()
        assert text(study.table(["accuracy"])).splitlines()[-1].split()[:5] == ["blobs", "a", "1", *_last(study)]

    def test_several_have_students(self, federation: Any, planned: Make) -> None:
        study = compared(federation, {"a": planned()}, seeds=[0, 1, 2])
        values = study.frame["accuracy"]
        low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
        assert study.table()["accuracy_ci"].tolist() == pytest.approx([(high - low) / 2])


def _last(study: fp.Study) -> list[str]:
    return [number(study.frame["accuracy"].iloc[0]), "–"]
