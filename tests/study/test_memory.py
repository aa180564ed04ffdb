"""Memory is flat in rounds, and in the population at a fixed cohort."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

import fedpriv as fp

Make = Callable[..., fp.Plan]


def wide() -> Any:
    """A model of 25 kB."""
    import torch

    return torch.nn.Sequential(torch.nn.Linear(4, 800), torch.nn.ReLU(), torch.nn.Linear(800, 3))


def execute(federation: Any, plan: fp.Plan, **options: Any) -> fp.Run:
    return fp.run(federation, plan, seed=7, progress=False, evaluate_every=plan.rounds, **options)


@pytest.mark.parametrize(
    "parts",
    [
        {"mechanism": fp.CentralGaussian(clip_norm=1.0, noise_multiplier=2.0), "server": fp.FedAdam(learning_rate=0.1)},
        {"aggregation": fp.SecureAggregation()},
    ],
)
def test_in_rounds(parts: Any, federation: Any, planned: Make) -> None:
    """A round leaves its record and its release: 2 to 6 kB, and no vector as long as the model."""
    held: dict[int, int] = {}

    def weigh(progress: Any) -> None:
        if progress.rounds in (5, 20):
            gc.collect()
            held[progress.rounds] = tracemalloc.get_traced_memory()[0]

    execute(federation, planned(model=wide, **parts))  # loads code
    tracemalloc.start()
    try:
        execute(federation, planned(model=wide, rounds=20, **parts), callbacks=[weigh])
    finally:
        tracemalloc.stop()
    assert held[20] - held[5] < 15 * 10_000


@pytest.mark.parametrize("ideal", [True, False])
def test_in_the_population(ideal: bool, federations: Any, planned: Make) -> None:
    """A cohort of ten of 300 or of 3,000 takes the same; a vector for each would be 65 MB more."""
    plan = planned(model=wide, sampling=fp.FixedSizeSampling(10), aggregation=fp.SecureAggregation())
    execute(federations(), planned(model=wide), ideal=ideal)  # loads code
    peaks = []
    for clients in (300, 3000):
        federation = federations(clients=clients)
        tracemalloc.start()
        try:
            execute(federation, plan, ideal=ideal)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2700 * 100
