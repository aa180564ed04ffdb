"""SGD of many clients at once, over stacked parameters: what the loop of :mod:`fedpriv.learning.sgd` computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from fedpriv.learning.packing import Copies, Packed, numbers_per_row, stacks, together, turns
from fedpriv.learning.update import DELTA, Broadcast, Update, check_finite
from fedpriv.threat import client as client_party

if TYPE_CHECKING:
    from fedpriv.data import Client
    from fedpriv.learning.sgd import LocalSGD


def descend(
    algorithm: LocalSGD,
    way: Literal["vmap", "stacked"],
    model: torch.nn.Module,
    broadcast: Broadcast,
    clients: Sequence[Client],
    rngs: Sequence[np.random.Generator],
) -> list[Update]:
    """Train a chunk of clients together; arguments and errors as in :meth:`LocalSGD.train`."""
    sizes = [min(algorithm.batch_size or len(c.y), len(c.y)) for c in clients]
    updates: dict[int, Update] = {}
    for stack in stacks(sizes, numbers_per_row(model, clients[0]), broadcast.parameters.size):
        members = [clients[i] for i in stack]
        done = _descend(algorithm, way, model, broadcast, members, [rngs[i] for i in stack])
        updates.update(zip(stack, done, strict=True))
    return [updates[i] for i in range(len(clients))]


def copies_of(way: Literal["vmap", "stacked"], model: torch.nn.Module, copies: int) -> Copies:
    """Copies of a model that has this path."""
    if way == "stacked":
        from fedpriv.learning.stacked import Stacked

        return Stacked(model, copies)
    from fedpriv.learning.vmapped import Vmapped

    return Vmapped(model, copies)


def _descend(
    algorithm: LocalSGD,
    way: Literal["vmap", "stacked"],
    model: torch.nn.Module,
    broadcast: Broadcast,
    clients: Sequence[Client],
    rngs: Sequence[np.random.Generator],
) -> list[Update]:
    device = next(model.parameters()).device
    batches = turns(clients, rngs, algorithm.batches)
    with together(clients):
        packed = Packed(clients, batches, device)
        copies = copies_of(way, model, len(clients))
        copies.load(broadcast.parameters)
        losses = _steps(algorithm, copies, packed)
        deltas = copies.flatten()
        deltas -= broadcast.parameters
    places = packed.places.tolist()
    check_finite(DELTA, deltas, [client_party(clients[i].index) for i in np.argsort(places)])
    means = (losses.double().cpu().numpy() / packed.counts.sum(axis=0)).tolist()
    steps = packed.steps.astype(np.float64).tolist()
    return [Update(payload={DELTA: deltas[p]}, metrics={"loss": means[p], "steps": steps[p]}) for p in places]


def _steps(algorithm: LocalSGD, copies: Copies, packed: Packed) -> torch.Tensor:
    """Train; the sum of each client's losses, ``[n]``."""
    weights = copies.parameters
    velocities = [torch.zeros_like(w) for w in weights] if algorithm.momentum else []
    anchors = [w.clone() for w in weights] if algorithm.proximal else weights
    total = torch.zeros(len(packed.steps), device=weights[0].device)
    rate = algorithm.learning_rate
    # v = momentum · v + g and w −= rate · v; without momentum the gradient goes straight into w.
    targets, beta, alpha = (velocities, algorithm.momentum, 1.0) if velocities else (weights, 1.0, -rate)
    for batch in packed:
        k = len(batch)
        losses = copies.backward(batch.x, batch.y, batch.weights)
        total[:k].add_((losses * batch.mask).sum(1))
        pulls = []
        if algorithm.weight_decay or algorithm.proximal:
            pairs = zip(weights, anchors, strict=True)
            pulls = [algorithm.weight_decay * w[:k] + algorithm.proximal * (w[:k] - w0[:k]) for w, w0 in pairs]
        copies.add(targets, beta=beta, alpha=alpha)
        for target, pull in zip(targets, pulls, strict=False):
            target[:k].add_(pull, alpha=alpha)
        for w, v in zip(weights, velocities, strict=False):
            w[:k].sub_(v[:k], alpha=rate)
    return total
