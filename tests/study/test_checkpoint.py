"""A run that was stopped goes on as if it never had been: bit for bit, ε included; and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedpriv as fp
from fedpriv.errors import CheckpointError, ConfigurationError
from fedpriv.learning.update import Broadcast, Update, per_client

Make = Callable[..., fp.Plan]
TIMINGS = ["client_seconds", "train_seconds", "server_seconds", "wall_seconds", "seconds", "evaluate_seconds"]
NOISED = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)


class Crash(Exception):
    """What no run expects."""


def execute(federation: Any, plan: fp.Plan, **options: Any) -> fp.Run:
    return fp.run(federation, plan, seed=7, progress=False, **options)


def crashed(federation: Any, plan: fp.Plan, folder: Path, after: int, monkeypatch: Any, **options: Any) -> None:
    """A run that dies after this many rounds, wherever its last checkpoint was."""
    from fedpriv.study.course import Course

    take = Course.take

    def dying(course: Any, *arguments: Any) -> bool:
        if len(course.done) == after:
            raise Crash
        return take(course, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Course, "take", dying)
        with pytest.raises(Crash):
            execute(federation, plan, checkpoint=folder, **options)


def untimed(run: fp.Run) -> tuple[Any, ...]:
    """All that a run says, but for timings and for what TenSEAL's compression makes of fresh ciphertexts."""
    costs = run.costs.drop(columns=["cpu_seconds", "modelled_seconds"])
    if isinstance(run.plan.aggregation, fp.BFV):
        frame = run.frame.drop(columns=[*TIMINGS, "client_bytes_up", "client_bytes_down"])
        return frame.to_csv(), costs["messages"].tolist(), run.parameters.tobytes(), run.ledger.to_json()
    return (
        run.frame.drop(columns=TIMINGS).to_csv(),
        costs.to_csv(),
        run.parameters.tobytes(),
        None if run.mean is None else run.mean.tobytes(),
        json.loads(run.ledger.to_json()),
        run.key_bytes,
        {k: v for k, v in run.summary().items() if k not in TIMINGS}.__repr__(),
    )


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a client of :class:`Remembers` keeps: containers, arrays, tensors."""

    drift: np.ndarray[Any, Any]
    rounds: tuple[int, ...]
    notes: dict[str, Any]


@per_client
class Remembers:
    """Its update depends on all of its earlier rounds."""

    def init(self, client: Any) -> Memory:
        import torch

        return Memory(drift=np.zeros(15), rounds=(), notes={"t": torch.zeros(3), "s": np.float32(0.1), "inf": np.inf})

    def train_one(self, model: Any, broadcast: Broadcast, client: Any, state: Any, rng: Any) -> Update:
        move = rng.normal(size=len(broadcast.parameters))
        drift = 0.9 * state.drift + move + float(state.notes["t"].sum())
        notes = {**state.notes, "t": state.notes["t"] + 0.01}
        kept = Memory(drift=drift, rounds=(*state.rounds, len(state.rounds)), notes=notes)
        return Update(payload={"delta": 0.01 * drift.astype(np.float32)}, state=kept, metrics={"loss": float(drift[0])})


RECORDS = fp.DPSGD(
    noise_multiplier=1.0, clip_norm=1.0, sampling_rate=0.5, expected_batch=3.0, steps=2, learning_rate=0.3
)
CASES: dict[str, dict[str, Any]] = {
    "adam, noise, Poisson": {
        "server": fp.FedAdam(learning_rate=0.1),
        "mechanism": NOISED,
        "sampling": fp.PoissonSampling(0.6),
    },
    "momentum, masks, dropout": {
        "server": fp.FedAvgM(),
        "aggregation": fp.SecureAggregation(corrupt=0.1, dropout=0.3),
        "network": fp.Network(dropout=0.3, stragglers=0.5),
    },
    "client states": {"client": Remembers()},
    "record level": {"client": RECORDS, "mechanism": fp.NoDP(weighting="equal")},
    "BFV": {"aggregation": fp.BFV(), "sampling": fp.FixedSizeSampling(5)},
    "a key that only clients hold": {
        "aggregation": fp.BFV(keys=fp.SharedClientKey()),
        "sampling": fp.FixedSizeSampling(5),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_uninterrupted_one(
    case: str, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(rounds=5, **CASES[case])
    whole = execute(federation, plan, evaluate_every=2)
    options = {"evaluate_every": 2, "every": 2}
    crashed(federation, plan, tmp_path, 3, monkeypatch, **options)  # the third round is lost: it is done again
    resumed = execute(federation, plan, checkpoint=tmp_path, **options)
    assert untimed(resumed) == untimed(whole)
    read_back = execute(federation, plan, checkpoint=tmp_path, **options)
    assert read_back.frame.to_csv() == resumed.frame.to_csv()  # timings too: nothing ran
    assert untimed(read_back) == untimed(whole)


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "options", "fields"),
        [
            (
                {"client": fp.LocalSGD(steps=2, batch_size=4, learning_rate=0.7)},
                {},
                ["plan.client.learning_rate: 0.3 → 0.7"],
            ),
            (
                {"rounds": 4, "server": fp.FedAvgM()},
                {},
                ["plan.rounds: 2 → 4", "plan.server.type: 'FedAvg' → 'FedAvgM'"],
            ),
            ({}, {"ideal": True}, ["ideal: False → True"]),
            ({}, {"callbacks": [fp.callbacks.EarlyStopping()]}, ["callbacks"]),
        ],
    )
    def test_of_another_plan(
        self, changes: Any, options: Any, fields: list[str], federation: Any, planned: Make, tmp_path: Path
    ) -> None:
        execute(federation, planned(), checkpoint=tmp_path)
        with pytest.raises(CheckpointError) as caught:
            execute(federation, planned(**changes), checkpoint=tmp_path, **options)
        assert all(field in str(caught.value) for field in fields)

    def test_of_another_seed_or_federation(
        self, federation: Any, federations: Any, planned: Make, tmp_path: Path
    ) -> None:
        execute(federation, planned(), checkpoint=tmp_path)
        with pytest.raises(CheckpointError, match="seed: 7 → 8"):
            fp.run(federation, planned(), seed=8, progress=False, checkpoint=tmp_path)
        with pytest.raises(CheckpointError, match=r"federation\.sha256"):
            execute(federations(seed=1), planned(), checkpoint=tmp_path)

    @pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
    def test_a_damaged_one_gives_way_to_the_one_before(
        self, damage: str, federation: Any, planned: Make, tmp_path: Path
    ) -> None:
        plan = planned(rounds=4)
        whole = execute(federation, plan, checkpoint=tmp_path, every=1)
        older, latest = sorted(tmp_path.glob("*.checkpoint"))
        for file in (latest, older):
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes({"flip": bytes(data), "cut": data[:-7], "empty": b"", "other": b"text\n"}[damage])
            if file is latest:
                with pytest.warns(
                    RuntimeWarning, match="round-000004.checkpoint is damaged .* the one before it is used"
                ):
                    resumed = execute(federation, plan, checkpoint=tmp_path, every=1)
                assert untimed(resumed) == untimed(whole)
                latest.write_bytes(b"")
        with (
            pytest.warns(RuntimeWarning, match="damaged"),
            pytest.raises(CheckpointError, match="Remove them to start anew"),
        ):
            execute(federation, plan, checkpoint=tmp_path, every=1)

    def test_only_two_are_kept_and_nothing_else(self, federation: Any, planned: Make, tmp_path: Path) -> None:
        execute(federation, planned(rounds=5), checkpoint=tmp_path, every=1)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "round-000004.checkpoint",
            "round-000005.checkpoint",
        ]

    def test_a_write_that_fails_leaves_what_was_there(
        self, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import os

        plan = planned(rounds=4)
        whole = execute(federation, plan)
        real, calls = os.replace, []

        def full(source: Any, target: Any) -> None:
            calls.append(target)
            if len(calls) == 3:
                raise OSError("no space left on device")
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(CheckpointError, match=r"round-000003\.checkpoint: no space .*Make room"):
                execute(federation, plan, checkpoint=tmp_path, every=1)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "round-000001.checkpoint",
            "round-000002.checkpoint",
        ]
        assert untimed(execute(federation, plan, checkpoint=tmp_path, every=1)) == untimed(whole)

    def test_a_state_that_cannot_be_kept_is_named(self, federation: Any, planned: Make, tmp_path: Path) -> None:
        @per_client
        class Odd:
            def train_one(self, model: Any, broadcast: Broadcast, client: Any, state: Any, rng: Any) -> Update:
                zero = np.zeros(len(broadcast.parameters), dtype=np.float32)
                return Update(payload={"delta": zero}, state={"open": object()})

        with pytest.raises(CheckpointError, match=r"the state of client 0\['open'\]: object"):
            execute(federation, planned(client=Odd()), checkpoint=tmp_path)

    def test_a_state_that_could_not_be_read_is_not_written(
        self, federation: Any, planned: Make, tmp_path: Path
    ) -> None:
        @dataclass(frozen=True)
        class Local:
            rounds: int = 0

        @per_client
        class Odd:
            def train_one(self, model: Any, broadcast: Broadcast, client: Any, state: Any, rng: Any) -> Update:
                return Update(payload={"delta": np.zeros(len(broadcast.parameters), dtype=np.float32)}, state=Local())

        with pytest.raises(CheckpointError, match=r"client 0: Local, which a function defines.*top level"):
            execute(federation, planned(client=Odd()), checkpoint=tmp_path)

    @pytest.mark.parametrize("folder", ["/proc/self", "/proc/absent"])
    def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_runs(
        self, folder: str, federation: Any, planned: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fedpriv.engine.training import ClientWork

        monkeypatch.delattr(ClientWork, "_train")
        with pytest.raises(CheckpointError, match="can be written to"):
            execute(federation, planned(), checkpoint=folder)

    def test_a_folder_is_one_runs_at_a_time(
        self, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fedpriv.engine import files

        monkeypatch.setattr(files, "_PATIENCE", 0.1)
        refused = []

        def second(progress: Any) -> None:
            with pytest.raises(CheckpointError, match="one run at a time") as caught:
                execute(federation, planned(), checkpoint=tmp_path, callbacks=[second])
            refused.append(caught.value)

        for _ in range(2):  # it is left again
            execute(federation, planned(), checkpoint=tmp_path, callbacks=[second])
        assert len(refused) == 2
        with pytest.raises(CheckpointError, match="callbacks"):
            execute(federation, planned(), checkpoint=tmp_path)
        execute(federation, planned(), checkpoint=tmp_path, callbacks=[second])

    def test_what_a_killed_write_left_is_removed(self, federation: Any, planned: Make, tmp_path: Path) -> None:
        (tmp_path / ".round-000001.checkpoint.4711").write_bytes(b"half")
        execute(federation, planned(), checkpoint=tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["round-000002.checkpoint"]

    def test_a_write_that_is_killed_at_any_instant(self, tmp_path: Path) -> None:
        """A process that ends without a word, before each line of the write in turn: the old file or the new one."""
        script = """
