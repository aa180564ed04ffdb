"""The plan's path: settled before round 1, named by the plan and the run, the same bits on any number of workers."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from algorithms import Constant, Unchecked, execute
from hypothesis import given
from hypothesis import strategies as st

import fedpriv as fp
from fedpriv.aggregation import hosting
from fedpriv.data import Client, Federation
from fedpriv.engine import resolution, training
from fedpriv.errors import ConfigurationError, NonFiniteInput, PlanError
from fedpriv.learning import Broadcast, LocalSGD, Update


def a_federation(shape: tuple[int, ...] = (6,), scale: float = 1.0) -> Federation:
    rng = np.random.default_rng(3)
    clients = []
    for index, m in enumerate([1, 9, 4, 30, 2, 7, 12]):
        x = rng.normal(size=(m, *shape)) * (scale if index == 3 else 1.0)
        clients.append(Client(index=index, name=str(index), x=x, y=rng.integers(0, 3, m)))
    test_x, test_y = rng.normal(size=(20, *shape)), rng.integers(0, 3, 20)
    return Federation(name="ragged", clients=tuple(clients), test_x=test_x, test_y=test_y, classes=3)


def a_plan(**settings: Any) -> fp.Plan:
    client = LocalSGD(learning_rate=0.1, epochs=2, batch_size=5, momentum=0.5, weight_decay=0.01, proximal=0.1)
    return fp.Plan(**{"model": fp.models.mlp, "client": client, "rounds": 3, **settings})


def a_net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.PReLU(), torch.nn.Linear(4, 3))


def with_dropout() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Dropout(), torch.nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("model", "path", "words"),
    [
        (fp.models.mlp, "stacked", "many at once, stacked\n"),
        (a_net, "vmap", "many at once, by vmap: 1 (PReLU) is no dense layer"),
        (with_dropout, "loop", "one client after the other: 1 (Dropout) is no dense layer; 1 (Dropout) is not known"),
    ],
)
def test_the_plan_and_the_run_say_the_path(model: Any, path: str, words: str) -> None:
    federation = a_federation()
    resolved = a_plan(model=model, rounds=1).resolve(federation)
    assert resolved.batching == path
    assert words in resolved.explain()
    assert execute(federation, resolved).batching == path
    assert a_plan(model=model, batching="loop").resolve(federation).batching == "loop"


def test_the_loop_and_the_stack_train_the_same_model() -> None:
    federation = a_federation()
    runs = {path: execute(federation, a_plan(batching=path)) for path in ("loop", "vmap", "stacked")}
    for path in ("vmap", "stacked"):
        # The grid's step is 8e-6: a rounding that falls on the other side moves a mean by less than that.
        np.testing.assert_allclose(runs[path].parameters, runs["loop"].parameters, rtol=0, atol=2e-5)
        assert runs[path].records[-1].train_loss == pytest.approx(runs["loop"].records[-1].train_loss, abs=1e-4)


def test_a_forced_path_is_had_or_refused() -> None:
    federation = a_federation()
    for model, path in ((with_dropout, "vmap"), (with_dropout, "stacked"), (a_net, "stacked")):
        with pytest.raises(PlanError, match=rf'batching="{path}".*batching="auto"'):
            a_plan(model=model, batching=path).resolve(federation)
    with pytest.raises(PlanError, match=r"Constant.*path"):
        a_plan(client=Constant(), batching="stacked").resolve(federation)
    with pytest.raises(PlanError, match="vmap"):
        a_plan(model=None, client=Constant(), batching="vmap").resolve(federation)
    with pytest.raises(ConfigurationError, match="batching"):
        a_plan(batching="fast")


def test_falling_back_to_the_loop_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(resolution, "_SAID", set())
    with caplog.at_level(logging.INFO, logger="fedpriv"):
        for settings in ({"model": with_dropout, "batching": "loop"}, {}, {"model": a_net}):
            a_plan(**settings).resolve(a_federation())
        assert not caplog.records
        for _ in range(2):
            a_plan(model=with_dropout).resolve(a_federation())
    assert [record.getMessage() for record in caplog.records] == [
        "Clients are trained one after the other: 1 (Dropout) is no dense layer; 1 (Dropout) is not known to vmap."
    ]


@dataclass(frozen=True)
class Told:
    """A user's algorithm with a stacked form of its own, and one without."""

    seen: list[Any] = field(default_factory=list)
    record_level: bool = False

    def payload(self, parameters: int) -> dict[str, int]:
        return {"delta": parameters}

    def init(self, client: Any) -> None:
        return None

    def path(self, model: Any, batching: str) -> str:
        return "stacked" if batching == "auto" else batching

    def train(self, model: Any, broadcast: Broadcast, clients: Any, states: Any, rngs: Any, *, batching: str) -> Any:
        self.seen.append((batching, len(clients)))
        return [Update(payload={"delta": np.ones_like(broadcast.parameters)}) for _ in clients]


def test_an_algorithm_of_the_users_own() -> None:
    """Told its path where it can say which it takes; else it is a chunk form like any other."""
    told = Told()
    assert execute(a_federation(), a_plan(client=told, rounds=1, model=with_dropout)).batching == "stacked"
    assert told.seen == [("stacked", 7)]
    silent = Unchecked(lambda index, size: Update(payload={"delta": np.ones(size, dtype=np.float32)}))
    assert execute(a_federation(), a_plan(client=silent, rounds=1)).batching == "loop"


@pytest.mark.parametrize("mechanism", [fp.NoDP(limit=0.01), fp.CentralGaussian(clip_norm=0.1, noise_multiplier=1.0)])
@pytest.mark.parametrize("ideal", [True, False])
def test_how_many_clients_are_encoded_at_a_time_changes_nothing(
    mechanism: Any, ideal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, plan = a_federation(), a_plan(mechanism=mechanism)
    together = execute(federation, plan, ideal=ideal)
    monkeypatch.setattr(training, "IN_CACHE", 1)
    alone = execute(federation, plan, ideal=ideal)
    assert alone.sha256 == together.sha256
    for one, other in zip(alone.records, together.records, strict=True):
        assert (one.clipped_norms, one.clipped_coordinates) == (other.clipped_norms, other.clipped_coordinates)
        assert one.rounding_error == pytest.approx(other.rounding_error, rel=1e-6)
    assert any(r.clipped_norms + r.clipped_coordinates for r in alone.records)


def test_a_client_that_diverges_in_a_stack_is_named() -> None:
    client = LocalSGD(learning_rate=1e30, steps=3)
    with pytest.raises(NonFiniteInput, match="client/3") as caught:
        execute(a_federation(scale=1e25), a_plan(model=fp.models.logistic, client=client))
    assert "round 1" in str(caught.value.__notes__)


@given(st.integers(0, 3000))
def test_blocks_are_few_and_equal(cohort: int) -> None:
    cut = hosting.blocks(list(range(cohort)))
    assert [party for block in cut for party in block] == list(range(cohort))
    sizes = [len(block) for block in cut]
    assert len(sizes) == math.ceil(cohort / hosting.BLOCK)
    assert not sizes or max(sizes) - min(sizes) <= 1
