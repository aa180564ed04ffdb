from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hadamard

from fedpriv.privacy.rotation import padded, rotate, unrotate


def test_dimensions_are_padded_to_powers_of_two() -> None:
    assert [padded(n) for n in (1, 2, 3, 4, 5, 250, 1024, 1025)] == [1, 2, 4, 4, 8, 256, 1024, 2048]


@given(seed=st.integers(0, 2**63 - 1), length=st.integers(1, 130), n=st.integers(1, 4), round=st.integers(0, 50))
def test_it_is_orthonormal_and_unrotated_by_its_inverse(seed, length, n, round) -> None:
    rows = np.random.default_rng(length).standard_normal((n, length))
    kept = rows.copy()
    turned = rotate(rows, seed, round)
    assert turned.shape == (n, padded(length))
    assert turned @ turned.T == pytest.approx(rows @ rows.T)
    back = unrotate(turned, seed, round)
    assert back[:, :length] == pytest.approx(rows, abs=1e-12)
    assert back[:, length:] == pytest.approx(0.0, abs=1e-12)
    assert np.array_equal(rows, kept)


def test_it_is_walsh_and_hadamards_matrix_with_signs() -> None:
    matrix = rotate(np.eye(16), 5, 1).T * 4
    signs = matrix[0]
    assert set(signs) == {1.0, -1.0}
    assert np.array_equal(matrix, hadamard(16) * signs)


def test_the_signs_are_the_rounds_own() -> None:
    rows = np.ones((1, 64))
    assert np.array_equal(rotate(rows, 7, 3), rotate(rows, 7, 3))
    assert not np.array_equal(rotate(rows, 7, 3), rotate(rows, 8, 3))
    assert not np.array_equal(rotate(rows, 7, 3), rotate(rows, 7, 4))


@pytest.mark.statistical
def test_it_flattens_what_is_spiky_or_constant() -> None:
    """d = 4096, twenty rotations: no coordinate beyond 7 / √d (probability below 1e-6); a spike is flat exactly."""
    d = 4096
    spike, constant = np.eye(1, d), np.full((1, d), 1 / math.sqrt(d))
    for seed in range(20):
        assert np.abs(rotate(spike, seed, 0)) == pytest.approx(1 / math.sqrt(d))
        assert np.abs(rotate(constant, seed, 0)).max() < 7 / math.sqrt(d)
        assert abs(np.mean(rotate(constant, seed, 0)[0] ** 4) * d * d - 3) < 1  # as of normal draws
