"""The matrices of correlated noise, by their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.privacy.correlation import Correlation

TREES = st.builds(Correlation, kind=st.just("tree"), rounds=st.integers(1, 40))
BANDS = st.builds(Correlation.square_root, rounds=st.integers(1, 40), bands=st.integers(1, 45))
OTHER_BANDS = st.builds(
    Correlation,
    kind=st.just("banded"),
    rounds=st.integers(1, 12),
    coefficients=st.lists(st.floats(-2, 2), min_size=1, max_size=15).map(lambda c: (1.0, *c)),
)


def explicit(correlation: Correlation) -> np.ndarray:
    """C, entry by entry."""
    rounds, band = correlation.rounds, correlation.coefficients
    matrix = np.zeros((rounds, rounds))
    for t in range(rounds):
        for s in range(t + 1):
            if correlation.kind == "banded":
                matrix[t, s] = band[t - s] if t - s < len(band) else 0.0
            else:
                size = max(2**k for k in range(7) if (t + 1) % 2**k == 0)
                matrix[t, s] = float(s > t - size)
    return matrix


@given(correlation=st.one_of(TREES, BANDS, OTHER_BANDS))
def test_the_gram_matrix_is_that_of_the_matrix(correlation: Correlation) -> None:
    matrix = explicit(correlation)
    assert np.array_equal(correlation.matrix(), matrix)
    assert correlation.gram() == pytest.approx(matrix.T @ matrix, abs=1e-12)


@given(correlation=st.one_of(TREES, BANDS))
def test_prefixes_keep_the_noise_of_their_rows(correlation: Correlation) -> None:
    """B = A C⁻¹, and the largest sum of absolute values in a row of C⁻¹."""
    inverse = np.linalg.inv(explicit(correlation))
    prefixes = np.tril(np.ones_like(inverse)) @ inverse
    assert correlation.prefix_variance() == pytest.approx((prefixes**2).sum(axis=1), rel=1e-9)
    largest = np.abs(inverse).sum(axis=1).max()
    assert largest <= correlation.amplitude() * (1 + 1e-9)
    if correlation.kind == "banded":
        assert correlation.amplitude() == pytest.approx(largest)


@given(rounds=st.integers(1, 64))
def test_every_prefix_is_a_sum_of_the_trees_nodes(rounds: int) -> None:
    """So B is a matrix of zeros and ones, with at most log2(t) + 1 ones in row t."""
    matrix = explicit(Correlation(kind="tree", rounds=rounds))
    chosen = np.rint(np.tril(np.ones_like(matrix)) @ np.linalg.inv(matrix))
    assert np.array_equal(chosen @ matrix, np.tril(np.ones_like(matrix)))
    assert set(np.unique(chosen)) <= {0.0, 1.0}
    assert all(chosen[t].sum() <= (t + 1).bit_length() for t in range(rounds))


@given(rounds=st.integers(1, 100))
def test_a_single_round_lies_below_at_most_the_trees_height_of_nodes(rounds: int) -> None:
    charged = np.diag(Correlation(kind="tree", rounds=rounds).gram())
    assert charged[0] == charged.max() == math.ceil(math.log2(rounds + 1))


@given(rounds=st.integers(1, 60), bands=st.integers(1, 20), data=st.data())
def test_turns_a_band_apart_cost_what_independent_noise_does(rounds: int, bands: int, data: st.DataObject) -> None:
    """Columns of length 1, but for those that the matrix cuts, and orthogonal from one turn to the next."""
    gram = Correlation.square_root(rounds, bands).gram()
    lengths = np.diag(gram)
    assert lengths[: max(1, rounds - bands + 1)] == pytest.approx(1.0)
    assert (lengths <= 1 + 1e-12).all()
    first, apart = data.draw(st.integers(0, rounds - 1)), data.draw(st.integers(bands, 25))
    turns = np.arange(first, rounds, apart)
    assert gram[np.ix_(turns, turns)] == pytest.approx(np.diag(lengths[turns]), abs=1e-15)


def test_a_full_band_is_the_square_root_of_the_prefix_sums() -> None:
    """Up to the length of its columns."""
    correlation = Correlation.square_root(12, 12)
    root = correlation.matrix() / correlation.coefficients[0]
    assert root @ root == pytest.approx(np.tril(np.ones((12, 12))))
    assert root[3, 0] == math.comb(6, 3) / 4**3


def test_sums_over_many_rounds_keep_less_of_correlated_noise() -> None:
    """Mean variance of a prefix at equal privacy of a client that takes part once, T = 1024, from the formulas.

    Independent noise: (T + 1) / 2 = 512.5. The tree: 11 nodes charged, 5.0 in the mean prefix: 55. Bands: less with
    every one of them.
    """
    rounds = 1024
    tree = Correlation(kind="tree", rounds=rounds)
    levels = tree.gram()[0, 0]
    assert levels == 11
    at_equal_privacy = levels * tree.prefix_variance().mean()
    ones = sum(t.bit_count() for t in range(1, rounds + 1)) / rounds
    assert at_equal_privacy == pytest.approx(11 * ones)
    banded = [Correlation.square_root(rounds, bands).prefix_variance().mean() for bands in (1, 2, 4, 16, 64, 1024)]
    assert banded[0] == pytest.approx((rounds + 1) / 2)
    assert banded == sorted(banded, reverse=True)
    assert banded[-1] < at_equal_privacy < 60 < banded[0]
    # What clients that take part again make of it: every 16 rounds, and always.
    turns = [tree.gram()[np.ix_(range(first, rounds, 16), range(first, rounds, 16))].sum() for first in range(16)]
    kept = tree.prefix_variance().mean() / banded[0]
    assert at_equal_privacy / banded[0] == pytest.approx(1 / 9, abs=0.01)
    assert max(turns) / (rounds / 16) * kept == pytest.approx(1.0, abs=0.05)
    assert tree.gram().sum() / rounds * kept == pytest.approx(15, abs=0.1)
    assert banded[3] / banded[0] == pytest.approx(0.1, abs=0.005)
    # The square root's bound (Fichtenberger, Henzinger and Upadhyay 2023): 1 + (γ + ln T) / π, for both of its factors.
    assert banded[-1] <= (1 + (0.5773 + math.log(rounds)) / math.pi) ** 2
