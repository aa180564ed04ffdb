"""Local Gaussian noise: every client noises its own clipped update, and relies on nobody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from fedpriv.encoding import MAX_SUM, FixedPoint, Integers, Reals
from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.privacy.adaptive import AdaptiveClip
from fedpriv.privacy.budget import Budget
from fedpriv.privacy.calibration import planned_event, solve_noise_multiplier
from fedpriv.privacy.clipping import clip_rows, round_within
from fedpriv.privacy.ledger.event import GAUSSIAN, LedgerEvent, event_of
from fedpriv.privacy.mechanism import Encoded, Outcome, Release, RoundSpec, Setting, Trust
from fedpriv.privacy.mechanisms.gaussian import accounted, check_clip, check_noise
from fedpriv.privacy.mechanisms.grid import reduced
from fedpriv.privacy.sampling import SamplingRecord
from fedpriv.randomness import Noise

WRAP = 2.0**-40
"""A coordinate of a round's sum wraps with at most this probability."""


@dataclass(frozen=True, kw_only=True)
class LocalGaussian:
    """Each client clips its update and adds N(0, σ²), σ = noise_multiplier · clip_norm, before anything leaves it.

    The noised update is rounded to the grid and reduced mod 2^m. The sum, mod 2^m too, is divided by a public constant,
    the expected cohort size: the noise of the mean has standard deviation σ √contributors / expected cohort, against
    σ / expected cohort of the same ε with central noise. Exactly one of ``noise_multiplier`` and ``target`` is given.

    Args:
        clip_norm: L2 bound of a client's whole payload, all entries together.
        noise_multiplier: σ / clip_norm of the noise on each update, > 0.
        target: the budget for which the smallest sufficient noise multiplier is solved before the first round.
        bits: of an encoded coordinate before the noise, sign included; the grid's step is clip_norm / (2^(bits-1) - 1).

    Raises:
        ConfigurationError: both or none of noise_multiplier and target; a number out of range; an adaptive clip.

    Guarantees: client-level differential privacy of each update against everybody but the client itself, whatever they
        see and whoever colludes: no sum, no server and no other client's noise is relied on. What leaves is a function
        of k + N(0, σ²) alone, where k is the encoded update, whose integers have norm at most clip_norm, exactly:
        rounding and reduction are post-processing.
        m is such that no coordinate of a round's sum wraps but with probability 2^-40: a coordinate of n clients'
        integers is at most n · bound, the sum of n draws of variance s² (on the grid) exceeds t s √n with probability
        erfc(t / √2), rounding adds n / 2, and all coordinates are counted. A wrap costs accuracy, never ε.
    Assumes: each client's standard normal draws are Gaussian. Draws from 53-bit uniforms are not exactly so (their
        tails end near 8.6 σ), and no claim is made about that gap.
    Does not hide: who takes part. That an update is not finite, which ends the run with an error.
    Reference: Dwork and Roth 2014, section A; Duchi, Jordan and Wainwright 2013 (the local model).
    """

    clip_norm: float
    noise_multiplier: float | None = None
    target: Budget | None = None
    bits: int = 20

    def __post_init__(self) -> None:
        if isinstance(self.clip_norm, AdaptiveClip):
            raise ConfigurationError(
                "Local noise has a fixed clip norm: in an adaptive one each client's bit would be noised for itself, "
                "and its mean say little.",
                value=type(self.clip_norm).__name__,
                remedy="Give clip_norm=1.0, or so; or use CentralGaussian or a distributed mechanism.",
            )
        check_clip(self.clip_norm)
        FixedPoint.for_limit(self.clip_norm, self.bits)
        check_noise(self.noise_multiplier, self.target)

    @property
    def trust(self) -> Trust:
        return "local"

    @property
    def weighting(self) -> Literal["equal"]:
        return "equal"

    def init(self, setting: Setting) -> RoundSpec:
        """The terms of round 0, noise solved; they change in their number only.

        Raises:
            PlanError: a sampling that no accountant models; add/remove adjacency; sums beyond 62 bits.
            BudgetUnreachable: no noise meets the target.
        """
        sampling = accounted(setting)
        if setting.adjacency == "add-remove":
            raise PlanError(
                "A client that leaves takes its own noise with it, which add/remove adjacency does not cover.",
                value=setting.adjacency,
                remedy='Use adjacency="zero-out": the client is there, and its update zero; or "replace-one".',
            )
        noise_multiplier = self.noise_multiplier
        if noise_multiplier is None:
            assert self.target is not None  # __post_init__
            noise_multiplier = solve_noise_multiplier(self.target, setting, partial(_planned, setting))
        codec = FixedPoint.for_limit(self.clip_norm, self.bits)
        cohort = setting.sampling.largest(setting.population)
        modulus_bits = _modulus_bits(codec.bound, noise_multiplier, cohort, setting.length)
        if cohort << (modulus_bits - 1) >= MAX_SUM:
            raise PlanError(
                "Sums of noised updates are held in 62 bits.",
                value=f"noise multiplier {noise_multiplier:g} at {self.bits} bits, {cohort} clients",
                remedy="Use fewer bits, less noise or a smaller cohort.",
            )
        return RoundSpec(
            round=0,
            length=setting.length,
            codec=codec,
            max_weight=1,
            clip_norm=self.clip_norm,
            noise_multiplier=noise_multiplier,
            divisor=setting.sampling.expected(setting.population),
            sampling=sampling,
            adjacency=setting.adjacency,
            planned_contributors=setting.least_honest,
            modulus_bits=modulus_bits,
        )

    def begin(self, state: RoundSpec, round: int, public: int = 0) -> RoundSpec:
        return replace(state, round=round)

    def protect(self, updates: Reals, examples: Sequence[int], spec: RoundSpec, noises: Sequence[Noise]) -> Encoded:
        """Clip each row jointly, encode it, add the client's own noise, reduce: ``[n, d]`` → ``[n, d]``.

        Raises:
            NonFiniteInput: NaN or infinity in an update.
        """
        rows, clipped = clip_rows(updates, self.clip_norm)
        values = round_within(rows, spec.codec)
        residual = spec.codec.decode(values) - rows
        for own, value, error in zip(noises, values, residual, strict=True):
            drawn = own.normal(spec.length) * (spec.noise_multiplier * spec.codec.bound)
            rounded = np.rint(drawn)
            value += rounded.astype(np.int64)
            error += (rounded - drawn) * spec.codec.step
        assert spec.modulus_bits is not None  # init
        return Encoded(
            values=reduced(values, spec.modulus_bits),
            residual=residual.sum(axis=0),
            clipped_norms=int(clipped.sum()),
            clipped_coordinates=0,
        )

    def release(self, total: Integers, spec: RoundSpec, outcome: Outcome, noise: Noise, state: RoundSpec) -> Release:
        """The total mod 2^m, as reals, over the public constant; nothing is added."""
        assert spec.divisor is not None  # init
        assert spec.modulus_bits is not None  # init
        return Release(mean=spec.codec.decode(reduced(total, spec.modulus_bits)) / spec.divisor)

    def advance(self, state: RoundSpec, spec: RoundSpec, release: Release | None, noise: Noise) -> RoundSpec:
        return state

    def noise_contributors(self, setting: Setting) -> None:
        return None

    def events(self, spec: RoundSpec, outcome: Outcome) -> tuple[LedgerEvent, ...]:
        return (event_of(spec, outcome, mechanism=GAUSSIAN, trust=self.trust),)


def _planned(setting: Setting, noise_multiplier: float, record: SamplingRecord | None) -> tuple[LedgerEvent, ...]:
    return (planned_event(setting, noise_multiplier, record, mechanism=GAUSSIAN, trust="local", clip_norm=1.0),)


def _modulus_bits(bound: int, noise_multiplier: float, cohort: int, length: int) -> int:
    """The least m ≥ 2 with P[some coordinate of the largest cohort's sum is outside [-2^(m-1), 2^(m-1))] ≤ WRAP.

    erfc(t / √2) ≤ exp(-t² / 2), so t = √(2 log(length / WRAP)) will do.
    """
    tail = math.sqrt(2.0 * math.log(length / WRAP))
    largest = cohort * bound + math.ceil(tail * noise_multiplier * bound * math.sqrt(cohort) + 0.5 * cohort)
    return (2 * largest + 1).bit_length()
