"""Keys, ciphertexts and their sum, one way for CKKS and BFV.

**Guarantees** IND-CPA at 128 bits by the table of the HomomorphicEncryption.org standard. A decryption gives the exact
integers, with the failure probability derived in :mod:`~fedpriv.crypto.lattice.ckks_noise` and
:mod:`~fedpriv.crypto.lattice.bfv_noise`, or :class:`DecryptionFailed`. Randomness: for every key and for every
ciphertext SEAL makes a new generator, Blake2xb with a 512-bit seed that it reads from ``/dev/urandom`` then
(``randomgen.cpp``, ``random_bytes``; seen with strace: one opening for each; BCryptGenRandom on Windows). Nothing else
seeds it, and no state is left for a fork to repeat. The seed in a seeded ciphertext is one more output of that
generator.

**Assumes** Ring-LWE with ternary secrets; ciphertexts that were made and added honestly.

**Does not hide** anything from one who chooses ciphertexts and sees decryptions, or only whether they fail (no
IND-CCA). Ciphertexts are not authenticated: a changed BFV ciphertext can decrypt to other integers without a failure.
CKKS decryptions as floating-point numbers give away the key, and two suffice; here they stay inside :class:`SecretKey`,
which returns rounded integers only. That the known attack fails on integers is not a proof. Timing: SEAL is not
constant-time in everything, and Python is not at all.

**Reference** Cheon, Kim, Kim, Song 2017; Fan and Vercauteren 2012; Albrecht et al. 2018 (standard, table 1); Li and
Micciancio 2021.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.crypto.lattice import seal
from fedpriv.crypto.lattice.bfv import BFVCode
from fedpriv.crypto.lattice.ckks import CKKSCode
from fedpriv.errors import MalformedMessage

Code: TypeAlias = CKKSCode | BFVCode
"""What both ends of a ciphertext agree on."""

KEY_ID = 16
"""Bytes of a key's name: a truncated SHA-256."""

SEED_WORDS = 8
"""Coefficients that stand for a seed: the first that it expands to, at least 160 uniform bits."""


class Ciphertext:
    """An encrypted vector of n integers, or a sum of such.

    Args:
        sealed: SEAL's object.
        seed: what names the seed that the second polynomial was expanded from; None where there is none.
    """

    __slots__ = ("sealed", "seed")

    def __init__(self, sealed: Any, seed: bytes | None = None) -> None:
        self.sealed, self.seed = sealed, seed

    def to_bytes(self) -> bytes:
        """Serialised in SEAL's format, compressed: about 2·n·log₂(q)/8 bytes, never seeded."""
        return seal.dump(self.sealed)


class Adder:
    """Adds ciphertexts. Holds the code and no key.

    Args:
        code: that of the key.
    """

    def __init__(self, code: Code) -> None:
        self.code = code

    def load(self, data: bytes) -> Ciphertext:
        """A ciphertext from its bytes, seeded or not.

        Raises:
            MalformedMessage: not a ciphertext of this code.
        """
        sealed = seal.context(self.code.parameters).ciphertext(data, self.code.scale)
        return Ciphertext(sealed, self._expanded(sealed) if self._seeded(data) else None)

    def add(self, total: Ciphertext, other: Ciphertext) -> None:
        """``total += other``, in place.

        Raises:
            MalformedMessage: the sum would have no randomness left, which honest ciphertexts never do; ``total`` is
                spoilt then.
        """
        total.seed = None
        try:
            seal.context(self.code.parameters).evaluator.add_inplace(total.sealed, other.sealed)
        except (ValueError, RuntimeError) as error:  # "result ciphertext is transparent"
            raise MalformedMessage(
                "Two ciphertexts of one code add up to a ciphertext that hides its sum.",
                remedy="Discard the attempt: one of them was made to cancel the other.",
            ) from error

    def seed_of(self, data: bytes) -> bytes | None:
        """What names the seed of a seeded upload, 64 bytes, so that repeats can be refused; None where there is none.

        Two ciphertexts of one seed and one secret key give away the difference of their vectors. Expands the seed:
        who loads the ciphertext anyway finds it in :attr:`Ciphertext.seed`.

        Raises:
            MalformedMessage: not a ciphertext of this code.
        """
        return self.load(data).seed if self._seeded(data) else None

    def _seeded(self, data: bytes) -> bool:
        """Whether one polynomial is missing: two look uniform, and do not fit into less than 2·n·log₂(q) bits."""
        return 8 * len(data) < 1.75 * self.code.slots * self.code.parameters.wire_bits

    def _expanded(self, sealed: Any) -> bytes:
        words, first = sealed.dyn_array(), self.code.slots  # the second polynomial comes after n coefficients
        return b"".join(words.at(first + i).to_bytes(8, "little") for i in range(SEED_WORDS))


