"""One seed, one model, whoever adds: real protocols against each other, and against the ideal functionality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fedpriv as fp
from fedpriv.learning.update import Broadcast, Update, per_client
from fedpriv.network import Network

Make = Callable[..., fp.Plan]

NETWORKS = {
    "nobody lost": Network(),
    "lost in set-up": Network(dropout={"setup": 0.2}),
    "lost at upload": Network(dropout={"upload": 0.2}),
    "lost in recovery": Network(dropout={"recovery": 0.2}),
    "lost anywhere": Network(dropout={"setup": 0.1, "upload": 0.1, "recovery": 0.1}),
}
MECHANISMS = {
    "without noise": fp.NoDP(bits=14),
    "central noise": fp.CentralGaussian(clip_norm=1.0, noise_multiplier=0.5, bits=14),
}


def protocols() -> dict[str, Any]:
    """All four; three contributors suffice everywhere, so that one schedule means one set of contributors."""
    return {
        "plain": fp.PlainSum(),
        "masks": fp.SecureAggregation(corrupt=0.0, dropout=0.6, min_cohort=3),
        "ckks": fp.CKKS(),
        "paillier": fp.Paillier(key_bits=2048),
    }


def frame(federation: Any, plan: Any, seed: int, ideal: bool) -> dict[str, list[Any]]:
    """What a real and an ideal run must have in common, round by round."""
    run = fp.run(federation, plan, seed=seed, ideal=ideal, progress=False)
    assert run.ledger.rounds == sum(record.aborted is None for record in run.records)
    return {
        "sha256": [record.sha256 for record in run.records],
        "aborted": run.frame["aborted"].tolist(),
        "contributors": [record.contributors for record in run.records],
        "charged": [(event.round, event.cohort, event.contributors) for event in run.ledger.events],
    }


@pytest.mark.conformance
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_final_model_is_the_same_under_every_protocol(
    network: str, mechanism: str, federation: Any, planned: Make
) -> None:
    found = {}
    for name, aggregation in protocols().items():
        plan = planned(aggregation=aggregation, network=NETWORKS[network], mechanism=MECHANISMS[mechanism])
        resolved = plan.resolve(federation)
        found[name] = frame(federation, resolved, 11, ideal=False)
        assert frame(federation, resolved, 11, ideal=True) == found[name]
    assert all(each == found["plain"] for each in found.values())
    assert len(set(found["plain"]["sha256"])) == 2  # the model moved
    assert found["plain"]["aborted"] == ["", ""]
    lost = any(len(present) < len(federation) for present in found["plain"]["contributors"])
    assert lost == (network in ("lost in set-up", "lost at upload", "lost anywhere"))


@per_client
@dataclass(frozen=True)
class Noise:
    """A cheap client: its own stream, so that a wrong generator or order shows in the sum."""

    def train_one(self, model: Any, broadcast: Broadcast, client: Any, state: Any, rng: Any) -> Update:
        drawn = rng.normal(size=len(broadcast.parameters)) + 0.1 * broadcast.parameters
        return Update(payload={"delta": drawn.astype(np.float32)})


def _federation(clients: int, features: int) -> fp.data.Federation:
    members = tuple(
        fp.data.Client(index=i, name=str(i), x=np.full((1 + i % 3, features), i), y=np.zeros(1 + i % 3))
        for i in range(clients)
    )
    return fp.data.Federation(name="drawn", clients=members, test_x=np.zeros((1, features)), test_y=[1], classes=2)


@pytest.mark.conformance
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    clients=st.integers(2, 9),
    features=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    rates=st.tuples(*[st.sampled_from([0.0, 0.15, 0.4])] * 3).filter(lambda rates: sum(rates) <= 1.0),
    sampling=st.sampled_from([fp.FullParticipation(), fp.PoissonSampling(0.5, max_cohort=7), fp.FixedSizeSampling(2)]),
    private=st.booleans(),
    masked=st.booleans(),
)
def test_ideal_and_real_runs_agree(
    clients: int, features: int, seed: int, rates: tuple[float, ...], sampling: Any, private: bool, masked: bool
) -> None:
    aggregation: Any = fp.PlainSum()
    if masked:
        clients = max(clients, 5)
        aggregation = fp.SecureAggregation(corrupt=0.0, dropout=0.1, min_cohort=2)
        if not isinstance(sampling, fp.FullParticipation):
            sampling = fp.PoissonSampling(0.7, max_cohort=clients)
    plan = fp.Plan(
        model=None,
        client=Noise(),
        sampling=sampling,
        mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=0.5) if private else fp.NoDP(),
        aggregation=aggregation,
        network=Network(dropout=dict(zip(("setup", "upload", "recovery"), rates, strict=True))),
        rounds=3,
    )
    federation = _federation(clients, features)
    assert frame(federation, plan, seed, ideal=True) == frame(federation, plan, seed, ideal=False)
