"""Key recovery from CKKS decryptions (Li and Micciancio 2021): a passive observer, linear algebra, a tenth of a second.

**Who attacks.** An observer whose view holds ciphertexts and the values released of them (:func:`can_try`): a server
that adds ciphertexts and is told the mean or the next model, an authority's log. It follows every protocol. It never
has the secret key, or a single client's vector.

**Why it works.** A decryption is c₀ + c₁·s mod q, the message *with* its noise. A float64 release of the slots gives
that polynomial back exactly, because decoding and encoding again lose less than half a unit of a coefficient. With
c₀ and c₁ known, s is the solution of linear equations:

- released complex slots determine all n coefficients: s = (m − c₀)/c₁ at every point where c₁ is not zero;
- released real parts (all that TenSEAL returns) determine m(X) + m(1/X) only: at a point and its inverse there is one
  equation for the two values of s. A second release under the same key is the other equation.

An aggregate of more than one ciphertext is more than one release: one round is enough.

**When it fails, and what that says.** A single wrong coefficient of m makes the solution uniformly random, which the
attacker sees: the key is ternary. So it fails where the release lost half a unit anywhere: coarse rounding, added
noise, float32 at large scales. **That is no proof of security**: the release is then an RLWE sample with *less* noise
than the scheme was built on, and this is only the simplest attack of its kind. Where few coefficients are wrong, those
of several releases that are surely right are enough equations for Gaussian elimination (not built here).

fedpriv's release is safe for another reason. It is the exact integer sum, a function of the clients' integers and of
nothing else: who sees it learns no more about key and noise than the sum itself tells, except by a failing decryption,
whose probability is bounded and which spends the key. That argument takes honest encryptions and additions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.crypto.lattice import ring
from fedpriv.crypto.lattice.ring import Polynomial, RawCiphertext, Slots
from fedpriv.errors import ConfigurationError, NonFiniteInput
from fedpriv.threat import View

if TYPE_CHECKING:
    from fedpriv.crypto.lattice.ckks import CKKSCode

VALUES = frozenset({View.EXACT_SUM, View.ROUND_MODELS})
"""Views that tell released values: the sum itself, or models whose difference is the mean."""

Release: TypeAlias = npt.NDArray[np.number[Any]]
"""``[n/2]``: complex slots or their real parts, of whatever precision they were released in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyRecovery:
    """How far the attack got.

    Args:
        key: ``[n] int8``, the ternary secret key, or None.
        solved: linear systems that had a solution; the attack stops at the first whose solution is a key.
        singular: linear systems without a unique one.
        ternary: of the best solution, the share of coefficients in {−1, 0, 1}. 1 is a key; a random solution has 3/q.
        residual: of each release, the largest coefficient of (c₀ + c₁·s − encoding of the release) under the found
            key; at most 0.5 where the release determines the noise. Empty without a key.
    """

    key: npt.NDArray[np.int8] | None = field(repr=False)
    solved: int
    singular: int
    ternary: float
    residual: tuple[float, ...] = ()

    @property
    def succeeded(self) -> bool:
        """A key was found, and the attacker knows it."""
        return self.key is not None

    def decrypt(self, ciphertext: RawCiphertext) -> Slots:
        """``[n/2] complex128``: what a ciphertext under the same key holds, a single client's upload included.

        Raises:
            ConfigurationError: no key was found.
        """
        if self.key is None:
            raise ConfigurationError("Decryption takes a recovered key.", remedy="Check .succeeded first.")
        q = ciphertext.modulus
        return ring.decode(ring.centred(_message(ciphertext, self.key.astype(object)), q), ciphertext.scale)


def can_try(views: frozenset[View]) -> bool:
    """Whether an observer with these views has what the attack starts from.

    fedpriv's servers do, unless clients share the key and tell them nothing. The attack fails on what they see, because
    it is rounded to integers; a raw decryption is in no view of fedpriv's protocols.
    """
    return View.CIPHERTEXTS in views and bool(views & VALUES)


def read_ckks(code: CKKSCode, data: bytes) -> RawCiphertext:
    """A ciphertext of fedpriv's CKKS as its server sees it: no key is needed to read the polynomials.

    Raises:
        MalformedMessage: not a ciphertext of this code.
    """
    from fedpriv.crypto.lattice import raw

    return RawCiphertext(parts=raw.coefficients(code, data), modulus=raw.modulus(code.parameters), scale=code.scale)


def slots_of(integers: npt.NDArray[np.int64]) -> Slots:
    """The complex slots ``[n/2]`` that fedpriv's CKKS puts ``[n]`` integers into: what a released sum says of them."""
    half = len(integers) // 2
    return integers[:half] + 1j * integers[half:]


