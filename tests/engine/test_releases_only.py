"""The model is a function of released means and public constants alone, and what else leaks is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import fedpriv as fp
from fedpriv.learning.server import RoundInfo


@dataclass(frozen=True, kw_only=True)
class Curious(fp.FedAvg):
    """A server optimiser that keeps what it is told."""

    told: list[RoundInfo] = field(default_factory=list)

    def step(self, state: Any, mean: Any, info: RoundInfo) -> Any:
        self.told.append(info)
        return super().step(state, mean, info)


def test_an_optimiser_is_not_told_how_many_were_drawn(federation: Any, planned: Callable[..., fp.Plan]) -> None:
    """Else the model of a round could depend on the cohort's size, which amplification takes to be hidden."""
    server = Curious()
    sampling = fp.PoissonSampling(0.6)
    run = fp.run(federation, planned(server=server, sampling=sampling, rounds=6), seed=1, progress=False)
    assert len({len(record.cohort) for record in run.records}) > 1
    assert {info.cohort for info in server.told} == {sampling.expected(len(federation))}


def test_what_the_preparation_leaks_stands_beside_epsilon(federation: Any, planned: Callable[..., fp.Plan]) -> None:
    plan = planned(mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0))
    assert "Unaccounted" not in plan.resolve(federation).explain()
    fitted = replace(federation, notes=("Everyone learns the mean of each feature.",))
    assert "Unaccounted  Everyone learns the mean of each feature." in plan.resolve(fitted).explain()
