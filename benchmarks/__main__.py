"""Run suites: time them, print their tables, write ``benchmarks/results/<suite>.jsonl``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from benchmarks import SUITES, Row, load
from benchmarks.record import environment, table, write


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", nargs="*", metavar="suite", help=f"{', '.join(SUITES)}; all of them when left out")
    parser.add_argument("--quick", action="store_true", help="smaller problems, under a minute")
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.suite) - set(SUITES)):
        parser.error(f"no suite {', '.join(unknown)}; there are: {', '.join(SUITES)}")
    for name in chosen.suite or SUITES:
        suite = load(name)
        print(f"\n{name}: {suite.__doc__}", flush=True)
        started = time.monotonic()
        rows = list(_seen(suite.rows(quick=chosen.quick)))
        header = environment(suite=name, quick=chosen.quick, seconds=time.monotonic() - started)
        print(f"{table(rows)}\n\n{len(rows)} rows in {header['seconds']:.0f} s, in {write(name, header, rows)}")
    return 0


def _seen(rows: Iterator[Row]) -> Iterator[Row]:
    """Show that something goes on."""
    for count, row in enumerate(rows, 1):
        if sys.stderr.isatty():
            print(f"\r{count} rows", end="\r", file=sys.stderr, flush=True)
        yield row


if __name__ == "__main__":
    sys.exit(main())
