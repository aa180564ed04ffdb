"""The lift from one client to a chunk, with an algorithm of two payload entries and state."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedpriv.data import Client
from fedpriv.errors import ConfigurationError, DataError, NonFiniteInput, TrainingFailed
from fedpriv.learning import DELTA, Broadcast, ClientUpdate, LocalSGD, Update, flatten, load, models, per_client
from fedpriv.learning.update import check_update, stack
from fedpriv.threat import client as client_party

SHAPE, CLASSES = (4,), 2


def a_client(index: int) -> Client:
    rng = np.random.default_rng(index)
    return Client(
        index=index, name=str(index), x=rng.normal(size=(8, 4)).astype(np.float32), y=rng.integers(0, CLASSES, 8)
    )


def train(algorithm, indices=(0, 1), states=None, extra=None):
    module = models.build(models.logistic, SHAPE, CLASSES, seed=1)
    clients = [a_client(index) for index in indices]
    states = states or [algorithm.init(client) for client in clients]
    rngs = [np.random.default_rng(client.index) for client in clients]
    return algorithm.train(module, Broadcast(parameters=flatten(module), extra=extra or {}), clients, states, rngs)


@per_client
@dataclass(frozen=True, kw_only=True)
class Scaffold:
    """Karimireddy et al. 2020, Algorithm 1, option II, with full-batch steps."""

    learning_rate: float
    steps: int

    def payload(self, parameters):
        return {DELTA: parameters, "control": parameters}

    def init(self, client):
        return np.zeros(CLASSES * 4 + CLASSES, dtype=np.float32)

    def train_one(self, model, broadcast, client, state, rng):
        x, y = torch.tensor(client.x), torch.tensor(client.y)
        correction = broadcast.extra["control"] - state
        local = broadcast.parameters
        for _ in range(self.steps):
            load(model, local)
            loss = torch.nn.functional.cross_entropy(model(x), y)
            gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]).numpy()
            local = (local - self.learning_rate * (gradient + correction)).astype(np.float32)
        kept = (-correction + (broadcast.parameters - local) / (self.steps * self.learning_rate)).astype(np.float32)
        return Update(payload={DELTA: local - broadcast.parameters, "control": kept - state}, state=kept)


def test_two_entries_and_state_go_through():
    algorithm = Scaffold(learning_rate=0.1, steps=3)
    assert dict(algorithm.payload(10)) == {DELTA: 10, "control": 10}
    assert algorithm.record_level is False
    first = train(algorithm, extra={"control": np.zeros(10, dtype=np.float32)})
    assert [list(update.payload) for update in first] == [[DELTA, "control"]] * 2
    # Without a correction SCAFFOLD's local steps are SGD's, and its control is their mean gradient.
    plain = train(LocalSGD(learning_rate=0.1, steps=3))
    for mine, theirs in zip(first, plain, strict=True):
        np.testing.assert_allclose(mine.payload[DELTA], theirs.payload[DELTA], atol=1e-6)
        np.testing.assert_allclose(mine.state, -mine.payload[DELTA] / 0.3, atol=1e-5)
        np.testing.assert_array_equal(mine.payload["control"], mine.state)
    second = train(algorithm, states=[update.state for update in first], extra={"control": first[0].payload["control"]})
    np.testing.assert_allclose(second[0].payload[DELTA], first[0].payload[DELTA], atol=1e-6)  # c = c₀: no correction
    assert not np.allclose(second[1].payload[DELTA], first[1].payload[DELTA], atol=1e-4)


@per_client
@dataclass(frozen=True)
class Minimal:
    step: float = 1.0

    def train_one(self, model, broadcast, client, state, rng):
        assert state is None
        return Update(payload={DELTA: np.full(len(broadcast.parameters), self.step * client.index, np.float32)})


def test_defaults_of_a_class():
    algorithm = Minimal(step=2.0)
    assert dict(algorithm.payload(7)) == {DELTA: 7}
    assert algorithm.init(a_client(0)) is None
    assert algorithm.record_level is False
    assert [update.payload[DELTA][0] for update in train(algorithm, indices=(3, 1))] == [6.0, 2.0]
    assert algorithm == Minimal(step=2.0)
    assert pickle.loads(pickle.dumps(algorithm)) == algorithm


@per_client
class RecordLevel:
    record_level = True

    def train_one(self, model, broadcast, client, state, rng):
        raise AssertionError


def test_what_a_class_says_itself_is_kept():
    assert RecordLevel().record_level is True


@per_client
class Child(Minimal):
    pass


@per_client
class Declared(ClientUpdate):
    train_one = Minimal.train_one
    step = 1.0


def test_a_subclass_and_a_declared_protocol_are_lifted_as_well():
    for algorithm in (Child(step=1.0), Declared()):
        assert dict(algorithm.payload(7)) == {DELTA: 7}
        assert algorithm.record_level is False
        assert train(algorithm, indices=(4,))[0].payload[DELTA][0] == 4.0


def one(model, broadcast, client, state, rng):
    return Update(payload={DELTA: rng.normal(size=len(broadcast.parameters)).astype(np.float32)})


@per_client
def decorated(model, broadcast, client, state, rng):
    return one(model, broadcast, client, state, rng)


def test_a_function_becomes_an_algorithm_and_survives_a_process_boundary():
    lifted = per_client(one)
    for algorithm in (lifted, decorated, pickle.loads(pickle.dumps(lifted))):
        assert algorithm.record_level is False
        assert dict(algorithm.payload(5)) == {DELTA: 5}
        np.testing.assert_array_equal(train(algorithm)[1].payload[DELTA], train(lifted)[1].payload[DELTA])


def test_a_decorated_function_is_pickled_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "users_algorithm.py").write_text(
        "from fedpriv.learning import per_client\n@per_client\ndef mine(model, broadcast, client, state, rng): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import users_algorithm

    assert pickle.loads(pickle.dumps(users_algorithm.mine)) is users_algorithm.mine


def test_without_a_model():
    algorithm = per_client(lambda model, broadcast, client, state, rng: Update(payload={DELTA: broadcast.parameters}))
    broadcast = Broadcast(parameters=np.ones(3, dtype=np.float32))
    (update,) = algorithm.train(None, broadcast, [a_client(0)], [None], [np.random.default_rng(0)])
    assert update.payload[DELTA].tolist() == [1, 1, 1]


def fails_with(error):
    @per_client
    def algorithm(model, broadcast, client, state, rng):
        if client.index == 5:
            raise error
        return one(model, broadcast, client, state, rng)

    return algorithm


def test_an_exception_says_which_client():
    cause = ZeroDivisionError("batch of nothing")
    with pytest.raises(TrainingFailed, match=r"client/5 raised ZeroDivisionError: batch of nothing") as caught:
        train(fails_with(cause), indices=(2, 5))
    assert caught.value.__cause__ is cause
    assert "client/5" in str(pickle.loads(pickle.dumps(caught.value)))
    with pytest.raises(DataError) as caught:
        train(fails_with(DataError("Labels are classes.", remedy="Fix them.")), indices=(2, 5))
    assert caught.value.__notes__ == ["While client/5 trained."]
    with pytest.raises(KeyboardInterrupt):  # the user's own stop is no failure of a client
        train(fails_with(KeyboardInterrupt()), indices=(5,))


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({DELTA: np.zeros(3, np.float32)}, ConfigurationError),
        ({DELTA: np.zeros((10, 1), np.float32)}, ConfigurationError),
        ({DELTA: np.zeros(10, np.int64)}, ConfigurationError),
        ({DELTA: torch.zeros(10)}, ConfigurationError),
        ({DELTA: [0.0] * 10}, ConfigurationError),
        ({}, ConfigurationError),
        ({DELTA: np.zeros(10, np.float32), "control": np.zeros(10, np.float32)}, ConfigurationError),
        ({DELTA: np.full(10, np.inf, np.float32)}, NonFiniteInput),
    ],
)
def test_refuses_an_update_that_cannot_be_summed(payload, error):
    algorithm = per_client(lambda model, broadcast, client, state, rng: Update(payload=payload))
    with pytest.raises(error, match="client/1"):
        train(algorithm, indices=(1,))


def test_refuses_what_is_not_an_update():
    with pytest.raises(ConfigurationError, match="client/1 did not"):
        check_update(SimpleNamespace(payload={}), {}, "client/1")


def test_refuses_to_lift_what_cannot_train():
    with pytest.raises(ConfigurationError, match="train_one"):

        @per_client
        class Nothing:
            pass

    with pytest.raises(ConfigurationError, match="not both"):

        @per_client
        class Both:
            def train_one(self, model, broadcast, client, state, rng): ...

            def train(self, model, broadcast, clients, states, rngs): ...

    with pytest.raises(ConfigurationError, match="function"):
        per_client(3)


def test_a_chunk_has_as_many_states_and_generators_as_clients():
    module = models.build(models.logistic, SHAPE, CLASSES, seed=1)
    with pytest.raises(ValueError, match="zip"):
        Minimal().train(module, Broadcast(parameters=flatten(module)), [a_client(0)], [None, None], [])


def test_payloads_are_joined_in_the_plans_order_and_checked():
    expected = {"b": 2, "a": 1}
    updates = [
        Update(payload={"a": np.float32([i]), "b": np.array([10.0 + i, 20.0 + i], dtype=np.float32)}) for i in range(3)
    ]
    parties = [client_party(4 + i) for i in range(3)]
    joined = stack(updates, expected, parties)
    assert joined.dtype == np.float64
    assert joined.tolist() == [[10, 20, 0], [11, 21, 1], [12, 22, 2]]
    updates[1].payload["b"][1] = np.inf
    with pytest.raises(NonFiniteInput, match="infinity in 'b' of client/5"):
        stack(updates, expected, parties)
    updates[2] = Update(payload={"a": np.float32([1]), "b": np.float32([1])})
    with pytest.raises(ConfigurationError, match="client/6"):
        stack(updates, expected, parties)
