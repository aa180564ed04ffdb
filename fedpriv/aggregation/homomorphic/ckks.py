"""Homomorphic aggregation under CKKS: approximate arithmetic, exact integers.

CKKS computes on reals with a small error. Here the reals are the codec's integers, at a scale at which the error of a
whole cohort's sum is proved to stay below a quarter of a unit (:mod:`fedpriv.crypto.lattice.ckks_noise`): rounding
gives the exact sum, the same as every other aggregator's. A decryption farther than that from the integers is a failure.

Each ciphertext's last slot counts: every client encrypts a 1 there, and the authority checks that the sum is the number
of contributors that the server names. It finds slips (a ciphertext added twice or not at all), not lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from fedpriv.aggregation.homomorphic.costs import PROBES, Rates, Volume, measure, rows
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.homomorphic.keys import KeyAuthority, KeyModel, check_keys
from fedpriv.aggregation.homomorphic.roles import bounded, check_terms, client_bound
from fedpriv.aggregation.protocol import Terms
from fedpriv.crypto.lattice import legacy as lattice
from fedpriv.crypto.lattice.legacy_noise import slot_error
from fedpriv.encoding import Bounded, Domain, Integers
from fedpriv.errors import DecryptionFailed, PlanError
from fedpriv.network import StageCost
from fedpriv.threat import ThreatModel

PARAMETERS = lattice.CKKSParameters()
"""The preset: degree 4096, moduli of 60 and 49 bits, 109 in all, the most that 128-bit security allows."""

DATA_SLOTS = PARAMETERS.slots - 1
"""Coordinates in one ciphertext; the last slot counts contributors."""

TOLERANCE = 0.25
"""Errors are proved to stay below it, and decryptions beyond it are refused: half of what rounding needs."""


@dataclass(frozen=True, kw_only=True)
class CKKS:
    """Clients encrypt under the authority's CKKS key, the server adds ciphertexts, the authority decrypts the sum.

    About 32 bytes a coordinate, up and across; every vector is padded to a multiple of 2047 coordinates.

    **Guarantees** The exact integer sum, or an error: the rounding error of one sum exceeds a quarter of a unit with
    probability below 2^-60 (2^-40 over a million rounds), or the plan is refused. The server's view is computationally
    hidden at 128 bits. Only rounded integers leave the authority's key.

    **Assumes** Ring-LWE at (4096, 109 bits); honest encryptions and additions (IND-CPA, nothing more). See
    :class:`KeyAuthority` for the parties.

    **Does not hide** Vectors from server and authority together. More than the sum from an authority that opens the key
    and looks at decryptions before they are rounded: their noise holds how each client's vector was rounded when it was
    encoded, and nothing was added to drown that (no circuit privacy). Nothing is claimed where someone crafts
    ciphertexts and sees decryptions; that the known key recovery from floating-point decryptions fails on integers is
    not a proof.

    **Reference** Cheon, Kim, Kim, Song 2017; Li and Micciancio 2021 (section 3); Albrecht et al. 2018 (table 1).

    Args:
        keys: who holds the secret key.
    """

    keys: KeyModel = field(default_factory=KeyAuthority)

    def __post_init__(self) -> None:
        check_keys(self.keys)

    @property
    def threat_model(self) -> ThreatModel:
        return self.keys.threat_model(
            assumptions=("Ring-LWE is hard at degree 4096 and 109 bits (128-bit security).",),
            reference="Cheon, Kim, Kim, Song 2017; Li and Micciancio 2021, section 3",
        )

    def domain(self, *, sum_bound: int, length: int, cohort: int) -> Domain:
        """Integers within ±sum_bound.

        Raises:
            PlanError: at no scale do the sums fit into the modulus with an error below a quarter of a unit.
        """
        domain = bounded(sum_bound)
        _scale(sum_bound, spread=sum_bound, length=length, cohort=cohort)
        return domain

    def least_contributors(self, cohort: int) -> int:
        """The authority's minimum."""
        return self.keys.least_contributors(cohort)

    def deploy(self, terms: Terms) -> HomomorphicDeployment:
        """Make the authority's key; every client gets the public one.

        Raises:
            PlanError: the terms do not fit, see :meth:`domain`.
        """
        check_terms(terms)
        spread = max(terms.domain.largest, terms.cohort * client_bound(terms))
        scale = _scale(terms.domain.largest, spread=spread, length=terms.length, cohort=terms.cohort)
        secret = lattice.SecretKey(PARAMETERS)
        return HomomorphicDeployment(
            scheme="CKKS",
            keys=self.keys,
            terms=terms,
            parameters=PARAMETERS.digest() + repr(scale).encode(),
            key_id=secret.public.key_id,
            key_bytes=len(secret.public.to_bytes()),
            chunks=_chunks(terms.length),
            encryptor=CKKSEncryptor(secret.public, scale),
            adder=CKKSAdder(scale),
            decryptor=CKKSDecryptor(secret, scale, terms.length),
        )

    def estimate(self, terms: Terms, cohort: int) -> tuple[StageCost, ...]:
        """From a real round with three clients and one ciphertext each; ciphertext sizes vary by a few bytes."""
        chunks = _chunks(terms.length)
        return rows(_rates(), Volume(ciphertexts=chunks, chunks=chunks), cohort)


