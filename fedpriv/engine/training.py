"""Some clients of a round: train, flatten, clip, weight, encode. Runs where the clients live."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from fedpriv.encoding import Integers, Reals
from fedpriv.engine.executors import Shared, torch_threads
from fedpriv.engine.resolution import Resolved
from fedpriv.errors import ConfigurationError
from fedpriv.learning.update import Broadcast, ClientState, Update, check_update
from fedpriv.privacy.event import LedgerEvent
from fedpriv.privacy.mechanism import RoundSpec
from fedpriv.randomness import Streams
from fedpriv.threat import Party, client, client_index


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
    states: Mapping[int, ClientState]
    """Of the cohort's clients that have one."""
    threads: int
    """Torch's, while clients train."""

    def __call__(self, present: Sequence[Party]) -> Generator[tuple[Party, Integers], None, Chunk]:
        chunk = self.train([client_index(party) for party in present])
        yield from zip(present, chunk.values, strict=True)
        return replace(chunk, values=chunk.values[:0])

    def train(self, indices: Sequence[int]) -> Chunk:
        """Train, flatten, clip, weight and encode."""
        # Without a model nothing needs torch, and it is not loaded.
        with torch_threads(self.threads) if self.resolved.value.plan.model is not None else nullcontext():
            return self._train(indices)

    def _train(self, indices: Sequence[int]) -> Chunk:
        started = time.process_time()
        resolved = self.resolved.value
        plan, federation, spec = resolved.plan, resolved.federation, self.spec
        module = resolved.module() if plan.model is not None else None
        clients = [federation.clients[index] for index in indices]
        kept = [self.states[c.index] if c.index in self.states else plan.client.init(c) for c in clients]
        rngs = self.streams.generators("training", spec.round, indices)
        updates = plan.client.train(module, self.broadcast, clients, kept, rngs)  # type: ignore[arg-type]
        if len(updates) != len(clients):
            raise ConfigurationError(
                "Training a chunk returns one update for each client, in order.",
                value=f"{len(updates)} updates of {len(clients)} clients",
                remedy="Return a list as long as the clients; @per_client writes the loop.",
            )
        sizes = [len(c) for c in clients]
        flat = np.stack([_flatten(update, resolved, c.index) for update, c in zip(updates, clients, strict=True)])
        encoded = plan.mechanism.protect(flat, sizes, spec, self.streams.generators("encoding", spec.round, indices))
        weights = sizes if plan.mechanism.weighting == "examples" else [1] * len(sizes)
        return Chunk(
            trained=[
                Trained(client=c.index, weight=weight, state=u.state, events=u.events, metrics=u.metrics)
                for c, u, weight in zip(clients, updates, weights, strict=True)
            ],
            values=encoded.values,
            residual=encoded.residual,
            clipped_norms=encoded.clipped_norms,
            clipped_coordinates=encoded.clipped_coordinates,
            cpu_seconds=time.process_time() - started,
        )


def _flatten(update: Update, resolved: Resolved, index: int) -> Reals:
    """The payload's entries as one vector, in the plan's order; what cannot be summed is refused here."""
    check_update(update, resolved.entries, client(index))
    return np.concatenate([update.payload[name].astype(np.float64) for name in resolved.entries])
