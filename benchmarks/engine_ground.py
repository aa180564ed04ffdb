"""What the engine's suite measures on: models, federations, cohorts, and training without an engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

import fedpriv as fp
from fedpriv.aggregation.hosting import BLOCK
from fedpriv.data import Client, Federation
from fedpriv.engine.executors import torch_threads
from fedpriv.learning import Broadcast
from fedpriv.learning.paths import Batching
from fedpriv.learning.update import ClientUpdate, Update
from fedpriv.randomness import Streams

if TYPE_CHECKING:
    import torch

BATCH, RATE = 10, 0.1
FIRST = 2
"""Rounds that are not counted, of each turn."""
TURNS = 4
Method: TypeAlias = Callable[[int], list[float]]
"""The turn's number → seconds of its rounds that are counted."""
MODELS: dict[str, Callable[..., Any]] = {
    "logistic": fp.models.logistic,
    "mlp": partial(fp.models.mlp, hidden=(128,)),
    "cnn": fp.models.cnn,
}


@dataclass(frozen=True)
class Point:
    """A model over a federation, so many clients a round."""

    model: str
    population: int
    cohort: int
    rounds: int
    """That are counted in a turn, of the fast methods."""
    slow: int
    """Of the slow ones."""


def resampled(population: int) -> Federation:
    """Digits: every client draws 20 to 60 of the records, with replacement."""
    digits = fp.data.digits(clients=1, seed=0)
    (whole,) = digits.clients
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(whole), size) for size in rng.integers(20, 61, population).tolist()]
    members = (Client(index=i, name=str(i), x=whole.x[rows], y=whole.y[rows]) for i, rows in enumerate(drawn))
    return replace(digits, name="digits, resampled", clients=tuple(members))


def federation_of(point: Point) -> Federation:
    return fp.data.mnist(clients=point.population, seed=0) if point.model == "cnn" else resampled(point.population)


def by_federation(points: Sequence[Point]) -> list[list[Point]]:
    """Points that share their federation."""
    groups: dict[tuple[bool, int], list[Point]] = {}
    for point in points:
        groups.setdefault((point.model == "cnn", point.population), []).append(point)
    return list(groups.values())


@dataclass(frozen=True)
class Training:
    """A model and a federation to train it on, without an engine."""

    module: torch.nn.Module
    broadcast: Broadcast
    federation: Federation

    @classmethod
    def of(cls, point: Point, federation: Federation) -> Training:
        module = fp.models.build(MODELS[point.model], federation.shape, federation.classes, seed=0)
        return cls(module, Broadcast(parameters=fp.models.flatten(module)), federation)

    def updates(self, client: ClientUpdate, cohort: npt.NDArray[np.int64], batching: Batching) -> list[Update]:
        """Every client's, in order."""
        done: list[Update] = []
        with torch_threads(1):
            for start in range(0, len(cohort), BLOCK):
                block = [self.federation.clients[i] for i in cohort[start : start + BLOCK]]
                rngs = Streams(0).generators("training", 0, [c.index for c in block])
                states = [None] * len(block)
                train: Any = client.train
                done += train(self.module, self.broadcast, block, states, rngs, batching=batching)
        return done


def cohorts_of(point: Point, rounds: int, turn: int) -> list[npt.NDArray[np.int64]]:
    rng = np.random.default_rng(turn)
    return [rng.choice(point.population, point.cohort, replace=False) for _ in range(FIRST + rounds)]


def seconds_of(actions: Sequence[Callable[[], object]]) -> list[float]:
    """What each takes, the first ones left out."""
    spent = []
    for action in actions:
        started = time.perf_counter()
        action()
        spent.append(time.perf_counter() - started)
    return spent[FIRST:]


def in_turns(methods: Mapping[str, Method], turns: int = TURNS) -> dict[str, float]:
    """Each method's median seconds of a round. They take turns, since a machine's speed drifts within minutes."""
    spent: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(turns):
        for name, method in methods.items():
            spent[name] += method(turn)
    return {name: median(seconds) for name, seconds in spent.items()}
