"""DP-SGD against steps written by hand, its sensitivity, and the models and settings that it takes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from private import CLASSES, FEATURES, PLAIN, SIZE, a_client, build, linear, train
from torch import nn

from fedpriv.data import Client
from fedpriv.errors import ConfigurationError, NonFiniteInput, PlanError, TrainingFailed
from fedpriv.learning import DPSGD, Broadcast, flatten, models
from fedpriv.learning.clipped import MARGIN, clipped_stack, opacus
from fedpriv.learning.stacked import Stacked
from fedpriv.privacy import Budget


def rows_of(client: Client, algorithm: DPSGD, seed: int = 9):
    """The batches and the noise of each step, drawn as the docstrings say."""
    rng = np.random.default_rng([seed, client.index])
    rng.integers(2**63)  # torch's seed
    batches = [np.flatnonzero(rng.random(len(client)) < algorithm.sampling_rate) for _ in range(algorithm.steps)]
    # Not torch's generator, nor one seeded by a number of rng: the whole state of the client's stream counts.
    noise = rng.standard_normal((algorithm.steps, SIZE), dtype=np.float32)
    return batches, noise.astype(np.float64)


@pytest.mark.parametrize(
    "extra",
    [{}, {"momentum": 0.9}, {"weight_decay": 0.3}, {"proximal": 0.7}, {"momentum": 0.5, "weight_decay": 0.1}],
    ids=["plain", "momentum", "weight decay", "proximal", "two"],
)
@pytest.mark.parametrize("batching", ["loop", "stacked"])
def test_equals_hand_written_softmax_regression(extra, batching) -> None:
    algorithm, client, model = replace(PLAIN, **extra), a_client(), linear()
    batches, noises = rows_of(client, algorithm)
    anchor = flatten(model).astype(np.float64)
    w, v = anchor.copy(), np.zeros(SIZE)
    for batch, noise in zip(batches, noises, strict=True):
        x = client.x[batch].astype(np.float64)
        logits = x @ w[: CLASSES * FEATURES].reshape(CLASSES, FEATURES).T + w[CLASSES * FEATURES :]
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        p[np.arange(len(batch)), client.y[batch]] -= 1
        each = np.concatenate([(p[:, :, None] * x[:, None]).reshape(len(batch), -1), p], axis=1)
        norms = np.linalg.norm(each, axis=1, keepdims=True)
        total = (each * np.minimum(1, 0.5 / np.maximum(norms, 1e-12))).sum(axis=0)
        g = (total + 0.8 * 0.5 * noise) / 5.0
        g += extra.get("weight_decay", 0) * w + extra.get("proximal", 0) * (w - anchor)
        v = extra.get("momentum", 0) * v + g
        w = w - 0.2 * v
    (sent,) = train(algorithm, [client], model, batching=batching)
    np.testing.assert_allclose(sent, w - anchor, atol=1e-6, rtol=0)
    assert sent.dtype == np.float32


def normalised(shape, classes) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, classes)
    )


def tokens(shape, classes) -> nn.Module:
    from fedpriv.learning.layers import Tokens

    return nn.Sequential(Tokens(), nn.Embedding(6, 4), nn.Flatten(), nn.Linear(4 * shape[0], classes))


@pytest.mark.parametrize(
    "factory",
    [models.logistic, partial(models.mlp, hidden=(16,)), partial(models.mlp, hidden=(16, 8)), normalised, tokens],
)
def test_opacus_and_the_stack_agree_on_ragged_clients(factory) -> None:
    """Given the same batches and noise; clients of 1 to 40 records, some batches empty."""
    model = build(factory)
    clients = [a_client(records, i) for i, records in enumerate((12, 1, 40, 3, 1, 25))]
    if factory is tokens:
        clients = [replace(c, x=np.floor(np.abs(c.x)).clip(0, 5).astype(np.float32)) for c in clients]
    algorithm = replace(PLAIN, momentum=0.5, weight_decay=0.1, proximal=0.2, clip_norm=0.9)
    batches, _ = rows_of(clients[1], algorithm)
    assert any(len(batch) == 0 for batch in batches)
    loop, stacked = (train(algorithm, clients, model, batching=way) for way in ("loop", "stacked"))
    np.testing.assert_allclose(loop, stacked, atol=1e-6, rtol=0)
    alone = np.concatenate([train(algorithm, [client], model, batching="loop") for client in clients])
    np.testing.assert_array_equal(alone, loop)


def tied(shape, classes) -> nn.Module:
    """A layer that is run twice: its two gradients add up before their norm is taken."""
    twice = nn.Linear(36, 36)
    return nn.Sequential(nn.Flatten(), twice, nn.Tanh(), twice, nn.Linear(36, classes))


def positions(shape, classes) -> nn.Module:
    """Dense layers on rows of pixels: four axes."""
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Flatten(), nn.Linear(36, classes))


@pytest.mark.parametrize(
    "factory", [partial(models.cnn, channels=(4,), hidden=(), groups=2), models.mlp, tied, positions]
)
def test_opacus_gradients_are_those_of_each_example_alone(factory) -> None:
    """Against autograd on one example at a time."""
    shape = (1, 6, 6)
    model = build(factory, shape)
    client = a_client(7, shape=shape, scale=3.0)
    x, y = torch.tensor(client.x), torch.tensor(client.y)
    each = []
    for i in range(7):
        loss = nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        each.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    clip = float(torch.stack(each).norm(dim=1).median())  # half of them are clipped
    expected = sum(g * min(1.0, (1 - MARGIN) * clip / float(g.norm())) for g in each)
    with opacus(model, clip) as clipped:
        sums, _ = clipped(x, y)
    torch.testing.assert_close(torch.cat([s.flatten() for s in sums]), expected, atol=1e-5, rtol=0)


def sums_by(way: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor, clip: float) -> torch.Tensor:
    if way == "opacus":
        with opacus(model, clip) as clipped:
            sums = clipped(x, y)[0]
    else:
        stack = Stacked(model, 1)
        stack.load(flatten(model))
        sums = clipped_stack(stack, x[None], y[None], torch.ones(1, len(x)), clip)[0]
    return torch.cat([s.flatten() for s in sums]).double()


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(), scale=st.sampled_from([1e-6, 1.0, 1e3, 1e12, 1e19, 3e37]), clip=st.sampled_from([1e-2, 1.0, 30.0])
)
@pytest.mark.parametrize("way", ["opacus", "stack"])
@pytest.mark.parametrize("factory", [models.logistic, partial(models.mlp, hidden=(4,))], ids=["one layer", "two"])
def test_one_record_moves_the_sum_by_at_most_the_clip_norm(way, factory, data, scale, clip) -> None:
    """Whatever the data: also where gradients overflow."""
    examples = data.draw(st.integers(1, 5))
    cells = st.floats(-1, 1, width=32)
    x = torch.tensor(data.draw(st.lists(st.lists(cells, min_size=5, max_size=5), min_size=examples, max_size=examples)))
    x = x * scale
    y = torch.tensor(data.draw(st.lists(st.integers(0, CLASSES - 1), min_size=examples, max_size=examples)))
    model = build(factory)
    whole = sums_by(way, model, x, y, clip)
    single = [sums_by(way, model, x[i : i + 1], y[i : i + 1], clip) for i in range(examples)]
    assert all(float(s.norm()) <= clip for s in single)
    # The sum is one of contributions that do not depend on each other, up to rounding.
    assert float((whole - sum(single)).norm()) <= 1e-5 * clip * examples
    without = sums_by(way, model, x[1:], y[1:], clip) if examples > 1 else torch.zeros_like(whole)
    assert float((whole - without).norm()) <= clip * (1 + 1e-5 * examples)


@pytest.mark.parametrize("batching", ["loop", "stacked"])
def test_a_record_whose_gradient_overflows_counts_as_none(batching) -> None:
    client, algorithm = a_client(), replace(PLAIN, sampling_rate=1.0)
    far = client.x.copy()
    far[0] = 3e38
    sent = train(
        algorithm, [replace(client, x=far)], models.build(models.mlp, (FEATURES,), CLASSES, 3), batching=batching
    )
    assert np.isfinite(sent).all()


def test_what_is_left_open_is_settled() -> None:
    following = PLAIN.settled(rounds=3, noise="os")
    assert (following.noise, following.noise_multiplier) == ("os", 0.8)
    assert replace(PLAIN, noise="seeded").settled(rounds=3, noise="os").noise == "seeded"
    budget = Budget(epsilon=2.0, delta=1e-5, observer="server", unit="record")
    open_ = replace(PLAIN, sampling_rate=0.1, steps=10, noise_multiplier=None, target=budget)
    short, long = (open_.settled(rounds=rounds, noise="seeded") for rounds in (20, 40))
    assert short.target is None
    assert 0 < short.noise_multiplier < long.noise_multiplier
    with pytest.raises(ConfigurationError, match="settled"):
        train(open_, [a_client()])


class Watching(nn.Module):
    """Keeps a sum over everything that it has seen, and passes it on: without parameters, so Opacus lets it be."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(FEATURES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += x.detach().sum(0)
        return x


