"""Local training by differentially private SGD: every record's gradient clipped, every step noised by the client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.learning import _check
from fedpriv.learning.paths import Batching, Path, check, choose
from fedpriv.learning.update import DELTA, Broadcast, ClientState, Update, check_finite, train_each
from fedpriv.privacy.budget import Budget
from fedpriv.privacy.calibration import solve_record_noise_multiplier
from fedpriv.privacy.ledger.event import LedgerEvent, record_event
from fedpriv.randomness import NoiseSource, secret_bytes
from fedpriv.threat import client as client_party

if TYPE_CHECKING:
    import torch

    from fedpriv.data import Client
    from fedpriv.learning.clipped import Clipped
    from fedpriv.learning.noised import NoisedSteps
    from fedpriv.learning.packing import Rows


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """Each client runs DP-SGD on its own records and sends how far the model moved.

    One step draws a Poisson batch B (every record by a coin of its own), clips each example's gradient over all
    trainable parameters jointly and adds noise; w are the trainable parameters, v the velocity, w₀ the broadcast::

        s = Σ_B clip(∇ cross_entropy(model_w(x), y), clip_norm) + N(0, (noise_multiplier · clip_norm)²)
        g = s / expected_batch + weight_decay · w + proximal · (w − w₀)
        v = momentum · v + g
        w = w − learning_rate · v

    An empty batch takes its noisy step like any other. Only trainable parameters move: buffers are put back after every
    step. Metrics: ``loss``, the mean over the examples visited; ``steps``. Per-example gradients come from Opacus, one
    client after the other (``"loop"``: the reference, for any model that Opacus knows), or for dense models from the
    norm trick for all clients at once (``"stacked"``); both agree to rounding given the same batches and noise. A plan
    weights all clients alike: without noise on the sum, by ``mechanism=NoDP(weighting="equal")``.

    Args:
        learning_rate: η > 0.
        clip_norm: L2 bound of one example's gradient, at least 1e-10.
        sampling_rate: the probability of each record to be in a step's batch, in (0, 1]. Public, the same for every
            client, and never worked out from a client's number of records; so are the next two.
        expected_batch: what the noisy sum is divided by, > 0.
        steps: per round.
        noise_multiplier: σ / clip_norm of every step's noise, > 0; or else
        target: a budget with unit ``"record"``, for which the smallest sufficient noise multiplier is solved, for a
            client that takes part in every round of the plan. Exactly one of the two.
        momentum: in [0, 1).
        weight_decay: L2 coefficient ≥ 0.
        proximal: FedProx's μ ≥ 0.
        noise: ``"seeded"`` or ``"os"``, for noise and batches alike; None: the run's.

    Raises:
        ConfigurationError: a value outside these ranges; both or none of noise_multiplier and target.

    Guarantees: differential privacy per record, under adding or removing one record of one client, against everybody
        but that client: the server, other clients, and any coalition of them, with or without a protocol that hides
        updates. The ledger composes a client's rounds and counts amplification by the batches, which nobody else knows.
        A round that was aborted once clients may have trained is charged to its whole cohort: who saw which updates by
        then depends on the protocol, and the bound holds for all of them.
    Assumes: examples do not meet in the model (BatchNorm is refused). The normal draws are Gaussian: with ``"os"`` they
        are made from 52-bit uniforms (tails end near 8.6 σ), then added in float32, whose low-order bits may tell of
        the sum that they were added to (Mironov 2012): the encoding of updates on a grid, before they leave, does not
        prove otherwise, and no claim is made about that gap. Opacus' hooks give the right gradients. What layers draw
        themselves (dropout) is known to nobody: they draw from torch's generator, which with ``"os"`` is seeded from
        the operating system as well.
    Does not hide: that a client exists and takes part; a client's records from itself; how long a step takes, which
        grows with its batch; an update that is not finite, which ends the run. (An example whose gradient is not
        finite counts as zero.) A client's data as a whole: per client there is no guarantee unless a mechanism gives
        it. A layer of the user's own in which examples meet.
    Reference: Abadi et al. 2016, Algorithm 1; Mironov, Talwar and Zhang 2019; per-example norms: Goodfellow 2015; Lee
        and Kifer 2021; a public divisor and rate: Opacus issues 571 and 819.
    """

    learning_rate: float
    clip_norm: float
    sampling_rate: float
    expected_batch: float
    steps: int
    noise_multiplier: float | None = None
    target: Budget | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal: float = 0.0
    noise: NoiseSource | None = None

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_norm", "sampling_rate", "expected_batch"):
            _check.positive(name, getattr(self, name))
        if self.clip_norm < 1e-10:
            raise ConfigurationError(
                "A clip norm is at least 1e-10: the norm of a much shorter gradient is 0 in float32.",
                value=self.clip_norm,
                remedy="Give e.g. 1.0, and a smaller learning rate.",
            )
        if self.sampling_rate > 1:
            raise ConfigurationError(
                "A sampling rate is in (0, 1].", value=self.sampling_rate, remedy="Give the probability, e.g. 0.1."
            )
        _check.count("steps", self.steps)
        if (self.noise_multiplier is None) == (self.target is None):
            raise ConfigurationError(
                "Exactly one of noise_multiplier and target fixes the noise.",
                value={"noise_multiplier": self.noise_multiplier, "target": self.target},
                remedy='Give noise_multiplier=1.0, or target=Budget(…, unit="record"); LocalSGD trains without noise.',
            )
        if self.noise_multiplier is not None:
            _check.positive("noise_multiplier", self.noise_multiplier)
        if self.target is not None and self.target.unit != "record":
            raise ConfigurationError(
                "A budget of DP-SGD is per record.",
                value=self.target.unit,
                remedy='Give Budget(…, unit="record"); a mechanism takes a budget per client.',
            )
        _check.decay("momentum", self.momentum)
        _check.not_negative("weight_decay", self.weight_decay)
        _check.not_negative("proximal", self.proximal)
        if self.noise not in (None, "seeded", "os"):
            raise ConfigurationError(
                'noise is "seeded", "os" or None.', value=self.noise, remedy="Leave it out to follow the run."
            )

    @property
    def record_level(self) -> bool:
        """True: gradients are clipped per example."""
        return True

    def payload(self, parameters: int) -> Mapping[str, int]:
        """``{"delta": parameters}``: trained − broadcast."""
        return {DELTA: parameters}

    def init(self, client: Client) -> ClientState:
        """None: nothing stays with a client."""
        return None

    def settled(self, *, rounds: int, noise: NoiseSource) -> DPSGD:
        """This description with nothing left open.

        Args:
            rounds: of the plan; a target's noise is solved for a client that takes part in all of them.
            noise: the run's source, where this one follows it.
        """
        multiplier = self.noise_multiplier
        if multiplier is None:
            assert self.target is not None  # __post_init__
            multiplier = solve_record_noise_multiplier(
                self.target, rate=self.sampling_rate, steps=self.steps, participations=rounds
            )
        return replace(self, noise_multiplier=multiplier, target=None, noise=self.noise or noise)

    def participation(self, client: int) -> LedgerEvent:
        """What a client's round amounts to per record, whatever its data are; in round 0, which the engine corrects.

        Raises:
            ConfigurationError: the noise of a target is not solved.
        """
        return record_event(
            client=client,
            rate=self.sampling_rate,
            steps=self.steps,
            noise_multiplier=self._multiplier(),
            clip_norm=self.clip_norm,
            noise_source=self.noise or "seeded",
        )

    def path(self, model: torch.nn.Module, batching: Batching = "auto") -> Path:
        """``"stacked"`` for dense models, else ``"loop"``; see :mod:`fedpriv.learning.paths`.

        Raises:
            PlanError: a forced path that there is not; a model in which examples meet, or that Opacus does not know.
        """
        from fedpriv.learning import clipped, stacked

        check(batching)
        clipped.refuse_mixing(model)
        if batching == "vmap":
            raise PlanError(
                "DP-SGD trains a stack of dense models, or one client after the other.",
                value=batching,
                remedy='Use batching="auto".',
            )
        if batching == "stacked":
            return choose(model, batching).path
        if batching == "auto" and stacked.obstacle(model) is None:
            return "stacked"
        clipped.refuse_unknown(model)
        return "loop"

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
            NonFiniteInput: a client's training diverged.
            TrainingFailed: anything else that training raised.
            PlanError: see :meth:`path`.
            ConfigurationError: the noise of a target is not solved, which a run does by :meth:`settled`.
        """
        self._multiplier()
        if self.path(model, batching) == "stacked":
            return self._train_together(model, broadcast, clients, rngs)
        from fedpriv.learning.clipped import opacus

        with opacus(model, self.clip_norm) as clipped:
            one = partial(self._train_one, clipped)
            return train_each(one, self.payload(len(broadcast.parameters)), model, broadcast, clients, states, rngs)

    def _train_one(
        self,
        clipped: Clipped,
        model: torch.nn.Module,
        broadcast: Broadcast,
        client: Client,
        state: ClientState,
        rng: np.random.Generator,
    ) -> Update:
        import torch

        from fedpriv.learning.noised import noises
        from fedpriv.learning.packing import held
        from fedpriv.learning.vector import Layout

        layout = Layout(model)
        layout.load(layout.split(broadcast.parameters))
        if self.noise == "os":  # one record more gives the others other masks of dropout: nobody may know these
            layout.seed(secret_bytes(32))
        model.train()
        weights = [w for w in model.parameters() if w.requires_grad]
        steps = self._noised_steps(weights)
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        x, y = held(client, weights[0].device)
        batches = list(self.batches(len(client), rng))
        loss, visited = 0.0, 0
        for batch, (noise,) in zip(batches, noises(self.steps, steps.length, self.noise, [rng]), strict=True):
            sums = [torch.zeros_like(w) for w in weights]
            if len(batch):
                rows = torch.from_numpy(batch).to(x.device)
                sums, losses = clipped(x[rows], y[rows])
                loss, visited = loss + float(losses.sum()), visited + len(losses)
            steps.take(sums, noise.to(x.device))
            for buffer, before in buffers:
                buffer.copy_(before)
        return self._update(client.index, layout.flatten() - broadcast.parameters, loss, visited)

    def _train_together(
        self,
        model: torch.nn.Module,
        broadcast: Broadcast,
        clients: Sequence[Client],
        rngs: Sequence[np.random.Generator],
    ) -> list[Update]:
        from fedpriv.learning.packing import numbers_per_row, stacks, together, turns

        drawn = turns(clients, rngs, self.batches)
        largest = [max(map(len, batches)) for batches in drawn]
        updates: dict[int, Update] = {}
        for stack in stacks(largest, numbers_per_row(model, clients[0]), broadcast.parameters.size):
            members = [clients[i] for i in stack]
            with together(members):
                done = self._train_stack(model, broadcast, members, [drawn[i] for i in stack], [rngs[i] for i in stack])
            updates.update(zip(stack, done, strict=True))
        return [updates[i] for i in range(len(clients))]

    def _train_stack(
        self,
        model: torch.nn.Module,
        broadcast: Broadcast,
        clients: Sequence[Client],
        batches: Sequence[Sequence[Rows]],
        rngs: Sequence[np.random.Generator],
    ) -> list[Update]:
        import torch

        from fedpriv.learning.clipped import clipped_stack
        from fedpriv.learning.noised import noises
        from fedpriv.learning.packing import Packed
        from fedpriv.learning.stacked import Stacked

        device = next(model.parameters()).device
        # All take equally many steps, so that the order of a stack is the one given.
        packed, stack = Packed(clients, batches, device), Stacked(model, len(clients))
        stack.load(broadcast.parameters)
        steps = self._noised_steps(stack.parameters, axis=1)
        loss = torch.zeros(len(clients), device=device)
        drawn = noises(self.steps, steps.length, self.noise, rngs)
        for batch, noise in zip(packed, drawn, strict=True):
            sums, losses = clipped_stack(stack, batch.x, batch.y, batch.mask, self.clip_norm)
            loss += losses.sum(1)
            steps.take(sums, noise.to(device))
        deltas = stack.flatten() - broadcast.parameters
        check_finite(DELTA, deltas, [client_party(c.index) for c in clients])
        visited = packed.counts.sum(axis=0).tolist()
        return [
            self._update(client.index, delta, *rest)
            for client, delta, *rest in zip(clients, deltas, loss.tolist(), visited, strict=True)
        ]

    def batches(self, examples: int, rng: np.random.Generator) -> Iterator[Rows]:
        """The records of each step's batch: each by a coin of its own, from ``rng`` or the operating system."""
        from fedpriv.learning import noised

        return noised.batches(self.steps, examples, self.sampling_rate, self.noise, rng)

    def _noised_steps(self, weights: Sequence[torch.Tensor], axis: int = 0) -> NoisedSteps:
        from fedpriv.learning.noised import NoisedSteps

        scale = self._multiplier() * self.clip_norm
        return NoisedSteps(self, weights, scale=scale, divisor=self.expected_batch, axis=axis)

    def _multiplier(self) -> float:
        if self.noise_multiplier is None:
            raise ConfigurationError(
                "DP-SGD trains with noise that is settled.",
                value=self.target,
                remedy='Run it in a plan, or call settled(rounds=…, noise="seeded") first.',
            )
        return self.noise_multiplier

    def _update(self, client: int, delta: np.ndarray, loss: float, visited: int) -> Update:
        metrics = {"steps": float(self.steps)}
        if visited:
            metrics["loss"] = loss / visited
        return Update(payload={DELTA: delta}, events=(self.participation(client),), metrics=metrics)