class CKKSEncryptor:
    """The public key at a scale."""

    def __init__(self, key: lattice.PublicKey, scale: float) -> None:
        self._key, self._scale = key, scale

    def encrypt(self, vector: Integers) -> Iterator[bytes]:
        for start in range(0, len(vector), DATA_SLOTS):
            piece = vector[start : start + DATA_SLOTS]
            slots = np.zeros(PARAMETERS.slots)
            slots[: len(piece)] = piece
            slots[-1] = 1
            yield self._key.encrypt(slots, self._scale)


class CKKSAdder:
    """Adds in place. Holds parameters only."""

    def __init__(self, scale: float) -> None:
        self._adder = lattice.Adder(PARAMETERS, scale)

    def seed_of(self, payload: bytes) -> None:
        """Ciphertexts travel whole."""
        return

    def load(self, payload: bytes) -> lattice.Ciphertext:
        return self._adder.load(payload)

    def add(self, total: lattice.Ciphertext, other: lattice.Ciphertext) -> lattice.Ciphertext:
        self._adder.add(total, other)
        return total

    def dump(self, total: lattice.Ciphertext) -> bytes:
        return total.to_bytes()


class CKKSDecryptor:
    """The secret key at a scale. ``repr`` shows the key's name."""

    def __init__(self, key: lattice.SecretKey, scale: float, length: int) -> None:
        self._key, self._scale, self._length = key, scale, length

    def __repr__(self) -> str:
        return f"<CKKSDecryptor with {self._key!r}>"

    def decrypt(self, payloads: Sequence[bytes], contributors: int) -> Integers:
        pieces = []
        for payload in payloads:
            slots = self._key.decrypt(payload, scale=self._scale, tolerance=TOLERANCE)
            if slots[-1] != contributors:
                raise DecryptionFailed(
                    "The counting slot equals the number of contributors.",
                    value=f"{contributors} named",
                    remedy="A ciphertext was added twice, not at all, or under another key; discard the attempt.",
                )
            pieces.append(slots[:-1])
        total = np.concatenate(pieces)
        if total[self._length :].any():
            raise DecryptionFailed(
                "Padding decrypts to zeros.", remedy="The key or the additions are wrong; discard the attempt."
            )
        return total[: self._length]


def _chunks(length: int) -> int:
    return -(-length // DATA_SLOTS)


def _scale(largest: int, *, spread: int, length: int, cohort: int) -> float:
    """The scale for sums within ±largest, with the proof that they are exact.

    Args:
        largest: bounds |sum|.
        spread: bounds |sum| and the sum of the clients' largest |values|, noise included.
        length: coordinates.
        cohort: the most ciphertexts in a sum.
    """
    error = _error(max(largest, cohort), max(spread, cohort), length, cohort)  # the counting slot reaches the cohort
    if error >= TOLERANCE:
        fits = [bits for bits in range(1, 62) if _error(2**bits - 1, 2**bits - 1, length, cohort) < TOLERANCE]
        raise PlanError(
            f"CKKS sums are exact only where their error is proved to stay below {TOLERANCE} of a unit.",
            value=f"sums of {cohort} vectors within ±{largest} allow an error of {error:.3g}",
            remedy=f"Sums of so many vectors may have {max(fits)} bits and a sign; use fewer bits or smaller weights."
            if fits
            else "Use a smaller cohort.",
        )
    return PARAMETERS.scale_for(max(largest, cohort))


def _error(largest: int, spread: int, length: int, cohort: int) -> float:
    """The bound on every slot's error at the scale for sums within ±largest."""
    slots = _chunks(length) * PARAMETERS.slots
    scale = PARAMETERS.scale_for(largest)
    return slot_error(PARAMETERS, additions=cohort, slots=slots, largest=spread, scale=scale).total


@cache
def _rates() -> Rates:
    bound = 2**16
    terms = Terms(length=DATA_SLOTS, input_bound=bound, cohort=PROBES, domain=Bounded(PROBES * bound))
    return measure(CKKS().deploy(terms), DATA_SLOTS)
