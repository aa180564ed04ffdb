"""A model as one vector: what of a module travels, in which order, and what stays behind.

The vector holds the parameters in the order of ``module.parameters()`` (tied ones once), then the floating-point
buffers of the ``state_dict`` in the order of ``module.buffers()`` (the running statistics of BatchNorm). Other buffers
(counters, caches) are never sent: every client starts its turn from those of the plan's model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

    from fedpriv.learning.update import Vector


def flatten(module: torch.nn.Module) -> Vector:
    """The module's parameters and floating-point buffers as a fresh ``[d] float32`` vector.

    Raises:
        ConfigurationError: a parameter that is not real floating-point, or not yet initialised.
    """
    import torch

    pieces = [tensor.detach().reshape(-1).to("cpu", torch.float32) for tensor in travelling(module)]
    vector: Vector = torch.cat(pieces).numpy() if pieces else np.zeros(0, dtype=np.float32)
    return vector


def load(module: torch.nn.Module, vector: Vector) -> None:
    """Overwrite the module's parameters and floating-point buffers with a ``[d]`` vector made by :func:`flatten`.

    Raises:
        ConfigurationError: the vector is of another length, or :func:`flatten` refuses the module.
    """
    import torch

    with torch.no_grad():
        for tensor, piece in pieces(module, vector):
            tensor.copy_(piece)


def pieces(module: torch.nn.Module, vector: Vector) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each tensor of :func:`travelling` with its part of a ``[d]`` vector, in the tensor's shape.

    Raises:
        ConfigurationError: the vector is of another length, or :func:`flatten` refuses the module.
    """
    import torch

    tensors = travelling(module)
    sizes = [tensor.numel() for tensor in tensors]
    if np.shape(vector) != (sum(sizes),):
        raise ConfigurationError(
            f"A vector of this model is one-dimensional with {sum(sizes)} coordinates.",
            value=np.shape(vector),
            remedy="Use a vector that flatten() made from the same architecture.",
        )
    parts = torch.split(torch.tensor(vector), sizes)
    return [(tensor, part.view_as(tensor)) for tensor, part in zip(tensors, parts, strict=True)]


def travelling(module: torch.nn.Module) -> list[torch.Tensor]:
    """The tensors behind the vector, in its order: parameters, then floating-point buffers of the state dict.

    Raises:
        ConfigurationError: a parameter that is not real floating-point, or not yet initialised.
    """
    from torch.nn.parameter import is_lazy

    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise ConfigurationError(
                "A model's parameters have their shapes before the first round.",
                value=name,
                remedy="Call the model once on an example inside the factory, or give the layer its input size.",
            )
        if not parameter.is_floating_point():
            raise ConfigurationError(
                "A model's parameters are real floating-point tensors.",
                value=f"{name}: {parameter.dtype}",
                remedy="Register other tensors as buffers; they stay with the client.",
            )
    return [*module.parameters(), *(buffer for _, buffer, sent in _buffers(module) if sent)]


@contextmanager
def own_turn(module: torch.nn.Module, rng: np.random.Generator) -> Iterator[None]:
    """One client's turn with a shared module: no client can tell, nor change, who was there before or comes after.

    Inside, torch's generators of the CPU and of the module's GPU are seeded by the client's stream (one draw of it), so
    dropout layers are reproducible; at the end the caller's generators and the buffers that are not sent are as they
    were.
    """
    import torch

    devices = sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})
    local = [(name, buffer.clone()) for name, buffer, sent in _buffers(module) if not sent]
    with torch.random.fork_rng(devices=devices):
        seed = int(rng.integers(2**63))
        for generator in (torch.default_generator, *(torch.cuda.default_generators[i] for i in devices)):
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for name, buffer in local:
                owner, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(owner), leaf, buffer)


def _buffers(module: torch.nn.Module) -> list[tuple[str, torch.Tensor, bool]]:
    """Name, tensor and whether it is sent, of each buffer."""
    buffers = list(module.named_buffers())
    persistent = set(module.state_dict()) if buffers else set()
    return [(name, buffer, buffer.is_floating_point() and name in persistent) for name, buffer in buffers]
