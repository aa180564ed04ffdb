"""Between two rounds: stopping early, stopping at a budget, logs; and what is no callback."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fedpriv as fp
from fedpriv.errors import BudgetUnreachable, ConfigurationError, PlanError
from fedpriv.learning.update import Broadcast, Update, per_client

Make = Callable[..., fp.Plan]


def execute(federation: Any, plan: fp.Plan, *callbacks: Any, **options: Any) -> fp.Run:
    return fp.run(federation, plan, seed=3, progress=False, callbacks=callbacks, **options)


@dataclass
class Seen:
    """Counts what it is shown, and ends the run after some rounds."""

    stop_after: int = 99
    rounds: list[int] = field(default_factory=list)

    def on_round(self, progress: fp.callbacks.Progress) -> Any:
        assert progress.record is progress.done[-1].record
        assert progress.record.round + 1 == progress.rounds == len(progress.ledger)
        assert progress.record.sha256
        self.rounds.append(progress.rounds)
        return "stop" if progress.rounds == self.stop_after else None


def test_it_is_called_after_every_round_and_may_end_the_run(federation: Any, planned: Make) -> None:
    seen = Seen(stop_after=3)
    run = execute(federation, planned(rounds=6), seen, lambda progress: None, evaluate_every=2)
    whole = execute(federation, planned(rounds=6))
    assert seen.rounds == [1, 2, 3]
    assert (run.stopped, run.partial, len(run.records)) == ("Seen", False, 3)
    assert "stopped by Seen" in repr(run)
    assert run.frame["accuracy"].notna().tolist() == [False, True, True]  # the last model is measured
    assert run.frame["accuracy"].iloc[-1] == whole.frame["accuracy"].iloc[2]
    assert run.frame["evaluate_seconds"].notna().tolist() == [False, True, True]


def test_a_stop_holds_after_a_resume(federation: Any, planned: Make, tmp_path: Path) -> None:
    first = execute(federation, planned(rounds=6), Seen(stop_after=3), checkpoint=tmp_path)
    again = Seen(stop_after=3)
    second = execute(federation, planned(rounds=6), again, checkpoint=tmp_path)
    assert not again.rounds
    assert second.stopped == "Seen"
    assert second.frame.equals(first.frame)


class TestEarlyStopping:
    @pytest.mark.parametrize(
        ("options", "values", "rounds"),
        [
            ({"patience": 2}, [0.1, 0.5, 0.4, 0.5, 0.9], 4),
            ({"patience": 2}, [0.1, 0.5, 0.4, 0.6, 0.7], 5),
            ({"patience": 1, "least": 0.2}, [0.1, 0.5, 0.6, 0.9, 0.9], 3),
            ({"patience": 2, "metric": "loss"}, [3.0, 2.0, 2.5, 2.5, 1.0], 4),
            ({"patience": 1, "mode": "min"}, [0.1, 0.2, 0.3, 0.4, 0.5], 2),
            ({"patience": 1}, [float("nan"), 0.2, 0.3, 0.4, 0.5], 1),
        ],
    )
    def test_patience(
        self,
        options: Any,
        values: list[float],
        rounds: int,
        federation: Any,
        planned: Make,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from fedpriv.study.course import Evaluation

        given = iter(values)
        monkeypatch.setattr(
            Evaluation,
            "__call__",
            lambda *_: ({name: v for v in [next(given)] for name in ("accuracy", "loss")}, 0.0),
        )
        run = execute(federation, planned(rounds=5), fp.callbacks.EarlyStopping(**options))
        assert len(run.records) == rounds

    def test_rounds_without_a_measurement_do_not_count(self, federation: Any, planned: Make) -> None:
        run = execute(
            federation, planned(rounds=7), fp.callbacks.EarlyStopping(patience=1, least=1.0), evaluate_every=3
        )
        assert len(run.records) == 6  # measured after 3, and not better by 1 after 6

    def test_what_is_not_measured(self, federation: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match=r"'f1'.*accuracy, loss"):
            execute(federation, planned(), fp.callbacks.EarlyStopping(metric="f1"))

    @pytest.mark.parametrize("wrong", [{"patience": 0}, {"patience": 1.5}, {"least": -1.0}, {"mode": "best"}])
    def test_out_of_range(self, wrong: Any) -> None:
        with pytest.raises(ConfigurationError):
            fp.callbacks.EarlyStopping(**wrong)


class TestBudgetStop:
    @pytest.mark.parametrize("sampling", [fp.FullParticipation(), fp.PoissonSampling(0.5)])
    def test_it_stops_at_the_last_round_within(self, sampling: Any, federation: Any, planned: Make) -> None:
        plan = planned(rounds=5, mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=4.0), sampling=sampling)
        whole = execute(federation, plan)
        spent = []
        ledger = whole.resolved.new_ledger()
        for event in whole.ledger.events:
            ledger.append(event)
            spent.append(ledger.epsilon(1e-2, observer="public"))
        budget = fp.Budget(epsilon=(spent[2] + spent[3]) / 2, delta=1e-2, observer="public")
        run = execute(federation, plan, fp.callbacks.BudgetStop(budget=budget))
        assert (len(run.records), run.stopped) == (3, "BudgetStop")
        assert run.sha256 == whole.records[2].sha256
        assert run.ledger.epsilon(1e-2, observer="public") <= budget.epsilon

    def test_per_record(self, federation: Any, planned: Make) -> None:
        client = fp.DPSGD(
            noise_multiplier=1.0, clip_norm=1.0, sampling_rate=0.5, expected_batch=3.0, steps=1, learning_rate=0.1
        )
        plan = planned(rounds=4, client=client, mechanism=fp.NoDP(weighting="equal"))
        whole = execute(federation, plan).ledger.epsilon(1e-2, observer="public", unit="record")
        budget = fp.Budget(epsilon=0.95 * whole, delta=1e-2, observer="public", unit="record")
        run = execute(federation, plan, fp.callbacks.BudgetStop(budget=budget))
        assert len(run.records) == 3

    def test_a_first_round_beyond_it_is_refused_before_it_is_run(self, federation: Any, planned: Make) -> None:
        trained = []

        @per_client
        class Watched:
            def train_one(self, model: Any, broadcast: Broadcast, client: Any, state: Any, rng: Any) -> Update:
                trained.append(client)
                raise AssertionError

        budget = fp.Budget(epsilon=1.0, delta=1e-2, observer="public")
        with pytest.raises(BudgetUnreachable, match=r"first round.* ε = 1 .*Against the public: ε = ∞"):
            execute(federation, planned(client=Watched()), fp.callbacks.BudgetStop(budget=budget))
        noised = planned(client=Watched(), mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0))
        with pytest.raises(BudgetUnreachable, match=r"Against the public: ε = 2\.\d+ at δ = 0\.01 "):
            execute(federation, noised, fp.callbacks.BudgetStop(budget=budget))
        assert not trained

    def test_per_record_without_saying_what_a_round_amounts_to(self, federation: Any, planned: Make) -> None:
        @per_client
        class Silent:
            record_level = True

            def train_one(self, model: Any, broadcast: Broadcast, client: Any, state: Any, rng: Any) -> Update:
                raise AssertionError

        budget = fp.Budget(epsilon=1.0, delta=1e-2, observer="public", unit="record")
        plan = planned(client=Silent(), mechanism=fp.NoDP(weighting="equal"))
        with pytest.raises(PlanError, match="participation"):
            execute(federation, plan, fp.callbacks.BudgetStop(budget=budget))


class TestRoundLog:
    @pytest.mark.parametrize("ending", ["jsonl", "csv"])
    def test_it_holds_the_rows_of_the_frame(self, ending: str, federation: Any, planned: Make, tmp_path: Path) -> None:
        path = tmp_path / f"rounds.{ending}"
        path.write_text("from another day\n", encoding="utf-8")
        plan, folder = planned(rounds=4), tmp_path / "kept"
        lengths: list[int] = []
        options = {"evaluate_every": 2, "checkpoint": folder, "every": 1}
        read = (lambda: pd.read_json(path, lines=True)) if ending == "jsonl" else (lambda: pd.read_csv(path))
        log = fp.callbacks.RoundLog(path)

        def dies(progress: Any) -> None:
            lengths.append(len(read()))  # each round is there as it ends
            if progress.rounds == 3 and len(lengths) == 3:
                raise RuntimeError("it died")

        with pytest.raises(RuntimeError, match="it died"):
            execute(federation, plan, log, dies, **options)
        run = execute(federation, plan, log, dies, **options)  # the third round is done again
        assert lengths == [1, 2, 3, 3, 4]
        told, frame = read(), run.frame
        assert list(told.columns) == list(frame.columns)
        assert told["round"].tolist() == [1, 2, 3, 4]
        for name in ("accuracy", "train_loss", "client_bytes_up"):
            pd.testing.assert_series_equal(told[name], frame[name], check_dtype=False)
        assert told["sha256"].tolist() == frame["sha256"].tolist()
        if ending == "jsonl":
            assert json.loads(path.read_text().splitlines()[0])["accuracy"] is None

    def test_its_folder_is_made(self, federation: Any, planned: Make, tmp_path: Path) -> None:
        execute(federation, planned(), fp.callbacks.RoundLog(tmp_path / "made" / "a.csv"))
        assert len(pd.read_csv(tmp_path / "made" / "a.csv")) == 2
        with pytest.raises(ConfigurationError, match=r"can be written.*/proc/self/a\.csv: No such file"):
            execute(federation, planned(), fp.callbacks.RoundLog("/proc/self/a.csv"))

    def test_another_ending(self) -> None:
        with pytest.raises(ConfigurationError, match="jsonl"):
            fp.callbacks.RoundLog("rounds.txt")

    def test_a_study_has_no_single_one(self, federation: Any, planned: Make, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="one run"):
            fp.compare(federation, {"a": planned()}, seeds=[0], callbacks=[fp.callbacks.RoundLog(tmp_path / "a.csv")])


@pytest.mark.parametrize("wrong", [3, "stop", [3], [fp.callbacks.EarlyStopping]])
def test_what_is_no_callback(wrong: Any, federation: Any, planned: Make) -> None:
    with pytest.raises(ConfigurationError, match=r"[Cc]allback"):
        fp.run(federation, planned(), seed=0, progress=False, callbacks=wrong)


def test_before_the_first_round_there_is_nothing_to_end_with(federation: Any, planned: Make) -> None:
    class Never:
        def on_start(self, progress: Any) -> str:
            return "stop"

        def on_round(self, progress: Any) -> None:
            raise AssertionError

    with pytest.raises(ConfigurationError, match=r"A run has a round.*Never"):
        execute(federation, planned(), Never())


def test_what_a_callback_returns(federation: Any, planned: Make) -> None:
    with pytest.raises(ConfigurationError, match='None or "stop"'):
        execute(federation, planned(), lambda progress: True)


def test_nothing_of_the_size_of_the_model_is_kept_of_a_round(federation: Any, planned: Make) -> None:
    """Memory is flat in rounds: what a round leaves is its record, which has no vector."""
    import pickle

    run = execute(federation, planned(rounds=3, model=lambda: _wide()))
    assert run.parameters.nbytes > 100_000
    assert max(len(pickle.dumps(done)) for done in run.done) < 5_000


def _wide() -> Any:
    import torch

    return torch.nn.Sequential(torch.nn.Linear(4, 8000), torch.nn.ReLU(), torch.nn.Linear(8000, 3))
