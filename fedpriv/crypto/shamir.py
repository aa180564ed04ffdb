"""Shamir's secret sharing of many secrets at once, by exact matrix products.

A secret is cut into 16-bit limbs; each limb is the constant term of its own random polynomial of degree t − 1 over
GF(p), p = 65537. Shares of all limbs at all points are one product of a Vandermonde matrix and the coefficients; t · p²
stays below 2^53, so that float64 computes it exactly and fast.

Reference: Shamir 1979, "How to share a secret".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.crypto import wire
from fedpriv.errors import ConfigurationError, InvalidShare, MalformedMessage
from fedpriv.randomness import secret_bytes

PRIME = 65537
LIMB_BITS = 16
SHARE_BITS = 17
"""Bits of one limb's share: shares reach p − 1 = 2^16."""
_PIECE = 1 << 18
"""Multiplications in one product of matrices."""

Field: TypeAlias = npt.NDArray[np.int64]
"""Elements of GF(p), each in [0, p)."""


def split(
    secrets: Field,
    *,
    threshold: int,
    points: Sequence[int],
    prime: int = PRIME,
    randomness: Callable[[int], bytes] = secret_bytes,
) -> Field:
    """``[m]`` secrets → ``[n, m]`` shares, row i for ``points[i]``.

    Guarantees: any ``threshold`` rows determine the secrets; fewer are independent of them (information-theoretically).
    Assumes: ``randomness`` returns uniform, independent, secret bytes.
    Does not hide: the number of limbs. Nothing is verifiable: a wrong share gives a wrong secret.

    Raises:
        ConfigurationError: a threshold outside 1 … n, or points that are not distinct and in [1, p).
    """
    _check_points(points, prime, ConfigurationError)
    if not 1 <= threshold <= len(points):
        raise ConfigurationError(
            "A threshold is at least 1 and at most the number of shares.",
            value=(threshold, len(points)),
            remedy="Lower the threshold or add holders.",
        )
    polynomials = np.empty((threshold, len(secrets)), dtype=np.int64)
    polynomials[0] = np.asarray(secrets, dtype=np.int64) % prime
    polynomials[1:] = _uniform((threshold - 1) * len(secrets), prime, randomness).reshape(threshold - 1, len(secrets))
    return _product(_vandermonde(tuple(points), threshold, prime), polynomials, prime)


def combine(points: Sequence[int], shares: Field, *, prime: int = PRIME) -> Field:
    """``[t, m]`` shares, row i from ``points[i]``, → ``[m]`` secrets. Exactly the threshold's number of rows is enough.

    Raises:
        InvalidShare: points that are not distinct and in [1, p), or not one for each row.
    """
    if len(points) != len(shares):
        raise InvalidShare(
            "Each row of shares has its point.", value=(len(points), len(shares)), remedy="Start a new attempt."
        )
    _check_exact(len(points), prime)
    secrets: Field = np.einsum("i,ij->j", lagrange(tuple(points), prime), np.asarray(shares, dtype=np.int64)) % prime
    return secrets


@lru_cache(maxsize=32)
def lagrange(points: tuple[int, ...], prime: int = PRIME) -> Field:
    """``[t]`` weights λ with f(0) = Σ λᵢ f(xᵢ) mod p for every polynomial f of degree below t; cached.

    Raises:
        InvalidShare: points that are not distinct and in [1, p).
    """
    _check_points(points, prime, InvalidShare)
    x = np.array(points, dtype=np.int64)
    above, below = np.ones_like(x), np.ones_like(x)
    for j, point in enumerate(points):
        others = np.arange(len(x)) != j
        above[others] = above[others] * point % prime
        below[others] = below[others] * ((point - x[others]) % prime) % prime
    inverse = np.array([pow(int(value), -1, prime) for value in below], dtype=np.int64)
    weights: Field = above * inverse % prime
    weights.flags.writeable = False
    return weights


