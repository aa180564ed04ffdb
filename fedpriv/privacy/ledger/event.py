"""What the ledger records of one release: what happened, not what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedpriv.errors import ConfigurationError
from fedpriv.privacy.correlation import Correlation
from fedpriv.privacy.mechanism import Adjacency, Outcome, RoundSpec, Share, ShareKind, Trust, Unit
from fedpriv.privacy.sampling import SamplingRecord
from fedpriv.randomness import NoiseSource
from fedpriv.threat import client as party_of

GAUSSIAN = "gaussian"
DISCRETE_GAUSSIAN: ShareKind = "discrete-gaussian"
SKELLAM: ShareKind = "skellam"
RANDOMIZED_RESPONSE = "randomized-response"
NON_PRIVATE = "non-private"
POPULATION = "population"
"""The scope of an event in which any client may have taken part."""


@dataclass(frozen=True, kw_only=True, order=True)
class Response:
    """One client's randomised answer: the truth with probability e^ε / (e^ε + categories - 1), else another.

    Raises:
        ConfigurationError: ε not positive and finite, or fewer than two categories.
    """

    epsilon: float
    categories: int

    def __post_init__(self) -> None:
        if not 0.0 < self.epsilon < 700.0:  # e^ε is a double
            raise ConfigurationError(
                "A response's ε is > 0 and below 700.", value=self.epsilon, remedy="Give e.g. 1.0."
            )
        if self.categories < 2:
            raise ConfigurationError(
                "There are at least two answers.", value=self.categories, remedy="Count the categories."
            )


@dataclass(frozen=True, kw_only=True)
class LedgerEvent:
    """One release of one mechanism (or ``count`` equal ones), as it happened.

    Per record, an event is one client's participation in a round: ``count`` noisy steps on batches of its own records,
    drawn by the client and told to nobody.

    Args:
        round: the round, from 0.
        step: the step inside the round (local steps of DP-SGD); 0 for one release a round.
        mechanism: ``"gaussian"``, ``"discrete-gaussian"``, ``"skellam"``, ``"randomized-response"``,
            ``"non-private"``; an open string, refused by an accountant that does not know it.
        unit: what a neighbouring federation differs in: a client's contribution, or one record of one client.
        scope: ``"population"``, or the party whose records the event touches (``client/17``).
        adjacency: which federations are neighbours; per record ``"add-remove"``.
        sampling: how the cohort was drawn; None where no accountant models it. Per record: how the batch of each step
            was, with a population of 0, for the number of a client's records is private.
        clip_norm: L2 bound of one unit's contribution; None where there is none.
        planned_noise_multiplier: σ / clip_norm that the plan promised; 0 for none.
        noise_multiplier: σ / clip_norm that was achieved, by all contributors' shares where noise is made of those;
            every ε is computed from what was achieved.
        planned_contributors: the fewest honest contributors the plan relied on.
        contributors: how many contributed; 0 for a round that ended without a release, or released noise alone. Such
            rounds are recorded too: amplification counts every round in which a cohort was drawn.
        cohort: indices of the clients that took part, sorted. Not only those who survived: a client whose vector was
            dropped is charged as if it were in the sum, which bounds it from above, unless nobody was in it. Per
            record the one client of the scope.
        trust: where the noise was added.
        noise_source: ``"os"``: a claim; ``"seeded"``: of the mechanism, simulated.
        count: how many equal releases this event stands for.
        detail: what the accountant needs besides: each client's share of distributed noise, the correlation of noise
            over rounds, a randomised response. Of correlated noise an event stands for one round, or with ``count``
            for as many in a row.
        corrupt: the share of the cohort that planned_contributors leaves out; None: the threat model's.

    Raises:
        ConfigurationError: a negative or non-finite number where none can be.
    """

    round: int
    mechanism: str
    unit: Unit
    adjacency: Adjacency
    sampling: SamplingRecord | None
    clip_norm: float | None
    planned_noise_multiplier: float
    noise_multiplier: float
    planned_contributors: int
    contributors: int
    cohort: tuple[int, ...]
    trust: Trust
    noise_source: NoiseSource
    step: int = 0
    scope: str = POPULATION
    count: int = 1
    detail: Share | Correlation | Response | None = None
    corrupt: float | None = None

    def __post_init__(self) -> None:
        for name in ("planned_noise_multiplier", "noise_multiplier"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"{name} is finite and ≥ 0.", value=value, remedy="Give σ / clip_norm.")
        if self.mechanism == GAUSSIAN and self.noise_multiplier == 0:
            raise ConfigurationError(
                "A Gaussian release has noise.", value=0.0, remedy=f'Record it with mechanism "{NON_PRIVATE}".'
            )
        if isinstance(self.detail, Share):
            _check_share(self.detail)
        if self.corrupt is not None and not 0.0 <= self.corrupt <= 1.0:
            raise ConfigurationError(
                "corrupt is a share of the cohort, in [0, 1].", value=self.corrupt, remedy="Give None, or a fraction."
            )
        for name, least in (("round", 0), ("step", 0), ("planned_contributors", 0), ("contributors", 0), ("count", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name} is ≥ {least}.", value=getattr(self, name), remedy="Count it again.")


def _check_share(share: Share) -> None:
    """Of NaN, or of a negative divergence, an accountant makes ε = 0."""
    lengths = (share.l2, share.l1)
    noised = math.isfinite(share.variance) and share.variance > 0 and share.dimension >= 1
    if not (noised and all(math.isfinite(length) and length >= 0 for length in lengths)):
        raise ConfigurationError(
            "A share of the noise has a finite variance > 0, finite lengths ≥ 0 and a coordinate at least.",
            value=share,
            remedy="Record what each client added.",
        )


def fell_short(event: LedgerEvent) -> bool:
    """Whether less noise was in a release than was planned."""
    return event.contributors > 0 and event.noise_multiplier < event.planned_noise_multiplier * (1.0 - 1e-9)


def event_of(
    spec: RoundSpec,
    outcome: Outcome,
    *,
    mechanism: str,
    trust: Trust,
    detail: Response | None = None,
) -> LedgerEvent:
    """The client-level event of a round.

    What clients' shares add up to is achieved by all contributors; who knows some of them the ledger works out.

    Args:
        spec: the round's terms; its share or its correlation becomes the event's detail.
        outcome: who took part and contributed.
        mechanism: see :class:`LedgerEvent`.
        trust: where the noise is.
        detail: of a randomised response.
    """
    achieved = spec.noise_multiplier
    if spec.share is not None and spec.clip_norm and outcome.contributors:
        achieved = math.sqrt(len(outcome.contributors) * spec.share.variance) * spec.codec.step / spec.clip_norm
    return LedgerEvent(
        round=spec.round,
        mechanism=mechanism,
        unit="client",
        adjacency=spec.adjacency,
        sampling=spec.sampling,
        clip_norm=spec.clip_norm,
        planned_noise_multiplier=spec.noise_multiplier,
        noise_multiplier=achieved,
        planned_contributors=spec.planned_contributors,
        contributors=len(outcome.contributors),
        cohort=outcome.cohort,
        trust=trust,
        noise_source=outcome.noise,
        detail=detail or spec.share or spec.correlation,
        corrupt=spec.corrupt,
    )


def record_event(
    *, client: int, rate: float, steps: int, noise_multiplier: float, clip_norm: float, noise_source: NoiseSource
) -> LedgerEvent:
    """One client's participation in a round: noisy steps on Poisson batches of its records. All of it is public.

    The round is 0; whoever knows it says so with ``dataclasses.replace``.

    Args:
        client: its index.
        rate: the probability of a record to be in a step's batch, in (0, 1].
        steps: how many.
        noise_multiplier: σ / clip_norm of the noise on each step's sum of clipped gradients.
        clip_norm: L2 bound of one record's gradient.
        noise_source: of the noise, and of the batches.
    """
    return LedgerEvent(
        round=0,
        mechanism=GAUSSIAN,
        unit="record",
        scope=party_of(client),
        adjacency="add-remove",
        sampling=SamplingRecord(kind="poisson", rate=rate, population=0),
        clip_norm=clip_norm,
        planned_noise_multiplier=noise_multiplier,
        noise_multiplier=noise_multiplier,
        planned_contributors=1,
        contributors=1,
        cohort=(client,),
        trust="local",
        noise_source=noise_source,
        count=steps,
    )
