"""What holds for every test: one thread, and how hard Hypothesis tries."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import fedpriv as fp

# Read when numpy and torch are first imported: each worker of pytest-xdist has a core of its own.
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "dev"))


def make_federation(clients: int = 8, features: int = 4, classes: int = 3, seed: int = 0) -> fp.data.Federation:
    """Clients of 4 to 7 examples around one centre a class."""
    import numpy as np

    import fedpriv as fp

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
    import fedpriv as fp

    def make(**parts: Any) -> fp.Plan:
        defaults: dict[str, Any] = {
            "model": fp.models.logistic,
            "client": fp.LocalSGD(steps=2, batch_size=4, learning_rate=0.3),
            "rounds": 2,
        }
        return fp.Plan(**(defaults | parts))

    return make
