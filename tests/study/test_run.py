"""Run, explain and the ledger: what a run says of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import fedpriv as fp
from fedpriv.engine.explain import delta_of, observers_of, planned_epsilon
from fedpriv.errors import ConfigurationError
from fedpriv.privacy import LedgerEvent

Make = Callable[..., fp.Plan]


def execute(federation: Any, plan: Any, seed: int = 7, **options: Any) -> fp.Run:
    return fp.run(federation, plan, seed=seed, progress=False, **options)


class TestExplain:
    def test_it_says_integers_bytes_threshold_and_who_learns_what(self, federation: Any, planned: Make) -> None:
        plan = planned(mechanism=fp.NoDP(bits=8), aggregation=fp.SecureAggregation(corrupt=0.1, dropout=0.2))
        resolved = plan.resolve(federation)
        assert max(map(len, resolved.explain().splitlines())) <= 118  # it fits a terminal
        text = " ".join(resolved.explain().split())
        assert "8 clients with 4 to 7 examples, 3 classes" in text
        assert "2 rounds, 8 clients expected in each, at most 8; logistic, 15 parameters" in text
        assert "16 coordinates" in text
        assert "|input| ≤ 889" in text  # 127 · 7 examples
        assert "ℤ mod 2^14" in text  # ±889 · 8
        run = execute(federation, resolved, ideal=True)
        sent, received = run.frame["client_bytes_up"].iloc[0], run.frame["client_bytes_down"].iloc[0]
        said = re.search(
            r"sends ([\d.]+) (k?B) and receives ([\d.]+) (k?B) a round, besides the model of (\d+) B", text
        )
        assert said is not None
        scale = {"B": 1, "kB": 1000}
        assert float(said[1]) * scale[said[2]] == pytest.approx(sent, rel=0.005)
        assert float(said[3]) * scale[said[4]] + int(said[5]) == pytest.approx(received, rel=0.005)
        least = plan.aggregation.least_contributors(8)
        assert f"a cohort of 8 gives a sum of at least {least} or none; server holds the sum" in text
        assert "10% of the clients" in text
        assert "ε = ∞ against every observer" in text
        assert re.search(r"server +ciphertexts, cohort, exact sum, final model, round models, survivors", text)
        assert re.search(r"public +final model", text)
        assert "Bonawitz et al. 2017" in text

    def test_plan_and_resolution_show_themselves_briefly(self, federation: Any, planned: Make) -> None:
        plan = planned(aggregation=fp.SecureAggregation())
        assert " at 0x" not in repr(plan)
        assert "model=fedpriv.learning.models.logistic, client=LocalSGD(" in repr(plan)
        shown = repr(plan.resolve(federation))
        assert shown.startswith("Resolved(blobs, 8 clients, SecureAggregation, NoDP, 15 parameters")

    def test_it_says_sigma_and_epsilon_per_observer(self, federation: Any, planned: Make) -> None:
        mechanism = fp.CentralGaussian(clip_norm=0.5, noise_multiplier=2.0)
        text = planned(mechanism=mechanism).resolve(federation).explain()
        assert "clip norm 0.5, noise multiplier 2, σ = 1 on the sum, central" in text
        assert re.search(r"server +Against the server: ε = ∞", text)
        assert re.search(r"public +Against the public: ε = \d", text)
        assert "authority" not in text
        behind = planned(mechanism=mechanism, aggregation=fp.CKKS()).resolve(federation).explain()
        assert re.search(r"authority +Against the authority: ε = ∞", behind)
        assert re.search(r"server +Against the server: ε = \d", behind)
        assert "authority holds the sum" in behind

    @pytest.mark.parametrize("aggregation", [fp.PlainSum(), fp.CKKS()])
    @pytest.mark.parametrize(
        "sampling", [fp.FullParticipation(), fp.PoissonSampling(0.5), fp.PoissonSampling(0.5, max_cohort=6)]
    )
    def test_what_was_planned_is_what_the_ledger_says(
        self, sampling: Any, aggregation: Any, federation: Any, planned: Make
    ) -> None:
        mechanism = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=3.0, bits=16)
        resolved = planned(mechanism=mechanism, sampling=sampling, aggregation=aggregation).resolve(federation)
        run = execute(federation, resolved, ideal=True)
        for observer in observers_of(resolved.threat):
            plan, spent = planned_epsilon(resolved, 1e-3, observer), run.ledger.epsilon(1e-3, observer=observer)
            if isinstance(sampling, fp.FullParticipation):
                assert plan == spent
            else:
                assert plan >= spent  # realised participations, at most every round

    def test_a_budget_is_met_and_nearly_spent(self, federation: Any, planned: Make) -> None:
        budget = fp.Budget(epsilon=2.0, delta=1e-3, observer="public")
        run = execute(federation, planned(mechanism=fp.CentralGaussian(clip_norm=1.0, target=budget)))
        assert delta_of(run.resolved) == 1e-3
        assert 1.99 < run.ledger.epsilon(1e-3, observer="public") <= 2.0
        assert run.summary()["epsilon_public"] == run.ledger.epsilon(1e-3, observer="public")
        assert run.summary()["epsilon_server"] == np.inf

    def test_delta_without_a_budget(self, federation: Any, planned: Make) -> None:
        assert delta_of(planned().resolve(federation)) == 1e-5


class TestRun:
    def test_the_model_is_the_one_that_was_measured(self, federation: Any, planned: Make) -> None:
        import torch

        run = execute(federation, planned(rounds=4))
        with torch.no_grad():
            right = run.model(torch.from_numpy(np.array(federation.test_x))).argmax(dim=1).numpy() == federation.test_y
        assert run.frame["accuracy"].iloc[-1] == pytest.approx(right.mean())
        assert run.summary()["accuracy"] == run.frame["accuracy"].iloc[-1]
        assert not run.model.training

    def test_evaluate_every(self, federation: Any, planned: Make) -> None:
        run = execute(federation, planned(rounds=5), evaluate_every=2)
        assert run.frame["accuracy"].notna().tolist() == [False, True, False, True, True]
        assert run.frame["round"].tolist() == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("executor", [2, 0, fp.Processes, "ray"], ids=["2", "0", "class", "ray"])
    def test_an_executor_is_one(self, executor: Any, federation: Any, planned: Make) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: execute(federation, planned(), executor=executor),
            lambda: next(fp.rounds(federation, planned(), seed=7, executor=executor)),
            lambda: fp.compare(federation, {"a": planned()}, seeds=[0], progress=False, executor=executor),
        ]
        for call in calls:
            with pytest.raises(ConfigurationError, match=r"executor=fp\.Processes\(2\)"):
                call()

    def test_nothing_of_a_client_is_in_anybodys_view(self, federation: Any, planned: Make) -> None:
        run = execute(federation, planned(aggregation=fp.SecureAggregation()))
        assert "updates" not in run.learns["server"]
        assert run.learns["public"] == "final model"

    def test_a_mechanism_without_a_theorem_has_no_epsilon_but_a_table(self, federation: Any, planned: Make) -> None:
        @dataclass(frozen=True, kw_only=True)
        class Laplace(fp.NoDP):
            """Noise that no accountant here knows."""

            weighting: Any = "equal"
            trust: Any = field(default="distributed", init=False, repr=False)

            def events(self, spec: Any, outcome: Any) -> tuple[LedgerEvent, ...]:
                (event,) = super().events(spec, outcome)
                return (
                    LedgerEvent(**{**vars(event), "mechanism": "laplace", "noise_multiplier": 1.0, "clip_norm": 1.0}),
                )

        plan = planned(mechanism=Laplace())
        run = execute(federation, plan)
        assert np.isnan(run.summary()["epsilon_public"])
        assert "no statement" in plan.resolve(federation).explain()

    def test_shown(self, federation: Any, planned: Make) -> None:
        run = execute(federation, planned())
        assert re.fullmatch(r"Run\(blobs, PlainSum real, seed 7, 2 rounds, 0 aborted, accuracy .*\)", repr(run))
        assert "<table" in run._repr_html_()
        assert r"\begin{tabular}" in run.to_latex()

    def test_plot_draws_the_column_over_the_rounds(self, federation: Any, planned: Make) -> None:
        run = execute(federation, planned(rounds=3))
        (axes,) = run.plot("loss").axes
        assert axes.lines[0].get_xdata().tolist() == [1, 2, 3]
        assert axes.lines[0].get_ydata().tolist() == run.frame["loss"].tolist()
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("round", "loss")
        with pytest.raises(ConfigurationError, match="columns"):
            run.plot("acuracy")

    def test_save_holds_what_is_needed_to_tell_the_run_again(
        self, federation: Any, planned: Make, tmp_path: Any
    ) -> None:
        mechanism = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0)
        run = execute(federation, planned(mechanism=mechanism))
        folder = run.save(tmp_path / "run")
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        assert about["sha256"] == run.sha256
        assert (about["seed"], about["noise"], about["ideal"]) == (7, "seeded", False)
        assert about["plan"] == json.loads(json.dumps(run.plan.describe()))
        assert about["plan"]["client"]["learning_rate"] == 0.3
        assert about["federation"]["sha256"] == federation.fingerprint
        assert about["summary"]["epsilon_server"] == "∞"
        assert about["packages"]["torch"] not in ("", "absent")
        ledger = fp.Ledger.from_json((folder / "ledger.json").read_text(encoding="utf-8"))
        assert ledger.events == run.ledger.events
        assert ledger.epsilon(1e-3, observer="public") == run.ledger.epsilon(1e-3, observer="public")
        assert (folder / "plan.txt").read_text(encoding="utf-8").startswith("Federation   blobs")
