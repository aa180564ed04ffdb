"""Homomorphic aggregation under CKKS: approximate arithmetic, exact integers.

CKKS computes on complex numbers with a small error. Here they are the codec's integers, two to a number (real and
imaginary part), at a scale at which the error of a whole cohort's sum is proved to stay below a quarter of a unit
(:mod:`fedpriv.crypto.lattice.ckks_noise`): rounding gives the exact sum, the same as every other aggregator's. A
decryption farther than that from the integers is a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedpriv.aggregation.homomorphic.lattice import LatticeAggregator
from fedpriv.aggregation.homomorphic.presets import Scheme
from fedpriv.crypto.lattice import CKKSParameters


@dataclass(frozen=True, kw_only=True)
class CKKS(LatticeAggregator):
    """Clients encrypt under CKKS, the server adds ciphertexts, whoever holds the secret key decrypts the sum.

    With the preset ``ckks-lean`` 12 bytes a coordinate, 6 where clients share the secret key and uploads are seeded;
    every vector is padded to a multiple of 4095 coordinates. Sums come back as exact integers.

    **Guarantees** The exact integer sum, or an error: the rounding error of one sum exceeds a quarter of a unit with
    probability below 2^-60 (2^-40 over a million rounds), or the plan is refused. Ciphertexts are computationally
    hidden at 128 bits. Only rounded integers leave the key.

    **Assumes** Ring-LWE at the preset's degree and moduli (the probability rests on it as well); honest encryptions and
    additions (IND-CPA plus correctness, nothing more). See the key model for the parties.

    **Does not hide** Vectors from the parties that together hold ciphertexts and key. More than the sum from a holder
    of the key who looks at decryptions before they are rounded: their noise holds how each client's vector was rounded
    when it was encoded, and nothing was added to drown that (no circuit privacy). Nothing is claimed where someone
    crafts ciphertexts and sees decryptions; that the known key recovery from floating-point decryptions fails on
    integers is not a proof.

    **Reference** Cheon, Kim, Kim, Song 2017; Li and Micciancio 2021; Albrecht et al. 2018 (table 1).

    Args:
        keys: who holds the secret key.
        preset: ``"auto"`` for the smallest that fits the plan, ``"ckks-lean"``, ``"ckks-precise"``, or parameters.

    Raises:
        ConfigurationError: not a key model; no preset of CKKS.
    """

    scheme: ClassVar[Scheme] = "CKKS"
    reference: ClassVar[str] = "Cheon, Kim, Kim, Song 2017; Li and Micciancio 2021"

    preset: str | CKKSParameters = "auto"
