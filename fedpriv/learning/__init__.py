"""What a client does with its data, what the server does with a mean.

Nothing here loads torch before a model is built or trained.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedpriv.learning import models
    from fedpriv.learning.dpsgd import DPSGD
    from fedpriv.learning.evaluation import evaluate
    from fedpriv.learning.server import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, RoundInfo, ServerOptimizer
    from fedpriv.learning.sgd import LocalSGD
    from fedpriv.learning.update import DELTA, Broadcast, ClientUpdate, Update, per_client
    from fedpriv.learning.vector import flatten, load

__all__ = [
    "DELTA",
    "DPSGD",
    "Broadcast",
    "ClientUpdate",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "LocalSGD",
    "RoundInfo",
    "ServerOptimizer",
    "Update",
    "evaluate",
    "flatten",
    "load",
    "models",
    "per_client",
]

_HOME = {
    "update": ("DELTA", "Broadcast", "ClientUpdate", "Update", "per_client"),
    "server": ("FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedYogi", "RoundInfo", "ServerOptimizer"),
    "sgd": ("LocalSGD",),
    "dpsgd": ("DPSGD",),
    "evaluation": ("evaluate",),
    "vector": ("flatten", "load"),
}


def __getattr__(name: str) -> Any:
    if name == "models":
        return import_module(f"{__name__}.models")
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