import os, sys
from pathlib import Path
from fedpriv.engine import files

path, seen = Path(sys.argv[1]) / "file", []
for instant in range(100):
    path.write_bytes(b"old")
    child = os.fork()
    if child == 0:
        left = iter(range(instant))

        def trace(frame, event, argument):
            if event == "line" and next(left, None) is None:
                os._exit(9)
            return trace

        sys.settrace(lambda frame, *_: trace if frame.f_code is files.write.__code__ else None)
        files.write(path, b"new" * 100_000)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen.append(path.read_bytes())
    if code == 0:
        break
assert set(seen) == {b"old", b"new" * 100_000} and len(seen) > 8, len(seen)
"""
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)

    def test_a_callback_that_counts_is_the_same_one_when_it_has_counted(
        self, federation: Any, planned: Make, tmp_path: Path
    ) -> None:
        """As where a notebook's cell is run again; settings of what never changes still tell callbacks apart."""

        class Counts:
            calls = 0

            def on_round(self, progress: Any) -> None:
                self.calls += 1

        counts = Counts()
        for _ in range(2):
            execute(federation, planned(), checkpoint=tmp_path, callbacks=[counts, fp.callbacks.EarlyStopping()])
        assert counts.calls == 2
        others = [counts, fp.callbacks.EarlyStopping(patience=6)]
        with pytest.raises(CheckpointError, match=r"callbacks\[1\]\.patience: 5 → 6 "):
            execute(federation, planned(), checkpoint=tmp_path, callbacks=others)

    def test_reading_calls_nothing_that_the_file_names(self, planned: Make) -> None:
        from fedpriv.engine.values import Reader

        reader = Reader([], planned())
        for name in ("os:system", "subprocess:Popen", "fedpriv.data:federate", "absent:Thing"):
            for tag in ("type", "enum", "error", "named"):
                with pytest.raises(CheckpointError, match="is defined"):
                    reader.read({tag: name, "fields": {}, "member": "x", "items": []})

    @pytest.mark.parametrize("every", [0, -1, 1.5, True])
    def test_every(self, every: Any, federation: Any, planned: Make, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="every k-th round"):
            execute(federation, planned(), checkpoint=tmp_path, every=every)


