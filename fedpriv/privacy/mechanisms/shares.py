"""What distributed noise of any law has in common: terms of a round, shares, the sum, and solving for a budget."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Literal

import numpy as np

from fedpriv.encoding import Integers, Reals
from fedpriv.errors import BudgetUnreachable, ConfigurationError, PlanError
from fedpriv.privacy.adaptive import AdaptiveClip, augment, joint_norm, share_within
from fedpriv.privacy.budget import Budget
from fedpriv.privacy.calibration import planned_event, solve_noise_multiplier
from fedpriv.privacy.clipping import clip_rows, round_conditionally
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.ledger.event import LedgerEvent, event_of
from fedpriv.privacy.ledger.exposure import known_shares
from fedpriv.privacy.mechanism import Adapted, Encoded, Outcome, Release, RoundSpec, Setting, ShareKind, Trust
from fedpriv.privacy.mechanisms.gaussian import accounted, check_clip, check_noise, check_weighting
from fedpriv.privacy.mechanisms.grid import MOST_BITS, Ring, attempts, reduced
from fedpriv.privacy.numbers import is_real
from fedpriv.privacy.rotation import padded, rotate, unrotate
from fedpriv.privacy.samplers import Sampler
from fedpriv.privacy.sampling import SamplingRecord
from fedpriv.privacy.weights import Capped
from fedpriv.randomness import Noise
from fedpriv.threat import Coalition


@dataclass(frozen=True, kw_only=True)
class State:
    """What is kept between rounds; public."""

    spec: RoundSpec
    """The terms of the round that comes next, but for its number and public randomness."""
    length: int
    """Coordinates of the payload, without an adaptive clip's bit and padding."""


