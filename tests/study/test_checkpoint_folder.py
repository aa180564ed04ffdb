"""A folder of checkpoints: whose it is, what is refused, and what a failed or killed write leaves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcomes import execute, untimed

import fedpriv as fp
from fedpriv.errors import CheckpointError, ConfigurationError
from fedpriv.learning.update import Broadcast, Update, per_client

Make = Callable[..., fp.Plan]


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

    def test_a_callback_more_or_less_is_named(self, federation: Any, planned: Make, tmp_path: Path) -> None:
        """Not two lists that begin alike, each cut short before they differ."""
        stops = [fp.callbacks.EarlyStopping(patience=9, metric="loss"), fp.callbacks.EarlyStopping()]
        execute(federation, planned(), checkpoint=tmp_path, callbacks=stops)
        with pytest.raises(CheckpointError, match=r"checkpoint: callbacks\[1\]: EarlyStopping → 'absent' \(there"):
            execute(federation, planned(), checkpoint=tmp_path, callbacks=stops[:1])

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
