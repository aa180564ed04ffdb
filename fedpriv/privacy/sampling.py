"""Which clients take part in a round, and what an accountant may make of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np

from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.privacy.numbers import is_real

if TYPE_CHECKING:
    from fedpriv.privacy.mechanism import Adjacency

SamplingKind: TypeAlias = Literal["none", "poisson", "fixed-size", "min-separation"]


@dataclass(frozen=True, kw_only=True)
class SamplingRecord:
    """What the ledger keeps of how a cohort was drawn.

    Args:
        kind: ``"none"`` (everybody takes part), ``"poisson"`` (independent coins), ``"fixed-size"`` (without
            replacement), ``"min-separation"`` (in turn).
        rate: the probability that a given client is drawn, in (0, 1]; 1 where nothing is drawn.
        population: clients to draw from; 0 where it is private (a client's records, of which it draws batches).
        size: of a fixed-size cohort; else None.
        max_cohort: the size to which a larger Poisson cohort is cut; None: never cut.
        min_cohort: a smaller cohort ends its round without a release. That shows something of who was drawn, so the
            accountant charges for it; 0: every cohort is released.
        separation: a client takes part at most once in as many rounds in a row; None: nothing is said.
        max_participations: of one client in a run; None: nothing is said.
    """

    kind: SamplingKind
    rate: float
    population: int
    size: int | None = None
    max_cohort: int | None = None
    min_cohort: int = 0
    separation: int | None = None
    max_participations: int | None = None

    @property
    def drawn(self) -> bool:
        """Whether chance decides who takes part."""
        return self.kind in ("poisson", "fixed-size")

    def limited(self, adjacency: Adjacency) -> bool:
        """Whether one client's place can be another's loss, in this population or in a neighbouring one."""
        places = self.size if self.kind == "fixed-size" else self.max_cohort
        return places is not None and places < self.population + (adjacency == "add-remove")


class Sampling(Protocol):
    """A frozen description of how each round's cohort is drawn, from randomness that no client's data influence."""

    def cohort(self, rng: np.random.Generator, population: int, round: int = 0) -> tuple[int, ...]:
        """The sorted indices of one round's clients."""
        ...

    def expected(self, population: int) -> float:
        """The expected cohort size: the public constant by which a private sum is divided."""
        ...

    def least(self, population: int) -> int:
        """The smallest cohort that can be drawn."""
        ...

    def largest(self, population: int) -> int:
        """The largest cohort that can be drawn."""
        ...

    def accounting(self, population: int) -> SamplingRecord | None:
        """What the ledger records; None where no accountant models this sampling (refused under DP)."""
        ...


@dataclass(frozen=True, kw_only=True)
class FullParticipation:
    """Every client takes part in every round."""

    def cohort(self, rng: np.random.Generator, population: int, round: int = 0) -> tuple[int, ...]:
        return tuple(range(_checked(population)))

    def expected(self, population: int) -> float:
        return float(_checked(population))

    def least(self, population: int) -> int:
        return _checked(population)

    def largest(self, population: int) -> int:
        return _checked(population)

    def accounting(self, population: int) -> SamplingRecord:
        return SamplingRecord(kind="none", rate=1.0, population=_checked(population))


@dataclass(frozen=True)
class PoissonSampling:
    """Each client tosses its own coin: the sampling for which amplification theorems are tight.

    Args:
        rate: the probability of taking part, in (0, 1].
        max_cohort: a larger cohort is cut to a uniform subset of this size, for protocols that need a bound; the
            accountant charges for the cut.

    Raises:
        ConfigurationError: a rate outside (0, 1], or max_cohort < 1.

    Guarantees: cohorts of different rounds, and clients of one round, are independent (up to the cut).
    Assumes: an observer against whom amplification is claimed does not learn the cohort.
    Does not hide: the cohort, by itself. Who sees it is the aggregator's to say.
    Reference: Abadi et al. 2016, section 3; Mironov, Talwar and Zhang 2019.
    """

    rate: float
    max_cohort: int | None = None

    def __post_init__(self) -> None:
        if not (is_real(self.rate) and 0.0 < self.rate <= 1.0):
            raise ConfigurationError(
                "A sampling rate is in (0, 1].", value=self.rate, remedy="Give the probability, e.g. 0.1."
            )
        if self.max_cohort is not None and not _is_count(self.max_cohort):
            raise ConfigurationError(
                "max_cohort is an integer ≥ 1, or None.", value=self.max_cohort, remedy="Give about twice the mean."
            )

    def cohort(self, rng: np.random.Generator, population: int, round: int = 0) -> tuple[int, ...]:
        drawn = np.flatnonzero(rng.random(_checked(population)) < self.rate)
        if self.max_cohort is not None and drawn.size > self.max_cohort:
            drawn = np.sort(rng.choice(drawn, size=self.max_cohort, replace=False))
        return tuple(drawn.tolist())

    def expected(self, population: int) -> float:
        """``E[min(Bin(population, rate), max_cohort)]``, exact."""
        mean = _checked(population) * self.rate
        if self.max_cohort is None or self.max_cohort >= population or self.rate == 1.0:
            return float(min(mean, self.largest(population)))
        log_p, log_q = math.log(self.rate), math.log1p(-self.rate)
        room = 0.0  # E[max_cohort - min(Bin, max_cohort)]
        for k in range(self.max_cohort):
            ways = math.lgamma(population + 1) - math.lgamma(k + 1) - math.lgamma(population - k + 1)
            room += (self.max_cohort - k) * math.exp(ways + k * log_p + (population - k) * log_q)
        return self.max_cohort - room

    def least(self, population: int) -> int:
        return self.largest(population) if self.rate == 1.0 else 0

    def largest(self, population: int) -> int:
        return min(_checked(population), self.max_cohort or population)

    def accounting(self, population: int) -> SamplingRecord:
        return SamplingRecord(
            kind="poisson", rate=self.rate, population=_checked(population), max_cohort=self.max_cohort
        )


@dataclass(frozen=True)
class FixedSizeSampling:
    """A uniform subset of ``size`` clients, without replacement, drawn afresh each round.

    Args:
        size: clients per round, ≥ 1.

    Raises:
        ConfigurationError: size < 1.
        PlanError: asked for a cohort from a smaller population.
    """

    size: int

    def __post_init__(self) -> None:
        if not _is_count(self.size):
            raise ConfigurationError("A cohort has at least one client.", value=self.size, remedy="Give size ≥ 1.")

    def cohort(self, rng: np.random.Generator, population: int, round: int = 0) -> tuple[int, ...]:
        return tuple(np.sort(rng.choice(population, size=self._within(population), replace=False)).tolist())

    def expected(self, population: int) -> float:
        return float(self._within(population))

    def least(self, population: int) -> int:
        return self._within(population)

    def largest(self, population: int) -> int:
        return self._within(population)

    def accounting(self, population: int) -> SamplingRecord:
        size = self._within(population)
        return SamplingRecord(kind="fixed-size", rate=size / population, population=population, size=size)

    def _within(self, population: int) -> int:
        if self.size > _checked(population):
            raise PlanError(
                "A fixed-size cohort is not larger than the population.",
                value=f"size {self.size} of {population} clients",
                remedy="Lower size, or use FullParticipation().",
            )
        return self.size


@dataclass(frozen=True)
class MinSeparation:
    """Clients take turns: client i in the rounds i, i + separation, i + 2 separation, …, counted mod separation.

    Args:
        separation: a client takes part at most once in any as many rounds in a row, ≥ 1.
        max_participations: the most rounds of a run that a client takes part in; None: as many as its turns. Once all
            are used up a cohort is empty.

    Raises:
        ConfigurationError: a number below 1.
        PlanError: fewer clients than turns, or (:meth:`check`) more rounds than participations.

    Guarantees: which clients take part is public, depends on nothing but the round, and is the same in every run.
    Assumes: clients' indices do not depend on their data.
    Does not hide: who takes part. No amplification is claimed.
    Reference: Choquette-Choo et al. 2023 ("(k, b)-participation").
    """

    separation: int
    max_participations: int | None = None

    def __post_init__(self) -> None:
        if not _is_count(self.separation):
            raise ConfigurationError(
                "Turns come again after at least one round.", value=self.separation, remedy="Give separation ≥ 1."
            )
        if self.max_participations is not None and not _is_count(self.max_participations):
            raise ConfigurationError(
                "max_participations is an integer ≥ 1, or None.", value=self.max_participations, remedy="Give e.g. 4."
            )

    def turn(self, population: int, round: int) -> tuple[int, ...]:
        """The sorted indices of the clients whose turn it is."""
        if self.max_participations is not None and round // self.separation >= self.max_participations:
            return ()
        return tuple(range(round % self.separation, self._within(population), self.separation))

    def check(self, rounds: int) -> None:
        """Raises PlanError where participations are used up before a run of so many rounds is over."""
        if self.max_participations is not None and rounds > self.separation * self.max_participations:
            raise PlanError(
                f"{self.max_participations} participations {self.separation} rounds apart last for "
                f"{self.separation * self.max_participations} rounds.",
                value=f"{rounds} rounds",
                remedy=f"Give max_participations={-(-rounds // self.separation)}, a larger separation, or fewer "
                "rounds.",
            )

    def cohort(self, rng: np.random.Generator, population: int, round: int = 0) -> tuple[int, ...]:
        """Nothing is drawn from ``rng``."""
        return self.turn(population, round)

    def expected(self, population: int) -> float:
        return self._within(population) / self.separation

    def least(self, population: int) -> int:
        return self._within(population) // self.separation

    def largest(self, population: int) -> int:
        return -(-self._within(population) // self.separation)

    def accounting(self, population: int) -> SamplingRecord:
        return SamplingRecord(
            kind="min-separation",
            rate=1.0,
            population=self._within(population),
            separation=self.separation,
            max_participations=self.max_participations,
        )

    def _within(self, population: int) -> int:
        if self.separation > _checked(population):
            raise PlanError(
                "Where clients take turns, there is a client for every round.",
                value=f"separation {self.separation} of {population} clients",
                remedy="Lower the separation, or federate the data over more clients.",
            )
        return int(population)


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def _checked(population: int) -> int:
    if not _is_count(population):
        raise ConfigurationError(
            "A population has at least one client.", value=population, remedy="Give the federation's client count."
        )
    return int(population)
