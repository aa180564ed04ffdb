"""Distributed noise: each client adds a share of it before the sum, so that nobody ever holds the sum without it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedpriv.errors import PlanError
from fedpriv.privacy.mechanism import Setting, ShareKind
from fedpriv.privacy.mechanisms.grid import MOST_BITS, Ring
from fedpriv.privacy.mechanisms.shares import Distributed
from fedpriv.privacy.samplers import Sampler, discrete_gaussian, skellam

_LEAST_SIGMA = 1.0
"""In steps of the grid. Sums of narrower discrete Gaussians are too far from one: their gap grows like e^(-π² σ²)."""


@dataclass(frozen=True, kw_only=True)
class DistributedDiscreteGaussian(Distributed):
    """Each client clips, rotates, rounds, adds discrete Gaussian noise; sums count mod 2^bits.

    The step of the grid follows from the bits, the largest cohort, the noise and the dimension, so that ``tails``
    standard deviations of the largest sum fit. What each client adds is set so that the fewest honest contributors
    that the plan permits achieve the noise multiplier; more of them achieve more. How few they are is the protocol's:
    its dropout and collusion, and SecureAggregation(min_cohort=...) or KeyAuthority(min_contributors=...), so that a
    larger minimum is less noise for the same ε. The sum is divided by a public constant, the expected cohort size.
    Exactly one of ``noise_multiplier`` and ``target`` is given.

    Args:
        clip_norm: L2 bound of a client's whole payload, all entries together; or an
            :class:`~fedpriv.privacy.adaptive.AdaptiveClip`, whose bit is one more coordinate of the vector that is
            rotated. Its ``count_noise`` is of the fewest honest contributors' shares, as the noise multiplier is.
        noise_multiplier: σ / clip_norm of the noise on the sum, > 0, that the fewest honest contributors achieve.
        target: the budget for which the smallest sufficient noise multiplier is solved before the first round.
        bits: of the ring in which sums count, sign included, 8 … 30: what each coordinate costs to send.
        beta: a rounding is redrawn with at most this probability, for a tighter bound of rounded norms; [0, 1).
        tails: standard deviations of the largest sum that fit before it wraps; ``Share.wrap`` bounds how often it does.
        corrupt: the share of contributors whose noise is not counted on; None: the protocol's bound.
        weighting: ``"equal"``, or :class:`~fedpriv.privacy.weights.Capped`, which scales the clipped update down.

    Raises:
        ConfigurationError: both or none of noise_multiplier and target; a number out of range.
        PlanError: weights by examples, uncapped.

    Guarantees: client-level differential privacy of the sum itself, against everybody who sees no more than sums. The
        L2 norm of each client's integers before the noise is at most ``Share.l2``, exactly; the noise is drawn exactly
        from the discrete Gaussian, and all arithmetic from there on is of integers, so nothing leaks through floating
        point. A sum that wraps costs accuracy, and never privacy. Where an exact sum is seen (homomorphic encryption),
        a client's vector that wrapped by itself would be seen too: coordinates are cut so that none does, but for a
        probability of 2^-60 a round, which no δ includes; where the ring has no room for that, only a ring of exactly
        these bits carries the sum. A dropout takes its share of the noise along: the
        ledger charges for what the contributors achieved.
    Assumes: that the clients counted on add their noise; that updates do not depend on the round's rotation (accuracy
        only). The sum of discrete Gaussians is not one: the ledger includes the gap, and narrow shares are refused.
    Does not hide: much from an observer who sees single updates: one share covers each. The number of contributors.
    Reference: Kairouz, Liu and Steinke 2021, algorithms 1 and 2.
    """

    @property
    def kind(self) -> ShareKind:
        return "discrete-gaussian"

    @property
    def sampler(self) -> Sampler:
        return discrete_gaussian

    def _check_width(self, sigma: float, setting: Setting, ring: Ring) -> None:
        if sigma >= _LEAST_SIGMA:
            return
        finer = (replace(ring, bits=bits) for bits in range(self.bits + 1, MOST_BITS + 1))
        wide = (r.bits for r in finer if r.share(self.kind, self._solved(setting, r)).variance >= _LEAST_SIGMA**2)
        bits = next(wide, None)
        raise PlanError(
            f"One client's discrete Gaussian noise has σ ≥ {_LEAST_SIGMA:g} steps of the grid, or sums of it are far "
            "from Gaussian.",
            value=f"σ = {sigma:.3g} at {self.bits} bits",
            remedy=f"Use {bits} bits or more, or DistributedSkellam." if bits else "Use DistributedSkellam.",
        )


@dataclass(frozen=True, kw_only=True)
class DistributedSkellam(Distributed):
    """As :class:`DistributedDiscreteGaussian`, with the difference of two Poisson variables as each client's share.

    Sums of Skellam variables are Skellam again, so the noise of any set of contributors is exactly of its law; its
    price beside a Gaussian vanishes as the grid gets finer.

    Args and all else: as :class:`DistributedDiscreteGaussian`.

    Guarantees, Assumes, Does not hide: as there, without a gap of sums.
    Reference: Agarwal, Kairouz and Liu 2021, algorithm 1.
    """

    @property
    def kind(self) -> ShareKind:
        return "skellam"

    @property
    def sampler(self) -> Sampler:
        return skellam

    def _check_width(self, sigma: float, setting: Setting, ring: Ring) -> None:
        """Narrow Skellam noise adds up like any other."""
