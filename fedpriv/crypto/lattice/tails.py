"""Tails of the random variables in SEAL's encryption: what both noise bounds are made of.

X is sub-Gaussian with proxy v if E exp(λX) ≤ exp(λ²v/2) for every λ. Proxies of independent variables add with squared
weights, and Pr[|X| > t] ≤ 2·exp(−t²/2v) (Vershynin 2018, section 2.5; proxies written as variances).
"""

from __future__ import annotations

import math

ERROR = 10.5
"""SEAL's error: the difference of two sums of 21 bits, 42 terms ±½ with proxy ¼ each. Its variance."""

TERNARY = 2 / 3
"""Uniform on {−1, 0, 1}: (1 + 2·cosh λ)/3 ≤ exp(λ²/3), coefficient by coefficient. Its variance."""

ROUNDING = 1 / 12
"""Uniform on [−½, ½], or on the multiples of 1/P in it."""


def deviations(values: int, failure: float) -> float:
    """t/√v such that one of ``values`` variables of proxy v exceeds t in absolute value with probability ≤ failure."""
    return math.sqrt(2 * math.log(2 * values / failure))


def inflation(dimension: int, failure: float) -> float:
    """The x > 1 such that the squared norm of a vector with isotropic proxy v exceeds dimension·v·x with ≤ failure.

    E exp(λ|Y|²) ≤ (1 − 2λv)^(−dimension/2), by averaging exp(√(2λ)·⟨g, Y⟩) over a standard Gaussian g. Markov at the
    best λ leaves (x·e^(1−x))^(dimension/2).
    """
    target = 1 - 2 * math.log(failure) / dimension
    low, high = 1.0, 2 * target + 2
    for _ in range(100):  # x − ln x grows from 1 on
        middle = (low + high) / 2
        low, high = (middle, high) if middle - math.log(middle) < target else (low, middle)
    return high
