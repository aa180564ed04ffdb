"""Sums of clipped per-example gradients: by Opacus for one client, by the norm trick for a stack of them.

Both give the sum over a batch of each example's gradient, scaled down to the clip norm over all trainable parameters
jointly. An example whose gradient is not finite counts as zero. So whatever the data are, one example more or less
moves the sum by at most the clip norm.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedpriv.errors import ConfigurationError, PlanError

if TYPE_CHECKING:
    from fedpriv.learning.stacked import Stacked

Clipped: TypeAlias = Callable[[torch.Tensor, torch.Tensor], tuple[list[torch.Tensor], torch.Tensor]]
"""``(x, y)`` → the sum of clipped gradients, one tensor for each trainable parameter, and the examples' losses."""

MARGIN = 2.0**-18
"""Gradients are clipped to (1 − margin) · clip_norm, so that rounding in float32 does not lift one above clip_norm."""


@contextmanager
def _exactly(device: torch.device) -> Iterator[None]:
    """Products of float32 to all of its bits: the caller's autocast or TF32 would lift a gradient over the margin."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def clipped_stack(
    stack: Stacked, x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor, clip_norm: float
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Each client's sum of clipped gradients, by the norm trick, and the losses ``[k, b]``, 0 in padding."""
    with _exactly(x.device):
        losses = stack.backward(x, y, mask)
        norms = stack.norms()
        broken = ~norms.isfinite()
        if bool(broken.any()):
            x = x.masked_fill(broken.view(*broken.shape, *(1,) * (x.ndim - 2)), 0)
            mask = mask.masked_fill(broken, 0.0)
            losses = stack.backward(x, y, mask)
            norms = stack.norms()
        stack.scale(_factors(norms, clip_norm))
        sums = [torch.zeros_like(p) for p in stack.parameters]
        stack.add(sums, beta=1.0, alpha=1.0)
    return sums, losses * mask


@contextmanager
def opacus(model: nn.Module, clip_norm: float) -> Iterator[Clipped]:
    """Opacus' per-example gradients of a module, clipped and summed; its hooks are removed at the end.

    What is added up are the very numbers whose norms were taken. Ghost clipping is not used: it computes gradients
    twice, and where digits cancel on the way back the second is not the first, at any multiple of the clip norm. The
    first examples show whether Opacus' rules hold for the model's layers.
    """
    from opacus.grad_sample import GradSampleModule  # type: ignore[import-untyped]

    weights = [w for w in model.parameters() if w.requires_grad]
    probe: nn.Module | None = copy.deepcopy(model).double()
    module = GradSampleModule(model, loss_reduction="sum")

    def clipped(x: torch.Tensor, y: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        nonlocal probe
        if probe is not None:
            _probe(probe, x[:4], y[:4])
            probe = None
        losses = nn.functional.cross_entropy(module(x), y, reduction="none")
        torch.autograd.backward(losses.sum())
        gradients = [_of_examples(w, len(x)) for w in weights]
        # Not Tensor.norm: in float32 it adds up one by one, and of a million squares is off by more than the margin.
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        _forget(weights)
        finite = norms.isfinite()
        if not bool(finite.any()):
            return [torch.zeros_like(w) for w in weights], losses.detach()[:0]
        if not bool(finite.all()):
            return clipped(x[finite], y[finite])
        factors = _factors(norms, clip_norm)
        return [torch.tensordot(factors, g, dims=1) for g in gradients], losses.detach()

    with _exactly(weights[0].device), warnings.catch_warnings():
        # Of torch: Opacus' hooks are on the first layer, too, whose input needs no gradient.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        try:
            yield clipped
        finally:
            module.to_standard_module()
            _forget(weights)


def _factors(norms: torch.Tensor, clip_norm: float) -> torch.Tensor:
    """What each example's gradient is multiplied by."""
    clip = (1 - MARGIN) * clip_norm
    return clip / norms.clamp_min(clip)


def _of_examples(weight: torch.Tensor, examples: int) -> torch.Tensor:
    """``[b, *shape]`` in the parameter's precision, zero where no example's loss depends on it."""
    found: torch.Tensor | None = weight.grad_sample  # type: ignore[attr-defined]
    if found is None and weight.grad is None:
        return weight.new_zeros((examples, *weight.shape))
    if not isinstance(found, torch.Tensor) or len(found) != examples:
        raise ConfigurationError(
            "Opacus has a gradient for every example and trainable parameter.",
            value=f"none for a parameter of shape {tuple(weight.shape)}",
            remedy="Use parameters inside the layer that owns them, with examples along the first axis.",
        )
    return found.to(weight.dtype)  # norms in bfloat16, which a model's own autocast leaves here, say little


class _Double(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Whoever asks for floats of some precision gets doubles: a model may cast its input."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = (kwargs or {}).get("dtype")
        if asked is not None and asked.is_floating_point:
            kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **(kwargs or {}))


def _probe(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Examples' gradients add up to the batch's; else a layer is used in a way that Opacus does not know.

    In double precision, where rounding is far below what a wrong rule makes: no record's values decide it.

    Raises:
        PlanError: they do not.
    """
    from opacus.grad_sample import GradSampleModule

    module = GradSampleModule(model, loss_reduction="sum")
    x = x.double() if x.is_floating_point() else x
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of constants that the model makes
    try:
        with _Double(), torch.random.fork_rng():  # type: ignore[no-untyped-call]  # dropout draws nothing of training's
            torch.autograd.backward(nn.functional.cross_entropy(module(x), y, reduction="sum"))
    finally:
        torch.set_default_dtype(default)
    for name, w in model.named_parameters():
        if not w.requires_grad or w.grad is None:
            continue
        each = _of_examples(w, len(x))
        if float((each.sum(0) - w.grad).norm()) > 1e-3 * float(each.flatten(1).norm(dim=1).sum()):
            raise PlanError(
                "DP-SGD trains a model whose per-example gradients Opacus gets right: they add up to the batch's.",
                value=name,
                remedy="Opacus does not know every use of a layer: padding other than zeros, padding_idx, channels "
                "last, a weight used outside its layer. Avoid these.",
            )


def _forget(weights: Sequence[torch.Tensor]) -> None:
    for w in weights:
        w.grad = None
        if hasattr(w, "grad_sample"):
            w.grad_sample = None


def refuse_mixing(model: nn.Module) -> None:
    """Raises PlanError where a layer lets examples meet."""
    from fedpriv.learning.models import MIXING_REMEDY, mixes_examples

    mixing = mixes_examples(model)
    if mixing:
        raise PlanError(
            "Per-example clipping needs a model in which examples do not meet.", value=mixing, remedy=MIXING_REMEDY
        )


def refuse_unknown(model: nn.Module) -> None:
    """Raises PlanError where Opacus has no per-example gradients."""
    from opacus.grad_sample import GradSampleModule
    from opacus.validators import ModuleValidator  # type: ignore[import-untyped]

    # The first error of a module in evaluation mode is just that.
    errors = ModuleValidator.validate(model, strict=False)[0 if model.training else 1 :]
    errors += GradSampleModule.validate(model, strict=False)
    errors += [f"{name} (EmbeddingBag)" for name, m in model.named_modules() if isinstance(m, nn.EmbeddingBag)]
    errors += [
        f"{name} is {p.dtype}, not torch.float32"
        for name, p in model.named_parameters()
        if p.dtype not in (torch.float32, torch.float64)
    ]
    if errors:
        raise PlanError(
            "DP-SGD trains a model of which Opacus forms per-example gradients.",
            value=str(errors[0]),
            remedy="Replace that layer by one of torch or Opacus that works example by example, without buffers.",
        )
