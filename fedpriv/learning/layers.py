"""The layers that can be stacked: forward for many clients at once, gradients and their norms from (a, δ).

a is what a layer's parameters meet of its input and δ = ∂loss/∂z the error at its output z. A client axis k stands in
front of the batch axis b; positions (tokens, pixels) are all axes between the batch and the features.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import nn
from torch.nn import functional

Stacks: TypeAlias = Mapping[nn.Parameter, torch.Tensor]
"""Each parameter of the model → its copies, ``[n, *shape]``."""
Slots: TypeAlias = Mapping[nn.Parameter, int]
"""Each trainable parameter → its place among the trainable ones."""

ELEMENTWISE = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Softsign, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Tanhshrink),
)
"""Activations that work number by number."""


ROUNDING = 2.0**-13
"""What a sum over positions is taken to lose, in terms of its parts: it is added to a norm in squares.

Where the parts of an example's gradient cancel, a norm in float32 says little of the gradient that is added up in
another order. In squares it is seen there only: 1e-8 of a norm whose parts do not cancel.
"""


class Tokens(nn.Module):
    """Features as integers, for an embedding after it: a federation's x is float32, exact up to 2^24."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[b, …] float32`` → ``[b, …] int64``."""
        return x.long()


class Link:
    """A layer of the chain: how x goes forward, and how the error comes back."""

    trained = False
    """Whether it has a parameter that is."""
    recorded = True
    """Whether autograd must see the way forward, to bring the error back."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The pair a, z of ``[k, b, …]``, by the first k copies."""
        return x, self.layer(x)

    def back(self, x: torch.Tensor, z: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """∂loss/∂x from ``error`` = ∂loss/∂z."""
        (before,) = torch.autograd.grad(z, x, error)
        return before


class ReLU(Link):
    """z = max(x, 0): by hand, as the most frequent; to call autograd costs a small model more than the arithmetic."""

    recorded = False

    def back(self, x: torch.Tensor, z: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """See :meth:`Link.back`."""
        before: torch.Tensor = torch.ops.aten.threshold_backward(error, z, 0)
        return before


class Layer(Link):
    """A layer with parameters, stacked."""

    def __init__(self, layer: nn.Module, stacks: Stacks, slots: Slots) -> None:
        super().__init__(layer)
        self.weight, self.weight_slot = self._find(getattr(layer, "weight", None), stacks, slots)
        self.bias, self.bias_slot = self._find(getattr(layer, "bias", None), stacks, slots)
        self.trained = self.weight_slot is not None or self.bias_slot is not None

    @staticmethod
    def _find(parameter: nn.Parameter | None, stacks: Stacks, slots: Slots) -> tuple[torch.Tensor | None, int | None]:
        return (None, None) if parameter is None else (stacks[parameter], slots.get(parameter))

    def add_weight(self, target: torch.Tensor, a: torch.Tensor, error: torch.Tensor, alpha: float) -> None:
        """Target ``[k, *shape]`` += alpha · the weight's gradient, summed over the batch."""
        raise NotImplementedError

    def add_bias(self, target: torch.Tensor, error: torch.Tensor, alpha: float) -> None:
        """Target ``[k, *shape]`` += alpha · the bias's gradient, summed over the batch."""
        target.add_(error.sum(tuple(range(1, error.ndim - target.ndim + 1))), alpha=alpha)

    def squared_norms(self, a: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """``[k, b]``: squared L2 norm of each example's gradient, weight and bias together."""
        total = error.new_zeros(error.shape[:2])
        if self.weight_slot is not None:
            total += self._weight_norms(a, error)
        if self.bias_slot is not None:
            assert self.bias is not None  # it has a slot
            total += _summed(error, error.ndim - self.bias.ndim - 1)
        return total

    def _weight_norms(self, a: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def _summed(each: torch.Tensor, positions: int) -> torch.Tensor:
    """``[k, b]``: squared norm of the sum over so many axes after the second."""
    if not positions:
        return each.square().flatten(2).sum(2)
    total = each.sum(tuple(range(2, 2 + positions))).square().flatten(2).sum(2)
    return total + _lost(each.flatten(2 + positions).norm(dim=-1))


def _lost(norms: torch.Tensor) -> torch.Tensor:
    """``[k, b, *positions]`` norms of parts → ``[k, b]``: what rounding may hide of their sum, squared."""
    return (ROUNDING * norms.flatten(2).sum(2)).square()


class Linear(Layer):
    """z = W a + b; the gradient of W is Σ δ aᵀ, the error at a is Wᵀ δ."""

    recorded = False

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`Link.forward`."""
        assert self.weight is not None
        k, rows = x.shape[0], x.reshape(x.shape[0], -1, x.shape[-1])
        matrix = self.weight[:k].transpose(1, 2)
        z = torch.bmm(rows, matrix) if self.bias is None else torch.baddbmm(self.bias[:k, None], rows, matrix)
        return x, z.view(*x.shape[:-1], -1)

    def back(self, x: torch.Tensor, z: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """See :meth:`Link.back`."""
        assert self.weight is not None
        return torch.bmm(error.reshape(len(x), -1, error.shape[-1]), self.weight[: len(x)]).view(x.shape)

    def add_weight(self, target: torch.Tensor, a: torch.Tensor, error: torch.Tensor, alpha: float) -> None:
        """See :meth:`Layer.add_weight`."""
        k = a.shape[0]
        rows, errors = a.reshape(k, -1, a.shape[-1]), error.reshape(k, -1, error.shape[-1])
        target.baddbmm_(errors.transpose(1, 2), rows, alpha=alpha)

    def _weight_norms(self, a: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        if a.ndim == 3:  # one position: ‖δ aᵀ‖ = ‖δ‖ ‖a‖, where one may be as small as the other is large
            vanished = a.shape[2] * torch.finfo(a.dtype).tiny  # what squares can lose
            return (a.square().sum(2) + vanished) * error.double().square().sum(2)
        a, error = a.flatten(2, -2), error.flatten(2, -2)
        positions, wide, high = a.shape[2], a.shape[3], error.shape[3]
        lost = _lost(a.norm(dim=3) * error.norm(dim=3))
        if positions * (wide + high) > wide * high:
            return (error.transpose(2, 3) @ a).square().sum((2, 3)) + lost
        a, error = a.double(), error.double()  # ‖Σ δₛ aₛᵀ‖² = Σ ⟨aₛ, aₜ⟩ ⟨δₛ, δₜ⟩, in which digits cancel
        return ((a @ a.transpose(2, 3)) * (error @ error.transpose(2, 3))).sum((2, 3)).clamp_min(0).float() + lost


class LayerNorm(Layer):
    """z = γ ∘ a + β, where a is the normalised input."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`Link.forward`."""
        assert isinstance(self.layer, nn.LayerNorm)
        a = functional.layer_norm(x, self.layer.normalized_shape, eps=self.layer.eps)
        z = a
        if self.weight is not None:
            z = z * self._spread(self.weight[: len(x)], x)
        if self.bias is not None:
            z = z + self._spread(self.bias[: len(x)], x)
        return a, z

    def add_weight(self, target: torch.Tensor, a: torch.Tensor, error: torch.Tensor, alpha: float) -> None:
        """See :meth:`Layer.add_weight`."""
        self.add_bias(target, a * error, alpha)

    def _weight_norms(self, a: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        assert self.weight is not None
        return _summed(a * error, error.ndim - self.weight.ndim - 1)

    @staticmethod
    def _spread(parameter: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``[k, *shape]`` → ``[k, 1, …, *shape]``, of as many axes as x."""
        return parameter.view(len(parameter), *(1,) * (x.ndim - parameter.ndim), *parameter.shape[1:])


class Embedding(Layer):
    """z = W[a]; an example's gradient has δ in the rows of its tokens."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`Link.forward`.

        Raises:
            IndexError: a token outside the vocabulary; it would be in another client's table.
        """
        assert self.weight is not None
        tokens, vocabulary = x.long() if x.dtype == torch.int32 else x, self.weight.shape[1]
        if tokens.dtype != torch.int64:
            raise TypeError(
                f"an embedding takes integers, not {x.dtype}: put fedpriv.learning.layers.Tokens() in front of it"
            )
        if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary):
            raise IndexError(f"a token outside 0 … {vocabulary - 1}")
        return tokens, self._table(self.weight)[self._places(tokens)]

    def add_weight(self, target: torch.Tensor, a: torch.Tensor, error: torch.Tensor, alpha: float) -> None:
        """See :meth:`Layer.add_weight`."""
        self._table(target).index_add_(0, self._places(a).flatten(), error.flatten(0, -2), alpha=alpha)

    def _weight_norms(self, a: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        a, error = a.flatten(2), error.flatten(2, -2)
        same, lost = a[:, :, :, None] == a[:, :, None, :], _lost(error.norm(dim=3))
        error = error.double()  # see Linear
        return ((error @ error.transpose(2, 3)) * same).sum((2, 3)).clamp_min(0).float() + lost

    @staticmethod
    def _table(weight: torch.Tensor) -> torch.Tensor:
        return weight.view(-1, weight.shape[-1])

    def _places(self, tokens: torch.Tensor) -> torch.Tensor:
        """Rows of the table of all copies."""
        assert self.weight is not None
        first = torch.arange(len(tokens), device=tokens.device) * self.weight.shape[1]
        return tokens + first.view(-1, *(1,) * (tokens.ndim - 1))


class EmbeddingBag(Embedding):
    """z = the sum or mean of W[a] over an example's tokens."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`Link.forward`."""
        tokens, each = super().forward(x)
        return tokens, each.mean(2) if self._mean else each.sum(2)

    def add_weight(self, target: torch.Tensor, a: torch.Tensor, error: torch.Tensor, alpha: float) -> None:
        """See :meth:`Layer.add_weight`."""
        super().add_weight(target, a, self._of_each(a, error), alpha)

    def _weight_norms(self, a: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        same = (a[:, :, :, None] == a[:, :, None, :]).sum((2, 3))
        return same * error.square().sum(2) / (a.shape[2] ** 2 if self._mean else 1)

    @property
    def _mean(self) -> bool:
        return bool(self.layer.mode == "mean")

    def _of_each(self, a: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """The error at each token, ``[k, b, tokens, features]``."""
        shared = error / a.shape[2] if self._mean else error
        return shared[:, :, None].expand(*a.shape, -1)


STACKED: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: Linear,
    nn.LayerNorm: LayerNorm,
    nn.Embedding: Embedding,
    nn.EmbeddingBag: EmbeddingBag,
}
"""Torch's layer → how it is stacked."""


def stacked(layer: nn.Module, stacks: Stacks, slots: Slots) -> Link:
    """A layer for ``[k, b, …]``."""
    if type(layer) in STACKED:
        return STACKED[type(layer)](layer, stacks, slots)
    if isinstance(layer, nn.Flatten):
        return Link(nn.Flatten(layer.start_dim + 1, layer.end_dim + 1 if layer.end_dim > 0 else layer.end_dim))
    if hasattr(layer, "inplace"):
        layer = copy.copy(layer)
        vars(layer)["inplace"] = False  # a layer's output is still needed when the error comes back
    return ReLU(layer) if type(layer) is nn.ReLU else Link(layer)


def obstacle(layer: nn.Module) -> str | None:
    """Why a layer cannot be stacked; None where it can."""
    if isinstance(layer, nn.Flatten):
        return "flattens the batch" if layer.start_dim < 1 or layer.end_dim == 0 else None
    if type(layer) not in (*ELEMENTWISE, *STACKED, Tokens):
        return "is no dense layer"
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        special = (layer.padding_idx, layer.max_norm, layer.scale_grad_by_freq or None, layer.sparse or None)
        mode = getattr(layer, "mode", "sum")
        if any(option is not None for option in special) or mode == "max" or getattr(layer, "include_last_offset", 0):
            return "uses options of embeddings beyond sums and means"
    return None
