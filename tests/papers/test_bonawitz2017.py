"""papers/bonawitz2017 does what its README says. Sizes are compared here, seconds are not."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

PAPER = Path(__file__).resolve().parents[2] / "papers" / "bonawitz2017"
Rows = list[dict[str, str]]


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    output = tmp_path_factory.mktemp("bonawitz2017") / "quick.csv"
    subprocess.run([sys.executable, str(PAPER / "reproduce.py"), "--quick", "--output", str(output)], check=True)
    return read(output)


def expansions(rows: Rows) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["participants"], row["entries"]): row for row in rows if row["item"] == "expansion"}


def test_the_formula_gives_the_published_expansion(quick: Rows) -> None:
    published = expansions(read(PAPER / "published.csv"))
    measured = expansions(quick)
    assert set(measured) == set(published)
    assert len(measured) == 3
    for case, row in measured.items():
        assert f"{float(row['formula']):.2f}" == published[case]["value"]


def test_the_fields_explain_the_whole_difference(quick: Rows) -> None:
    for (n, entries), row in expansions(quick).items():
        fields = [
            part
            for part in quick
            if part["item"].startswith("client bytes: ") and (part["participants"], part["entries"]) == (n, entries)
        ]
        for side in ("formula", "fedpriv"):
            total = sum(float(part[side]) for part in fields)
            assert total / (2 * int(entries)) == pytest.approx(float(row[side]), abs=1e-4)


def test_the_expansion_is_close_to_the_published_where_vectors_are_long(quick: Rows) -> None:
    for row in expansions(quick).values():
        extra = float(row["fedpriv"]) - float(row["published"])
        assert 0 < extra < (0.04 if int(row["entries"]) >= 1024 * int(row["participants"]) else 0.55)


def test_the_committed_table_has_the_same_sizes_and_its_environment(quick: Rows) -> None:
    committed = read(PAPER / "measured.csv")
    sizes = ("expansion", "bytes of a real round", "client bytes")
    assert [row for row in committed if row["item"].startswith(sizes)] == [
        row for row in quick if row["item"].startswith(sizes)
    ]
    with (PAPER / "measured.csv").open(encoding="utf-8") as file:
        assert {"fedpriv", "python", "numpy", "cryptography", "processor"} <= set(json.loads(file.readline()[2:]))


def test_the_committed_cost_of_losses_has_the_published_shape() -> None:
    growth = {
        row["participants"]: row
        for row in read(PAPER / "measured.csv")
        if row["item"] == "server, growth at 30 % over growth at 10 %"
    }
    assert set(growth) == {"100", "500"}
    assert float(growth["500"]["published"]) == pytest.approx(float(growth["500"]["formula"]), rel=0.05)
    for row in growth.values():
        assert float(row["fedpriv"]) == pytest.approx(float(row["formula"]), rel=0.2)
