"""The engine's suite: one table beside a limit of the same run; peers where they are; references that are right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import fedpriv as fp
from benchmarks import Row, engine, engine_by_hand, peers
from benchmarks.engine_ground import RATE, Point, resampled

POINT = Point("mlp", 20, 4, 2, 1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "QUICK", (POINT,))
    monkeypatch.setattr(engine, "QUICK_POPULATIONS", (60, 70))
    monkeypatch.setattr(engine, "PRIVATE", (20, 4))
    monkeypatch.setattr(peers, "measure", lambda *_: iter(()))


@pytest.mark.usefixtures("small")
def test_methods_stand_beside_peers_and_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def peer(name: str, script: object, wanted: str) -> Iterator[Row]:
        given = json.loads(wanted)
        with np.load(given["data"]) as data:
            assert data["x"].shape == (data["ends"][-1], 64)
            assert len(data["ends"]) == 20
        for model, cohort, _ in given["points"]:
            yield {"method": name, "model": model, "population": 20, "cohort": cohort, "seconds": 2.0}

    monkeypatch.setattr(peers, "measure", peer)
    rows = list(engine.rows(quick=True))
    assert len({tuple(row) for row in rows}) == 1
    by_method = {row["method"]: row for row in rows if row["study"] == "rounds"}
    wanted = {f"{kind}, {path}" for kind in ("train", "engine") for path in ("loop", "vmap", "stacked")}
    assert wanted < set(by_method)
    limit = by_method["limit, 1 thread"]["rounds_per_second"]
    for name, row in by_method.items():
        speed = row["rounds_per_second"]
        assert isinstance(speed, float)
        assert row["updates_per_second"] == pytest.approx(4 * speed)
        assert row["to_pfl"] == row["to_flower"] == pytest.approx(2.0 * speed)
        if "2 " not in str(name):
            assert isinstance(limit, float)
            assert row["to_limit"] == pytest.approx(limit / speed)
    noisy = [row for row in rows if row["study"] == "dp-sgd"]
    assert [row["method"] for row in noisy] == ["loop with Opacus", "stacked"] * 2
    assert all(isinstance(row["difference"], float) and row["difference"] < 1e-6 for row in noisy)
    grown = [row for row in rows if row["study"] == "population"]
    assert [row["population"] for row in grown] == [60, 70]
    assert grown[0]["to_first"] == 1.0


def test_without_peers_there_is_no_row_of_theirs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "measure", lambda *_: iter(()))
    federation = resampled(20)
    rows = list(engine._rounds(POINT, federation, engine._saved(federation, tmp_path / "data.npz"), quick=True))
    assert {row["method"] for row in rows}.isdisjoint({"pfl", "flower, 2 actors"})
    assert all(row["to_pfl"] is row["to_flower"] is None for row in rows)


def test_operations_of_a_record() -> None:
    """Forward, and of the backward pass what weights and hidden units need: 2 per multiplication and addition."""
    federation = resampled(3)
    assert engine_by_hand.operations("logistic", federation) == 2 * 2 * 640
    assert engine_by_hand.operations("mlp", federation) == 2 * (2 * (64 * 128 + 1280) + 1280)


def test_the_reference_by_hand_is_sgd() -> None:
    """Two ragged clients, one step: the products by hand against autograd."""
    module = fp.models.mlp((6,), 3, hidden=(5,))
    x, labels, sizes = torch.randn(2, 4, 6), torch.tensor([[0, 1, 2, 1], [2, 0, 0, 0]]), (4, 2)
    hot = torch.nn.functional.one_hot(labels, 3).float()
    hot[1, 2:] = 0
    stacked = [p.detach().repeat(2, *(1,) * p.ndim) for p in module.parameters()]
    engine_by_hand.dense_step(stacked, x, hot)
    for k, size in enumerate(sizes):
        loss = torch.nn.functional.cross_entropy(module(x[k, :size]), labels[k, :size])
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        for p, g, s in zip(module.parameters(), gradients, stacked, strict=True):
            torch.testing.assert_close(s[k], p - RATE * g)
