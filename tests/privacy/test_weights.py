from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from settings import QUIET, outcome, setting

from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.privacy import Capped, CentralGaussian


def capped(w_max: int = 10, expected: float = 5.0, bits: int = 24) -> CentralGaussian:
    weighting = Capped(w_max, expected=expected)
    return CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, bits=bits, weighting=weighting)


@given(
    rows=arrays(np.float64, (4, 3), elements=st.floats(-1e300, 1e300) | st.floats(-2, 2)),
    examples=st.lists(st.integers(1, 10**9), min_size=4, max_size=4),
    w_max=st.integers(1, 1000),
    bits=st.integers(2, 40),
)
def test_no_number_of_examples_moves_the_sum_by_more_than_the_clip_norm(rows, examples, w_max, bits) -> None:
    mechanism = capped(w_max, 1.0, bits)
    spec = mechanism.init(setting(length=3))
    assert (spec.clip_norm, spec.max_weight) == (1.0, 1)
    for row in mechanism.protect(rows, examples, spec, []).values.tolist():
        assert sum(k * k for k in row) <= spec.codec.bound**2


def test_the_release_is_the_capped_mean_over_public_constants() -> None:
    updates = np.random.default_rng(0).standard_normal((10, 4))
    examples = [1, 2, 3, 4, 5, 6, 7, 8, 9, 50]
    mechanism = capped(8, 5.0)
    spec = mechanism.init(setting())
    encoded = mechanism.protect(updates, examples, spec, [])
    clipped = updates / np.maximum(1, np.linalg.norm(updates, axis=1))[:, None]
    weights = np.minimum(examples, 8)
    released = mechanism.release(encoded.values.sum(axis=0), spec, outcome(), QUIET, spec).mean
    assert released == pytest.approx(weights @ clipped / (10 * 5.0), abs=1e-5)
    # With the right w̄ it is the weighted mean; a wrong one scales it.
    right = capped(8, float(weights.mean()))
    there = right.init(setting())
    mean = right.release(encoded.values.sum(axis=0), there, outcome(), QUIET, there).mean
    assert mean == pytest.approx(weights @ clipped / weights.sum(), abs=1e-5)
    assert encoded.residual == pytest.approx(
        spec.codec.decode(encoded.values.sum(axis=0)) - (weights / 8) @ clipped, abs=1e-12
    )


def test_nothing_that_is_sent_beside_the_vector_depends_on_the_numbers() -> None:
    mechanism = capped()
    spec = mechanism.init(setting())
    zeros = np.zeros((2, 4))
    assert not mechanism.protect(zeros, [1, 10], spec, []).values.any()  # no weight coordinate
    one, other = mechanism.init(setting(largest_client=3)), mechanism.init(setting(largest_client=3000))
    assert one == other
    assert spec.divisor == 10 * 5.0 / 10
    (event,) = mechanism.events(spec, outcome())
    (equal,) = CentralGaussian(clip_norm=1.0, noise_multiplier=1.0).events(spec, outcome())
    assert event == equal


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Capped(0, expected=1.0), ConfigurationError, "cap"),
        (lambda: Capped(True, expected=1.0), ConfigurationError, "cap"),
        (lambda: Capped(2.5, expected=1.0), ConfigurationError, "cap"),  # type: ignore[arg-type]
        (lambda: Capped(10, expected=0.0), ConfigurationError, "expected capped weight"),
        (lambda: Capped(10, expected=10.5), ConfigurationError, "expected capped weight"),
        (lambda: Capped(10, expected=math.nan), ConfigurationError, "expected capped weight"),
        (lambda: Capped(10, expected="5"), ConfigurationError, "expected capped weight"),  # type: ignore[arg-type]
        (lambda: Capped(10, expected=True), ConfigurationError, "expected capped weight"),
        (
            lambda: CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, weighting="examples"),  # type: ignore[arg-type]
            PlanError,
            "Capped",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
