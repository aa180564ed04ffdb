"""Central Gaussian noise: added by the releaser to the exact integer sum of clipped updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fedpriv.encoding import MAX_SUM, FixedPoint, Integers, Reals
from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.privacy.adaptive import AdaptiveClip, augment, joint_norm, share_within
from fedpriv.privacy.budget import Budget
from fedpriv.privacy.calibration import solve_noise_multiplier
from fedpriv.privacy.clipping import clip_rows, round_within
from fedpriv.privacy.ledger.event import GAUSSIAN, LedgerEvent, event_of
from fedpriv.privacy.mechanism import Adapted, Encoded, Outcome, Release, RoundSpec, Setting, Trust
from fedpriv.privacy.numbers import is_real
from fedpriv.privacy.sampling import SamplingRecord
from fedpriv.privacy.weights import Capped
from fedpriv.randomness import Noise


@dataclass(frozen=True, kw_only=True)
class CentralGaussian:
    """Clip each client's whole update to an L2 norm; add N(0, σ²), σ = noise_multiplier · clip_norm, to the sum.

    The sum is divided by a public constant, the expected cohort size, so that neither weights nor the number of
    contributors leak; a client that drops out counts as zero, which draws the mean towards zero. Exactly one
    of ``noise_multiplier`` and ``target`` is given.

    Args:
        clip_norm: L2 bound of a client's whole payload, all entries together; or an
            :class:`~fedpriv.privacy.adaptive.AdaptiveClip`, whose bit is one more coordinate of the same vector.
        noise_multiplier: σ / clip_norm of the noise on the sum, > 0.
        target: the budget for which the smallest sufficient noise multiplier is solved before the first round.
        bits: of an encoded coordinate, sign included; the grid's step is clip_norm / (2^(bits-1) - 1).
        weighting: ``"equal"``, or :class:`~fedpriv.privacy.weights.Capped`, which scales the clipped update down.

    Raises:
        ConfigurationError: both or none of noise_multiplier and target; a number out of range.
        PlanError: weights by examples, uncapped.

    Guarantees: client-level differential privacy against observers who see released means only. The encoded update of
        a client has L2 norm at most clip_norm, exactly (:func:`~fedpriv.privacy.clipping.round_within`), so encoding
        costs no extra noise. What is released is a function of total + N(0, σ²) alone: the noise is rounded to the
        grid, and for an integer total, total + round(noise) = round(total + noise). Its low-order bits therefore carry
        nothing about the total, which closes the attack on floating-point noise (Mironov 2012).
    Assumes: the party that adds the noise is honest, and adds it; the standard normal draws it is given are Gaussian.
        Draws from 53-bit uniforms are not exactly so (their tails end near 8.6 σ), and no claim is made about that gap.
        Under add/remove the divisor stays what it was for this population when a client joins or leaves.
    Does not hide: anything from an observer who sees the sum before the noise, or single updates: there ε = ∞. That an
        update is not finite, which ends the run with an error.
    Reference: Dwork and Roth 2014, section A; Geyer, Klein and Nabi 2017; McMahan et al. 2018, algorithm 1.
    """

    clip_norm: float | AdaptiveClip
    noise_multiplier: float | None = None
    target: Budget | None = None
    bits: int = 20
    weighting: Literal["equal"] | Capped = "equal"

    def __post_init__(self) -> None:
        check_clip(self._first_clip)
        FixedPoint.for_limit(self._first_clip, self.bits)
        check_noise(self.noise_multiplier, self.target)
        check_weighting(self.weighting)

    @property
    def trust(self) -> Trust:
        return "central"

    @property
    def _first_clip(self) -> float:
        return self.clip_norm.initial if isinstance(self.clip_norm, AdaptiveClip) else self.clip_norm

    def init(self, setting: Setting) -> RoundSpec:
        """The terms of round 0, noise solved; they change in their number, and where the clip adapts with it.

        Raises:
            PlanError: a sampling that no accountant models; noise too large for 62 bits; an adaptive clip whose count
                gets too little noise.
            BudgetUnreachable: the target's observer sees more than noisy releases.
        """
        sampling = accounted(setting)
        noise_multiplier = self.noise_multiplier
        if noise_multiplier is None:
            assert self.target is not None  # __post_init__
            noise_multiplier = solve_noise_multiplier(self.target, setting)
        cohort = setting.sampling.expected(setting.population)
        spec = RoundSpec(
            round=0,
            length=setting.length,
            codec=FixedPoint.for_limit(self._first_clip, self.bits),
            max_weight=1,
            clip_norm=self._first_clip,
            noise_multiplier=noise_multiplier,
            divisor=self.weighting.divisor(cohort) if isinstance(self.weighting, Capped) else cohort,
            sampling=sampling,
            adjacency=setting.adjacency,
            planned_contributors=setting.least_honest,
        )
        if isinstance(self.clip_norm, AdaptiveClip):
            # On the grid, like all else: the joint norm is then exact.
            bit = max(1, round(self.clip_norm.ratio(noise_multiplier, cohort) * spec.codec.bound)) * spec.codec.step
            adapted = Adapted(norm=self._first_clip, bit=bit, cohort=cohort)
            spec = replace(spec, length=setting.length + 1, clip_norm=joint_norm(adapted.norm, bit), adapted=adapted)
        if 16 * _sigma(spec) >= MAX_SUM:
            raise PlanError(
                "Noise on the grid stays within 62 bits.",
                value=f"noise multiplier {noise_multiplier:g} at {self.bits} bits",
                remedy="Use fewer bits or less noise.",
            )
        return spec

    def begin(self, state: RoundSpec, round: int, public: int = 0) -> RoundSpec:
        return replace(state, round=round)

    def protect(self, updates: Reals, examples: Sequence[int], spec: RoundSpec, noises: Sequence[Noise]) -> Encoded:
        """Clip each row jointly, weight and encode it: ``[n, d]`` → ``[n, d]``, or ``[n, d + 1]`` under adaptive clip.

        Raises:
            NonFiniteInput: NaN or infinity in an update.
        """
        assert spec.update_norm is not None  # init
        rows, clipped = clip_rows(updates, spec.update_norm)
        if isinstance(self.weighting, Capped):
            rows *= self.weighting.scales(examples)[:, None]
        values = round_within(rows, spec.codec)
        residual = (spec.codec.decode(values) - rows).sum(axis=0)
        if spec.adapted is not None:
            values, residual = augment(values, clipped, _bit(spec)), np.append(residual, 0.0)
        return Encoded(values=values, residual=residual, clipped_norms=int(clipped.sum()), clipped_coordinates=0)

    def release(self, total: Integers, spec: RoundSpec, outcome: Outcome, noise: Noise, state: RoundSpec) -> Release:
        """(total + round(N(0, (σ / step)²))) · step / divisor; of an adaptive clip's coordinate, the share within."""
        assert spec.divisor is not None  # set in init
        noised = spec.codec.decode(total + np.rint(noise.normal(spec.length) * _sigma(spec)).astype(np.int64))
        if spec.adapted is None:
            return Release(mean=noised / spec.divisor)
        return Release(mean=noised[:-1] / spec.divisor, within_clip=share_within(float(noised[-1]), spec.adapted))

    def advance(self, state: RoundSpec, spec: RoundSpec, release: Release | None, noise: Noise) -> RoundSpec:
        """The same terms, the clip moved towards its quantile, and with it the grid; an aborted round moves nothing."""
        if not isinstance(self.clip_norm, AdaptiveClip) or release is None:
            return state
        assert state.adapted is not None  # init
        assert release.within_clip is not None  # release
        clip = self.clip_norm.next_clip(state.adapted.norm, release.within_clip)
        codec = FixedPoint.for_limit(clip, self.bits)
        adapted = replace(state.adapted, norm=clip, bit=_bit(state) * codec.step)
        return replace(state, codec=codec, clip_norm=joint_norm(clip, adapted.bit), adapted=adapted)

    def noise_contributors(self, setting: Setting) -> None:
        return None

    def events(self, spec: RoundSpec, outcome: Outcome) -> tuple[LedgerEvent, ...]:
        return (event_of(spec, outcome, mechanism=GAUSSIAN, trust=self.trust),)


