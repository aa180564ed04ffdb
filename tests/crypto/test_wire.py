"""Canonical bytes: one encoding for one thing, and nothing but MalformedMessage for anything else."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.crypto import wire
from fedpriv.errors import ContextMismatch, FedprivError, MalformedMessage

TAG = bytes(range(16))


@st.composite
def ring_vectors(draw: st.DrawFn) -> tuple[int, np.ndarray]:
    bits = draw(st.integers(1, 64))
    count = draw(st.sampled_from([0, 1, 2, 63, 64, 65, 127, 128, 200]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.integers(0, 2**64, count, dtype=np.uint64) & np.uint64(2**bits - 1)
    return bits, values.astype(wire.word_type(bits))


@given(ring_vectors())
def test_packing_is_exact_and_as_small_as_can_be(case: tuple[int, np.ndarray]) -> None:
    bits, values = case
    packed = wire.pack_bits(values, bits)
    assert len(packed) == wire.packed_size(len(values), bits) == -(-len(values) * bits // 8)
    assert np.array_equal(wire.unpack_bits(packed, len(values), bits, values.dtype), values)


@given(ring_vectors())
def test_what_is_above_the_ring_does_not_travel(case: tuple[int, np.ndarray]) -> None:
    bits, values = case
    above = values | values.dtype.type((2 ** (values.itemsize * 8) - 1) ^ (2**bits - 1))
    assert wire.pack_bits(above, bits) == wire.pack_bits(values, bits)


@given(st.binary(max_size=200), st.integers(0, 100), st.integers(1, 64))
def test_unpacking_survives_any_bytes_and_is_canonical(data: bytes, count: int, bits: int) -> None:
    try:
        values = wire.unpack_bits(data, count, bits, wire.word_type(bits))
    except MalformedMessage:
        return
    assert wire.pack_bits(values, bits) == data


@given(st.binary(max_size=60), st.integers(0, 20), st.integers(1, 40))
def test_unpacking_rows_survives_any_bytes_and_is_canonical(data: bytes, count: int, bits: int) -> None:
    try:
        rows = wire.unpack_rows(data, count, bits)
    except MalformedMessage:
        return
    assert wire.pack_rows(rows, bits).tobytes() == data


def test_padding_must_be_zero() -> None:
    packed = bytearray(wire.pack_bits(np.array([1, 2, 3], dtype="<u2"), 5))
    packed[-1] |= 0x80
    with pytest.raises(MalformedMessage):
        wire.unpack_bits(bytes(packed), 3, 5, "<u2")


@given(st.lists(st.binary(max_size=9), max_size=5), st.lists(st.binary(max_size=9), max_size=5))
def test_prefixed_parts_are_unambiguous(one: list[bytes], other: list[bytes]) -> None:
    assert (wire.prefixed(*one) == wire.prefixed(*other)) == (one == other)


@given(st.sets(st.integers(0, 40)), st.binary(max_size=5))
def test_members_are_canonical(subset: set[int], rest: bytes) -> None:
    reader = wire.Reader(wire.members(subset, 41) + rest, "test")
    assert reader.members(41) == tuple(sorted(subset))
    assert bytes(reader.rest()) == rest


def test_a_reader_refuses_too_few_and_too_many_bytes() -> None:
    with pytest.raises(MalformedMessage):
        wire.Reader(b"abc", "test").take(4)
    with pytest.raises(MalformedMessage):
        wire.Reader(b"abc", "test").end()


@given(st.binary(max_size=60))
def test_frames_return_their_payload(payload: bytes) -> None:
    body = wire.frame(TAG, payload)
    assert len(body) == len(payload) + wire.FRAME
    assert bytes(wire.unframe(TAG, body)) == payload


def test_every_flipped_bit_of_a_frame_is_noticed() -> None:
    body = wire.frame(TAG, b"sixteen and some bytes")
    for bit in range(8 * len(body)):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MalformedMessage):
            wire.unframe(TAG, bytes(damaged))


def test_a_sound_frame_of_another_conversation_is_named_as_such() -> None:
    with pytest.raises(ContextMismatch):
        wire.unframe(bytes(16), wire.frame(TAG, b"payload"))


@given(st.binary(max_size=100))
def test_unframing_survives_any_bytes(data: bytes) -> None:
    with pytest.raises(FedprivError):
        wire.unframe(TAG, data)


@pytest.mark.parametrize("bits", range(1, 65))
def test_short_and_long_vectors_have_one_form(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = wire.word_type(bits)
    values = np.random.default_rng(bits).integers(0, 2**64, 333, dtype=np.uint64).astype(kind)
    packed = wire.pack_bits(values, bits)
    unpacked = wire.unpack_bits(packed, len(values), bits, kind)
    monkeypatch.setattr(wire, "_SHORT", 0)
    assert wire.pack_bits(values, bits) == packed
    assert np.array_equal(wire.unpack_bits(packed, len(values), bits, kind), unpacked)
    assert [int(value) for value in unpacked] == [int(value) % 2**bits for value in values]


@pytest.mark.parametrize("bits", [5, 16, 20, 33])
def test_the_packed_form_does_not_depend_on_the_words_in_which_values_are_held(bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, 200, dtype=np.uint64)
    packed = wire.pack_bits(values, bits)
    assert packed == wire.pack_bits(values.astype(wire.word_type(bits)), bits)
    assert np.array_equal(wire.unpack_bits(packed, 200, bits, np.uint64), values)


def test_a_frame_of_many_pieces_has_the_checksum_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = bytes(range(100))
    whole = wire.frame(TAG, payload)
    assert whole[-wire.DIGEST :] == AESGCM(TAG).encrypt(bytes(12), b"", payload)
    monkeypatch.setattr(wire, "_MOST", 7)
    assert wire.frame(TAG, payload) == whole
