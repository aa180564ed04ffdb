"""Progress bars, on terminals only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def bar(items: Iterable[Item], total: int, unit: str, show: bool) -> Iterable[Item]:
    """The items, with a bar on standard error where that is a terminal."""
    if not show:
        return items
    from tqdm import tqdm

    # disable=None: tqdm draws nothing where standard error is not a terminal, so logs stay readable.
    return tqdm(items, total=total, unit=f" {unit}", leave=False, disable=None)
