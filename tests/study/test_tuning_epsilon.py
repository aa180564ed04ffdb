"""What ε says of tuning: excluded and said so, or charged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tuned import CLIP, DELTA, NOISED, RATE, Diverges, tuned

import fedpriv as fp
from fedpriv.errors import ConfigurationError
from fedpriv.privacy.ledger.accounting import epsilon
from fedpriv.privacy.ledger.composition import Composition
from fedpriv.report.tables import text
from fedpriv.study.tuning import in_a_row

Make = Callable[..., fp.Plan]


def gaussian(releases: int, multiplier: float) -> float:
    """ε of that many releases that everybody takes part in."""
    return epsilon(Composition(gaussian=releases / multiplier**2), DELTA, "zero-out", "pld")


def _sum(inverse_squares: float) -> float:
    return epsilon(Composition(gaussian=inverse_squares), DELTA, "zero-out", "pld")


class TestEpsilon:
    def test_excluded(self, federation: Any, planned: Make, tmp_path: Path) -> None:
        plans = {"noised": planned(mechanism=NOISED), "bare": planned()}
        study = tuned(federation, plans, {RATE: [0.1, 0.3]})
        frame = study.frame.set_index("label")
        assert frame.loc["noised", "epsilon"].tolist() == pytest.approx([gaussian(2, 4.0)] * 2, rel=1e-9)
        assert set(frame.loc["noised", "tuning"]) == {"ε excludes tuning"}
        assert set(frame.loc["bare", "tuning"]) == {""}
        assert "epsilon_of_run" not in frame
        for shown in (
            text(study.table(["accuracy", "epsilon_public"])),
            study._repr_html_(),
            study.note,
        ):
            assert "ε excludes tuning" in shown
        assert study._repr_html_().count("ε excludes tuning") == 2  # the row's, and under the table
        latex = study.to_latex(["epsilon"])
        assert latex.count(r"$\varepsilon$ excludes tuning") == 2
        assert "tuning" not in study.table(["accuracy"])
        assert study.plot(x="epsilon").get_supxlabel() == "ε excludes tuning"
        assert not study.plot().get_supxlabel()
        folder = study.save(tmp_path / "study")
        assert "ε excludes tuning" in (folder / "table.csv").read_text(encoding="utf-8")
        assert "ε excludes tuning" in (folder / "runs.csv").read_text(encoding="utf-8")
        assert len(pd.read_csv(folder / "trials.csv")) == 4
        about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        assert "ε excludes tuning" in about["note"]
        (first, _) = about["tuning"]
        assert first["seeds"] == [50]
        assert first["validation"] == {
            "origin": "0.2 of each client's training records", "public": False,
            "records": int(study.frame["validation_records"].iloc[0]),
        }  # fmt: skip
        assert [trial["values"] for trial in first["trials"]] == [{RATE: 0.1}, {RATE: 0.3}]
        assert first["chosen"] == about["cells"][0]["tuned"]

    def test_nothing_is_said_without_tuning_or_a_finite_epsilon(self, federation: Any, planned: Make) -> None:
        study = tuned(federation, {"bare": planned()}, {RATE: [0.1, 0.3]}, seeds=[0])
        assert study.note == ""
        assert "excludes" not in study.to_latex() + study._repr_html_()
        plain = fp.compare(federation, {"a": planned(mechanism=NOISED)}, seeds=[0], progress=False)
        assert "tuning" not in plain.frame
        assert (plain.note, plain.tunings) == ("", ())
        assert "tuning" not in plain.to_latex() + plain._repr_html_()

    @pytest.mark.parametrize("public", [False, True])
    def test_charged(self, public: bool, federation: Any, planned: Make) -> None:
        """Three candidates with two seeds of two rounds each, and the run's two rounds: 14 releases."""
        select: Any = (federation.test_x[:9] + 1, federation.test_y[:9]) if public else "validation"
        study = tuned(
            federation,
            {"noised": planned(mechanism=NOISED)},
            {RATE: [0.1, 0.2, 0.3]},
            tune_seeds=[50, 51],
            charge_tuning=True,
            select=select,
        )
        frame = study.frame
        for column in ("epsilon", "epsilon_public", "epsilon_participant"):
            assert frame[column].tolist() == pytest.approx([gaussian(14, 4.0)] * 2, rel=1e-9)
        assert np.isinf(frame["epsilon_server"]).all()
        assert frame["epsilon_of_run"].tolist() == pytest.approx([gaussian(2, 4.0)] * 2, rel=1e-9)
        said = "ε includes tuning" if public else "ε includes trials, not scores"
        assert set(frame["tuning"]) == {said}
        assert said in text(study.table(["epsilon"]))
        assert "excludes" not in study.note
        assert ("scores" in study.note) is not public
        assert frame["validation_records"].tolist() == ([9, 9] if public else [8, 8])

    def test_how_much_is_spent_does_not_depend_on_what_was_chosen(self, federation: Any, planned: Make) -> None:
        """Whichever is chosen, the run counts as the costliest candidate's: 2 / 2² + 2 / 8², and 2 / 2² once more."""
        tune = {"mechanism.noise_multiplier": [2.0, 8.0], CLIP: [1e-9]}
        study = tuned(federation, {"a": planned(mechanism=NOISED)}, tune, seeds=[0], charge_tuning=True)
        assert study.frame["epsilon"].iloc[0] == pytest.approx(_sum(2 / 4 + 2 / 64 + 2 / 4))
        tune["mechanism.noise_multiplier"].reverse()
        study = tuned(federation, {"a": planned(mechanism=NOISED)}, tune, seeds=[0], charge_tuning=True)
        assert study.frame["tuned_mechanism.noise_multiplier"].iloc[0] == 8.0  # of equal ones the first
        assert study.frame["epsilon"].iloc[0] == pytest.approx(_sum(2 / 4 + 2 / 64 + 2 / 4))

    def test_a_trial_that_ended_with_an_error_counts_in_full(self, federation: Any, planned: Make) -> None:
        """Of the first candidate one round was released before a client's update was no number."""
        plan = planned(client=Diverges(1e9), mechanism=NOISED)
        study = tuned(federation, {"a": plan}, {"client.size": [1e9, 0.0]}, seeds=[0], charge_tuning=True)
        assert study.trials["refused"].iloc[0]
        assert study.frame["epsilon"].iloc[0] == pytest.approx(gaussian(6, 4.0), rel=1e-9)

    def test_per_record(self, federation: Any, planned: Make) -> None:
        client = fp.DPSGD(
            learning_rate=0.1, clip_norm=1.0, sampling_rate=1.0, expected_batch=4, steps=2, noise_multiplier=8.0
        )
        study = tuned(
            federation,
            {"a": planned(client=client, mechanism=fp.NoDP(weighting="equal"))},
            {RATE: [0.1, 0.3]},
            seeds=[0],
            charge_tuning=True,
        )
        (row,) = study.frame.to_dict("records")
        steps = Composition(gaussian=3 * 2 * 2 / 8.0**2)  # two trials and the run, two rounds of two steps each
        expected = epsilon(steps, row["delta_record"], "add-remove", "pld")
        assert row["epsilon_record_public"] == pytest.approx(expected, rel=1e-9)

    def test_trials_under_another_threat_model_are_not_charged(self, federation: Any, planned: Make) -> None:
        tune = {"aggregation": [fp.PlainSum(), fp.SecureAggregation()]}
        with pytest.raises(ConfigurationError, match="one threat model"):
            tuned(federation, {"a": planned(mechanism=NOISED)}, tune, charge_tuning=True)

    def test_noise_over_several_rounds_is_not_charged(self, federation: Any, planned: Make) -> None:
        plan = planned(mechanism=fp.TreeMechanism(clip_norm=1.0, noise_multiplier=4.0))
        with pytest.raises(ConfigurationError, match="noise of its own"):
            tuned(federation, {"a": plan}, {RATE: [0.1, 0.3]}, charge_tuning=True)


def test_runs_in_a_row_share_no_round(federation: Any, planned: Make) -> None:
    """Per record, and where noise is correlated, the ledger goes by the number of a round."""
    events = fp.run(federation, planned(mechanism=NOISED), seed=0, progress=False).ledger.events
    joined = in_a_row([events, (), events, events[:1]])
    assert [event.round for event in joined] == [0, 1, 2, 3, 4]
    assert {replace(event, round=0) for event in joined} == {replace(event, round=0) for event in events}
