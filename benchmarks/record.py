"""What becomes of rows: a table on the screen, and JSON lines under the environment in which they were measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import Row
from fedpriv.report.saving import processor, provenance

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def environment(*, suite: str, quick: bool, seconds: float) -> dict[str, Any]:
    """Where, with what and how long a suite was measured: the first line of its file."""
    return {
        "suite": suite,
        "quick": quick,
        "seconds": round(seconds, 1),
        **provenance(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": processor(),
        "cpus": os.cpu_count(),
        "commit": commit(),
    }


def commit() -> str:
    """The checkout's commit, with ``+`` where files differ from it."""
    state = [_git("rev-parse", "HEAD"), "+" if _git("status", "--porcelain", "--untracked-files=no") else ""]
    return "".join(state) or "unknown"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def write(suite: str, header: dict[str, Any], rows: Sequence[Row], folder: Path = RESULTS) -> str:
    """Write the file whole or not at all; returns where, seen from the checkout."""
    folder.mkdir(parents=True, exist_ok=True)
    target, unfinished = folder / f"{suite}.jsonl", folder / f".{suite}.unfinished"
    unfinished.write_text("".join(json.dumps(line) + "\n" for line in (header, *rows)), encoding="utf-8")
    unfinished.replace(target)
    return os.path.relpath(target, ROOT)


def table(rows: Sequence[Row]) -> str:
    """Aligned columns in the order of the first row's keys; ``plan``, which is long, stands in the file alone."""
    if not rows:
        return "(no rows)"
    columns = [column for column in rows[0] if column != "plan"]
    cells = [[column.replace("_", " ") for column in columns]]
    cells += [[_shown(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = [all(isinstance(row[column], str) for row in rows) for column in columns]
    lines = [
        "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _shown(value: str | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return value if isinstance(value, str) else f"{value:,}"
