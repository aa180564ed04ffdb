"""papers/li-micciancio2021 does what its README says. Who loses the key is compared here, seconds are not."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

PAPER = Path(__file__).resolve().parents[2] / "papers" / "li-micciancio2021"
Rows = list[dict[str, str]]


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    output = tmp_path_factory.mktemp("li2021") / "quick.csv"
    subprocess.run([sys.executable, str(PAPER / "reproduce.py"), "--quick", "--output", str(output)], check=True)
    return read(output)


@pytest.fixture(scope="module")
def committed() -> Rows:
    return read(PAPER / "measured.csv")


def cell(row: dict[str, str]) -> tuple[str, str, str]:
    return row["setting"], row["scale_bits"], row["release"]


def test_every_release_loses_the_key_as_the_committed_table_says(quick: Rows, committed: Rows) -> None:
    known = {cell(row): row for row in committed}
    assert set(map(cell, quick)) <= set(known)
    for row in quick:
        share = int(known[cell(row)]["recovered"]) / int(known[cell(row)]["trials"])
        if share in (0, 1):  # between them, chance decides
            assert int(row["recovered"]) == share * int(row["trials"]), cell(row)


def test_raw_floats_lose_the_key_in_every_setting_of_tenseal_and_seal(committed: Rows) -> None:
    usual = [row for row in committed if row["release"] == "float64" and not row["setting"].startswith("fedpriv")]
    assert len(usual) == 5
    assert all((row["recovered"], row["trials"]) == ("10", "10") for row in usual)


def test_what_fedpriv_releases_is_exact_and_does_not(committed: Rows) -> None:
    ours = [row for row in committed if row["release"] == "exact grid" and row["setting"].startswith("fedpriv")]
    assert len(ours) == 3
    assert all((row["recovered"], row["exact"]) == ("0", "1.0") for row in ours)


def test_the_key_falls_exactly_where_no_coefficient_is_lost(quick: Rows) -> None:
    for row in quick:
        if row["wrong_coefficients"]:
            assert (float(row["wrong_coefficients"]) == 0) == (row["recovered"] == row["trials"])


def test_the_committed_table_has_its_environment() -> None:
    with (PAPER / "measured.csv").open(encoding="utf-8") as file:
        assert {"fedpriv", "python", "numpy", "tenseal", "processor"} <= set(json.loads(file.readline()[2:]))
