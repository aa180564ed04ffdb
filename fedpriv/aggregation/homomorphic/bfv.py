"""Homomorphic aggregation under BFV: exact arithmetic modulo a plaintext prime.

Each slot holds a coordinate modulo t, and the plan is refused unless every sum of a cohort lies within ±(t − 1)/2. A
ciphertext's noise grows with every addition; parameters are accepted only where it is proved to stay below what
decryption removes, for the whole planned cohort, with failure below 2^-128 (:mod:`fedpriv.crypto.lattice.bfv_noise`).
So small a failure is not for correctness alone: decryption errors that additions can provoke give away the key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedpriv.aggregation.homomorphic.lattice import LatticeAggregator
from fedpriv.aggregation.homomorphic.presets import Scheme
from fedpriv.crypto.lattice import BFVParameters


@dataclass(frozen=True, kw_only=True)
class BFV(LatticeAggregator):
    """Clients encrypt under BFV, the server adds ciphertexts, whoever holds the secret key decrypts the sum.

    With the preset ``bfv-exact`` 12 bytes a coordinate, 6 where clients share the secret key and uploads are seeded;
    every vector is padded to a multiple of 2047 coordinates.

    **Guarantees** The exact integer sum, or an error: decryption of an honest sum of the planned cohort fails with
    probability below 2^-128, or the plan is refused. Ciphertexts are computationally hidden at 128 bits.

    **Assumes** Ring-LWE at the preset's degree and moduli (with a special prime, the probability rests on it as well);
    honest encryptions and additions (IND-CPA plus correctness, nothing more). See the key model for the parties.

    **Does not hide** Vectors from the parties that together hold ciphertexts and key; more than the sum from a holder
    of the key who looks at the noise of an aggregate (no circuit privacy). Nothing is claimed where someone crafts
    ciphertexts, or adds more of them than planned, and sees decryptions.

    **Reference** Fan and Vercauteren 2012; Checri et al. 2024 (why the failure is so small); Albrecht et al. 2018
    (table 1).

    Args:
        keys: who holds the secret key.
        preset: ``"auto"`` for the smallest that fits the plan, ``"bfv-exact"``, ``"bfv-wide"``, or parameters.

    Raises:
        ConfigurationError: not a key model; no preset of BFV.
    """

    scheme: ClassVar[Scheme] = "BFV"
    reference: ClassVar[str] = "Fan and Vercauteren 2012; Checri et al. 2024"

    preset: str | BFVParameters = "auto"
