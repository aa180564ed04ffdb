"""The benchmark runner: a table, a file written whole under its environment, peers skipped aloud."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import SUITES, Row, aggregators, load, record
from benchmarks.__main__ import main
from benchmarks.peers import measure
from fedpriv.aggregation import PlainSum, SecureAggregation

ROWS: list[Row] = [
    {"aggregator": "PlainSum", "plan": "PlainSum()", "bytes": 12_345, "ratio": 1.0, "peer": None},
    {"aggregator": "CKKS", "plan": "CKKS()", "bytes": 7, "ratio": 5.255, "peer": 2},
]


def test_table_aligns_and_leaves_the_plan_out() -> None:
    assert record.table(ROWS).splitlines() == [
        "aggregator   bytes  ratio  peer",
        "-------------------------------",
        "PlainSum    12,345      1     –",
        "CKKS             7   5.25     2",
    ]


def test_file_holds_environment_then_rows(tmp_path: Path) -> None:
    header = record.environment(suite="toy", quick=True, seconds=1.0)
    record.write("toy", header, ROWS, tmp_path)
    first, *rest = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert rest == ROWS
    assert {"python", "packages", "cpu", "cpus", "commit", "platform"} <= set(first)
    assert [path.name for path in tmp_path.iterdir()] == ["toy.jsonl"]


def test_an_interrupted_suite_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.jsonl").write_text("old")

    class Broken:
        def rows(self, *, quick: bool) -> Iterator[Row]:
            yield ROWS[0]
            raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.__main__.load", lambda name: Broken())
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        main(["aggregators"])
    assert (tmp_path / "toy.jsonl").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unknown_suite_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["moon"])
    assert f"no suite moon; there are: {', '.join(SUITES)}" in capsys.readouterr().err


@pytest.mark.parametrize("name", SUITES)
def test_suites_say_what_they_measure(name: str) -> None:
    assert load(name).__doc__


def test_aggregators_stand_beside_plain_sum_and_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregators, "AGGREGATORS", (PlainSum(), SecureAggregation()))
    monkeypatch.setattr(aggregators, "QUICK", ((4, 1000),))
    rows = list(aggregators.rows(quick=True))
    assert [(row["aggregator"], row["role"]) for row in rows] == [
        (name, role) for name in ("PlainSum", "SecureAggregation") for role in ("client", "server")
    ]
    plain, masked = rows[0], rows[2]
    assert plain["sent_to_plain"] == plain["cpu_to_plain"] == 1.0
    # 4 · 32767 needs 18 bits: no masked vector of 1000 coordinates is shorter than 2250 bytes.
    assert isinstance(masked["sent_bytes"], float)
    assert masked["sent_to_floor"] == masked["sent_bytes"] / 2250
    assert masked["sent_bytes"] > 2250


def test_an_absent_peer_is_skipped_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(measure("flwr", tmp_path / "none.py", python=tmp_path / "python")) == []
    assert "SKIPPED: flwr" in capsys.readouterr().err


def test_a_peer_gives_rows_or_its_error(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("import json, sys\nprint(json.dumps({'peer': 'x', 'n': int(sys.argv[1])}))")
    bad.write_text("raise SystemExit('no such peer')")
    python = Path(sys.executable)
    assert list(measure("x", good, "3", python=python)) == [{"peer": "x", "n": 3}]
    with pytest.raises(RuntimeError, match=r"x failed in bad\.py:\nno such peer"):
        list(measure("x", bad, python=python))


def test_from_the_command_line() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--help"], cwd=root, capture_output=True, check=True)
    assert b"--quick" in done.stdout
