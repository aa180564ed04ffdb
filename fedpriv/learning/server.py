"""The seam of the server step, and the optimisers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fedpriv.learning.update import Broadcast, Vector


@dataclass(frozen=True, kw_only=True)
class RoundInfo:
    """What a server optimiser may know about the round besides the released mean."""

    round: int
    cohort: int
    population: int


class ServerOptimizer(Protocol):
    """A frozen description of what the server does with a mean. State is explicit."""

    def init(self, parameters: Vector) -> Any:
        """``[d] float32`` → the state before round 0."""
        ...

    def step(self, state: Any, mean: Mapping[str, Vector], info: RoundInfo) -> Any:
        """One step with the released mean of each payload entry."""
        ...

    def broadcast(self, state: Any) -> Broadcast:
        """What the clients of the next round are sent."""
        ...
