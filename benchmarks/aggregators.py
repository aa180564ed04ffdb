"""One real round of every aggregator: bytes and processor time of a party, by role.

The limits beside them, in the same run: PlainSum, which hides nothing, and the floor of ⌈log₂(number of possible sums)⌉
bits a coordinate, below which no message that is uniform over the sums can go.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks import Row
from fedpriv.aggregation import BFV, CKKS, Paillier, PlainSum, SecureAggregation, Session, Terms, perform
from fedpriv.aggregation.protocol import Aggregator
from fedpriv.encoding import Integers
from fedpriv.network import Network, Wire
from fedpriv.threat import CLIENT, Party, client_index

AGGREGATORS: tuple[Aggregator, ...] = (PlainSum(), SecureAggregation(), CKKS(), BFV(), Paillier())
INPUT_BOUND = 2**15 - 1
"""16 bits a coordinate."""
POINTS = ((8, 1_000), (8, 10_000), (32, 1_000), (32, 10_000))
"""Clients, coordinates."""
QUICK = ((4, 500), (8, 2_000))
REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """What one party of a role spends in a round."""

    sent: float
    received: float
    cpu_seconds: float


def rows(*, quick: bool) -> Iterator[Row]:
    """One row for each point, aggregator and role."""
    for clients, length in QUICK if quick else POINTS:
        sum_bound = clients * INPUT_BOUND
        floor = length * math.ceil(math.log2(2 * sum_bound + 1)) / 8
        plain: Mapping[str, Cost] = {}
        for aggregator in AGGREGATORS:
            costs, setup = _measure(aggregator, clients, length, repeats=1 if quick else REPEATS)
            plain = plain or costs
            for role, cost in costs.items():
                beside = plain.get(role, Cost(0.0, 0.0, 0.0))  # PlainSum has no authority
                yield {
                    "aggregator": type(aggregator).__name__,
                    "plan": repr(aggregator),
                    "clients": clients,
                    "coordinates": length,
                    "role": role,
                    "sent_bytes": cost.sent,
                    "received_bytes": cost.received,
                    "cpu_seconds": cost.cpu_seconds,
                    "key_seconds": setup,
                    "sent_to_floor": cost.sent / floor if role == CLIENT else None,
                    "sent_to_plain": _ratio(cost.sent, beside.sent),
                    "cpu_to_plain": _ratio(cost.cpu_seconds, beside.cpu_seconds),
                }


def _measure(aggregator: Aggregator, clients: int, length: int, *, repeats: int) -> tuple[dict[str, Cost], float]:
    """Each role's costs, the median over rounds; and the seconds that keys and identities took, once."""
    domain = aggregator.domain(sum_bound=clients * INPUT_BOUND, length=length, cohort=clients)
    started = time.process_time()
    deployment = aggregator.deploy(Terms(length=length, input_bound=INPUT_BOUND, cohort=clients, domain=domain))
    setup = time.process_time() - started
    rng = np.random.default_rng(0)
    vectors = rng.integers(-INPUT_BOUND, INPUT_BOUND + 1, (clients, length), dtype=np.int64)

    def inputs(parties: Sequence[Party]) -> Iterator[tuple[Party, Integers]]:
        for party in parties:
            yield party, vectors[client_index(party)]

    rounds: list[dict[str, Cost]] = []
    for attempt in range(repeats):
        wire = Wire(Network())
        session = Session(round=0, attempt=attempt, participants=tuple(range(clients)), context=b"benchmark")
        total = perform(deployment, session, wire, inputs, aggregator.threat_model.releaser).total
        if not np.array_equal(total, vectors.sum(axis=0)):
            raise AssertionError(f"{aggregator!r} returned another sum than that of its inputs.")
        rounds.append(_by_role(wire, clients))
    return {role: _median([costs[role] for costs in rounds]) for role in rounds[0]}, setup


def _by_role(wire: Wire, clients: int) -> dict[str, Cost]:
    costs: dict[str, Cost] = {}
    for role in sorted({row.role for row in wire.costs}):
        parties = clients if role == CLIENT else 1
        stages = [row for row in wire.costs if row.role == role]
        costs[role] = Cost(
            sum(row.bytes_sent for row in stages) / parties,
            sum(row.bytes_received for row in stages) / parties,
            sum(row.cpu_seconds for row in stages) / parties,
        )
    return costs


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        median(cost.sent for cost in costs),
        median(cost.received for cost in costs),
        median(cost.cpu_seconds for cost in costs),
    )


def _ratio(value: float, reference: float) -> float | None:
    return value / reference if reference else None
