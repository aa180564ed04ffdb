"""Exact samplers of integer noise, vectorised: uniform words in, draws of exactly the stated distribution out."""

from __future__ import annotations

import math
from collections.abc import Callable

from fedpriv.encoding import Integers
from fedpriv.errors import ConfigurationError
from fedpriv.privacy.samplers.inversion import Words, draw
from fedpriv.privacy.samplers.laws import LARGEST_VARIANCE, DiscreteGaussian, Poisson

__all__ = ["LARGEST_VARIANCE", "Sampler", "Words", "discrete_gaussian", "skellam"]

Sampler = Callable[[float, int, Words], Integers]
"""Variance, number of draws, source of words → ``[n] int64``."""


def discrete_gaussian(variance: float, size: int, words: Words) -> Integers:
    """Draws of N_ℤ(0, σ²): P(x) ∝ exp(-x² / 2σ²) on the integers.

    Args:
        variance: the parameter σ², > 0, at most 2^52. It is the rational number that this float64 is, whose denominator
            is a power of two. (Of a small σ² the variance of the draws is less: 0.215 for 0.25.)
        size: how many.
        words: where uniform 64-bit words come from: :attr:`fedpriv.randomness.Noise.words`.

    Returns:
        ``[size] int64``.

    Raises:
        ConfigurationError: a variance out of range.

    Guarantees: given uniform, independent words the distribution is exactly the stated one, without any tolerance, and
        the draws are a function of the words alone, the same on every machine.
    Assumes: numpy's exp and log1p err by less than eight units in the last place; Python's decimal exp and ln round
        correctly, which the General Decimal Arithmetic specification demands.
    Does not hide: timing. A redraw takes longer than a draw.
    Reference: Canonne, Kamath and Steinke 2020, definition 1 (the distribution; their sampler is another).
    """
    return draw(DiscreteGaussian(_checked(variance)), size, words)


def skellam(variance: float, size: int, words: Words) -> Integers:
    """Draws of the difference of two independent Poisson variables of mean variance / 2 each.

    Args and all else: as :func:`discrete_gaussian`; the variance of the draws is the stated one.

    Reference: Agarwal, Kairouz and Liu 2021, section 3 (the distribution).
    """
    half = Poisson(_checked(variance) / 2.0)
    return draw(half, size, words) - draw(half, size, words)


def _checked(variance: float) -> float:
    if not (math.isfinite(variance) and 2.0**-10 <= variance <= LARGEST_VARIANCE):
        raise ConfigurationError(
            "The variance of integer noise is 2^-10 … 2^52.", value=variance, remedy="Use a finer or a coarser grid."
        )
    return float(variance)
