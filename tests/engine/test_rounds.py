"""The round at run time: errors, aborts, two-entry payloads with state, reproducibility, costs, the context."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest

import fedpriv as fp
from fedpriv.crypto import wire
from fedpriv.engine import executors
from fedpriv.engine.context import digest, serialise
from fedpriv.engine.plan import describe
from fedpriv.engine.rounds import run_rounds
from fedpriv.errors import CohortTooSmall, ConfigurationError, NonFiniteInput, RoundAborted, TooFewSurvivors
from fedpriv.learning.server import RoundInfo
from fedpriv.learning.update import Broadcast, Update, per_client
from fedpriv.privacy import Encoded, NoDP

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


ABORTING = fp.SecureAggregation(corrupt=0.0, dropout=0.1, min_cohort=6)


class TestAborts:
    @pytest.mark.parametrize("ideal", [False, True])
    def test_too_few_survivors_leave_everything_as_it_was(self, ideal: bool, federation: Any, planned: Make) -> None:
        network = fp.Network(dropout={"upload": 0.35})
        plan = planned(client=Constant(), aggregation=ABORTING, network=network, rounds=8)
        run = execute(federation, plan, ideal=ideal)
        before = hashlib.sha256(run.resolved.initial(7).tobytes()).hexdigest()
        aborted = [record for record in run.records if record.aborted is not None]
        assert 0 < len(aborted) < 8  # the study goes on, before and after
        assert run.ledger.rounds == 8 - len(aborted)
        assert len(run.ledger) == 8  # that nothing came is recorded: it may show who was drawn
        for record in run.records:
            if record.aborted is not None:
                assert type(record.aborted) is TooFewSurvivors
                assert record.contributors == ()
                assert np.isnan(record.rounding_error)
                assert record.sha256 == before
            before = record.sha256
        assert run.frame["aborted"].tolist() == [
            "TooFewSurvivors" if record.aborted is not None else "" for record in run.records
        ]
        assert run.summary()["aborted_rounds"] == len(aborted)

    def test_raise_ends_the_run_with_the_rounds_error(self, federation: Any, planned: Make) -> None:
        plan = planned(client=Constant(), aggregation=ABORTING, network=fp.Network(dropout={"upload": 1.0}))
        with pytest.raises(TooFewSurvivors):
            execute(federation, plan, on_abort="raise")

    def test_a_run_of_aborts_only(self, federation: Any, planned: Make) -> None:
        run = execute(federation, planned(network=fp.Network(dropout={"upload": 1.0})))
        assert run.mean is None
        assert run.ledger.rounds == 0
        assert np.array_equal(run.parameters, run.resolved.initial(7))
        assert run.ledger.epsilon(1e-5, observer="public") == 0.0
        # What an aborted round showed to who sees single updates the ledger cannot know: it charges for them.
        assert run.ledger.epsilon(1e-5, observer="server") == np.inf
        assert "2 aborted" in repr(run)

    @pytest.mark.parametrize("mechanism", [NoDP(), fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0)])
    def test_empty_poisson_cohort(self, mechanism: Any, federation: Any, planned: Make) -> None:
        plan = planned(client=Constant(), sampling=fp.PoissonSampling(0.1), mechanism=mechanism, rounds=12)
        real, ideal = execute(federation, plan), execute(federation, plan, ideal=True)
        empty = [record for record in real.records if not record.cohort]
        assert 0 < len(empty) < 12
        assert {type(record.aborted) for record in empty} == {CohortTooSmall}
        assert real.ledger.rounds == 12 - len(empty)
        assert real.frame["sha256"].tolist() == ideal.frame["sha256"].tolist()
        assert real.frame["aborted"].tolist() == ideal.frame["aborted"].tolist()

    def test_a_release_that_finds_nobody_is_an_abort_too(self, federation: Any, planned: Make) -> None:
        @dataclass(frozen=True, kw_only=True)
        class Nobody(NoDP):
            """A mechanism that sends no weight at all."""

            def protect(self, updates: Any, examples: Any, spec: Any, rngs: Any) -> Encoded:
                encoded = super().protect(updates, examples, spec, rngs)
                return replace(encoded, values=np.zeros_like(encoded.values))

        run = execute(federation, planned(mechanism=Nobody()))
        assert run.frame["aborted"].tolist() == ["CohortTooSmall"] * 2
        assert [record.contributors for record in run.records] == [(), ()]
        assert run.frame["rounding_error"].isna().all()
        assert run.ledger.rounds == 0


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
        monkeypatch.setattr(executors, "CHUNK", chunk)
        assert execute(federation, plan).frame["sha256"].tolist() == expected.frame["sha256"].tolist()

    def test_the_order_in_which_clients_train_changes_nothing(self, federation: Any, plan: fp.Plan) -> None:
        class Backwards:
            """Trains the last client first, and hands results back in order."""

            def map(self, task: Any, chunks: Any) -> Any:
                cut = [[index] for chunk in chunks for index in chunk]
                return iter([task(chunk) for chunk in reversed(cut)][::-1])

        assert execute(federation, plan, executor=Backwards()).sha256 == execute(federation, plan).sha256

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


class TestContext:
    @pytest.fixture
    def parts(self, federation: Any, planned: Make) -> tuple[Broadcast, Any, Any]:
        plan = planned(mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0))
        spec = plan.resolve(federation).spec
        parameters = np.arange(3, dtype=np.float32)
        extra = {"control": np.ones(2, dtype=np.float32)}
        return Broadcast(parameters=parameters, extra=extra), spec, plan.client

    def test_every_byte_and_every_term_counts(self, parts: Any) -> None:
        broadcast, spec, client = parts
        base = serialise(broadcast)
        hashes = [digest(base, spec, client, 5)]
        assert digest(base, spec, client, 5) == hashes[0]
        for position in range(len(base)):
            hashes.append(digest(base[:position] + bytes([base[position] ^ 1]) + base[position + 1 :], spec, client, 5))
        terms = [
            {"clip_norm": 2.0},
            {"round": 1},
            {"noise_multiplier": 2.0},
            {"divisor": 9.0},
            {"max_weight": 2},
            {"length": 16},
            {"codec": replace(spec.codec, step=spec.codec.step * 2)},
            {"adjacency": "add-remove"},
            {"sampling": None},
            {"planned_contributors": 99},
        ]
        hashes += [digest(base, replace(spec, **change), client, 5) for change in terms]
        assert {item for change in terms for item in change} == {item.name for item in fields(spec)}
        for change in ({"learning_rate": 0.31}, {"steps": 3}, {"momentum": 0.5}, {"proximal": 0.1}, {"batch_size": 5}):
            hashes.append(digest(base, spec, replace(client, **change), 5))
        hashes.append(digest(base, spec, client, 6))
        assert len(set(hashes)) == len(hashes)

    def test_hyper_parameters_count_whatever_their_type(self, parts: Any) -> None:
        broadcast, spec, _ = parts

        class Own:
            """An algorithm that is no dataclass."""

            def __init__(self, **settings: Any) -> None:
                self.__dict__ |= settings

        values = [
            np.int64(1),
            np.int64(2),
            np.float32(0.5),
            0.25,
            np.arange(3),
            np.arange(4),
            "a",
            {2, 3},
            (1, 2),
            None,
        ]
        hashes = {digest(serialise(broadcast), spec, Own(setting=value), 5) for value in values}
        assert len(hashes) == len(values)
        assert describe({"b", "a"}) == ["a", "b"]  # not in the order of a salted hash

    def test_a_user_object_that_leads_back_to_itself(self) -> None:
        class Own:
            def __init__(self) -> None:
                self.me, self._key = self, "secret"

        assert describe(Own()) == {"type": "Own", "me": "Own"}

    def test_names_and_lengths_are_part_of_it(self) -> None:
        one, two = np.ones(1, dtype=np.float32), np.ones(2, dtype=np.float32)
        made = [
            Broadcast(parameters=two, extra={"a": one}),
            Broadcast(parameters=one, extra={"a": two}),
            Broadcast(parameters=two, extra={"b": one}),
            Broadcast(parameters=two, extra={"a": one, "b": one}),
            Broadcast(parameters=two, extra={"parameters": one}),
            Broadcast(parameters=3 * two, extra={"parameters": one}),
        ]
        assert len({serialise(broadcast) for broadcast in made}) == len(made)
        reordered = Broadcast(parameters=two, extra={"b": one, "a": one})
        assert serialise(reordered) == serialise(made[3])

    @pytest.mark.parametrize(
        "vector", [np.ones(2), np.ones(2, dtype=np.int64), np.ones((2, 1), dtype=np.float32), [1.0], None]
    )
    def test_what_is_not_sent_as_it_is_used_is_refused(self, vector: Any) -> None:
        with pytest.raises(ConfigurationError, match="float32"):
            serialise(Broadcast(parameters=np.ones(2, dtype=np.float32), extra={"control": vector}))

    def test_the_session_carries_it(self, federation: Any, planned: Make) -> None:
        seen: list[bytes] = []

        @dataclass(frozen=True, kw_only=True)
        class Watched(fp.PlainSum):
            kept: Any = field(default=None)

            def deploy(self, terms: Any) -> Any:
                deployment = super().deploy(terms)
                whole = deployment.round

                def round(session: Any) -> Any:
                    seen.append(session.context)
                    return whole(session)

                deployment.round = round  # type: ignore[method-assign]
                return deployment

        execute(federation, planned(aggregation=Watched(), rounds=3))
        assert len(set(seen)) == 3
        assert all(len(context) == 32 for context in seen)


def test_state_is_a_sum_over_who_contributed(federation: Any, planned: Make) -> None:
    """The mean of a weighted run, from its integers: nothing of a lost client is in it, and its weight neither."""
    plan = planned(client=Constant(), network=fp.Network(dropout={"upload": 0.4}), rounds=1)
    run = execute(federation, plan)
    there = list(run.records[0].contributors)
    assert 0 < len(there) < 8
    sizes = federation.sizes[there]
    expected = (sizes * 0.125 * (np.array(there) + 1)).sum() / sizes.sum()
    np.testing.assert_allclose(run.mean, expected, atol=1e-5)


class TestAbortsAndAmplification:
    """A round that ends without a release shows something of who was drawn; the ledger must be told of both."""

    def test_the_smallest_accepted_cohort_reaches_the_accountant(self, federation: Any, planned: Make) -> None:
        mechanism = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)
        sampling = fp.PoissonSampling(0.9, max_cohort=7)
        resolved = planned(
            mechanism=mechanism, sampling=sampling, aggregation=fp.SecureAggregation(min_cohort=4)
        ).resolve(federation)
        assert resolved.setting.min_cohort == 5  # of four, one may be lost
        assert resolved.spec.sampling is not None
        assert resolved.spec.sampling.min_cohort == 5

    def test_aborts_cost_amplified_epsilon(self, federation: Any, planned: Make) -> None:
        mechanism = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)
        plan = planned(mechanism=mechanism, sampling=fp.PoissonSampling(0.1), rounds=12)
        run = execute(federation, plan)
        ended = [record for record in run.records if record.aborted is not None]
        assert ended
        assert len(run.ledger) == 12
        without = fp.Ledger(
            threat=run.ledger.threat,
            population=run.ledger.population,
            events=[event for event in run.ledger.events if event.contributors],
        )
        assert run.ledger.epsilon(1e-3, observer="public") > without.epsilon(1e-3, observer="public")
