"""How far a decrypted CKKS sum can be from the encrypted integers: an analytic bound with a failure probability.

Notation: n the ring degree, R = ℤ[X]/(Xⁿ + 1), q the wire modulus, P the special prime (the last modulus), Δ the scale,
K the number of ciphertexts added, s the secret key. Slot ζ of a polynomial is its value at ζ, a primitive 2n-th root of
unity; TenSEAL returns the real part of each slot divided by Δ.

**Where the error comes from** (SEAL 4, ``encryptor.cpp`` and ``util/rlwe.cpp``). The public key is
(p₀, p₁) = (−p₁·s − e, p₁) mod qP. Encryption of an encoded polynomial m draws u with uniform ternary coefficients and
e₁, e₂ from a centred binomial distribution with |eᵢ| ≤ 21, forms cᵢ = pᵢ·u + eᵢ₊₁ *at the key level*, mod qP, divides
by P and rounds (``divide_and_round_q_last``), and adds m to the first part. With rᵢ the rounding errors, each
coefficient in [−½, ½], a sum of K ciphertexts decrypts to Σ m + N with

    N = Σₖ (e₁ + e₂·s − e·u)ₖ / P  +  Σₖ r₀ₖ  +  s · Σₖ r₁ₖ.

**The tail of each part**, in units of 1/Δ and for the real part of every slot:

1. *Division of the fresh noise.* Each coefficient is at most 21(2n + 1)/P, so a slot is at most n times that, always.
2. *r₁·s.* Re(s(ζ)·Σ r₁(ζ)) is linear in the n·K coefficients of r₁. Uniform on [−½, ½] is sub-Gaussian with variance
   proxy 1/12, and Σⱼ Re(ζʲ·s(ζ))² = n|s(ζ)|²/2 exactly, so its proxy is V = K·n·|s(ζ)|²/24 and
   Pr[|·| > t] ≤ 2·exp(−t²/2V). The factor s(ζ) makes the error uneven across slots, hence the next point.
3. *|s(ζ)| for every slot.* Ternary coefficients are sub-Gaussian with proxy 2/3, so (Re s(ζ), Im s(ζ)) has the
   isotropic proxy n/3, and by the Gaussian trick E exp(λ|s(ζ)|²) ≤ 1/(1 − 2λn/3). Markov at the best λ gives
   Pr[|s(ζ)|² > 2nx/3] ≤ x·exp(1 − x).
4. *r₀.* As in 2 without the factor s: V = K·n/24.
5. *Rounding m to integers at encoding.* It depends on the data, so the worst case counts: half of Σⱼ |Re ζʲ|, which is
   cot(π/2n)/2 for every ζ, for each of the K clients.
6. *Double arithmetic* of the two transforms. The relative error in the 2-norm is at most tη/(1 − tη), t = log₂ n,
   η ≤ 16·2⁻⁵³ (Higham 2002, theorem 24.2, twiddles good to a few ulp), plus a few roundings per coefficient. From the
   2-norm to a single slot costs a factor √n.

**What is assumed.** In 2 and 4 the residues cᵢ mod P are taken as uniform. c₁ = p₁·u + e₂ with p₁ uniform and
independent of s is an RLWE sample under u, and given (c₁, s) everything in 2 can be computed; for 4 the whole
ciphertext is pseudorandom. Exceeding the bound noticeably more often than stated would thus distinguish RLWE: the
failure probability is the stated one plus K times the advantage against the assumption on which secrecy rests anyway.

**Reference** Cheon, Kim, Kim, Song 2017 (section 3); Kim, Papadimitriou, Polyakov 2022 (RNS-CKKS errors);
Higham 2002 (section 24.1).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fedpriv.crypto.lattice.legacy import CKKSParameters

FAILURE = 2.0**-60
"""For one sum: any of its slots beyond the bound. Over 2^20 rounds that leaves 2^-40."""

_FRESH = 21
"""SEAL's centred binomial noise: the difference of two sums of 21 bits."""
_UNIT = 2.0**-53
_BUTTERFLY = 16 * _UNIT
_PER_COEFFICIENT = 4 * _UNIT


class SlotError(NamedTuple):
    """The parts of the bound on |decrypted − encrypted|, in units of the encoded integers."""

    encryption: float
    """Points 1 to 4: the noise of K public-key encryptions."""
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
    failure: float = FAILURE,
) -> SlotError:
    """The bound for one sum.

    Args:
        parameters: ring and moduli.
        additions: K, the ciphertexts in the sum.
        slots: how many slots the sum has over all its ciphertexts.
        largest: bounds |sum| in every slot, and the sum over clients of each one's largest |value|.
        scale: Δ.
        failure: the probability with which some slot may exceed the bound.
    """
    n = parameters.degree
    special = 2.0 ** (parameters.moduli[-1] - 1)  # the least a prime of that many bits can be
    fresh = additions * n * _FRESH * (2 * n + 1) / special
    # the failure probability in three equal parts: the key (3), r₁·s (2) and r₀ (4), each by a union bound over slots
    key = math.sqrt(2 * n / 3 * _chi_square_tail(failure / 3 / (n // 2)))
    spread = math.sqrt(2 * math.log(6 * slots / failure) * additions * n / 24)
    encryption = fresh + spread * key + spread
    encoding = additions / math.tan(math.pi / (2 * n)) / 2
    depth = math.log2(n)
    relative = depth * _BUTTERFLY / (1 - depth * _BUTTERFLY) + _PER_COEFFICIENT
    arithmetic = math.sqrt(n) * relative * (2 * largest + 1)
    return SlotError(encryption / scale, encoding / scale, arithmetic)


def _chi_square_tail(probability: float) -> float:
    """The x > 1 with x·e^(1−x) = probability."""
    target = 1 - math.log(probability)
    x = target
    for _ in range(60):  # x = target + ln x contracts for x > 1
        x = target + math.log(x)
    return x
