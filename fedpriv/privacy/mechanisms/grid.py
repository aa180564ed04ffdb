"""The grid on which noisy sums modulo a power of two are counted: how fine it can be, and how seldom a sum wraps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedpriv.encoding import FixedPoint, Integers
from fedpriv.errors import PlanError
from fedpriv.privacy.clipping import rounded_norm
from fedpriv.privacy.mechanism import Share, ShareKind
from fedpriv.privacy.samplers import LARGEST_VARIANCE

MOST_BITS = 30
"""Of a ring in which sums are counted."""
_LONGEST = 2.0**40
"""Squares of integer norms are exact below it."""
_FALLBACK = 2.0**-60
"""How unlikely it is at least that a client's rounding runs out of attempts."""


def attempts(beta: float) -> int:
    """After which rounding falls back to truncation, where each is redrawn with probability at most ``beta``."""
    return 1 if beta == 0.0 else math.ceil(math.log(_FALLBACK) / math.log(beta))


@dataclass(frozen=True, kw_only=True)
class Ring:
    """What the plan has settled about sums mod 2^bits, in steps of their grid; public.

    Args:
        bits: of the ring, sign included.
        tails: how many standard deviations of the largest sum must fit into it.
        beta: of :func:`~fedpriv.privacy.clipping.rounded_norm`.
        dimension: coordinates of a client's vector, padded.
        clients: in the largest sum.
        honest: whose shares of the noise are counted on.
    """

    bits: int
    tails: float
    beta: float
    dimension: int
    clients: int
    honest: int

    @property
    def half(self) -> int:
        """Sums live in [-half, half)."""
        return 1 << (self.bits - 1)

    @property
    def room(self) -> float:
        """The variance that signal and noise may have: that of random rounding is taken off, 1/4 a client at most."""
        return (self.half / self.tails) ** 2 - self.clients / 4.0

    def coarsest(self) -> float:
        """The noise multiplier beyond which more noise only makes the grid coarser."""
        return math.sqrt(max(1.0, self.room) * 1e6 * self.honest / self.clients)

    def clip_in_steps(self, noise_multiplier: float) -> float:
        """A client's clip norm over the finest step at which ``tails`` standard deviations of the sum fit.

        Of the sum of n clients, with r = clip norm / step: rotated signals (n r)² / d in each coordinate, noise
        n (z r)² / honest, rounding n / 4. The largest r of tails² times all that ≤ half², and checked to be one. It is
        the same for every clip norm: a clip that moves takes its step along.

        Raises:
            PlanError: rounding alone fills the ring; a grid finer than the samplers and exact norms reach.
        """
        if self.room <= 0.0:
            bits = 1 + math.floor(math.log2(self.tails * math.sqrt(self.clients / 4.0))) + 1
            raise PlanError(
                f"A ring holds {self.tails:g} standard deviations of the rounding errors of {self.clients} clients.",
                value=f"bits={self.bits}",
                remedy=f"Use at least {bits} bits, and some more for signal and noise.",
            )
        signal = self.clients**2 / self.dimension
        noise = self.clients * noise_multiplier**2 / self.honest
        steps = math.sqrt(self.room / (signal + noise))
        spread = math.sqrt(steps**2 * (signal + noise) + self.clients / 4.0)
        if not self.tails * spread <= self.half * (1.0 + 1e-9):
            raise AssertionError("the step was solved for, and does not fit")
        finest = max(noise_multiplier**2 * steps**2 / self.honest / LARGEST_VARIANCE, steps / _LONGEST)
        if finest * 2.0 >= 1.0:
            raise PlanError(
                "One client's noise has at most 2^26 steps of the grid, and its vector 2^40.",
                value=f"bits={self.bits}",
                remedy=f"Use {math.ceil(math.log2(finest)) + 2} bits less: accuracy does not suffer.",
            )
        return steps

    def codec(self, noise_multiplier: float, clip_norm: float) -> FixedPoint:
        """The grid for clients' vectors of that L2 norm; its bound holds the longest rounded one."""
        steps = self.clip_in_steps(noise_multiplier)
        return FixedPoint(step=clip_norm / steps, bound=math.ceil(self._rounded(steps)))

    def share(self, kind: ShareKind, noise_multiplier: float) -> Share:
        """What each client adds so that the shares of those who are honest make up the noise multiplier."""
        steps = self.clip_in_steps(noise_multiplier)
        variance = (noise_multiplier * steps) ** 2 / self.honest
        l2 = self._rounded(steps)
        return Share(
            kind=kind,
            variance=variance,
            l2=l2,
            l1=min(math.sqrt(self.dimension) * l2, l2 * l2) * (1.0 + 1e-12),  # |k| ≤ k² of integers
            dimension=self.dimension,
            wrap=self.wrap(kind, steps, variance),
        )

    def wrap(self, kind: ShareKind, steps: float, variance: float) -> float:
        """Bounds the probability that any coordinate of the largest sum leaves the ring (Chernoff, union over d).

        With s the parameter of the moment generating function, each coordinate of the sum has the logarithm of it at
        most: the rotated signal's (n r)² s² / 2d (its signs are independent of it); n discrete Gaussians' n σ² s² / 2
        (Canonne, Kamath and Steinke 2020, corollary 17) or Skellams' n σ² (cosh s - 1); the roundings' n (β s + s² / 8)
        (Hoeffding's lemma; to redraw with probability ≤ β shifts the mean of an error in an interval of length 1
        by ≤ β). Any s gives a bound.
        """
        n = self.clients
        s = np.geomspace(1e-12, 20.0, 4000)
        spread = 0.5 * s * s if kind == "discrete-gaussian" else np.cosh(s) - 1.0
        exponent = (n * steps) ** 2 / self.dimension * 0.5 * s * s + n * variance * spread
        exponent += n * (self.beta * s + s * s / 8.0) - self.half * s
        fallback = n * _FALLBACK if self.beta else 0.0
        return min(1.0, 2.0 * self.dimension * math.exp(min(0.0, float(exponent.min()))) + fallback)

    def limit(self, kind: ShareKind, noise_multiplier: float) -> int | None:
        """What a client's coordinates are cut to, so that its vector does not wrap by itself; None: no room for that.

        Of all clients and coordinates none gets noise that reaches beyond the rest of the ring, but for a probability
        of 2^-60 (Chernoff, as in :meth:`wrap`). There is room where rotated vectors are hardly ever cut: six standard
        deviations of one whose L2 norm is the clip norm, or the longest there is.
        """
        share = self.share(kind, noise_multiplier)
        s = np.geomspace(1e-12, 20.0, 4000)
        spread = 0.5 * s * s if kind == "discrete-gaussian" else np.cosh(s) - 1.0
        unlikely = math.log(2.0 * self.clients * self.dimension) - math.log(_FALLBACK)
        reach = float(((share.variance * spread + unlikely) / s).min())
        limit = self.half - 1 - math.ceil(reach)
        typical = 1.0 + 6.0 * self.clip_in_steps(noise_multiplier) / math.sqrt(self.dimension)
        return limit if limit >= min(share.l2, typical) else None

    def _rounded(self, steps: float) -> float:
        return rounded_norm(steps, self.dimension, self.beta)


def reduced(values: Integers, bits: int) -> Integers:
    """The representatives in [-2^(bits-1), 2^(bits-1))."""
    half = np.int64(1 << (bits - 1))
    return ((values + half) & np.int64((1 << bits) - 1)) - half
