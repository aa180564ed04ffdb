"""AES-256-GCM against NIST's vectors, right and wrong ones."""

from __future__ import annotations

import re

import cryptography_vectors
import pytest

from fedpriv.crypto import envelope
from fedpriv.errors import AuthenticationFailed

KEY = bytes(range(32))


def nist() -> list[dict[str, str]]:
    """Those with the 96-bit nonces and 128-bit tags that envelopes use."""
    with cryptography_vectors.open_vector_file("ciphers/AES/GCM/gcmDecrypt256.rsp", "r") as file:
        text = file.read()
    vectors = []
    for group in re.split(r"(?=\[Keylen)", text)[1:]:
        if "[IVlen = 96]" in group and "[Taglen = 128]" in group:
            for block in group.split("Count = ")[1:]:
                fields = dict(re.findall(r"^(\w+) =[ ]?(\w*)", block, re.MULTILINE))
                vectors.append(fields | {"verdict": "FAIL" if "FAIL" in block else "pass"})
    return vectors


def test_nist_gcm_vectors() -> None:
    vectors = nist()
    verdicts = [vector["verdict"] for vector in vectors]
    assert verdicts.count("pass") > 100
    assert verdicts.count("FAIL") > 100
    for vector in vectors:
        key, nonce, ciphertext, tag, associated = (
            bytes.fromhex(vector[name]) for name in ("Key", "IV", "CT", "Tag", "AAD")
        )
        if vector["verdict"] == "pass":
            assert envelope.unseal(key, nonce + ciphertext + tag, associated).hex() == vector["PT"]
        else:
            with pytest.raises(AuthenticationFailed):
                envelope.unseal(key, nonce + ciphertext + tag, associated)


def test_round_trip_with_fresh_nonces() -> None:
    one, other = (envelope.seal(KEY, b"a share", b"context") for _ in range(2))
    assert one != other
    assert len(one) == len(b"a share") + envelope.OVERHEAD
    assert envelope.unseal(KEY, one, b"context") == b"a share"


def test_any_flipped_bit_other_key_or_other_context_is_refused() -> None:
    sealed = envelope.seal(KEY, b"a share", b"context")
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AuthenticationFailed):
            envelope.unseal(KEY, bytes(damaged), b"context")
    for key, text, context in (
        (bytes(32), sealed, b"context"),
        (KEY, sealed, b"other context"),
        (KEY, sealed[:-1], b"context"),
        (KEY, b"", b"context"),
    ):
        with pytest.raises(AuthenticationFailed):
            envelope.unseal(key, text, context)