class PublicKey:
    """Encrypts. ``repr`` shows the key's name. Pickles as its bytes.

    Args:
        code: that of the secret key.
        data: the bytes from :meth:`to_bytes`.

    Raises:
        MalformedMessage: not a public key of this code.
    """

    def __init__(self, code: Code, data: bytes) -> None:
        self.code = code
        self.key_id = _name("public", code, data)
        self._data = data
        ring = seal.context(code.parameters)
        self._encryptor = seal.api().Encryptor(ring.seal, ring.load(seal.api().PublicKey(), data, "public key"))

    def __repr__(self) -> str:
        return f"<{type(self.code).__name__} public key {self.key_id.hex()}>"

    def __reduce__(self) -> tuple[object, ...]:
        return PublicKey, (self.code, self._data)

    def to_bytes(self) -> bytes:
        """The key in SEAL's format, about 2·n·log₂(qP)/8 bytes. The code is agreed on elsewhere."""
        return self._data

    def encrypt(self, values: npt.NDArray[np.int64]) -> bytes:
        """Encrypt ``[slots] int64`` with fresh randomness: about 2·n·log₂(q)/8 bytes.

        Raises:
            ConfigurationError: not one integer for each slot, or too large for the code. The values are not shown.
        """
        sealed = seal.api().Ciphertext()
        self._encryptor.encrypt(self.code.encode(values), sealed)
        return seal.dump(sealed)


class SecretKey:
    """Encrypts and decrypts, to integers. ``repr`` shows the key's name; the key itself has no accessor.

    Args:
        code: ring, moduli and scale; a fresh key is generated.
    """

    def __init__(self, code: Code) -> None:
        self._hold(code, seal.api().KeyGenerator(seal.context(code.parameters).seal).secret_key())

    def _hold(self, code: Code, secret: Any) -> None:
        ring, api = seal.context(code.parameters), seal.api()
        self.code = code
        self._secret = secret
        self._encryptor, self._decryptor = api.Encryptor(ring.seal, secret), api.Decryptor(ring.seal, secret)

    def __repr__(self) -> str:
        return f"<{type(self.code).__name__} secret key {self.key_id.hex()}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("A secret key is not copied, pickled or sent.")

    @cached_property
    def public(self) -> PublicKey:
        """The public key, made when first asked for."""
        ring, api = seal.context(self.code.parameters), seal.api()
        public = api.PublicKey()
        api.KeyGenerator(ring.seal, self._secret).create_public_key(public)
        return PublicKey(self.code, seal.dump(public))

    @property
    def key_id(self) -> bytes:
        """The key's name, 16 bytes: that of its public key."""
        return self.public.key_id

    def encrypt(self, values: npt.NDArray[np.int64]) -> bytes:
        """Encrypt ``[slots] int64`` under the secret key, with a fresh seed for the second polynomial: half the size.

        Raises:
            ConfigurationError: not one integer for each slot, or too large for the code. The values are not shown.
        """
        return seal.dump(self._encryptor.encrypt_symmetric(self.code.encode(values)))

    def decrypt(self, data: bytes, *, additions: int | None = None, ciphertexts: int = 1) -> npt.NDArray[np.int64]:
        """``[slots] int64``, the exact sum.

        Args:
            data: a ciphertext's bytes.
            additions: how many encryptions were added, if known: more noise than those can have is refused too.
            ciphertexts: how many make up the whole sum; honest ones are refused with the stated probability in all.

        Raises:
            DecryptionFailed: a wrong key, an overflow, or a ciphertext that is no sum of so many encryptions, as far as
                noise can show it: see the code's ``decode``. The value is not shown.
            MalformedMessage: not a ciphertext of this code.
        """
        sealed = seal.context(self.code.parameters).ciphertext(data, self.code.scale)
        return self.code.decode(self._decryptor, sealed, additions, ciphertexts)


class SharedSecretKey(SecretKey):
    """A secret key that every client holds: it can be sent and pickled.

    **Does not hide** anything from any holder: one of them together with whoever sees ciphertexts reads every vector.

    Args:
        code: ring, moduli and scale; a fresh key is generated.
    """

    @classmethod
    def from_bytes(cls, code: Code, data: bytes) -> SharedSecretKey:
        """The key from :meth:`to_bytes`.

        Raises:
            MalformedMessage: not a secret key of this code. Nothing of it is shown.
        """
        key = cls.__new__(cls)
        ring = seal.context(code.parameters)
        key._hold(code, ring.load(seal.api().SecretKey(), data, "secret key"))
        return key

    def __reduce__(self) -> tuple[object, ...]:
        return SharedSecretKey.from_bytes, (self.code, self.to_bytes())

    @cached_property
    def _data(self) -> bytes:
        return seal.dump(self._secret)

    def to_bytes(self) -> bytes:
        """The secret in SEAL's format, about n·log₂(qP)/8 bytes. The code is agreed on elsewhere."""
        return self._data

    @property
    def key_bytes(self) -> int:
        """Bytes that each client is sent."""
        return len(self._data)

    @cached_property
    def key_id(self) -> bytes:
        """The key's name, 16 bytes: a hash of the secret, as a random oracle; its 3000 bits of entropy hide it."""
        return _name("secret", self.code, self._data)


def _name(kind: str, code: Code, data: bytes) -> bytes:
    return hashlib.sha256(f"fedpriv/lattice/{kind}".encode() + code.digest() + data).digest()[:KEY_ID]