class TestFreshNoise:
    """Under noise="os" a lost round was released for good, and the one that is done in its place is another."""

    @pytest.mark.parametrize(
        "parts", [{"mechanism": NOISED}, {"client": RECORDS, "mechanism": fp.NoDP(weighting="equal")}]
    )
    def test_a_lost_attempt_is_charged(
        self, parts: Any, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = planned(rounds=3, **parts)
        whole = execute(federation, plan, noise="os")
        for _ in range(2):  # the same round is lost twice
            crashed(federation, plan, tmp_path, 1, monkeypatch, noise="os", every=10)
        resumed = execute(federation, plan, checkpoint=tmp_path, noise="os", every=10)
        assert len(resumed.records) == 3
        assert [event.round for event in resumed.ledger.events if event.scope in ("population", "client/0")] == (
            [0, 1, 1, 1, 2] if "client" not in parts else [0, 0, 1, 1, 1, 1, 1, 1, 2, 2]
        )
        unit = "record" if "client" in parts else "client"
        spent = [run.ledger.epsilon(1e-2, observer="public", unit=unit) for run in (whole, resumed)]
        assert spent[1] > spent[0] * 1.1

    def test_a_lost_first_round_is_charged(
        self, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There is no checkpoint yet; that it had begun is known, and of which run."""
        plan = planned(mechanism=NOISED, aggregation=fp.CKKS())
        crashed(federation, plan, tmp_path, 0, monkeypatch, noise="os")
        with pytest.raises(CheckpointError, match=r"plan\.rounds: 2 → 3"):
            execute(
                federation, planned(mechanism=NOISED, aggregation=fp.CKKS(), rounds=3), checkpoint=tmp_path, noise="os"
            )
        crashed(federation, plan, tmp_path, 0, monkeypatch, noise="os")
        resumed = execute(federation, plan, checkpoint=tmp_path, noise="os")
        assert [event.round for event in resumed.ledger.events if event.scope == "population"] == [0, 0, 0, 1]
        assert resumed.key_bytes > 0

    def test_each_attempt_is_charged_though_a_checkpoint_was_damaged_as_well(
        self, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = planned(mechanism=NOISED, rounds=4)
        crashed(federation, plan, tmp_path, 2, monkeypatch, noise="os")
        (tmp_path / "round-000002.checkpoint").write_bytes(b"")
        with pytest.warns(RuntimeWarning, match="damaged"):  # so that round 1 is lost too; and once more
            crashed(federation, plan, tmp_path, 1, monkeypatch, noise="os")
        with pytest.warns(RuntimeWarning, match="damaged"):
            resumed = execute(federation, plan, checkpoint=tmp_path, noise="os")
        assert [event.round for event in resumed.ledger.events] == [0, 1, 2, 1, 1, 2, 3]

    def test_a_budget_holds_with_what_was_lost(
        self, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = planned(rounds=5, mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=4.0))
        three = execute(federation, planned(rounds=3, mechanism=plan.mechanism))
        spent = three.ledger.epsilon(1e-2, observer="public")
        stop = fp.callbacks.BudgetStop(budget=fp.Budget(epsilon=1.01 * spent, delta=1e-2, observer="public"))
        options: dict[str, Any] = {"noise": "os", "callbacks": [stop], "evaluate_every": 9}
        crashed(federation, plan, tmp_path, 2, monkeypatch, **options)  # the last round within
        for _ in range(2):
            resumed = execute(federation, plan, checkpoint=tmp_path, **options)
            assert (len(resumed.records), len(resumed.ledger), resumed.stopped) == (2, 3, "BudgetStop")
            assert resumed.ledger.epsilon(1e-2, observer="public") == spent <= stop.budget.epsilon
            assert "accuracy" in resumed.metrics[-1]


class TestInterruption:
    @pytest.mark.parametrize("at", ["training", "measuring"])
    def test_it_ends_a_run_with_what_it_has(
        self, at: str, federation: Any, planned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fedpriv.engine.training import ClientWork
        from fedpriv.study.course import Evaluation

        plan = planned(rounds=6, mechanism=NOISED, server=fp.FedAdam(learning_rate=0.1))
        whole = execute(federation, plan)
        owner, name = (ClientWork, "_train") if at == "training" else (Evaluation, "__call__")
        real, calls = getattr(owner, name), []

        def pressed(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, pressed)
            partial = execute(federation, plan, checkpoint=tmp_path)
        assert partial.partial
        assert len(partial.records) == len(partial.ledger) == 3
        assert "interrupted" in repr(partial)
        assert partial.frame.drop(columns=TIMINGS).equals(whole.frame.drop(columns=TIMINGS).iloc[:3])
        resumed = execute(federation, plan, checkpoint=tmp_path)
        assert not resumed.partial
        assert untimed(resumed) == untimed(whole)

    def test_before_the_first_round_there_is_nothing(
        self, federation: Any, planned: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fedpriv.engine.training import ClientWork

        def pressed(*_: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr(ClientWork, "_train", pressed)
        with pytest.raises(KeyboardInterrupt):
            execute(federation, planned())
