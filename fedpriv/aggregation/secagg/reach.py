"""Who shares keys and masks with whom in one attempt: everybody, or the neighbours in a graph drawn for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol, TypeAlias

from fedpriv.aggregation.secagg.graph import neighbours

Members: TypeAlias = tuple[int, ...]
"""Positions among the invited, in increasing order."""


class Reach(Protocol):
    """A graph over the invited, given by their positions."""

    whole: bool
    """Whether everybody reaches everybody."""

    def holders(self, owner: int) -> Sequence[int]:
        """Who may be given shares of a client's secrets, in order; the share at point 1 goes to the first."""
        ...

    def seats(self, position: int) -> Sequence[int]:
        """A client and those it shares masks with, in order: whom the server speaks of to it, one bit for each."""
        ...


class Complete:
    """Everybody; a client holds a share of its own secrets as well (Bonawitz et al. 2017)."""

    whole = True

    def __init__(self, invited: int) -> None:
        self._everybody = range(invited)

    def holders(self, owner: int) -> Sequence[int]:
        return self._everybody

    def seats(self, position: int) -> Sequence[int]:
        return self._everybody


class Regular:
    """The k neighbours of each client (Bell et al. 2020); nobody holds a share of its own secrets."""

    whole = False

    def __init__(self, drawn: Mapping[int, Members]) -> None:
        self._neighbours = drawn

    def holders(self, owner: int) -> Sequence[int]:
        return self._neighbours[owner]

    def seats(self, position: int) -> Sequence[int]:
        return sorted((*self._neighbours[position], position))


@lru_cache(maxsize=4)
def drawn(invited: int, degree: int, seed: bytes) -> Regular:
    """The graph of a seed. Each client computes it by itself; where they are simulated together, it is done once."""
    return Regular(neighbours(range(invited), degree, seed))