def limbs(secret: bytes) -> Field:
    """Bytes → 16-bit limbs, little-endian: ``[len / 2]``."""
    return np.frombuffer(secret, dtype="<u2").astype(np.int64)


def from_limbs(values: Field) -> bytes:
    """16-bit limbs → bytes.

    Raises:
        InvalidShare: a limb of 2^16, which no secret has: the shares do not belong together.
    """
    if np.any(values >= 1 << LIMB_BITS):
        raise InvalidShare("Shares reconstruct 16-bit limbs.", remedy="A share was changed; start a new attempt.")
    return values.astype("<u2").tobytes()


def pack(shares: Field) -> npt.NDArray[np.uint8]:
    """``[n, m]`` shares → ``[n, packed_size(m)] uint8``, 17 bits a limb, each row by itself."""
    return wire.pack_rows(shares.astype("<u4"), SHARE_BITS)


def packed_size(count: int) -> int:
    """Bytes of one packed row of ``count`` limbs' shares."""
    return wire.packed_size(count, SHARE_BITS)


def unpack(data: bytes | memoryview, count: int) -> Field:
    """The inverse of :func:`pack` for rows of ``count`` limbs: ``[n, count]``.

    Raises:
        MalformedMessage: not whole rows, padding that is not zero, or a value outside GF(p).
    """
    values = wire.unpack_rows(data, count, SHARE_BITS).astype(np.int64)
    if np.any(values >= PRIME):
        raise MalformedMessage("A share is an element of GF(65537).", remedy="Drop the sender or the attempt.")
    return values


def _product(left: npt.NDArray[np.float64], right: Field, prime: int) -> Field:
    """Left times right, mod p. Every partial sum is an integer below 2^53, so float64 is exact in any order.

    Piece by piece: a larger product would wake the BLAS's other threads, which then spin for milliseconds on cores that
    other clients could use.
    """
    _check_exact(left.shape[1], prime)
    product = np.empty((len(left), right.shape[1]), dtype=np.int64)
    factor = right.astype(np.float64)
    step = max(1, _PIECE // max(1, factor.size))
    for start in range(0, len(left), step):
        np.fmod(left[start : start + step] @ factor, prime, out=product[start : start + step], casting="unsafe")
    return product


def _check_exact(terms: int, prime: int) -> None:
    """Raises ConfigurationError where a sum of so many products can reach 2^53."""
    if terms * (prime - 1) ** 2 >= 2**53:
        raise ConfigurationError(
            "Exact shares need t · (p − 1)² below 2^53.", value=(terms, prime), remedy="Use a smaller prime."
        )


@lru_cache(maxsize=4)
def _vandermonde(points: tuple[int, ...], threshold: int, prime: int) -> npt.NDArray[np.float64]:
    x = np.array(points, dtype=np.int64)
    powers = np.ones((len(x), threshold), dtype=np.int64)
    for j in range(1, threshold):
        powers[:, j] = powers[:, j - 1] * x % prime
    matrix = powers.astype(np.float64)
    matrix.flags.writeable = False
    return matrix


def _uniform(count: int, prime: int, randomness: Callable[[int], bytes]) -> Field:
    """``[count]`` uniform elements of GF(p), by rejection from 32-bit words."""
    limit = 2**32 // prime * prime
    values = np.empty(count, dtype=np.int64)
    filled = 0
    while filled < count:
        words = np.frombuffer(randomness(4 * (count - filled)), dtype="<u4").astype(np.int64)
        kept = words[words < limit] % prime
        values[filled : filled + len(kept)] = kept
        filled += len(kept)
    return values


def _check_points(points: Sequence[int], prime: int, error: type[ConfigurationError] | type[InvalidShare]) -> None:
    if not points or len(set(points)) != len(points) or min(points) < 1 or max(points) >= prime:
        raise error(
            f"Points of shares are distinct and in [1, {prime}); the secret sits at 0.",
            value=f"{len(points)} points",
            remedy="Number the holders 1, 2, 3, …; use each share once.",
        )
