"""The seam of learning: what a client does with its data in a round."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

from fedpriv.errors import ConfigurationError, FedprivError, NonFiniteInput, TrainingFailed
from fedpriv.learning.vector import Layout, Vector
from fedpriv.threat import Party
from fedpriv.threat import client as client_party

if TYPE_CHECKING:
    import torch

    from fedpriv.data import Client
    from fedpriv.privacy.ledger import LedgerEvent

ClientState: TypeAlias = Any
"""Whatever stays with a client between rounds (control variates, a private head); None where nothing does."""

DELTA = "delta"
"""The payload entry of every algorithm that sends a change of the model: trained − broadcast parameters."""


@dataclass(frozen=True, kw_only=True)
class Broadcast:
    """Every value the server sends to the clients of a round."""

    parameters: Vector
    """``[d] float32``: the model's parameters and floating-point buffers, flattened in the module's order."""
    extra: Mapping[str, Vector] = field(default_factory=dict)
    """What else clients need (control variates); part of the context that clients check."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one client hands over: only ``payload`` leaves it, and only inside the sum."""

    payload: Mapping[str, Vector]
    """Flattened by the engine into one vector with one joint clip, in the order of :meth:`ClientUpdate.payload`."""
    state: ClientState = None
    events: tuple[LedgerEvent, ...] = ()
    """Record-level events of this client (DP-SGD)."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """For the simulator's eyes only (loss, steps); in no party's view."""


class ClientUpdate(Protocol):
    """A frozen description of a client's algorithm, working on a chunk of clients at a time."""

    @property
    def record_level(self) -> bool:
        """Whether it clips per example (DP-SGD): layers that mix examples are then refused."""
        ...

    def payload(self, parameters: int) -> Mapping[str, int]:
        """Entry → number of coordinates, for a model of this many parameters; ``{"delta": parameters}`` for most."""
        ...

    def init(self, client: Client) -> ClientState:
        """A client's state before it first takes part."""
        ...

    def train(
        self,
        model: torch.nn.Module,
        broadcast: Broadcast,
        clients: Sequence[Client],
        states: Sequence[ClientState],
        rngs: Sequence[np.random.Generator],
    ) -> list[Update]:
        """Train a chunk of clients; one update each, in order.

        Args:
            model: a module of the plan's architecture to work with; its parameters are overwritten.
            broadcast: what the server sent.
            clients: whose data; ``client.x [m, …]``, ``client.y [m]``.
            states: what each kept from its last round.
            rngs: each client's own generator for this round; the only randomness allowed.

        An algorithm that trains clients together also has ``path(model, batching) -> Path``, a rule on the model's
        layers that never asks a clock (:func:`fedpriv.learning.paths.choose` is LocalSGD's), and its ``train`` then
        takes ``batching=``, the path to take. All paths of an algorithm draw the same batches and agree to rounding.
        """
        ...


OneClient: TypeAlias = Callable[..., Update]
"""``(model, broadcast, client, state, rng) -> Update``: one client's training, model parameters not yet loaded."""


def train_each(
    train_one: OneClient,
    expected: Mapping[str, int],
    model: torch.nn.Module,
    broadcast: Broadcast,
    clients: Sequence[Client],
    states: Sequence[ClientState],
    rngs: Sequence[np.random.Generator],
) -> list[Update]:
    """Train a chunk of clients one after the other: the chunk form of a one-client algorithm.

    Each client has the module to itself (:meth:`fedpriv.learning.vector.Layout.turn`), so the result does not depend on
    how a cohort is cut into chunks.

    Args:
        train_one: one client's training.
        expected: what :meth:`ClientUpdate.payload` says for this model.
        model, broadcast, clients, states, rngs: as in :meth:`ClientUpdate.train`.

    Raises:
        TrainingFailed: ``train_one`` raised; it names the client, and the cause is chained.
        FedprivError: ``train_one`` raised one; it passes with a note that names the client.
        ConfigurationError, NonFiniteInput: see :func:`check_update`.
    """
    updates = []
    turn = _turns(model)
    for client, state, rng in zip(clients, states, rngs, strict=True):
        party = client_party(client.index)
        try:
            with turn(rng):
                update = train_one(model, broadcast, client, state, rng)
        except FedprivError as error:
            error.add_note(f"While {party} trained.")
            raise
        except Exception as error:
            raise TrainingFailed(
                "Training on a client's data ends with an update.",
                value=f"{party} raised {type(error).__name__}: {error}",
                remedy="The traceback shows where; run the client's update on that client's data alone.",
            ) from error
        check_update(update, expected, party)
        updates.append(update)
    return updates


def _turns(model: torch.nn.Module | None) -> Callable[[np.random.Generator], AbstractContextManager[None]]:
    if model is None:  # a plan without a model (a mean of vectors) needs no torch
        return lambda _: nullcontext()
    return Layout(model).turn


def check_update(update: Update, expected: Mapping[str, int], party: Party) -> None:
    """Refuse an update that cannot be flattened and summed.

    Args:
        update: what a client's training returned.
        expected: entry → number of coordinates.
        party: whose update it is; named in the errors.

    Raises:
        ConfigurationError: not an :class:`Update`; other entries, shapes or types than ``expected`` says.
        NonFiniteInput: NaN or infinity in the payload: training diverged.
    """
    check_form(update, expected, party)
    for name, vector in update.payload.items():
        check_finite(name, vector[None], [party])


