"""papers/zhang2020-batchcrypt does what its README says. Counts and bytes are compared here, seconds are not."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

PAPER = Path(__file__).resolve().parents[2] / "papers" / "zhang2020-batchcrypt"
Rows = list[dict[str, str]]
COUNTED = ("lane bits", "values per ciphertext", "bytes")


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    output = tmp_path_factory.mktemp("zhang2020") / "quick.csv"
    subprocess.run([sys.executable, str(PAPER / "reproduce.py"), "--quick", "--output", str(output)], check=True)
    return read(output)


def test_what_is_packed_is_what_the_formula_says(quick: Rows) -> None:
    packed = [row for row in quick if row["item"] == "values per ciphertext"]
    assert len(packed) == 24
    assert all(float(row["fedpriv"]) == float(row["formula"]) for row in packed)


def test_the_published_setting_fits_the_published_lanes(quick: Rows) -> None:
    stated = {row["item"]: float(row["value"]) for row in read(PAPER / "published.csv")}
    (lane,) = (row for row in quick if row["item"] == "lane bits")
    assert float(lane["batchcrypt"]) == stated["lane bits"]
    settings = [row for row in quick if row["published"] and row["item"] == "values per ciphertext"]
    assert len(settings) == 3
    assert all(float(row["batchcrypt"]) >= stated["values per ciphertext"] for row in settings)


def test_at_the_same_resolution_fedpriv_packs_more(quick: Rows) -> None:
    assert all(
        float(row["fedpriv"]) > float(row["batchcrypt_same"]) for row in quick if row["item"] == "values per ciphertext"
    )


def test_traffic_shrinks_as_published(quick: Rows) -> None:
    (traffic,) = (row for row in quick if row["item"] == "bytes: times less")
    low, high = map(float, traffic["published"].split(" to "))
    assert low <= float(traffic["fedpriv"]) <= 1.02 * high  # 102 against 101
    assert float(traffic["fedpriv"]) == float(traffic["formula"])


def test_the_committed_table_has_the_same_counts_and_its_environment(quick: Rows) -> None:
    committed = [row for row in read(PAPER / "measured.csv") if row["item"].startswith(COUNTED)]
    counted = [row for row in quick if row["item"].startswith(COUNTED)]
    assert [row for row in committed if row in counted] == counted
    with (PAPER / "measured.csv").open(encoding="utf-8") as file:
        assert {"fedpriv", "python", "numpy", "phe", "gmpy2", "processor"} <= set(json.loads(file.readline()[2:]))


def test_the_committed_seconds_shrink_with_the_lanes() -> None:
    ratios = [row for row in read(PAPER / "measured.csv") if row["item"].endswith("tion, s: times less")]
    assert {row["key_bits"] for row in ratios} == {"2048", "3072"}
    assert all(float(row["fedpriv"]) == pytest.approx(float(row["formula"]), rel=0.15) for row in ratios)
