"""Paillier through phe: encrypt integers below n, add ciphertexts, decrypt. No federated learning here.

The only module that touches phe. It uses phe's raw operations on integers: its encodings of floats show exponents,
hence magnitudes, in the clear. phe uses gmpy2 where that is installed.

**Guarantees** IND-CPA: every ciphertext is (1 + n)^m · r^n mod n² with a fresh r. phe draws r with
``random.SystemRandom().randrange`` (``PaillierPublicKey.get_random_lt_n``) and the primes with
``random.SystemRandom().getrandbits`` (``util.getprimeover``): both read the operating system's generator.

**Assumes** decisional composite residuosity for the key's size; honest ciphertexts and additions.

**Does not hide** anything from one who chooses ciphertexts and sees decryptions: the scheme is malleable. Python's and
phe's arithmetic is not constant-time.

**Reference** Paillier 1999 (scheme 1 with g = 1 + n; section 7 for decryption by remainders); NIST SP 800-57 part 1,
table 2 (2048 bits: 112-bit security, 3072 bits: 128-bit).
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

from fedpriv.errors import ConfigurationError, MalformedMessage

SECURITY_BITS = {2048: 112, 3072: 128, 4096: 128}
"""Bits of n → security level by NIST SP 800-57; 4096 lies between 128 and 192."""

KEY_ID = 16
"""Bytes of a key's name: truncated SHA-256 of n."""


def check_key_bits(bits: int) -> None:
    """Raises ConfigurationError unless a modulus of this size is offered."""
    if bits not in SECURITY_BITS:
        raise ConfigurationError(
            "A Paillier modulus has 2048 bits (112-bit security), 3072 (128-bit) or 4096.",
            value=bits,
            remedy="Use 3072; smaller moduli than 2048 are refused.",
        )


class PublicKey:
    """Encrypts and adds. ``repr`` shows the key's name.

    Args:
        modulus: n.
    """

    def __init__(self, modulus: int) -> None:
        check_key_bits(modulus.bit_length())
        self._key = _paillier().PaillierPublicKey(modulus)
        self._modulus, self._square = modulus, int(self._key.nsquare)
        self._mulmod = _mulmod()
        self.bits = modulus.bit_length()
        self.key_id = hashlib.sha256(self.to_bytes()).digest()[:KEY_ID]

    def __repr__(self) -> str:
        return f"<Paillier public key {self.key_id.hex()}, {self.bits} bits>"

    def __reduce__(self) -> tuple[object, ...]:
        return PublicKey, (self._modulus,)

    @property
    def plaintext_bits(self) -> int:
        """Every integer of this many bits is below n."""
        return self.bits - 1

    @property
    def ciphertext_bytes(self) -> int:
        """The fixed length of a serialised ciphertext."""
        return self.bits // 4

    def to_bytes(self) -> bytes:
        """n, big-endian."""
        return int(self._key.n).to_bytes(self.bits // 8, "big")

    def encrypt(self, plaintext: int) -> bytes:
        """A fresh encryption of 0 ≤ plaintext < 2^plaintext_bits.

        Raises:
            ConfigurationError: outside that range. The value is not shown.
        """
        if plaintext < 0 or plaintext.bit_length() > self.plaintext_bits:
            raise ConfigurationError(
                f"A plaintext has at most {self.plaintext_bits} bits and is not negative.", remedy="Pack fewer lanes."
            )
        return self.dump(self._key.raw_encrypt(plaintext))

    def load(self, data: bytes) -> int:
        """A ciphertext from its bytes.

        Raises:
            MalformedMessage: a wrong length, not in 1 … n² − 1, or no unit mod n².
        """
        value = int.from_bytes(data, "big")
        if len(data) != self.ciphertext_bytes or not 0 < value < self._square or math.gcd(value, self._modulus) != 1:
            raise MalformedMessage(
                "A Paillier ciphertext is a unit mod n² of fixed length.",
                value=f"{len(data)} bytes",
                remedy="Drop the sender or the attempt; check that both ends use the same key.",
            )
        return value

    def dump(self, ciphertext: int) -> bytes:
        """The bytes of a ciphertext, big-endian."""
        return ciphertext.to_bytes(self.ciphertext_bytes, "big")

    def add(self, left: int, right: int) -> int:
        """An encryption of the sum of two plaintexts, mod n."""
        return int(self._mulmod(left, right, self._square))


class SecretKey:
    """Decrypts. ``repr`` shows the key's name; the key itself has no accessor.

    Args:
        bits: of the modulus; a fresh key is generated.

    Raises:
        ConfigurationError: a size that is not offered.
    """

    def __init__(self, bits: int = 3072) -> None:
        check_key_bits(bits)
        public, self._key = _paillier().generate_paillier_keypair(n_length=bits)
        self.public = PublicKey(int(public.n))

    def __repr__(self) -> str:
        return f"<Paillier secret key {self.public.key_id.hex()}, {self.public.bits} bits>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("A secret key is not copied, pickled or sent.")

    def decrypt(self, data: bytes) -> int:
        """The plaintext, in 0 … n − 1. Under a wrong key it is a random residue: callers check its redundancy.

        Raises:
            MalformedMessage: not a ciphertext.
        """
        return int(self._key.raw_decrypt(self.public.load(data)))


class SharedSecretKey(SecretKey):
    """A secret key that every client is meant to hold: unlike another, it can be serialised and pickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return SharedSecretKey.from_bytes, (self.to_bytes(),)

    @property
    def key_bytes(self) -> int:
        """Bytes that a client is sent."""
        return self.public.bits // 8

    def to_bytes(self) -> bytes:
        """The two primes, big-endian, half each. They are the secret."""
        half = self.key_bytes // 2
        return b"".join(int(prime).to_bytes(half, "big") for prime in (self._key.p, self._key.q))

    @classmethod
    def from_bytes(cls, data: bytes) -> SharedSecretKey:
        """The key whose primes these are.

        Raises:
            ConfigurationError: their product has not the bits of a modulus that is offered.
            MalformedMessage: not two different primes' bytes.
        """
        half = len(data) // 2
        p, q = int.from_bytes(data[:half], "big"), int.from_bytes(data[half:], "big")
        check_key_bits((p * q).bit_length())
        if len(data) * 8 != (p * q).bit_length() or p == q:
            raise MalformedMessage(
                "A shared Paillier key is two different primes of half the modulus's bits.",
                value=f"{len(data)} bytes",
                remedy="Fetch the key again.",
            )
        made = cls.__new__(cls)
        made.public = PublicKey(p * q)
        made._key = _paillier().PaillierPrivateKey(made.public._key, p, q)
        return made


def _paillier() -> Any:
    """Loaded when first used: ``import fedpriv`` stays light."""
    from phe import paillier  # type: ignore[import-untyped]

    return paillier


def _mulmod() -> Any:
    from phe.util import mulmod  # type: ignore[import-untyped]

    return mulmod
