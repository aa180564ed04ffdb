"""Building, naming, flattening and evaluating models."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedpriv.errors import ConfigurationError, DataError
from fedpriv.learning import evaluate, flatten, load, models
from fedpriv.learning.vector import Layout


@pytest.mark.parametrize(
    ("factory", "shape", "parameters"),
    [
        (models.logistic, (8, 8), 650),
        (models.mlp, (64,), 64 * 64 + 64 + 650),
        (functools.partial(models.mlp, hidden=(200, 200)), (1, 28, 28), 199_210),  # McMahan et al. 2017, "2NN"
        (models.cnn, (1, 28, 28), 105_866),
        (models.cnn, (1, 14, 14), 23_946),
        (functools.partial(models.cnn, groups=8, channels=(8, 16), hidden=()), (3, 14, 14), 2_890),
    ],
)
def test_models_map_examples_to_logits(factory, shape, parameters):
    module = models.build(factory, shape, 10, seed=0)
    assert module(torch.zeros(5, *shape)).shape == (5, 10)
    assert len(flatten(module)) == parameters
    assert models.mixes_examples(module) == []


def test_the_seed_alone_decides_and_the_callers_generator_is_untouched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = flatten(models.build(models.cnn, (1, 14, 14), 10, seed=7))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert one.tobytes() == flatten(models.build(models.cnn, (1, 14, 14), 10, seed=7)).tobytes()
    assert not np.array_equal(one, flatten(models.build(models.cnn, (1, 14, 14), 10, seed=2**63 - 1)))


class Net(nn.Module):
    def __init__(self, width: int = 3):
        super().__init__()
        self.layer = nn.Linear(4, width)

    def forward(self, x):
        return self.layer(x)


class Shaped(Net):
    def __init__(self, shape, classes, *, scale=1.0):
        super().__init__(classes)
        self.shape = shape


@dataclass(frozen=True)
class Recipe:
    width: int = 3

    def __call__(self) -> nn.Module:
        return Net(self.width)


def test_any_callable_that_returns_a_module():
    for factory in (Net, lambda: Net(), Recipe(), functools.partial(Net, width=3), functools.partial(nn.Linear, 4, 3)):
        assert models.build(factory, (9,), 3, seed=0)(torch.zeros(1, 4)).shape == (1, 3)
    for factory in (Shaped, functools.partial(Shaped, scale=2.0)):
        assert models.build(factory, [4], 6, seed=0).shape == (4,)


def test_a_factory_that_returns_one_module_again_and_again_is_not_trained_through():
    pretrained = Net()
    kept = flatten(pretrained)
    built = models.build(lambda: pretrained, (4,), 3, seed=0)
    load(built, np.zeros_like(kept))
    np.testing.assert_array_equal(flatten(pretrained), kept)


@pytest.mark.parametrize(
    "factory",
    [
        Net(),
        "mlp",
        lambda: None,
        lambda: Net,
        lambda shape: Net(),
        lambda a, b, c: Net(),
        lambda *, width: Net(),
        lambda shape, *, classes: Net(),
        lambda: nn.Flatten(),
        lambda: nn.LazyLinear(3),
        lambda: nn.Linear(2, 2, dtype=torch.complex64),
        functools.partial(models.mlp, hidden=(0,)),
        models.cnn,
        functools.partial(models.logistic, classes=2),
    ],
)
def test_build_refuses(factory):
    with pytest.raises(ConfigurationError):
        models.build(factory, (64,), 10, seed=0)


def test_cnn_refuses_small_images_and_groups_that_do_not_divide():
    with pytest.raises(ConfigurationError, match="pixels"):
        models.cnn((1, 3, 3), 10)
    with pytest.raises(ConfigurationError, match="groups"):
        models.cnn((1, 14, 14), 10, groups=5)


def test_describe_is_stable_and_tells_configurations_apart():
    home = "fedpriv.learning.models"
    assert models.describe(models.mlp) == f"{home}.mlp"
    assert models.describe(functools.partial(models.mlp, hidden=[200, 100])) == f"{home}.mlp(hidden=(200, 100))"
    assert models.describe(functools.partial(models.mlp, hidden=(5,))) == f"{home}.mlp(hidden=(5,))"
    assert models.describe(functools.partial(Net, 4)) == f"{__name__}.Net(4)"
    assert models.describe(Recipe(width=2)) == f"{__name__}.Recipe(width=2)"
    assert models.describe(functools.partial(Net, width=nn.ReLU)).endswith(
        "Net(width=torch.nn.modules.activation.ReLU)"
    )
    assert "0x" not in models.describe(functools.partial(Net, object()))


def test_mixes_examples_names_batch_norm_and_not_group_norm():
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.Sequential(nn.InstanceNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True)),
        nn.LayerNorm(4),
        nn.SyncBatchNorm(4),
        nn.LazyBatchNorm1d(),
    )
    assert models.mixes_examples(module) == [
        "1 (BatchNorm2d)",
        "3.1 (InstanceNorm2d)",
        "5 (SyncBatchNorm)",
        "6 (LazyBatchNorm1d)",
    ]
    assert models.mixes_examples(nn.BatchNorm1d(2)) == ["the model (BatchNorm1d)"]
    assert "GroupNorm" in models.MIXING_REMEDY


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 3, dtype=torch.float64)
        self.norm = nn.BatchNorm1d(3)
        self.tied = nn.Linear(2, 3)
        self.tied.weight = self.first.weight
        self.register_buffer("mask", torch.tensor([-torch.inf, 0.0]), persistent=False)
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x):
        self.seen = self.seen + len(x)  # replaced rather than changed in place
        return self.norm(self.first(x.double()).float())


def test_the_vector_holds_parameters_then_floating_buffers_once_each():
    module = Buffered()
    names = ["first.weight", "first.bias", "norm.weight", "norm.bias", "tied.bias", "norm.running_mean"]
    state = module.state_dict()
    expected = np.concatenate([state[name].double().numpy().ravel() for name in [*names, "norm.running_var"]])
    vector = flatten(module)
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, expected.astype(np.float32))


@given(seed=st.integers(0, 2**32 - 1))
def test_load_and_flatten_round_trip(seed):
    module = Buffered()
    vector = np.random.default_rng(seed).normal(size=len(flatten(module))).astype(np.float32)
    vector.flags.writeable = False
    load(module, vector)
    assert flatten(module).tobytes() == vector.tobytes()
    assert module.tied.weight is module.first.weight


def test_flatten_gives_memory_of_its_own():
    for module in (nn.Linear(2, 1, bias=False), nn.Linear(2, 1)):
        vector = flatten(module)
        kept = vector.copy()
        load(module, np.zeros_like(vector))
        np.testing.assert_array_equal(vector, kept)


def test_load_refuses_another_length():
    for shape in ((5,), (7,), (6, 1), ()):
        with pytest.raises(ConfigurationError, match="6 coordinates"):
            load(nn.Linear(2, 2), np.zeros(shape, dtype=np.float32))


def test_a_turn_leaves_local_buffers_and_the_generator_as_they_were():
    module = Buffered()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with suppress(RuntimeError), Layout(module).turn(np.random.default_rng(1)):
            draws.append(torch.rand(()).item())
            module(torch.zeros(4, 2))
            assert int(module.seen) == 4
            assert int(module.norm.num_batches_tracked) == 1
            raise RuntimeError
    assert draws[0] == draws[1]
    assert int(module.seen) == 0
    assert int(module.norm.num_batches_tracked) == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_torch_is_seeded_with_every_bit():
    """Of seeds that agree in their low 32 bits each gives other draws: those of the twister filled with all of it."""
    draws = []
    for seed in (1, 1 + 2**32):
        entropy = seed.to_bytes(8, "little")
        rng = SimpleNamespace(integers=lambda _, seed=seed: seed)
        with Layout(nn.Linear(1, 1)).turn(rng):
            draws.append(torch.randint(2**31, (2000,)).numpy())
        twister = np.random.MT19937()
        key = np.frombuffer(hashlib.shake_256(entropy).digest(4 * 624), dtype="<u4")
        twister.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": 624}}
        np.testing.assert_array_equal(
            draws[-1], twister.random_raw(4000)[1::2] % 2**31
        )  # torch takes two words for one
    assert (draws[0] != draws[1]).mean() > 0.99


def test_evaluate_by_hand_in_batches():
    module = nn.Linear(2, 2, bias=False)
    load(module, np.eye(2, dtype=np.float32).ravel())
    x = np.array([[2, 0], [0, 1], [3, 0]], dtype=np.float32)
    y = np.array([0, 1, 1])
    losses = [np.log(1 + np.exp(-2)), np.log(1 + np.exp(-1)), np.log(1 + np.exp(3))]
    for batch in (1, 2, 3, 4096):
        result = evaluate(module, x, y, batch=batch)
        assert result == {"accuracy": pytest.approx(2 / 3), "loss": pytest.approx(np.mean(losses), rel=1e-6)}


def test_evaluate_uses_evaluation_mode_and_puts_the_mode_back():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 2))
    module.train()
    module[1].eval()
    before = flatten(module)
    x, y = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), np.zeros(50, dtype=np.int64)
    assert evaluate(module, x, y) == evaluate(module, x, y)
    np.testing.assert_array_equal(flatten(module), before)
    assert [part.training for part in module] == [True, False, True]
    assert module.training


def test_evaluate_refuses_nothing_to_measure():
    with pytest.raises(DataError):
        evaluate(nn.Linear(2, 2), np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    with pytest.raises(DataError):
        evaluate(nn.Linear(2, 2), np.zeros((2, 2), np.float32), np.zeros(1, np.int64))


def test_describing_a_plan_does_not_load_torch():
    script = (
        "import sys, functools; from fedpriv.learning import *; from fedpriv.learning import models\n"
        "LocalSGD(learning_rate=0.1, epochs=1); FedAdam(learning_rate=0.1).init\n"
        "models.describe(functools.partial(models.mlp, hidden=(2,))); per_client(lambda *a: None)\n"
        "import fedpriv.learning.sgd, fedpriv.learning.vector, fedpriv.learning.evaluation\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_package_offers_what_it_says_and_nothing_else():
    import fedpriv.learning

    for name in fedpriv.learning.__all__:
        assert getattr(fedpriv.learning, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fedpriv.learning.nonsense
