"""When a BFV sum decrypts exactly: an analytic bound on its noise with a failure probability.

Notation as in :mod:`~fedpriv.crypto.lattice.ckks_noise`; t is the plaintext modulus. There slots matter, here
coefficients: c₀ + c₁·s = (q/t)·m + v mod q for the sum m mod t, and SEAL returns the coefficients of m rounded from
t/q·(c₀ + c₁·s). So a decryption is exact iff every coefficient of the invariant noise t·v/q is below ½, up to
2⁻⁶⁰ that its residue arithmetic takes (``rns.cpp``, ``decrypt_scale_and_round``: one extra prime of 61 bits).

**Where the noise comes from** (SEAL 4, ``encryptor.cpp``, ``util/rlwe.cpp``, ``util/scalingvariant.cpp``).

1. *Scaling the plaintext.* SEAL adds not ⌊q/t⌋·m but ⌊q·m/t⌉, the coefficients of m in [0, t), to c₀
   (``multiply_add_plain_with_scaling_variant``). So no term with q mod t grows with the message: a plaintext leaves an
   error in [−½, ½] per coefficient and client, which depends on the data; its worst case counts, K/2. Where Σ m passes
   t, q·t/t vanishes mod q: wrapping mod t adds no noise, and shows none.
2. *Encryption.* As for CKKS: N = −Σₖ eₖ under the secret key, and under the public key

       N = Σₖ (e₁ + e₂·s − e·u)ₖ / P  +  Σₖ r₀ₖ  +  s · Σₖ r₁ₖ,   the rᵢ only where there is a special prime P.

**The tail of each part**, for every coefficient. A coefficient of a·b is linear in those of b, with weights ± those of
a: the squares of the weights sum to ‖a‖².

3. *‖s‖² ≤ n* always. *‖e‖²* of the public key, drawn once for all K: 10.5·n·x for the x of
   :func:`~fedpriv.crypto.lattice.tails.inflation` in n dimensions.
4. *Fresh noise*, given s and e: proxy K·(10.5·(1 + ‖s‖²) + ⅔·‖e‖²)/P²; under the secret key K·10.5, and that is all.
5. *r₁·s*: K·‖s‖²/12. 6. *r₀*: K/12.

Union bounds run over the n coefficients of each of the sum's ciphertexts. 5 and 6 take residues mod P as uniform, with
the argument given for CKKS: with a special prime, the failure probability is the stated one plus the advantage against
RLWE, once for each encryption in the sum.

**Reference** Fan and Vercauteren 2012; Kim, Polyakov, Zucca 2021 (q·m/t rounded); Bajard et al. 2016 (residue
arithmetic); Costache, Laine, Player 2020 (invariant noise; heuristic there, sub-Gaussian here).
"""

from __future__ import annotations

import math

from fedpriv.crypto.lattice.parameters import BFVParameters, Encryption
from fedpriv.crypto.lattice.tails import ERROR, ROUNDING, TERNARY, deviations, inflation

FAILURE = 2.0**-128
"""For one sum: any coefficient of its noise beyond the bound."""

ROOM = 0.25
"""Plans keep the invariant noise below it. ½ would decrypt, but SEAL measures whole bits of budget: from ¼ on there may
be none, and none is what a foreign key leaves as well. The price is one bit of q."""


def noise_bound(
    parameters: BFVParameters,
    *,
    additions: int,
    ciphertexts: int,
    encryption: Encryption,
    failure: float = FAILURE,
) -> float:
    """The bound on |t·v/q| in every coefficient of one sum; below ½ the sum is exact.

    Args:
        parameters: ring, moduli and plaintext modulus.
        additions: K, the ciphertexts in the sum.
        ciphertexts: how many ciphertexts carry the sum, one for n integers.
        encryption: under which key the clients encrypt.
        failure: the probability with which some coefficient may exceed the bound.
    """
    n = parameters.degree
    if encryption == "secret":
        noise = deviations(n * ciphertexts, failure) * math.sqrt(additions * ERROR)
    else:
        noise = _public(n, parameters.primes[1:], additions, n * ciphertexts, failure)
    return parameters.plain_modulus / parameters.primes[0] * (noise + additions / 2)


def most_additions(
    parameters: BFVParameters, *, ciphertexts: int, encryption: Encryption, failure: float = FAILURE
) -> int:
    """The largest K whose noise stays below :data:`ROOM`: 0 if not even one encryption does."""

    def fits(additions: int) -> bool:
        bound = noise_bound(
            parameters, additions=additions, ciphertexts=ciphertexts, encryption=encryption, failure=failure
        )
        return bound < ROOM

    if not fits(1):
        return 0
    low = 1
    while fits(2 * low):  # the bound grows at least like √K
        low *= 2
    high = 2 * low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def budget(bound: float) -> int:
    """The noise budget that SEAL measures at least, in bits, where the invariant noise is within a bound.

    SEAL's is bits(q) − bits(|t·v|) − 1, and |t·v| < bound·2^bits(q) is an integer.
    """
    mantissa, exponent = math.frexp(bound)  # exact at powers of two, where a logarithm is not
    return max(0, (mantissa == 0.5) - exponent - 1)


def _public(n: int, special: tuple[int, ...], additions: int, coefficients: int, failure: float) -> float:
    """Four events share the failure probability: ‖e‖ (point 3), fresh noise (4), r₁·s (5), r₀ (6)."""
    event = failure / 4
    error = n * ERROR * inflation(n, event)
    spread = deviations(coefficients, event) * math.sqrt(additions)
    fresh = spread * math.sqrt(ERROR * (1 + n) + TERNARY * error)
    if not special:
        return fresh
    return fresh / special[0] + spread * math.sqrt(ROUNDING) * (math.sqrt(n) + 1)
