"""Diffie–Hellman key agreement over Curve25519 (RFC 7748) and key derivation by HKDF-SHA256 (RFC 5869)."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedpriv.errors import MalformedMessage
from fedpriv.randomness import secret_bytes

KEY = 32
"""Bytes of a private key, a public key, a shared secret and a derived key."""
_PRIME = 2**255 - 19


class KeyPair:
    """An X25519 key pair; ``repr`` shows the public half only.

    Args:
        private: 32 secret bytes; fresh ones from the operating system's generator where absent.
    """

    __slots__ = ("_private", "_scalar", "public")

    def __init__(self, private: bytes | None = None) -> None:
        self._scalar = secret_bytes(KEY) if private is None else private
        self._private = X25519PrivateKey.from_private_bytes(self._scalar)
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public.hex()})"

    def secret(self) -> bytes:
        """The 32 private bytes, for sharing among others."""
        return self._scalar

    def agree(self, public: bytes) -> bytes:
        """The 32-byte secret shared with the owner of a public key; derive keys from it, never use it as one.

        Raises:
            MalformedMessage: a key of small order, with which everybody agrees on the same secret.
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise MalformedMessage(
                "An X25519 public key is 32 bytes and not of small order.", remedy="Drop the sender or the attempt."
            ) from None


def canonical(public: bytes) -> bool:
    """Whether a public key is the one encoding of its coordinate; X25519 takes others for it (RFC 7748, Section 5)."""
    return int.from_bytes(public, "little") < _PRIME


def derive(secret: bytes, *, salt: bytes, info: bytes, length: int = KEY) -> bytes:
    """A key of ``length`` bytes for one purpose, named by ``info``, by HKDF-SHA256.

    Guarantees: keys derived with different ``salt`` or ``info`` look independent.
    Assumes: ``secret`` has 128 bits of entropy or more.
    Reference: RFC 5869; Krawczyk 2010.
    """
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(secret)
