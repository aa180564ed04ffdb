"""What clients compute in the tests of a run, and how a plan is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fedpriv as fp
from fedpriv.learning.update import Broadcast, Update, per_client

Make = Callable[..., fp.Plan]


def execute(federation: Any, plan: Any, seed: int = 7, **options: Any) -> fp.Run:
    return fp.run(federation, plan, seed=seed, progress=False, **options)


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