def ckks_key_recovery(ciphertexts: Sequence[RawCiphertext], released: Sequence[Release]) -> KeyRecovery:
    """Try to compute the CKKS secret key from ciphertexts and the values released of them.

    Uses what the attacker has and nothing else; checks by itself that the solution is ternary and decrypts every
    ciphertext to its release.

    Args:
        ciphertexts: all under one key, from :func:`read_ckks` or :func:`read_tenseal`.
        released: of each ciphertext all slots, in order: ``[n/2]`` complex, or real for the real parts alone. Multiply
            a mean by its public divisor first; integers that fedpriv released go through :func:`slots_of`.

    Cost: four transforms, O(n log n), for each system, and one system for each release (complex) or pair of releases
    (real) until one succeeds; about 0.3 s for a pair at n = 8192.

    Raises:
        ConfigurationError: no ciphertext, not one release for each, different rings, or not all slots.
        NonFiniteInput: a release with NaN or infinity.

    Reference: Li and Micciancio 2021 (one complex release). Pairing real parts is the same linear algebra.
    """
    released = [np.asarray(values) for values in released]
    _check(ciphertexts, released)
    q = ciphertexts[0].modulus
    solved = singular = 0
    best = 0.0
    for solution in _solutions(ciphertexts, released):
        if solution is None:
            singular += 1
            continue
        solved += 1
        candidate = ring.centred(ring.interpolate(solution, q), q)
        share = float(np.mean(np.abs(candidate) <= 1))
        best = max(best, share)
        if share == 1.0:
            residual = tuple(_residual(*seen, candidate) for seen in zip(ciphertexts, released, strict=True))
            return KeyRecovery(
                key=candidate.astype(np.int8), solved=solved, singular=singular, ternary=1.0, residual=residual
            )
    return KeyRecovery(key=None, solved=solved, singular=singular, ternary=best)


def _solutions(ciphertexts: Sequence[RawCiphertext], released: Sequence[Release]) -> Iterator[Polynomial | None]:
    """The values of s at all points, from each way to combine releases into a square system; None: singular."""
    q = ciphertexts[0].modulus
    whole = [(c, r) for c, r in zip(ciphertexts, released, strict=True) if np.iscomplexobj(r)]
    for ciphertext, slots in whole:
        c0, c1 = ring.evaluate(ciphertext.parts, q)
        message = ring.evaluate(ring.encode(slots, ciphertext.scale), q)
        yield _divide(message - c0, c1, q)
    equations = (_real_equation(c, r) for c, r in zip(ciphertexts, released, strict=True) if not np.iscomplexobj(r))
    known: list[tuple[Polynomial, Polynomial]] = []
    for later in equations:
        for earlier in known:
            yield _solve_pairs(earlier, later, q)
        known.append(later)


def _real_equation(ciphertext: RawCiphertext, real: Release) -> tuple[Polynomial, Polynomial]:
    """c₁ and the right side r of c₁(x)·s(x) + c₁(1/x)·s(1/x) = r(x), at all points x."""
    q = ciphertext.modulus
    both = ring.encode(2 * real, ciphertext.scale)  # m(X) + m(1/X), integers
    c0, c1 = ring.evaluate(ciphertext.parts, q)
    return c1, (ring.evaluate(both, q) - c0 - c0[::-1]) % q


def _solve_pairs(
    first: tuple[Polynomial, Polynomial], second: tuple[Polynomial, Polynomial], q: int
) -> Polynomial | None:
    """Cramer's rule for two unknowns at each pair of inverse points."""
    (a, right_a), (b, right_b) = first, second
    return _divide(right_a * b[::-1] - right_b * a[::-1], a * b[::-1] - b * a[::-1], q)


def _divide(above: Polynomial, below: Polynomial, q: int) -> Polynomial | None:
    if not (below % q).all():
        return None
    inverse = np.array([pow(value, -1, q) for value in (below % q).tolist()], dtype=object)
    quotient: Polynomial = above * inverse % q
    return quotient


def _message(ciphertext: RawCiphertext, key: Polynomial) -> Polynomial:
    """c₀ + c₁·s mod q."""
    q = ciphertext.modulus
    product = ring.interpolate(ring.evaluate(ciphertext.parts[1], q) * ring.evaluate(key, q) % q, q)
    message: Polynomial = (ciphertext.parts[0] + product) % q
    return message


def _residual(ciphertext: RawCiphertext, released: Release, key: Polynomial) -> float:
    message = _message(ciphertext, key)
    if not np.iscomplexobj(released):  # real parts determine (m(X) + m(1/X))/2
        message = message + np.concatenate([message[:1], -message[:0:-1]])
        difference = message - ring.encode(2 * released, ciphertext.scale)
        return float(np.abs(ring.centred(difference % ciphertext.modulus, ciphertext.modulus)).max()) / 2
    difference = message - ring.encode(released, ciphertext.scale)
    return float(np.abs(ring.centred(difference % ciphertext.modulus, ciphertext.modulus)).max())


def _check(ciphertexts: Sequence[RawCiphertext], released: Sequence[Release]) -> None:
    if not ciphertexts or len(ciphertexts) != len(released):
        raise ConfigurationError(
            "The attack takes at least one ciphertext and a release of each.",
            value=(len(ciphertexts), len(released)),
            remedy="Give as many releases as ciphertexts, in the same order.",
        )
    rings = {(c.degree, c.modulus) for c in ciphertexts}
    if len(rings) != 1:
        raise ConfigurationError(
            "All ciphertexts are under one key, in one ring.", value=sorted(rings), remedy="Attack each key by itself."
        )
    for ciphertext, values in zip(ciphertexts, released, strict=True):
        if np.shape(values) != (ciphertext.degree // 2,):
            raise ConfigurationError(
                f"A release has the {ciphertext.degree // 2} slots of its ciphertext.",
                value=np.shape(values),
                remedy="Use full ciphertexts; of a partly filled one the other slots' noise was not released.",
            )
        if not np.isfinite(values).all():
            raise NonFiniteInput("Released values are finite.", remedy="Drop that ciphertext.")