def _bit(spec: RoundSpec) -> int:
    """The length of an adaptive clip's coordinate on the grid; 0 without one."""
    return 0 if spec.adapted is None else round(spec.adapted.bit / spec.codec.step)


def _sigma(spec: RoundSpec) -> float:
    """σ on the grid: the noise multiplier times the L2 bound of a client's integers."""
    return spec.noise_multiplier * joint_norm(spec.codec.bound, _bit(spec))


def check_clip(clip_norm: float) -> None:
    """Raises ConfigurationError unless a clip norm is finite and > 0."""
    if not (is_real(clip_norm) and clip_norm > 0):
        raise ConfigurationError("A clip norm is finite and > 0.", value=clip_norm, remedy="Give clip_norm=1.0, or so.")


def check_noise(noise_multiplier: float | None, target: Budget | None) -> None:
    """Raises ConfigurationError unless exactly one is given: a noise multiplier, finite and > 0, or a Budget."""
    if (noise_multiplier is None) == (target is None):
        raise ConfigurationError(
            "Exactly one of noise_multiplier and target fixes the noise.",
            value=f"noise_multiplier={noise_multiplier!r}, target={target!r}",
            remedy="Give noise_multiplier=1.0, or target=Budget(...).",
        )
    if noise_multiplier is not None and not (is_real(noise_multiplier) and noise_multiplier > 0):
        raise ConfigurationError(
            "A noise multiplier is finite and > 0.",
            value=noise_multiplier,
            remedy="Give noise_multiplier=1.0, or so; use NoDP() for a run without noise.",
        )
    check_target(target)


def check_target(target: Budget | None) -> None:
    """Raises ConfigurationError unless a target is a Budget, or None."""
    if target is not None and not isinstance(target, Budget):
        raise ConfigurationError(
            "A target is a Budget: an ε says nothing without its δ and an observer.",
            value=target,
            remedy='Give target=Budget(epsilon=2.0, delta=1e-5, observer="public"), or noise_multiplier=1.0.',
        )


def check_weighting(weighting: object) -> None:
    """Raises PlanError unless weights are equal, or capped inside the clipped vector."""
    if weighting != "equal" and not isinstance(weighting, Capped):
        raise PlanError(
            "Under differential privacy every client has the same public weight, or one with a cap.",
            value=weighting,
            remedy='Use weighting="equal", or Capped(w_max, expected=...): example counts are private data.',
        )


def accounted(setting: Setting) -> SamplingRecord:
    """How cohorts are drawn, for the ledger.

    Raises:
        PlanError: no accountant models the sampling.
    """
    sampling = setting.sampling_record()
    if sampling is None:
        raise PlanError(
            "Under differential privacy a sampling says how it is accounted.",
            value=type(setting.sampling).__name__,
            remedy="Give it an accounting() record, or use one of fedpriv's samplings.",
        )
    return sampling
