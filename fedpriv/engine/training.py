"""Some clients of a round: train, flatten, clip, weight, encode. Runs where the clients live."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from fedpriv.encoding import Integers, Reals
from fedpriv.engine.executors import Shared, torch_threads
from fedpriv.engine.resolution import Resolved
from fedpriv.errors import ConfigurationError
from fedpriv.learning.update import Broadcast, ClientState, stack
from fedpriv.privacy.ledger.event import LedgerEvent
from fedpriv.privacy.mechanism import RoundSpec
from fedpriv.randomness import NoiseSource, Streams, noises
from fedpriv.threat import Party, client, client_index

if TYPE_CHECKING:
    import torch


Device: TypeAlias = Literal["auto", "cpu", "cuda"]
"""Where clients are trained; ``"auto"``: on the GPU if torch finds one, else on the processor."""

IN_CACHE = 2**17
"""Coordinates that are encoded at a time: what is made on the way stays in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the simulator keeps of one client's round. Nothing of it is sent."""

    client: int
    weight: int
    state: ClientState
    events: tuple[LedgerEvent, ...]
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A chunk's encoded vectors and what the simulator keeps."""

    trained: list[Trained]
    values: Integers
    """``[n, spec.length] int64``."""
    residual: Reals
    """``[spec.length]``: what encoding added to the chunk's sum."""
    clipped_norms: int
    clipped_coordinates: int
    cpu_seconds: float


@dataclass(frozen=True, kw_only=True)
class ClientWork:
    """What the clients of a round compute, wherever they live. Each client has its own generators, whatever the block.

    Called with some clients, it yields each one's encoded vector and returns the rest as a :class:`Chunk` without
    values: see :data:`fedpriv.aggregation.protocol.Inputs`.
    """

    resolved: Shared[Resolved]
    broadcast: Broadcast
    spec: RoundSpec
    streams: Streams
    noise: NoiseSource
    states: Mapping[int, ClientState]
    """Of the cohort's clients that have one."""
    threads: int
    """Torch's, while clients train."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the models and the clients' data are while they train; data stay there for the run."""

    def __call__(self, present: Sequence[Party]) -> Generator[tuple[Party, Integers], None, Chunk]:
        chunk = self.train([client_index(party) for party in present])
        yield from zip(present, chunk.values, strict=True)
        return replace(chunk, values=chunk.values[:0])

    def total(self, indices: Sequence[int]) -> Chunk:
        """As :meth:`train`; ``values`` is ``[1, spec.length]``, their exact sum."""
        return self._on_threads(indices, summed=True)

    def train(self, indices: Sequence[int]) -> Chunk:
        """Train, flatten, clip, weight and encode."""
        return self._on_threads(indices, summed=False)

    def _on_threads(self, indices: Sequence[int], summed: bool) -> Chunk:
        # Without a model nothing needs torch, and it is not loaded.
        with torch_threads(self.threads) if self.resolved.value.plan.model is not None else nullcontext():
            return self._train(indices, summed)

    def _train(self, indices: Sequence[int], summed: bool) -> Chunk:
        started = time.process_time()
        resolved = self.resolved.value
        plan, federation, spec = resolved.plan, resolved.federation, self.spec
        clients = [federation.clients[index] for index in indices]
        kept = [self.states[c.index] if c.index in self.states else plan.client.init(c) for c in clients]
        rngs = self.streams.generators("training", spec.round, indices)
        told = {"batching": resolved.batching} if hasattr(plan.client, "path") else {}
        updates = plan.client.train(_module(resolved, self.device), self.broadcast, clients, kept, rngs, **told)  # type: ignore[arg-type]
        if len(updates) != len(clients):
            raise ConfigurationError(
                "Training a chunk returns one update for each client, in order.",
                value=f"{len(updates)} updates of {len(clients)} clients",
                remedy="Return a list as long as the clients; @per_client writes the loop.",
            )
        sizes = [len(c) for c in clients]
        weights = sizes if plan.mechanism.weighting == "examples" else [1] * len(sizes)
        values = np.zeros((1 if summed else len(clients), spec.length), dtype=np.int64)
        residual = np.zeros(spec.length)
        clipped_norms = clipped_coordinates = 0
        protect = plan.mechanism.protect
        if summed:
            protect = getattr(plan.mechanism, "protect_sum", protect)
        step = max(1, IN_CACHE // spec.length)
        for part in (slice(start, start + step) for start in range(0, len(clients), step)):
            flat = stack(updates[part], resolved.entries, [client(index) for index in indices[part]])
            drawn = noises(self.noise, self.streams, "client-noise", spec.round, indices[part])
            encoded = protect(flat, sizes[part], spec, drawn)
            if summed:
                values += encoded.values.sum(axis=0)
            else:
                values[part] = encoded.values
            residual += encoded.residual
            clipped_norms += encoded.clipped_norms
            clipped_coordinates += encoded.clipped_coordinates
        return Chunk(
            trained=[
                Trained(client=c.index, weight=weight, state=u.state, events=u.events, metrics=u.metrics)
                for c, u, weight in zip(clients, updates, weights, strict=True)
            ],
            values=values,
            residual=residual,
            clipped_norms=clipped_norms,
            clipped_coordinates=clipped_coordinates,
            cpu_seconds=time.process_time() - started,
        )


_MODULES: WeakKeyDictionary[Resolved, dict[str, torch.nn.Module]] = WeakKeyDictionary()
"""One of each plan's architecture on a device: to build it for every block would cost as much as to train a small one.
"""


def _module(resolved: Resolved, device: str) -> torch.nn.Module | None:
    """A module to work with; the loop's own, as it is trained through and may keep what it likes."""
    if resolved.plan.model is None:
        return None
    kept = _MODULES.setdefault(resolved, {})
    if device not in kept:
        if device == "cuda":
            settled_device("cuda")  # of a worker, which may be on another machine
        kept[device] = resolved.module().to(device)
    return copy.deepcopy(kept[device]) if resolved.batching == "loop" else kept[device]


def device_of(resolved: Resolved, device: Device) -> Literal["cpu", "cuda"]:
    """Where a plan's clients are trained on this machine; a plan without a model has nothing that goes to a GPU.

    Raises:
        ConfigurationError: see :func:`settled_device`.
    """
    without = resolved.plan.model is None and device == "auto"
    return "cpu" if without else settled_device(device)


def settled_device(device: Device) -> Literal["cpu", "cuda"]:
    """What ``device`` means on this machine.

    Raises:
        ConfigurationError: an unknown device, or ``"cuda"`` where torch finds no GPU.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigurationError(
            'device is "auto", "cpu" or "cuda".',
            value=device,
            remedy='Use "auto", which takes a GPU where there is one.',
        )
    if device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise ConfigurationError(
            'device="cuda" needs a GPU that torch can use.',
            value="torch.cuda.is_available() is False",
            remedy='Use device="cpu", or install a driver and a torch that was built for CUDA.',
        )
    return "cpu"
