"""What a holder of TenSEAL's bytes can read in them: for attacks on the usual way of using TenSEAL, and for papers.

fedpriv's own encryption does not go this way. Nothing here needs a secret key: the polynomials of a ciphertext are
plain data to everybody who has it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from fedpriv.crypto.lattice.ring import RawCiphertext, from_seal
from fedpriv.errors import MalformedMessage


def read(context: bytes, vector: bytes) -> list[RawCiphertext]:
    """The ciphertexts of a serialised ``tenseal.ckks_vector``, modulo the first prime of the chain.

    Args:
        context: what ``Context.serialize()`` gives, with or without keys; parameters are all that is read.
        vector: what ``CKKSVector.serialize()`` gives; a vector longer than the slots has several ciphertexts.

    Raises:
        MalformedMessage: not a context, or not a CKKS vector of it with two polynomials for each ciphertext.
    """
    import tenseal  # type: ignore[import-untyped]

    try:
        loaded = tenseal.context_from(context, n_threads=1)
        parts = tenseal.ckks_vector_from(loaded, vector).ciphertext()
        if not parts:
            raise ValueError("no ciphertext")  # TenSEAL takes empty bytes for an empty vector
        modulus = _first_prime(loaded)
        return [_polynomials(part, modulus) for part in parts]
    except (ValueError, RuntimeError, IndexError) as error:
        raise MalformedMessage(
            "Bytes of a TenSEAL context and of a CKKS vector under it, two polynomials each.",
            value=f"{len(context)} and {len(vector)} bytes",
            remedy="Serialise both with TenSEAL, the vector before any multiplication that is not relinearised.",
        ) from error


def _polynomials(ciphertext: Any, modulus: int) -> RawCiphertext:
    degree = ciphertext.poly_modulus_degree()
    if ciphertext.size() != 2 or not ciphertext.is_ntt_form():
        raise ValueError("not two transformed polynomials")
    stride = degree * ciphertext.coeff_modulus_size()  # a polynomial's residues modulo each prime, one after another
    values = [[ciphertext[start + i] for i in range(degree)] for start in (0, stride)]
    return RawCiphertext(
        parts=from_seal(np.array(values, dtype=object), modulus), modulus=modulus, scale=float(ciphertext.scale)
    )


def _first_prime(context: Any) -> int:
    """It stays in the modulus at every level. TenSEAL's parameters list no primes: they go through SEAL's bytes."""
    from tenseal import sealapi

    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    with _scratch() as path:
        context.seal_context().data.key_context_data().parms().save(path)
        parameters.load(path)
    return int(parameters.coeff_modulus()[0].value())


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A path for public bytes."""
    descriptor, path = tempfile.mkstemp()
    os.close(descriptor)
    try:
        yield path
    finally:
        os.remove(path)
