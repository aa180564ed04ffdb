from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fedpriv.encoding import FixedPoint
from fedpriv.errors import NonFiniteInput
from fedpriv.privacy.clipping import clip_rows, round_within, squared_norms

ROWS = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.floats(-1e300, 1e300, allow_nan=False, allow_infinity=False) | st.floats(-2, 2),
)


def exact_square(row: np.ndarray) -> int:
    return sum(int(k) ** 2 for k in row)


@given(rows=ROWS, clip_norm=st.floats(1e-6, 1e6), bits=st.integers(2, 40))
@example(rows=np.full((1, 7), 1.0), clip_norm=0.1, bits=40)
@example(rows=np.full((1, 3), 5e-324), clip_norm=1e-6, bits=20)
def test_the_integer_norm_never_exceeds_the_clip_norm(rows, clip_norm, bits) -> None:
    codec = FixedPoint.for_limit(clip_norm, bits)
    integers = round_within(clip_rows(rows, clip_norm).values, codec)
    for row in integers:
        assert exact_square(row) <= codec.bound**2


@given(seed=st.integers(0, 2**32), bits=st.integers(3, 40), d=st.integers(1, 200))
def test_it_holds_for_rows_that_lie_exactly_on_the_sphere(seed, bits, d) -> None:
    rows = np.random.default_rng(seed).standard_normal((4, d))
    codec = FixedPoint.for_limit(1.0, bits)
    clipped = clip_rows(rows / np.linalg.norm(rows, axis=1)[:, None] * 1.5, 1.0)
    assert clipped.clipped.all()
    for row in round_within(clipped.values, codec):
        assert exact_square(row) <= codec.bound**2


def test_nearest_rounding_alone_would_exceed_it() -> None:
    """The guard has work to do: without it a third of these rows would be too long."""
    rows = clip_rows(np.random.default_rng(0).standard_normal((200, 50)) * 100, 1.0).values
    codec = FixedPoint.for_limit(1.0, 12)
    too_long = [exact_square(row) > codec.bound**2 for row in np.rint(rows / codec.step).astype(np.int64)]
    assert sum(too_long) > 60


def test_short_rows_are_rounded_to_nearest_and_long_ones_lose_at_most_a_unit() -> None:
    rng = np.random.default_rng(1)
    codec = FixedPoint.for_limit(1.0, 16)
    rows = clip_rows(rng.standard_normal((20, 30)) * np.linspace(0.01, 1, 20)[:, None], 1.0).values
    error = np.abs(round_within(rows, codec) - rows / codec.step)
    short = np.linalg.norm(rows, axis=1) < 0.9
    assert short.any()
    assert (~short).any()
    assert error[short].max() <= 0.5
    assert error.max() < 1.0 + 1e-9


@given(rows=ROWS, clip_norm=st.floats(1e-3, 1e3))
def test_clipping_keeps_the_direction_and_short_rows(rows, clip_norm) -> None:
    values, clipped = clip_rows(rows, clip_norm)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(rows, axis=1)
    for before, after, was, norm in zip(rows, values, clipped, norms, strict=True):
        if not was:
            assert np.array_equal(before, after)
            assert norm <= clip_norm * (1 + 1e-12)
        else:
            assert np.linalg.norm(after) == pytest.approx(clip_norm, rel=1e-12)
            largest = np.argmax(np.abs(before))
            assert after == pytest.approx(before / before[largest] * after[largest], rel=1e-9, abs=1e-300)


@given(arrays(np.int64, (3, 5), elements=st.integers(-(2**39) + 1, 2**39 - 1)))
def test_squared_norms_are_exact(integers) -> None:
    assert squared_norms(integers) == [exact_square(row) for row in integers]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_updates_are_refused(bad) -> None:
    with pytest.raises(NonFiniteInput):
        clip_rows(np.array([[0.0, bad]]), 1.0)
