"""A model as one vector: what of a module travels, in which order, and what stays behind.

The vector holds the parameters in the order of ``module.parameters()`` (tied ones once), then the floating-point
buffers of the ``state_dict`` in the order of ``module.buffers()`` (the running statistics of BatchNorm). Other buffers
(counters, caches) are never sent: every client starts its turn from those of the plan's model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

Vector: TypeAlias = npt.NDArray[np.float32]

_WORDS = 624
"""Of a Mersenne twister's state; torch keeps each in 64 bits, after 24 bytes about the seed and the position."""


def flatten(module: torch.nn.Module) -> Vector:
    """The module's parameters and floating-point buffers as a fresh ``[d] float32`` vector.

    Raises:
        ConfigurationError: a parameter that is not real floating-point, or not yet initialised.
    """
    return Layout(module).flatten()


def load(module: torch.nn.Module, vector: Vector) -> None:
    """Overwrite the module's parameters and floating-point buffers with a ``[d]`` vector made by :func:`flatten`.

    Raises:
        ConfigurationError: the vector is of another length, or :func:`flatten` refuses the module.
    """
    layout = Layout(module)
    layout.load(layout.split(vector))


class Layout:
    """Where in a module the tensors behind its vector are: looked up once, for as long as its layers are the same ones.

    Tensors themselves are not kept, as a forward pass may replace a buffer.

    Raises:
        ConfigurationError: a parameter that is not real floating-point, or not yet initialised.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        from torch.nn.parameter import is_lazy

        parameters, buffers = list(module.named_parameters()), list(module.named_buffers())
        for name, parameter in parameters:
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
        persistent = set(module.state_dict()) if buffers else set()
        sent = [name for name, buffer in buffers if buffer.is_floating_point() and name in persistent]
        self._sent = [_place(module, name) for name in (*(name for name, _ in parameters), *sent)]
        self._local = [_place(module, name) for name, _ in buffers if name not in sent]
        self._gpus = sorted({parameter.device.index for _, parameter in parameters if parameter.is_cuda})

    def tensors(self) -> list[torch.Tensor]:
        """Those behind the vector, in its order: parameters, then floating-point buffers of the state dict."""
        return [tensors[name] for tensors, name in self._sent]

    def split(self, vector: Vector) -> list[torch.Tensor]:
        """A ``[d]`` vector as a tensor for each of :meth:`tensors`, in its shape; none of the vector's memory.

        Raises:
            ConfigurationError: the vector is of another length.
        """
        import torch

        tensors = self.tensors()
        sizes = [tensor.numel() for tensor in tensors]
        if np.shape(vector) != (sum(sizes),):
            raise ConfigurationError(
                f"A vector of this model is one-dimensional with {sum(sizes)} coordinates.",
                value=np.shape(vector),
                remedy="Use a vector that flatten() made from the same architecture.",
            )
        parts = torch.split(torch.tensor(vector), sizes)
        return [part.view_as(tensor) for tensor, part in zip(tensors, parts, strict=True)]

    def load(self, parts: list[torch.Tensor]) -> None:
        """Overwrite the module's tensors with what :meth:`split` gave."""
        import torch

        with torch.no_grad():
            for tensor, part in zip(self.tensors(), parts, strict=True):
                tensor.copy_(part)

    def flatten(self) -> Vector:
        """See :func:`flatten`."""
        import torch

        tensors = self.tensors()
        if not tensors:
            return np.zeros(0, dtype=np.float32)
        flat: Vector = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).to("cpu", torch.float32).numpy()
        return flat

    def seed(self, entropy: bytes) -> None:
        """Seed torch's generators of the CPU and of the module's GPU by all of these 8 bytes or more.

        Of the seed that ``manual_seed`` takes, 32 bits count on the CPU: among 77,000 turns two would likely share what
        their dropout layers draw. So the words of its Mersenne twister are filled here.
        """
        import torch

        state = torch.default_generator.manual_seed(0).get_state()
        words = state.numpy()[24 : 24 + 8 * _WORDS].view(np.uint64)
        words[:] = np.frombuffer(hashlib.shake_256(entropy).digest(4 * _WORDS), dtype="<u4")
        torch.default_generator.set_state(state)
        for gpu in self._gpus:
            torch.cuda.default_generators[gpu].manual_seed(int.from_bytes(entropy[:8], "little"))

    @contextmanager
    def turn(self, rng: np.random.Generator) -> Iterator[None]:
        """One client's turn with a shared module: no client can tell, nor change, who was there before or comes after.

        Inside, torch's generators of the CPU and of the module's GPU are seeded by the client's stream (one draw of
        it, 63 bits), so dropout layers are reproducible; at the end the caller's generators and the buffers that are
        not sent are as they were.
        """
        import torch

        generators = [torch.default_generator, *(torch.cuda.default_generators[i] for i in self._gpus)]
        before = [generator.get_state() for generator in generators]
        local = [(tensors, name, tensors[name].clone()) for tensors, name in self._local]
        self.seed(int(rng.integers(2**63)).to_bytes(8, "little"))
        try:
            yield
        finally:
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)
            for tensors, name, tensor in local:
                tensors[name] = tensor


def _place(module: torch.nn.Module, name: str) -> tuple[dict[str, torch.Tensor], str]:
    """The dictionary that holds a parameter or buffer, and its name in there."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    return (owner._parameters if leaf in owner._parameters else owner._buffers), leaf  # type: ignore[return-value]
