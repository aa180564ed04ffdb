from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.privacy.clipping import round_conditionally, rounded_norm


def words(seed: int):
    return np.random.PCG64DXSM(seed).random_raw


def never(size: int) -> np.ndarray:
    raise AssertionError("nothing is drawn")


def exact_square(row: np.ndarray) -> int:
    return sum(int(k) ** 2 for k in row)


def vectors(kind: str, d: int, norm: float) -> np.ndarray:
    rows = {
        "spike": np.eye(1, d),
        "constant": np.ones((1, d)),
        "halves": np.where(np.arange(d) % 2, 1.0, -1.0)[None],
        "random": np.random.default_rng(d).standard_normal((1, d)),
        "nothing": np.zeros((1, d)),
    }[kind]
    return rows * (norm / max(1e-300, float(np.linalg.norm(rows))))


@given(
    kind=st.sampled_from(["spike", "constant", "halves", "random", "nothing"]),
    d=st.sampled_from([1, 2, 16, 1024, 2**15]),
    norm=st.floats(0.01, 1e6),
    beta=st.sampled_from([0.0, 0.1, math.exp(-0.5), 0.9]),
    attempts=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_no_rounded_norm_exceeds_the_bound(kind, d, norm, beta, attempts, seed) -> None:
    limit = math.floor(rounded_norm(norm, d, beta) ** 2)
    rows = vectors(kind, d, norm)
    rounded = round_conditionally(rows, limit, [words(seed)], attempts)
    assert exact_square(rounded[0]) <= limit
    assert np.abs(rounded - rows).max() < 1.0 + 1e-9


def test_the_bound_of_kairouz_et_al_by_hand() -> None:
    assert rounded_norm(10.0, 256, 0.0) == 26.0
    assert rounded_norm(10.0, 256, math.exp(-0.5)) == pytest.approx(math.sqrt(100 + 64 + 10 + 8))
    assert rounded_norm(1000.0, 4, math.exp(-18)) == pytest.approx(1002.0)  # what is certain is less
    assert rounded_norm(1e6, 256, math.exp(-0.5)) == pytest.approx(1e6, rel=1e-5)


def test_a_bound_that_no_rounding_meets_is_met_by_shrinking() -> None:
    """Where every attempt fails, truncation and, should it overshoot, shrinking: never a row beyond the bound."""
    rows = np.full((1, 64), 3.5)
    for limit in (64 * 9, 64 * 4, 64 * 4 - 1, 0):
        rounded = round_conditionally(rows, limit, [words(1)], 2)
        assert exact_square(rounded[0]) <= limit
    assert np.array_equal(round_conditionally(rows, 64 * 9, [words(1)], 2)[0], np.full(64, 3))


def test_only_rows_that_are_too_long_are_redrawn() -> None:
    rows = np.array([[0.5] * 8, [3.0] * 8, [0.0] * 8])
    drawn = [0, 0, 0]

    def source(i: int):
        def give(size: int) -> np.ndarray:
            drawn[i] += 1
            return np.zeros(size, dtype=np.uint64) if drawn[i] < 3 else np.full(size, 2**64 - 1, dtype=np.uint64)

        return give

    rounded = round_conditionally(rows, 72, [source(0), source(1), source(2)], 9)
    assert np.array_equal(rounded, [[1] * 8, [3] * 8, [0] * 8])
    assert drawn == [1, 1, 1]
    drawn[:] = [0, 0, 0]
    assert np.array_equal(round_conditionally(rows[:1], 7, [source(0)], 9)[0], [0] * 8)  # all up is too long: 8
    assert drawn[0] == 3
    assert round_conditionally(rows[:0], 7, [], 3).shape == (0, 8)


@pytest.mark.statistical
def test_rounding_is_unbiased() -> None:
    """n = 10,000 roundings of each of 64 values, where none is redrawn: every mean within 6 standard errors."""
    rows = np.random.default_rng(3).uniform(-3, 3, (1, 64))
    limit = math.floor(rounded_norm(float(np.linalg.norm(rows)), 64, 0.0) ** 2)
    source = words(4)
    rounded = round_conditionally(np.repeat(rows, 10_000, axis=0), limit, [source] * 10_000, 1)
    part = rows[0] - np.floor(rows[0])
    error = np.abs(rounded.mean(axis=0) - rows[0])
    assert (error <= 6 * np.sqrt(part * (1 - part) / 10_000) + 1e-12).all()
    assert np.abs(np.floor(rows[0]) - rows[0]).max() > 0.5  # as rounding down would be
    assert np.array_equal(np.unique(rounded - np.floor(rows).astype(np.int64)), [0, 1])


@pytest.mark.statistical
@pytest.mark.parametrize("kind", ["constant", "random"])
def test_a_rounding_is_redrawn_at_most_as_often_as_beta_says(kind) -> None:
    """n = 2,000, β = e^-1/2; the bound is exceeded less often than β, at the norm at which all parts are halves."""
    d, norm = 1024, 16.0  # every |x| is 1/2 for the constant vector
    rows = vectors(kind, d, norm)
    beta = math.exp(-0.5)
    limit = math.floor(rounded_norm(norm, d, beta) ** 2)
    calls = 0
    inner = words(9)

    def counted(size: int) -> np.ndarray:
        nonlocal calls
        calls += 1
        return inner(size)

    round_conditionally(np.repeat(rows, 2000, axis=0), limit, [counted] * 2000, 100)
    assert calls - 2000 < beta * 2000
