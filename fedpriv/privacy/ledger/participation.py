"""Which client is worst placed, given who took part in what: exact over the whole population."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fedpriv.encoding import Reals
from fedpriv.errors import ConfigurationError, UnsupportedAccounting
from fedpriv.privacy.correlation import Correlation
from fedpriv.privacy.ledger import curves
from fedpriv.privacy.ledger.composition import Composition
from fedpriv.privacy.ledger.curves import Shares
from fedpriv.privacy.ledger.event import Response
from fedpriv.privacy.mechanism import Adjacency

_Counts: TypeAlias = npt.NDArray[np.int64]
_Kind = TypeVar("_Kind", float, Shares, Response)


@dataclass(frozen=True, kw_only=True)
class Correlated:
    """One round of noise that is correlated over rounds."""

    correlation: Correlation
    noise_multiplier: float
    round: int


@dataclass(frozen=True, kw_only=True)
class Charge:
    """Releases that every client of a cohort is charged for.

    Args:
        noise: a noise multiplier, clients' shares, a randomised response, or a round of correlated noise.
        cohort: the clients.
        count: how many equal ones.
    """

    noise: float | Shares | Response | Correlated
    cohort: Sequence[int]
    count: int


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A client that no other is at least as exposed as, in every respect: the worst-placed one is among these."""

    composition: Composition
    participations: int


def worst_placed(charges: Sequence[Charge], population: int, adjacency: Adjacency) -> tuple[Placed, ...]:
    """The clients that may be the worst-placed one, at any δ and by any accountant.

    Participations are counted in integers and by sorted kind, so that neither the order of events nor their grouping
    changes a bit of ε.

    Raises:
        ConfigurationError: a client outside the population.
        UnsupportedAccounting: a round of correlated noise outside its matrix.
    """
    gaussian, by_noise = _counted(charges, population, float)
    shares, by_shares = _counted(charges, population, Shares)
    responses, by_response = _counted(charges, population, Response)
    cost, times = _correlated(charges, population)
    if gaussian:
        cost = cost + by_noise @ np.array([noise**-2.0 for noise in gaussian])
    times = times + by_noise.sum(axis=1) + by_shares.sum(axis=1) + by_response.sum(axis=1)

    def placed(client: int) -> Placed:
        return Placed(
            composition=Composition(
                gaussian=float(cost[client]),
                shares=tuple((kind, n) for kind, n in zip(shares, by_shares[client].tolist(), strict=True) if n),
                responses=tuple(
                    (kind, n) for kind, n in zip(responses, by_response[client].tolist(), strict=True) if n
                ),
            ),
            participations=int(times[client]),
        )

    # Clients are compared with those that are accounted alike: by everything that any accountant reads or, under
    # shares of noise, which RDP alone accounts, by their curves on one grid of orders.
    skellam = np.array([kind.share.kind == "skellam" for kind in shares], dtype=bool)
    integers, real = by_shares[:, skellam].sum(axis=1) > 0, by_shares[:, ~skellam].sum(axis=1) > 0
    found = [*_undominated(np.column_stack([cost, by_response]), times, ~(integers | real))]
    for clients in (integers, real & ~integers):
        if clients.any():
            grid = curves.orders(
                kind for kind, there in zip(shares, by_shares[clients].sum(axis=0), strict=True) if there
            )
            curve = np.outer((4.0 if adjacency == "replace-one" else 1.0) * cost, 0.5 * np.array(grid))
            curve += by_shares @ np.array([curves.curve(kind, grid, adjacency) for kind in shares])
            for kind, times_each in zip(responses, by_response.T, strict=True):
                curve += np.outer(times_each, curves.response(kind, grid))
            found += _undominated(curve, times, clients)
    return tuple(placed(client) for client in found)


def _correlated(charges: Sequence[Charge], population: int) -> tuple[Reals, _Counts]:
    """``[population]`` each: Σ_{s,t ∈ P} |CᵀC|_{st} / z² over each client's rounds P, and how often it took part.

    Noise that differs between rounds of one matrix counts as the least. Each further release for a round r, of a run
    that was resumed, say, is one more row of C under noise of its own: (Σ_{s ∈ P} |C|_{rs})² / z² on top.
    """
    rounds: dict[Correlation, npt.NDArray[np.bool_]] = {}
    noise: dict[Correlation, float] = {}
    releases: dict[Correlation, _Counts] = {}
    times = np.zeros(population, dtype=np.int64)
    for charge in charges:
        if not isinstance(charge.noise, Correlated):
            continue
        correlation = charge.noise.correlation
        if correlation not in rounds:
            rounds[correlation] = np.zeros((population, correlation.rounds), dtype=np.bool_)
            releases[correlation] = np.zeros(correlation.rounds, dtype=np.int64)
        inside = rounds[correlation]
        noise[correlation] = min(noise.get(correlation, math.inf), charge.noise.noise_multiplier)
        for round in range(charge.noise.round, charge.noise.round + charge.count):
            if not round < correlation.rounds:
                raise UnsupportedAccounting(
                    f"Correlated noise covers the {correlation.rounds} rounds of its matrix.",
                    value=f"round {round + 1}",
                    remedy="Plan the mechanism for as many rounds as there are.",
                )
            cohort = _within(charge.cohort, population)
            releases[correlation][round] += 1
            inside[cohort, round] = True
            times[cohort] += 1
    cost = np.zeros(population)
    for correlation in sorted(rounds):
        there = np.flatnonzero(rounds[correlation].any(axis=1))
        took, again = rounds[correlation][there].astype(np.float64), releases[correlation] - 1
        squared = ((took @ np.abs(correlation.gram())) * took).sum(axis=1)
        repeated = np.flatnonzero(again > 0)
        if repeated.size:
            squared += (took @ np.abs(correlation.matrix()[repeated]).T) ** 2 @ again[repeated]
        cost[there] += squared / noise[correlation] ** 2
    return cost, times


def _counted(charges: Sequence[Charge], population: int, kind: type[_Kind]) -> tuple[tuple[_Kind, ...], _Counts]:
    """The kinds of one type of noise, sorted, and ``[population, kinds]``: how often each client was under each."""
    there = [(charge.noise, charge) for charge in charges if isinstance(charge.noise, kind)]
    kinds = tuple(sorted({noise for noise, _ in there}))
    column = {noise: index for index, noise in enumerate(kinds)}
    counts = np.zeros((population, len(kinds)), dtype=np.int64)
    for noise, charge in there:
        counts[_within(charge.cohort, population), column[noise]] += charge.count
    return kinds, counts


def _within(cohort: Sequence[int], population: int) -> npt.NDArray[np.int64]:
    clients = np.asarray(cohort, dtype=np.int64)
    if clients.size and not 0 <= int(clients.min()) <= int(clients.max()) < population:
        raise ConfigurationError(
            f"A cohort's clients are 0 … {population - 1}.", value=int(clients.max()), remedy="Check the population."
        )
    return clients


def _undominated(features: Reals, times: _Counts, among: npt.NDArray[np.bool_]) -> Iterator[int]:
    """The clients whose row no other's is at least as large as everywhere; of equal ones the most frequent."""
    clients = np.flatnonzero(among)
    total = features[clients].sum(axis=1)
    left = clients[np.lexsort((clients, -times[clients], -total))]
    while left.size:
        first = int(left[0])
        yield first
        left = left[(features[left] > features[first]).any(axis=1)]
