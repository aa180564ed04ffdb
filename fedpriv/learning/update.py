"""The seam of learning: what a client does with its data in a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from fedpriv.data import Client
    from fedpriv.privacy.ledger import LedgerEvent

Vector: TypeAlias = npt.NDArray[np.float32]
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
        """
        ...


OneClient: TypeAlias = Callable[..., Update]
