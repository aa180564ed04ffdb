"""Randomised response: each client answers one question of k categories, by chance not with the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache, partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedpriv.encoding import FixedPoint, Integers, Reals, require_finite
from fedpriv.errors import CohortTooSmall, ConfigurationError, DataError, PlanError
from fedpriv.privacy.budget import Budget
from fedpriv.privacy.calibration import planned_event, solve_noise_multiplier
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.ledger.event import RANDOMIZED_RESPONSE, LedgerEvent, Response, event_of
from fedpriv.privacy.mechanism import Adjacency, Encoded, Outcome, Release, RoundSpec, Setting, Trust
from fedpriv.privacy.mechanisms.gaussian import accounted, check_target
from fedpriv.privacy.numbers import is_real
from fedpriv.privacy.sampling import SamplingRecord
from fedpriv.randomness import Noise

_WORDS = 2**64
_LEAST, _MOST = 1e-6, 40.0
"""The ε for which 64-bit words tell the probabilities of truth and lie apart from 1 / k and from 0."""
_CATEGORIES = 2**20


@dataclass(frozen=True, kw_only=True)
class RandomizedResponse:
    """Each client sends its category with probability p = e^ε / (e^ε + k - 1), else any other with equal probability.

    The payload is the answer as a one-hot vector ``[k]``, and so is what leaves. The release estimates the share of
    each category without bias: (N_j / n - q) / (p - q), with N the summed answers, n = Σ N_j and q = (1 - p) / (k - 1).
    An estimate may lie outside [0, 1]. Exactly one of ``epsilon`` and ``target`` is given.

    With two fair coins (the truth on heads, else what the second coin says) a true "yes" is sent with probability 3/4:
    ε = log 3. Where 60 % say yes, 70 % is the estimate:

        >>> import math
        >>> survey = Response(epsilon=math.log(3), categories=2)
        >>> round(float(truth_probability(survey)), 12)
        0.75
        >>> estimated_shares([60, 40], survey).round(6).tolist()
        [0.7, 0.3]

    Args:
        categories: k, 2 … 2^20.
        epsilon: of one answer, 1e-6 … 40.
        target: the budget for which the largest sufficient ε of an answer is solved before the first round.

    Raises:
        ConfigurationError: both or none of epsilon and target; a number out of range.

    Guarantees: pure ε-differential privacy of each answer, under replace-one adjacency, against everybody but the
        client itself, whatever they see and whoever colludes. Exactly so: p is T / 2^64, T an integer rounded down, a
        uniform word below T tells the truth, and lies are drawn by rejection; ε is that of T. Every contributor sends
        exactly one answer, so n tells nothing of what was answered, and no other divisor is needed.
    Assumes: each client's words are uniform. Clients that drop out do so whatever their answer, else the estimate is of
        those who stay. For the estimate, not for privacy: clients answer as described. One that says what it likes
        moves an estimate by 1 / (n (p - q)), and nothing checks a masked or encrypted vector, which may be any.
    Does not hide: who takes part. That a client's payload is no answer, which ends the run with an error.
    Reference: Warner 1965; Kairouz, Bonawitz and Ramage 2016, section 2 (k-ary).
    """

    categories: int
    epsilon: float | None = None
    target: Budget | None = None

    def __post_init__(self) -> None:
        if isinstance(self.categories, bool) or not isinstance(self.categories, int):
            raise ConfigurationError("categories is an integer.", value=self.categories, remedy="Give 2 for yes or no.")
        if not 2 <= self.categories <= _CATEGORIES:
            raise ConfigurationError(
                f"A question has 2 to {_CATEGORIES} categories.", value=self.categories, remedy="Give 2 for yes or no."
            )
        if (self.epsilon is None) == (self.target is None):
            raise ConfigurationError(
                "Exactly one of epsilon and target fixes the probability of the truth.",
                value=f"epsilon={self.epsilon!r}, target={self.target!r}",
                remedy="Give epsilon=math.log(3), the two coins', or target=Budget(...).",
            )
        if self.epsilon is not None and not (is_real(self.epsilon) and _LEAST <= self.epsilon <= _MOST):
            raise ConfigurationError(
                f"The ε of an answer is in [{_LEAST:g}, {_MOST:g}].",
                value=self.epsilon,
                remedy="Give e.g. epsilon=1.0; NoDP() sends the truth.",
            )
        check_target(self.target)

    @property
    def trust(self) -> Trust:
        return "local"

    @property
    def weighting(self) -> Literal["equal"]:
        return "equal"

    def init(self, setting: Setting) -> RoundSpec:
        """The terms of round 0, ε solved; they change in their number only.

        Raises:
            PlanError: an adjacency that is not replace-one; a payload of another length than the categories; a sampling
                that no accountant models; a target below what the smallest ε amounts to.
        """
        _require_replace_one(setting.adjacency)
        if setting.length != self.categories:
            raise PlanError(
                f"A client's payload is its answer, a one-hot vector of {self.categories} categories.",
                value=f"{setting.length} coordinates",
                remedy="Give private_mean a one-hot row per client, or as many categories as coordinates.",
            )
        sampling = accounted(setting)
        epsilon = self.epsilon
        if epsilon is None:
            assert self.target is not None  # __post_init__
            epsilon = _solved(self.target, setting, self.categories)
        return RoundSpec(
            round=0,
            length=setting.length,
            codec=FixedPoint(step=1.0, bound=1),
            max_weight=1,
            clip_norm=None,
            noise_multiplier=0.0,
            divisor=None,
            sampling=sampling,
            adjacency=setting.adjacency,
            planned_contributors=setting.least_honest,
            response=Response(epsilon=float(epsilon), categories=self.categories),
        )

    def begin(self, state: RoundSpec, round: int, public: int = 0) -> RoundSpec:
        return replace(state, round=round)

    def protect(self, updates: Reals, examples: Sequence[int], spec: RoundSpec, noises: Sequence[Noise]) -> Encoded:
        """Randomise each answer: one-hot ``[n, k]`` → one-hot ``[n, k]``.

        Raises:
            NonFiniteInput: NaN or infinity in a payload.
            DataError: a payload that is not one-hot.
        """
        assert spec.response is not None  # init
        values = np.zeros((len(updates), spec.length), dtype=np.int64)
        values[np.arange(len(updates)), _randomised(_answers(updates), spec.response, noises)] = 1
        residual = np.zeros(spec.length)
        return Encoded(values=values, residual=residual, clipped_norms=0, clipped_coordinates=0)

    def release(self, total: Integers, spec: RoundSpec, outcome: Outcome, noise: Noise, state: RoundSpec) -> Release:
        """The estimated shares; nothing is added.

        Raises:
            CohortTooSmall: nobody answered.
        """
        assert spec.response is not None  # init
        return Release(mean=estimated_shares(total, spec.response))

    def advance(self, state: RoundSpec, spec: RoundSpec, release: Release | None, noise: Noise) -> RoundSpec:
        return state

    def noise_contributors(self, setting: Setting) -> None:
        return None

    def events(self, spec: RoundSpec, outcome: Outcome) -> tuple[LedgerEvent, ...]:
        assert spec.response is not None  # init
        stated = replace(spec.response, epsilon=exact_epsilon(spec.response))
        return (event_of(spec, outcome, mechanism=RANDOMIZED_RESPONSE, trust=self.trust, detail=stated),)


def truth_probability(response: Response) -> Fraction:
    """The probability p = T / 2^64, T = ⌊2^64 e^ε / (e^ε + k - 1)⌋: rounded towards more privacy."""
    return Fraction(_threshold(response), _WORDS)


def exact_epsilon(response: Response) -> float:
    """log(p / q) of the probabilities as they are, rounded up: at most the ε that was asked for."""
    truth = truth_probability(response)
    odds = truth / (1 - truth) * (response.categories - 1)
    with localcontext() as exact:
        exact.prec = 60
        logarithm = (Decimal(odds.numerator) / Decimal(odds.denominator)).ln()
    return min(response.epsilon, math.nextafter(float(logarithm), math.inf))


def estimated_shares(counts: npt.ArrayLike, response: Response) -> Reals:
    """``[k]`` randomised answers' counts → ``[k] float64``, unbiased estimates of the shares of truthful answers.

    Raises:
        CohortTooSmall: nobody answered.
    """
    counts = np.asarray(counts, dtype=np.int64)
    answers = int(counts.sum())
    if answers < 1:
        raise CohortTooSmall(
            "A share has at least one answer.", value=answers, remedy="Use a larger cohort or a higher sampling rate."
        )
    truth = truth_probability(response)
    lie = (1 - truth) / (response.categories - 1)
    return (counts / answers - float(lie)) / float(truth - lie)


@lru_cache(maxsize=256)
def _threshold(response: Response) -> int:
    with localcontext() as exact:
        exact.prec, exact.rounding = 60, ROUND_FLOOR
        odds = Decimal(response.epsilon).exp()
        share = odds / (odds + (response.categories - 1))
        return int(share * _WORDS - Decimal("1e-30"))  # less than the last digits may be wrong by


def _answers(updates: Reals) -> npt.NDArray[np.int64]:
    """``[n]``: each client's category."""
    rows = np.asarray(updates, dtype=np.float64)
    require_finite(rows)
    if not (((rows == 0.0) | (rows == 1.0)).all() and (rows.sum(axis=1) == 1.0).all()):
        raise DataError(
            "An answer is a one-hot vector: one coordinate is 1, all others are 0.",
            remedy="Encode each client's category as a row of np.eye(categories).",
        )
    answers: npt.NDArray[np.int64] = rows.argmax(axis=1).astype(np.int64)
    return answers


