"""Rings and moduli for additions only, checked against the security table of the standard. No key, no TenSEAL.

A ciphertext is a pair of polynomials of degree n with coefficients mod q, the modulus on the wire. A second, special
modulus P makes the noise of public-key encryption small: SEAL encrypts mod qP and divides by P (``encryptor.cpp``).
Both count for security; only q counts for bytes. The primes are those that SEAL takes: found here as well, so that
bounds use the exact numbers and a plan needs no TenSEAL.

**Reference** Albrecht et al. 2018 (HomomorphicEncryption.org standard, table 1); SEAL 4, ``modulus.cpp``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

from fedpriv.errors import ConfigurationError

SECURITY_BITS = 128
"""Classical security of every accepted ring."""

MAX_MODULUS_BITS = {2048: 54, 4096: 109, 8192: 218, 16384: 438}
"""Ring degree → the largest log₂(qP) at 128-bit classical security with a ternary secret (Albrecht et al. 2018)."""

MODULUS_BITS = range(20, 61)
"""Bits of one prime: SEAL's words end at 60, and from 20 on every degree has two primes = 1 mod 2n of each size."""

Encryption: TypeAlias = Literal["public", "secret"]
"""Under the public key, or under the secret key (seeded: half the size and less noise)."""


@dataclass(frozen=True, kw_only=True)
class CKKSParameters:
    """The ring of a CKKS key. n integers per ciphertext: a real and an imaginary part in each of n/2 complex slots.

    Args:
        degree: n, the ring degree.
        moduli: bits of q, and of the special prime P if there is one.

    Raises:
        ConfigurationError: not one or two moduli of 20 to 60 bits, or more bits than 128-bit security allows.
    """

    degree: int = 4096
    moduli: tuple[int, ...] = (60, 49)

    def __post_init__(self) -> None:
        _check_ring(self.degree, self.moduli)

    @property
    def slots(self) -> int:
        """Integers in one ciphertext: n."""
        return self.degree

    @property
    def wire_bits(self) -> int:
        """Bits of q."""
        return self.moduli[0]

    @property
    def primes(self) -> tuple[int, ...]:
        """q, and P if there is one."""
        return _primes(self.degree, self.moduli)

    def scale_for(self, largest: int) -> float:
        """The largest power of two Δ at which sums within ±largest cannot wrap: (√2·largest + 1)·Δ ≤ q/2.

        √2: a coefficient of an encoded polynomial is at most Δ·√2 times the largest |value|, which real parts that
        alternate in sign beside constant imaginary parts attain. + 1: room for noise below a unit. One upload carries
        at most half of ``largest``. Δ may be below 1: nothing is exact then, as the noise bound shows.
        """
        half, needed = self.primes[0] // 2, math.isqrt(2 * largest * largest) + 2
        exponent = (half // needed).bit_length() - 1 if half >= needed else -((needed - 1) // half).bit_length()
        return 2.0**exponent

    def digest(self) -> bytes:
        """A hash of the parameters, 32 bytes."""
        return hashlib.sha256(f"CKKS/{self.degree}/{self.moduli}".encode()).digest()


@dataclass(frozen=True, kw_only=True)
class BFVParameters:
    """The ring of a BFV key: n integers mod t per ciphertext, exact.

    Args:
        degree: n, the ring degree.
        moduli: bits of q, and of the special prime P if there is one.
        plain_bits: bits of t; sums lie within ±(t − 1)/2.

    Raises:
        ConfigurationError: as for :class:`CKKSParameters`, or t not a prime of its own below q.
    """

    degree: int
    moduli: tuple[int, ...]
    plain_bits: int

    def __post_init__(self) -> None:
        _check_ring(self.degree, self.moduli)
        if self.plain_bits not in range(2, self.wire_bits) or self.plain_bits in self.moduli:
            raise ConfigurationError(
                "The plaintext modulus has fewer bits than q and not as many as another modulus.",
                value=f"{self.plain_bits} bits beside moduli of {self.moduli} bits",
                remedy="Use fewer plain_bits.",
            )
        if not _ntt_primes(self.degree, self.plain_bits, 1):
            raise ConfigurationError(
                "Batching needs a prime t = 1 mod 2·degree.",
                value=f"{self.plain_bits} bits at degree {self.degree}",
                remedy="Use more plain_bits, at least 20 serve every degree.",
            )

    @property
    def slots(self) -> int:
        """Integers in one ciphertext: n."""
        return self.degree

    @property
    def wire_bits(self) -> int:
        """Bits of q."""
        return self.moduli[0]

    @property
    def primes(self) -> tuple[int, ...]:
        """q, and P if there is one."""
        return _primes(self.degree, self.moduli)

    @property
    def plain_modulus(self) -> int:
        """t: the largest prime of ``plain_bits`` bits with t = 1 mod 2n."""
        return _ntt_primes(self.degree, self.plain_bits, 1)[0]

    @property
    def largest(self) -> int:
        """The largest |sum| that does not wrap: (t − 1)/2."""
        return (self.plain_modulus - 1) // 2

    def digest(self) -> bytes:
        """A hash of the parameters, 32 bytes."""
        return hashlib.sha256(f"BFV/{self.degree}/{self.moduli}/{self.plain_bits}".encode()).digest()


Parameters: TypeAlias = CKKSParameters | BFVParameters


def _check_ring(degree: int, moduli: tuple[int, ...]) -> None:
    limit = MAX_MODULUS_BITS.get(degree)
    if limit is None:
        raise ConfigurationError(
            "The ring degree is a power of two in the security table.",
            value=degree,
            remedy=f"Use one of {sorted(MAX_MODULUS_BITS)}.",
        )
    if not isinstance(moduli, tuple) or len(moduli) not in (1, 2) or not all(bits in MODULUS_BITS for bits in moduli):
        raise ConfigurationError(
            "Additions need one modulus of 20 to 60 bits, or two: the wire's and the special prime.",
            value=moduli,
            remedy="Use (60, 49) at degree 4096 or (54,) at degree 2048.",
        )
    if sum(moduli) > limit:
        raise ConfigurationError(
            f"At degree {degree} the moduli have at most {limit} bits in all for {SECURITY_BITS}-bit security.",
            value=sum(moduli),
            remedy="Use smaller moduli or a larger degree.",
        )


def _primes(degree: int, moduli: tuple[int, ...]) -> tuple[int, ...]:
    """What ``CoeffModulus::Create`` takes: the largest primes of each size, the smaller first where sizes repeat."""
    left = {bits: list(_ntt_primes(degree, bits, moduli.count(bits))) for bits in moduli}
    return tuple(left[bits].pop() for bits in moduli)


@cache
def _ntt_primes(degree: int, bits: int, count: int) -> tuple[int, ...]:
    """The ``count`` largest primes of ``bits`` bits that are 1 mod 2n, or as many as there are; the largest first."""
    found: list[int] = []
    step = 2 * degree
    candidate = (2**bits - 1) // step * step + 1
    while len(found) < count and candidate > 2 ** (bits - 1):
        if _is_prime(candidate):
            found.append(candidate)
        candidate -= step
    return tuple(found)


def _is_prime(number: int) -> bool:
    """Miller and Rabin's test; exact below 2^64 with these bases (Sorenson and Webster 2017)."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if any(number % base == 0 for base in bases):
        return number in bases
    twos = ((number - 1) & -(number - 1)).bit_length() - 1
    for base in bases:
        power = pow(base, (number - 1) >> twos, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True
