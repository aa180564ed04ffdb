"""Many clients' models at once by ``torch.func.vmap``: for models that have no stacked form of their own.

A model qualifies if torch can trace its forward pass and finds nothing but layers and functions of these lists, which
neither draw random numbers, nor keep state, nor look at values. :func:`obstacle` says what keeps a model out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from fedpriv.learning.layers import ELEMENTWISE, Tokens
from fedpriv.learning.packing import Copies
from fedpriv.learning.stacked import hooked

LAYERS = (
    *ELEMENTWISE,
    *(nn.Linear, nn.Bilinear, nn.LayerNorm, nn.GroupNorm, nn.PReLU, nn.Softmax, nn.LogSoftmax, nn.GLU),
    *(nn.Flatten, nn.Unflatten, nn.Conv1d, nn.AvgPool1d, nn.MaxPool1d, nn.AdaptiveAvgPool1d, Tokens),
)
"""Layers with which vmap was measured to be faster than the loop on the CPU.

No embeddings: under vmap a token outside the vocabulary is looked up in another client's table, without an error.
"""
IMAGES = (*(nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d),)
"""Layers that vmap turns into grouped convolutions: on the CPU the loop was measured as fast, or up to 3× faster."""
FUNCTIONS = frozenset(
    {
        *("relu", "relu_", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "softplus", "tanh", "sigmoid"),
        *("softmax", "log_softmax", "logsigmoid", "hardtanh", "linear", "layer_norm", "max_pool1d", "avg_pool1d"),
        *("add", "sub", "mul", "truediv", "iadd", "isub", "imul", "matmul", "neg", "pow", "exp", "abs", "square"),
        *("sqrt", "clamp", "sum", "mean", "amax", "cat", "concat", "stack", "getitem", "getattr", "float", "long"),
        *("flatten", "view", "reshape", "size", "permute", "transpose", "squeeze", "unsqueeze", "contiguous"),
    }
)
"""Functions and methods, by name, that a forward pass may call between its layers."""
IMAGE_FUNCTIONS = frozenset({"conv2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"})


def obstacle(model: nn.Module, *, images: bool = True) -> str | None:
    """Why a model cannot be trained by vmap; None where it can.

    Args:
        model: it is traced, not changed.
        images: whether two-dimensional convolutions and poolings are taken.
    """
    if next(model.buffers(), None) is not None:
        return "it has buffers"
    known = (*LAYERS, *IMAGES) if images else LAYERS
    functions = FUNCTIONS | IMAGE_FUNCTIONS if images else FUNCTIONS
    for name, layer in model.named_modules():
        if hooked(layer):
            return f"{name or 'the model'} ({type(layer).__name__}) has hooks"
    try:
        graph = torch.fx.symbolic_trace(model).graph
    except Exception as error:
        return f"its forward pass cannot be traced ({type(error).__name__})"
    for node in graph.nodes:
        if node.op == "call_module":
            layer = model.get_submodule(str(node.target))
            if type(layer) not in known:
                return f"{node.target} ({type(layer).__name__}) {_excuse(layer)}"
        elif node.op in ("call_function", "call_method") and _name(node.target) not in functions:
            return f"its forward pass calls {_name(node.target)}"
    return None


def _excuse(layer: nn.Module) -> str:
    return "is faster in the loop" if type(layer) in IMAGES else "is not known to vmap"


def _name(target: Any) -> str:
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))


class Vmapped(Copies):
    """Copies of one model, a client each; gradients by ``vmap`` over ``grad``."""

    def __init__(self, model: nn.Module, copies: int) -> None:
        super().__init__(model, copies)
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}

        def objective(
            parameters: tuple[torch.Tensor, ...], x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            logits = functional_call(model, {**fixed, **dict(zip(names, parameters, strict=True))}, (x,))
            losses = functional.cross_entropy(logits, y, reduction="none")
            return (losses * weights).sum(), losses

        self._gradients = vmap(grad(objective, has_aux=True))
        self._found: Sequence[torch.Tensor] = ()

    def backward(self, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """See :meth:`Copies.backward`."""
        self._found, losses = self._gradients(tuple(p[: len(x)] for p in self.parameters), x, y, weights)
        return torch.as_tensor(losses).detach()

    def add(self, targets: Sequence[torch.Tensor], *, beta: float, alpha: float) -> None:
        """See :meth:`Copies.add`."""
        for target, gradient in zip(targets, self._found, strict=True):
            part = target[: len(gradient)]
            (part.mul_(beta) if beta != 1 else part).add_(gradient, alpha=alpha)
