"""Authenticated encryption with associated data: AES-256-GCM (NIST SP 800-38D)."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedpriv.errors import AuthenticationFailed
from fedpriv.randomness import secret_bytes

NONCE = 12
OVERHEAD = NONCE + 16
"""Bytes that an envelope adds: nonce and authentication tag."""


def seal(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """``nonce ‖ ciphertext ‖ tag`` under a 32-byte key and a fresh random nonce; binds ``associated``.

    Guarantees: confidentiality and integrity of the plaintext, integrity of the associated data.
    Assumes: fewer than 2^32 envelopes under one key.
    Does not hide: the plaintext's length.
    """
    nonce = secret_bytes(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, associated)


def unseal(key: bytes, envelope: bytes, associated: bytes) -> bytes:
    """The plaintext of an envelope.

    Raises:
        AuthenticationFailed: a flipped bit, another key, or other associated data.
    """
    try:
        if len(envelope) < OVERHEAD:
            raise InvalidTag
        return AESGCM(key).decrypt(envelope[:NONCE], envelope[NONCE:], associated)
    except InvalidTag:
        raise AuthenticationFailed(
            "An envelope opens under the key and the associated data it was sealed with.",
            value=f"{len(envelope)} bytes",
            remedy="It was changed, or the two parties differ in session, roster or keys; start a new attempt.",
        ) from None
