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
    from fedpriv.aggregation.ckks import CKKS
    from fedpriv.aggregation.keys import KeyAuthority
    from fedpriv.aggregation.paillier import Paillier
    from fedpriv.aggregation.secagg import SecureAggregation

__all__ = [
    "CKKS",
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
    "Sum",
    "Terms",
    "perform",
    "perform_ideal",
]

_LAZY = {
    "CKKS": "fedpriv.aggregation.ckks",
    "KeyAuthority": "fedpriv.aggregation.keys",
    "Paillier": "fedpriv.aggregation.paillier",
    "SecureAggregation": "fedpriv.aggregation.secagg",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
