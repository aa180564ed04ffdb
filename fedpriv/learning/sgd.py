"""Local training by stochastic gradient descent: FedAvg's client, and FedProx's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import mul
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.errors import ConfigurationError, DataError
from fedpriv.learning import _check
from fedpriv.learning.paths import Batching, Path, choose
from fedpriv.learning.update import DELTA, Broadcast, ClientState, Update, train_each

if TYPE_CHECKING:
    import torch

    from fedpriv.data import Client
    from fedpriv.learning.packing import Rows
    from fedpriv.learning.vector import Layout


@dataclass(frozen=True, kw_only=True)
class LocalSGD:
    """Each client runs SGD on the cross entropy of its own records and sends how far the model moved.

    One step on a batch B, with w the trainable parameters, v the velocity (zero when the round starts) and w₀ the
    broadcast::

        g = ∇ mean_B cross_entropy(model_w(x), y) + weight_decay · w + proximal · (w − w₀)
        v = momentum · v + g
        w = w − learning_rate · v

    Every epoch visits the records in a new order; its last batch may be short and counts as a step. Where a batch is
    the whole data set there is nothing to shuffle. Metrics: ``loss``, the mean over the examples visited, each before
    its step, of the cross entropy alone; ``steps``. On one thread equal inputs give equal bits.

    Args:
        learning_rate: η > 0.
        epochs: passes over the client's data; or else
        steps: batches, over as many passes as they need. Exactly one of the two.
        batch_size: examples per step; None: all of the client's.
        momentum: in [0, 1).
        weight_decay: L2 coefficient ≥ 0, on trainable parameters.
        proximal: FedProx's μ ≥ 0: adds μ/2 · ‖w − w₀‖² to the loss.

    Raises:
        ConfigurationError: a value outside these ranges.

    Does not hide: the update. What protects it is the plan's mechanism and aggregation.

    Reference: McMahan et al. 2017, Algorithm 1 (ClientUpdate); Li et al. 2020 (FedProx), Section 3.2.
    """

    learning_rate: float
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal: float = 0.0

    def __post_init__(self) -> None:
        _check.positive("learning_rate", self.learning_rate)
        if (self.epochs is None) == (self.steps is None):
            raise ConfigurationError(
                "A client trains for a number of epochs or for a number of steps.",
                value={"epochs": self.epochs, "steps": self.steps},
                remedy="Give exactly one of epochs and steps.",
            )
        for name in ("epochs", "steps", "batch_size"):
            if getattr(self, name) is not None:
                _check.count(name, getattr(self, name))
        _check.decay("momentum", self.momentum)
        _check.not_negative("weight_decay", self.weight_decay)
        _check.not_negative("proximal", self.proximal)

    @property
    def record_level(self) -> bool:
        """False: gradients are of whole batches."""
        return False

    def payload(self, parameters: int) -> Mapping[str, int]:
        """``{"delta": parameters}``: trained − broadcast."""
        return {DELTA: parameters}

    def init(self, client: Client) -> ClientState:
        """None: nothing stays with a client."""
        return None

    def path(self, model: torch.nn.Module, batching: Batching = "auto") -> Path:
        """Which way clients with this model are trained; see :mod:`fedpriv.learning.paths`.

        Raises:
            PlanError: a forced path that the model does not have.
        """
        return choose(model, batching).path

    def train(
        self,
        model: torch.nn.Module,
        broadcast: Broadcast,
        clients: Sequence[Client],
        states: Sequence[ClientState],
        rngs: Sequence[np.random.Generator],
        *,
        batching: Batching = "auto",
    ) -> list[Update]:
        """Train a chunk of clients, together where the model allows it; see :meth:`ClientUpdate.train`.

        Raises:
            DataError: a client without records.
            NonFiniteInput: a client's training diverged.
            TrainingFailed: anything else that training raised.
            PlanError: a forced path that the model does not have.
        """
        way = self.path(model, batching)
        if way == "loop":
            from fedpriv.learning.vector import Layout

            model.train()
            layout = Layout(model)
            one = partial(self._train_one, layout, layout.split(broadcast.parameters))
            return train_each(one, self.payload(len(broadcast.parameters)), model, broadcast, clients, states, rngs)
        from fedpriv.learning.descent import descend

        return descend(self, way, model, broadcast, clients, rngs)

    def _train_one(
        self,
        layout: Layout,
        start: list[torch.Tensor],
        model: torch.nn.Module,
        broadcast: Broadcast,
        client: Client,
        state: ClientState,
        rng: np.random.Generator,
    ) -> Update:
        import torch

        from fedpriv.learning.packing import reader
        from fedpriv.learning.steps import Steps

        layout.load(start)
        weights = [w for w in layout.tensors() if w.requires_grad]
        steps = Steps(self, weights)
        read = reader(client, weights[0].device)

        losses, sizes = [], []
        for batch in self.batches(len(client), rng):
            x, y = read(batch)
            loss = torch.nn.functional.cross_entropy(model(x), y)
            # Not materialize_grads, which takes longer to look for zeros than they do to make.
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            steps.take([torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)])
            losses.append(loss.detach())
            sizes.append(len(y))

        total = sum(map(mul, torch.stack(losses).tolist(), sizes))
        return Update(
            payload={DELTA: layout.flatten() - broadcast.parameters},
            metrics={"loss": total / sum(sizes), "steps": float(len(sizes))},
        )

    def batches(self, examples: int, rng: np.random.Generator) -> Iterator[Rows | None]:
        """The indices of each step's batch, in order; None where a batch is the whole data set.

        Raises:
            DataError: no examples.
        """
        if examples == 0:
            raise DataError(
                "A client that trains has at least one example.", remedy="Leave empty clients out of the federation."
            )
        size = min(self.batch_size or examples, examples)
        per_epoch = -(-examples // size)
        steps = self.steps if self.epochs is None else self.epochs * per_epoch
        return islice(_shuffled(examples, size, rng), steps)


def _shuffled(examples: int, size: int, rng: np.random.Generator) -> Iterator[Rows | None]:
    """Batches without end, each epoch in a new order."""
    while True:
        if size == examples:
            yield None
            continue
        order = rng.permutation(examples)
        for start in range(0, examples, size):
            yield order[start : start + size]
