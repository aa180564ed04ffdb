"""What one client is exposed to, in the terms of accountants: releases by kind, and how often each happened.

Unamplified Gaussian releases of one client compose exactly into a single one, Σ 1/σ²; Poisson- and fixed-size-sampled
ones are kept by kind, and so are randomised responses and sums of clients' shares of integer noise, whose curves are
our own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from fedpriv.privacy.ledger.curves import Shares
from fedpriv.privacy.ledger.event import Response
from fedpriv.privacy.mechanism import Adjacency
from fedpriv.privacy.sampling import SamplingRecord


@dataclass(frozen=True, kw_only=True, order=True)
class Sampled:
    """A Gaussian release whose cohort was drawn, and hidden from the observer."""

    noise_multiplier: float
    kind: Literal["poisson", "fixed-size"]
    rate: float
    population: int
    size: int = 0
    max_cohort: int = 0
    """0: never cut."""
    min_cohort: int = 0
    participant: bool = False
    """The observer knows of some clients whether they were drawn."""

    @classmethod
    def of(
        cls, noise_multiplier: float, record: SamplingRecord, adjacency: Adjacency, participant: bool = False
    ) -> Sampled:
        """The release with this noise under a Poisson or fixed-size record."""
        assert record.kind == "poisson" or record.kind == "fixed-size"
        cut = record.max_cohort if record.max_cohort is not None and record.limited(adjacency) else 0
        return cls(
            noise_multiplier=noise_multiplier,
            kind=record.kind,
            rate=record.rate,
            population=record.population,
            size=record.size or 0,
            max_cohort=cut,
            min_cohort=record.min_cohort if record.kind == "poisson" else 0,
            participant=participant and cut > 0,
        )


@dataclass(frozen=True, kw_only=True)
class Composition:
    """What one client is exposed to.

    Args:
        gaussian: Σ 1/σ² over its unamplified Gaussian releases; σ in units of the clip norm.
        sampled: each kind of amplified release and how often it happened, sorted.
        shares: its releases under integer noise in clients' shares: each kind and how often, sorted.
        responses: its randomised responses: each kind and how often, sorted.
    """

    gaussian: float = 0.0
    sampled: tuple[tuple[Sampled, int], ...] = ()
    shares: tuple[tuple[Shares, int], ...] = ()
    responses: tuple[tuple[Response, int], ...] = ()

    @property
    def empty(self) -> bool:
        return self.gaussian == 0 and not (self.sampled or self.shares or self.responses)

    def unamplified(self, adjacency: Adjacency) -> Composition:
        """The same releases with the client in every cohort: a bound too, by joint convexity over the cohorts.

        Where a cut cohort meets add/remove, a client that leaves makes room for another: twice the sensitivity.
        """
        extra = (
            count * (4.0 if release.max_cohort and adjacency == "add-remove" else 1.0) / release.noise_multiplier**2
            for release, count in self.sampled
        )
        return replace(self, gaussian=math.fsum((self.gaussian, *extra)), sampled=())
