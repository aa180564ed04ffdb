"""Tuning inside the cells of a comparison, on records and seeds of its own."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcomes import TIMINGS
from tuned import CLIP, NOISED, RATE, Diverges, tuned

import fedpriv as fp
from fedpriv.errors import ConfigurationError, DataError, FedprivError, NonFiniteInput, PlanError
from fedpriv.study.cells import Job, Work
from fedpriv.study.tuning import HeldOut, Public, Trial, best, candidates, exchanged, has, seeds_of

Make = Callable[..., fp.Plan]


def rows(study: fp.Study) -> str:
    return study.frame.drop(columns=TIMINGS, errors="ignore").to_csv() + study.trials.to_csv()


class TestPaths:
    def test_values_are_exchanged_along_the_plan(self, planned: Make) -> None:
        target = fp.Budget(epsilon=2.0, delta=1e-3, observer="public")
        plan = planned(mechanism=fp.CentralGaussian(clip_norm=1.0, target=target))
        other = exchanged(plan, "mechanism.target.epsilon", 3.0)
        assert other == replace(plan, mechanism=replace(plan.mechanism, target=replace(target, epsilon=3.0)))  # type: ignore[type-var]
        assert plan.mechanism.target.epsilon == 2.0  # type: ignore[attr-defined]
        assert exchanged(plan, "rounds", 7).rounds == 7

    def test_keywords_of_a_partial(self, planned: Make) -> None:
        plan = planned(model=functools.partial(fp.models.mlp, hidden=(8,)))
        assert has(plan, "model.hidden")
        assert not has(plan, "model.width")
        assert exchanged(plan, "model.hidden", (4,)).model.keywords == {"hidden": (4,)}

    @pytest.mark.parametrize(
        "path", ["client.rate", "client.learning_rate.x", "mechanism.clip_norm", "", "model.hidden"]
    )
    def test_paths_that_a_plan_lacks(self, path: str, planned: Make) -> None:
        assert not has(planned(), path)

    def test_every_combination_of_the_paths_that_it_has(self, planned: Make) -> None:
        tune = {RATE: [0.1, 0.2], CLIP: [0.5, 2.0]}
        assert [c.values for c in candidates(planned(), tune)] == [{RATE: 0.1}, {RATE: 0.2}]
        found = candidates(planned(mechanism=NOISED), tune)
        assert [tuple(c.values.values()) for c in found] == [(0.1, 0.5), (0.1, 2.0), (0.2, 0.5), (0.2, 2.0)]
        assert found[3].plan == planned(
            client=replace(planned().client, learning_rate=0.2),
            mechanism=replace(NOISED, clip_norm=2.0),  # type: ignore[type-var]
        )
        assert [c.values for c in candidates(planned(), {"server": [fp.FedAvg(), fp.FedAdam(learning_rate=0.1)]})] == [
            {"server": "FedAvg"},
            {"server": "FedAdam"},
        ]

    @pytest.mark.parametrize(
        "tune",
        [{}, 3, {RATE: 0.1}, {RATE: []}, {RATE: "0.1"}, {RATE: [0.1, 0.1]}, {"client.rate": [1]}, {CLIP: [1.0]},
         {"client": [fp.LocalSGD(steps=1, learning_rate=0.1)], RATE: [0.1]}],
    )  # fmt: skip
    def test_refused(self, tune: Any, federation: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError):
            tuned(federation, {"a": planned()}, tune)


class TestHeldOut:
    def test_a_split_of_each_clients_records(self, federation: fp.data.Federation) -> None:
        part = HeldOut(share=0.3)(federation, 7)
        held = {row.tobytes() for row in part.test_x}
        for before, after in zip(federation.clients, part.clients, strict=True):
            kept, had = {row.tobytes() for row in after.x}, {row.tobytes() for row in before.x}
            assert kept < had
            assert not kept & held
            assert had - kept <= held
            assert len(before) - len(after) == max(1, round(0.3 * len(before)))
        assert len(held) == len(part.test_y) == int(federation.sizes.sum() - part.sizes.sum())
        assert not held & {row.tobytes() for row in federation.test_x}

    def test_the_seed_draws_it(self, federation: fp.data.Federation) -> None:
        prints = [HeldOut(share=0.3)(federation, seed).fingerprint for seed in (7, 7, 8)]
        assert prints[0] == prints[1] != prints[2]

    def test_a_client_keeps_a_record_to_train_on(self) -> None:
        def client(index: int, size: int) -> fp.data.Client:
            x = np.arange(2.0 * size).reshape(size, 2) + 100 * index
            return fp.data.Client(index=index, name=str(index), x=x, y=[0] * size)

        test: dict[str, Any] = {"test_x": np.zeros((1, 2)), "test_y": [1], "classes": 2}
        some = fp.data.Federation(name="f", clients=(client(0, 1), client(1, 2)), **test)
        assert HeldOut(share=0.9)(some, 0).sizes.tolist() == [1, 1]
        with pytest.raises(DataError, match=r"select=\(x, y\)"):
            HeldOut(share=0.9)(fp.data.Federation(name="f", clients=(client(0, 1),), **test), 0)

    def test_public_examples_leave_the_clients_alone(self, federation: fp.data.Federation) -> None:
        part = Public(x=federation.test_x[:5], y=federation.test_y[:5])(federation, 0)
        assert part.clients == federation.clients
        assert part.test_y.tolist() == federation.test_y[:5].tolist()

    @pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
    def test_shares(self, share: float) -> None:
        with pytest.raises(ConfigurationError, match="share"):
            HeldOut(share=share)


class TestSeeds:
    def test_derived_ones_are_the_reports_neighbours_in_nothing(self) -> None:
        found = seeds_of(None, range(5), 0)
        assert len(set(found)) == 3
        assert not set(found) & set(range(5))
        assert found == seeds_of(None, range(100), 0)  # more seeds in the report change no selection
        assert not set(seeds_of(None, [0, found[1]], 0)) & {0, found[1]}
        assert found != seeds_of(None, range(5), 1)

    @pytest.mark.parametrize("seeds", [[], [7, 7], [7, 1], 7, [-1], ["x"]])
    def test_refused(self, seeds: Any, federation: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError):
            tuned(federation, {"a": planned()}, {RATE: [0.1]}, tune_seeds=seeds)


class TestBest:
    def trials(self, **scores: list[float]) -> list[Trial]:
        return [
            Trial(values={"v": name}, seed=seed, accuracy=score, refused="no" if np.isnan(score) else "")
            for name, column in scores.items()
            for seed, score in enumerate(column)
        ]

    def test_the_mean_over_the_seeds(self) -> None:
        assert best(self.trials(a=[0.9, 0.1], b=[0.6, 0.5], c=[0.5, 0.5])) == {"v": "b"}

    def test_of_equal_ones_the_first(self) -> None:
        assert best(self.trials(a=[0.1], b=[0.5], c=[0.5])) == {"v": "b"}

    def test_a_candidate_of_which_a_run_failed_is_none(self) -> None:
        assert best(self.trials(a=[1.0, np.nan], b=[0.2, 0.3])) == {"v": "b"}
        assert best(self.trials(a=[np.nan])) is None


class TestSelect:
    @pytest.mark.parametrize(
        ("select", "why"),
        [("test", "looks better there"), ("train_loss", "overfits"), ("accuracy", "validation"), (3, "validation")],
    )
    def test_only_validation_records_choose(self, select: Any, why: str, federation: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match=why):
            tuned(federation, {"a": planned()}, {RATE: [0.1]}, select=select)

    def test_without_a_model_there_is_no_accuracy(self, federation: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match="without a model"):
            tuned(federation, {"a": planned(model=None)}, {RATE: [0.1]})

    @pytest.mark.parametrize("options", [{"charge_tuning": True}, {"tune_seeds": [5]}, {"held_out": 0.3}])
    def test_nothing_to_tune(self, options: Any, federation: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match="Nothing is tuned"):
            fp.compare(federation, {"a": planned()}, seeds=[0], **options)


class TestTuning:
    def test_the_best_on_validation_records_is_run(self, federation: Any, planned: Make) -> None:
        study = tuned(federation, {"a": planned()}, {RATE: [1e-6, 0.3]}, tune_seeds=[50, 51])
        part = HeldOut(share=0.2)(federation, 0)
        made = [(rate, seed) for rate in (1e-6, 0.3) for seed in (50, 51)]
        plans = {rate: exchanged(planned(), RATE, rate) for rate in (1e-6, 0.3)}
        scores = [fp.run(part, plans[rate], seed=seed, progress=False).summary()["accuracy"] for rate, seed in made]
        trials = study.trials
        assert list(zip(trials[f"tuned_{RATE}"], trials["tune_seed"], strict=True)) == made
        assert trials["accuracy"].tolist() == scores
        assert sum(scores[2:]) > sum(scores[:2])
        assert trials["chosen"].tolist() == [False, False, True, True]
        runs = [fp.run(federation, plans[0.3], seed=seed, progress=False).sha256 for seed in (0, 1)]
        frame = study.frame
        assert frame["sha256"].tolist() == runs
        assert frame[f"tuned_{RATE}"].tolist() == [0.3, 0.3]
        assert frame["validation_accuracy"].tolist() == [sum(scores[2:]) / 2] * 2
        assert frame["trials"].tolist() == [4, 4]
        assert frame["tune_seeds"].tolist() == ["50, 51"] * 2
        assert frame["validation_records"].tolist() == [len(part.test_y)] * 2
        assert frame["validation"].tolist() == ["0.2 of each client's training records"] * 2
        assert study.table()[[f"tuned_{RATE}", "trials"]].to_numpy().tolist() == [[0.3, 4]]

    def test_the_test_set_and_the_reports_seeds_change_no_selection(self, federation: Any, planned: Make) -> None:
        other = replace(federation, test_x=-federation.test_x, test_y=2 - federation.test_y)
        plans = {"a": planned(mechanism=NOISED), "b": planned()}
        tune = {RATE: [0.1, 0.3], CLIP: [0.5, 1.0]}
        first, second = tuned(federation, plans, tune), tuned(other, plans, tune, seeds=[0, 9])
        assert first.trials.to_csv() == second.trials.to_csv()
        assert first.frame["accuracy"].tolist() != second.frame["accuracy"].tolist()

    def test_plans_without_such_a_path_are_not_tuned(self, federation: Any, planned: Make) -> None:
        study = tuned(federation, {"a": planned(), "b": planned(mechanism=NOISED)}, {CLIP: [0.5, 1.0]}, seeds=[0])
        assert [cell.tuning is None for cell in study.cells] == [True, False]
        frame = study.frame.set_index("label")
        assert np.isnan(frame.loc["a", "trials"])
        assert frame.loc["b", "tuning"] == "ε excludes tuning"

    def test_a_candidate_that_is_refused_is_a_trial_with_its_reason(self, federation: Any, planned: Make) -> None:
        plan = planned(aggregation=fp.SecureAggregation(min_cohort=9))
        study = tuned(federation, {"a": plan}, {"aggregation.min_cohort": [9, -1, 4]}, ideal=True)
        reasons = study.trials["refused"].tolist()
        assert "min_cohort = 9" in reasons[0]
        assert "-1" in reasons[1]
        assert reasons[2] == ""
        assert study.frame["tuned_aggregation.min_cohort"].tolist() == [4, 4]

    def test_a_candidate_that_diverges_is_a_trial_with_its_reason(self, federation: Any, planned: Make) -> None:
        study = tuned(federation, {"a": planned(client=Diverges(1e9))}, {"client.size": [1e9, 0.0]})
        assert "In round 2." in study.trials["refused"].iloc[0]
        assert study.frame["tuned_client.size"].tolist() == [0.0, 0.0]

    def test_no_candidate(self, federation: Any, planned: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        plans = {"fits": planned(), "not": planned(aggregation=fp.SecureAggregation(min_cohort=9))}
        tune = {"aggregation.min_cohort": [9, 10]}
        study = tuned(federation, plans, tune, on_invalid="record")
        frame = study.frame.set_index("label")
        assert frame.loc["fits", "refused"].tolist() == ["", ""]
        assert all("min_cohort = 9" in reason for reason in frame.loc["not", "refused"])
        assert study.table()["seeds"].tolist() == [2, 0]
        with pytest.raises(NonFiniteInput):
            tuned(federation, {"a": planned(client=Diverges(1e9))}, {"client.size": [1e9]})
        ran: list[int] = []
        monkeypatch.setattr("fedpriv.study.cells.run", lambda *_, **__: ran.append(1))
        with pytest.raises(PlanError, match="min_cohort = 9"):
            tuned(federation, plans, tune)
        assert not ran

    def test_a_federation_for_every_seed_is_tuned_by_itself(self, federations: Any, planned: Make) -> None:
        """What one of them trains on may be in the test set of the next."""
        study = tuned(lambda seed: federations(seed=seed), {"a": planned()}, {RATE: [1e-6, 0.3]}, tune_seeds=None)
        assert [tuning.seed for tuning in study.tunings] == [0, 1]
        assert [tuning.seeds for tuning in study.tunings] == [seeds_of(None, [0, 1], 0), seeds_of(None, [0, 1], 1)]
        for tuning in study.tunings:
            assert tuning.seed is not None
            part = HeldOut(share=0.2)(federations(seed=tuning.seed), tuning.seed)
            run = fp.run(part, exchanged(planned(), RATE, 1e-6), seed=tuning.seeds[0], progress=False)
            assert tuning.trials[0].accuracy == run.summary()["accuracy"]
            assert tuning.records == len(part.test_y)
        alone = tuned(federations(seed=1), {"a": planned()}, {RATE: [1e-6, 0.3]}, [1], tune_seeds=None)
        assert alone.tunings[0].trials == study.tunings[1].trials

    def test_federations_by_name(self, federation: Any, federations: Any, planned: Make) -> None:
        sources = {"fixed": federation, "drawn": lambda seed: federations(clients=4, seed=seed)}
        study = tuned(sources, {"a": planned()}, {RATE: [0.1, 0.3]})
        assert [(tuning.federation, tuning.seed) for tuning in study.tunings] == [
            ("fixed", None), ("drawn", 0), ("drawn", 1),
        ]  # fmt: skip

    def test_interrupted_in_its_trials_and_gone_on_with(
        self, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fedpriv.engine.training import ClientWork

        arguments: Any = (federation, {"a": planned(mechanism=NOISED)}, {RATE: [0.1, 0.3], CLIP: [0.5, 1.0]})
        options: Any = {"charge_tuning": True, "every": 1}
        whole = tuned(*arguments, **options)
        real, calls = ClientWork._train, []

        def pressed(*given: Any) -> Any:
            calls.append(1)
            if len(calls) == 6:
                raise KeyboardInterrupt
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(ClientWork, "_train", pressed)
            with pytest.raises(KeyboardInterrupt):
                tuned(*arguments, checkpoint=tmp_path, **options)
            first = len(calls)
            resumed = tuned(*arguments, checkpoint=tmp_path, **options)
            once = len(calls) - first
            tuned(*arguments, checkpoint=tmp_path, **options)
            assert len(calls) == first + once  # all read back
        assert (first, once) == (6, 2 * (4 + 2) - 5)  # rounds of trials and runs, without those that were kept
        assert rows(resumed) == rows(whole)
        assert len(list((tmp_path / "tuning").iterdir())) == 4

    def test_workers_get_the_part_and_the_choice(self, federation: Any, planned: Make) -> None:
        chosen = {("", 1, "a"): planned(rounds=5)}
        work = Work({"": federation}, {"a": planned()}, {}, None, "raise", HeldOut(share=0.2), chosen)
        there = pickle.loads(pickle.dumps(work))
        assert there.federation(Job("", 4, "a", 3)).fingerprint == HeldOut(share=0.2)(federation, 3).fingerprint
        assert [there.plan(Job("", seed, "a")).rounds for seed in (0, 1)] == [2, 5]


def test_public_examples_of_another_shape(federation: Any, planned: Make) -> None:
    with pytest.raises(DataError, match="one shape"):
        tuned(federation, {"a": planned()}, {RATE: [0.1, 0.3]}, select=(np.zeros((2, 3)), [0, 1]))


def test_errors_of_candidates_are_fedprivs(planned: Make) -> None:
    (found,) = candidates(planned(), {"rounds": [0]})
    assert isinstance(found.plan, FedprivError)
