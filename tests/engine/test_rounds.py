"""The round at run time: errors, what goes into the average, reproducibility."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from algorithms import Constant, Make, Unchecked, execute

import fedpriv as fp
from fedpriv.aggregation import hosting
from fedpriv.engine.executors import InlineCrew
from fedpriv.errors import ConfigurationError, NonFiniteInput, RoundAborted
from fedpriv.learning.update import Update
from fedpriv.privacy import NoDP


def delta(size: int, value: float = 0.5, dtype: Any = np.float32) -> Update:
    return Update(payload={"delta": np.full(size, value, dtype=dtype)})


class TestErrors:
    @pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("ideal", [False, True])
    def test_a_number_that_is_not_finite_names_client_and_round(
        self, poison: float, ideal: bool, federation: Any, planned: Make
    ) -> None:
        plan = planned(client=Constant(broken=3, poison=poison), rounds=3)
        with pytest.raises(NonFiniteInput, match="client/3") as caught:
            execute(federation, plan, ideal=ideal)
        assert "In round 2." in caught.value.__notes__
        assert not isinstance(caught.value, RoundAborted)  # a diverged client is no dropout: the run ends

    def test_an_algorithm_of_the_users_own_is_checked_as_well(self, federation: Any, planned: Make) -> None:
        client = Unchecked(lambda index, size: delta(size, np.nan if index == 5 else 0.0))
        with pytest.raises(NonFiniteInput, match="client/5"):
            execute(federation, planned(client=client))

    def test_an_update_is_missing(self, federation: Any, planned: Make) -> None:
        client = Unchecked(lambda index, size: delta(size) if index != 5 else None)
        with pytest.raises(ConfigurationError, match=r"one update for each client.*7 updates of 8"):
            execute(federation, planned(client=client))

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda size: delta(size + 1),
            lambda size: delta(size, dtype=np.int64),
            lambda size: Update(payload={"gradient": np.zeros(size, dtype=np.float32)}),
            lambda size: Update(payload={}),
            lambda size: np.zeros(size),
        ],
    )
    def test_a_payload_that_was_not_announced(self, wrong: Any, federation: Any, planned: Make) -> None:
        client = Unchecked(lambda index, size: wrong(size) if index == 2 else delta(size))
        with pytest.raises(ConfigurationError, match="client/2"):
            execute(federation, planned(client=client))

    def test_coordinates_that_are_cut_are_counted(self, federation: Any, planned: Make) -> None:
        run = execute(federation, planned(client=Constant(scale=1.0), mechanism=NoDP(limit=6.0), rounds=1))
        assert run.frame["clipped_coordinates"].tolist() == [2 * 15]  # clients 6 and 7 move by 7 and 8
        assert run.frame["train_loss"].tolist() == [3.5]


def test_state_is_a_sum_over_who_contributed(federation: Any, planned: Make) -> None:
    """The mean of a weighted run, from its integers: nothing of a lost client is in it, and its weight neither."""
    plan = planned(client=Constant(), network=fp.Network(dropout={"upload": 0.4}), rounds=1)
    run = execute(federation, plan)
    there = list(run.records[0].contributors)
    assert 0 < len(there) < 8
    sizes = federation.sizes[there]
    expected = (sizes * 0.125 * (np.array(there) + 1)).sum() / sizes.sum()
    np.testing.assert_allclose(run.mean, expected, atol=1e-5)


class TestReproducible:
    @pytest.fixture
    def plan(self, planned: Make) -> fp.Plan:
        return planned(
            sampling=fp.PoissonSampling(0.8),
            mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=0.5),
            network=fp.Network(dropout=0.3, stragglers=0.5),
            rounds=3,
        )

    def test_one_seed_one_result(self, federation: Any, plan: fp.Plan) -> None:
        first, again, other = (execute(federation, plan, seed=seed) for seed in (1, 1, 2))
        assert first.frame["sha256"].tolist() == again.frame["sha256"].tolist()
        assert [r.cohort for r in first.records] == [r.cohort for r in again.records]
        assert first.sha256 != other.sha256

    @pytest.mark.parametrize("chunk", [1, 3, 1000])
    def test_chunks_change_nothing(
        self, chunk: int, federation: Any, plan: fp.Plan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = execute(federation, plan)
        monkeypatch.setattr(hosting, "BLOCK", chunk)
        assert execute(federation, plan).frame["sha256"].tolist() == expected.frame["sha256"].tolist()

    def test_the_order_in_which_clients_train_changes_nothing(self, federation: Any, plan: fp.Plan) -> None:
        class Backwards(InlineCrew):
            """Trains the last client first, and hands results back in order."""

            def map(self, task: Any, items: Any) -> Any:
                cut = [[index] for block in items for index in block]
                return iter([task(block) for block in reversed(cut)][::-1])

        class Executor:
            def start(self) -> Backwards:
                return Backwards(1)

        backwards = execute(federation, plan, executor=Executor(), ideal=True)
        assert backwards.sha256 == execute(federation, plan).sha256

    def test_rounds_is_run_round_by_round(self, federation: Any, plan: fp.Plan) -> None:
        run = execute(federation, plan)
        steps = list(fp.rounds(federation, plan, seed=7))
        assert [step.record.sha256 for step in steps] == run.frame["sha256"].tolist()
        assert np.array_equal(steps[-1].parameters, run.parameters)
        for step in steps:
            assert hashlib.sha256(step.parameters.astype("<f4").tobytes()).hexdigest() == step.record.sha256

    def test_a_resolved_plan_can_be_run_again(self, federation: Any, plan: fp.Plan) -> None:
        resolved = plan.resolve(federation)
        assert execute(federation, resolved).sha256 == execute(federation, resolved).sha256

    def test_noise_of_the_operating_system_is_no_simulation(self, federation: Any, plan: fp.Plan) -> None:
        first, second, seeded = (execute(federation, plan, noise=noise) for noise in ("os", "os", "seeded"))
        assert len({first.sha256, second.sha256, seeded.sha256}) == 3
        said = [run.ledger.statement(1e-5, observer="public") for run in (first, seeded)]
        assert [statement.simulated for statement in said] == [False, True]
        assert "simulated" in str(said[1])
        assert "simulated" not in str(said[0])

    @pytest.mark.parametrize("noise", ["seeded", "os"])
    def test_global_generators_are_neither_read_nor_moved(self, noise: Any, federation: Any, plan: fp.Plan) -> None:
        import random

        import torch

        results = set()
        for start in (1, 2):
            np.random.seed(start)  # noqa: NPY002
            torch.manual_seed(start)
            random.seed(start)
            before = np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes(), random.getstate()  # noqa: NPY002
            results.add(execute(federation, plan, noise=noise).sha256)
            after = np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes(), random.getstate()  # noqa: NPY002
            assert before == after
        assert len(results) == (1 if noise == "seeded" else 2)
