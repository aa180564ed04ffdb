"""Masks: the keystream of AES-256 in counter mode (NIST SP 800-38A) or of ChaCha20 (RFC 8439), added to a vector in
pieces that stay in the cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeAlias, get_args

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fedpriv.crypto.wire import Words
from fedpriv.errors import ConfigurationError

MaskCipher: TypeAlias = Literal["aes-256-ctr", "chacha20"]
"""AES-256-CTR is the faster one where the processor has instructions for AES, ChaCha20 where it has none."""
MASK_CIPHERS: tuple[MaskCipher, ...] = get_args(MaskCipher)

PIECE = 1 << 17
"""Bytes of a vector that are masked at a time: piece, keystream and zeros together stay in the second-level cache."""
_OPEN = 64
"""Keystreams that run side by side over one piece."""
_ZEROS = bytes(PIECE)
_START = bytes(16)
_AES_BLOCK, _CHACHA_BLOCK = 16, 64
_CHACHA_BYTES = _CHACHA_BLOCK << 32
"""What one key and nonce give, before the block counter is back at 0."""
_WORTH_THREADS = 64
"""Pieces of keystream from which on threads save more than they cost."""
_LONG = 16
"""Pieces of a vector from which on they do: the parts of a shorter one are too small."""
_most_cores = 1 << 16


def keystream(key: bytes, start: bytes = _START, *, cipher: MaskCipher = "aes-256-ctr") -> CipherContext:
    """The keystream of a 32-byte key. A mask is the keystream from block 0 (a part of it, from its first block),
    whatever the vector: a key must be used for one vector only.

    Args:
        key: 32 bytes.
        start: 16 bytes. AES: the first counter block. ChaCha20: the first block's number, 4 bytes little-endian, and
            the nonce, 12 bytes, zero in a mask.
        cipher: ``"aes-256-ctr"`` or ``"chacha20"``.

    Raises:
        ConfigurationError: another cipher.
    """
    match cipher:
        case "aes-256-ctr":
            return Cipher(AES256(key), CTR(start)).encryptor()
        case "chacha20":
            return Cipher(ChaCha20(key, start), None).encryptor()
        case _:
            raise ConfigurationError(
                f"Masks come from one of {', '.join(MASK_CIPHERS)}.", value=cipher, remedy='Use "aes-256-ctr".'
            )


def expand(key: bytes, length: int, *, cipher: MaskCipher = "aes-256-ctr") -> bytes:
    """The first ``length`` bytes of a key's keystream.

    Raises:
        ConfigurationError: another cipher, or a length beyond its keystream.
    """
    _within(length, cipher)
    return keystream(key, cipher=cipher).update(bytes(length))


def mask(
    target: Words,
    *,
    add: Iterable[bytes] = (),
    subtract: Iterable[bytes] = (),
    cipher: MaskCipher = "aes-256-ctr",
    threads: int | None = None,
) -> None:
    """Add and subtract the expansion of each 32-byte key, word by word, modulo 2^(bits of a word), in place.

    Guarantees: with a fresh secret key the mask is indistinguishable from uniform over the words' whole range.
    Assumes: AES-256 is a pseudorandom permutation, or the block function of ChaCha20 a pseudorandom function; each key
        masks one vector, once.
    Does not hide: the vector's length.
    Reference: NIST SP 800-38A, section 6.5; RFC 8439, section 2.4.

    Args:
        target: contiguous unsigned words, little-endian.
        add: keys whose masks are added.
        subtract: keys whose masks are subtracted.
        cipher: ``"aes-256-ctr"`` or ``"chacha20"``.
        threads: how many parts of the vector are masked side by side; None: one a core, where there is enough to do.

    Raises:
        ConfigurationError: another cipher, or a vector longer than its keystream (ChaCha20: 2^32 blocks of 64 bytes).
    """
    _within(target.nbytes, cipher)
    work = ((tuple(add), np.add), (tuple(subtract), np.subtract))
    pieces = -(-target.nbytes // PIECE)
    if threads is None:
        enough = pieces >= _LONG and pieces * sum(len(keys) for keys, _ in work) >= _WORTH_THREADS
        threads = _cores() if enough else 1
    part = max(1, -(-pieces // threads)) * (PIECE // target.itemsize)
    starts = range(0, target.size, part)

    def run(start: int) -> None:
        origin = _at(start * target.itemsize, cipher)
        for keys, operation in work:
            for first in range(0, len(keys), _OPEN):
                streams = [keystream(key, origin, cipher=cipher) for key in keys[first : first + _OPEN]]
                _run(target[start : start + part], streams, operation)

    if len(starts) <= 1:
        for start in starts:
            run(start)
        return
    # Ciphers and numpy let go of the interpreter's lock. Threads end with the call, so that a fork meets none of them.
    with ThreadPoolExecutor(len(starts)) as pool:
        for _ in pool.map(run, starts):
            pass


def use_cores(most: int) -> None:
    """Let masks take this many cores of this process at most: where several processes share the machine."""
    global _most_cores
    _most_cores = most


def _cores() -> int:
    return min(_most_cores, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def _within(size: int, cipher: MaskCipher) -> None:
    if cipher == "chacha20" and size > _CHACHA_BYTES:
        raise ConfigurationError(
            f"ChaCha20 gives {_CHACHA_BYTES} bytes for a key: 2^32 blocks of 64.",
            value=size,
            remedy='Use "aes-256-ctr", or sum the vector in parts.',
        )


def _at(offset: int, cipher: MaskCipher) -> bytes:
    """Where a mask's keystream starts for the part at ``offset`` bytes, a multiple of every block."""
    if cipher == "chacha20":
        return (offset // _CHACHA_BLOCK).to_bytes(4, "little") + bytes(12)
    return (offset // _AES_BLOCK).to_bytes(16, "big")


def _run(target: Words, streams: Sequence[CipherContext], operation: np.ufunc) -> None:
    """Piece by piece, each keystream in turn: the piece of the vector is read and written in the cache."""
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
