"""Shamir's scheme: exact, complete, and information-theoretically silent below the threshold."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.crypto import shamir
from fedpriv.errors import ConfigurationError, InvalidShare, MalformedMessage


def slow_combine(points: list[int], values: list[int], prime: int) -> int:
    """Lagrange at 0 in Python's integers."""
    total = 0
    for i, (x, y) in enumerate(zip(points, values, strict=True)):
        weight = 1
        for j, other in enumerate(points):
            if i != j:
                weight = weight * other * pow(other - x, -1, prime) % prime
        total += weight * y
    return total % prime


@given(st.data())
def test_any_threshold_of_shares_reconstructs(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    t = data.draw(st.integers(1, n))
    points = data.draw(st.lists(st.integers(1, shamir.PRIME - 1), min_size=n, max_size=n, unique=True))
    secret = data.draw(st.binary(min_size=32, max_size=32))
    shares = shamir.split(shamir.limbs(secret), threshold=t, points=points)
    chosen = data.draw(st.permutations(range(n)))[:t]
    opened = shamir.combine([points[i] for i in chosen], shares[chosen])
    assert shamir.from_limbs(opened) == secret
    slow = slow_combine([points[i] for i in chosen], shares[chosen, 0].tolist(), shamir.PRIME)
    assert slow == shamir.limbs(secret)[0]


def test_large_thresholds_are_exact() -> None:
    points = range(1, 1001)
    secrets = np.array([0, 1, 65535, 65535], dtype=np.int64)
    shares = shamir.split(secrets, threshold=700, points=points)
    assert np.array_equal(shamir.combine(range(301, 1001), shares[300:]), secrets)
    assert np.array_equal(shamir.combine(range(1, 701), shares[:700]), secrets)


def test_known_lagrange_weights() -> None:
    """f(0) = 3 f(1) - 3 f(2) + f(3) for degree 2; f(0) = 2 f(1) - f(2) for degree 1."""
    assert shamir.lagrange((1, 2, 3)).tolist() == [3, shamir.PRIME - 3, 1]
    assert shamir.lagrange((1, 2)).tolist() == [2, shamir.PRIME - 1]


def test_a_polynomial_worked_by_hand() -> None:
    """f(x) = 3 + 2x + x² over GF(7): the coefficients come from the randomness in order."""
    words = np.array([2, 1], dtype="<u4").tobytes()
    shares = shamir.split(
        np.array([3]), threshold=3, points=[1, 2, 3, 4], prime=7, randomness=lambda size: words[:size]
    )
    assert shares[:, 0].tolist() == [6, 4, 4, 6]


@pytest.mark.parametrize("t", [1, 2, 3])
def test_below_the_threshold_every_secret_is_equally_likely(t: int) -> None:
    """Over GF(5), for all secrets and all polynomials: t − 1 shares have the same distribution for every secret."""
    prime, points = 5, [1, 2, 3, 4]
    for seen in itertools.combinations(range(4), t - 1):
        views = []
        for secret in range(prime):
            view: Counter[tuple[int, ...]] = Counter()
            for coefficients in itertools.product(range(prime), repeat=t - 1):
                words = np.array(coefficients, dtype="<u4").tobytes()
                shares = shamir.split(
                    np.array([secret]), threshold=t, points=points, prime=prime, randomness=lambda _, words=words: words
                )
                view[tuple(shares[list(seen), 0].tolist())] += 1
            views.append(view)
        assert all(view == views[0] for view in views)


def test_with_the_threshold_the_secret_is_determined() -> None:
    prime, points = 5, [1, 2, 3, 4]
    for pair in itertools.combinations(range(4), 2):
        seen: dict[tuple[int, ...], int] = {}
        for secret, slope in itertools.product(range(prime), repeat=2):
            words = np.array([slope], dtype="<u4").tobytes()
            shares = shamir.split(
                np.array([secret]), threshold=2, points=points, prime=prime, randomness=lambda _, words=words: words
            )
            assert seen.setdefault(tuple(shares[list(pair), 0].tolist()), secret) == secret


def test_coefficients_are_drawn_by_rejection() -> None:
    """2^32 − 1 is the one word that would make 0 likelier than the rest of GF(65537)."""
    draws = iter([np.array([2**32 - 1], dtype="<u4").tobytes(), np.array([5], dtype="<u4").tobytes()])
    shares = shamir.split(np.array([0]), threshold=2, points=[1, 2], randomness=lambda _: next(draws))
    assert shares[:, 0].tolist() == [5, 10]


@pytest.mark.parametrize("points", [[], [0, 1], [1, 1], [1, shamir.PRIME], [-1, 2]])
def test_zero_duplicate_and_foreign_points_are_refused(points: list[int]) -> None:
    with pytest.raises(ConfigurationError):
        shamir.split(np.array([1]), threshold=1, points=points)
    with pytest.raises(InvalidShare):
        shamir.combine(points, np.zeros((len(points), 1), dtype=np.int64))


@pytest.mark.parametrize("threshold", [0, 4, -1])
def test_thresholds_outside_one_to_n_are_refused(threshold: int) -> None:
    with pytest.raises(ConfigurationError):
        shamir.split(np.array([1]), threshold=threshold, points=[1, 2, 3])


def test_a_row_needs_its_point() -> None:
    with pytest.raises(InvalidShare):
        shamir.combine([1, 2], np.zeros((3, 1), dtype=np.int64))


def test_products_that_float64_cannot_hold_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        shamir.split(np.array([1]), threshold=2, points=[1, 2], prime=2**31 - 1)


def test_packed_rows() -> None:
    shares = np.array([[0, 1, 65536], [65536, 65535, 7]], dtype=np.int64)
    packed = shamir.pack(shares)
    assert packed.shape == (2, shamir.packed_size(3))
    assert np.array_equal(shamir.unpack(packed.tobytes(), 3), shares)


def test_values_outside_the_field_are_refused() -> None:
    outside = shamir.pack(np.array([[65537]], dtype=np.int64)).tobytes()
    with pytest.raises(MalformedMessage):
        shamir.unpack(outside, 1)


def test_a_limb_of_two_to_the_sixteen_is_no_secret() -> None:
    with pytest.raises(InvalidShare):
        shamir.from_limbs(np.array([65536]))


def test_products_in_pieces_equal_the_product_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(0).bytes(4 * 6 * 3)
    options = {"threshold": 7, "points": range(1, 12), "randomness": lambda size: words[:size]}
    whole = shamir.split(np.array([1, 2, 3]), **options)
    monkeypatch.setattr(shamir, "_PIECE", 50)
    assert np.array_equal(shamir.split(np.array([1, 2, 3]), **options), whole)
