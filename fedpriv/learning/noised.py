"""What DP-SGD draws, and its noised steps.

Coins and noise come from the clients' own generators, or from the operating system. They are drawn for some steps at a
time; what is drawn does not depend on for how many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedpriv.learning.steps import Rule, Steps
from fedpriv.randomness import NoiseSource, os_gaussian, secret_bytes

if TYPE_CHECKING:
    from fedpriv.learning.packing import Rows

_AT_ONCE = 2**18
"""Numbers that are drawn together: they stay in the processor's cache until they are used."""


def batches(
    steps: int, examples: int, rate: float, source: NoiseSource | None, rng: np.random.Generator
) -> Iterator[Rows]:
    """The records of each step's batch: each by a coin of its own."""
    for some in _blocks(steps, examples):
        if source == "os":
            words = np.frombuffer(secret_bytes(8 * some * examples), dtype="<u8")
            uniform = ((words >> np.uint64(11)) * 2.0**-53).reshape(some, examples)
        else:
            uniform = rng.random((some, examples))
        step, row = np.nonzero(uniform < rate)
        edges = np.searchsorted(step, np.arange(some + 1)).tolist()
        yield from (row[start:end] for start, end in pairwise(edges))


def noises(
    steps: int, length: int, source: NoiseSource | None, rngs: Sequence[np.random.Generator]
) -> Iterator[torch.Tensor]:
    """Each step's standard normal noise ``[n, length] float32``: each client's from its own generator, or the OS.

    A generator is read step after step once it has drawn all of the client's batches, whoever trains beside it.
    """
    for some in _blocks(steps, len(rngs) * length):
        drawn = np.empty((len(rngs), some, length), dtype=np.float32)
        for own, rng in zip(drawn, rngs, strict=True):
            if source == "os":
                own[:] = os_gaussian(own.size).reshape(own.shape)
            else:
                rng.standard_normal(dtype=np.float32, out=own)
        yield from torch.from_numpy(drawn).unbind(1)


def _blocks(steps: int, numbers: int) -> Iterator[int]:
    """How many steps to draw for at a time, of so many numbers each."""
    many = max(1, _AT_ONCE // max(1, numbers))
    for start in range(0, steps, many):
        yield min(many, steps - start)


class NoisedSteps:
    """Noise, divide, move: of one client, or of several along the first axis.

    Args:
        rule: of the moves.
        weights: the trainable parameters; they are moved in place.
        scale: standard deviation of the noise on a sum.
        divisor: of the noised sum.
        axis: how many axes stand in front of a parameter's own.
    """

    def __init__(
        self, rule: Rule, weights: Sequence[torch.Tensor], *, scale: float, divisor: float, axis: int = 0
    ) -> None:
        self.scale, self.divisor = scale, divisor
        self.sizes = [w.shape[axis:].numel() for w in weights]
        self.length = sum(self.sizes)
        self._steps = Steps(rule, weights)

    def take(self, sums: Sequence[torch.Tensor], noise: torch.Tensor) -> None:
        """One step.

        Args:
            sums: of clipped gradients, shaped like the weights; they are used up.
            noise: ``[…, length]`` standard normal.
        """
        with torch.no_grad():
            for g, z in zip(sums, torch.split(noise, self.sizes, dim=-1), strict=True):
                g.add_(z.view(g.shape), alpha=self.scale).div_(self.divisor)
        self._steps.take(sums)
