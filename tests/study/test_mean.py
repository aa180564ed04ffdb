"""private_mean: one round, the same function, and the distribution of its noise."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedpriv as fp
from fedpriv.engine import rounds as engine
from fedpriv.errors import DataError, PlanError, RoundAborted, TooFewSurvivors
from fedpriv.privacy import NoDP
from fedpriv.study import runs

VECTORS = np.random.default_rng(3).normal(size=(12, 5)).astype(np.float32)


def test_it_is_the_mean_within_half_a_step_of_the_grid() -> None:
    released = fp.private_mean(VECTORS, seed=0)
    step = NoDP().limit / (2**19 - 1)
    np.testing.assert_allclose(released.mean, VECTORS.astype(np.float64).mean(axis=0), atol=step / 2)
    assert released.mean.shape == (5,)
    assert released.contributors == tuple(range(12))
    assert np.abs(released.mean - VECTORS.astype(np.float64).mean(axis=0)).max() == pytest.approx(
        released.run.records[0].rounding_error, rel=1e-6
    )


@pytest.mark.parametrize("bits", [4, 8, 30])
def test_the_grid_is_the_mechanisms(bits: int) -> None:
    released = fp.private_mean(VECTORS, mechanism=NoDP(limit=3.0, bits=bits, weighting="equal"), seed=0)
    exact = np.clip(VECTORS.astype(np.float64), -3, 3).mean(axis=0)
    np.testing.assert_allclose(released.mean, exact, atol=0.5 * 3.0 / (2 ** (bits - 1) - 1) + 1e-12)


@pytest.mark.parametrize("aggregation", [fp.SecureAggregation(), fp.CKKS(), fp.PlainSum()])
def test_every_protocol_gives_the_same_mean(aggregation: Any) -> None:
    expected = fp.private_mean(VECTORS, seed=0)
    released = fp.private_mean(VECTORS, aggregation=aggregation, mechanism=NoDP(weighting="equal"), seed=0)
    assert released.mean.tobytes() == expected.mean.tobytes()


def test_it_goes_through_the_round_of_every_other_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole: Callable[..., Any] = engine.run_rounds

    def watched(resolved: Any, **arguments: Any) -> Any:
        calls.append(resolved.plan.rounds)
        return whole(resolved, **arguments)

    monkeypatch.setattr(runs, "run_rounds", watched)
    fp.private_mean(VECTORS, seed=0)
    assert calls == [1]


def test_only_who_contributed_is_in_the_mean() -> None:
    released = fp.private_mean(VECTORS, network=fp.Network(dropout={"upload": 0.4}), seed=1)
    there = list(released.contributors)
    assert 0 < len(there) < 12
    np.testing.assert_allclose(released.mean, VECTORS[there].astype(np.float64).mean(axis=0), atol=1e-5)


def test_one_release_in_the_ledger() -> None:
    mechanism = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)
    released = fp.private_mean(VECTORS, mechanism=mechanism, seed=0)
    (event,) = released.ledger.events
    assert (event.round, event.count, event.noise_multiplier) == (0, 1, 2.0)
    assert event.cohort == tuple(range(12))
    assert released.ledger.epsilon(1e-3, observer="server") == np.inf
    assert 0 < released.ledger.epsilon(1e-3, observer="public") < np.inf
    assert len(released.costs) == 5


def test_an_abort_raises_and_releases_nothing() -> None:
    with pytest.raises(TooFewSurvivors):
        fp.private_mean(VECTORS, network=fp.Network(dropout={"upload": 1.0}), seed=0)
    lost, masks = fp.Network(dropout={"recovery": 1.0}), fp.SecureAggregation()
    for ideal in (False, True):
        with pytest.raises(RoundAborted):
            fp.private_mean(VECTORS, aggregation=masks, network=lost, seed=0, ideal=ideal)
    with pytest.raises(PlanError):
        fp.private_mean(VECTORS[:2], aggregation=fp.SecureAggregation(), seed=0)


def test_what_an_aborted_attempt_amounts_to_is_in_its_error() -> None:
    """Clients have sent noised vectors by then: whoever tries again composes both."""
    noised = fp.DistributedSkellam(clip_norm=1.0, noise_multiplier=3.0)
    masks, lost = fp.SecureAggregation(), fp.Network(dropout={"recovery": 1.0})
    for ideal in (False, True):
        with pytest.raises(RoundAborted) as caught:
            fp.private_mean(VECTORS, mechanism=noised, aggregation=masks, network=lost, seed=0, ideal=ideal)
        ledger = caught.value.ledger
        assert ledger is not None
        assert [event.contributors for event in ledger.events] == [0]
        assert 0.0 < ledger.epsilon(1e-3, observer="server") < np.inf
        assert pickle.loads(pickle.dumps(caught.value)).ledger.to_json() == ledger.to_json()
    assert RoundAborted("No sum.", remedy="Try again.").ledger is None


@pytest.mark.parametrize("vectors", [np.zeros(3), np.zeros((0, 3)), np.zeros((3, 0)), np.zeros((2, 2, 2)), 1.0])
def test_what_is_no_stack_of_vectors(vectors: Any) -> None:
    with pytest.raises(DataError, match="one row per client"):
        fp.private_mean(vectors, seed=0)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e300])
def test_a_vector_that_is_not_finite_names_its_client(poison: float) -> None:
    vectors = VECTORS.astype(np.float64)
    vectors[4, 2] = poison
    with pytest.raises(DataError, match="client '4'"):
        fp.private_mean(vectors, seed=0)


def test_what_was_cut_is_counted() -> None:
    vectors = VECTORS.copy()
    vectors[0] = 100.0
    released = fp.private_mean(vectors, seed=0)
    assert released.run.frame["clipped_coordinates"].tolist() == [5]


def test_a_run_without_a_model_can_be_saved_and_shown(tmp_path: Any) -> None:
    released = fp.private_mean(VECTORS, seed=0)
    folder = released.run.save(tmp_path / "mean")
    assert (folder / "rounds.png").stat().st_size > 0
    assert released.run.plan.model is None
    with pytest.raises(PlanError):
        _ = released.run.model


@pytest.mark.statistical
def test_the_variance_of_central_noise() -> None:
    """n = 60 000 coordinates of noise; chi-square with alpha = 1e-6, and the power against 2/3 σ and 3/2 σ."""
    from scipy import stats

    clients, clip, multiplier, size = 4, 2.0, 1.5, 60_000
    mechanism = fp.CentralGaussian(clip_norm=clip, noise_multiplier=multiplier)
    released = fp.private_mean(np.zeros((clients, size), dtype=np.float32), mechanism=mechanism, seed=5)
    noise = released.mean * clients  # the mean of zeros: noise over the public divisor

    def accepted(sigma: float) -> bool:
        statistic = float((noise**2).sum() / sigma**2)
        low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], size)
        return bool(low < statistic < high)

    sigma = clip * multiplier
    assert accepted(sigma)
    assert not accepted(2 / 3 * sigma)
    assert not accepted(3 / 2 * sigma)
    assert stats.kstest(noise / sigma, "norm").pvalue > 1e-6


def test_vectors_of_different_lengths() -> None:
    with pytest.raises(DataError, match="one length"):
        fp.private_mean([[1.0, 2.0], [3.0]], seed=0)