def test_only_trainable_parameters_move() -> None:
    model = nn.Sequential(Watching(), nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    model[1].bias.requires_grad_(False)
    (sent,) = train(PLAIN, [a_client(40)], model)
    moved = dict(zip([name for name, _ in model.named_parameters()] + ["seen"], _pieces(sent, model), strict=True))
    assert not moved["seen"].any()
    assert not moved["1.bias"].any()
    assert moved["1.weight"].all()
    dense = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    dense[1].bias.requires_grad_(False)
    both = [train(PLAIN, [a_client(40)], dense, batching=way) for way in ("loop", "stacked")]
    np.testing.assert_allclose(*both, atol=1e-6, rtol=0)


def _pieces(sent: np.ndarray, model: nn.Module) -> list[np.ndarray]:
    sizes = [p.numel() for p in [*model.parameters(), *model.buffers()]]
    return np.split(sent, np.cumsum(sizes)[:-1])


def test_the_module_and_torchs_generator_are_left_as_they_were() -> None:
    model = build(partial(models.cnn, channels=(4,)), (1, 6, 6))
    before, broadcast = torch.random.get_rng_state(), Broadcast(parameters=flatten(model))
    PLAIN.train(model, broadcast, [a_client(8, shape=(1, 6, 6))], [None], [np.random.default_rng(1)])
    assert torch.equal(before, torch.random.get_rng_state())
    for layer in model.modules():
        assert not layer._forward_hooks
        assert not layer._backward_hooks
    for weight in model.parameters():
        assert weight.grad is None
        assert not {"grad_sample", "_forward_counter", "_norm_sample"} & set(vars(weight))


def test_paths() -> None:
    image = (1, 6, 6)
    assert PLAIN.path(build(models.mlp)) == "stacked"
    assert PLAIN.path(build(models.mlp), "loop") == "loop"
    convolution = build(partial(models.cnn, channels=(4,)), image)
    assert PLAIN.path(convolution.eval()) == "loop"
    for model, batching in ((convolution, "stacked"), (build(models.mlp), "vmap")):
        with pytest.raises(PlanError):
            PLAIN.path(model, batching)


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(FEATURES), nn.LSTM(FEATURES, CLASSES), nn.EmbeddingBag(6, CLASSES)],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_without_gradients_of_single_examples_are_refused(layer) -> None:
    model = nn.Sequential(layer, nn.Linear(FEATURES, CLASSES))
    why = "examples do not meet.*GroupNorm" if isinstance(layer, nn.BatchNorm1d) else "Opacus forms"
    with pytest.raises(PlanError, match=why):
        train(PLAIN, [a_client()], model, batching="loop")


