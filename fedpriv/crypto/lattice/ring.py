"""The ring ℤ_q[X]/(Xⁿ + 1) in Python integers, and CKKS's slots: how attacks and papers look inside ciphertexts.

Exact rather than fast; no secrets, no TenSEAL. Evaluations are at ψ, ψ³, ψ⁵, …, ψ^(2n − 1), in this order, where ψ is
the smallest primitive 2n-th root of unity mod q; index n − 1 − t belongs to the inverse of point t.

**Reference** Longa and Naehrig 2016 (negacyclic number-theoretic transform); Cheon, Kim, Kim, Song 2017 (section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.errors import ConfigurationError

Polynomial: TypeAlias = npt.NDArray[Any]
"""``[n] object``: Python integers, coefficients of 1, X, X², … or evaluations."""
Slots: TypeAlias = npt.NDArray[np.complex128]
"""``[n/2] complex128``."""

SLOT_GENERATOR = 3
"""Slot j is the value at ζ to the power 3ʲ (SEAL, ``ckks.cpp``)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RawCiphertext:
    """A CKKS ciphertext of two polynomials as anybody who holds it can read it, modulo one prime of its modulus.

    One prime suffices to find a key with small coefficients; ``parts[0] + parts[1] · s`` is the message with its noise.

    Args:
        parts: ``[2, n]``, coefficients of c₀ and c₁ modulo ``modulus``.
        modulus: a prime, 1 mod 2n.
        scale: Δ, what encoded values are multiplied with.

    Raises:
        ConfigurationError: two polynomials of different lengths, or a modulus without a transform of that length.
    """

    parts: Polynomial
    modulus: int
    scale: float

    def __post_init__(self) -> None:
        parts = np.asarray(self.parts).astype(object) % self.modulus
        if (
            parts.ndim != 2
            or len(parts) != 2
            or self.degree & (self.degree - 1)
            or self.modulus % (2 * self.degree) != 1
        ):
            raise ConfigurationError(
                "A ciphertext is two polynomials of degree n, a power of two, modulo a prime that is 1 mod 2n.",
                value=(parts.shape, self.modulus),
                remedy="Relinearise ciphertexts of three polynomials; give coefficients modulo one prime.",
            )
        object.__setattr__(self, "parts", parts)

    @property
    def degree(self) -> int:
        """The ring degree n."""
        return int(np.shape(self.parts)[-1])


def evaluate(coefficients: Polynomial, modulus: int) -> Polynomial:
    """The values of ``[..., n]`` polynomials at the odd powers of ψ."""
    n = coefficients.shape[-1]
    return _cyclic(coefficients * _powers(_root(n, modulus), n, modulus) % modulus, modulus)


def interpolate(values: Polynomial, modulus: int) -> Polynomial:
    """The coefficients of the polynomials with these values: the inverse of :func:`evaluate`."""
    n = values.shape[-1]
    reversed_order = np.roll(_cyclic(values, modulus)[..., ::-1], 1, axis=-1)  # ωᵏ becomes ω⁻ᵏ
    unroot = _powers(pow(_root(n, modulus), -1, modulus), n, modulus)
    result: Polynomial = reversed_order * unroot % modulus * pow(n, -1, modulus) % modulus
    return result


def from_seal(values: Polynomial, modulus: int) -> Polynomial:
    """The coefficients of polynomials in SEAL's transformed form: the same points, indices with their bits reversed."""
    return interpolate(values[..., _reversed_bits(values.shape[-1])], modulus)


def centred(residues: Polynomial, modulus: int) -> Polynomial:
    """The representatives in (−q/2, q/2]."""
    result: Polynomial = residues - modulus * (residues > modulus // 2)
    return result


def encode(slots: npt.NDArray[np.number[Any]], scale: float) -> Polynomial:
    """The integer polynomial nearest to the one whose slots are ``scale`` times these.

    In the platform's longest floating-point numbers (80 bits on x86), so that nothing is lost beyond the slots' own
    rounding.
    """
    n = 2 * len(slots)
    points = np.empty(n, dtype=np.clongdouble)
    order = _slot_order(n)
    points[order], points[n - 1 - order] = slots, slots.conj()
    coefficients = (np.fft.fft(points) * _complex_powers(n).conj()).real * (np.longdouble(scale) / n)
    return np.array([int(value) for value in np.rint(coefficients)], dtype=object)


def decode(coefficients: Polynomial, scale: float) -> Slots:
    """The slots of an integer polynomial, divided by ``scale``."""
    n = len(coefficients)
    values = n * np.fft.ifft(coefficients.astype(np.longdouble) * _complex_powers(n))
    return (values[_slot_order(n)] / scale).astype(np.complex128)


def _cyclic(values: Polynomial, modulus: int) -> Polynomial:
    """The cyclic transform by ω = ψ², decimation in time: Cooley and Tukey 1965."""
    n = values.shape[-1]
    result = values[..., _reversed_bits(n)]
    twiddles = _powers(pow(_root(n, modulus), 2, modulus), n, modulus)
    half = 1
    while half < n:
        blocks = result.reshape(*result.shape[:-1], n // (2 * half), 2, half)
        low, high = blocks[..., 0, :], blocks[..., 1, :] * twiddles[:: n // (2 * half)][:half] % modulus
        result = np.stack([(low + high) % modulus, (low - high) % modulus], axis=-2).reshape(values.shape)
        half *= 2
    return result


@cache
def _root(n: int, modulus: int) -> int:
    """The smallest primitive 2n-th root of unity."""
    for base in range(2, modulus):
        root = pow(base, (modulus - 1) // (2 * n), modulus)
        if pow(root, n, modulus) == modulus - 1:
            return int(min(_powers(root, 2 * n, modulus)[1::2]))
    raise ConfigurationError("The modulus is a prime.", value=modulus, remedy="Give one prime of the modulus.")


@cache
def _powers(base: int, count: int, modulus: int) -> Polynomial:
    powers = [1]
    for _ in range(count - 1):
        powers.append(powers[-1] * base % modulus)
    return np.array(powers, dtype=object)


@cache
def _complex_powers(n: int) -> npt.NDArray[np.clongdouble]:
    """ζ⁰, ζ¹, …, with ζ = exp(iπ/n)."""
    angles = np.arange(n, dtype=np.longdouble) * (4 * np.arctan(np.longdouble(1)) / n)
    powers: npt.NDArray[np.clongdouble] = np.cos(angles) + 1j * np.sin(angles)
    return powers


@cache
def _slot_order(n: int) -> npt.NDArray[np.int64]:
    """Slot j → the t with 3ʲ = 2t + 1 mod 2n."""
    return np.array([pow(SLOT_GENERATOR, j, 2 * n) // 2 for j in range(n // 2)], dtype=np.int64)


@cache
def _reversed_bits(n: int) -> npt.NDArray[np.int64]:
    bits = n.bit_length() - 1
    return np.array([int(f"{t:0{bits}b}"[::-1], 2) for t in range(n)], dtype=np.int64)