def check_form(update: Update, expected: Mapping[str, int], party: Party) -> None:
    """The first half of :func:`check_update`: what it holds, without a look at the numbers."""
    if not isinstance(update, Update):
        raise ConfigurationError(
            f"A client's training returns an Update; that of {party} did not.",
            value=type(update).__name__,
            remedy='Return Update(payload={"delta": trained - broadcast.parameters}).',
        )
    given = update.payload
    if len(given) != len(expected) or not all(_fits(given.get(name), size) for name, size in expected.items()):
        found = {name: (np.shape(vector), getattr(vector, "dtype", None)) for name, vector in given.items()}
        raise ConfigurationError(
            f"The payload of {party} holds numpy vectors of real numbers with the lengths {dict(expected)}.",
            value={name: f"{shape} {dtype}" for name, (shape, dtype) in found.items()},
            remedy="Make payload(parameters) and what train returns agree; turn tensors into numpy arrays.",
        )


def _fits(vector: Any, size: int) -> bool:
    return isinstance(vector, np.ndarray) and vector.shape == (size,) and vector.dtype.kind == "f"


def stack(updates: Sequence[Update], expected: Mapping[str, int], parties: Sequence[Party]) -> npt.NDArray[np.float64]:
    """Many clients' payloads as ``[n, sum of lengths] float64``, each checked as by :func:`check_update`.

    Args:
        updates: one of each client.
        expected: entry → number of coordinates, in the order in which they are joined.
        parties: whose.
    """
    for update, party in zip(updates, parties, strict=True):
        check_form(update, expected, party)
    joined = np.empty((len(updates), sum(expected.values())))
    start = 0
    for name, size in expected.items():
        rows = joined[:, start : start + size]
        np.stack([update.payload[name] for update in updates], out=rows, casting="same_kind")
        check_finite(name, rows, parties)
        start += size
    return joined


def check_finite(name: str, rows: npt.NDArray[np.floating], parties: Sequence[Party]) -> None:
    """Refuse updates of clients whose training diverged.

    Args:
        name: of the payload's entry.
        rows: ``[n, d]``: one client's entry each.
        parties: whose; the first bad one is named.

    Raises:
        NonFiniteInput: NaN or infinity.
    """
    if np.isfinite(rows).all():
        return
    party = parties[int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])]
    raise NonFiniteInput(
        "An update is finite.",
        value=f"NaN or infinity in {name!r} of {party}",
        remedy="Training diverged: lower the learning rate, or look for extreme values in the client's data.",
    )


_Lifted = TypeVar("_Lifted", bound=type)


@overload
def per_client(algorithm: _Lifted) -> _Lifted: ...
@overload
def per_client(algorithm: OneClient) -> ClientUpdate: ...
def per_client(algorithm: Any) -> Any:
    """Lift an algorithm for one client to the chunk form of :class:`ClientUpdate`; a decorator.

    A class (a frozen dataclass, usually) gives ``train_one(self, model, broadcast, client, state, rng) -> Update`` and
    receives ``train``; where it does not say otherwise its payload is ``{"delta": parameters}``, a client starts
    without state, and it is not record-level. A function ``(model, broadcast, client, state, rng) -> Update`` becomes
    such an algorithm with a single ``delta``. ``train_one`` loads ``broadcast.parameters`` itself, with
    :func:`fedpriv.learning.load`, and draws randomness only from ``rng`` and from torch's default generator.

    Raises:
        ConfigurationError: a class without ``train_one``, or with a ``train`` of its own; something not callable.
    """
    if not isinstance(algorithm, type):
        if not callable(algorithm):
            raise ConfigurationError(
                "per_client takes a class with train_one, or a function.",
                value=type(algorithm).__name__,
                remedy="Write @per_client above the class or the function.",
            )
        return _OneFunction(function=algorithm)
    if not callable(getattr(algorithm, "train_one", None)):
        raise ConfigurationError(
            "A class under @per_client has a method train_one.",
            value=algorithm.__qualname__,
            remedy="Define train_one(self, model, broadcast, client, state, rng) -> Update.",
        )
    for name, default in _DEFAULTS.items():
        # Methods that a class got by naming the protocol as its base are empty, not the class's own.
        if getattr(algorithm, name, None) in (None, getattr(ClientUpdate, name)):
            setattr(algorithm, name, default)
    if getattr(algorithm, "train", None) is not _train:
        raise ConfigurationError(
            "A class under @per_client has train_one or train, not both.",
            value=algorithm.__qualname__,
            remedy="Leave out the decorator where train handles a chunk of clients.",
        )
    return algorithm


def _train(
    self: Any,
    model: torch.nn.Module,
    broadcast: Broadcast,
    clients: Sequence[Client],
    states: Sequence[ClientState],
    rngs: Sequence[np.random.Generator],
) -> list[Update]:
    """Train a chunk of clients, one after the other."""
    expected = self.payload(len(broadcast.parameters))
    return train_each(self.train_one, expected, model, broadcast, clients, states, rngs)


_DEFAULTS: dict[str, Any] = {
    "train": _train,
    "payload": lambda self, parameters: {DELTA: parameters},
    "init": lambda self, client: None,
    "record_level": property(lambda self: False),
}


@dataclass(frozen=True)
class _OneFunction:
    """A function of one client in the chunk form."""

    function: OneClient
    record_level: bool = field(default=False, init=False)

    def payload(self, parameters: int) -> Mapping[str, int]:
        return {DELTA: parameters}

    def init(self, client: Client) -> ClientState:
        return None

    def train_one(self, *arguments: Any) -> Update:
        return self.function(*arguments)

    train = _train

    def __post_init__(self) -> None:
        # Under the decorator the function's name means this object, so it is pickled by that name, as functions are.
        object.__setattr__(self, "__module__", self.function.__module__)

    def __reduce__(self) -> str | tuple[Any, ...]:
        name = self.function.__qualname__
        found = getattr(sys.modules.get(self.function.__module__), name, None)
        return name if found is self else (_OneFunction, (self.function,))
