"""Loop, vmap and stacked are one algorithm: equal updates, equal refusals, and no client that touches another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedpriv.data import Client
from fedpriv.errors import NonFiniteInput, TrainingFailed
from fedpriv.learning import DELTA, Broadcast, LocalSGD, Update, flatten, models, packing
from fedpriv.learning.layers import Tokens
from fedpriv.learning.stacked import Stacked

FEATURES, CLASSES, VOCABULARY = 6, 3, 5


class Residual(nn.Module):
    """A forward pass of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x + torch.tanh(self.inner(x)))


def frozen() -> nn.Module:
    model = models.mlp((FEATURES,), CLASSES, hidden=(4, 4))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in ("1.weight", "3.weight", "3.bias"))
    return model


KINDS: dict[str, tuple[Any, tuple[int, ...], bool]] = {
    "logistic": (lambda: models.logistic((FEATURES,), CLASSES), (FEATURES,), False),
    "mlp": (lambda: models.mlp((2, 3), CLASSES, hidden=(5, 4)), (2, 3), False),
    "frozen": (frozen, (FEATURES,), False),
    "norm": (
        lambda: nn.Sequential(nn.Linear(FEATURES, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, CLASSES, bias=False)),
        (FEATURES,),
        False,
    ),
    "positions": (
        lambda: nn.Sequential(
            nn.LayerNorm((4, 3)), nn.Sequential(nn.Linear(3, 2), nn.ELU(inplace=True)), nn.Flatten(), nn.Linear(8, 3)
        ),
        (4, 3),
        False,
    ),
    # Three numbers may be all but equal, and what normalises them then magnifies rounding: eps says how far.
    "embedding": (
        lambda: nn.Sequential(
            Tokens(), nn.Embedding(VOCABULARY, 3), nn.LayerNorm(3, eps=0.1), nn.Flatten(), nn.Linear(12, CLASSES)
        ),
        (4,),
        True,
    ),
    "bag": (lambda: models.bag_of_words((4,), CLASSES, vocabulary=VOCABULARY, width=3), (4,), True),
    "sum of bags": (
        lambda: nn.Sequential(Tokens(), nn.EmbeddingBag(VOCABULARY, 3, mode="sum"), nn.Linear(3, CLASSES)),
        (4,),
        True,
    ),
    "residual": (Residual, (FEATURES,), False),
    "groups": (
        lambda: nn.Sequential(nn.Linear(FEATURES, 8), nn.GroupNorm(2, 8), nn.PReLU(), nn.Linear(8, CLASSES)),
        (FEATURES,),
        False,
    ),
    # Smooth throughout: where rounding tips a ReLU or a maximum over, the paths rightly part by more than rounding.
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, CLASSES)
        ),
        (1, 4, 4),
        False,
    ),
}
STACKABLE = list(KINDS)[:8]
NO_VMAP = ("embedding", "bag", "sum of bags")


def built(kind: str, seed: int = 0) -> nn.Module:
    return models.build(KINDS[kind][0], KINDS[kind][1], CLASSES, seed)


def some_clients(kind: str, sizes: Sequence[int], seed: int = 0) -> list[Client]:
    _, shape, whole = KINDS[kind]
    rng = np.random.default_rng(seed)
    made = []
    for index, m in enumerate(sizes):
        x = rng.integers(0, VOCABULARY, (m, *shape)) if whole else rng.normal(size=(m, *shape))
        made.append(Client(index=index, name=str(index), x=x.astype(np.float32), y=rng.integers(0, CLASSES, m)))
    return made


def trained(
    algorithm: LocalSGD, model: nn.Module, clients: Sequence[Client], batching: Any, seed: int = 1
) -> list[Update]:
    """From a start of its own: the loop trains through the model."""
    start = models.build(lambda: model, (), CLASSES, 0)
    models.load(start, np.random.default_rng(seed).normal(size=flatten(model).size, scale=0.5).astype(np.float32))
    rngs = [np.random.default_rng([seed, client.index]) for client in clients]
    return algorithm.train(
        model, Broadcast(parameters=flatten(start)), clients, [None] * len(clients), rngs, batching=batching
    )


def assert_equal(left: Sequence[Update], right: Sequence[Update]) -> None:
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one.payload[DELTA], other.payload[DELTA], rtol=0, atol=1e-6)
        assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], abs=1e-5)
        assert one.metrics["steps"] == other.metrics["steps"]


