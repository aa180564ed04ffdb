"""Many clients' dense models as one: parameters stacked along a client axis, trained by batched matrix products.

For models that are a Sequential of dense layers (:func:`obstacle` says what keeps a model out). The error is carried
back to each layer's output z, by hand through matrices and ReLU and by autograd through the rest; what a layer's
parameters need then follows from its input a and the error δ = ∂loss/∂z::

    stack = Stacked(model, copies=len(clients))
    stack.load(broadcast.parameters)                      # every client starts from the broadcast
    losses = stack.backward(x, y, weights)                # x [k, b, *shape], y [k, b], weights [k, b] → [k, b]
    stack.add(stack.parameters, beta=1, alpha=-rate)      # parameters −= rate · Σ weights · gradient
    norms = stack.norms()                                 # [k, b]: each example's weighted gradient, all layers jointly
    stack.scale(factors)                                  # each example's gradient times its factor [k, b]

and for DP-SGD, with ``mask`` 1 for examples and 0 for padding::

    sums, norms = stack.clipped_gradients(x, y, mask, clip)     # sums: [k, *shape] for each of stack.parameters

k ≤ copies: the first k copies of the stack take part, so clients that are done stand last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from fedpriv.learning import layers
from fedpriv.learning.packing import Copies


def obstacle(model: nn.Module) -> str | None:
    """Why a model cannot be stacked; None where it can."""
    if next(model.buffers(), None) is not None:
        return "it has buffers"
    named = list(model.named_parameters(remove_duplicate=False))
    if len({id(p) for _, p in named}) < len(named):
        return "layers share parameters"
    for name, p in named:
        if p.dtype != torch.float32:
            return f"{name} is {p.dtype}, not torch.float32"
    for name, layer in model.named_modules(remove_duplicate=False):
        reason = "has hooks" if hooked(layer) else None if _is_sequence(layer) else layers.obstacle(layer)
        if reason is not None:
            return f"{name or 'the model'} ({type(layer).__name__}) {reason}"
    return None


def hooked(layer: nn.Module) -> bool:
    """Whether something of the user's runs around a layer."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(layer, kind, None) for kind in kinds)


class Stacked(Copies):
    """Copies of one dense model, a client each; see the module's docstring."""

    def __init__(self, model: nn.Module, copies: int) -> None:
        super().__init__(model, copies)
        stacks = dict(zip(model.parameters(), self._all, strict=True))
        slots = {p: slot for slot, p in enumerate(p for p in model.parameters() if p.requires_grad)}
        self._links = [layers.stacked(layer, stacks, slots) for layer in _flat(model)]
        self._first = next((place for place, link in enumerate(self._links) if link.trained), len(self._links))
        self._tape: list[tuple[layers.Layer, torch.Tensor, torch.Tensor]] = []

    def backward(self, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """See :meth:`Copies.backward`."""
        passed = []
        for place, link in enumerate(self._links):
            recorded = link.recorded and place > self._first  # the error ends at the first trained layer
            x = x.detach().requires_grad_(recorded)
            with torch.set_grad_enabled(recorded):
                a, z = link.forward(x)
            passed.append((link, x, a, z))
            x = z
        losses, error = _cross_entropy(x.detach(), y, weights)
        tape = []
        for place, (link, x, a, z) in reversed([*enumerate(passed)][self._first :]):
            if isinstance(link, layers.Layer) and link.trained:
                tape.append((link, a.detach(), error))
            if place > self._first:
                error = link.back(x, z, error)
        self._tape = tape[::-1]
        return losses

    def add(self, targets: Sequence[torch.Tensor], *, beta: float, alpha: float) -> None:
        """See :meth:`Copies.add`."""
        for layer, a, error in self._tape:
            for slot in (layer.weight_slot, layer.bias_slot):
                if slot is None:
                    continue
                target = targets[slot][: error.shape[0]]
                if beta != 1:
                    target.mul_(beta)
                if slot == layer.weight_slot:
                    layer.add_weight(target, a, error, alpha)
                else:
                    layer.add_bias(target, error, alpha)

    def norms(self) -> torch.Tensor:
        """``[k, b]``: L2 norm of each example's weighted gradient over all trainable parameters.

        The gradient of a dense layer is the outer product δ aᵀ, so its norm is ‖δ‖ · ‖a‖ and no gradient of a single
        example is formed (Goodfellow 2015); for several positions see :mod:`fedpriv.learning.layers`.
        """
        return torch.stack([layer.squared_norms(a, error) for layer, a, error in self._tape]).sum(0).sqrt()

    def scale(self, factors: torch.Tensor) -> None:
        """Multiply each example's gradient by its factor, ``[k, b]``."""
        self._tape = [
            (layer, a, error * factors.view(*factors.shape, *(1,) * (error.ndim - 2))) for layer, a, error in self._tape
        ]

    def clipped_gradients(
        self, x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor, clip: float
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Each client's sum of its examples' gradients, every one clipped to L2 norm ``clip``, and the norms before.

        Args:
            x: ``[k, b, *shape]``.
            y: ``[k, b] int64``.
            mask: ``[k, b]``: 1 where there is an example, 0 in padding.
            clip: > 0.

        Returns:
            ``[k, *shape]`` for each of :attr:`parameters`, and ``[k, b]``, 0 in padding.
        """
        self.backward(x, y, mask)
        norms = self.norms()
        self.scale(clip / norms.clamp_min(clip))
        sums = [torch.zeros_like(p[: len(x)]) for p in self.parameters]
        self.add(sums, beta=1.0, alpha=1.0)
        return sums, norms


def _cross_entropy(logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each example's loss ``[k, b]``, and the weighted error at the logits: (softmax − one-hot) · weight.

    By hand: torch's log_softmax takes a quarter of a step where rows are as short as these.
    """
    if logits.ndim != 3:
        raise ValueError(f"a classifier gives [b, classes] logits, not {(logits.shape[1], *logits.shape[2:])}")
    labels = y.unsqueeze(2)
    shifted = logits - logits.amax(2, keepdim=True)
    error = shifted.exp()
    total = error.sum(2, keepdim=True)
    losses = total.log().sub_(shifted.gather(2, labels)).squeeze(2)
    error.div_(total).scatter_add_(2, labels, torch.full_like(labels, -1, dtype=error.dtype))
    return losses, error.mul_(weights.unsqueeze(2))


def _is_sequence(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward


def _flat(model: nn.Module) -> Iterator[nn.Module]:
    """The layers in the order in which they are run."""
    if not isinstance(model, nn.Sequential):
        yield model
        return
    for layer in model:
        yield from _flat(layer)
