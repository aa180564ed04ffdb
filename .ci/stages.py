"""Run the stages of ``make test`` and hold each against its share of the budget: ``stages.py [stage …]``.

Every stage runs even where an earlier one failed. The last line counts tests: ``N passed, N failed``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
WORKERS = str(min(4, os.cpu_count() or 1))


@dataclass(frozen=True)
class Result:
    """What a stage came to."""

    good: bool
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    note: str = ""


def static() -> Result:
    """Lint, format, types, and the one-way rule of imports."""
    checks = {
        "ruff check": [sys.executable, "-m", "ruff", "check"],
        "ruff format": [sys.executable, "-m", "ruff", "format", "--check"],
        "mypy": [sys.executable, "-m", "mypy"],
        "lint-imports": [str(BIN / "lint-imports"), "--no-cache"],
    }
    for script in sorted(ROOT.glob("papers/*-*/reproduce.py")):  # see [tool.mypy] exclude
        checks[f"mypy {script.parent.name}"] = [sys.executable, "-m", "mypy", str(script)]
    broken = [name for name, command in checks.items() if _run(command) != 0]
    return Result(not broken, note=", ".join(broken))


def unit() -> Result:
    """Everything but the slow kinds below, and the examples in docstrings."""
    return _pytest("-m", "not statistical and not conformance", "--doctest-modules", "fedpriv", "tests")


def conformance() -> Result:
    """The one suite that every aggregator passes."""
    return _pytest("-m", "conformance")


def statistical() -> Result:
    """Distributions, with fixed seeds, stated n and a power check."""
    return _pytest("-m", "statistical")


def notebooks() -> Result:
    """Every notebook runs from top to bottom."""
    if not list((ROOT / "notebooks").glob("*.ipynb")):
        print("SKIPPED: there is no notebook yet.", flush=True)
        return Result(True, note="no notebook yet")
    return _pytest("--nbmake", "notebooks")


STAGES: dict[str, tuple[Callable[[], Result], float]] = {
    "static": (static, 1),
    "unit": (unit, 4),
    "conformance": (conformance, 3),
    "statistical": (statistical, 2),
    "notebooks": (notebooks, 4),
}
"""Name → what it does, and its budget in minutes on two cores."""


def main(names: list[str]) -> int:
    """Run these stages; 0 where all are good."""
    rows, results = [], []
    for name in names:
        stage, minutes = STAGES[name]
        print(f"\n── {name}: {stage.__doc__}", flush=True)
        started = time.monotonic()
        result = stage()
        seconds = time.monotonic() - started
        late = seconds > 60 * minutes
        verdict = ("ok" if result.good else "FAILED") + (", OVER BUDGET" if late else "")
        counts = f"{result.passed:>6} {result.failed:>6} {result.skipped:>7}"
        rows.append(
            f"{name:<12} {seconds:>6.0f} s {60 * minutes:>5.0f} s {counts}  {verdict:<6} {result.note}".rstrip()
        )
        results.append(result)
        if late:
            print(f"WARNING: {name} took {seconds:.0f} s; its budget is {60 * minutes:.0f} s.", flush=True)
    print(f"\n{'stage':<12} {'took':>8} {'budget':>7} {'passed':>6} {'failed':>6} {'skipped':>7}")
    print("\n".join(rows) + "\n")
    # A stage that failed without a failing test (a lint finding, a crash) counts as one failure.
    failed = sum(max(result.failed, not result.good) for result in results)
    print(f"{sum(result.passed for result in results)} passed, {failed} failed", flush=True)
    return int(failed > 0)


def _pytest(*arguments: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # By file: what its tests share (a crew, a cluster, a paper's quick table) is made once, and they stay in order.
        command = [sys.executable, "-m", "pytest", "-q", "-n", WORKERS, "--dist", "loadfile", f"--junitxml={report}"]
        code = _run([*command, *arguments])
        suites = list(ET.parse(report).getroot().iter("testsuite")) if report.exists() else []
    total, bad, skipped = 0, 0, 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        bad += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    note = {0: "", 1: "", 5: "no test was found"}.get(code, f"pytest ended with {code}")
    return Result(code == 0, total - bad - skipped, bad, skipped, note)


def _run(command: list[str]) -> int:
    return subprocess.run(command, cwd=ROOT, env=_environment(), stdin=subprocess.DEVNULL, check=False).returncode


def _environment() -> dict[str, str]:
    """One thread a worker, and data sets from beside the checkout where a folder with them stands there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    data = ROOT.parent / "shared" / "data"
    if data.is_dir():
        environment.setdefault("FEDPRIV_DATA", str(data))
    return environment


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", default=list(STAGES), metavar="stage", help=", ".join(STAGES))
    chosen = parser.parse_args().stages
    if unknown := set(chosen) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    sys.exit(main(chosen))
