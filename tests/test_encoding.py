"""Reals ↔ integers: no sum of clipped encodings wraps, and the bound is no larger than it must be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedpriv.encoding import MAX_SUM, Bounded, FixedPoint, Ring, check_sum_bound, ring_for
from fedpriv.errors import ConfigurationError, EncodingOverflow, NonFiniteInput

REALS = st.floats(allow_nan=False, allow_infinity=False)
CODECS = st.builds(
    FixedPoint.for_limit, st.floats(min_value=1e-12, max_value=1e12), st.integers(min_value=2, max_value=24)
)


def signed(values: np.ndarray, ring: Ring) -> np.ndarray:
    """Reduce mod 2^bits and read as signed: what a protocol over this ring does to a sum."""
    half = 1 << (ring.bits - 1)
    return (values + half) % (1 << ring.bits) - half


@given(codec=CODECS, contributors=st.integers(1, 12), max_weight=st.integers(1, 1000), data=st.data())
def test_no_sum_of_clipped_encodings_wraps(
    codec: FixedPoint, contributors: int, max_weight: int, data: st.DataObject
) -> None:
    ring = ring_for(codec.sum_bound(contributors, max_weight))
    vectors = data.draw(arrays(np.float64, (contributors, 3), elements=REALS))
    weights = data.draw(arrays(np.int64, (contributors, 1), elements=st.integers(0, max_weight)))
    encoded = codec.encode(vectors).values
    assert np.abs(encoded).max() <= codec.bound
    total = (weights * encoded).sum(axis=0)
    assert np.abs(total).max() <= codec.sum_bound(contributors, max_weight)
    assert np.array_equal(signed(total, ring), total)
    assert np.array_equal(signed((weights * encoded % (1 << ring.bits)).sum(axis=0), ring), total)


@given(codec=CODECS, contributors=st.integers(1, 10**6), max_weight=st.integers(1, 1000))
def test_the_bound_is_reached_and_the_ring_is_the_smallest(
    codec: FixedPoint, contributors: int, max_weight: int
) -> None:
    extreme = codec.encode([2 * codec.limit, -2 * codec.limit]).values
    assert (contributors * max_weight * extreme).tolist() == [
        codec.sum_bound(contributors, max_weight),
        -codec.sum_bound(contributors, max_weight),
    ]
    bound = codec.sum_bound(contributors, max_weight)
    ring = ring_for(bound)
    assert bound <= ring.largest
    assert ring.bits == 2 or bound > Ring(ring.bits - 1).largest


@given(codec=CODECS, data=st.data())
def test_inside_the_limit_the_error_is_half_a_step(codec: FixedPoint, data: st.DataObject) -> None:
    inside = st.floats(min_value=-codec.limit, max_value=codec.limit)
    reals = data.draw(arrays(np.float64, 5, elements=inside))
    encoding = codec.encode(reals)
    assert encoding.clipped == 0
    assert np.abs(codec.decode(encoding.values) - reals).max() <= codec.step / 2 * (1 + 1e-9)


@given(codec=CODECS, data=st.data())
def test_grid_points_survive(codec: FixedPoint, data: st.DataObject) -> None:
    integers = data.draw(arrays(np.int64, 5, elements=st.integers(-codec.bound, codec.bound)))
    assert np.array_equal(codec.encode(codec.decode(integers)).values, integers)


def test_what_lies_outside_is_cut_and_counted() -> None:
    codec = FixedPoint.for_limit(1.0, 8)
    encoding = codec.encode([0.0, 1.0, -1.0, 1.1, -7.0, 1e308])
    assert encoding.values.tolist() == [0, 127, -127, 127, -127, 127]
    assert encoding.clipped == 3


def test_a_large_finite_value_is_cut_not_called_infinite() -> None:
    encoding = FixedPoint(step=1e-300, bound=7).encode([1e100, -1e100])
    assert encoding.values.tolist() == [7, -7]
    assert encoding.clipped == 2


@pytest.mark.parametrize("value", [0.0, -0.0, 0.25, 1.0, -1.0])
def test_constant_vectors(value: float) -> None:
    codec = FixedPoint.for_limit(1.0, 16)
    encoding = codec.encode(np.full(1000, value))
    assert len(set(encoding.values.tolist())) == 1
    assert encoding.clipped == 0
    total = 50 * encoding.values
    assert np.abs(codec.decode(total) / 50 - value).max() <= codec.step / 2


def test_shapes_and_types() -> None:
    codec = FixedPoint.for_limit(1.0, 16)
    assert codec.encode(np.zeros((3, 4), dtype=np.float32)).values.shape == (3, 4)
    assert codec.encode([]).values.dtype == np.int64
    assert codec.decode(np.array([2**60])).dtype == np.float64


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_input_is_its_own_error(bad: float) -> None:
    with pytest.raises(NonFiniteInput, match="1 non-finite values, the first at coordinate 2"):
        FixedPoint.for_limit(1.0, 16).encode([0.0, 1.0, bad, 3.0])


def test_sums_beyond_62_bits_are_refused() -> None:
    assert ring_for(MAX_SUM - 1).largest >= MAX_SUM - 1
    for refuse in (ring_for, check_sum_bound):
        with pytest.raises(EncodingOverflow, match="fewer bits"):
            refuse(MAX_SUM)


def test_the_bound_on_a_sum_is_not_computed_with_integers_that_wrap() -> None:
    codec = FixedPoint(step=1.0, bound=2**39)
    million = np.int64(10**6)
    assert codec.sum_bound(million, million) == 10**12 * 2**39  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [1, 0, -8, 41, 16.0, True, "16"])
def test_bits(bits: object) -> None:
    with pytest.raises(ConfigurationError, match="2 to 40 bits"):
        FixedPoint.for_limit(1.0, bits)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0.0, -1.0, np.nan, np.inf, 5e-324])
def test_limits(limit: float) -> None:
    with pytest.raises(ConfigurationError, match="> 0"):
        FixedPoint.for_limit(limit, 24)


@pytest.mark.parametrize("bound", [0, -1, 2**52 + 1, 2**70])
def test_bounds(bound: int) -> None:
    with pytest.raises(ConfigurationError, match="bound"):
        FixedPoint(step=1.0, bound=bound)


def test_domains_name_themselves() -> None:
    assert (Ring(24).name, Ring(24).largest) == ("ℤ mod 2^24", 2**23 - 1)
    assert Bounded(100).name == "|sum| ≤ 100"
