"""Canonical bytes: unambiguous hashes and messages, bit-packed integers, frames that notice damage.

Every structure has exactly one encoding, and a decoder given any other bytes raises :class:`MalformedMessage` and
nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import GCM

from fedpriv.errors import ContextMismatch, MalformedMessage

Words: TypeAlias = npt.NDArray[np.unsignedinteger]

TAG = 16
"""Bytes of the tag that names the conversation a frame belongs to."""
DIGEST = 16
"""Bytes of a frame's checksum."""
FRAME = TAG + DIGEST
"""What a frame adds to its payload."""
_MOST = 1 << 30
"""Bytes that the cipher takes at a time."""
_SHORT = 1 << 14
"""Values up to which a few operations on whole arrays are faster than going row by row."""


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
    bits = np.zeros(count, dtype=np.uint8)
    bits[list(subset)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


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
        packed = np.frombuffer(self.take(packed_size(count, 1)), dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little")
        if bits[count:].any():
            raise self.malformed("padding that is not zero")
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
    return b"".join((tag, payload, _checksum(tag, payload)))


def unframe(tag: bytes, body: bytes) -> memoryview:
    """The payload of a frame.

    Raises:
        MalformedMessage: damaged, truncated or not a frame.
        ContextMismatch: a sound frame of another conversation.
    """
    view = memoryview(body)
    if len(view) < FRAME or not hmac.compare_digest(_checksum(view[:TAG], view[TAG:-DIGEST]), view[-DIGEST:]):
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


def _checksum(tag: bytes | memoryview, payload: bytes | memoryview) -> bytes:
    """GMAC (NIST SP 800-38D) under the frame's tag, which is public: whoever wants to can forge it, chance cannot.

    A server checks a whole vector for each mask it removes, and SHA-256 would take four times as long as the mask.
    """
    mac = Cipher(AES128(tag), GCM(bytes(12))).encryptor()
    view = memoryview(payload)
    for start in range(0, len(view), _MOST):
        mac.authenticate_additional_data(view[start : start + _MOST])
    mac.finalize()
    return mac.tag


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` integers of ``bits`` bits take on the wire."""
    return -(-count * bits // 8)


def pack_bits(values: Words, bits: int) -> bytes:
    """``[n]`` unsigned integers → ⌈n · bits / 8⌉ bytes; bits above ``bits`` are ignored (reduction mod 2^bits).

    Blocks of w values, w being the width of ``word_type(bits)``, fill ``bits`` words exactly. They are laid out with
    value i of every block side by side, so that packing is a few shifts of long contiguous rows; what is left over
    follows bit by bit.
    """
    kind = word_type(bits)
    width = kind.itemsize * 8
    if bits == width:
        return values.astype(kind, copy=False).tobytes()
    blocks = len(values) // width
    rows = values[: width * blocks].astype(kind, copy=False).reshape(width, blocks)
    words = np.empty((bits, blocks), dtype=kind)
    (_pack_short if len(values) <= _SHORT else _pack_long)(rows, words)
    if len(values) == width * blocks:
        return words.tobytes()
    return b"".join((words.data, pack_rows(values[None, width * blocks :], bits).data))


def unpack_bits(data: bytes | memoryview, count: int, bits: int, dtype: npt.DTypeLike) -> Words:
    """The inverse of :func:`pack_bits`: ``[count]`` of an unsigned dtype at least ``bits`` wide.

    Raises:
        MalformedMessage: a wrong length, or padding that is not zero.
    """
    kind = word_type(bits)
    if len(data) != packed_size(count, bits):
        raise _badly_packed(f"{len(data)} bytes for {count} integers of {bits} bits")
    width = kind.itemsize * 8
    if bits == width:
        return np.frombuffer(data, dtype=kind).astype(dtype, copy=False)
    blocks = count // width
    values = np.empty(count, dtype=kind)
    rows = values[: width * blocks].reshape(width, blocks)
    words = np.frombuffer(data, dtype=kind, count=bits * blocks).reshape(bits, blocks)
    (_unpack_short if count <= _SHORT else _unpack_long)(words, rows)
    if count % width:
        rest = memoryview(data)[kind.itemsize * bits * blocks :]
        values[width * blocks :] = unpack_rows(rest, count % width, bits)[0]
    return values.astype(dtype, copy=False)


def _pack_long(rows: Words, words: Words) -> None:
    """Row by row: what is worked on stays in the cache."""
    kind, bits, width = words.dtype.type, len(words), len(rows)
    value, shifted = np.empty_like(rows[:2])
    mask = kind((1 << bits) - 1)
    for row in range(width):
        word, offset = divmod(row * bits, width)
        np.bitwise_and(rows[row], mask, out=value)
        if offset == 0:
            words[word] = value
        else:
            np.left_shift(value, kind(offset), out=shifted)
            np.bitwise_or(words[word], shifted, out=words[word])
        if offset + bits > width:
            np.right_shift(value, kind(width - offset), out=words[word + 1])


def _unpack_long(words: Words, rows: Words) -> None:
    kind, bits, width = words.dtype.type, len(words), len(rows)
    above = np.empty_like(rows[0])
    mask = kind((1 << bits) - 1)
    for row in range(width):
        word, offset = divmod(row * bits, width)
        value = rows[row]
        np.right_shift(words[word], kind(offset), out=value)
        if offset + bits > width:
            np.left_shift(words[word + 1], kind(width - offset), out=above)
            np.bitwise_or(value, above, out=value)
        np.bitwise_and(value, mask, out=value)


def _pack_short(rows: Words, words: Words) -> None:
    """All rows at once: a vector of a small model takes hardly longer than the calls."""
    layout = _layout(len(words), len(rows))
    masked = rows & words.dtype.type((1 << len(words)) - 1)
    words[:] = 0
    for chosen, left, right in layout.parts:
        words |= masked[chosen] << left >> right


def _unpack_short(words: Words, rows: Words) -> None:
    layout = _layout(len(words), len(rows))
    # Shifted by the whole width numpy gives 0; where a value does not go on, what comes from above is masked away.
    np.bitwise_or(words[layout.first] >> layout.offset, words[layout.second] << layout.rest, out=rows)
    rows &= words.dtype.type((1 << len(words)) - 1)


class _Layout(NamedTuple):
    """Where the values of a block lie in its words."""

    first: Words
    """``[width]``: the word in which a value begins."""
    second: Words
    """``[width]``: the word after it; the last one has none and stands for itself."""
    offset: Words
    """``[width, 1]``: the bit at which it begins."""
    rest: Words
    """``[width, 1]``: the bits from there to the word's end."""
    parts: tuple[tuple[Words, Words, Words], ...]
    """Value, left shift and right shift, ``[bits]``, ``[bits, 1]`` and ``[bits, 1]``: all together make the words."""


@lru_cache(maxsize=64)
def _layout(bits: int, width: int) -> _Layout:
    kind = word_type(bits)
    starts = np.arange(width) * bits
    first, offset = np.divmod(starts, width)
    words = np.arange(bits)
    begins = words * width // bits  # the first value with bits in each word
    parts = []
    for k in range(-(-width // bits) + 1):
        value = np.minimum(begins + k, width - 1)
        value = np.where(starts[value] < (words + 1) * width, value, begins)  # none left: the first one again
        shift = starts[value] - words * width
        pair = (np.maximum(shift, 0)[:, None].astype(kind), np.maximum(-shift, 0)[:, None].astype(kind))
        parts.append((value, *pair))
    offset = offset[:, None].astype(kind)
    return _Layout(first, np.minimum(first + 1, bits - 1), offset, kind.type(width) - offset, tuple(parts))


def pack_rows(rows: Words, bits: int) -> npt.NDArray[np.uint8]:
    """``[r, c]`` unsigned integers → ``[r, packed_size(c)] uint8``, bit by bit, each row by itself; for short rows."""
    count = rows.shape[1]
    single = np.unpackbits(rows.astype("<u8").reshape(-1, 1).view(np.uint8), axis=1, bitorder="little")[:, :bits]
    return np.packbits(single.reshape(len(rows), count * bits), axis=1, bitorder="little")


def unpack_rows(data: bytes | memoryview, count: int, bits: int) -> Words:
    """The inverse of :func:`pack_rows` for rows of ``count`` integers: ``[r, count]``, uint32 or uint64.

    Raises:
        MalformedMessage: not whole rows, or padding that is not zero.
    """
    size = packed_size(count, bits)
    if size == 0 or len(data) % size:
        raise _badly_packed(f"{len(data)} bytes in rows of {size}")
    packed = np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
    if np.any(packed[:, -1].astype(np.uint16) >> np.uint16(count * bits - 8 * (size - 1))):
        raise _badly_packed("padding that is not zero")
    starts = np.arange(count) * bits
    first, offset = starts // 8, starts % 8
    span = int(offset.max() + bits + 7) // 8  # bytes in which a value lies, at most
    kind = np.dtype("<u4" if span <= 4 else "<u8")
    shift = offset.astype(kind)
    values = np.zeros((len(packed), count), dtype=kind)
    for k in range(min(span, 8)):
        # Past the end of a row there is nothing of a value: what is read there lies above its bits.
        values |= packed[:, np.minimum(first + k, size - 1)].astype(kind) << kind.type(8 * k)
    values >>= shift
    if span == 9:
        ninth = packed[:, np.minimum(first + 8, size - 1)].astype(kind)
        values |= ninth << (63 - shift) << kind.type(1)  # nothing where the offset is 0
    values &= kind.type((1 << bits) - 1)
    return values


def _badly_packed(found: str) -> MalformedMessage:
    return MalformedMessage(
        "Packed integers have their one canonical form.", value=found, remedy="Drop the sender or the attempt."
    )


def word_type(bits: int) -> np.dtype[np.unsignedinteger]:
    """The smallest of uint16, uint32, uint64 that holds ``bits`` bits."""
    return np.dtype("<u2" if bits <= 16 else "<u4" if bits <= 32 else "<u8")