def test_what_fails_names_its_client() -> None:
    clients = [a_client(4, i) for i in range(3)]
    with pytest.raises(TrainingFailed, match="client/0"):
        train(PLAIN, clients, nn.Sequential(nn.Linear(FEATURES + 1, CLASSES)), batching="stacked")
    with pytest.raises(TrainingFailed, match="client/0"):
        train(PLAIN, clients, nn.Sequential(nn.Linear(FEATURES + 1, CLASSES)), batching="loop")
    diverging = replace(PLAIN, learning_rate=1e38, noise_multiplier=1e3)
    for batching in ("loop", "stacked"):
        with pytest.raises(NonFiniteInput, match="client/"):
            train(diverging, clients, batching=batching)


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rate": 0.0},
        {"clip_norm": 0.0},
        {"clip_norm": 1e-25},  # squares of such gradients vanish
        {"clip_norm": math.inf},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"expected_batch": 0},
        {"steps": 0},
        {"steps": 2.5},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": None},
        {"target": Budget(epsilon=1.0, delta=1e-5, observer="server", unit="record")},
        {"noise_multiplier": None, "target": Budget(epsilon=1.0, delta=1e-5, observer="server")},
        {"momentum": 1.0},
        {"weight_decay": -0.1},
        {"proximal": -0.1},
        {"noise": "quantum"},
    ],
    ids=str,
)
def test_bad_settings_are_refused(bad) -> None:
    with pytest.raises(ConfigurationError):
        replace(PLAIN, **bad)
