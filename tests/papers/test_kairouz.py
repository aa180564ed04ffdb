"""papers/kairouz2021-ddg does what its README says. Errors, noise and ε are compared here, seconds are not."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PAPER = Path(__file__).resolve().parents[2] / "papers" / "kairouz2021-ddg"
Rows = list[dict[str, str]]
SETTING = ("n", "epsilon", "bits", "mechanism", "tails", "dropout", "vectors")
SOLVED = ("central_gaussian", "wrap_bound", "planned_noise_multiplier", "published_noise_multiplier")


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def ran(rows: Rows) -> Rows:
    return [row for row in rows if not row["refused"]]


def cell(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in SETTING)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    output = tmp_path_factory.mktemp("kairouz2021") / "quick.csv"
    subprocess.run([sys.executable, str(PAPER / "reproduce.py"), "--quick", "--output", str(output)], check=True)
    return read(output)


@pytest.fixture(scope="module")
def committed() -> Rows:
    return read(PAPER / "measured.csv")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kairouz2021_reproduce", PAPER / "reproduce.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_the_closed_form_is_the_published_one(committed: Rows) -> None:
    known = {
        float(row["epsilon"]): float(row["value"])
        for row in read(PAPER / "published.csv")
        if row["item"] == "central Gaussian MSE"
    }
    assert len(known) == 5
    for row in committed:
        clients = int(row["n"])
        expected = known[float(row["epsilon"])] * (100 / clients) ** 2
        assert float(row["central_gaussian"]) == pytest.approx(expected, rel=5e-4)


def test_no_round_spends_more_than_its_budget_or_has_less_noise_than_planned(quick: Rows, committed: Rows) -> None:
    for row in (*ran(quick), *ran(committed)):
        assert float(row["stated_epsilon"]) <= float(row["epsilon"]), cell(row)
        assert float(row["achieved_noise_multiplier"]) >= 0.999 * float(row["planned_noise_multiplier"]), cell(row)


def test_the_noise_is_what_the_published_formulas_ask_for(committed: Rows) -> None:
    full = [row for row in ran(committed) if row["dropout"] == "0.0"]
    assert len(full) > 80
    for row in full:
        ours, theirs = float(row["planned_noise_multiplier"]), float(row["published_noise_multiplier"])
        assert ours == pytest.approx(theirs, rel=5e-3), cell(row)


def test_the_quick_table_agrees_with_the_committed_one(quick: Rows, committed: Rows) -> None:
    known = {cell(row): row for row in committed}
    assert set(map(cell, quick)) <= set(known)
    for row in quick:
        assert row["refused"] == known[cell(row)]["refused"]
        for name in SOLVED if not row["refused"] else ():
            assert float(row[name]) == pytest.approx(float(known[cell(row)][name]), rel=2e-3), (cell(row), name)


def test_quick_rounds_are_real_and_as_far_off_as_predicted(quick: Rows) -> None:
    assert sum(row["protocol"] == "1 real" for row in quick) == 3
    for row in ran(quick):
        share = float(row["ratio"]) / float(row["predicted_ratio"])
        assert share == pytest.approx(1.0, abs=5.5 * math.sqrt(2 / 250)), cell(row)


def test_too_few_bits_are_refused_or_paid_for(committed: Rows) -> None:
    coarse = [
        row
        for row in committed
        if (row["n"], row["bits"], row["epsilon"], row["tails"], row["dropout"]) == ("1000", "10", "4.0", "2.0", "0.0")
    ]
    (refused,) = (row for row in coarse if row["mechanism"] == "discrete Gaussian")
    assert "discrete Gaussian noise has σ ≥ 1" in refused["refused"]
    (paid,) = (row for row in coarse if row["mechanism"] == "Skellam")
    assert float(paid["predicted_ratio"]) > 10


def test_sixteen_bits_come_close_to_the_central_gaussian(committed: Rows) -> None:
    fine = [row for row in ran(committed) if (row["bits"], row["tails"], row["dropout"]) == ("16", "2.0", "0.0")]
    spheres = [row for row in fine if row["vectors"] == "sphere"]
    assert len(spheres) == 20
    assert all(1.0 < float(row["predicted_ratio"]) < 1.2 for row in spheres)


def test_all_committed_rounds_together_are_as_far_off_as_predicted(committed: Rows) -> None:
    """5 × 250 coordinates a row; rows share no noise."""
    rows = [row for row in ran(committed) if row["vectors"] == "sphere"]
    shares = [float(row["ratio"]) / float(row["predicted_ratio"]) for row in rows]
    assert sum(shares) / len(shares) == pytest.approx(1.0, abs=5.5 * math.sqrt(2 / 1250 / len(rows)))


def test_the_committed_table_has_its_environment() -> None:
    with (PAPER / "measured.csv").open(encoding="utf-8") as file:
        assert {"fedpriv", "python", "numpy", "dp-accounting", "processor"} <= set(json.loads(file.readline()[2:]))


@pytest.mark.statistical
@pytest.mark.parametrize("kind", ["discrete Gaussian", "Skellam"])
def test_the_noise_under_dropout_is_what_survived(script: ModuleType, kind: str) -> None:
    """30 rounds × 250 coordinates, z = 1.5: χ² within 4.9 standard errors (α = 1e-6)."""
    cell, bound = script.Cell(100, 1.0, 14, kind, tails=6.0, dropout=0.1), 4.9 * math.sqrt(2 / (30 * 250))
    rounds = [script.measure_round(cell, repeat, 1.5) for repeat in range(30)]
    for one in rounds:
        assert one.achieved == pytest.approx(1.5 * math.sqrt(one.contributors / 80))
    assert sum(one.error / one.predicted for one in rounds) / 30 == pytest.approx(1.0, abs=bound)
    for wrong in (2 / 3, 3 / 2):
        scaled = sum(one.error / one.predicted for one in rounds) / 30 / wrong**2
        assert abs(scaled - 1.0) > bound
