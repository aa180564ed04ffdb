"""The model is a function of released means and public constants alone, and what else leaks is said."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

import fedpriv as fp
from fedpriv.learning.server import RoundInfo
from fedpriv.learning.update import Update


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


@pytest.mark.statistical
def test_every_round_has_noise_of_its_own() -> None:
    """n = 20,000 coordinates, four rounds of zero updates: no correlation at α = 1e-6; a tenth in common fails.

    The same noise twice would cancel in the difference of two models.
    """
    size = 20_000
    vectors = tuple(fp.data.Client(index=i, name=str(i), x=np.zeros((1, size)), y=np.zeros(1)) for i in range(2))
    blank = fp.data.Federation(name="zeros", clients=vectors, test_x=np.zeros((1, size)), test_y=np.zeros(1), classes=2)
    plan = fp.Plan(
        model=None,
        client=Silent(),
        mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0),
        rounds=4,
    )
    released = [state.mean for state in fp.rounds(blank, plan, seed=3)]
    for one, other in itertools.combinations(released, 2):
        assert one is not None
        assert other is not None
        assert stats.pearsonr(one, other).pvalue > 1e-6
        assert stats.pearsonr(one, other + 0.1 * one).pvalue < 1e-6


@dataclass(frozen=True, kw_only=True)
class Silent:
    """A client whose update is zero."""

    record_level: bool = False

    def payload(self, parameters: int) -> dict[str, int]:
        return {"delta": parameters}

    def init(self, client: Any) -> None:
        return None

    def train(self, model: Any, broadcast: Any, clients: Any, states: Any, rngs: Any) -> list[Update]:
        return [Update(payload={"delta": np.zeros_like(broadcast.parameters)}) for _ in clients]
