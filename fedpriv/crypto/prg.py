"""Masks: AES-256 in counter mode (NIST SP 800-38A), added to a vector in pieces that stay in the cache."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

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
_BLOCK = 16
_START = bytes(_BLOCK)
_WORTH_THREADS = 64
"""Pieces of keystream from which on threads save more than they cost."""


def keystream(key: bytes, start: bytes = _START) -> CipherContext:
    """AES-256-CTR. A mask is the keystream from counter 0 (a part of it, from the counter of its first block), whatever
    the vector: a key must be used for one vector only.
    """
    return Cipher(AES256(key), CTR(start)).encryptor()


def expand(key: bytes, length: int) -> bytes:
    """The first ``length`` bytes of a key's keystream."""
    return keystream(key).update(bytes(length))


def mask(
    target: Words, *, add: Iterable[bytes] = (), subtract: Iterable[bytes] = (), threads: int | None = None
) -> None:
    """Add and subtract the expansion of each 32-byte key, word by word, modulo 2^(bits of a word), in place.

    Guarantees: with a fresh secret key the mask is indistinguishable from uniform over the words' whole range.
    Assumes: AES-256 is a pseudorandom permutation; each key masks one vector, once.

    Args:
        target: contiguous unsigned words, little-endian.
        add: keys whose masks are added.
        subtract: keys whose masks are subtracted.
        threads: how many parts of the vector are masked side by side; None: one a core, where there is enough to do.
    """
    work = ((tuple(add), np.add), (tuple(subtract), np.subtract))
    pieces = -(-target.nbytes // PIECE)
    if threads is None:
        enough = pieces * sum(len(keys) for keys, _ in work) >= _WORTH_THREADS
        threads = len(os.sched_getaffinity(0)) if enough and hasattr(os, "sched_getaffinity") else 1
    part = max(1, -(-pieces // threads)) * (PIECE // target.itemsize)
    starts = range(0, target.size, part)

    def run(start: int) -> None:
        for keys, operation in work:
            for first in range(0, len(keys), _OPEN):
                _run(target[start : start + part], start * target.itemsize, keys[first : first + _OPEN], operation)

    if len(starts) <= 1:
        for start in starts:
            run(start)
        return
    # AES and numpy let go of the interpreter's lock. Threads end with the call, so that a fork meets none of them.
    with ThreadPoolExecutor(len(starts)) as pool:
        for _ in pool.map(run, starts):
            pass


def _run(target: Words, offset: int, keys: Sequence[bytes], operation: np.ufunc) -> None:
    """Piece by piece, each keystream in turn: the piece of the vector is read and written in the cache."""
    counter = (offset // _BLOCK).to_bytes(_BLOCK, "big")
    streams = [keystream(key, counter) for key in keys]
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
