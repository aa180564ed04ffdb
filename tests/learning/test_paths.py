"""The rule that chooses a path, model by model."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.learning import LocalSGD, models
from fedpriv.learning.paths import choose

SGD = LocalSGD(learning_rate=0.1, epochs=1)


class Own(nn.Module):
    """Two dense layers under a forward pass that a test gives."""

    def __init__(self, forward: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)
        self.body = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self, x)


def tied() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 2))


def hooked() -> nn.Module:
    model = models.mlp((4,), 2)
    model[1].register_forward_hook(lambda layer, given, out: 2 * out)
    return model


def spectral() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 2)))


def looks(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.two(x if x.sum() > 0 else model.one(x))


CASES = {
    "logistic": (models.logistic((4,), 2), "stacked", ""),
    "mlp": (models.mlp((4,), 2, hidden=(3, 3)), "stacked", ""),
    "bag": (models.bag_of_words((4,), 2, vocabulary=9), "stacked", ""),
    "one layer": (nn.Linear(4, 2), "stacked", ""),
    "own": (Own(lambda m, x: m.two(x + torch.relu(m.one(x)))), "vmap", "no dense layer"),
    "prelu": (nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 2)), "vmap", r"1 \(PReLU\)"),
    "conv1d": (nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(4, 2)), "vmap", r"0 \(Conv1d\)"),
    "shared": (tied(), "vmap", "share"),
    "cnn": (models.cnn((1, 8, 8), 2), "loop", "faster in the loop"),
    "dropout": (nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2)), "loop", "Dropout"),
    "functional dropout": (Own(lambda m, x: m.two(nn.functional.dropout(m.one(x)))), "loop", "calls dropout"),
    "noise": (Own(lambda m, x: m.two(m.one(x) + torch.randn_like(x))), "loop", "calls randn_like"),
    "batch norm": (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), "loop", "buffers"),
    "looks at values": (Own(looks), "loop", "cannot be traced"),
    "hook": (hooked(), "loop", "hooks"),
    "parametrised": (spectral(), "loop", ""),
    "max of bags": (
        nn.Sequential(nn.EmbeddingBag(4, 3, mode="max"), nn.Linear(3, 2)),
        "loop",
        "beyond sums and means",
    ),
    "padding": (nn.Sequential(nn.Embedding(4, 3, padding_idx=0), nn.Linear(3, 2)), "loop", "beyond sums and means"),
    "double": (models.logistic((4,), 2).double(), "vmap", "torch.float64"),
    "softmax": (nn.Sequential(nn.Linear(4, 2), nn.Softmax(1)), "vmap", "Softmax"),
    "flattens the batch": (nn.Sequential(nn.Flatten(0), nn.Linear(4, 2)), "vmap", "flattens the batch"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rule(case: str) -> None:
    model, path, reason = CASES[case]
    choice = choose(model, "auto")
    assert choice.path == path == SGD.path(model)
    assert re.search(reason, choice.reason)
    assert bool(choice.reason) == (path != "stacked")
    assert choose(model, "loop").path == "loop"


@pytest.mark.parametrize(("case", "batching"), [("cnn", "stacked"), ("own", "stacked"), ("dropout", "vmap")])
def test_a_forced_path_that_a_model_lacks_is_refused(case: str, batching: str) -> None:
    with pytest.raises(PlanError, match='batching="auto"'):
        SGD.path(CASES[case][0], batching)  # type: ignore[arg-type]


def test_a_path_may_be_forced_where_it_is_not_the_fastest() -> None:
    assert choose(CASES["cnn"][0], "vmap").path == "vmap"
    assert choose(CASES["mlp"][0], "vmap").path == "vmap"


def test_an_unknown_path() -> None:
    with pytest.raises(ConfigurationError, match="batching"):
        choose(CASES["mlp"][0], "fast")  # type: ignore[arg-type]
