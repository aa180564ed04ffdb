"""What clients compute in the tests of a run, and how a plan is run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

import fedpriv as fp
from fedpriv.engine.crews import WorkerCrew
from fedpriv.learning.update import Broadcast, Update, per_client

Make = Callable[..., fp.Plan]


def execute(federation: Any, plan: Any, seed: int = 7, **options: Any) -> fp.Run:
    return fp.run(federation, plan, seed=seed, progress=False, **options)


@dataclass(frozen=True)
class Ready:
    """These workers, run after run: they load torch once."""

    crew: WorkerCrew

    def start(self) -> Any:
        return nullcontext(self.crew)


TIMINGS = ["client_seconds", "train_seconds", "server_seconds", "wall_seconds", "seconds", "evaluate_seconds"]
PATHS = ("stacked", "vmap", "loop")


def same_bits(crew: WorkerCrew, federation: Any, planned: Make) -> None:
    """However clients are trained, ideal and masked, and whoever drops out: any number of workers, down to one, gives
    each round the model that one process does, and all else that a run says but for timings.
    """
    network = fp.Network(dropout=0.3)
    runs = [
        (
            planned(
                aggregation=fp.SecureAggregation(dropout=0.5, corrupt=0.0), network=network, batching=path, rounds=2
            ),
            {"ideal": ideal},
        )
        for path in PATHS
        for ideal in (True, False)
    ]
    here = [execute(federation, plan, **how) for plan, how in runs]
    while crew.workers:
        for expected, (plan, how) in zip(here, runs, strict=True):
            there = execute(federation, plan, executor=Ready(crew), **how)
            assert there.batching == plan.batching
            assert there.frame.drop(columns=TIMINGS).equals(expected.frame.drop(columns=TIMINGS))
            assert there.ledger.events == expected.ledger.events
        crew.workers.pop().end()
    assert any(run.frame["contributors"].min() < 8 for run in here)


@per_client
@dataclass(frozen=True)
class Constant:
    """Every client moves every coordinate by its index + 1 times ``scale``; one client may send what is no number."""

    scale: float = 0.125
    broken: int | None = None
    poison: float = np.nan
    broken_round: int = 1

    def init(self, client: Any) -> int:
        return 0

    def train_one(self, model: Any, broadcast: Broadcast, client: Any, state: int, rng: Any) -> Update:
        delta = np.full(len(broadcast.parameters), self.scale * (client.index + 1), dtype=np.float32)
        if client.index == self.broken and state == self.broken_round:
            delta[2] = self.poison
        return Update(payload={"delta": delta}, state=state + 1, metrics={"loss": float(client.index)})


@dataclass(frozen=True)
class Unchecked:
    """A chunk algorithm of the user's own, with whatever ``updates`` makes of a chunk."""

    updates: Callable[[int, int], Any]
    record_level: bool = False

    def payload(self, parameters: int) -> dict[str, int]:
        return {"delta": parameters}

    def init(self, client: Any) -> None:
        return None

    def train(self, model: Any, broadcast: Broadcast, clients: Any, states: Any, rngs: Any) -> Any:
        made = [self.updates(client.index, len(broadcast.parameters)) for client in clients]
        return [update for update in made if update is not None]
