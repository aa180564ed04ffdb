"""BFV's code: n integers mod t in the slots of a polynomial over ℤ_t. Exact as long as the noise has room.

**Does not hide** that a sum wraps mod t: :class:`BFVParameters` names the largest sum, and plans must stay within it.

**Reference** Fan and Vercauteren 2012; Smart and Vercauteren 2014 (slots); SEAL 4, ``batchencoder.cpp``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpriv.crypto.lattice import bfv_noise, seal
from fedpriv.crypto.lattice.ckks import check_values
from fedpriv.crypto.lattice.parameters import BFVParameters
from fedpriv.errors import DecryptionFailed


@dataclass(frozen=True)
class BFVCode:
    """What both ends of a BFV ciphertext agree on. Holds no key.

    Args:
        parameters: ring, moduli and plaintext modulus.
    """

    parameters: BFVParameters

    @property
    def slots(self) -> int:
        """Integers in one ciphertext: n."""
        return self.parameters.slots

    @property
    def scale(self) -> float:
        """1: BFV has no scale of its own, and SEAL marks its ciphertexts so."""
        return 1.0

    @property
    def largest(self) -> int:
        """The largest |value| of one upload, and of a sum."""
        return self.parameters.largest

    def digest(self) -> bytes:
        """A hash of the parameters, 32 bytes."""
        return self.parameters.digest()

    def encode(self, values: npt.NDArray[np.int64]) -> Any:
        """``[slots] int64`` as a SEAL plaintext.

        Raises:
            ConfigurationError: not one integer for each slot, or beyond ±largest. The values are not shown.
        """
        check_values(values, self.slots, self.largest)
        ring = seal.context(self.parameters)
        plain = ring.plaintext()
        ring.encoder.encode(values.tolist(), plain)
        return plain

    def decode(
        self, decryptor: Any, ciphertext: Any, additions: int | None, ciphertexts: int = 1
    ) -> npt.NDArray[np.int64]:
        """``[slots] int64``: the slots mod t, the representatives around zero.

        The measured noise budget is what shows a failure; the integers themselves look sound whatever they are. A
        foreign key, or noise past q/t, leaves a budget of 0 except with probability 2^-n. A sum past ±largest, or
        a ciphertext changed by a multiple of q/t, leaves the budget whole: callers keep sums in bounds, authenticate
        what they decrypt, and check redundancy in it.

        Raises:
            DecryptionFailed: no noise budget is left, or less than sums of ``additions`` public-key encryptions in so
                many ``ciphertexts`` are proved to leave. Of an honest sum this refuses any with probability below
                2^-128.
        """
        ring = seal.context(self.parameters)
        least = 1 if additions is None else max(1, self._budget(additions, ciphertexts))
        if decryptor.invariant_noise_budget(ciphertext) < least:
            raise DecryptionFailed(
                f"A sum has at least {least} bits of noise budget left.",
                remedy="The key or the additions are wrong; discard the ciphertext and the attempt.",
            )
        plain = ring.plaintext()
        decryptor.decrypt(ciphertext, plain)
        return np.array(ring.encoder.decode_int64(plain), dtype=np.int64)

    def _budget(self, additions: int, ciphertexts: int) -> int:
        """What any sum of so many honest encryptions leaves, in bits, in all of its ciphertexts."""
        bound = bfv_noise.noise_bound(
            self.parameters, additions=additions, ciphertexts=ciphertexts, encryption="public"
        )
        return bfv_noise.budget(bound)
