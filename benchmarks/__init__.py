"""What fedpriv costs, beside a peer or a limit measured in the same run: ``python -m benchmarks [suite] [--quick]``.

A suite is a module with a docstring and ``rows(*, quick: bool)``, which yields one flat dictionary for each measurement
and does nothing else with it. :data:`SUITES` lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Protocol, TypeAlias, cast

Row: TypeAlias = dict[str, str | int | float | None]
"""One measurement: column → value, the same columns in every row of a suite. None: there is nothing to compare with."""


class Suite(Protocol):
    """A module of measurements."""

    def rows(self, *, quick: bool) -> Iterator[Row]:
        """Measure, one row at a time; ``quick``: under a minute in all."""
        ...


SUITES = ("aggregators", "dp", "engine", "he", "secagg", "secagg_large")


def load(name: str) -> Suite:
    """The suite of this name."""
    return cast(Suite, import_module(f"benchmarks.{name}"))
