"""Distributed noise: each client adds a share of it before the sum, so that nobody ever holds the sum without it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Literal

from fedpriv.encoding import Integers, Reals
from fedpriv.errors import BudgetUnreachable, ConfigurationError, PlanError
from fedpriv.privacy.budget import Budget, planned_event, solve_noise_multiplier
from fedpriv.privacy.clipping import clip_rows, round_conditionally
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.ledger.event import LedgerEvent, event_of
from fedpriv.privacy.ledger.exposure import known_shares
from fedpriv.privacy.mechanism import Encoded, Outcome, Release, RoundSpec, Setting, ShareKind, Trust
from fedpriv.privacy.mechanisms.grid import MOST_BITS, Ring, reduced
from fedpriv.privacy.rotation import padded, rotate, unrotate
from fedpriv.privacy.samplers import Sampler, discrete_gaussian, skellam
from fedpriv.privacy.sampling import SamplingRecord
from fedpriv.randomness import Noise

_LEAST_SIGMA = 1.0
"""In steps of the grid. Sums of narrower discrete Gaussians are too far from one: their gap grows like e^(-π² σ²)."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What holds in every round."""

    spec: RoundSpec
    length: int
    """Coordinates of the payload, without padding."""


@dataclass(frozen=True, kw_only=True)
class Distributed(ABC):
    """What the mechanisms with distributed noise have in common."""

    clip_norm: float
    noise_multiplier: float | None = None
    target: Budget | None = None
    bits: int = 18
    beta: float = math.exp(-0.5)
    tails: float = 6.0
    corrupt: float | None = None
    weighting: Literal["equal"] = "equal"

    def __post_init__(self) -> None:
        if not (isinstance(self.clip_norm, int | float) and math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise ConfigurationError(
                "A clip norm is finite and > 0.", value=self.clip_norm, remedy="Give clip_norm=1.0, or so."
            )
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
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 8 <= self.bits <= MOST_BITS:
            raise ConfigurationError(
                f"Sums count modulo 2^8 … 2^{MOST_BITS}.", value=self.bits, remedy="16 to 20 bits serve most models."
            )
        if not 0.0 <= self.beta < 1.0:
            raise ConfigurationError(
                "beta, the probability of redrawing a rounding, is in [0, 1).",
                value=self.beta,
                remedy="Leave it at e^-0.5.",
            )
        if not 1.0 <= self.tails <= 20.0:
            raise ConfigurationError(
                "tails, the standard deviations of a sum that fit into the ring, is in [1, 20].",
                value=self.tails,
                remedy="Leave it at 6: less wraps often, more wastes bits.",
            )
        if self.corrupt is not None and not 0.0 <= self.corrupt < 1.0:
            raise ConfigurationError(
                "corrupt is a share of the clients, in [0, 1).",
                value=self.corrupt,
                remedy="Leave it out: the protocol's bound holds.",
            )
        if self.weighting != "equal":
            raise PlanError(
                "Under differential privacy every client has the same public weight.",
                value=self.weighting,
                remedy='Use weighting="equal": weights that depend on data are themselves a release.',
            )

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
        """The terms of round 0, noise solved; they change in their number and public randomness only.

        Raises:
            PlanError: add-remove adjacency; a round that can end without an honest contributor; a ring too small, or
                a grid too coarse for the noise; a sampling that no accountant models.
            BudgetUnreachable: the ring is too small for the target, or its observer sees more than noisy sums.
        """
        if setting.adjacency == "add-remove":
            raise PlanError(
                "A client that leaves takes its share of the noise with it.",
                value=setting.adjacency,
                remedy='Use adjacency="zero-out" or "replace-one".',
            )
        sampling = setting.sampling_record()
        if sampling is None:
            raise PlanError(
                "Under differential privacy a sampling says how it is accounted.",
                value=type(setting.sampling).__name__,
                remedy="Give it an accounting() record, or use one of fedpriv's samplings.",
            )
        ring = self._ring(setting)
        noise_multiplier = self._solved(setting, ring)
        share = ring.share(self.kind, noise_multiplier)
        self._check_width(math.sqrt(share.variance), ring, noise_multiplier)
        spec = RoundSpec(
            round=0,
            length=ring.dimension,
            codec=ring.codec(noise_multiplier),
            max_weight=1,
            clip_norm=self.clip_norm,
            noise_multiplier=noise_multiplier,
            divisor=setting.sampling.expected(setting.population),
            sampling=sampling,
            adjacency=setting.adjacency,
            planned_contributors=ring.honest,
            modulus_bits=self.bits,
            share=share,
        )
        return State(spec=spec, length=setting.length)

    def begin(self, state: State, round: int, public: int = 0) -> RoundSpec:
        return replace(state.spec, round=round, public=public)

    def protect(self, updates: Reals, examples: Sequence[int], spec: RoundSpec, noises: Sequence[Noise]) -> Encoded:
        """Clip, rotate, round, add each client's share of the noise, reduce: ``[n, length]`` → ``[n, d]``, d padded.

        Raises:
            NonFiniteInput: NaN or infinity in an update.
        """
        assert spec.share is not None  # set in init
        rows, clipped = clip_rows(updates, self.clip_norm)
        scaled = rotate(rows, spec.public, spec.round) / spec.codec.step
        words = [noise.words for noise in noises]
        square = math.floor(Fraction(spec.share.l2) ** 2)
        values = round_conditionally(scaled, square, words, self._attempts())
        rounding = (values - scaled).sum(axis=0, keepdims=True) * spec.codec.step
        for row, drawn in zip(values, words, strict=True):
            row += self.sampler(spec.share.variance, spec.length, drawn)
        return Encoded(
            values=reduced(values, self.bits),
            residual=unrotate(rounding, spec.public, spec.round)[0],
            clipped_norms=int(clipped.sum()),
            clipped_coordinates=0,
        )

    def release(self, total: Integers, spec: RoundSpec, outcome: Outcome, noise: Noise, state: State) -> Release:
        """The reduced total, rotated back, without its padding, over the divisor; the noise is in it already."""
        assert spec.divisor is not None  # set in init
        decoded = spec.codec.decode(reduced(total, self.bits))
        mean = unrotate(decoded[None], spec.public, spec.round)[0, : state.length]
        return Release(mean=mean / spec.divisor)

    def advance(self, state: State, spec: RoundSpec, release: Release | None, noise: Noise) -> State:
        return state

    def noise_contributors(self, setting: Setting) -> int:
        return self._honest(setting)

    def events(self, spec: RoundSpec, outcome: Outcome) -> tuple[LedgerEvent, ...]:
        return (event_of(spec, outcome, mechanism=self.kind, trust=self.trust),)

    def _honest(self, setting: Setting) -> int:
        """Whose shares the plan relies on: of the honest ones, those that the budget's observer does not know."""
        if self.target is None:
            return setting.least_honest
        largest = setting.sampling.largest(setting.population)
        return min(setting.least_honest, setting.least_contributors - known_shares(self.target.observer, largest))

    def _ring(self, setting: Setting) -> Ring:
        honest = self._honest(setting)
        if honest < 1:
            raise PlanError(
                "Distributed noise needs an honest contributor in every sum.",
                value=f"{setting.least_contributors} contributors, {max(0, honest)} of them counted on",
                remedy="Permit less dropout or collusion, or give corrupt=..., the share whose noise does not count.",
            )
        return Ring(
            bits=self.bits,
            tails=self.tails,
            beta=self.beta,
            clip_norm=self.clip_norm,
            dimension=padded(setting.length),
            clients=setting.sampling.largest(setting.population),
            honest=honest,
        )

    def _attempts(self) -> int:
        return Ring(
            bits=self.bits, tails=self.tails, beta=self.beta, clip_norm=1.0, dimension=1, clients=1, honest=1
        ).attempts

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
            clip_norm=self.clip_norm,
            contributors=contributors,
            planned_contributors=ring.honest,
            detail=share,
        )
        return (replace(event, noise_multiplier=noise_multiplier * math.sqrt(contributors / ring.honest)),)

    @abstractmethod
    def _check_width(self, sigma: float, ring: Ring, noise_multiplier: float) -> None:
        """Refuse noise that is too narrow to add up."""


