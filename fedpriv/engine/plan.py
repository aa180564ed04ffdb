"""What a study varies: one frozen description of a federation's training, without data, seed or machine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from fedpriv.aggregation import PlainSum
from fedpriv.aggregation.protocol import Aggregator
from fedpriv.engine.description import describe
from fedpriv.errors import ConfigurationError
from fedpriv.learning import models
from fedpriv.learning.paths import Batching
from fedpriv.learning.paths import check as check_batching
from fedpriv.learning.server import FedAvg, ServerOptimizer
from fedpriv.learning.update import ClientUpdate
from fedpriv.network import Network
from fedpriv.privacy.mechanism import Adjacency, Mechanism
from fedpriv.privacy.mechanisms.no_dp import NoDP
from fedpriv.privacy.sampling import FullParticipation, Sampling

if TYPE_CHECKING:
    from fedpriv.data import Federation
    from fedpriv.engine.resolution import Resolved

_SEAMS: Mapping[str, tuple[str, ...]] = {
    "client": ("payload", "init", "train"),
    "sampling": ("cohort", "expected", "least", "largest", "accounting"),
    "mechanism": (
        *("init", "begin", "protect", "release", "advance", "events"),
        *("noise_contributors", "trust", "weighting"),
    ),
    "aggregation": ("threat_model", "domain", "least_contributors", "deploy", "estimate"),
    "server": ("init", "step", "broadcast"),
    "network": ("schedule", "slowness"),
}

_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "begin": ("state", "round", "public"),
    "protect": ("updates", "examples", "spec", "noises"),
    "release": ("total", "spec", "outcome", "noise", "state"),
    "advance": ("state", "spec", "release", "noise"),
    "events": ("spec", "outcome"),
}
"""What a mechanism of the user's own is called with, round by round."""

_EXAMPLES: Mapping[str, str] = {
    "client": "fp.LocalSGD(epochs=1, learning_rate=0.1)",
    "sampling": "fp.FullParticipation()",
    "mechanism": "fp.NoDP()",
    "aggregation": "fp.SecureAggregation()",
    "server": "fp.FedAvg()",
    "network": "fp.Network()",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A federated computation: what is trained, how it is protected, and for how many rounds.

    Args:
        model: a callable that returns a ``torch.nn.Module``: ``fp.models.logistic`` (called with the shape of one
            example and the number of classes), or any callable without required arguments. None: nothing is trained
            (:func:`fedpriv.private_mean`).
        client: what a client does with its data in a round.
        sampling: who takes part in a round.
        mechanism: clipping, weighting, encoding and noise.
        aggregation: the protocol that computes the sum.
        server: what the server does with the mean.
        rounds: how many rounds, ≥ 1.
        network: the simulated network: dropouts, bandwidth, latency.
        adjacency: which federations are neighbours in every privacy statement.
        batching: how clients are trained: together where the model allows it (``"auto"``), one after the other
            (``"loop"``), or by a path that the model must have; see :mod:`fedpriv.learning.paths`.

    Raises:
        ConfigurationError: a part is missing what its seam needs.
    """

    model: Callable[..., Any] | None
    client: ClientUpdate
    sampling: Sampling = field(default_factory=FullParticipation)
    mechanism: Mechanism = field(default_factory=NoDP)
    aggregation: Aggregator = field(default_factory=PlainSum)
    server: ServerOptimizer = field(default_factory=FedAvg)
    rounds: int
    network: Network = field(default_factory=Network)
    adjacency: Adjacency = "zero-out"
    batching: Batching = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 1:
            raise ConfigurationError("A plan has at least one round.", value=self.rounds, remedy="Give rounds=20.")
        if self.model is not None and not callable(self.model):
            raise ConfigurationError(
                "A plan's model is a callable that returns a torch.nn.Module.",
                value=type(self.model).__name__,
                remedy="Give fp.models.logistic, or a function or class without required arguments.",
            )
        for name, members in _SEAMS.items():
            part = getattr(self, name)
            missing = [member for member in members if not hasattr(part, member)]
            if missing or isinstance(part, type):
                example = _EXAMPLES[name]
                raise ConfigurationError(
                    f"A plan's {name} is an object with {', '.join(members)}.",
                    value=part.__name__ if isinstance(part, type) else type(part).__name__,
                    remedy=f"Give an instance, e.g. {part.__name__}(…), not the class."
                    if isinstance(part, type)
                    else f"It lacks {'them all' if len(missing) == len(members) else ', '.join(missing)}. "
                    f"Give e.g. {example}.",
                )
        for name, arguments in _ARGUMENTS.items():
            if not _takes(getattr(self.mechanism, name), len(arguments)):
                raise ConfigurationError(
                    f"A mechanism's {name} takes ({', '.join(arguments)}).",
                    value=f"{type(self.mechanism).__name__}.{name}{inspect.signature(getattr(self.mechanism, name))}",
                    remedy="Write it as fedpriv.privacy.mechanism.Mechanism says.",
                )
        if self.adjacency not in ("zero-out", "add-remove", "replace-one"):
            raise ConfigurationError(
                'Adjacency is "zero-out", "add-remove" or "replace-one".',
                value=self.adjacency,
                remedy='Use "zero-out" unless membership itself is hidden from the observer.',
            )
        check_batching(self.batching)

    def __repr__(self) -> str:
        """As code, with the model by its name."""
        shown = {item.name: repr(getattr(self, item.name)) for item in fields(self)}
        if self.model is not None:
            shown["model"] = models.describe(self.model)
        return f"Plan({', '.join(f'{name}={value}' for name, value in shown.items())})"

    def resolve(self, federation: Federation) -> Resolved:
        """Check everything against a federation and settle what follows: integers, threshold, σ, who learns what.

        Raises:
            PlanError: the parts do not go together; the message says what to change.
        """
        from fedpriv.data import Federation
        from fedpriv.engine.resolution import resolve

        if not isinstance(federation, Federation):
            raise ConfigurationError(
                "A plan is resolved for a Federation.",
                value=type(federation).__name__,
                remedy="Give fp.data.digits(clients=100, seed=0), or your own arrays by fp.data.federate(…).",
            )
        return resolve(self, federation)

    def describe(self) -> dict[str, Any]:
        """The plan as plain values, for files; two plans that describe alike run alike."""
        return {item.name: describe(getattr(self, item.name)) for item in fields(self)}


def _takes(call: Callable[..., Any], arguments: int) -> bool:
    try:
        inspect.signature(call).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # it does not say
        return True
    return True
