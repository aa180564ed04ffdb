"""What an attacker reads is what SEAL computes with: the polynomials, the modulus, the key."""

from __future__ import annotations

import numpy as np
import pytest

from fedpriv.crypto.lattice import BFVCode, BFVParameters, CKKSCode, CKKSParameters, Code, SecretKey, raw, ring
from fedpriv.errors import ConfigurationError, MalformedMessage

CODES: list[Code] = [
    CKKSCode(CKKSParameters(), 2.0**40),
    CKKSCode(CKKSParameters(degree=2048, moduli=(54,)), 2.0**36),
    BFVCode(BFVParameters(degree=4096, moduli=(48, 60), plain_bits=25)),
    BFVCode(BFVParameters(degree=2048, moduli=(54,), plain_bits=30)),
]


@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize("code", CODES, ids=repr)
def test_polynomials_and_key_decrypt_by_hand(code: Code, seeded: bool) -> None:
    """c₀ + c₁·s, computed in Python integers, is the encoded message and little noise."""
    key, vector = SecretKey(code), np.arange(code.slots, dtype=np.int64) - 1000
    data = (key if seeded else key.public).encrypt(vector)
    q = raw.modulus(code.parameters)
    parts, secret = raw.coefficients(code, data), raw.secret_coefficients(key)
    assert parts.shape == (2, code.slots)
    assert 0 <= parts.min() < parts.max() < q
    assert {*np.unique(secret).tolist()} == {-1, 0, 1}
    product = ring.interpolate(ring.evaluate(parts[1], q) * ring.evaluate(secret.astype(object) % q, q) % q, q)
    message = ring.centred((parts[0] + product) % q, q)
    if isinstance(code, CKKSCode):
        slots = ring.decode(message, code.scale)
        assert np.abs(slots - raw.floats(key, data)).max() < 1e-9
        assert np.array_equal(np.rint(np.concatenate([slots.real, slots.imag])), vector)
    else:
        noise = ring.centred(code.parameters.plain_modulus * message % q, q)
        assert np.abs(noise).max() < q // 64


def test_floats_are_ckks_only() -> None:
    with pytest.raises(ConfigurationError, match="CKKS"):
        raw.floats(SecretKey(CODES[2]), b"")


def test_foreign_bytes_are_malformed() -> None:
    key = SecretKey(CODES[0])
    for data in (b"", SecretKey(CODES[1]).encrypt(np.zeros(2048, dtype=np.int64))):
        with pytest.raises(MalformedMessage):
            raw.coefficients(key.code, data)
        with pytest.raises(MalformedMessage):
            raw.floats(key, data)
