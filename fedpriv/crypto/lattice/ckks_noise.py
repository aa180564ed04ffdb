"""How far a decrypted CKKS sum can be from the encrypted integers: an analytic bound with a failure probability.

Notation: n the ring degree, R = ℤ[X]/(Xⁿ + 1), q the wire modulus, P the special prime (P = 1 where there is none), Δ
the scale, K the number of ciphertexts added, s the secret key, a(ζ) the value of a polynomial at ζ, one of n/2
primitive 2n-th roots of unity. Slot ζ holds two integers, as the real and the imaginary part of Σ m(ζ)/Δ.

**Where the error comes from** (SEAL 4, ``encryptor.cpp`` and ``util/rlwe.cpp``). Errors e have independent centred
binomial coefficients, u and s independent uniform ternary ones.

- *Under the secret key*: c₁ is uniform, c₀ = −(c₁·s + e) + m mod q. One error, at the wire's level: N = −Σₖ eₖ.
- *Under the public key* (p₀, p₁) = (−(p₁·s + e), p₁) mod qP: cᵢ = pᵢ·u + eᵢ₊₁ is formed *at the key level*, mod qP,
  and divided by P with rounding (``divide_and_round_q_last``); m is added to the first part. With rᵢ the rounding
  errors, each coefficient in [−½, ½], and none where there is no P,

      N = Σₖ (e₁ + e₂·s − e·u)ₖ / P  +  Σₖ r₀ₖ  +  s · Σₖ r₁ₖ.

A sum of K ciphertexts decrypts to Σ m + N.

**The tail of each part**, in units of 1/Δ, for the real and for the imaginary part of every slot. For a fixed
polynomial a, Re and Im of a(ζ)·b(ζ) are linear in the coefficients of b, and the squares of their n weights sum to
n|a(ζ)|²/2 exactly, because Σⱼ ζ²ʲ = 0.

1. *|s(ζ)| and |e(ζ)| for every slot.* These two are drawn once for all K. A polynomial with coefficients of proxy v has
   (Re, Im) of isotropic proxy nv/2, so |·|² ≤ n·v·x for the x of :func:`~fedpriv.crypto.lattice.tails.inflation` in two
   dimensions: union over n/2 slots. The factor makes the error uneven across slots.
2. *Fresh noise.* e₁, e₂ and u are fresh for each ciphertext and independent of s and e: given these, the sum has the
   proxy K·n/2 · (10.5·(1 + |s(ζ)|²) + ⅔·|e(ζ)|²) / P². Under the secret key the proxy is K·n/2 · 10.5, and that is all.
3. *r₁·s.* As in 2 with coefficients of proxy 1/12: K·n/2·|s(ζ)|²/12.
4. *r₀.* K·n/2/12.
5. *Rounding m to integers at encoding.* It depends on the data, so the worst case counts: half of Σⱼ |Re ζʲ|, which is
   cot(π/2n)/2 for every ζ and for the imaginary parts too, for each of the K clients.
6. *Double arithmetic* of the two transforms. The relative error in the 2-norm is at most tη/(1 − tη), t = log₂ n,
   η ≤ 16·2⁻⁵³ (Higham 2002, theorem 24.2, twiddles good to a few ulp), plus a few roundings per coefficient. From the
   2-norm to a single slot costs a factor √n; a slot is a complex number, up to √2 times its larger part.

**What is assumed.** Points 1 and 2 assume nothing. In 3 and 4 the residues cᵢ mod P are taken as uniform. There
c₁ = p₁·u + e₂ with p₁ uniform and independent of s is an RLWE sample under u, and given (c₁, s) everything in 3 can be
computed; for 4 the whole ciphertext is pseudorandom. Exceeding the bound noticeably more often than stated would thus
distinguish RLWE: the failure probability is the stated one plus the advantage against the assumption on which secrecy
rests anyway, once for each encryption in the sum (K for each of its ciphertexts).

**Reference** Cheon, Kim, Kim, Song 2017 (section 3); Kim, Papadimitriou, Polyakov 2022 (RNS-CKKS errors);
Higham 2002 (section 24.1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fedpriv.crypto.lattice.parameters import CKKSParameters, Encryption
from fedpriv.crypto.lattice.tails import ERROR, ROUNDING, TERNARY, deviations, inflation

FAILURE = 2.0**-60
"""For one sum: any of its slots beyond the bound. Over 2^20 rounds that leaves 2^-40."""

_UNIT = 2.0**-53
_BUTTERFLY = 16 * _UNIT
_PER_COEFFICIENT = 4 * _UNIT


class SlotError(NamedTuple):
    """The parts of the bound on |decrypted − encrypted|, in units of the encoded integers."""

    encryption: float
    """Points 1 to 4: the noise of K encryptions."""
    encoding: float
    """Point 5: rounding of the encoded polynomials."""
    arithmetic: float
    """Point 6: double precision; grows with the values."""

    @property
    def total(self) -> float:
        return self.encryption + self.encoding + self.arithmetic


def slot_error(
    parameters: CKKSParameters,
    *,
    additions: int,
    slots: int,
    largest: int,
    scale: float,
    encryption: Encryption,
    failure: float = FAILURE,
) -> SlotError:
    """The bound for every integer of one sum.

    Args:
        parameters: ring and moduli.
        additions: K, the ciphertexts in the sum.
        slots: how many integers the sum has over all its ciphertexts, n in each.
        largest: bounds |sum| in every slot, and the sum over clients of each one's largest |value|.
        scale: Δ.
        encryption: under which key the clients encrypt.
        failure: the probability with which some slot may exceed the bound.
    """
    n = parameters.degree
    noise = _secret(n, additions, slots, failure)
    if encryption == "public":
        noise = _public(n, parameters.primes[1:], additions, slots, failure)
    encoding = additions / math.tan(math.pi / (2 * n)) / 2
    depth = math.log2(n)
    relative = depth * _BUTTERFLY / (1 - depth * _BUTTERFLY) + _PER_COEFFICIENT
    arithmetic = math.sqrt(2 * n) * relative * (2 * largest + 1)
    return SlotError(noise / scale, encoding / scale, arithmetic)


def _secret(n: int, additions: int, slots: int, failure: float) -> float:
    return deviations(slots, failure) * math.sqrt(additions * n / 2 * ERROR)


def _public(n: int, special: tuple[int, ...], additions: int, slots: int, failure: float) -> float:
    """Five events share the failure probability: s, e (point 1), fresh noise (2), r₁·s (3), r₀ (4)."""
    event = failure / 5
    tail = inflation(2, event / (n // 2))
    key, error = n * TERNARY * tail, n * ERROR * tail  # |s(ζ)|² and |e(ζ)|² at most
    spread = deviations(slots, event) * math.sqrt(additions * n / 2)
    fresh = spread * math.sqrt(ERROR * (1 + key) + TERNARY * error)
    if not special:
        return fresh
    return fresh / special[0] + spread * math.sqrt(ROUNDING) * (math.sqrt(key) + 1)
