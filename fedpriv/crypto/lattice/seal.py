"""The door to SEAL: the only module that loads TenSEAL, whose ``sealapi`` exposes Microsoft SEAL 4 as it is.

SEAL's own objects instead of TenSEAL's vectors: one-prime rings, complex slots, seeded ciphertexts of half the size,
and every part of a ciphertext checked before it is used. Everything runs on the calling thread; TenSEAL's thread pool,
which does not survive a fork, is never created. Parallel work belongs in spawned processes, where contexts are rebuilt
from their parameters (about a millisecond).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from fedpriv.crypto.lattice.parameters import BFVParameters, Parameters
from fedpriv.errors import ConfigurationError, MalformedMessage

_HEADER = 16  # bytes of SEAL's header; the last eight are the length of the whole


def api() -> Any:
    """``tenseal.sealapi``, loaded when first used: ``import fedpriv`` stays light."""
    import tenseal.sealapi  # type: ignore[import-untyped]

    return tenseal.sealapi


class Context:
    """What SEAL derives from parameters, without any key. One for each process and parameters: :func:`context`."""

    def __init__(self, parameters: Parameters) -> None:
        seal = api()
        exact = isinstance(parameters, BFVParameters)
        chosen = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV if exact else seal.SCHEME_TYPE.CKKS)
        chosen.set_poly_modulus_degree(parameters.degree)
        chosen.set_coeff_modulus([seal.Modulus(prime) for prime in parameters.primes])
        if isinstance(parameters, BFVParameters):
            chosen.set_plain_modulus(parameters.plain_modulus)
        self.parameters = parameters
        self.seal = seal.SEALContext(chosen, True, seal.SEC_LEVEL_TYPE.TC128)
        if not self.seal.parameters_set():  # its own security table, primes, and coprimality
            raise ConfigurationError(
                "SEAL accepts the parameters at 128-bit security.",
                value=f"{parameters!r}: {self.seal.parameters_error_message()}",
                remedy="Use parameters of the presets.",
            )
        self.transformed = not exact
        """Whether ciphertexts are held in the transform's domain, as CKKS's are."""
        self.encoder = (seal.BatchEncoder if exact else seal.CKKSEncoder)(self.seal)
        self.evaluator = seal.Evaluator(self.seal)

    def plaintext(self) -> Any:
        return api().Plaintext()

    def ciphertext(self, data: bytes, scale: float) -> Any:
        """A SEAL ciphertext from its bytes, seeded or not.

        Raises:
            MalformedMessage: not a ciphertext of two polynomials mod q, in this ring and form and at this scale, or one
                whose second polynomial is zero, which hides nothing.
        """
        loaded = self.load(api().Ciphertext(), data, "ciphertext")  # SEAL checks the ring, q and every coefficient
        fits = (
            loaded.size() == 2
            and loaded.is_ntt_form() == self.transformed
            and loaded.scale == scale
            and not loaded.is_transparent()
        )
        if not fits:
            raise _malformed("ciphertext", len(data))
        return loaded

    def load(self, blank: Any, data: bytes, kind: str) -> Any:
        """Fill a blank SEAL object from bytes; SEAL checks that they belong to this context.

        Raises:
            MalformedMessage: truncated, extended, damaged, or of another ring. The bytes are not shown.
        """
        if len(data) < _HEADER or int.from_bytes(data[8:_HEADER], "little") != len(data):
            raise _malformed(kind, len(data))
        with _file() as (handle, path):
            _write(handle, data)
            try:
                blank.load(self.seal, path)
            except (ValueError, RuntimeError, IndexError, MemoryError) as error:
                raise _malformed(kind, len(data)) from error
        return blank


@cache
def context(parameters: Parameters) -> Context:
    """The context of these parameters, built once per process."""
    return Context(parameters)


def dump(sealed: Any) -> bytes:
    """A SEAL object serialised and compressed (zstd)."""
    with _file() as (handle, path):
        sealed.save(path)
        return _read(handle)


@contextmanager
def _file() -> Iterator[tuple[int, str]]:
    """A file for SEAL, which saves to and loads from paths only: in memory where the system offers that (Linux).

    Elsewhere it is a file that only this user can open, in the temporary directory, removed at once: a shared secret
    key that is saved there touches the disk.
    """
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("seal")
        try:
            yield handle, f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
    else:
        handle, path = tempfile.mkstemp(prefix="seal-")
        try:
            yield handle, path
        finally:
            os.close(handle)
            os.unlink(path)


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _read(handle: int) -> bytes:
    os.lseek(handle, 0, os.SEEK_SET)
    return b"".join(iter(lambda: os.read(handle, 1 << 20), b""))


def _malformed(kind: str, size: int) -> MalformedMessage:
    return MalformedMessage(
        f"A {kind} is what SEAL serialises in the agreed ring; a ciphertext has two polynomials and the agreed scale.",
        value=f"{size} bytes",
        remedy="Drop the sender or the attempt; check that both ends use the same parameters.",
    )