@dataclass(frozen=True, kw_only=True)
class Distributed(ABC):
    """What the mechanisms with distributed noise have in common."""

    clip_norm: float | AdaptiveClip
    noise_multiplier: float | None = None
    target: Budget | None = None
    bits: int = 18
    beta: float = math.exp(-0.5)
    tails: float = 6.0
    corrupt: float | None = None
    weighting: Literal["equal"] | Capped = "equal"

    def __post_init__(self) -> None:
        check_clip(self._first_clip)
        check_noise(self.noise_multiplier, self.target)
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 8 <= self.bits <= MOST_BITS:
            raise ConfigurationError(
                f"Sums count modulo 2^8 … 2^{MOST_BITS}.", value=self.bits, remedy="16 to 20 bits serve most models."
            )
        if not (is_real(self.beta) and 0.0 <= self.beta < 1.0):
            raise ConfigurationError(
                "beta, the probability of redrawing a rounding, is in [0, 1).",
                value=self.beta,
                remedy="Leave it at e^-0.5.",
            )
        if not (is_real(self.tails) and 1.0 <= self.tails <= 20.0):
            raise ConfigurationError(
                "tails, the standard deviations of a sum that fit into the ring, is in [1, 20].",
                value=self.tails,
                remedy="Leave it at 6: less wraps often, more wastes bits.",
            )
        if self.corrupt is not None and not (is_real(self.corrupt) and 0.0 <= self.corrupt < 1.0):
            raise ConfigurationError(
                "corrupt is a share of the clients, in [0, 1).",
                value=self.corrupt,
                remedy="Leave it out: the protocol's bound holds.",
            )
        check_weighting(self.weighting)

    @property
    @abstractmethod
    def kind(self) -> ShareKind: ...

    @property
    @abstractmethod
    def sampler(self) -> Sampler: ...

    @property
    def trust(self) -> Trust:
        return "distributed"

    def init(self, setting: Setting) -> State:
        """The terms of round 0, noise solved; they change in their number and public randomness, and an adaptive clip.

        Raises:
            PlanError: add-remove adjacency; a round that can end without an honest contributor; a ring too small, or
                a grid too coarse for the noise; a sampling that no accountant models; an adaptive clip whose count
                gets too little noise.
            BudgetUnreachable: the ring is too small for the target, or its observer sees more than noisy sums.
        """
        if setting.adjacency == "add-remove":
            raise PlanError(
                "A client that leaves takes its share of the noise with it.",
                value=setting.adjacency,
                remedy='Use adjacency="zero-out" or "replace-one".',
            )
        sampling = accounted(setting)
        ring = self._ring(setting)
        noise_multiplier = self._solved(setting, ring)
        share = ring.share(self.kind, noise_multiplier)
        self._check_width(math.sqrt(share.variance), setting, ring)
        cohort = setting.sampling.expected(setting.population)
        clip_norm, adapted = self._first_clip, None
        if isinstance(self.clip_norm, AdaptiveClip):
            adapted = Adapted(
                norm=clip_norm, bit=clip_norm * self.clip_norm.ratio(noise_multiplier, cohort), cohort=cohort
            )
            clip_norm = joint_norm(adapted.norm, adapted.bit)
        spec = RoundSpec(
            round=0,
            length=ring.dimension,
            codec=ring.codec(noise_multiplier, clip_norm),
            max_weight=1,
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            divisor=self.weighting.divisor(cohort) if isinstance(self.weighting, Capped) else cohort,
            sampling=sampling,
            adjacency=setting.adjacency,
            planned_contributors=ring.honest,
            corrupt=self._left_out(setting),
            modulus_bits=self.bits,
            limit=ring.limit(self.kind, noise_multiplier),
            share=share,
            adapted=adapted,
        )
        return State(spec=spec, length=setting.length)

    def begin(self, state: State, round: int, public: int = 0) -> RoundSpec:
        return replace(state.spec, round=round, public=public)

    def protect(self, updates: Reals, examples: Sequence[int], spec: RoundSpec, noises: Sequence[Noise]) -> Encoded:
        """Clip, weight, append the bit, rotate, round, noise, reduce: ``[n, length]`` → ``[n, d]``, d padded.

        Raises:
            NonFiniteInput: NaN or infinity in an update.
        """
        assert spec.share is not None  # set in init
        assert spec.update_norm is not None  # likewise
        rows, clipped = clip_rows(updates, spec.update_norm)
        if isinstance(self.weighting, Capped):
            rows *= self.weighting.scales(examples)[:, None]
        if spec.adapted is not None:
            rows = augment(rows, clipped, spec.adapted.bit)
        scaled = rotate(rows, spec.public, spec.round) / spec.codec.step
        words = [noise.words for noise in noises]
        square = math.floor(Fraction(spec.share.l2) ** 2)
        values = round_conditionally(scaled, square, words, attempts(self.beta))
        cut = 0
        if spec.limit is not None:
            cut = int(np.count_nonzero(np.abs(values) > spec.limit))
            np.clip(values, -spec.limit, spec.limit, out=values)  # shorter, if anything
        rounding = (values - scaled).sum(axis=0, keepdims=True) * spec.codec.step
        residual = unrotate(rounding, spec.public, spec.round)[0]
        residual[updates.shape[1] :] = 0.0  # of bit and padding
        for row, drawn in zip(values, words, strict=True):
            row += self.sampler(spec.share.variance, spec.length, drawn)
        return Encoded(
            values=reduced(values, self.bits),
            residual=residual,
            clipped_norms=int(clipped.sum()),
            clipped_coordinates=cut,
        )

    def release(self, total: Integers, spec: RoundSpec, outcome: Outcome, noise: Noise, state: State) -> Release:
        """The reduced total, rotated back, over the divisor, and the share within the clip; the noise is in it already.

        What rotating back gives is the payload, an adaptive clip's coordinate, and padding, which is dropped.
        """
        assert spec.divisor is not None  # set in init
        decoded = spec.codec.decode(reduced(total, self.bits))
        turned = unrotate(decoded[None], spec.public, spec.round)[0]
        mean = turned[: state.length] / spec.divisor
        if spec.adapted is None:
            return Release(mean=mean)
        return Release(mean=mean, within_clip=share_within(float(turned[state.length]), spec.adapted))

    def advance(self, state: State, spec: RoundSpec, release: Release | None, noise: Noise) -> State:
        """The clip moved towards its quantile, and with it the step: on the grid no number changes.

        An aborted round moves nothing.
        """
        if not isinstance(self.clip_norm, AdaptiveClip) or release is None:
            return state
        now = state.spec
        assert now.clip_norm is not None  # init
        assert now.adapted is not None  # init
        assert release.within_clip is not None  # release
        clip = self.clip_norm.next_clip(now.adapted.norm, release.within_clip)
        moved = clip / now.adapted.norm
        after = replace(
            now,
            codec=replace(now.codec, step=now.codec.step * moved),
            clip_norm=now.clip_norm * moved,
            adapted=replace(now.adapted, norm=clip, bit=now.adapted.bit * moved),
        )
        return replace(state, spec=after)

    def noise_contributors(self, setting: Setting) -> int:
        return self._honest(setting)

    def events(self, spec: RoundSpec, outcome: Outcome) -> tuple[LedgerEvent, ...]:
        return (event_of(spec, outcome, mechanism=self.kind, trust=self.trust),)

    @property
    def _first_clip(self) -> float:
        return self.clip_norm.initial if isinstance(self.clip_norm, AdaptiveClip) else self.clip_norm

    def _honest(self, setting: Setting) -> int:
        """Whose shares the plan relies on: of the honest ones, those that the budget's observer does not know."""
        if self.target is None:
            return setting.least_honest
        largest = setting.sampling.largest(setting.population)
        return min(setting.least_honest, setting.least_contributors - known_shares(self.target.observer, largest))

    def _left_out(self, setting: Setting) -> float:
        """The share of a cohort whose noise is not counted on: corrupt, or known to the budget's observer."""
        corrupt = setting.threat.corrupt if self.corrupt is None else self.corrupt
        if self.target is None:
            return corrupt
        observer = self.target.observer
        if isinstance(observer, Coalition):
            return max(corrupt, observer.clients)
        return max(corrupt, known_shares(observer, 1) / setting.sampling.largest(setting.population))

    def _ring(self, setting: Setting) -> Ring:
        honest = self._honest(setting)
        if honest < 1:
            raise PlanError(
                "Distributed noise needs an honest contributor in every sum.",
                value=f"{setting.least_contributors} contributors, {max(0, honest)} of them counted on",
                remedy=self._more_honest(setting),
            )
        return Ring(
            bits=self.bits,
            tails=self.tails,
            beta=self.beta,
            dimension=padded(setting.length + isinstance(self.clip_norm, AdaptiveClip)),
            clients=setting.sampling.largest(setting.population),
            honest=honest,
        )

    def _more_honest(self, setting: Setting) -> str:
        """What to change where nobody's noise counts: the smallest sum must outnumber those who are left out."""
        largest = setting.sampling.largest(setting.population)
        needed = math.ceil(self._left_out(setting) * largest - 1e-9) + 1
        if needed > largest:
            return "Give corrupt=..., the share whose noise does not count: less than all of the clients."
        return (
            f"Let every sum have at least {needed} contributors, by KeyAuthority(min_contributors={needed}) or "
            f"SecureAggregation(min_cohort={needed}); or permit less collusion, or give a smaller corrupt=..., the "
            "share whose noise does not count."
        )

    def _solved(self, setting: Setting, ring: Ring) -> float:
        """The noise multiplier, its grid made anew for each that is tried: a finer grid inflates norms less.

        More noise makes the grid coarser, and rounding inflates norms more: ε falls with the noise, but not to 0.
        """
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        assert self.target is not None  # __post_init__
        if not self._reaches(setting, ring):
            more = (b for b in range(self.bits + 1, MOST_BITS + 1) if self._reaches(setting, replace(ring, bits=b)))
            bits = next(more, None)
            raise BudgetUnreachable(
                f"In {self.bits} bits no noise meets ε = {self.target.epsilon:g}: a grid coarse enough for it inflates "
                "norms by more than the noise grows.",
                value=f"bits={self.bits}",
                remedy=f"Use {bits} bits or more." if bits else "Give a larger ε, or clip to fewer coordinates.",
            )
        return solve_noise_multiplier(self.target, setting, partial(self._planned, setting, ring))

    def _reaches(self, setting: Setting, ring: Ring) -> bool:
        assert self.target is not None
        ledger = Ledger(
            threat=setting.threat,
            population=setting.population,
            adjacency=setting.adjacency,
            events=self._planned(setting, ring, ring.coarsest(), setting.sampling_record()),
        )
        spent = ledger.statement(self.target.delta, observer=self.target.observer, beside=False).epsilon
        return spent <= self.target.epsilon or math.isinf(spent)  # ∞ has another reason, which the solver says

    def _planned(
        self, setting: Setting, ring: Ring, noise_multiplier: float, record: SamplingRecord | None
    ) -> tuple[LedgerEvent, ...]:
        """Every round with the fewest contributors that the plan relies on, and those whose shares are known."""
        assert self.target is not None
        share = ring.share(self.kind, noise_multiplier)
        contributors = ring.honest + known_shares(self.target.observer, 1)
        event = planned_event(
            setting,
            noise_multiplier,
            record,
            mechanism=self.kind,
            trust=self.trust,
            clip_norm=1.0,
            contributors=contributors,
            planned_contributors=ring.honest,
            detail=share,
        )
        return (replace(event, noise_multiplier=noise_multiplier * math.sqrt(contributors / ring.honest)),)

    @abstractmethod
    def _check_width(self, sigma: float, setting: Setting, ring: Ring) -> None:
        """Refuse noise that is too narrow to add up."""
