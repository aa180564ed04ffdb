"""What a plan would have settled for ten clients, and what a mechanism draws from."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedpriv.privacy import FullParticipation, MatrixFactorization, MinSeparation, Outcome, Setting, TreeMechanism
from fedpriv.randomness import Noise
from fedpriv.threat import ThreatModel

THREAT = ThreatModel(adversary="honest-but-curious", corrupt=0.0, assumptions=(), reference="tests", learns={})


def setting(**more: Any) -> Setting:
    fields: dict[str, Any] = {
        "length": 4,
        "population": 10,
        "rounds": 5,
        "sampling": FullParticipation(),
        "adjacency": "zero-out",
        "threat": THREAT,
        "largest_client": 50,
        "least_contributors": 8,
        "least_honest": 7,
    }
    return Setting(**{**fields, **more})


TREE = TreeMechanism(clip_norm=1.0, noise_multiplier=2.0)
BAND = MatrixFactorization(clip_norm=1.0, noise_multiplier=2.0, bands=3)


def turns(rounds: int = 6, **more: Any) -> Any:
    """A setting in which either may be used."""
    return setting(
        **{"rounds": rounds, "sampling": MinSeparation(3), "least_contributors": 3, "least_honest": 3, **more}
    )


def outcome(clients: int = 10, contributors: int | None = None) -> Outcome:
    there = tuple(range(clients if contributors is None else contributors))
    return Outcome(cohort=tuple(range(clients)), contributors=there, noise="seeded")


def _refuse(size: int) -> Any:
    raise AssertionError("nothing is drawn here")


QUIET = Noise(words=_refuse, normal=np.zeros)
"""Normal draws of zero."""
NEVER = Noise(words=_refuse, normal=_refuse)
"""Nobody may draw."""
