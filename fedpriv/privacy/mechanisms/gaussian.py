"""Central Gaussian noise: added by the releaser to the exact integer sum of clipped updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fedpriv.encoding import MAX_SUM, FixedPoint, Integers, Reals
from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.privacy.budget import Budget, solve_noise_multiplier
from fedpriv.privacy.clipping import clip_rows, round_within
from fedpriv.privacy.ledger.event import GAUSSIAN, LedgerEvent, event_of
from fedpriv.privacy.mechanism import Encoded, Outcome, Release, RoundSpec, Setting, Trust
from fedpriv.randomness import Noise


@dataclass(frozen=True, kw_only=True)
class CentralGaussian:
    """Clip each client's whole update to an L2 norm; add N(0, σ²), σ = noise_multiplier · clip_norm, to the sum.

    The sum is divided by a public constant, the expected cohort size, so that neither weights nor the number of
    contributors leak; a client that drops out counts as zero, which draws the mean towards zero. Exactly one
    of ``noise_multiplier`` and ``target`` is given.

    Args:
        clip_norm: L2 bound of a client's whole payload, all entries together.
        noise_multiplier: σ / clip_norm of the noise on the sum, > 0.
        target: the budget for which the smallest sufficient noise multiplier is solved before the first round.
        bits: of an encoded coordinate, sign included; the grid's step is clip_norm / (2^(bits-1) - 1).
        weighting: ``"equal"``, and nothing else: weights that depend on data are refused.

    Raises:
        ConfigurationError: both or none of noise_multiplier and target; a number out of range.
        PlanError: weights by examples.

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

    clip_norm: float
    noise_multiplier: float | None = None
    target: Budget | None = None
    bits: int = 20
    weighting: Literal["equal"] = "equal"

    def __post_init__(self) -> None:
        if not (isinstance(self.clip_norm, int | float) and math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise ConfigurationError(
                "A clip norm is finite and > 0.", value=self.clip_norm, remedy="Give clip_norm=1.0, or so."
            )
        FixedPoint.for_limit(self.clip_norm, self.bits)
        if (self.noise_multiplier is None) == (self.target is None):
            raise ConfigurationError(
                "Exactly one of noise_multiplier and target fixes the noise.",
                value=f"noise_multiplier={self.noise_multiplier!r}, target={self.target!r}",
                remedy="Give noise_multiplier=1.0, or target=Budget(...).",
            )
        if self.noise_multiplier is not None and not (
            math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0
        ):
            raise ConfigurationError(
                "A noise multiplier is finite and > 0.",
                value=self.noise_multiplier,
                remedy="Use NoDP() for a run without noise.",
            )
        if self.weighting != "equal":
            raise PlanError(
                "Under differential privacy every client has the same public weight.",
                value=self.weighting,
                remedy='Use weighting="equal": weights that depend on data are themselves a release.',
            )

    @property
    def trust(self) -> Trust:
        return "central"

    def init(self, setting: Setting) -> RoundSpec:
        """The terms of round 0, noise solved; they change in their number only.

        Raises:
            PlanError: a sampling that no accountant models; noise too large for 62 bits.
            BudgetUnreachable: the target's observer sees more than noisy releases.
        """
        sampling = setting.sampling_record()
        if sampling is None:
            raise PlanError(
                "Under differential privacy a sampling says how it is accounted.",
                value=type(setting.sampling).__name__,
                remedy="Give it an accounting() record, or use one of fedpriv's samplings.",
            )
        noise_multiplier = self.noise_multiplier
        if noise_multiplier is None:
            assert self.target is not None  # __post_init__
            noise_multiplier = solve_noise_multiplier(self.target, setting)
        codec = FixedPoint.for_limit(self.clip_norm, self.bits)
        if 16 * noise_multiplier * codec.bound >= MAX_SUM:
            raise PlanError(
                "Noise on the grid stays within 62 bits.",
                value=f"noise multiplier {noise_multiplier:g} at {self.bits} bits",
                remedy="Use fewer bits or less noise.",
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
        )

    def begin(self, state: RoundSpec, round: int, public: int = 0) -> RoundSpec:
        return replace(state, round=round)

    def protect(self, updates: Reals, examples: Sequence[int], spec: RoundSpec, noises: Sequence[Noise]) -> Encoded:
        """Clip each row jointly and encode it: ``[n, d]`` → ``[n, d]``; ``examples`` are not looked at.

        Raises:
            NonFiniteInput: NaN or infinity in an update.
        """
        rows, clipped = clip_rows(updates, self.clip_norm)
        values = round_within(rows, spec.codec)
        return Encoded(
            values=values,
            residual=(spec.codec.decode(values) - rows).sum(axis=0),
            clipped_norms=int(clipped.sum()),
            clipped_coordinates=0,
        )

    def release(self, total: Integers, spec: RoundSpec, outcome: Outcome, noise: Noise, state: RoundSpec) -> Release:
        """(total + round(N(0, (σ / step)²))) · step / divisor."""
        assert spec.divisor is not None  # set in init
        added = np.rint(noise.normal(spec.length) * (spec.noise_multiplier * spec.codec.bound)).astype(np.int64)
        return Release(mean=spec.codec.decode(total + added) / spec.divisor)

    def advance(self, state: RoundSpec, spec: RoundSpec, release: Release | None, noise: Noise) -> RoundSpec:
        return state

    def noise_contributors(self, setting: Setting) -> None:
        return None

    def events(self, spec: RoundSpec, outcome: Outcome) -> tuple[LedgerEvent, ...]:
        return (event_of(spec, outcome, mechanism=GAUSSIAN, trust=self.trust),)
