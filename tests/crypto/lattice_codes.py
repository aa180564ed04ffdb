"""The codes that the tests of the lattice schemes run over."""

from __future__ import annotations

from fedpriv.crypto.lattice import (
    BFVCode,
    BFVParameters,
    CKKSCode,
    CKKSParameters,
    Code,
    SecretKey,
    SharedSecretKey,
)

SUM = 2**20
"""What sums are bounded by in these tests."""

TWO, ONE = CKKSParameters(), CKKSParameters(degree=2048, moduli=(54,))
CODES: dict[str, Code] = {
    "CKKS, special prime": CKKSCode(TWO, TWO.scale_for(SUM)),
    "CKKS, one prime": CKKSCode(ONE, ONE.scale_for(SUM)),
    "BFV, special prime": BFVCode(BFVParameters(degree=4096, moduli=(48, 60), plain_bits=25)),
    "BFV, one prime": BFVCode(BFVParameters(degree=2048, moduli=(54,), plain_bits=30)),
}


def bytes_of(key: SecretKey) -> bytes:
    """Of a key that may be shared."""
    assert isinstance(key, SharedSecretKey)
    return key.to_bytes()
