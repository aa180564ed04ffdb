"""One example's part in the sum never exceeds the clip norm: where digits cancel, in large layers, in short floats."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedpriv.errors import PlanError
from fedpriv.learning import DPSGD, flatten
from fedpriv.learning.clipped import MARGIN, clipped_stack, opacus
from fedpriv.learning.layers import Tokens
from fedpriv.learning.stacked import Stacked

CLASSES = 3


def part(way: str, model: nn.Module, x: torch.Tensor, label: int, clip: float) -> float:
    """One example's part in the sum, in units of the clip norm."""
    y = torch.tensor([label])
    if way == "loop":
        with opacus(model, clip) as clipped:
            sums = clipped(x, y)[0]
    else:
        stack = Stacked(model, 1)
        stack.load(flatten(model))
        sums = clipped_stack(stack, x[None], y[None], torch.ones(1, 1), clip)[0]
    return float(torch.cat([s.flatten() for s in sums]).double().norm()) / clip


def head(positions: int, features: int, rest: float) -> nn.Linear:
    """A frozen last layer under which the errors of the positions cancel, all but a share of ``rest``."""
    layer = nn.Linear(positions * features, CLASSES)
    with torch.no_grad():
        weight = layer.weight.view(CLASSES, positions, features)
        weight -= weight.mean(1, keepdim=True) * (1 - rest)
    return layer.requires_grad_(False)


@pytest.mark.parametrize("way", ["loop", "stack"])
@pytest.mark.parametrize("rest", [1e-2, 1e-3, 1e-4, 1e-6])
@pytest.mark.parametrize("kind", ["few positions", "many positions", "bias", "normalised", "tokens"])
def test_positions_whose_gradients_cancel(kind, rest, way) -> None:
    torch.manual_seed(0)
    positions, wide, high = {"few positions": (4, 64, 64), "bias": (16, 8, 8)}.get(kind, (64, 8, 8))
    layer = nn.Linear(wide, high, bias=kind == "bias")
    if kind == "bias":
        layer.weight.requires_grad_(False)
    layers = {
        "normalised": [nn.LayerNorm(wide)],
        "tokens": [Tokens(), nn.Embedding(4, high)],
    }.get(kind, [layer])
    model = nn.Sequential(*layers, nn.Flatten(), head(positions, high, rest))
    for trial in range(5):
        for scale in (1.0, 1e2, 1e3, 1e4, 1e5, 1e8):
            if kind in ("tokens", "normalised", "bias"):  # what is large is the head
                clip, x = 1.0 / scale, torch.randn(1, 1, wide).expand(1, positions, wide)
                x = torch.full((1, positions), float(trial % 4)) if kind == "tokens" else x
            else:
                clip, x = 1.0, scale * torch.randn(1, 1, wide).expand(1, positions, wide)
            assert part(way, model, x.contiguous(), trial % CLASSES, clip) <= 1.0


@pytest.mark.parametrize("way", ["loop", "stack"])
def test_errors_that_cancel_on_the_way_back(way) -> None:
    """Outgoing weights of a unit that are all equal: its error is rounding, times an input as large as you like."""
    for trial in range(10):
        for scale in (1.0, 1e3, 1e6, 1e8, 1e10):
            torch.manual_seed(trial)
            model = nn.Sequential(nn.Flatten(), nn.Linear(20, 4), nn.Tanh(), nn.Linear(4, CLASSES))
            with torch.no_grad():
                model[3].weight.copy_(torch.randn(1, 4).expand(CLASSES, 4))
                model[1].weight.div_(scale)
            assert part(way, model, scale * torch.randn(1, 20), trial % CLASSES, 0.5) <= 1.0


@pytest.mark.parametrize("way", ["loop", "stack"])
def test_large_layers(way) -> None:
    """A million squares, added up in float32, are not off by more than the margin."""
    torch.manual_seed(0)
    model = nn.Linear(10_000, 100, bias=False)
    for x in (torch.ones(1, 10_000), torch.randn(1, 10_000)):
        assert 1 - 2 * MARGIN <= part(way, model, x, 0, 1.0) <= 1.0


class Short(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.layer = dtype, nn.Linear(5, CLASSES).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.to(self.dtype)).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_refused(dtype) -> None:
    """They clip to no better than 1/256 of the norm, or 1/2048."""
    algorithm = DPSGD(
        learning_rate=0.1, clip_norm=1.0, sampling_rate=0.5, expected_batch=4, steps=1, noise_multiplier=1.0
    )
    assert algorithm.path(Short(torch.float32)) == "loop"
    with pytest.raises(PlanError, match="float32"):
        algorithm.path(Short(dtype))


class Mixed(nn.Module):
    """Trained in mixed precision, as its author saw fit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(20, 30), nn.Linear(30, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.last(torch.tanh(self.first(x))).float()


def test_gradients_in_short_floats_are_clipped_in_long_ones() -> None:
    torch.manual_seed(0)
    assert max(part("loop", Mixed(), 10 * torch.randn(1, 20), 0, 0.1) for _ in range(20)) <= 1.0


@pytest.mark.parametrize("way", ["loop", "stack"])
def test_products_are_exact_whatever_the_caller_does_with_others(way) -> None:
    """Autocast, and products of float32 that keep 8 or 11 bits, round by more than the margin."""
    torch.manual_seed(0)
    allowed: set[str] = set()

    class Asked(nn.Tanh):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            allowed.add(torch.get_float32_matmul_precision())
            return super().forward(x)

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        for _ in range(20):
            between = Asked() if way == "loop" else nn.Tanh()
            model = nn.Sequential(nn.Flatten(), nn.Linear(20, 30), between, nn.Linear(30, CLASSES))
            with torch.autocast("cpu", torch.bfloat16):
                assert part(way, model, 10 * torch.randn(1, 20), 0, 0.1) <= 1.0
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert allowed == ({"highest"} if way == "loop" else set())


@pytest.mark.parametrize("way", ["loop", "stack"])
@pytest.mark.parametrize("clip", [1e-3, 1e-5])
def test_an_error_whose_square_vanishes_meets_an_input_whose_square_does_not(way, clip) -> None:
    model = nn.Linear(1, 10)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
        model.bias[0] = 52.0  # the other classes have probability 2.6e-23
    assert part(way, model, torch.full((1, 1), 1.8e19), 0, clip) <= 1.0


class Casts(nn.Module):
    """Makes sure of what it is given, and makes a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.float() @ torch.eye(5))


def test_a_model_that_casts_its_input_is_trained() -> None:
    assert part("loop", Casts(), torch.randn(1, 5), 0, 1e-3) == pytest.approx(1.0, rel=1e-4)


class Twice(nn.Module):
    """A layer's weight, used outside it as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(nn.functional.linear(self.layer(x), self.layer.weight)))


class ChannelsLast(nn.Module):
    """Opacus unfolds what it takes for contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 2, 3), nn.Linear(2 * 4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.conv(x.to(memory_format=torch.channels_last))).flatten(1))


def circular() -> nn.Module:
    layers = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 4 * 4, 3)
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("make", "shape"),
    [(Twice, (4,)), (ChannelsLast, (3, 6, 6)), (circular, (1, 4, 4))],
    ids=["used twice", "channels last", "circular"],
)
def test_gradients_that_opacus_gets_wrong_are_noticed(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(6, *shape), torch.randint(0, 3, (6,))
    with opacus(make(), 1.0) as clipped, pytest.raises(PlanError, match="add up to the batch's"):
        clipped(x, y)
