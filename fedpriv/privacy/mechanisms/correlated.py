"""Central Gaussian noise that later rounds take back in part, so that sums over rounds keep little of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.encoding import MAX_SUM, Integers, Reals
from fedpriv.errors import ConfigurationError, PlanError, PrivacyError
from fedpriv.privacy.adaptive import AdaptiveClip
from fedpriv.privacy.budget import Budget
from fedpriv.privacy.calibration import planned_event, solve_noise_multiplier
from fedpriv.privacy.correlation import Correlation
from fedpriv.privacy.ledger.event import GAUSSIAN, LedgerEvent, event_of
from fedpriv.privacy.mechanism import Encoded, Outcome, Release, RoundSpec, Setting, Trust
from fedpriv.privacy.mechanisms.gaussian import CentralGaussian
from fedpriv.privacy.sampling import FullParticipation, MinSeparation, SamplingRecord
from fedpriv.privacy.weights import Capped
from fedpriv.randomness import Noise
from fedpriv.threat import CLIENT

_Held: TypeAlias = tuple[npt.NDArray[Any], ...]


@dataclass(frozen=True, kw_only=True)
class NoiseState:
    """What the releaser keeps between rounds."""

    spec: RoundSpec
    """The terms of round 0; they change in their number only."""
    round: int = 0
    """The round that comes next."""
    held: _Held = field(default=(), repr=False)
    """Noise that later rounds take back, each ``[length]``, the latest first. It is as secret as the sums."""


@dataclass(frozen=True, kw_only=True)
class _Correlated(ABC):
    """Clips and encodes as :class:`CentralGaussian` does; the noise of the rounds is C⁻¹ Z."""

    clip_norm: float
    noise_multiplier: float | None = None
    target: Budget | None = None
    bits: int = 20
    weighting: Literal["equal"] | Capped = "equal"

    def __post_init__(self) -> None:
        if isinstance(self.clip_norm, AdaptiveClip):
            raise ConfigurationError(
                "Noise that is taken back later has a fixed clip norm: with another it would be of another size.",
                value=type(self.clip_norm).__name__,
                remedy="Give clip_norm=1.0, or so; or use CentralGaussian or a distributed mechanism.",
            )
        self._independent(self.noise_multiplier, self.target)

    @property
    def trust(self) -> Trust:
        return "central"

    @abstractmethod
    def correlation(self, rounds: int) -> Correlation:
        """The matrix C for a run of so many rounds."""

    @abstractmethod
    def _next(self, drawn: Reals, state: NoiseState) -> tuple[Integers, _Held]:
        """The row of C⁻¹ Z for a fresh row of Z, on the grid, and what is held from now on."""

    def init(self, setting: Setting) -> NoiseState:
        """The state before round 0, noise solved.

        Raises:
            PlanError: clients are to keep the noise; a sampling that does not fit; noise too large for 62 bits.
            BudgetUnreachable: the target's observer sees more than noisy releases.
        """
        if setting.threat.releaser == CLIENT:
            raise PlanError(
                "Noise that is taken back later is kept by one party from round to round.",
                value="the noise is added by clients, who come and go",
                remedy="Use CentralGaussian, or an aggregator whose sums a server or an authority holds.",
            )
        if isinstance(setting.sampling, MinSeparation):
            setting.sampling.check(setting.rounds)
        correlation = self.correlation(setting.rounds)
        noise_multiplier = self.noise_multiplier
        if noise_multiplier is None:
            assert self.target is not None  # __post_init__
            noise_multiplier = solve_noise_multiplier(self.target, setting, partial(_planned, setting, correlation))
        spec = self._independent(noise_multiplier).init(setting)
        if 16 * noise_multiplier * spec.codec.bound * correlation.amplitude() >= MAX_SUM:
            raise PlanError(
                "Noise on the grid stays within 62 bits.",
                value=f"noise multiplier {noise_multiplier:g} over {setting.rounds} rounds at {self.bits} bits",
                remedy="Use fewer bits or less noise.",
            )
        return NoiseState(spec=replace(spec, correlation=correlation))

    def begin(self, state: NoiseState, round: int, public: int = 0) -> RoundSpec:
        return replace(state.spec, round=round)

    def protect(self, updates: Reals, examples: Sequence[int], spec: RoundSpec, noises: Sequence[Noise]) -> Encoded:
        """Clip each row jointly, weight and encode it: ``[n, d]`` → ``[n, d]``.

        Raises:
            NonFiniteInput: NaN or infinity in an update.
        """
        return self._independent(spec.noise_multiplier).protect(updates, examples, spec, noises)

    def release(self, total: Integers, spec: RoundSpec, outcome: Outcome, noise: Noise, state: NoiseState) -> Release:
        """(total + the round's row of C⁻¹ Z on the grid) · step / divisor.

        Raises:
            PrivacyError: a round that does not follow the state's last one.
        """
        assert spec.divisor is not None  # set in init
        added, held = self._next(_drawn(spec, noise, state), state)
        return Release(mean=spec.codec.decode(total + added) / spec.divisor, carried=held)

    def advance(self, state: NoiseState, spec: RoundSpec, release: Release | None, noise: Noise) -> NoiseState:
        """An aborted round has its row of Z as well: the matrix has one for every round.

        Raises:
            PrivacyError: a round that does not follow the state's last one.
        """
        held = self._next(_drawn(spec, noise, state), state)[1] if release is None else release.carried
        return replace(state, round=state.round + 1, held=held)

    def noise_contributors(self, setting: Setting) -> None:
        return None

    def events(self, spec: RoundSpec, outcome: Outcome) -> tuple[LedgerEvent, ...]:
        return (event_of(spec, outcome, mechanism=GAUSSIAN, trust=self.trust),)

    def _independent(self, noise_multiplier: float | None, target: Budget | None = None) -> CentralGaussian:
        return CentralGaussian(
            clip_norm=self.clip_norm,
            noise_multiplier=noise_multiplier,
            target=target,
            bits=self.bits,
            weighting=self.weighting,
        )


@dataclass(frozen=True, kw_only=True)
class TreeMechanism(_Correlated):
    """DP-FTRL's binary tree: the sum of the first t releases has the noise of at most log2(t) + 1 nodes.

    The rounds are leaves of a binary tree. Round t completes one node and draws its noise, N(0, σ²) with σ =
    noise_multiplier · clip_norm; the noise of a prefix is that of the nodes that it is made of, and a release is its
    round's sum plus the difference of two prefixes' noise. A server that adds up releases (FedAvg, step by step)
    thus has a model whose noise grows with log t instead of t, without sampling.

    That pays where clients take part once or rarely, because two rounds of one client meet in every node above both.
    Over 1024 rounds the variance that the mean prefix keeps at one and the same ε is a ninth of what independent noise
    leaves where a client takes part once, about as much where it does every 16 rounds, and 15 times as much where it
    does in every round. :class:`MatrixFactorization` with 16 bands leaves a tenth for turns 16 rounds apart.

    Exactly one of ``noise_multiplier`` and ``target`` is given.

    Args:
        clip_norm: L2 bound of a client's whole payload, all entries together.
        noise_multiplier: σ / clip_norm of the noise of a node, > 0.
        target: the budget for which the smallest sufficient noise multiplier is solved before the first round.
        bits: of an encoded coordinate, sign included; the grid's step is clip_norm / (2^(bits-1) - 1).
        weighting: ``"equal"``, or :class:`~fedpriv.privacy.weights.Capped`, which scales the clipped update down.

    Raises:
        ConfigurationError: both or none of noise_multiplier and target; a number out of range; an adaptive clip.
        PlanError: weights by examples, uncapped.

    Guarantees: client-level differential privacy over the run as a whole against observers who see released means only,
        however the rounds depend on one another (:class:`~fedpriv.privacy.correlation.Correlation`). A client is
        charged for the nodes above the rounds that it took part in: for a single one at most log2(rounds) + 1 of them.
        A node's noise is rounded to the grid before it is used, and C and C⁻¹ hold integers only. So all releases
        together are C⁻¹ (C x + round(Z)) = C⁻¹ round(C x + Z), in exact integers, for integer sums x: a function of
        C x + Z alone. No low-order bit of the noise says anything about a sum (Mironov 2012).
    Assumes: what :class:`~fedpriv.privacy.CentralGaussian` assumes; the noise of completed nodes stays with the party
        that drew it, up to log2(rounds) vectors, which a checkpoint holds too.
    Does not hide: anything from an observer who sees sums before the noise, or single updates: there ε = ∞.
    Reference: Dwork et al. 2010; Chan, Shi and Song 2011; Kairouz et al. 2021, "Practical and Private (Deep) Learning
        without Sampling or Shuffling", algorithm 1 and appendix D.
    """

    def correlation(self, rounds: int) -> Correlation:
        return Correlation(kind="tree", rounds=rounds)

    def _next(self, drawn: Reals, state: NoiseState) -> tuple[Integers, _Held]:
        """The node that this round completes takes the place of those below it that were there."""
        node = np.rint(drawn).astype(np.int64)
        end = state.round + 1
        below = (end & -end).bit_length() - 1
        return node - sum(state.held[:below], np.zeros_like(node)), (node, *state.held[below:])


@dataclass(frozen=True, kw_only=True)
class MatrixFactorization(_Correlated):
    """A banded factorisation of the prefix sums: each round takes back part of the last ``bands - 1`` rounds' noise.

    The noise of round t is (C⁻¹ Z)_t, Z independent N(0, σ²) with σ = noise_multiplier · clip_norm, C the first
    ``bands`` diagonals of the square root of the prefix-sum matrix with columns of length 1. Clients that take part at
    least ``bands`` rounds apart (:class:`~fedpriv.privacy.MinSeparation`) are charged as for independent noise, and
    sums over rounds keep less of the noise the more bands there are.

    Exactly one of ``noise_multiplier`` and ``target`` is given.

    Args:
        clip_norm: L2 bound of a client's whole payload, all entries together.
        bands: of C, ≥ 1; 1 is independent noise.
        noise_multiplier: σ / clip_norm of every entry of Z, > 0.
        target: the budget for which the smallest sufficient noise multiplier is solved before the first round.
        bits: of an encoded coordinate, sign included; the grid's step is clip_norm / (2^(bits-1) - 1).
        weighting: ``"equal"``, or :class:`~fedpriv.privacy.weights.Capped`, which scales the clipped update down.

    Raises:
        ConfigurationError: both or none of noise_multiplier and target; a number out of range; an adaptive clip.
        PlanError: weights by examples, uncapped; (on resolution) clients that can take part again within ``bands``
            rounds.

    Guarantees: client-level differential privacy over the run as a whole against observers who see released means only,
        however the rounds depend on one another (:class:`~fedpriv.privacy.correlation.Correlation`). A client is
        charged for the rounds that it took part in, whatever they were, through CᵀC. A round's noise is rounded to the
        grid last: for an integer total, total + round((C⁻¹ Z)_t) = round((x + C⁻¹ Z)_t), so that all releases together
        are a function of C x + Z alone, and no low-order bit says anything about a sum (Mironov 2012).
    Assumes: what :class:`~fedpriv.privacy.CentralGaussian` assumes; C⁻¹ Z is computed in double precision, and no claim
        is made about that gap; the last rounds' noise stays with the party that drew it, ``bands - 1`` vectors,
        which a checkpoint holds too.
    Does not hide: anything from an observer who sees sums before the noise, or single updates: there ε = ∞.
    Reference: Denisov et al. 2022; Fichtenberger, Henzinger and Upadhyay 2023; Choquette-Choo et al. 2023, "(Amplified)
        Banded Matrix Factorization"; Kalinin and Lampert 2024.
    """

    bands: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.bands, bool) or not isinstance(self.bands, int) or self.bands < 1:
            raise ConfigurationError(
                "A banded matrix has at least its diagonal.", value=self.bands, remedy="Give bands ≥ 1, e.g. 8."
            )

    def correlation(self, rounds: int) -> Correlation:
        return Correlation.square_root(rounds, self.bands)

    def init(self, setting: Setting) -> NoiseState:
        """The state before round 0, noise solved.

        Raises:
            PlanError: clients that can take part again within ``bands`` rounds; what any correlated noise is refused
                for.
            BudgetUnreachable: the target's observer sees more than noisy releases.
        """
        sampling = setting.sampling
        apart = (
            sampling.separation if isinstance(sampling, MinSeparation) else int(isinstance(sampling, FullParticipation))
        )
        if apart < self.bands:
            fewer = f"bands={apart}, " if apart else ""
            raise PlanError(
                "Noise that is correlated over b rounds needs clients that take part at most once in b rounds.",
                value=f"bands={self.bands} with {sampling}",
                remedy=f"Use MinSeparation({self.bands}), {fewer}or TreeMechanism.",
            )
        return super().init(setting)

    def _next(self, drawn: Reals, state: NoiseState) -> tuple[Integers, _Held]:
        """Row t of C W = Z, solved for W: w_t = (z_t - Σ_k c_k w_{t-k}) / c_0."""
        assert state.spec.correlation is not None  # set in init
        first, *band = state.spec.correlation.coefficients
        row = drawn.copy()
        for coefficient, earlier in zip(band, state.held, strict=False):
            row -= coefficient * earlier
        row /= first
        return np.rint(row).astype(np.int64), (row, *state.held)[: len(band)]


def _drawn(spec: RoundSpec, noise: Noise, state: NoiseState) -> Reals:
    """``[length]``: a fresh row of Z, in units of the grid."""
    assert spec.correlation is not None  # set in init
    if spec.round != state.round or not state.round < spec.correlation.rounds:
        raise PrivacyError(
            f"Each round of correlated noise follows the one before, up to the last of {spec.correlation.rounds}.",
            value=f"round {spec.round + 1} after {state.round}",
            remedy="Advance the state once a round, aborted ones included.",
        )
    return noise.normal(spec.length) * (spec.noise_multiplier * spec.codec.bound)


def _planned(
    setting: Setting, correlation: Correlation, noise_multiplier: float, record: SamplingRecord | None
) -> tuple[LedgerEvent, ...]:
    """Every client takes part whenever it can: in all rounds or, where clients take turns, one client of each turn."""
    event = planned_event(
        setting, noise_multiplier, record, mechanism=GAUSSIAN, trust="central", clip_norm=1.0, detail=correlation
    )
    sampling = setting.sampling
    if not isinstance(sampling, MinSeparation):
        return (event,)
    turns = (sampling.turn(sampling.separation, round) for round in range(setting.rounds))
    return tuple(replace(event, round=round, cohort=turn, count=1) for round, turn in enumerate(turns))
