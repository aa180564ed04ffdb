"""Rényi curves that dp-accounting lacks: integer noise that is the sum of many clients' shares.

All lengths are in units of the integer grid, and so is every σ².
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.encoding import Reals
from fedpriv.privacy.mechanism import Adjacency, Share

if TYPE_CHECKING:
    from fedpriv.privacy.ledger.event import Response

INTEGERS = (*(float(order) for order in range(2, 129)), *(float(2**k) for k in range(8, 13)))
"""The orders of compositions with Skellam noise, whose bound is stated for integers."""

_PARTS = 512
"""The most sub-sums of a sum of shares that are tried as a bound."""


@dataclass(frozen=True, kw_only=True, order=True)
class Shares:
    """Equal, independent shares of noise under which one client's vector is summed.

    Args:
        share: what one client adds.
        count: how many shares the observer does not know, the client's own included.
    """

    share: Share
    count: int

    @classmethod
    def of(cls, share: Share, count: int) -> Shares:
        """What the accountant needs: a wrap costs accuracy, and no ε."""
        return cls(share=replace(share, wrap=0.0), count=count)


def orders(shares: Iterable[Shares]) -> tuple[float, ...]:
    """The one grid on which all parts of a composition are added: dp-accounting's, but integers for Skellam noise."""
    if any(part.share.kind == "skellam" for part in shares):
        return INTEGERS
    from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS  # type: ignore[import-untyped]

    return tuple(float(order) for order in DEFAULT_RDP_ORDERS)


@lru_cache(maxsize=4096)
def curve(shares: Shares, orders: tuple[float, ...], adjacency: Adjacency) -> Reals:
    """``[len(orders)]``: D_α of one release between neighbours, an upper bound at each order.

    Zeroing a client's vector moves the sum by that vector; replacing it, by up to twice its lengths.
    """
    share, factor = shares.share, 2.0 if adjacency == "replace-one" else 1.0
    l2, l1 = factor * share.l2, factor * min(share.l1, math.sqrt(share.dimension) * share.l2)
    alphas = np.asarray(orders)
    if share.kind == "skellam":
        return skellam(alphas, l2=l2, l1=l1, variance=shares.count * share.variance)
    return discrete_gaussians(
        alphas, l2=l2, l1=l1, dimension=share.dimension, variance=share.variance, count=shares.count
    )


def discrete_gaussians(alphas: Reals, *, l2: float, l1: float, dimension: int, variance: float, count: int) -> Reals:
    """D_α between sums of discrete Gaussians, shifted against each other by an integer vector: an upper bound.

    Args:
        alphas: orders > 1.
        l2, l1: bounds of the shift.
        dimension: coordinates, each with noise of its own.
        variance: the parameter σ² of one summand.
        count: of summands.

    A sum of n discrete Gaussians is none. In each coordinate its logarithmic ratio to the one of parameter nσ², taken
    between any two points, is at most Σ_{k<n} of the oscillation of a theta function of variance σ² k / (k + 1), which
    is about 4 exp(-2π² σ² k / (k + 1)). With τ = 10 Σ_{k<n} exp(-2π² σ² k / (k + 1)), both are within e^{±τ/2} of each
    other, and the shift between them costs α Δ² / 2nσ². The weak triangle inequality gives α/2 (|Δ|/√n σ + τ)² in a
    coordinate, summed over coordinates the second bound below; changing the measure gives the first, at α ≥ 4/3. Some
    of the summands alone are a bound too, for the others are added after: with many, τ outgrows what they bring.

    Reference: Kairouz, Liu and Steinke 2021, theorem 1 and proposition 14 (which ask for σ ≥ 1/2).
    """
    counts = np.unique(np.geomspace(1, count, min(count, _PARTS)).round()) if variance >= 0.25 else np.ones(1)
    tau = gap(variance, counts)[:, None]
    reach = l2**2 / (counts * variance)[:, None]
    direct = 0.5 * alphas * reach + np.where(alphas < 1.5, np.inf, tau * dimension)
    spread = 2.0 * l1 / np.sqrt(counts * variance)[:, None] * tau + dimension * tau**2
    return np.asarray(np.minimum(direct, 0.5 * alphas * (reach + spread)).min(axis=0))


def gap(variance: float, counts: Reals) -> Reals:
    """τ = 10 Σ_{k<n} exp(-2π² σ² k / (k + 1)) for each n of ``counts``."""
    summands = np.arange(1, int(counts.max()))
    terms = 10.0 * np.exp(-2.0 * math.pi**2 * variance * summands / (summands + 1))
    return np.concatenate(([0.0], np.cumsum(terms)))[counts.astype(np.int64) - 1]


def skellam(alphas: Reals, *, l2: float, l1: float, variance: float) -> Reals:
    """D_α between Skellam noise and itself, shifted by an integer vector: an upper bound.

    Args:
        alphas: integers ≥ 2.
        l2, l1: bounds of the shift.
        variance: of the noise in a coordinate; sums of Skellam draws are Skellam.

    Reference: Agarwal, Kairouz and Liu 2021, theorem 3.5.
    """
    near = ((2.0 * alphas - 1.0) * l2**2 + 6.0 * l1) / (4.0 * variance**2)
    far = 3.0 * l1 / (2.0 * variance)
    return np.asarray(0.5 * alphas * l2**2 / variance + np.minimum(near, far))


def response(answer: Response, orders: tuple[float, ...]) -> Reals:
    """``[len(orders)]``: D_α of one k-ary randomised response whose truth is replaced, exact.

    The two distributions differ in two answers, p = e^ε / (e^ε + k - 1) and q = 1 / (e^ε + k - 1).
    """
    total = math.log(math.exp(answer.epsilon) + answer.categories - 1)
    alphas = np.asarray(orders)
    up, down = alphas * answer.epsilon - total, (1.0 - alphas) * answer.epsilon - total
    others = math.log(answer.categories - 2) - total if answer.categories > 2 else -math.inf
    return np.asarray(np.logaddexp(np.logaddexp(up, down), others) / (alphas - 1.0))
