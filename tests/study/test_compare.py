"""grid and compare: labels, refusals, pairs of runs, tidy tables."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

import fedpriv as fp
from fedpriv.errors import ConfigurationError, NonFiniteInput, PlanError
from fedpriv.learning.update import Broadcast, Update, per_client
from fedpriv.report.tables import number, text
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
