"""Clips that adapt, capped weights and local noise in whole runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from algorithms import Constant, Make, execute

import fedpriv as fp
from fedpriv.engine.context import digest
from fedpriv.errors import PlanError
from fedpriv.privacy import AdaptiveClip, Capped, LocalGaussian, RandomizedResponse

ADAPTIVE = fp.CentralGaussian(clip_norm=AdaptiveClip(initial=0.1, learning_rate=0.5), noise_multiplier=0.5, bits=16)


def test_the_clip_of_every_round_is_told_and_the_noise_follows_it(federation: Any, planned: Make) -> None:
    run = execute(federation, planned(client=Constant(), mechanism=ADAPTIVE, rounds=25))
    clips, within = run.frame["clip_norm"], run.frame["within_clip"]
    assert clips[0] == 0.1
    assert within.between(0, 1).all()
    moved = clips * np.exp(-0.5 * (within - 0.5))
    assert clips[1:].to_numpy() == pytest.approx(moved[:-1].to_numpy())
    # Client i's update has norm (i + 1) / 8 · √15: half of the eight are within a clip of 1.94 … 2.42.
    assert clips[15:].mean() == pytest.approx(2.2, rel=0.25)
    events = run.ledger.events
    assert [event.noise_multiplier for event in events] == [0.5] * 25
    assert [event.clip_norm for event in events] == pytest.approx((clips * events[0].clip_norm / 0.1).tolist())
    fixed = execute(federation, planned(mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=0.5), rounds=25))
    assert run.ledger.epsilon(1e-3, observer="public") == fixed.ledger.epsilon(1e-3, observer="public")
    assert fixed.frame["clip_norm"].tolist() == [1.0] * 25
    assert fixed.frame["within_clip"].isna().all()


@pytest.mark.parametrize("aggregation", [fp.SecureAggregation()], ids=["masked"])
def test_every_protocol_gives_the_same_clips(aggregation: Any, federation: Any, planned: Make) -> None:
    plain = execute(federation, planned(mechanism=ADAPTIVE))
    masked = execute(federation, planned(mechanism=ADAPTIVE, aggregation=aggregation))
    ideal = execute(federation, planned(mechanism=ADAPTIVE, aggregation=aggregation), ideal=True)
    for other in (masked, ideal):
        assert other.frame["sha256"].tolist() == plain.frame["sha256"].tolist()
        assert other.frame["clip_norm"].tolist() == plain.frame["clip_norm"].tolist()


def test_a_run_goes_on_from_a_checkpoint_with_its_clip(federation: Any, planned: Make, tmp_path: Any) -> None:
    plan = planned(mechanism=ADAPTIVE, rounds=4)
    whole = execute(federation, plan)
    execute(federation, plan, checkpoint=tmp_path, every=2)
    (tmp_path / "round-000004.checkpoint").unlink()
    again = execute(federation, plan, checkpoint=tmp_path, every=2)
    assert again.frame["clip_norm"].tolist() == whole.frame["clip_norm"].tolist()


def test_capped_weights_are_those_of_the_examples(federation: Any, planned: Make) -> None:
    """Clients of 4 to 7 examples, capped at 6; noise far below the mean."""
    sizes = np.minimum(federation.sizes, 6)
    mechanism = fp.CentralGaussian(
        clip_norm=100.0, noise_multiplier=1e-9, bits=30, weighting=Capped(6, expected=float(sizes.mean()))
    )
    run = execute(federation, planned(client=Constant(), mechanism=mechanism, rounds=1))
    assert run.mean == pytest.approx(np.average(0.125 * np.arange(1, 9), weights=sizes), abs=1e-5)
    record_level = fp.DPSGD(
        learning_rate=0.1, clip_norm=1.0, sampling_rate=0.1, expected_batch=1.0, steps=1, noise_multiplier=1.0
    )
    plan = planned(client=record_level, mechanism=mechanism)
    with pytest.raises(PlanError, match="number of records"):
        plan.resolve(federation)


def test_local_noise_is_the_same_sum_under_every_protocol(federation: Any, planned: Make) -> None:
    mechanism = LocalGaussian(clip_norm=1.0, noise_multiplier=2.0, bits=10)
    plain = execute(federation, planned(mechanism=mechanism))
    for aggregation in (fp.SecureAggregation(), fp.PlainSum()):
        for ideal in (False, True):
            other = execute(federation, planned(mechanism=mechanism, aggregation=aggregation), ideal=ideal)
            assert other.frame["sha256"].tolist() == plain.frame["sha256"].tolist()
    assert plain.resolved.spec.modulus_bits is not None
    assert {event.trust for event in plain.ledger.events} == {"local"}


@pytest.mark.parametrize(
    ("mechanism", "adjacency", "words"),
    [
        (LocalGaussian(clip_norm=1.0, noise_multiplier=1.0), "add-remove", "takes its own noise"),
        (RandomizedResponse(categories=2, epsilon=1.0), "zero-out", "replace-one"),
        (RandomizedResponse(categories=2, epsilon=1.0), "replace-one", "one-hot"),
    ],
)
def test_what_does_not_go_together(mechanism: Any, adjacency: Any, words: str, federation: Any, planned: Make) -> None:
    with pytest.raises(PlanError, match=words):
        planned(mechanism=mechanism, adjacency=adjacency).resolve(federation)


def test_sums_that_can_wrap_are_not_said_not_to(federation: Any, planned: Make) -> None:
    local = planned(mechanism=LocalGaussian(clip_norm=1.0, noise_multiplier=2.0)).resolve(federation)
    assert f"counted modulo 2^{local.spec.modulus_bits}" in local.explain()
    assert "none wraps" not in local.explain()
    assert "none wraps" in planned(mechanism=ADAPTIVE).resolve(federation).explain()


def test_clients_agree_on_the_cap_of_weights(federation: Any, planned: Make) -> None:
    """Two caps with one divisor differ in nothing else that clients are told."""
    contexts = []
    for capped in (Capped(10, expected=1.0), Capped(20, expected=2.0)):
        plan = planned(mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, weighting=capped))
        spec = plan.resolve(federation).spec
        contexts.append((spec, digest(b"", spec, plan.client, plan.rounds, plan.mechanism.weighting)))
    (one, first), (other, second) = contexts
    assert one == other
    assert first != second
