"""Threat models as aggregators state them, and an event maker.

Tests import the helper modules beside them: pytest's import mode leaves ``sys.path`` as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from fedpriv.privacy import LedgerEvent
from fedpriv.threat import AUTHORITY, CLIENT, PUBLIC, SERVER, ThreatModel, View

sys.path.append(str(Path(__file__).parent))


def _model(learns: dict[str, set[View]], **more: Any) -> ThreatModel:
    return ThreatModel(
        adversary="honest-but-curious",
        assumptions=(),
        reference="tests",
        learns={party: frozenset(views) for party, views in learns.items()},
        **{"corrupt": 0.0, **more},
    )


@pytest.fixture
def plain() -> ThreatModel:
    """The server sees everything; clients see models, the public the last one."""
    return _model(
        {
            SERVER: {View.COHORT, View.UPDATES, View.EXACT_SUM, View.ROUND_MODELS},
            CLIENT: {View.ROUND_MODELS},
            PUBLIC: {View.FINAL_MODEL},
        }
    )


@pytest.fixture
def masked() -> ThreatModel:
    """Secure aggregation: the server sees the sum and the cohort, never an update, unless half the clients help it."""
    return _model(
        {
            SERVER: {View.COHORT, View.SURVIVORS, View.CIPHERTEXTS, View.EXACT_SUM, View.ROUND_MODELS},
            CLIENT: {View.COHORT, View.ROUND_MODELS},
            PUBLIC: {View.FINAL_MODEL},
        },
        corrupt=0.3,
        computational=frozenset({SERVER}),
    )


@pytest.fixture
def keyed() -> ThreatModel:
    """A key authority decrypts the sum and adds the noise; the server sees ciphertexts and noisy sums."""
    return _model(
        {
            SERVER: {View.COHORT, View.CIPHERTEXTS, View.NOISY_SUM, View.ROUND_MODELS},
            AUTHORITY: {View.EXACT_SUM},
            CLIENT: {View.ROUND_MODELS},
            PUBLIC: {View.FINAL_MODEL},
        },
        releaser=AUTHORITY,
        exposing=(frozenset({SERVER, AUTHORITY}),),
        computational=frozenset({SERVER}),
    )


@pytest.fixture
def event() -> Callable[..., LedgerEvent]:
    def make(cohort: Iterable[int] = (0,), sigma: float = 1.0, **more: Any) -> LedgerEvent:
        cohort = tuple(cohort)
        fields: dict[str, Any] = {
            "round": 0,
            "mechanism": "gaussian",
            "unit": "client",
            "adjacency": "zero-out",
            "sampling": None,
            "clip_norm": 1.0,
            "planned_noise_multiplier": sigma,
            "noise_multiplier": sigma,
            "planned_contributors": 1,
            "contributors": len(cohort),
            "cohort": cohort,
            "trust": "central",
            "noise_source": "os",
        }
        return LedgerEvent(**{**fields, **more})

    return make
