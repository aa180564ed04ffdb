"""Payloads of two entries, with a state that each client keeps and an extra broadcast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from algorithms import Make, execute

import fedpriv as fp
from fedpriv.engine.rounds import run_rounds
from fedpriv.errors import TooFewSurvivors
from fedpriv.learning.server import RoundInfo
from fedpriv.learning.update import Broadcast, Update, per_client
from fedpriv.privacy import NoDP


@per_client
@dataclass(frozen=True)
class ControlVariates:
    """SCAFFOLD's skeleton: two entries in the payload, a control variate kept by each client."""

    scale: float = 1.0

    def payload(self, parameters: int) -> dict[str, int]:
        return {"delta": parameters, "control": parameters}

    def init(self, client: Any) -> np.ndarray:
        return np.zeros(1, dtype=np.float32)

    def train_one(self, model: Any, broadcast: Broadcast, client: Any, state: np.ndarray, rng: Any) -> Update:
        size = len(broadcast.parameters)
        step = np.full(size, 0.25 * self.scale, dtype=np.float32) + broadcast.extra["control"] - state[0]
        change = np.full(size, 0.0625 * self.scale * (client.index + 1), dtype=np.float32)
        return Update(payload={"delta": step, "control": change}, state=state + change[:1])


@dataclass(frozen=True)
class Controlled:
    """The server of :class:`ControlVariates`: broadcasts its own control variate besides the model."""

    def init(self, parameters: Any) -> tuple[Any, Any]:
        return parameters, np.zeros_like(parameters)

    def step(self, state: Any, mean: Mapping[str, Any], info: RoundInfo) -> tuple[Any, Any]:
        assert list(mean) == ["delta", "control"]
        return state[0] + mean["delta"], state[1] + mean["control"]

    def broadcast(self, state: Any) -> Broadcast:
        return Broadcast(parameters=state[0], extra={"control": state[1]})


class TestTwoEntries:
    def plan(self, planned: Make, **parts: Any) -> fp.Plan:
        defaults: dict[str, Any] = {"mechanism": NoDP(limit=4.0, bits=24, weighting="equal"), "rounds": 3}
        return planned(client=ControlVariates(), server=Controlled(), **(defaults | parts))

    def by_hand(self, initial: Any, contributors: list[tuple[int, ...]]) -> tuple[np.ndarray, dict[int, float]]:
        """The algorithm with plain floats, over the given contributors of each round."""
        parameters, control, own = initial.astype(np.float64), 0.0, dict.fromkeys(range(8), 0.0)
        for present in contributors:
            step = np.mean([0.25 + control - own[index] for index in present])
            change = np.mean([0.0625 * (index + 1) for index in present])
            for index in present:
                own[index] += 0.0625 * (index + 1)
            parameters, control = parameters + step, control + change
        return parameters, own

    @pytest.mark.parametrize("aggregation", [fp.PlainSum(), fp.SecureAggregation(dropout=0.3)])
    def test_end_to_end_against_the_algorithm_by_hand(self, aggregation: Any, federation: Any, planned: Make) -> None:
        plan = self.plan(planned, aggregation=aggregation)
        run = execute(federation, plan)
        expected, _ = self.by_hand(run.resolved.initial(7), [tuple(range(8))] * 3)
        np.testing.assert_allclose(run.parameters, expected, atol=1e-5)
        assert run.resolved.entries == {"delta": 15, "control": 15}
        assert len(run.mean) == 30

    def test_a_client_lost_before_its_upload_keeps_its_old_state(self, federation: Any, planned: Make) -> None:
        network = fp.Network(dropout={"setup": 0.2, "upload": 0.2})
        plan = self.plan(planned, network=network, rounds=5)
        resolved = plan.resolve(federation)
        states = list(run_rounds(resolved, seed=3))
        contributors = [state.record.contributors for state, _ in states]
        assert any(len(present) < 8 for present in contributors)
        expected, own = self.by_hand(resolved.initial(3), contributors)
        np.testing.assert_allclose(states[-1][0].parameters, expected, atol=1e-5)
        carried = states[-1][1].clients
        for index in range(8):
            assert float(carried[index][0]) == pytest.approx(own[index]) if index in carried else own[index] == 0.0

    def test_an_aborted_round_advances_no_state(self, federation: Any, planned: Make) -> None:
        network = fp.Network(dropout={"recovery": 1.0})  # all upload, nobody unmasks
        plan = self.plan(planned, network=network, aggregation=fp.SecureAggregation())
        *_, (state, carried) = run_rounds(plan.resolve(federation), seed=3)
        assert isinstance(state.record.aborted, TooFewSurvivors)
        assert carried.clients == {}

    def test_one_clip_covers_both_entries(self, federation: Any, planned: Make) -> None:
        mechanism = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1e-9, bits=24)
        plan = self.plan(planned, mechanism=mechanism, rounds=1)
        run = execute(federation, replace(plan, client=ControlVariates(scale=16.0)))
        rows = np.array([np.r_[np.full(15, 4.0), np.full(15, index + 1.0)] for index in range(8)])
        rows /= np.linalg.norm(rows, axis=1)[:, None]
        np.testing.assert_allclose(run.mean, rows.mean(axis=0), atol=1e-6)
        assert run.records[0].clipped_norms == 8

    def test_the_extra_broadcast_is_paid_for(self, federation: Any, planned: Make) -> None:
        run, plain = execute(federation, self.plan(planned)), execute(federation, planned())
        down = [frame.costs.query("stage == 'broadcast' and role == 'client'") for frame in (run, plain)]
        extra = 8 + len("control") + 8 + 4 * 15
        assert (down[0]["bytes_received"].iloc[0] - down[1]["bytes_received"].iloc[0]) == 8 * extra
