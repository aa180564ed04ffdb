"""The ring that attacks and papers compute in: against the definitions, and against what SEAL does."""

from __future__ import annotations

import numpy as np
import pytest

from fedpriv.crypto.lattice import ring
from fedpriv.errors import ConfigurationError

Q, N = 12289, 16  # 12288 = 2^12 · 3
RNG = np.random.default_rng(4)


def polynomial(n: int = N, q: int = Q) -> ring.Polynomial:
    return RNG.integers(0, q, n).astype(object)


def test_evaluation_is_evaluation_at_the_odd_powers_of_the_smallest_root() -> None:
    roots = [x for x in range(Q) if pow(x, N, Q) == Q - 1]  # primitive 2N-th
    points = [pow(min(roots), 2 * t + 1, Q) for t in range(N)]
    f = polynomial()
    assert ring.evaluate(f, Q).tolist() == [sum(int(c) * pow(x, k, Q) for k, c in enumerate(f)) % Q for x in points]
    assert all(points[t] * points[N - 1 - t] % Q == 1 for t in range(N))


def test_interpolation_inverts_and_products_wrap_with_a_minus() -> None:
    f, g = polynomial(), polynomial()
    assert ring.interpolate(ring.evaluate(np.stack([f, g]), Q), Q).tolist() == [f.tolist(), g.tolist()]
    product = np.zeros(2 * N, dtype=object)
    for i, left in enumerate(f):
        product[i : i + N] += left * g
    wrapped = (product[:N] - product[N:]) % Q
    assert ring.interpolate(ring.evaluate(f, Q) * ring.evaluate(g, Q) % Q, Q).tolist() == wrapped.tolist()


def test_slots_are_the_values_at_powers_of_three() -> None:
    f = RNG.integers(-1000, 1000, N).astype(object)
    points = [np.exp(1j * np.pi / N * 3**j) for j in range(N // 2)]
    values = [sum(int(c) * x**k for k, c in enumerate(f)) / 8 for x in points]
    assert ring.decode(f, 8) == pytest.approx(np.array(values))
    assert ring.encode(ring.decode(f, 8), 8).tolist() == f.tolist()


def test_centred_residues() -> None:
    assert ring.centred(np.array([0, 1, 6, 7, 12], dtype=object), 13).tolist() == [0, 1, 6, -6, -1]


@pytest.mark.parametrize(
    ("parts", "modulus"), [(np.zeros((3, 16)), Q), (np.zeros((2, 12)), Q), (np.zeros(16), Q), (np.zeros((2, 16)), 101)]
)
def test_a_raw_ciphertext_has_two_polynomials_and_a_modulus_that_suits_them(
    parts: ring.Polynomial, modulus: int
) -> None:
    with pytest.raises(ConfigurationError, match="two polynomials"):
        ring.RawCiphertext(parts=parts, modulus=modulus, scale=1.0)


def test_a_composite_modulus_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="prime"):
        ring.evaluate(polynomial(4), 5 * 13)
