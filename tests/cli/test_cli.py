"""The command line: it teaches, it runs, it refuses with a reason, and an interrupt leaves nothing that looks whole."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fedpriv
from fedpriv.cli import EXAMPLE, main

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
import fedpriv as fp

federation = fp.data.digits(clients=6, partition=fp.data.IID(), seed=0)
plan = fp.Plan(model=fp.models.logistic, client=fp.LocalSGD(steps=2, learning_rate=0.3), rounds=2)
plans = fp.grid(plan, aggregation=[fp.PlainSum(), fp.SecureAggregation(), fp.SecureAggregation(min_cohort=7)])
seeds = range(2)
on_invalid = "record"
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "little.py"
    path.write_text(STUDY, encoding="utf-8")
    return path


class TestHelp:
    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="0"):
            main(["--version"])
        assert capsys.readouterr().out == f"fedpriv {fedpriv.__version__}\n"

    def test_the_help_of_run_is_a_study_that_runs(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(SystemExit, match="0"):
            main(["run", "--help"])
        assert EXAMPLE in capsys.readouterr().out
        code = "\n".join(line[4:] for line in EXAMPLE.splitlines() if line.startswith("    "))
        path = tmp_path / "example.py"
        path.write_text(code.replace("rounds=10", "rounds=1"), encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        assert main(["run", str(path), "--ideal", "--seeds", "1"]) == 0
        assert (tmp_path / "results" / "example" / "runs.csv").is_file()

    def test_no_command_says_which_there_are(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main([])
        assert "command" in capsys.readouterr().err


class TestStudies:
    def test_run(self, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", str(study), "--out", str(tmp_path / "out")]) == 0
        said = capsys.readouterr().out
        assert re.search(r"Refused: digits · SecureAggregation\(min_cohort=7\)\. .*min_cohort", said)
        runs = pd.read_csv(tmp_path / "out" / "runs.csv")
        assert len(runs) == 6
        done = runs[runs["refused"].isna()]
        assert done.groupby("seed")["sha256"].nunique().tolist() == [1, 1]  # one model under both protocols
        content = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))
        assert content["fedpriv"] == fedpriv.__version__
        assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".csv", ".json", ".png", ".pdf", ".tex"}

    def test_tuning(self, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "tuned.py"
        more = """
plans = {"noised": fp.Plan(
    model=fp.models.logistic, client=plan.client, rounds=2,
    mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0),
)}
delta = 1e-3
tune = {"client.learning_rate": [1e-9, 0.3]}
tune_seeds = [50]
held_out = 0.25
"""
        path.write_text(STUDY + more, encoding="utf-8")
        assert main(["run", str(path), "--out", str(tmp_path / "out"), "--seeds", "1"]) == 0
        said = capsys.readouterr().out
        assert re.search(r"digits +noised .* ε excludes tuning", said)
        assert "client.learning_rate = 0.3; 2 trials, seeds 50, on " in said
        assert "0.25 of each client's training records" in said
        assert "the trials that chose the plans' values read the same clients' data" in said
        path.write_text(f'{STUDY}{more}select = "test"\n', encoding="utf-8")
        assert main(["run", str(path), "--out", str(tmp_path / "other")]) == 2
        assert "looks better there" in capsys.readouterr().err
        path.write_text(f"{STUDY}{more}charge_tunning = True\n", encoding="utf-8")
        assert main(["run", str(path), "--out", str(tmp_path / "other")]) == 2
        assert "Write charge_tuning" in capsys.readouterr().err

    def test_plan_runs_nothing(self, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", str(study)]) == 0
        said = capsys.readouterr().out
        assert said.count("Who learns what") == 2
        assert "refused: PlanError" in said
        assert sorted(path.name for path in tmp_path.iterdir()) == ["little.py"]

    @pytest.mark.parametrize("name", ["mnist_masking", "heart_disease", "digits_tradeoff"])
    def test_the_studies_of_the_benchmarks_resolve(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", str(ROOT / "benchmarks" / "studies" / f"{name}.py")]) == 0
        assert "Who learns what" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("plans = {}", "lacks federation"),
            ("federation = 3; plans = {}", "federation"),
            ("federation = 3; plans = {}; evaluate_evry = 2", "Write evaluate_every"),
            ("federation = lambda seed: None; plans = [1]", "{label: Plan}"),
            ("federation = lambda seed: None; plans = {}; seeds = 3", "Write seeds = range(3)"),
        ],
    )
    def test_a_file_that_is_no_study(
        self, text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "no.py"
        path.write_text(text, encoding="utf-8")
        assert main(["run", str(path)]) == 2
        assert words in capsys.readouterr().err

    def test_a_folder_that_is_not_its_own_is_refused_before_anything_runs(
        self, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["run", str(study), "--out", str(tmp_path)]) == 2
        shown = capsys.readouterr()
        assert "Choose another folder" in shown.err
        assert not shown.out

    @pytest.mark.parametrize("count", ["0", "-1", "x", "1.5"])
    def test_counts_are_counts(self, count: str, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["run", str(study), "--seeds", count])
        assert f"'{count}' is not an integer ≥ 1" in capsys.readouterr().err

    def test_no_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", str(tmp_path / "absent.py")]) == 2
        assert "absent.py" in capsys.readouterr().err


def _demo(out: Path) -> list[str]:
    return ["demo", "--out", str(out), "--clients", "6", "--rounds", "2", "--seeds", "2"]


class TestDemo:
    def test_one_model_under_five_protocols(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(_demo(tmp_path / "demo")) == 0
        assert "Who learns what" in capsys.readouterr().out
        table = pd.read_csv(tmp_path / "demo" / "protocols.csv", dtype={"SHA-256, final": str})
        assert list(table["protocol"]) == ["plain", "masking", "CKKS", "BFV", "Paillier"] * 2
        for column in ("SHA-256, real round", "SHA-256, final", "accuracy"):
            assert table.groupby("noise")[column].nunique().tolist() == [1, 1]
        noised = table[table["noise"] != "none"].set_index("protocol")
        assert np.isinf(noised.loc[["plain", "masking"], "ε server"]).all()
        assert (noised.loc[["CKKS", "BFV", "Paillier"], "ε server"] <= 2).all()
        assert np.isinf(noised.loc[["CKKS", "BFV", "Paillier"], "ε authority"]).all()
        assert table.groupby("protocol")["sent, kB"].nunique().gt(0).all()
        assert table[table["noise"] == "none"]["sent, kB"].nunique() == 5
        names = {path.name for path in (tmp_path / "demo").iterdir()}
        assert {"demo.png", "demo.pdf", "demo.json", "protocols.tex", "trade_off.csv", "runs.csv"} <= names

    @pytest.mark.parametrize("begun", [False, True])
    def test_an_interrupt_leaves_nothing(self, begun: bool, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "fedpriv.cli", *_demo(tmp_path / "results" / "demo")]
        command[command.index("--rounds") + 1] = "500"  # long enough to be interrupted
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONWARNINGS": "", "PYTHONUNBUFFERED": "1"},
            # A shell's background job ignores SIGINT, and its children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert process.stdout is not None
        if begun:
            assert b"6 clients" in process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode != 0
        assert not list(tmp_path.rglob("*"))
