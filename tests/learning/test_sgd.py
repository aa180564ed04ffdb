"""LocalSGD against gradients written by hand, and what the description promises."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.data import Client
from fedpriv.errors import ConfigurationError, DataError, NonFiniteInput, TrainingFailed
from fedpriv.learning import DELTA, Broadcast, LocalSGD, flatten, models

FEATURES, CLASSES = 5, 3
SIZE = CLASSES * FEATURES + CLASSES


def a_client(records: int = 12, index: int = 0, seed: int = 0, scale: float = 1.0) -> Client:
    rng = np.random.default_rng(seed)
    x = (scale * rng.normal(size=(records, FEATURES))).astype(np.float32)
    return Client(index=index, name=str(index), x=x, y=rng.integers(0, CLASSES, records))


def a_broadcast(seed: int = 3) -> Broadcast:
    return Broadcast(parameters=np.random.default_rng(seed).normal(size=SIZE).astype(np.float32))


def train(algorithm, clients, broadcast=None, *, model=None, seed: int = 9):
    model = model or models.logistic((FEATURES,), CLASSES)
    rngs = [np.random.default_rng([seed, client.index]) for client in clients]
    states = [algorithm.init(client) for client in clients]
    return algorithm.train(model, broadcast or a_broadcast(), clients, states, rngs)


def gradient(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """∇ of the mean cross entropy of softmax regression, in float64, laid out as torch.nn.Linear's weight and bias."""
    weight, bias = w[: CLASSES * FEATURES].reshape(CLASSES, FEATURES), w[CLASSES * FEATURES :]
    logits = x @ weight.T + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return np.concatenate([(p.T @ x).ravel(), p.sum(axis=0)]) / len(y)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9},
        {"weight_decay": 0.3},
        {"proximal": 0.7},
        {"momentum": 0.5, "weight_decay": 0.1, "proximal": 2.0},
    ],
    ids=["plain", "momentum", "weight decay", "proximal", "all"],
)
@pytest.mark.parametrize("batch_size", [None, 5])
def test_equals_hand_written_softmax_regression(settings, batch_size):
    client, broadcast, epochs = a_client(), a_broadcast(), 4
    algorithm = LocalSGD(learning_rate=0.2, epochs=epochs, batch_size=batch_size, **settings)
    (update,) = train(algorithm, [client], broadcast)

    rng = np.random.default_rng([9, 0])
    rng.integers(2**63)  # torch's seed
    orders = [rng.permutation(12) if batch_size else np.arange(12) for _ in range(epochs)]
    batches = [order[i : i + (batch_size or 12)] for order in orders for i in range(0, 12, batch_size or 12)]
    anchor = broadcast.parameters.astype(np.float64)
    w, v, losses = anchor.copy(), np.zeros(SIZE), []
    for batch in batches:
        x, y = client.x[batch].astype(np.float64), client.y[batch]
        g = gradient(w, x, y)
        g += settings.get("weight_decay", 0) * w + settings.get("proximal", 0) * (w - anchor)
        v = settings.get("momentum", 0) * v + g
        logits = x @ w[: CLASSES * FEATURES].reshape(CLASSES, FEATURES).T + w[CLASSES * FEATURES :]
        losses += list(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y])
        w = w - 0.2 * v
    np.testing.assert_allclose(update.payload[DELTA], w - anchor, atol=1e-6, rtol=0)
    assert update.payload[DELTA].dtype == np.float32
    assert update.metrics["steps"] == len(batches)
    assert update.metrics["loss"] == pytest.approx(np.mean(losses), abs=1e-5)


def test_equals_torch_optim():
    client, broadcast = a_client(40), a_broadcast()
    (update,) = train(
        LocalSGD(learning_rate=0.1, steps=7, batch_size=40, momentum=0.9, weight_decay=0.01), [client], broadcast
    )
    linear = torch.nn.Linear(FEATURES, CLASSES)
    torch.nn.utils.vector_to_parameters(torch.tensor(broadcast.parameters), linear.parameters())
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(7):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(linear(torch.tensor(client.x)), torch.tensor(client.y)).backward()
        optimizer.step()
    np.testing.assert_allclose(update.payload[DELTA], flatten(linear) - broadcast.parameters, atol=1e-6)


