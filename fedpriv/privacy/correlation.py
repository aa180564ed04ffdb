"""Noise that later rounds take back in part: what a client's participations cost together, and what sums keep of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np

from fedpriv.encoding import Reals

CorrelationKind: TypeAlias = Literal["tree", "banded"]


@dataclass(frozen=True, kw_only=True, order=True)
class Correlation:
    """The matrix C of a factorisation A = B C, A the prefix sums; square and lower triangular, and public.

    In round t the releaser gives out (x + C⁻¹ Z)_t, row t of x the sum of round t and Z independent N(0, σ²). It is a
    function of the rows up to t of C x + Z, one Gaussian mechanism over all rounds, also where a round's sum depends on
    what was released before (Denisov et al. 2022, theorem 2.1). The sum of the first t releases has the noise B Z.

    Args:
        kind: ``"tree"``: row t is 1 at the rounds below the node of the binary tree that round t completes, which is
            as many rounds as the largest power of two that divides t + 1; every prefix is a sum of such nodes. The
            tree's other nodes are in no release. ``"banded"``: Toeplitz.
        rounds: rows and columns of C.
        coefficients: of the band, the diagonal first; for ``"tree"`` none.
    """

    kind: CorrelationKind
    rounds: int
    coefficients: tuple[float, ...] = ()

    @classmethod
    def square_root(cls, rounds: int, bands: int) -> Correlation:
        """The first ``bands`` diagonals of the square root of A, scaled to columns of length 1.

        Its coefficients are those of (1 - x)^(-1/2): binom(2k, k) / 4^k. The last columns, which the matrix cuts, are
        shorter. Columns that are ``bands`` rounds apart share no row: k participations so far apart cost what k
        releases with independent noise do.

        Reference: Fichtenberger, Henzinger and Upadhyay 2023 (the square root); Kalinin and Lampert 2024
            (cut to a band); Choquette-Choo et al. 2023 (bands and participation).
        """
        count = np.arange(1, min(bands, rounds))
        band = np.cumprod(np.concatenate([[1.0], (2 * count - 1) / (2 * count)]))
        return cls(kind="banded", rounds=rounds, coefficients=tuple((band / np.linalg.norm(band)).tolist()))

    def matrix(self) -> Reals:
        """``[rounds, rounds]``: C."""
        matrix = np.zeros((self.rounds, self.rounds))
        if self.kind == "tree":
            for row, below in enumerate(self._nodes()):
                matrix[row, below] = 1.0
        for apart, coefficient in enumerate(self.coefficients[: self.rounds]):
            np.fill_diagonal(matrix[apart:], coefficient)
        return matrix

    def gram(self) -> Reals:
        """``[rounds, rounds]``: CᵀC.

        A client that takes part in the rounds P, with vectors of norm at most 1, moves C x by at most the square root
        of the sum of |CᵀC| over P × P: its squared length is Σ_{s,t} (CᵀC)_{st} ⟨v_s, v_t⟩, and |⟨v_s, v_t⟩| ≤ 1.
        """
        return _gram(self)

    def prefix_variance(self) -> Reals:
        """``[rounds]``: the noise's variance in the sum of the first 1, 2, … releases, where σ = 1."""
        if self.kind == "tree":
            return np.array([float((row + 1).bit_count()) for row in range(self.rounds)])
        return np.asarray(np.cumsum(np.cumsum(self._impulse()) ** 2))

    def amplitude(self) -> float:
        """How many times the largest coordinate of Z a coordinate of C⁻¹ Z can be."""
        if self.kind == "tree":
            return float(self.rounds.bit_length())
        return float(np.abs(self._impulse()).sum())

    def _nodes(self) -> list[slice]:
        return [slice(end - (end & -end), end) for end in range(1, self.rounds + 1)]

    def _impulse(self) -> Reals:
        """``[rounds]``: the first column of C⁻¹, for a band."""
        band = np.asarray(self.coefficients)
        impulse = np.zeros(self.rounds)
        impulse[0] = 1.0 / band[0]
        for row in range(1, self.rounds):
            reach = min(row, band.size - 1)
            impulse[row] = -(band[1 : reach + 1] @ impulse[row - reach : row][::-1]) / band[0]
        return impulse


@lru_cache(maxsize=8)
def _gram(correlation: Correlation) -> Reals:
    rounds = correlation.rounds
    gram = np.zeros((rounds, rounds))
    if correlation.kind == "tree":
        for below in correlation._nodes():
            gram[below, below] += 1.0
    else:
        band = np.asarray(correlation.coefficients[:rounds])
        for apart in range(band.size):
            overlap = np.cumsum(band[apart:] * band[: band.size - apart])  # by the rows that the matrix still has
            column = np.arange(rounds - apart)
            rows_left = np.minimum(band.size, rounds - column) - apart
            gram[column, column + apart] = gram[column + apart, column] = overlap[rows_left - 1]
    gram.setflags(write=False)
    return gram
