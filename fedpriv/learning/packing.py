"""Ragged clients as rectangles: parameters stacked along a client axis, batches padded and masked.

What the stacked and the vmapped path share. Clients with more steps stand first, so that those still at work are a
prefix of the stack, and a step costs what its own batches need.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from fedpriv.errors import FedprivError, TrainingFailed
from fedpriv.learning.vector import Layout, Vector
from fedpriv.threat import client as client_party

if TYPE_CHECKING:
    from fedpriv.data import Client

Rows: TypeAlias = npt.NDArray[np.int64]
"""``[b] int64``: the records of a batch, as positions in the client's data."""
Draw: TypeAlias = Callable[[int, np.random.Generator], Iterable[Rows | None]]
"""``(examples, rng)`` → the batches of a client's turn; None: all of its records."""

ROOM = 2**25
"""Numbers that a stack may hold at a time, parameters and padded batches together: 128 MiB of float32."""
SMALL = 16
"""Padding of batches this small costs less than another stack."""


class Copies(ABC):
    """Copies of one model, a client each, that are trained together.

    Args:
        model: of the architecture; it is not changed.
        copies: how many, n.
    """

    parameters: list[torch.Tensor]
    """The trainable ones in the module's order: ``[n, *shape]`` each, contiguous."""

    def __init__(self, model: torch.nn.Module, copies: int) -> None:
        self._layout = Layout(model)
        self._all = [p.new_empty((copies, *p.shape), requires_grad=False) for p in self._layout.tensors()]
        trains = [p.requires_grad for p in model.parameters()]  # without buffers, parameters are all that travels
        self.parameters = [p for p, is_trained in zip(self._all, trains, strict=True) if is_trained]

    def load(self, vector: Vector) -> None:
        """Every copy is this ``[d]`` vector.

        Raises:
            ConfigurationError: it is of another length.
        """
        for p, part in zip(self._all, self._layout.split(vector), strict=True):
            p.copy_(part)

    def flatten(self) -> npt.NDArray[np.float32]:
        """``[n, d] float32``: each copy as :func:`fedpriv.learning.flatten` gives it."""
        rows: npt.NDArray[np.float32] = torch.cat([p.flatten(1) for p in self._all], dim=1).cpu().numpy()
        return rows

    @abstractmethod
    def backward(self, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Cross entropies ``[k, b]`` of the first k copies on a batch each; :meth:`add` then has the gradients.

        Args:
            x: ``[k, b, *shape]``.
            y: ``[k, b] int64``.
            weights: ``[k, b]``: of each example in the sum that is differentiated; 0 where there is none.
        """

    @abstractmethod
    def add(self, targets: Sequence[torch.Tensor], *, beta: float, alpha: float) -> None:
        """Target = beta · target + alpha · gradient for the first k copies, in place.

        Args:
            targets: one ``[n, *shape]`` for each of :attr:`parameters`.
            beta: not 0.
            alpha: of the gradients that :meth:`backward` left.
        """


@dataclass(frozen=True)
class Batch:
    """One step's batches of the clients that still have a step."""

    x: torch.Tensor
    """``[k, b, *shape]``; padding repeats an example of the same batch, so it brings in no number of its own."""
    y: torch.Tensor
    """``[k, b] int64``."""
    mask: torch.Tensor
    """``[k, b] float32``: 1 where there is an example, 0 in padding."""
    weights: torch.Tensor
    """``[k, b] float32``: the mask divided by each client's number of examples, to make a mean."""

    def __len__(self) -> int:
        return int(self.mask.shape[0])


class Packed:
    """A turn of several clients, step by step.

    Args:
        clients: whose data.
        turns: each client's batches in order, as from :func:`turns`. A batch may be empty.
        device: where the batches go.
    """

    def __init__(self, clients: Sequence[Client], turns: Sequence[Sequence[Rows]], device: torch.device) -> None:
        given = np.array([len(turn) for turn in turns])
        order: npt.NDArray[np.int64] = np.argsort(-given, kind="stable")
        self.places: npt.NDArray[np.int64] = np.argsort(order, kind="stable")
        """``[n]``: where in the stack each of the given clients stands; those with more steps stand first."""
        self.steps: npt.NDArray[np.int64] = given[order]
        """``[n]``: steps of each client, in the stack's order."""
        ordered = [clients[i] for i in order]
        n, last = len(ordered), int(self.steps.max(initial=0))
        batches = [batch for i in order for batch in turns[i]]
        sizes = np.fromiter(map(len, batches), dtype=np.int64, count=len(batches))
        # Of each batch: whose it is, and of which step. Clients come one after the other.
        owner = np.repeat(np.arange(n), self.steps)
        step = np.arange(len(batches)) - np.repeat(np.cumsum(self.steps) - self.steps, self.steps)
        self.counts: npt.NDArray[np.int64] = np.zeros((last, n), dtype=np.int64)
        """``[steps, n]``: examples of each batch."""
        self.counts[step, owner] = sizes
        wide = int(sizes.max(initial=0)) or 1
        start = np.cumsum([0, *(len(client) for client in ordered)])[:-1]
        rows = np.zeros((last, n, wide), dtype=np.int64)
        if batches:
            slot = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            place = np.repeat((step * n + owner) * wide, sizes) + slot
            rows.reshape(-1)[place] = np.concatenate(batches) + np.repeat(start[owner], sizes)
        inside = np.arange(wide) < self.counts[:, :, None]
        own = np.where(self.counts > 0, rows[:, :, 0], start)[:, :, None]
        self._rows = torch.from_numpy(np.where(inside, rows, own)).to(device)
        mask = inside.astype(np.float32)
        self._mask = torch.from_numpy(mask).to(device)
        self._weights = torch.from_numpy(mask / np.maximum(self.counts, 1)[:, :, None].astype(np.float32)).to(device)
        self._x, self._y = _gathered(ordered, device)

    def __iter__(self) -> Iterator[Batch]:
        at_work = (np.arange(len(self.counts))[:, None] < self.steps).sum(axis=1).tolist()
        widest = np.maximum(self.counts.max(axis=1, initial=0), 1).tolist()
        for t, (k, b) in enumerate(zip(at_work, widest, strict=True)):
            rows = self._rows[t, :k, :b].reshape(-1)
            yield Batch(
                x=self._x.index_select(0, rows).view(k, b, *self._x.shape[1:]),
                y=self._y.index_select(0, rows).view(k, b),
                mask=self._mask[t, :k, :b],
                weights=self._weights[t, :k, :b],
            )


def turns(clients: Sequence[Client], rngs: Sequence[np.random.Generator], draw: Draw) -> list[list[Rows]]:
    """Every client's batches, drawn as in its turn of the loop: torch's seed first, which nothing here needs.

    Args:
        clients: whose turn.
        rngs: each one's own.
        draw: makes the batches.

    Raises:
        FedprivError: what ``draw`` raises, with a note that names the client.
    """
    made = []
    for client, rng in zip(clients, rngs, strict=True):
        rng.bit_generator.random_raw()  # what integers(2**63) draws, sooner
        try:
            examples = len(client.y)
            made.append([np.arange(examples) if batch is None else batch for batch in draw(examples, rng)])
        except FedprivError as error:
            error.add_note(f"While {client_party(client.index)} trained.")
            raise
    return made


@contextmanager
def together(clients: Sequence[Client]) -> Iterator[None]:
    """Training of clients as one: an error is of one of them, nobody knows of which.

    Raises:
        TrainingFailed: something inside raised; it names the clients, and the cause is chained.
        FedprivError: something inside raised one; it passes.
    """
    try:
        yield
    except FedprivError:
        raise
    except Exception as error:
        names = ", ".join(str(client_party(c.index)) for c in clients[:5]) + (", …" if len(clients) > 5 else "")
        raise TrainingFailed(
            "Training on clients' data ends with an update for each.",
            value=f"one of {names} raised {type(error).__name__}: {error}",
            remedy='The traceback shows where; batching="loop" trains one client after the other and names it.',
        ) from error


def stacks(rows: Sequence[int], numbers_per_row: int, parameters: int) -> list[list[int]]:
    """Cut a block so that each stack stays within :data:`ROOM` and little of it is padding: positions of clients.

    A single client may exceed the room; its data is then in memory as in the loop.

    Args:
        rows: each client's largest batch.
        numbers_per_row: what an example takes, activations included.
        parameters: of the model; three copies of them are held.
    """
    cut: list[list[int]] = []
    for position in sorted(range(len(rows)), key=lambda i: -rows[i]):
        # The first of a stack has its largest batch, to which the others are padded.
        largest = rows[cut[-1][0]] if cut else 0
        full = cut and (len(cut[-1]) + 1) * (largest * numbers_per_row + 3 * parameters) > ROOM
        if not cut or full or largest > 4 * max(rows[position], SMALL):
            cut.append([])
        cut[-1].append(position)
    return [sorted(stack) for stack in cut]


def numbers_per_row(model: torch.nn.Module, client: Client) -> int:
    """What one example takes in a stack: itself, and a number for every unit of every layer."""
    return math.prod(client.x.shape[1:]) + 2 * sum(len(p) for p in model.parameters() if p.ndim)


_HELD: WeakKeyDictionary[Client, dict[torch.device, tuple[torch.Tensor, torch.Tensor]]] = WeakKeyDictionary()
"""Clients' data on accelerators, as long as the clients live."""


def held(client: Client, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """A client's x and y on a device. On an accelerator they stay there; on the CPU x and y are copies."""
    if device.type == "cpu":
        return torch.tensor(client.x), torch.tensor(client.y)
    kept = _HELD.setdefault(client, {})
    if device not in kept:
        kept[device] = (torch.tensor(client.x, device=device), torch.tensor(client.y, device=device))
    return kept[device]


def reader(client: Client, device: torch.device) -> Callable[[Rows | None], tuple[torch.Tensor, torch.Tensor]]:
    """Makes a batch: positions (None: all records) → x and y on a device. On the CPU they are copies."""
    if device.type == "cpu":
        # By numpy, which gathers a few rows in less time than torch does.
        def read(rows: Rows | None) -> tuple[torch.Tensor, torch.Tensor]:
            if rows is None:
                return torch.tensor(client.x), torch.tensor(client.y)
            return torch.from_numpy(client.x.take(rows, axis=0)), torch.from_numpy(client.y.take(rows))

        return read
    x, y = held(client, device)

    def read_held(rows: Rows | None) -> tuple[torch.Tensor, torch.Tensor]:
        if rows is None:
            return x, y
        places = torch.from_numpy(rows).to(device)
        return x.index_select(0, places), y.index_select(0, places)

    return read_held


def _gathered(clients: Sequence[Client], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """All records of these clients, one after the other."""
    if device.type == "cpu":
        x, y = np.concatenate([c.x for c in clients]), np.concatenate([c.y for c in clients])
        return torch.from_numpy(x), torch.from_numpy(y)
    parts = [held(client, device) for client in clients]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
