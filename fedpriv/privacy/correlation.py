"""Noise that later rounds take back in part: what a client's participations cost together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np

from fedpriv.encoding import Reals

CorrelationKind: TypeAlias = Literal["tree", "banded"]


@dataclass(frozen=True, kw_only=True, order=True)
class Correlation:
    """The matrix C of a factorisation A = B C, where A takes the rounds' sums to what is released; public.

    The releaser gives out B (C x + Z), Z independent N(0, σ²): a function of C x + Z, one Gaussian mechanism over all
    rounds. Row t of x is the sum of round t.

    Args:
        kind: ``"tree"``: a row for every node of the binary tree over the rounds, 1 at the rounds below it;
            ``"banded"``: lower-triangular and Toeplitz.
        rounds: columns of C.
        coefficients: of the band, the diagonal first; for ``"tree"`` none.
    """

    kind: CorrelationKind
    rounds: int
    coefficients: tuple[float, ...] = ()

    def gram(self) -> Reals:
        """``[rounds, rounds]``: CᵀC.

        A client that takes part in the rounds P, with vectors of norm at most 1, moves C x by at most the square root
        of the sum of |CᵀC| over P × P: its squared length is Σ_{s,t} (CᵀC)_{st} ⟨v_s, v_t⟩, and |⟨v_s, v_t⟩| ≤ 1.
        """
        return _gram(self)


@lru_cache(maxsize=16)
def _gram(correlation: Correlation) -> Reals:
    rounds = correlation.rounds
    gram = np.zeros((rounds, rounds))
    if correlation.kind == "tree":
        size = 1
        while size <= rounds:
            for start in range(0, rounds - size + 1, size):
                gram[start : start + size, start : start + size] += 1.0
            size *= 2
    else:
        band = np.asarray(correlation.coefficients)
        for column in range(rounds):
            for apart in range(min(band.size, rounds - column)):
                other = column + apart  # rows other … column + band - 1 hold both
                rows = np.arange(other, min(column + band.size, rounds))
                gram[column, other] = gram[other, column] = band[rows - column] @ band[rows - other]
    gram.setflags(write=False)
    return gram
