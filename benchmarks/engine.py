"""Simulated rounds a second: fedpriv's engine beside pfl, Flower, torch by hand and the machine's matrix product.

FedAvg on digits, resampled to 20 to 60 records a client, one epoch of SGD in batches of 10; the CNN on MNIST.
``train``: a cohort's updates and nothing else. ``engine``: ideal rounds as ``fp.run`` has them: sampling, training,
encoding, the exact integer sum, the server's step, the ledger and the record; then with every message real.
``to_limit``: how many times the arithmetic limit a round takes, which is the measured GEMM of as many threads (1024³,
float32) and the floating-point operations of the cohort's records without padding. pfl, the loop by hand and everything
that does not say otherwise have one thread; Flower has two actors. Medians of rounds after the first ones. Methods on
one thread, pfl among them, take turns; where load comes and goes, ratios to the others do, too.

DP-SGD is compared with one client after the other under Opacus (``to_loop``), with the largest difference of an update.
Populations grow at a fixed cohort of 50: ``to_first`` is the cost of a round beside that of the smallest population,
``peak_mb`` a process of its own, ``data_mb`` what the records take.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import fedpriv as fp
from benchmarks import Row, peers
from benchmarks.engine_by_hand import by_hand_bmm, by_hand_loop, limit
from benchmarks.engine_ground import (
    BATCH,
    FIRST,
    MODELS,
    RATE,
    TURNS,
    Method,
    Point,
    Training,
    by_federation,
    cohorts_of,
    federation_of,
    in_turns,
    resampled,
    seconds_of,
)
from fedpriv.data import Federation
from fedpriv.engine.executors import Executor, Inline
from fedpriv.engine.rounds import run_rounds
from fedpriv.errors import FedprivError
from fedpriv.learning.paths import Batching

PEERS = Path(__file__).with_name("engine_peers.py")
POPULATIONS = (100, 1_000, 10_000, 100_000)
QUICK_POPULATIONS = (100, 10_000)
FIXED_COHORT = 50
PRIVATE = (1000, 100)
"""Population and cohort of DP-SGD."""
POINTS = (
    Point("logistic", 100, 10, 15, 5),
    Point("mlp", 100, 10, 15, 5),
    Point("logistic", 1000, 100, 10, 4),
    Point("mlp", 1000, 100, 10, 4),
    Point("cnn", 100, 10, 2, 2),
)
QUICK = (Point("mlp", 1000, 100, 4, 1),)


def rows(*, quick: bool) -> Iterator[Row]:
    """Rounds of each point, DP-SGD, growing populations."""
    for points in by_federation(QUICK if quick else POINTS):
        federation = federation_of(points[0])
        with tempfile.TemporaryDirectory() as folder:
            for_peers = _saved(federation, Path(folder) / "data.npz")
            for point in points:
                yield from _rounds(point, federation, for_peers, quick)
    for model in ("logistic", "mlp"):
        yield from _dpsgd(model, quick)
    yield from _growth(QUICK_POPULATIONS if quick else POPULATIONS, 20 if quick else 60)


def _row(study: str, method: str, model: str, population: int, cohort: int, seconds: float, **other: Any) -> Row:
    """Every row has these columns."""
    columns = ("to_limit", "to_pfl", "to_flower", "to_loop", "difference", "to_first", "peak_mb", "data_mb")
    return {
        "study": study,
        "method": method,
        "model": model,
        "population": population,
        "cohort": cohort,
        "rounds_per_second": 1 / seconds,
        "updates_per_second": cohort / seconds,
        **{column: other.get(column) for column in columns},
    }


# --- peers ------------------------------------------------------------------------------------------------------------


def _saved(federation: Federation, path: Path) -> Path:
    """The federation's records, where peers read them."""
    x, y = (np.concatenate([getattr(client, name) for client in federation.clients]) for name in ("x", "y"))
    np.savez(path, x=x, y=y, ends=np.cumsum(federation.sizes))
    return path


def _peer(peer: str, point: Point, rounds: int, data: Path, turn: int = 0) -> list[float]:
    """A peer's median seconds of so many rounds, started anew; without its environment there are none."""
    wanted = {"peer": peer, "data": str(data), "batch": BATCH, "rate": RATE}
    wanted |= {"points": [(point.model, point.cohort, rounds)]}
    return [float(row["seconds"] or 0) for row in peers.measure(peer, PEERS, json.dumps(wanted))]


# --- rounds -----------------------------------------------------------------------------------------------------------


def _rounds(point: Point, federation: Federation, for_peers: Path, quick: bool) -> Iterator[Row]:
    limits = {threads: limit(point, federation, threads) for threads in (1, 2)}
    methods = _on_one_thread(point, federation)
    flower = next(iter(_peer("flower", point, TURNS * point.slow, for_peers)), None)
    if flower:  # there are peers
        methods = {"pfl": partial(_peer, "pfl", point, point.slow, for_peers)} | methods
    found = in_turns(methods, 1 if quick else TURNS)
    pfl, loop = found.get("pfl"), found["torch loop by hand"]

    def row(method: str, seconds: float, threads: int = 1) -> Row:
        return _row(
            *("rounds", method, point.model, point.population, point.cohort, seconds),
            to_limit=seconds / limits[threads],
            to_pfl=pfl / seconds if pfl else None,
            to_flower=flower / seconds if flower else None,
            to_loop=loop / seconds,
        )

    for threads, seconds in limits.items():
        yield row(f"limit, {threads} thread{'s' * (threads > 1)}", seconds, threads)
    if flower:
        yield row("flower, 2 actors", flower, 2)
    for method, seconds in found.items():
        yield row(method, seconds)
    elsewhere: dict[str, Executor] = {"2 threads": Inline(threads=2)}
    if not quick:
        elsewhere |= {"Processes(2)": fp.Processes(2), "Ray, 2 workers": fp.Ray(workers=2)}
    many = replace(point, rounds=TURNS * point.rounds)  # in one turn: workers take long to start
    for name, executor in elsewhere.items():
        try:
            yield row(f"engine, auto, {name}", median(_engine(many, federation, "auto", executor, 0)), 2)
        except FedprivError as error:
            print(f"SKIPPED: {name} is not measured: {error}", file=sys.stderr)