@given(
    records=st.integers(1, 30),
    size=st.integers(1, 35),
    epochs=st.integers(1, 4),
    extra=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_every_epoch_visits_every_record_once_and_the_last_batch_may_be_short(records, size, epochs, extra, seed):
    rng = np.random.default_rng(seed)
    everything = range(records)
    visits = [
        list(everything) if batch is None else batch.tolist()
        for batch in LocalSGD(learning_rate=1, epochs=epochs, batch_size=size).batches(records, rng)
    ]
    per_epoch = -(-records // size)
    assert len(visits) == epochs * per_epoch
    for epoch in range(epochs):
        batches = visits[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(record for batch in batches for record in batch) == list(everything)
        assert all(len(batch) == min(size, records) for batch in batches[:-1])
        assert len(batches[-1]) == records - (per_epoch - 1) * min(size, records)
    # As many steps walk the same batches; more of them go on into the next epoch.
    steps = LocalSGD(learning_rate=1, steps=len(visits) + extra, batch_size=size)
    again = [
        list(everything) if batch is None else batch.tolist()
        for batch in steps.batches(records, np.random.default_rng(seed))
    ]
    assert again[: len(visits)] == visits
    assert len(again) == len(visits) + extra


def test_epochs_are_shuffled_anew():
    batches = list(LocalSGD(learning_rate=1, epochs=2, batch_size=10).batches(20, np.random.default_rng(0)))
    assert np.concatenate(batches[:2]).tolist() != np.concatenate(batches[2:]).tolist()


def test_steps_are_counted():
    (update,) = train(LocalSGD(learning_rate=0.1, steps=8, batch_size=5), [a_client()])
    assert update.metrics["steps"] == 8


def test_equal_inputs_give_equal_bits_whatever_the_chunk_and_the_callers_generator():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shape, classes = (1, 14, 14), 10
        rng = np.random.default_rng(0)
        clients = [
            Client(
                index=i,
                name=str(i),
                x=rng.normal(size=(9, *shape)).astype(np.float32),
                y=rng.integers(0, classes, 9),
            )
            for i in range(3)
        ]
        net = torch.nn.Sequential(models.cnn(shape, classes, groups=4), torch.nn.Dropout(0.3))
        broadcast = Broadcast(parameters=flatten(net))
        algorithm = LocalSGD(learning_rate=0.1, epochs=2, batch_size=4, momentum=0.9)
        together = train(algorithm, clients, broadcast, model=net)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        alone = [train(algorithm, [client], broadcast, model=net)[0] for client in reversed(clients)][::-1]
        assert torch.equal(torch.get_rng_state(), before)
        for one, other in zip(together, alone, strict=True):
            assert one.payload[DELTA].tobytes() == other.payload[DELTA].tobytes()
            assert one.metrics == other.metrics
        another = train(algorithm, clients[:1], broadcast, model=net, seed=10)
        assert not np.array_equal(another[0].payload[DELTA], together[0].payload[DELTA])
    finally:
        torch.set_num_threads(threads)


def test_a_large_proximal_term_keeps_the_model_near_the_broadcast():
    settings = {"steps": 50, "learning_rate": 0.01}
    (free,) = train(LocalSGD(**settings), [a_client()])
    (held,) = train(LocalSGD(**settings, proximal=90.0), [a_client()])
    # ‖w − w₀‖ ≤ ‖∇‖ / μ once the proximal term balances the gradient.
    slope = gradient(a_broadcast().parameters.astype(np.float64), a_client().x, a_client().y)
    assert np.linalg.norm(held.payload[DELTA]) < 1.1 * np.linalg.norm(slope) / 90
    assert np.linalg.norm(free.payload[DELTA]) > 10 * np.linalg.norm(held.payload[DELTA])


def test_frozen_and_unused_parameters_stay():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used = torch.nn.Linear(FEATURES, CLASSES)
            self.unused = torch.nn.Linear(2, 2)
            self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)

        def forward(self, x):
            return self.used(x) + self.frozen

    net = Two()
    broadcast = Broadcast(parameters=flatten(net))
    (update,) = train(LocalSGD(learning_rate=0.5, steps=3), [a_client()], broadcast, model=net)
    names = np.repeat([name for name, _ in net.named_parameters()], [p.numel() for p in net.parameters()])
    moved = update.payload[DELTA] != 0
    assert set(names[moved]) == {"used.weight", "used.bias"}


def test_running_statistics_travel_and_counters_stay():
    def net():
        return torch.nn.Sequential(torch.nn.BatchNorm1d(FEATURES), torch.nn.Linear(FEATURES, CLASSES))

    module = models.build(net, (FEATURES,), CLASSES, seed=0)
    broadcast = Broadcast(parameters=flatten(module))
    clients = [a_client(index=i, seed=i) for i in range(2)]
    algorithm = LocalSGD(learning_rate=0.1, steps=1)
    module.eval()  # as an evaluation may have left it
    updates = train(algorithm, clients, broadcast, model=module)
    for client, update in zip(clients, updates, strict=True):
        mean = update.payload[DELTA][-2 * FEATURES : -FEATURES]  # running_mean moves by momentum 0.1 from 0
        np.testing.assert_allclose(mean, 0.1 * client.x.mean(axis=0), atol=1e-6)
    assert int(module[0].num_batches_tracked) == 0


def test_a_client_without_records_is_refused():
    @dataclass
    class Empty:  # Client itself refuses to be empty
        index = 4
        x = np.zeros((0, FEATURES), dtype=np.float32)
        y = np.zeros(0, dtype=np.int64)

    with pytest.raises(DataError, match="at least one example") as caught:
        train(LocalSGD(learning_rate=0.1, epochs=1), [Empty()])
    assert "client/4" in str(caught.value.__notes__)


def test_divergence_names_the_client():
    clients = [a_client(index=6), a_client(index=7, scale=1e20)]
    with pytest.raises(NonFiniteInput, match="client/7"):
        train(LocalSGD(learning_rate=1e25, epochs=3), clients)


def test_a_wrong_model_names_the_client():
    with pytest.raises(ConfigurationError, match="coordinates"):
        train(LocalSGD(learning_rate=0.1, epochs=1), [a_client()], Broadcast(parameters=np.zeros(4, np.float32)))
    client = replace(a_client(index=3), y=np.full(12, CLASSES))
    with pytest.raises(TrainingFailed, match="client/3"):
        train(LocalSGD(learning_rate=0.1, epochs=1), [client])


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 1, "steps": 1},
        {},
        {"epochs": 0},
        {"steps": 2.5},
        {"epochs": True},
        {"epochs": 1, "batch_size": 0},
        {"epochs": 1, "learning_rate": 0},
        {"epochs": 1, "learning_rate": float("nan")},
        {"epochs": 1, "momentum": 1.0},
        {"epochs": 1, "weight_decay": -1},
        {"epochs": 1, "proximal": float("inf")},
    ],
)
def test_refuses(settings):
    with pytest.raises(ConfigurationError):
        LocalSGD(**{"learning_rate": 0.1, **settings})
