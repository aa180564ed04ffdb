"""Reproducing a paper: what was published, what was measured, and where, in CSV files beside the program."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpriv.report.saving import processor, provenance

Row = dict[str, Any]


def parser(description: str | None, *, quick: str) -> argparse.ArgumentParser:
    """Of ``reproduce.py [--quick] [--output FILE]``; ``quick`` is the help on what it leaves out."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help=quick)
    made.add_argument("--output", type=Path, help="the CSV file to write; without --quick, measured.csv")
    return made


def target(chosen: argparse.Namespace, folder: Path, name: str = "measured.csv") -> Path | None:
    """The file to write; None where a quick run names none."""
    return chosen.output or (None if chosen.quick else folder / name)


def read(path: Path, **wanted: str) -> list[Row]:
    """The rows of a file, those with these values in these columns."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [row for row in rows if all(row[column] == value for column, value in wanted.items())]


def write(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    columns: Iterable[str] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> None:
    """Write a table, under a comment on where it was measured.

    Args:
        path: the file.
        rows: column → value.
        columns: their order; those of the first row where nothing is said. A value that a row lacks is blank.
        environment: as from :func:`environment`.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        if environment:
            file.write(f"# {json.dumps(environment, ensure_ascii=False)}\n")
        writer = csv.DictWriter(file, list(columns or rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def environment(*packages: str, machine: bool = False) -> Row:
    """Versions of fedpriv, Python and these packages, and the processor; of the machine, its system and size too."""
    known = provenance()
    return {
        "fedpriv": known["fedpriv"],
        "python": known["python"],
        **{name: known["packages"][name] for name in packages},
        **({"platform": f"{platform.system()} {platform.machine()}"} if machine else {}),
        "processor": processor(),
        **({"cpus": os.cpu_count()} if machine else {}),
    }
