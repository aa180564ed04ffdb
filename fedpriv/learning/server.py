"""The seam of the server step, and the optimisers behind it: FedAvg, with momentum, and the adaptive three.

Every step is computed in float64 and rounded once to the float32 parameters that are broadcast, so server and clients
hold the same model bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fedpriv.encoding import Reals
from fedpriv.errors import ConfigurationError, NonFiniteInput
from fedpriv.learning import _check
from fedpriv.learning.update import DELTA, Broadcast
from fedpriv.learning.vector import Vector


@dataclass(frozen=True, kw_only=True)
class RoundInfo:
    """What a server optimiser may know about the round besides the released mean."""

    round: int
    cohort: float
    """Clients expected in a round. How many were drawn is not said: a model that depends on it would give it away."""
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


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerState:
    """The model between two rounds."""

    parameters: Vector
    """``[d] float32``, as broadcast."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MomentumState(ServerState):
    """FedAvgM's state."""

    velocity: Reals
    """``[d] float64``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptiveState(ServerState):
    """The state of FedAdagrad, FedYogi and FedAdam."""

    first: Reals
    """``[d] float64``: m, the average of means."""
    second: Reals
    """``[d] float64``: v, the average or sum of their squares."""


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """The model moves by the mean of its clients' deltas: x ← x + η·Δ.

    With η = 1 the new model is the average of the clients' models. Payload entries other than ``delta`` are ignored.

    Args:
        learning_rate: η > 0.

    Reference: McMahan et al. 2017, Algorithm 1; with η as in Reddi et al. 2021, Algorithm 1.
    """

    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        _check.positive("learning_rate", self.learning_rate)

    def init(self, parameters: Vector) -> ServerState:
        """The model as given."""
        return ServerState(parameters=_initial(parameters))

    def step(self, state: ServerState, mean: Mapping[str, Vector], info: RoundInfo) -> ServerState:
        """One step.

        Raises:
            ConfigurationError, NonFiniteInput: the mean has no finite ``delta`` of the model's length.
        """
        return ServerState(parameters=_moved(state, self.learning_rate * _delta(state, mean)))

    def broadcast(self, state: ServerState) -> Broadcast:
        """The parameters."""
        return Broadcast(parameters=state.parameters)


@dataclass(frozen=True, kw_only=True)
class FedAvgM:
    """FedAvg with heavy-ball momentum at the server: v ← β·v + Δ, x ← x + η·v, from v = 0.

    Args:
        learning_rate: η > 0.
        momentum: β in [0, 1); 0 is FedAvg.

    Reference: Hsu, Qi and Brown 2019, Section 4.3.
    """

    learning_rate: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _check.positive("learning_rate", self.learning_rate)
        _check.decay("momentum", self.momentum)

    def init(self, parameters: Vector) -> MomentumState:
        """The model as given, at rest."""
        return MomentumState(parameters=_initial(parameters), velocity=np.zeros(len(parameters)))

    def step(self, state: MomentumState, mean: Mapping[str, Vector], info: RoundInfo) -> MomentumState:
        """One step; raises as :meth:`FedAvg.step`."""
        velocity = self.momentum * state.velocity + _delta(state, mean)
        return MomentumState(parameters=_moved(state, self.learning_rate * velocity), velocity=velocity)

    def broadcast(self, state: MomentumState) -> Broadcast:
        """The parameters."""
        return Broadcast(parameters=state.parameters)


@dataclass(frozen=True, kw_only=True)
class _Adaptive(ABC):
    """Algorithm 2 of Reddi et al. 2021, but for the line that updates v.

    m ← β₁·m + (1 − β₁)·Δ,  v ← …,  x ← x + η·m / (√v + τ),  from m = 0 and v = τ².
    As in the paper, and unlike Adam (Kingma and Ba 2015), m and v are not corrected for their start.
    """

    learning_rate: float
    beta1: float = 0.9
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _check.positive("learning_rate", self.learning_rate)
        _check.decay("beta1", self.beta1)
        _check.positive("tau", self.tau)

    def init(self, parameters: Vector) -> AdaptiveState:
        """The model as given, with m = 0 and v = τ²."""
        size = len(parameters)
        return AdaptiveState(
            parameters=_initial(parameters), first=np.zeros(size), second=np.full(size, float(self.tau) ** 2)
        )

    def step(self, state: AdaptiveState, mean: Mapping[str, Vector], info: RoundInfo) -> AdaptiveState:
        """One step; raises as :meth:`FedAvg.step`."""
        delta = _delta(state, mean)
        first = self.beta1 * state.first + (1 - self.beta1) * delta
        second = self._second(state.second, delta**2)
        movement = self.learning_rate * first / (np.sqrt(second) + self.tau)
        return AdaptiveState(parameters=_moved(state, movement), first=first, second=second)

    def broadcast(self, state: AdaptiveState) -> Broadcast:
        """The parameters."""
        return Broadcast(parameters=state.parameters)

    @abstractmethod
    def _second(self, v: Reals, square: Reals) -> Reals:
        """The next v, from v and Δ²."""


@dataclass(frozen=True, kw_only=True)
class FedAdagrad(_Adaptive):
    """Adagrad at the server: v ← v + Δ².

    Args:
        learning_rate: η > 0.
        beta1: β₁ in [0, 1); 0 in the paper's experiments, and here.
        tau: τ > 0, the degree of adaptivity; v starts at τ².

    Reference: Reddi et al. 2021, Algorithm 2 (FedAdagrad).
    """

    beta1: float = 0.0

    def _second(self, v: Reals, square: Reals) -> Reals:
        return v + square


@dataclass(frozen=True, kw_only=True)
class FedYogi(_Adaptive):
    """Yogi at the server: v ← v − (1 − β₂)·Δ²·sign(v − Δ²).

    Args:
        learning_rate: η > 0.
        beta1: β₁ in [0, 1).
        beta2: β₂ in [0, 1).
        tau: τ > 0, the degree of adaptivity; v starts at τ².

    Reference: Reddi et al. 2021, Algorithm 2 (FedYogi).
    """

    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.decay("beta2", self.beta2)

    def _second(self, v: Reals, square: Reals) -> Reals:
        return v - (1 - self.beta2) * square * np.sign(v - square)


@dataclass(frozen=True, kw_only=True)
class FedAdam(_Adaptive):
    """Adam at the server, without bias correction: v ← β₂·v + (1 − β₂)·Δ².

    Args:
        learning_rate: η > 0.
        beta1: β₁ in [0, 1).
        beta2: β₂ in [0, 1).
        tau: τ > 0, the degree of adaptivity; v starts at τ².

    Reference: Reddi et al. 2021, Algorithm 2 (FedAdam).
    """

    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.decay("beta2", self.beta2)

    def _second(self, v: Reals, square: Reals) -> Reals:
        return self.beta2 * v + (1 - self.beta2) * square


def _initial(parameters: Vector) -> Vector:
    if np.ndim(parameters) != 1:
        raise ConfigurationError(
            "A model's parameters are one vector.", value=np.shape(parameters), remedy="Use flatten(module)."
        )
    return _frozen(parameters)


def _delta(state: ServerState, mean: Mapping[str, Vector]) -> Reals:
    """The released mean change of the model, ``[d] float64``."""
    if DELTA not in mean:
        raise ConfigurationError(
            f"The released mean has an entry {DELTA!r}.",
            value=sorted(mean),
            remedy="Send the change of the model under this name, or write a ServerOptimizer for the other entries.",
        )
    delta = np.asarray(mean[DELTA], dtype=np.float64)
    if delta.shape != state.parameters.shape:
        raise ConfigurationError(
            f"The mean of {DELTA!r} has the model's shape {state.parameters.shape}.",
            value=delta.shape,
            remedy="Make the client's payload and the model agree.",
        )
    if not np.isfinite(delta).all():
        raise NonFiniteInput("A released mean is finite.", remedy="Look at the mechanism's release.")
    return delta


def _moved(state: ServerState, movement: Reals) -> Vector:
    """The parameters plus a movement, rounded once."""
    with np.errstate(over="ignore"):
        moved = _frozen(state.parameters + movement)
    if not np.isfinite(moved).all():
        raise NonFiniteInput("A server's step keeps the model finite.", remedy="Lower the server's learning rate.")
    return moved


def _frozen(parameters: Any) -> Vector:
    """A read-only float32 copy: a state never changes after it was made."""
    vector: Vector = np.array(parameters, dtype=np.float32)
    vector.flags.writeable = False
    return vector