def _on_one_thread(point: Point, federation: Federation) -> dict[str, Method]:
    methods: dict[str, Method] = {"torch loop by hand": partial(by_hand_loop, point, federation)}
    paths: tuple[Batching, ...] = ("loop", "vmap")
    if point.model != "cnn":
        methods["bmm by hand"] = partial(by_hand_bmm, point, federation)
        paths += ("stacked",)
    for batching in paths:
        methods[f"train, {batching}"] = partial(_training, point, federation, batching)
        methods[f"engine, {batching}"] = partial(_engine, point, federation, batching, Inline())
    methods["engine, auto, real PlainSum"] = partial(_engine, point, federation, "auto", Inline(), ideal=False)
    return methods


def _plan(point: Point, batching: Batching) -> fp.Plan:
    return fp.Plan(
        model=MODELS[point.model],
        client=fp.LocalSGD(epochs=1, batch_size=BATCH, learning_rate=RATE),
        mechanism=fp.NoDP(),
        sampling=fp.FixedSizeSampling(point.cohort),
        batching=batching,
        rounds=FIRST + (point.slow if batching == "loop" else point.rounds),
    )


def _engine(
    point: Point, federation: Federation, batching: Batching, executor: Executor, turn: int, *, ideal: bool = True
) -> list[float]:
    """Seconds of the whole engine's rounds."""
    resolved = _plan(point, batching).resolve(federation)
    ends = [time.perf_counter() for _ in run_rounds(resolved, seed=turn, ideal=ideal, executor=executor)]
    return [b - a for a, b in zip(ends[FIRST - 1 :], ends[FIRST:], strict=False)]


def _training(point: Point, federation: Federation, batching: Batching, turn: int) -> list[float]:
    """Seconds of a cohort's training, block by block as the engine has it."""
    work = Training.of(point, federation)
    client = fp.LocalSGD(epochs=1, batch_size=BATCH, learning_rate=RATE)
    cohorts = cohorts_of(point, point.slow if batching == "loop" else point.rounds, turn)
    return seconds_of([partial(work.updates, client, cohort, batching) for cohort in cohorts])


# --- DP-SGD -----------------------------------------------------------------------------------------------------------


def _dpsgd(model: str, quick: bool) -> Iterator[Row]:
    """Stacked beside the loop that has Opacus' per-example gradients."""
    point = Point(model, *PRIVATE, 3, 1)
    client = fp.DPSGD(
        learning_rate=RATE,
        clip_norm=1.0,
        noise_multiplier=1.0,
        noise="seeded",
        sampling_rate=0.25,
        expected_batch=10.0,
        steps=4,
    )
    work = Training.of(point, resampled(point.population))

    def rounds(batching: Batching, count: int, turn: int) -> list[float]:
        return seconds_of([partial(work.updates, client, c, batching) for c in cohorts_of(point, count, turn)])

    ways: dict[str, tuple[Batching, int]] = {
        "loop with Opacus": ("loop", point.slow),
        "stacked": ("stacked", point.rounds),
    }
    seconds = in_turns({name: partial(rounds, *way) for name, way in ways.items()}, 1 if quick else TURNS)
    (cohort, *_) = cohorts_of(point, 0, 0)
    last = {
        n: np.stack([u.payload["delta"] for u in work.updates(client, cohort, way)]) for n, (way, _) in ways.items()
    }
    for name in ways:
        yield _row(
            *("dp-sgd", name, model, point.population, point.cohort, seconds[name]),
            to_loop=seconds["loop with Opacus"] / seconds[name],
            difference=float(np.abs(last[name] - last["loop with Opacus"]).max()),
        )


# --- populations ------------------------------------------------------------------------------------------------------


def _growth(populations: Sequence[int], rounds: int) -> Iterator[Row]:
    """The MLP at a fixed cohort, each population in a process of its own."""
    first: float | None = None
    for population in populations:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            seconds, peak, data = apart.submit(_grown, population, rounds).result()
        first = first or seconds
        yield _row(
            *("population", "engine, auto", "mlp", population, FIXED_COHORT, seconds),
            to_first=seconds / first,
            peak_mb=peak / 1e6,
            data_mb=data / 1e6,
        )


def _grown(population: int, rounds: int) -> tuple[float, int, int]:
    """Seconds of a round, the process's peak and the records' bytes."""
    federation = resampled(population)
    seconds = median(_engine(Point("mlp", population, FIXED_COHORT, rounds, rounds), federation, "auto", Inline(), 0))
    peak = _peak()
    return seconds, peak, sum(client.x.nbytes + client.y.nbytes for client in federation.clients)


def _peak() -> int:
    """Bytes of this process at most; by getrusage a child has its parent's, where the system says no better."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
