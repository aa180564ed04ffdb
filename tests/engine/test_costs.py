"""What a run costs, in bytes and in precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from algorithms import Make, Unchecked, execute

import fedpriv as fp
from fedpriv.crypto import wire
from fedpriv.learning.update import Update
from fedpriv.privacy import NoDP


class TestCosts:
    def test_bytes_of_a_plain_sum_by_hand(self, federation: Any, planned: Make) -> None:
        """Eight clients, 15 parameters and a weight, 8-bit encodings times at most 7 examples: |input| ≤ 889."""
        run = execute(federation, planned(mechanism=NoDP(bits=8), rounds=1))
        body = wire.FRAME + (16 * 11 + 7) // 8  # ±889 in eleven bits
        model = 8 + len("parameters") + 8 + 4 * 15
        costs = run.costs.set_index(["stage", "role"])
        assert not costs["modelled"].any()
        assert costs.loc[("upload", "client"), ["parties", "messages", "bytes_sent"]].tolist() == [8, 8, 8 * body]
        assert costs.loc[("upload", "server"), "bytes_received"] == 8 * body
        assert costs.loc[("broadcast", "server"), "bytes_sent"] == 8 * model
        assert costs.loc[("broadcast", "client"), "bytes_received"] == 8 * model
        row = run.frame.iloc[0]
        assert (row["client_bytes_up"], row["client_bytes_down"]) == (body, model)
        assert row["train_seconds"] > 0
        assert row["wall_seconds"] >= 2 * 0.05  # two hops

    def test_lost_clients_send_nothing_but_stay_in_the_average(self, federation: Any, planned: Make) -> None:
        run = execute(
            federation, planned(mechanism=NoDP(bits=8), network=fp.Network(dropout={"upload": 0.5}), rounds=1)
        )
        there = len(run.records[0].contributors)
        assert 0 < there < 8
        assert run.frame["client_bytes_up"].iloc[0] * 8 == there * (wire.FRAME + 22)

    def test_ideal_runs_are_marked_modelled(self, federation: Any, planned: Make) -> None:
        plan = planned(aggregation=fp.SecureAggregation(), rounds=1)
        real, ideal = execute(federation, plan), execute(federation, plan, ideal=True)
        assert not real.costs["modelled"].any()
        always_real = {"broadcast", "train"}
        assert set(ideal.costs.query("modelled")["stage"]) == set(real.costs["stage"]) - always_real
        assert (real.summary()["costs"], ideal.summary()["costs"]) == ("measured", "modelled")
        for column in ("client_bytes_up", "client_bytes_down"):  # without dropouts the formulas are exact
            assert real.frame[column].tolist() == ideal.frame[column].tolist()

    def test_an_ideal_cohort_that_the_protocol_refuses_costs_nothing(self, federation: Any, planned: Make) -> None:
        aggregation = fp.SecureAggregation(corrupt=0.0, dropout=0.1, min_cohort=4)
        plan = planned(aggregation=aggregation, sampling=fp.PoissonSampling(0.7, max_cohort=8), rounds=20)
        real, ideal = execute(federation, plan), execute(federation, plan, ideal=True)
        assert "CohortTooSmall" in real.frame["aborted"].tolist()
        assert real.frame["aborted"].tolist() == ideal.frame["aborted"].tolist()
        assert real.frame["client_bytes_up"].tolist() == ideal.frame["client_bytes_up"].tolist()

    def test_the_authority_pays_for_handing_over_the_result(self, federation: Any, planned: Make) -> None:
        run = execute(federation, planned(aggregation=fp.CKKS(), mechanism=NoDP(bits=12), rounds=1))
        release = run.costs.query("stage == 'release'").set_index("role")
        assert release.loc["authority", "bytes_sent"] == release.loc["server", "bytes_received"] == 8 * 16

    @pytest.mark.parametrize("weighting", ["examples", "equal"])
    @pytest.mark.parametrize("bits", [6, 16])
    def test_rounding_error_against_the_mean_in_floats(
        self, bits: int, weighting: Any, federation: Any, planned: Make
    ) -> None:
        rng = np.random.default_rng(5)
        rows = rng.normal(size=(8, 15)).astype(np.float32)
        client = Unchecked(lambda index, size: Update(payload={"delta": rows[index]}))
        plan = planned(client=client, mechanism=NoDP(limit=2.0, bits=bits, weighting=weighting), rounds=1)
        run = execute(federation, plan)
        weights = federation.sizes if weighting == "examples" else np.ones(8)
        exact = weights @ np.clip(rows.astype(np.float64), -2.0, 2.0) / weights.sum()
        assert run.records[0].rounding_error == pytest.approx(np.abs(run.mean - exact).max(), rel=1e-9)
        assert run.records[0].rounding_error <= 2.0 / (2 ** (bits - 1) - 1)
        assert run.records[0].clipped_coordinates == np.count_nonzero(
            np.abs(rows) >= 2.0 * (1 + 0.5 / (2 ** (bits - 1) - 1))
        )
