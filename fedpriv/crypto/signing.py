"""Signatures: Ed25519 (RFC 8032)."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedpriv.errors import AuthenticationFailed
from fedpriv.randomness import secret_bytes

KEY = 32
"""Bytes of a private and of a public key."""
SIGNATURE = 64
"""Bytes of a signature."""


class SigningKey:
    """An Ed25519 key pair; ``repr`` shows the public half only.

    Args:
        private: 32 secret bytes; fresh ones from the operating system's generator where absent.
    """

    __slots__ = ("_private", "public")

    def __init__(self, private: bytes | None = None) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(secret_bytes(KEY) if private is None else private)
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()})"

    def __reduce__(self) -> tuple[object, ...]:
        """An identity outlives attempts: it goes along where its owner's role is hosted by another process."""
        return SigningKey, (self._private.private_bytes_raw(),)

    def sign(self, message: bytes) -> bytes:
        """64 bytes that only the owner of this key can make for this message.

        Guarantees: without the private key nobody signs a message that its owner did not sign.
        Assumes: discrete logarithms on edwards25519 are hard; SHA-512 behaves as a random oracle.
        Does not hide: the message.
        Reference: RFC 8032, Section 5.1.
        """
        return self._private.sign(message)


def verify(public: bytes, signature: bytes | memoryview, message: bytes) -> None:
    """Accept a signature of the message under a public key, or raise.

    Raises:
        AuthenticationFailed: any other signature, message or key.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes(signature), message)
    except (InvalidSignature, ValueError):
        raise AuthenticationFailed(
            "A signature verifies under its signer's registered key.",
            remedy="The message was changed, or signed by somebody else or for another session; start a new attempt.",
        ) from None
