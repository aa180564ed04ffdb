"""CKKS through TenSEAL: encrypt vectors of integers, add ciphertexts, decrypt the exact integers.

The only module that touches TenSEAL. Everything runs on one thread: SEAL gains nothing from more on vectors of this
size, and TenSEAL's thread pool does not survive a fork.

**Guarantees** IND-CPA at 128 bits by the table of the HomomorphicEncryption.org standard. A decryption gives integers
that are exact with the probability derived in :mod:`fedpriv.crypto.lattice.legacy_noise`, or :class:`DecryptionFailed`.

**Assumes** ring-LWE with ternary secrets; ciphertexts that were made and added honestly. SEAL seeds its generator from
``/dev/urandom`` for every key and ciphertext (``randomgen.cpp``).

**Does not hide** anything from one who chooses ciphertexts and sees decryptions (no IND-CCA). CKKS decryptions as
floating-point numbers give away the secret key, and two suffice; here they stay inside :class:`SecretKey`, which
returns rounded integers only. That the known attack fails on integers is not a proof.

**Reference** Cheon, Kim, Kim, Song 2017; Albrecht et al. 2018 (standard, table 1); Li and Micciancio 2021 (section 3).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpriv.errors import ConfigurationError, DecryptionFailed, MalformedMessage

MAX_MODULUS_BITS = {2048: 54, 4096: 109, 8192: 218, 16384: 438}
"""Ring degree → the largest log₂(qP) at 128-bit classical security with a ternary secret (Albrecht et al. 2018)."""

KEY_ID = 16
"""Bytes of a key's name: truncated SHA-256 of the serialised public key."""


@dataclass(frozen=True, kw_only=True)
class CKKSParameters:
    """Ring and moduli for additions only: one modulus on the wire, one special prime.

    Args:
        degree: n, the ring degree; a ciphertext holds n/2 slots.
        moduli: bits of q and of the special prime P. A large P makes public-key noise small (it is divided by P).

    Raises:
        ConfigurationError: not two moduli of 30 to 60 bits, or more bits than 128-bit security allows.
    """

    degree: int = 4096
    moduli: tuple[int, int] = (60, 49)

    def __post_init__(self) -> None:
        limit = MAX_MODULUS_BITS.get(self.degree)
        if limit is None:
            raise ConfigurationError(
                "The ring degree is a power of two in the security table.",
                value=self.degree,
                remedy=f"Use one of {sorted(MAX_MODULUS_BITS)}.",
            )
        if len(self.moduli) != 2 or not all(30 <= bits <= 60 for bits in self.moduli):
            raise ConfigurationError(
                "Additions need two moduli of 30 to 60 bits: the wire's and the special prime.",
                value=self.moduli,
                remedy="Use (60, 49).",
            )
        if sum(self.moduli) > limit:
            raise ConfigurationError(
                f"At degree {self.degree} the moduli have at most {limit} bits in all for 128-bit security.",
                value=sum(self.moduli),
                remedy="Use smaller moduli or a larger degree.",
            )

    @property
    def slots(self) -> int:
        """Values in one ciphertext."""
        return self.degree // 2

    def scale_for(self, largest: int) -> float:
        """The largest power of two Δ with largest · Δ + noise < q/2, for any noise below Δ.

        q has ``moduli[0]`` bits, so q/2 ≥ 2^(moduli[0] − 2); |sum| < 2^b leaves Δ = 2^(moduli[0] − 2 − b).
        """
        return 2.0 ** (self.moduli[0] - 2 - largest.bit_length())

    def digest(self) -> bytes:
        """A hash of the parameters, 32 bytes."""
        return hashlib.sha256(f"CKKS/{self.degree}/{self.moduli}".encode()).digest()


class Ciphertext:
    """One encrypted vector of n/2 slots, or a sum of such."""

    __slots__ = ("_vector",)

    def __init__(self, vector: Any) -> None:
        self._vector = vector

    def to_bytes(self) -> bytes:
        """Serialised (SEAL's format, compressed), about 2·n·log₂(q)/8 bytes."""
        return bytes(self._vector.serialize())


class Adder:
    """Adds ciphertexts. Holds the parameters and no key.

    Args:
        parameters: those of the key.
        scale: Δ that every ciphertext must have.
    """

    def __init__(self, parameters: CKKSParameters, scale: float) -> None:
        self._parameters, self._scale = parameters, scale
        blank = _new_context(parameters)
        self._context = _load_context(_dump_context(blank, public_key=False))

    def load(self, data: bytes) -> Ciphertext:
        """A ciphertext from its bytes.

        Raises:
            MalformedMessage: not a ciphertext of these parameters and this scale.
        """
        return Ciphertext(_load_vector(self._context, data, self._parameters, self._scale))

    def add(self, total: Ciphertext, other: Ciphertext) -> None:
        """``total += other``, in place."""
        total._vector.add_(other._vector)


