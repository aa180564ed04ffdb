"""Canonical bytes: unambiguous hashes and messages, bit-packed integers, frames that notice damage.

Every structure has exactly one encoding, and a decoder given any other bytes raises :class:`MalformedMessage` and
nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.errors import ContextMismatch, MalformedMessage

Words: TypeAlias = npt.NDArray[np.unsignedinteger]

TAG = 16
"""Bytes of the tag that names the conversation a frame belongs to."""
DIGEST = 16
"""Bytes of a frame's checksum (truncated SHA-256)."""
FRAME = TAG + DIGEST
"""What a frame adds to its payload."""


def u32(value: int) -> bytes:
    """Four bytes, little-endian."""
    return value.to_bytes(4, "little")


def prefixed(*parts: bytes) -> bytes:
    """The parts, each after its length: no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def digest(*parts: bytes) -> bytes:
    """SHA-256 of length-prefixed parts, 32 bytes."""
    return hashlib.sha256(prefixed(*parts)).digest()


def members(subset: Iterable[int], count: int) -> bytes:
    """A subset of 0 … count − 1 as one bit for each: ⌈count / 8⌉ bytes."""
    bits = np.zeros((1, count), dtype="<u2")
    bits[0, list(subset)] = 1
    return pack_rows(bits, 1).tobytes()


class Reader:
    """Takes a message apart from the front.

    Args:
        data: the whole message.
        name: what it should be, for errors.
    """

    def __init__(self, data: bytes | memoryview, name: str) -> None:
        self._data = memoryview(data)
        self._name = name

    def take(self, size: int) -> memoryview:
        """The next ``size`` bytes.

        Raises:
            MalformedMessage: there are fewer.
        """
        if size > len(self._data):
            raise self.malformed(f"{len(self._data)} bytes left where {size} are needed")
        head, self._data = self._data[:size], self._data[size:]
        return head

    def members(self, count: int) -> tuple[int, ...]:
        """A subset of 0 … count − 1, sent as one bit for each; see :func:`members`.

        Raises:
            MalformedMessage: padding that is not zero.
        """
        bits = unpack_rows(self.take(packed_size(count, 1)), count, 1)[0]
        return tuple(np.flatnonzero(bits).tolist())

    def rest(self) -> memoryview:
        """Everything that is left."""
        return self.take(len(self._data))

    def end(self) -> None:
        """Raises MalformedMessage unless everything has been taken."""
        if len(self._data):
            raise self.malformed(f"{len(self._data)} bytes too many")

    def malformed(self, found: str) -> MalformedMessage:
        """The error for this message."""
        return MalformedMessage(
            f"A {self._name} message has its one canonical form.", value=found, remedy="Drop the sender or the attempt."
        )


def frame(tag: bytes, payload: bytes) -> bytes:
    """``tag ‖ payload ‖ checksum``. The checksum notices damage; it is no defence against forgery."""
    checksum = hashlib.sha256(tag)
    checksum.update(payload)
    return b"".join((tag, payload, checksum.digest()[:DIGEST]))


def unframe(tag: bytes, body: bytes) -> memoryview:
    """The payload of a frame.

    Raises:
        MalformedMessage: damaged, truncated or not a frame.
        ContextMismatch: a sound frame of another conversation.
    """
    view = memoryview(body)
    if len(view) < FRAME or not hmac.compare_digest(hashlib.sha256(view[:-DIGEST]).digest()[:DIGEST], view[-DIGEST:]):
        raise MalformedMessage(
            "A message arrives whole.",
            value=f"{len(view)} bytes",
            remedy="Check the channel, then start a new attempt.",
        )
    if view[:TAG] != tag:
        raise ContextMismatch(
            "A message belongs to the same round, attempt, configuration, model, stage and parties as its recipient.",
            remedy="Check that all parties were given the same session; start a new attempt.",
        )
    return view[TAG:-DIGEST]


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` integers of ``bits`` bits take on the wire."""
    return -(-count * bits // 8)


def pack_bits(values: Words, bits: int) -> bytes:
    """``[n]`` unsigned integers → ⌈n · bits / 8⌉ bytes; bits above ``bits`` are ignored (reduction mod 2^bits).

    Blocks of 64 values fill ``bits`` 64-bit words exactly. They are laid out with value i of every block side by side,
    so that packing is a few shifts of long contiguous rows; what is left over follows bit by bit.
    """
    width = values.dtype.itemsize * 8
    if bits == width:
        return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
    blocks = len(values) // 64
    rows = values[: 64 * blocks].reshape(64, blocks)
    words = np.zeros((bits, blocks), dtype="<u8")
    mask = np.uint64((1 << bits) - 1)
    for row in range(64 if blocks else 0):
        word, offset = divmod(row * bits, 64)
        value = rows[row].astype(np.uint64) & mask
        words[word] |= value << np.uint64(offset)
        if offset + bits > 64:
            words[word + 1] |= value >> np.uint64(64 - offset)
    return words.tobytes() + pack_rows(values[None, 64 * blocks :], bits).tobytes()


def unpack_bits(data: bytes | memoryview, count: int, bits: int, dtype: npt.DTypeLike) -> Words:
    """The inverse of :func:`pack_bits`: ``[count]`` of an unsigned dtype at least ``bits`` wide.

    Raises:
        MalformedMessage: a wrong length, or padding that is not zero.
    """
    kind = np.dtype(dtype)
    if len(data) != packed_size(count, bits):
        raise _badly_packed(f"{len(data)} bytes for {count} integers of {bits} bits")
    if bits == kind.itemsize * 8:
        return np.frombuffer(data, dtype=kind.newbyteorder("<")).astype(kind, copy=False)
    blocks = count // 64
    values = np.empty(count, dtype=kind)
    rows = values[: 64 * blocks].reshape(64, blocks)
    words = np.frombuffer(data, dtype="<u8", count=bits * blocks).reshape(bits, blocks)
    mask = np.uint64((1 << bits) - 1)
    for row in range(64 if blocks else 0):
        word, offset = divmod(row * bits, 64)
        value = words[word] >> np.uint64(offset)
        if offset + bits > 64:
            value = value | (words[word + 1] << np.uint64(64 - offset))
        rows[row] = value & mask
    if count % 64:
        values[64 * blocks :] = unpack_rows(memoryview(data)[8 * bits * blocks :], count % 64, bits)[0]
    return values


def pack_rows(rows: Words, bits: int) -> npt.NDArray[np.uint8]:
    """``[r, c]`` unsigned integers → ``[r, packed_size(c)] uint8``, bit by bit, each row by itself; for short rows."""
    count = rows.shape[1]
    single = np.unpackbits(rows.astype("<u8").reshape(-1, 1).view(np.uint8), axis=1, bitorder="little")[:, :bits]
    return np.packbits(single.reshape(len(rows), count * bits), axis=1, bitorder="little")


def unpack_rows(data: bytes | memoryview, count: int, bits: int) -> npt.NDArray[np.uint64]:
    """The inverse of :func:`pack_rows` for rows of ``count`` integers: ``[r, count]``.

    Raises:
        MalformedMessage: not whole rows, or padding that is not zero.
    """
    size = packed_size(count, bits)
    if size == 0 or len(data) % size:
        raise _badly_packed(f"{len(data)} bytes in rows of {size}")
    packed = np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
    single = np.unpackbits(packed, axis=1, bitorder="little")
    if np.any(single[:, count * bits :]):
        raise _badly_packed("padding that is not zero")
    wide = np.zeros((len(packed) * count, 64), dtype=np.uint8)
    wide[:, :bits] = single[:, : count * bits].reshape(-1, bits)
    return np.packbits(wide, axis=1, bitorder="little").view("<u8").reshape(len(packed), count).astype(np.uint64)


def _badly_packed(found: str) -> MalformedMessage:
    return MalformedMessage(
        "Packed integers have their one canonical form.", value=found, remedy="Drop the sender or the attempt."
    )


def word_type(bits: int) -> np.dtype[np.unsignedinteger]:
    """The smallest of uint16, uint32, uint64 that holds ``bits`` bits."""
    return np.dtype("<u2" if bits <= 16 else "<u4" if bits <= 32 else "<u8")
