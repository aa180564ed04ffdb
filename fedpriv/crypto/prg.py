"""Masks: AES-256 in counter mode (NIST SP 800-38A), added to a vector in pieces that stay in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fedpriv.crypto.wire import Words

PIECE = 1 << 17
"""Bytes of a vector that are masked at a time: piece, keystream and zeros together stay in the second-level cache."""
_OPEN = 64
"""Keystreams that run side by side over one piece."""
_ZEROS = bytes(PIECE)
_START = bytes(16)


def keystream(key: bytes, start: bytes = _START) -> CipherContext:
    """AES-256-CTR. Masks start the 16-byte counter at 0 always, so a key must be used for one vector only."""
    return Cipher(AES256(key), CTR(start)).encryptor()


def expand(key: bytes, length: int) -> bytes:
    """The first ``length`` bytes of a key's keystream."""
    return keystream(key).update(bytes(length))


def mask(target: Words, *, add: Iterable[bytes] = (), subtract: Iterable[bytes] = ()) -> None:
    """Add and subtract the expansion of each 32-byte key, word by word, modulo 2^(bits of a word), in place.

    Guarantees: with a fresh secret key the mask is indistinguishable from uniform over the words' whole range.
    Assumes: AES-256 is a pseudorandom permutation; each key masks one vector, once.

    Args:
        target: contiguous unsigned words, little-endian.
        add: keys whose masks are added.
        subtract: keys whose masks are subtracted.
    """
    for keys, operation in ((iter(add), np.add), (iter(subtract), np.subtract)):
        while batch := list(islice(keys, _OPEN)):
            _run(target, batch, operation)


def _run(target: Words, keys: Sequence[bytes], operation: np.ufunc) -> None:
    """Piece by piece, each keystream in turn: the piece of the vector is read and written in the cache."""
    streams = [keystream(key) for key in keys]
    words = PIECE // target.itemsize
    scratch = bytearray(min(PIECE, target.nbytes) + 15)  # update_into asks for a block less one byte to spare
    masks = np.frombuffer(scratch, dtype=target.dtype, count=min(words, target.size))
    zeros = memoryview(_ZEROS)
    for start in range(0, target.size, words):
        piece = target[start : start + words]
        drawn = masks[: piece.size]
        blank = zeros[: piece.nbytes]
        for stream in streams:
            stream.update_into(blank, scratch)
            operation(piece, drawn, out=piece)
