"""papers/bell2020 does what its README says."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

PAPER = Path(__file__).resolve().parents[2] / "papers" / "bell2020"
DIFFER = {("0.05", "0.33", "honest-but-curious", "10"), ("0", "0.33", "honest-but-curious", "10")}
"""The two cases that the README explains."""


def read(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {
            (row["corrupt"], row["dropout"], row["adversary"], row["participants"]): row for row in csv.DictReader(file)
        }


def test_quick_run_equals_the_published_table(tmp_path: Path) -> None:
    output = tmp_path / "quick.csv"
    subprocess.run([sys.executable, str(PAPER / "reproduce.py"), "--quick", "--output", str(output)], check=True)
    published, measured = read(PAPER / "published.csv"), read(output)
    assert set(measured) == {case for case in published if int(case[3]) <= 10**4}
    for case, row in measured.items():
        same = (row["degree"], row["threshold"]) == (published[case]["degree"], published[case]["threshold"])
        assert same == (case not in DIFFER), case


def test_the_committed_table_is_the_whole_one() -> None:
    published, measured = read(PAPER / "published.csv"), read(PAPER / "measured.csv")
    assert set(measured) == set(published)
    assert len(measured) == 88
    assert {case for case, row in measured.items() if row["agrees"] == "no"} == DIFFER
