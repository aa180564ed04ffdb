"""Protocols that compute the sum of the clients' integer vectors and say who learns what."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.plain import PlainSum
from fedpriv.aggregation.protocol import (
    Aggregator,
    ClientRole,
    Deployment,
    Releaser,
    Role,
    Session,
    Sum,
    Terms,
    perform_ideal,
)

if TYPE_CHECKING:
    from fedpriv.aggregation.homomorphic.bfv import BFV
    from fedpriv.aggregation.homomorphic.ckks import CKKS
    from fedpriv.aggregation.homomorphic.keys import KeyAuthority, SharedClientKey
    from fedpriv.aggregation.homomorphic.paillier import Paillier
    from fedpriv.aggregation.homomorphic.presets import PRESETS
    from fedpriv.aggregation.secagg import SecureAggregation

__all__ = [
    "BFV",
    "CKKS",
    "PRESETS",
    "Aggregator",
    "ClientRole",
    "Deployment",
    "KeyAuthority",
    "Paillier",
    "PlainSum",
    "Releaser",
    "Role",
    "SecureAggregation",
    "Session",
    "SharedClientKey",
    "Sum",
    "Terms",
    "perform",
    "perform_ideal",
]

_LAZY = {
    "BFV": "fedpriv.aggregation.homomorphic.bfv",
    "CKKS": "fedpriv.aggregation.homomorphic.ckks",
    "KeyAuthority": "fedpriv.aggregation.homomorphic.keys",
    "PRESETS": "fedpriv.aggregation.homomorphic.presets",
    "Paillier": "fedpriv.aggregation.homomorphic.paillier",
    "SharedClientKey": "fedpriv.aggregation.homomorphic.keys",
    "SecureAggregation": "fedpriv.aggregation.secagg",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
