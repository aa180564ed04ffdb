"""Server optimisers against the published update rules and numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedpriv.errors import ConfigurationError, NonFiniteInput
from fedpriv.learning import DELTA, FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, RoundInfo

INFO = RoundInfo(round=0, cohort=2, population=2)


def path(server, start, deltas):
    """The broadcast parameters after each delta."""
    state, seen = server.init(np.asarray(start, dtype=np.float32)), []
    for delta in deltas:
        state = server.step(state, {DELTA: np.asarray(delta)}, INFO)
        seen.append(server.broadcast(state).parameters)
    return seen


def test_fedavg_with_rate_one_is_the_average_of_the_models():
    rng = np.random.default_rng(0)
    start = rng.normal(size=6).astype(np.float32)
    clients = rng.normal(size=(4, 6)).astype(np.float32)
    (after,) = path(FedAvg(), start, [(clients - start).mean(axis=0, dtype=np.float64)])
    np.testing.assert_allclose(after, clients.mean(axis=0), atol=1e-6)
    assert after.dtype == np.float32


def test_fedavg_by_hand():
    after = path(FedAvg(learning_rate=0.5), [1.0, -2.0], [[1.0, 4.0], [-1.0, 0.0]])
    assert [list(x) for x in after] == [[1.5, 0.0], [1.0, 0.0]]


def test_fedavgm_by_hand():
    # v: 2, then 0.5·2 + 1 = 2; x: 0 + 0.1·2 = 0.2, then 0.4
    after = path(FedAvgM(learning_rate=0.1, momentum=0.5), [0.0], [[2.0], [1.0]])
    np.testing.assert_allclose(np.ravel(after), [0.2, 0.4], rtol=1e-7)


def test_adaptive_by_hand():
    # η = 1, τ = 1, v₋₁ = 1, Δ = 2 then 1.
    # Adagrad, β₁ = 0: v = 5, 6; x = 2/(√5 + 1), + 1/(√6 + 1)
    first = 2 / (math.sqrt(5) + 1)
    np.testing.assert_allclose(
        np.ravel(path(FedAdagrad(learning_rate=1, tau=1), [0.0], [[2.0], [1.0]])),
        [first, first + 1 / (math.sqrt(6) + 1)],
        rtol=1e-7,
    )
    # Adam, β₁ = β₂ = ½: m = 1, 1; v = 2.5, 1.75
    first = 1 / (math.sqrt(2.5) + 1)
    np.testing.assert_allclose(
        np.ravel(path(FedAdam(learning_rate=1, tau=1, beta1=0.5, beta2=0.5), [0.0], [[2.0], [1.0]])),
        [first, first + 1 / (math.sqrt(1.75) + 1)],
        rtol=1e-7,
    )
    # Yogi, β₁ = β₂ = ½: v = 1 − ½·4·sign(1 − 4) = 3, then 3 − ½·1·sign(3 − 1) = 2.5
    first = 1 / (math.sqrt(3) + 1)
    np.testing.assert_allclose(
        np.ravel(path(FedYogi(learning_rate=1, tau=1, beta1=0.5, beta2=0.5), [0.0], [[2.0], [1.0]])),
        [first, first + 1 / (math.sqrt(2.5) + 1)],
        rtol=1e-7,
    )


@pytest.mark.parametrize("kind", [FedAdagrad, FedYogi, FedAdam])
def test_adaptive_is_algorithm_2_of_reddi_et_al(kind):
    eta, b1, b2, tau = 0.3, 0.8, 0.95, 0.01
    server = kind(learning_rate=eta, beta1=b1, tau=tau, **({} if kind is FedAdagrad else {"beta2": b2}))
    rng = np.random.default_rng(1)
    start = rng.normal(size=7).astype(np.float32)
    deltas = 0.1 * rng.normal(size=(15, 7))
    expected = []
    for coordinate in range(7):
        x, m, v = float(start[coordinate]), 0.0, tau**2
        for d in deltas[:, coordinate]:
            m = b1 * m + (1 - b1) * d
            if kind is FedAdagrad:
                v = v + d * d
            elif kind is FedYogi:
                v = v - (1 - b2) * d * d * math.copysign(1.0, v - d * d)
            else:
                v = b2 * v + (1 - b2) * d * d
            x = float(np.float32(x + eta * m / (math.sqrt(v) + tau)))
        expected.append(x)
    np.testing.assert_allclose(path(server, start, deltas)[-1], expected, rtol=0, atol=2e-7)


def test_defaults_are_the_papers():
    assert FedAvg() == FedAvg(learning_rate=1.0)
    assert FedAdagrad(learning_rate=0.1) == FedAdagrad(learning_rate=0.1, beta1=0.0, tau=1e-3)
    assert FedAdam(learning_rate=0.1) == FedAdam(learning_rate=0.1, beta1=0.9, beta2=0.99, tau=1e-3)
    assert FedYogi(learning_rate=0.1) == FedYogi(learning_rate=0.1, beta1=0.9, beta2=0.99, tau=1e-3)


@pytest.mark.parametrize("server", [FedAvg(), FedAvgM(), FedAdagrad(learning_rate=0.1), FedAdam(learning_rate=0.1)])
def test_is_deterministic_and_never_changes_a_state(server):
    start = np.arange(4, dtype=np.float32)
    state = server.init(start)
    start[:] = 99  # the caller's array is not the state
    before = server.broadcast(state).parameters.copy()
    mean = {DELTA: np.array([0.1, -0.2, 0.3, 0.0])}
    one, two = server.step(state, mean, INFO), server.step(state, mean, INFO)
    assert server.broadcast(one).parameters.tobytes() == server.broadcast(two).parameters.tobytes()
    assert np.array_equal(server.broadcast(state).parameters, before)
    assert list(before) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        server.broadcast(one).parameters[0] = 1.0


@pytest.mark.parametrize("server", [FedAvg(), FedAvgM(), FedYogi(learning_rate=0.1)])
def test_refuses_a_mean_that_does_not_fit(server):
    state = server.init(np.zeros(3, dtype=np.float32))
    for mean in ({DELTA: np.zeros(2)}, {DELTA: np.zeros(1)}, {DELTA: np.zeros((3, 1))}, {"control": np.zeros(3)}):
        with pytest.raises(ConfigurationError):
            server.step(state, mean, INFO)
    with pytest.raises(NonFiniteInput, match="released mean"):
        server.step(state, {DELTA: np.array([0.0, np.nan, 0.0])}, INFO)
    with pytest.raises(ConfigurationError):
        server.init(np.zeros((3, 1), dtype=np.float32))


def test_a_model_that_overflows_is_an_error():
    server = FedAvg(learning_rate=1e30)
    with pytest.raises(NonFiniteInput, match="keeps the model finite"):
        server.step(server.init(np.zeros(1, dtype=np.float32)), {DELTA: np.array([1e30])}, INFO)


def test_other_entries_are_ignored():
    state = FedAvg().init(np.zeros(1, dtype=np.float32))
    assert FedAvg().step(state, {DELTA: np.ones(1), "control": np.ones(9)}, INFO).parameters == [1.0]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (FedAvg, {"learning_rate": 0}),
        (FedAvg, {"learning_rate": float("inf")}),
        (FedAvgM, {"momentum": 1}),
        (FedAdam, {"learning_rate": 0.1, "beta1": 1.0}),
        (FedAdam, {"learning_rate": 0.1, "beta2": -0.1}),
        (FedYogi, {"learning_rate": 0.1, "beta2": 1.0}),
        (FedAdagrad, {"learning_rate": 0.1, "tau": 0.0}),
    ],
)
def test_refuses(kind, settings):
    with pytest.raises(ConfigurationError):
        kind(**settings)
