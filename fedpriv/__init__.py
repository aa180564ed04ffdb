"""fedpriv: what privacy costs in federated learning, what it guarantees, and against whom.

Everything that stands in a :class:`Plan` is here, and the calls that run one. Names are loaded when they are used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedpriv import attacks, data
    from fedpriv.aggregation import BFV, CKKS, KeyAuthority, Paillier, PlainSum, SecureAggregation, SharedClientKey
    from fedpriv.engine.cluster import Ray
    from fedpriv.engine.plan import Plan
    from fedpriv.engine.processes import Processes
    from fedpriv.learning import DPSGD, FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, LocalSGD, models
    from fedpriv.network import Network
    from fedpriv.privacy import (
        AdaptiveClip,
        Budget,
        Capped,
        CentralGaussian,
        DistributedDiscreteGaussian,
        DistributedSkellam,
        FixedSizeSampling,
        FullParticipation,
        Ledger,
        LocalGaussian,
        MatrixFactorization,
        MinSeparation,
        NoDP,
        PoissonSampling,
        RandomizedResponse,
        TreeMechanism,
    )
    from fedpriv.study import Run, Study, callbacks, compare, grid, private_mean, rounds, run
    from fedpriv.threat import Coalition

__version__ = "0.1.0"

__all__ = [
    "BFV",
    "CKKS",
    "DPSGD",
    "AdaptiveClip",
    "Budget",
    "Capped",
    "CentralGaussian",
    "Coalition",
    "DistributedDiscreteGaussian",
    "DistributedSkellam",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "FixedSizeSampling",
    "FullParticipation",
    "KeyAuthority",
    "Ledger",
    "LocalGaussian",
    "LocalSGD",
    "MatrixFactorization",
    "MinSeparation",
    "Network",
    "NoDP",
    "Paillier",
    "PlainSum",
    "Plan",
    "PoissonSampling",
    "Processes",
    "RandomizedResponse",
    "Ray",
    "Run",
    "SecureAggregation",
    "SharedClientKey",
    "Study",
    "TreeMechanism",
    "attacks",
    "callbacks",
    "compare",
    "data",
    "grid",
    "models",
    "private_mean",
    "rounds",
    "run",
]

_HOME = {
    "aggregation": ("BFV", "CKKS", "KeyAuthority", "Paillier", "PlainSum", "SecureAggregation", "SharedClientKey"),
    "engine.cluster": ("Ray",),
    "engine.plan": ("Plan",),
    "engine.processes": ("Processes",),
    "learning": ("DPSGD", "FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedYogi", "LocalSGD", "models"),
    "network": ("Network",),
    "privacy": (
        "AdaptiveClip",
        "Budget",
        "Capped",
        "CentralGaussian",
        "DistributedDiscreteGaussian",
        "DistributedSkellam",
        "FixedSizeSampling",
        "FullParticipation",
        "Ledger",
        "LocalGaussian",
        "MatrixFactorization",
        "MinSeparation",
        "NoDP",
        "PoissonSampling",
        "RandomizedResponse",
        "TreeMechanism",
    ),
    "study": ("Run", "Study", "callbacks", "compare", "grid", "private_mean", "rounds", "run"),
    "threat": ("Coalition",),
}


def __getattr__(name: str) -> Any:
    if name in ("attacks", "data"):
        return import_module(f"{__name__}.{name}")
    for module, names in _HOME.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    # With name and object Python's traceback asks "Did you mean …?".
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
