"""Reals ↔ integers, with the proof that no sum of clipped encodings wraps.

Every aggregator sums the *same* integers. A codec maps a clipped real to an integer in ``[-bound, bound]``; with public
weights at most ``max_weight`` and at most ``contributors`` clients, every coordinate of the sum lies in
``[-S, S]``, S = contributors · max_weight · bound. The aggregator's :class:`Domain` holds that interval, or the plan is
refused before the first round. Noise is added after encoding and is not covered by this proof: see ``privacy``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.errors import ConfigurationError, EncodingOverflow, NonFiniteInput

Integers: TypeAlias = npt.NDArray[np.int64]
Reals: TypeAlias = npt.NDArray[np.float64]

MAX_SUM = 2**62
"""Sums are held in int64 with one bit to spare."""


@dataclass(frozen=True)
class Ring:
    """Integers mod 2^bits, read as the signed interval [-2^(bits-1), 2^(bits-1))."""

    bits: int

    @property
    def largest(self) -> int:
        """The largest |sum| that decodes to itself."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def name(self) -> str:
        return f"ℤ mod 2^{self.bits}"


@dataclass(frozen=True)
class Bounded:
    """Integers in [-largest, largest]; beyond it lanes carry or slots wrap, so nothing may go there."""

    largest: int

    @property
    def name(self) -> str:
        return f"|sum| ≤ {self.largest}"


Domain: TypeAlias = Ring | Bounded


def ring_for(sum_bound: int) -> Ring:
    """The smallest ring that holds every sum in [-sum_bound, sum_bound].

    Raises:
        EncodingOverflow: the sum does not fit into 62 bits.
    """
    check_sum_bound(sum_bound)
    return Ring(max(2, (2 * sum_bound).bit_length()))


def check_sum_bound(sum_bound: int) -> None:
    """Raises EncodingOverflow where a possible sum exceeds the 62 bits in which sums are held."""
    if sum_bound >= MAX_SUM:
        raise EncodingOverflow(
            "Sums are held in 62 bits: contributors · max_weight · bound must stay below 2^62.",
            value=sum_bound,
            remedy="Use fewer bits, smaller weights or a smaller cohort.",
        )


class Encoding(NamedTuple):
    """What :meth:`FixedPoint.encode` returns."""

    values: Integers
    """Same shape as the input, each in [-bound, bound]."""
    clipped: int
    """How many coordinates lay outside ±limit, by half a step or more, and were cut to it."""


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """A uniform grid: the integer k stands for k · step, |k| ≤ bound.

    Args:
        step: the grid's spacing, > 0.
        bound: the largest integer, 1 … 2^52, where float64 still holds every integer.
    """

    step: float
    bound: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.step) and self.step > 0):
            raise ConfigurationError("A grid's step is finite and > 0.", value=self.step, remedy="Give limit > 0.")
        if not 1 <= self.bound <= 2**52:
            raise ConfigurationError("A codec's bound is 1 … 2^52.", value=self.bound, remedy="Use 2 to 40 bits.")

    @classmethod
    def for_limit(cls, limit: float, bits: int) -> FixedPoint:
        """The grid of ``bits`` bits, sign included, that spans [-limit, limit].

        Raises:
            ConfigurationError: limit not finite and positive, or bits outside 2 … 40.
        """
        if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 40:
            raise ConfigurationError("A codec has 2 to 40 bits.", value=bits, remedy="16 to 24 serve most models.")
        if not (np.isfinite(limit) and limit > 0):
            raise ConfigurationError(
                "A codec's limit is finite and > 0.", value=limit, remedy="Give the clip norm, or the largest |x|."
            )
        bound = 2 ** (bits - 1) - 1
        return cls(step=limit / bound, bound=bound)

    @property
    def limit(self) -> float:
        """The largest real that is encoded without being cut."""
        return self.step * self.bound

    def encode(self, reals: npt.ArrayLike) -> Encoding:
        """Round to the nearest grid point (ties to even); cut what lies outside ±limit and count it.

        Raises:
            NonFiniteInput: NaN or infinity.
        """
        nearest, clipped = self.nearest(reals)
        return Encoding(nearest.astype(np.int64), clipped)

    def nearest(self, reals: npt.ArrayLike) -> tuple[Reals, int]:
        """As :meth:`encode`, the integers as whole numbers in float64, which holds them exactly."""
        values = np.asarray(reals, dtype=np.float64)
        with np.errstate(over="ignore"):  # a finite value too large for the quotient is cut like any other
            nearest = np.atleast_1d(values / self.step)
        np.rint(nearest, out=nearest)
        clipped = 0
        if nearest.size and not max(nearest.max(), -nearest.min()) <= self.bound:  # NaN is not, either
            require_finite(values)
            clipped = int(np.count_nonzero(np.abs(nearest) > self.bound))
            np.clip(nearest, -self.bound, self.bound, out=nearest)
        return nearest.reshape(values.shape), clipped

    def decode(self, integers: Integers) -> Reals:
        """K ↦ k · step, also for sums."""
        return np.asarray(integers).astype(np.float64) * self.step

    def sum_bound(self, contributors: int, max_weight: int = 1) -> int:
        """S: no coordinate of a sum of ``contributors`` encodings, each times a weight ≤ max_weight, exceeds it."""
        return int(contributors) * int(max_weight) * self.bound  # Python's integers: numpy's would wrap here


def require_finite(values: npt.NDArray[np.floating]) -> None:
    """Raises NonFiniteInput, naming the first bad coordinate, unless every value is finite."""
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values))
        raise NonFiniteInput(
            "A vector to be encoded is finite everywhere.",
            value=f"{bad.size} non-finite values, the first at coordinate {int(bad[0])}",
            remedy="Lower the learning rate, or check the client's data and loss.",
        )