@st.composite
def algorithms(draw: st.DrawFn) -> LocalSGD:
    length = draw(st.sampled_from(["epochs", "steps"]))
    return LocalSGD(
        learning_rate=draw(st.sampled_from([0.01, 0.1])),
        batch_size=draw(st.none() | st.integers(1, 12)),
        momentum=draw(st.sampled_from([0.0, 0.5, 0.9])),
        weight_decay=draw(st.sampled_from([0.0, 0.1])),
        proximal=draw(st.sampled_from([0.0, 0.5])),
        **{length: draw(st.integers(1, 3 if length == "epochs" else 7))},
    )


@pytest.mark.parametrize("kind", KINDS)
@given(
    algorithm=algorithms(),
    sizes=st.lists(st.integers(1, 15), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_loop_vmap_and_stacked_agree(kind: str, algorithm: LocalSGD, sizes: list[int], seed: int) -> None:
    model, clients = built(kind, seed), some_clients(kind, sizes, seed)
    loop = trained(algorithm, model, clients, "loop")
    if kind in STACKABLE:
        assert_equal(trained(algorithm, model, clients, "stacked"), loop)
    if kind not in NO_VMAP:
        assert_equal(trained(algorithm, model, clients, "vmap"), loop)


@pytest.mark.parametrize("kept", [range(2), range(4), range(3, 4)])
def test_layers_that_are_not_trained_agree_wherever_they_stand(kept: range) -> None:
    model = built("norm")
    for place, parameter in enumerate(model.parameters()):  # of the first matrix, the normalisation, the last matrix
        parameter.requires_grad_(place not in kept)
    clients, algorithm = some_clients("norm", [7, 3]), LocalSGD(learning_rate=0.1, steps=3, batch_size=4)
    assert_equal(trained(algorithm, model, clients, "stacked"), trained(algorithm, model, clients, "loop"))


def test_vmap_agrees_on_the_librarys_cnn() -> None:
    model = models.build(
        lambda: models.cnn((1, 4, 4), CLASSES, channels=(2,), hidden=(), groups=2), (1, 4, 4), CLASSES, seed=0
    )
    clients = some_clients("cnn", [3, 1, 12])
    algorithm = LocalSGD(learning_rate=0.01, epochs=2, batch_size=5, momentum=0.9)
    assert_equal(trained(algorithm, model, clients, "vmap"), trained(algorithm, model, clients, "loop"))


@given(order=st.permutations(range(6)), cut=st.integers(1, 5))
def test_neither_order_nor_neighbours_matter(order: list[int], cut: int) -> None:
    model, clients = built("mlp"), some_clients("mlp", [3, 1, 12, 7, 7, 20])
    algorithm = LocalSGD(learning_rate=0.1, epochs=2, batch_size=5, momentum=0.9)
    together = trained(algorithm, model, clients, "stacked")
    shuffled = [clients[i] for i in order]
    parts = trained(algorithm, model, shuffled[:cut], "stacked") + trained(algorithm, model, shuffled[cut:], "stacked")
    assert_equal([parts[order.index(i)] for i in range(6)], together)


@pytest.mark.parametrize("batching", ["vmap", "stacked"])
def test_equal_inputs_give_equal_bits(batching: str) -> None:
    model, clients = built("mlp"), some_clients("mlp", [3, 1, 12, 7])
    algorithm = LocalSGD(learning_rate=0.1, steps=4, batch_size=5)
    first, second = (trained(algorithm, model, clients, batching) for _ in range(2))
    assert all(np.array_equal(a.payload[DELTA], b.payload[DELTA]) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("batching", ["vmap", "stacked"])
def test_a_client_that_diverges_is_named_and_its_neighbours_are_not(batching: str) -> None:
    clients = some_clients("logistic", [5, 9, 4])
    wild = Client(index=1, name="1", x=clients[1].x * np.float32(1e20), y=clients[1].y)
    algorithm = LocalSGD(learning_rate=1e20, steps=3, batch_size=2)
    with pytest.raises(NonFiniteInput, match="client/1"):
        trained(algorithm, built("logistic"), [clients[0], wild, clients[2]], batching)


def test_padding_brings_in_nothing_of_another_client() -> None:
    """Zero weights alone would not do: 0 · ∞ is NaN."""
    clients = some_clients("logistic", [1, 3])
    x = np.full((8, FEATURES), np.float32(1e38))
    clients = [Client(index=0, name="0", x=x, y=np.zeros(8, dtype=np.int64)), *(c for c in clients if c.index == 1)]
    packed = packing.Packed(clients, [[np.arange(8)], [np.array([2])]], torch.device("cpu"))
    (batch,) = packed
    assert batch.mask.sum(1).tolist() == [8, 1]
    assert torch.equal(batch.x[1], torch.tensor(clients[1].x[2]).expand(8, -1))
    assert batch.weights.sum(1).tolist() == [1, 1]


def test_an_empty_batch_is_a_step_without_examples() -> None:
    clients = some_clients("logistic", [3, 3])
    empty = np.zeros(0, dtype=np.int64)
    packed = packing.Packed(clients, [[empty, np.arange(2)], [np.arange(3), empty]], torch.device("cpu"))
    assert [batch.mask.sum(1).tolist() for batch in packed] == [[0, 3], [2, 0]]
    assert all(torch.isfinite(batch.weights).all() for batch in packed)


@given(rows=st.lists(st.integers(1, 300), min_size=1, max_size=30), room=st.integers(1, 2000))
def test_stacks_stay_within_their_room(rows: list[int], room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ROOM", room)
        cut = packing.stacks(rows, 2, 10)
    assert sorted(i for stack in cut for i in stack) == list(range(len(rows)))
    for stack in cut:
        assert max(rows[i] for i in stack) <= 4 * max(min(rows[i] for i in stack), packing.SMALL)
        assert len(stack) == 1 or len(stack) * (2 * max(rows[i] for i in stack) + 30) <= room


def test_small_stacks_give_the_same_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clients = built("mlp"), some_clients("mlp", [3, 1, 12, 7, 40])
    algorithm = LocalSGD(learning_rate=0.1, epochs=2)
    whole = trained(algorithm, model, clients, "stacked")
    monkeypatch.setattr(packing, "ROOM", 300)
    assert_equal(trained(algorithm, model, clients, "stacked"), whole)


def test_what_goes_wrong_in_a_stack_says_how_to_find_it() -> None:
    """Tokens outside the vocabulary: they would be in another client's table."""
    clients = some_clients("embedding", [4, 4])
    clients[0] = Client(index=0, name="0", x=np.full((4, 4), np.float32(VOCABULARY)), y=np.zeros(4, dtype=np.int64))
    with pytest.raises(TrainingFailed, match=r'client/0, client/1 raised.*batching="loop"'):
        trained(LocalSGD(learning_rate=0.1, steps=1), built("embedding"), clients, "stacked")


@pytest.mark.parametrize("kind", STACKABLE)
def test_clipped_gradients_are_those_of_each_example_alone(kind: str) -> None:
    model, n, b, clip = built(kind), 3, 4, 0.3
    x = torch.from_numpy(np.stack([c.x for c in some_clients(kind, [b] * n)]))
    y = torch.arange(n * b).view(n, b) % CLASSES
    mask = torch.ones(n, b)
    mask[1, 2:] = 0
    stack = Stacked(model, n + 1)
    stack.load(flatten(model))
    sums, norms = stack.clipped_gradients(x, y, mask, clip)
    weights = [w for w in model.parameters() if w.requires_grad]
    expected = [torch.zeros_like(total) for total in sums]
    for i in range(n):
        for j in range(b):
            if not mask[i, j]:
                assert norms[i, j] == 0
                continue
            loss = nn.functional.cross_entropy(model(x[i, j : j + 1]), y[i, j : j + 1])
            gradient = torch.autograd.grad(loss, weights, materialize_grads=True)
            norm = torch.cat([g.flatten() for g in gradient]).norm()
            torch.testing.assert_close(norms[i, j], norm, rtol=1e-6, atol=1e-6)
            for total, g in zip(expected, gradient, strict=True):
                total[i] += g * min(1.0, clip / float(norm))
    for total, right in zip(sums, expected, strict=True):
        torch.testing.assert_close(total, right, rtol=0, atol=2e-6)
    assert (norms > clip).any()