def _randomised(answers: npt.NDArray[np.int64], response: Response, noises: Sequence[Noise]) -> npt.NDArray[np.int64]:
    """``[n]``: what each client says, from its own words."""
    others = response.categories - 1
    fair = _WORDS - _WORDS % others  # below it all remainders are equally many
    said = np.empty_like(answers)
    for client, (own, answer) in enumerate(zip(noises, answers.tolist(), strict=True)):
        truth, lie = own.words(2).tolist()
        while lie >= fair:
            lie = own.words(1).tolist()[0]
        lie %= others
        said[client] = answer if truth < _threshold(response) else lie + (lie >= answer)
    return said


def _solved(target: Budget, setting: Setting, categories: int) -> float:
    """The largest ε of an answer with which a client that answers in every round stays within the budget."""
    planned = partial(_planned, setting, categories)
    least = Ledger(
        threat=setting.threat,
        population=setting.population,
        adjacency=setting.adjacency,
        events=planned(math.inf, setting.sampling_record()),
    ).epsilon(target.delta, observer=target.observer)
    if least > target.epsilon:
        raise PlanError(
            f"Answers of ε = {_LEAST:g}, the smallest, fit into the budget.",
            value=f"{setting.rounds} rounds amount to ε = {least:.3g}, target {target.epsilon:g}",
            remedy="Raise the budget's ε, or ask in fewer rounds.",
        )
    # Answers of the largest ε amount to no more than this: beyond, there is nothing to solve.
    within = replace(target, epsilon=min(target.epsilon, _MOST * setting.rounds))
    return min(1.0 / solve_noise_multiplier(within, setting, planned), _MOST)


def _planned(
    setting: Setting, categories: int, noise_multiplier: float, record: SamplingRecord | None
) -> tuple[LedgerEvent, ...]:
    """1 / ε stands for the noise: more of it, less is told. A search looks past the largest ε, but not far."""
    response = Response(epsilon=min(max(1.0 / noise_multiplier, _LEAST), 10.0 * _MOST), categories=categories)
    return (
        planned_event(
            setting, 0.0, record, mechanism=RANDOMIZED_RESPONSE, trust="local", clip_norm=None, detail=response
        ),
    )


def _require_replace_one(adjacency: Adjacency) -> None:
    if adjacency != "replace-one":
        raise PlanError(
            "Neighbours differ in what one client answers: that it answers is no secret.",
            value=adjacency,
            remedy='Use adjacency="replace-one".',
        )
