"""FOR ATTACKS AND PAPERS ONLY: what an attacker has, and what a careless release gives away.

Nothing in fedpriv's protocols imports this module. Polynomials of a ciphertext are plain data to everybody who holds
it. :func:`floats` and :func:`secret_coefficients` need the secret key: they stand for the decryptor who releases CKKS's
floating-point values as TenSEAL gives them, and for the truth that a recovered key is checked against.

**Does not hide** the secret key: two results of :func:`floats` determine it (Li and Micciancio 2021).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedpriv.crypto.lattice import ring, seal
from fedpriv.crypto.lattice.ckks import CKKSCode
from fedpriv.crypto.lattice.keys import Code, SecretKey
from fedpriv.crypto.lattice.parameters import Parameters
from fedpriv.errors import ConfigurationError


def modulus(parameters: Parameters) -> int:
    """q, the prime modulo which ciphertexts travel."""
    return parameters.primes[0]


def coefficients(code: Code, data: bytes) -> ring.Polynomial:
    """``[2, n]`` Python integers in [0, q): the coefficients of 1, X, X² … of both polynomials of a ciphertext.

    Seeds are expanded.

    Raises:
        MalformedMessage: not a ciphertext of this code.
    """
    context = seal.context(code.parameters)
    sealed = context.ciphertext(data, code.scale)
    words = _words(sealed.dyn_array(), 2 * code.parameters.degree).reshape(2, -1)
    return ring.from_seal(words, modulus(code.parameters)) if context.transformed else words


def floats(key: SecretKey, data: bytes) -> npt.NDArray[np.complex128]:
    """``[n/2]``: the slots of a CKKS decryption with all their noise, as a user of SEAL gets them.

    **Does not hide** the secret key. Never release them.

    Raises:
        ConfigurationError: not a CKKS key.
        MalformedMessage: not a ciphertext of this key's code.
    """
    if not isinstance(key.code, CKKSCode):
        raise ConfigurationError("Only CKKS decrypts to floating-point numbers.", value=key, remedy="Use a CKKS key.")
    sealed = seal.context(key.code.parameters).ciphertext(data, key.code.scale)
    return key.code.floats(key._decryptor, sealed)


def secret_coefficients(key: SecretKey) -> npt.NDArray[np.int8]:
    """``[n]`` in {−1, 0, 1}: the secret key itself, to check a recovered one against."""
    q = modulus(key.code.parameters)
    words = _words(key._secret.data().dyn_array(), key.code.parameters.degree)  # residues mod q come first
    return ring.centred(ring.from_seal(words, q), q).astype(np.int8)


def _words(words: Any, count: int) -> ring.Polynomial:
    return np.array([words.at(i) for i in range(count)], dtype=object)
