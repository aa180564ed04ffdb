"""CKKS's code: n integers ↔ n/2 complex slots of a polynomial, at a scale.

The first half of the integers are the real parts, the second half the imaginary parts: additions treat both alike, so
one ciphertext carries twice what the usual real packing does.

**Reference** Cheon, Kim, Kim, Song 2017 (section 3.2).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpriv.crypto.lattice import ckks_noise, seal
from fedpriv.crypto.lattice.parameters import CKKSParameters
from fedpriv.errors import ConfigurationError, DecryptionFailed

TOLERANCE = 0.25
"""Slots this far from the integers are a failure. Rounding would bear twice that; plans are proved to stay below it."""


@dataclass(frozen=True)
class CKKSCode:
    """What both ends of a CKKS ciphertext agree on. Holds no key.

    Args:
        parameters: ring and moduli.
        scale: Δ > 0, what encoded integers are multiplied with; see :meth:`CKKSParameters.scale_for`.

    Raises:
        ConfigurationError: a scale that is not positive and below q/4.
    """

    parameters: CKKSParameters
    scale: float

    def __post_init__(self) -> None:
        if not 0 < self.scale < self.parameters.primes[0] / 4:
            raise ConfigurationError(
                "A scale is positive and below a quarter of the modulus.",
                value=self.scale,
                remedy="Use parameters.scale_for(largest sum).",
            )

    @property
    def slots(self) -> int:
        """Integers in one ciphertext: n."""
        return self.parameters.slots

    @property
    def largest(self) -> int:
        """The largest |value| of one upload: SEAL encodes coefficients below 2^(bits of q − 2), and numpy to 2^53."""
        return min(2**53, math.floor(2.0 ** (self.parameters.wire_bits - 2) / (self.scale * math.sqrt(2))))

    def digest(self) -> bytes:
        """A hash of parameters and scale, 32 bytes."""
        return hashlib.sha256(self.parameters.digest() + self.scale.hex().encode()).digest()

    def encode(self, values: npt.NDArray[np.int64]) -> Any:
        """``[slots] int64`` as a SEAL plaintext.

        Raises:
            ConfigurationError: not one integer for each slot, or beyond ±largest. The values are not shown.
        """
        check_values(values, self.slots, self.largest)
        ring = seal.context(self.parameters)
        half = self.slots // 2
        plain = ring.plaintext()
        ring.encoder.encode((values[:half] + 1j * values[half:]).tolist(), self.scale, plain)
        return plain

    def floats(self, decryptor: Any, ciphertext: Any) -> npt.NDArray[np.complex128]:
        """The raw decryption ``[n/2]``. It must not leave this package: two of them give away the key."""
        ring = seal.context(self.parameters)
        plain = ring.plaintext()
        decryptor.decrypt(ciphertext, plain)
        return np.array(ring.encoder.decode_complex(plain), dtype=np.complex128)

    def decode(
        self, decryptor: Any, ciphertext: Any, additions: int | None, ciphertexts: int = 1
    ) -> npt.NDArray[np.int64]:
        """``[slots] int64``: the integers nearest to the decrypted slots.

        Raises:
            DecryptionFailed: a slot lies farther from every integer than :data:`TOLERANCE`, or than the proved bound
                for sums of ``additions`` public-key encryptions in so many ``ciphertexts`` where that is smaller. Of an
                honest sum this refuses any with probability below 2^-60. The value is not shown.
        """
        slots = self.floats(decryptor, ciphertext)
        values = np.concatenate([slots.real, slots.imag])
        nearest = np.rint(values)
        tolerance = TOLERANCE if additions is None else min(TOLERANCE, self._bound(additions, ciphertexts))
        if not (np.abs(values).max() < 2.0**53 and np.abs(values - nearest).max() < tolerance):  # NaN fails as well
            raise DecryptionFailed(
                f"Every decrypted slot lies within {tolerance:.2g} of an integer.",
                remedy="The key, the scale or the additions are wrong; discard the ciphertext and the attempt.",
            )
        integers: npt.NDArray[np.int64] = nearest.astype(np.int64)
        return integers

    def _bound(self, additions: int, ciphertexts: int) -> float:
        """The error of any sum of so many honest encryptions, over all of its ciphertexts."""
        return ckks_noise.slot_error(
            self.parameters,
            additions=additions,
            slots=ciphertexts * self.slots,
            largest=additions * self.largest,
            scale=self.scale,
            encryption="public",  # the noisier
        ).total


def check_values(values: npt.NDArray[np.int64], slots: int, largest: int) -> None:
    """One integer for each slot, within ±largest."""
    if values.shape != (slots,) or values.dtype.kind != "i":
        raise ConfigurationError(
            f"A ciphertext holds {slots} signed integers.",
            value=f"{values.shape} {values.dtype}",
            remedy="Encode to integers and pad with zeros.",
        )
    if values.max() > largest or values.min() < -largest:
        raise ConfigurationError(
            f"Integers lie within ±{largest} before they are encrypted.", remedy="Use a code for larger sums."
        )