@dataclass(frozen=True, kw_only=True)
class DistributedDiscreteGaussian(Distributed):
    """Each client clips, rotates, rounds, adds discrete Gaussian noise; sums count mod 2^bits.

    The step of the grid follows from the bits, the largest cohort, the noise and the dimension, so that ``tails``
    standard deviations of the largest sum fit. What each client adds is set so that the fewest honest contributors
    that the plan permits achieve the noise multiplier; more of them achieve more. The sum is divided by a public
    constant, the expected cohort size. Exactly one of ``noise_multiplier`` and ``target`` is given.

    Args:
        clip_norm: L2 bound of a client's whole payload, all entries together.
        noise_multiplier: σ / clip_norm of the noise on the sum, > 0, that the fewest honest contributors achieve.
        target: the budget for which the smallest sufficient noise multiplier is solved before the first round.
        bits: of the ring in which sums count, sign included, 8 … 30: what each coordinate costs to send.
        beta: a rounding is redrawn with at most this probability, for a tighter bound of rounded norms; [0, 1).
        tails: standard deviations of the largest sum that fit before it wraps; ``Share.wrap`` bounds how often it does.
        corrupt: the share of contributors whose noise is not counted on; None: the protocol's bound.
        weighting: ``"equal"``, and nothing else: weights that depend on data are refused.

    Raises:
        ConfigurationError: both or none of noise_multiplier and target; a number out of range.
        PlanError: weights by examples.

    Guarantees: client-level differential privacy of the sum itself, against everybody who sees no more than sums. The
        L2 norm of each client's integers before the noise is at most ``Share.l2``, exactly; the noise is drawn exactly
        from the discrete Gaussian, and all arithmetic from there on is of integers, so nothing leaks through floating
        point. A sum that wraps costs accuracy, and never privacy. A dropout takes its share of the noise along: the
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

    def _check_width(self, sigma: float, ring: Ring, noise_multiplier: float) -> None:
        if sigma >= _LEAST_SIGMA:
            return
        enough = (
            bits
            for bits in range(self.bits + 1, MOST_BITS + 1)
            if replace(ring, bits=bits).share(self.kind, noise_multiplier).variance >= _LEAST_SIGMA**2
        )
        bits = next(enough, None)
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

    def _check_width(self, sigma: float, ring: Ring, noise_multiplier: float) -> None:
        """Narrow Skellam noise adds up like any other."""
