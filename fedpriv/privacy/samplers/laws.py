"""The laws of integer noise: how likely an integer is beside another one, to any number of digits, and in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import numpy as np

from fedpriv.encoding import Integers, Reals

LARGEST_VARIANCE = 2.0**52
"""Every integer that is drawn is a float64."""


def _shift(variance: float) -> int:
    """Blocks of more than 1/16 and at most 1/8 of a standard deviation, or of one integer."""
    return max(0, math.frexp(math.sqrt(variance) / 8.0)[1] - 1)


def _context(digits: int) -> Context:
    return Context(prec=digits, Emax=MAX_EMAX, Emin=MIN_EMIN)


@dataclass(frozen=True)
class DiscreteGaussian:
    """P(x) ∝ exp(-x² / 2 variance)."""

    variance: float

    @property
    def mode(self) -> int:
        return 0

    @property
    def shift(self) -> int:
        return _shift(self.variance)

    def weight(self, x: int, digits: int) -> Decimal:
        exponent = Fraction(x * x) / (2 * Fraction(self.variance))
        # An error of the exponent is a relative one of the weight: so many digits more as it has before the point.
        with localcontext(_context(digits + 5 + len(str(int(exponent))))):
            return (-Decimal(exponent.numerator) / Decimal(exponent.denominator)).exp()

    def log_ratio(self, x: Integers, top: Integers) -> Reals:
        """-(x - top) (x + top) / 2σ²: the products' relative errors are of a number that is at most 2."""
        away: Reals = (x - top).astype(np.float64)
        away *= x + top
        away *= -0.5 / self.variance
        return away


@dataclass(frozen=True)
class Poisson:
    """P(x) = e^-mean mean^x / x!."""

    mean: float

    @property
    def mode(self) -> int:
        return math.floor(self.mean)

    @property
    def shift(self) -> int:
        return _shift(self.mean)

    def weight(self, x: int, digits: int) -> Decimal:
        if x < 0:
            return Decimal(0)
        # Up to x log x is taken from up to x log x.
        precision = digits + 10 + 2 * len(str(max(x, self.mode)))
        with localcontext(_context(precision)):
            power = (x - self.mode) * _log(self.mean, precision)
            return (power - (_log_factorial(x, precision) - _log_factorial(self.mode, precision))).exp()

    def log_ratio(self, x: Integers, top: Integers) -> Reals:
        """By Stirling's series, (x - top) log(mean / top) - (log x! - log top!).

        The large parts are taken out beforehand: what is left is no larger than |x - top|. Two terms more than the
        series' 1/12x are below 2^-56 from x = 64 on; there it ends.
        """
        high = np.where(x < 64, np.nan, x)
        low = top.astype(np.float64)
        away = high - low
        with np.errstate(invalid="ignore", divide="ignore"):
            apart = (high + 0.5) * np.log1p(away / low) - away + (_stirling(high) - _stirling(low))
            ratio: Reals = away * np.log1p((self.mean - low) / low) - apart
        return ratio


def _stirling(x: Reals) -> Reals:
    """Log x! - (x + 1/2) log x + x - log(2π)/2, for x ≥ 64 to 2^-53."""
    square = 1.0 / (x * x)
    return (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0))) / x


@lru_cache(maxsize=256)
def _log(mean: float, precision: int) -> Decimal:
    ratio = Fraction(mean)
    with localcontext(_context(precision)):
        return (Decimal(ratio.numerator) / Decimal(ratio.denominator)).ln()


@lru_cache(maxsize=4096)
def _log_factorial(x: int, precision: int) -> Decimal:
    """Log x! - log(2π)/2; relative error below 10^(4 - precision).

    Stirling's series is enveloping: what is left of it is less than the first term left out, and of its sign. From
    x = precision on, terms fall below 10^-precision before they grow again (near the πx-th).
    """
    with localcontext(_context(precision)):
        if x < precision:
            product = math.prod(range(x + 1, x + precision + 1))
            return _log_factorial(x + precision, precision) - Decimal(product).ln()
        at = Decimal(x)
        total = (at + Decimal("0.5")) * at.ln() - at
        power, square, least = at, at * at, Decimal(10) ** -precision
        for k in range(1, 4 * precision):
            coefficient = _bernoulli(k) / (2 * k * (2 * k - 1))
            term = Decimal(coefficient.numerator) / Decimal(coefficient.denominator) / power
            if abs(term) < least:
                break
            total, power = total + term, power * square
        return total


@lru_cache(maxsize=1024)
def _bernoulli(k: int) -> Fraction:
    """B_2k, from the recurrence Σ_j C(2k + 1, j) B_j = 0 with B_1 = -1/2."""
    n = 2 * k
    known = Fraction(1) - Fraction(n + 1, 2) + sum(math.comb(n + 1, 2 * j) * _bernoulli(j) for j in range(1, k))
    return -known / (n + 1)
