"""Which of the three ways a chunk of clients is trained: by a rule on the model's layers, never by a clock.

- ``"stacked"``: the model is a Sequential of dense layers (Linear, activations, Embedding, EmbeddingBag, LayerNorm,
  Flatten). One batched matrix product a layer serves all clients.
- ``"vmap"``: torch can trace the model, and it is made of layers and functions with which ``torch.func.vmap`` was
  measured to be faster than the loop: own forward passes over dense layers, GroupNorm, PReLU, one-dimensional
  convolutions.
- ``"loop"``: every other model, one client after the other: with convolutions over images (vmap has them, where it is
  asked for: on the CPU it was measured to be slower), dropout, BatchNorm, or control flow that looks at values.

All draw the same batches and agree to rounding, about 1e-6; bits belong to the path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from fedpriv.errors import ConfigurationError, PlanError

if TYPE_CHECKING:
    import torch

Path: TypeAlias = Literal["loop", "vmap", "stacked"]
Batching: TypeAlias = Literal["auto", "loop", "vmap", "stacked"]
"""``"auto"``: the fastest path that the model has; else this path, or the plan is refused."""

BATCHINGS: tuple[Batching, ...] = ("auto", "loop", "vmap", "stacked")


class Choice(NamedTuple):
    """What :func:`choose` settled."""

    path: Path
    reason: str
    """Why no faster path was taken; empty where none is."""


_SETTLED: WeakKeyDictionary[torch.nn.Module, dict[Batching, Choice]] = WeakKeyDictionary()


def choose(model: torch.nn.Module, batching: Batching) -> Choice:
    """The path of a model under ``batching``; see the module's docstring for the rule.

    Raises:
        ConfigurationError: an unknown batching.
        PlanError: a forced path that the model does not have.
    """
    check(batching)
    if batching == "loop":
        return Choice("loop", "")
    settled = _SETTLED.setdefault(model, {})
    if batching not in settled:
        settled[batching] = _choose(model, batching)
    return settled[batching]


def check(batching: object) -> None:
    """Raises ConfigurationError unless it is a known batching."""
    if batching not in BATCHINGS:
        raise ConfigurationError(
            'batching is "auto", "loop", "vmap" or "stacked".', value=batching, remedy='Use batching="auto".'
        )


def _choose(model: torch.nn.Module, batching: Batching) -> Choice:
    from fedpriv.learning import stacked, vmapped

    if batching == "vmap":
        return Choice("vmap", _required(vmapped.obstacle(model), batching))
    reason = stacked.obstacle(model)
    if batching == "stacked" or reason is None:
        return Choice("stacked", _required(reason, batching))
    slow = vmapped.obstacle(model, images=False)
    if slow is None:
        return Choice("vmap", reason)
    return Choice("loop", reason if slow == reason else f"{reason}; {slow}")


def _required(reason: str | None, batching: Batching) -> str:
    if reason is None:
        return ""
    raise PlanError(
        f'Under batching="{batching}" the model has that path.',
        value=reason,
        remedy='Use batching="auto", which falls back, or change that part of the model.',
    )
