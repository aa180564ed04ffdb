"""Whole rounds of secure aggregation with many clients, every message real: where the time goes, and how much memory.

The sum is compared with that of the inputs. A client's vector exists from its turn in the upload stage to its upload.
The server is in this process, the clients are spread over one worker for each core. ``peak`` is the largest resident
size of all of them beyond that before the round.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from benchmarks import Row
from benchmarks.apart import apart
from fedpriv.aggregation import SecureAggregation, Session, Terms, perform
from fedpriv.encoding import Integers, ring_for
from fedpriv.engine.processes import ProcessCrew, Processes, cores
from fedpriv.network import Network, Wire
from fedpriv.threat import SERVER, Party, client, client_index

INPUT_BOUND = 2**15 - 1


@dataclass(frozen=True)
class Point:
    """One round."""

    clients: int
    length: int
    dropout: float
    corrupt: float
    graph: Literal["complete", "regular"]

    @property
    def description(self) -> SecureAggregation:
        """What the plan would hold."""
        return SecureAggregation(corrupt=self.corrupt, dropout=self.dropout, graph=self.graph)


POINTS = (
    Point(300, 100_000, 0.1, 0.1, "complete"),
    Point(300, 1_000, 0.1, 0.1, "complete"),
    Point(1_000, 100_000, 0.1, 0.1, "complete"),
    Point(1_000, 10_000, 0.05, 0.05, "regular"),
    Point(10_000, 10_000, 0.05, 0.05, "regular"),
)
QUICK = (Point(60, 10_000, 0.1, 0.1, "complete"), Point(300, 1_000, 0.05, 0.05, "regular"))


def rows(*, quick: bool) -> Iterator[Row]:
    """For each round one row for each stage and role, and one for the whole."""
    for point in QUICK if quick else POINTS:
        yield from apart(partial(_rows, point))


def _rows(point: Point) -> list[Row]:
    return list(_round(point))


def _round(point: Point) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    base = rng.integers(-INPUT_BOUND // 2, INPUT_BOUND // 2, point.length, dtype=np.int64)
    aggregator = point.description
    ring = ring_for(point.clients * INPUT_BOUND)
    terms = Terms(length=point.length, input_bound=INPUT_BOUND, cohort=point.clients, domain=ring)
    deployment = aggregator.deploy(terms)
    lost = round(point.dropout * point.clients)
    upload = next(stage.name for stage in deployment.stages if stage.phase == "upload")
    schedule = {client(int(index)): upload for index in rng.choice(point.clients, lost, replace=False)}
    session = Session(round=0, attempt=0, participants=tuple(range(point.clients)), context=b"benchmark")
    wire = Wire(Network(), schedule=schedule)

    workers = cores()
    with Processes(workers).start() as crew:
        before = _residents(crew, workers)
        started = time.monotonic()
        result = perform(deployment, session, wire, partial(_inputs, base), SERVER, hosts=crew.hosts())
        seconds = time.monotonic() - started
        peak = _residents(crew, workers) - before
    cpu = sum(cost.cpu_seconds for cost in wire.costs)
    offsets = sum(index % 1000 for index in result.contributors)
    if len(result.contributors) != point.clients - lost or not np.array_equal(
        result.total, base * len(result.contributors) + offsets
    ):
        raise AssertionError("Another sum than that of the inputs.")
    common = {
        "clients": point.clients,
        "coordinates": point.length,
        "graph": point.graph,
        "dropout": point.dropout,
        "ring_bits": ring.bits,
    }
    for cost in wire.costs:
        yield {
            **common,
            "stage": cost.stage,
            "role": cost.role,
            "cpu_seconds": cost.cpu_seconds,
            "share": cost.cpu_seconds / cpu,
            "sent_bytes": cost.bytes_sent,
            "wall_seconds": None,
            "peak_bytes": None,
            "peak_to_inputs": None,
            "plan": repr(aggregator),
        }
    yield {
        **common,
        "stage": "whole round",
        "role": "all",
        "cpu_seconds": cpu,
        "share": 1.0,
        "sent_bytes": sum(cost.bytes_sent for cost in wire.costs),
        "wall_seconds": seconds,
        "peak_bytes": peak,
        "peak_to_inputs": peak / (8 * point.clients * point.length),
        "plan": repr(aggregator),
    }


def _residents(crew: ProcessCrew, workers: int) -> int:
    """The largest resident sizes so far, in bytes: of this process and of every worker (idle ones get an item each)."""
    return _resident(0) + sum(crew.map(_resident, range(workers)))


def _resident(_: int) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _inputs(base: Integers, parties: Sequence[Party]) -> Iterator[tuple[Party, Integers]]:
    for party in parties:
        yield party, base + client_index(party) % 1000
