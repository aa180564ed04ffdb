"""Comparisons whose cells are tuned, and a client that can diverge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import fedpriv as fp
from fedpriv.learning.update import Broadcast, Update, per_client

RATE = "client.learning_rate"
CLIP = "mechanism.clip_norm"
NOISED = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=4.0)
DELTA = 1e-3


def tuned(federation: Any, plans: Any, tune: Any, seeds: Any = (0, 1), **options: Any) -> fp.Study:
    given = {"delta": DELTA, "tune_seeds": [50], "progress": False} | options
    return fp.compare(federation, plans, seeds=seeds, tune=tune, **given)


@per_client
@dataclass(frozen=True)
class Diverges:
    """Sends its size in round 0, and NaN after that where it is large."""

    size: float

    def train_one(self, model: Any, broadcast: Broadcast, client: Any, state: Any, rng: Any) -> Update:
        value = np.nan if self.size > 1 and state is not None else self.size
        return Update(payload={"delta": np.full(len(broadcast.parameters), value, dtype=np.float32)}, state=1)