class PublicKey:
    """Encrypts. ``repr`` shows the key's name.

    Args:
        parameters: those of the key.
        data: the bytes from :meth:`to_bytes`.
    """

    def __init__(self, parameters: CKKSParameters, data: bytes) -> None:
        self.parameters = parameters
        self._data = data
        self._context = _load_context(data)
        self.key_id = hashlib.sha256(data).digest()[:KEY_ID]

    def __repr__(self) -> str:
        return f"<CKKS public key {self.key_id.hex()}>"

    def to_bytes(self) -> bytes:
        """Parameters and public key, about 125 kB."""
        return self._data

    def encrypt(self, values: npt.NDArray[np.float64], scale: float) -> bytes:
        """Encrypt ``[slots] float64`` with fresh randomness.

        Raises:
            ConfigurationError: not one value for each slot, not finite, or |value| · scale not below 2^(bits of q − 2).
                The values are not shown.
        """
        if values.shape != (self.parameters.slots,):
            raise ConfigurationError(
                f"A ciphertext holds {self.parameters.slots} values.", value=values.shape, remedy="Pad with zeros."
            )
        if not np.abs(values).max() * scale < 2.0 ** (self.parameters.moduli[0] - 2):  # also true of NaN
            raise ConfigurationError(
                "Encoded values stay below a quarter of the modulus.", remedy="Use scale_for(largest sum)."
            )
        return bytes(_tenseal().ckks_vector(self._context, values.tolist(), scale).serialize())


class SecretKey:
    """Decrypts, to integers. ``repr`` shows the key's name; the key itself has no accessor.

    Args:
        parameters: ring and moduli; a fresh key is generated.
    """

    def __init__(self, parameters: CKKSParameters) -> None:
        self._context = _new_context(parameters)
        self.public = PublicKey(parameters, _dump_context(self._context, public_key=True))

    def __repr__(self) -> str:
        return f"<CKKS secret key {self.public.key_id.hex()}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("A secret key is not copied, pickled or sent.")

    def decrypt(self, data: bytes, *, scale: float, tolerance: float) -> npt.NDArray[np.int64]:
        """``[slots] int64``: the integers nearest to the decrypted slots.

        Raises:
            DecryptionFailed: a slot lies ``tolerance`` or farther from every integer: a wrong key, an overflow, or a
                ciphertext that is no sum of encryptions. The value is not shown.
            MalformedMessage: not a ciphertext.
        """
        slots = self._floats(data, scale)
        nearest = np.rint(slots)
        if not np.isfinite(slots).all() or np.abs(slots).max() >= 2.0**53 or np.abs(slots - nearest).max() >= tolerance:
            raise DecryptionFailed(
                f"Every decrypted slot lies within {tolerance} of an integer.",
                remedy="The key, the scale or the additions are wrong; discard the ciphertext and the attempt.",
            )
        return nearest.astype(np.int64)

    def _floats(self, data: bytes, scale: float) -> npt.NDArray[np.float64]:
        """The raw decryption. It must not leave this module: two of them give away the key."""
        vector = _load_vector(self._context, data, self.public.parameters, scale)
        return np.asarray(vector.decrypt(), dtype=np.float64)


def _tenseal() -> Any:
    """Loaded when first used: ``import fedpriv`` stays light."""
    import tenseal  # type: ignore[import-untyped]

    return tenseal


def _new_context(parameters: CKKSParameters) -> Any:
    tenseal = _tenseal()
    return tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, parameters.degree, coeff_mod_bit_sizes=list(parameters.moduli), n_threads=1
    )


def _dump_context(context: Any, *, public_key: bool) -> bytes:
    return bytes(
        context.serialize(
            save_public_key=public_key, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
    )


def _load_context(data: bytes) -> Any:
    try:
        return _tenseal().context_from(data, n_threads=1)
    except (ValueError, RuntimeError) as error:
        raise MalformedMessage(
            "A CKKS context is what TenSEAL serialises.", value=f"{len(data)} bytes", remedy="Fetch the key again."
        ) from error


def _load_vector(context: Any, data: bytes, parameters: CKKSParameters, scale: float) -> Any:
    """TenSEAL accepts empty bytes and foreign scales: whatever it returns is checked."""
    try:
        vector = _tenseal().ckks_vector_from(context, data)
        parts = vector.ciphertext()
        fits = (
            vector.size() == parameters.slots and len(parts) == 1 and parts[0].size() == 2 and parts[0].scale == scale
        )
    except (ValueError, RuntimeError, IndexError) as error:
        raise _malformed() from error
    if not fits:
        raise _malformed()
    return vector


def _malformed() -> MalformedMessage:
    return MalformedMessage(
        "A ciphertext has two polynomials, all slots, and the agreed degree, modulus and scale.",
        remedy="Drop the sender or the attempt; check that both ends use the same parameters.",
    )
