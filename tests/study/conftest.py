"""Small federations and plans, as in ../engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedpriv as fp


def make_federation(clients: int = 8, features: int = 4, classes: int = 3, seed: int = 0) -> fp.data.Federation:
    """Clients of 4 to 7 examples around one centre a class."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=2.0, size=(classes, features))

    def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, classes, size=count)
        return centres[y] + rng.normal(size=(count, features)), y

    members = []
    for index in range(clients):
        x, y = examples(4 + index % 4)
        members.append(fp.data.Client(index=index, name=str(index), x=x, y=y))
    test_x, test_y = examples(30)
    return fp.data.Federation(name="blobs", clients=tuple(members), test_x=test_x, test_y=test_y, classes=classes)


@pytest.fixture(scope="session")
def federation() -> fp.data.Federation:
    return make_federation()


@pytest.fixture(scope="session")
def federations() -> Callable[..., fp.data.Federation]:
    return make_federation


@pytest.fixture(scope="session")
def planned() -> Callable[..., fp.Plan]:
    """A plan of two rounds of logistic regression, with the given parts exchanged."""

    def make(**parts: Any) -> fp.Plan:
        defaults: dict[str, Any] = {
            "model": fp.models.logistic,
            "client": fp.LocalSGD(steps=2, batch_size=4, learning_rate=0.3),
            "rounds": 2,
        }
        return fp.Plan(**(defaults | parts))

    return make
