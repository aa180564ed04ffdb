"""Merkle trees: an opening leads to the root for the right leaves at their places, and for nothing else."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.crypto import merkle
from fedpriv.crypto.wire import Reader
from fedpriv.errors import MalformedMessage


def leaf(place: int) -> bytes:
    return place.to_bytes(4, "little")


def reached(count: int, leaves: dict[int, bytes], opening: bytes) -> bytes:
    reader = Reader(opening, "opening")
    found = merkle.root(count, leaves, reader)
    reader.end()
    return found


def test_three_leaves_by_hand() -> None:
    """As RFC 6962: H(1 ‖ H(1 ‖ H(0 ‖ a) ‖ H(0 ‖ b)) ‖ H(0 ‖ c))."""

    def sha(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    a, b, c = (sha(b"\0" + entry) for entry in (b"a", b"b", b"c"))
    assert merkle.Tree([b"a", b"b", b"c"]).root == sha(b"\1" + sha(b"\1" + a + b) + c)
    assert merkle.Tree([b"a", b"b", b"c"]).opening([0]) == b + c
    assert merkle.Tree([b"a", b"b", b"c"]).opening([0, 1]) == c


@given(st.integers(1, 70), st.data())
def test_openings(count: int, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    tree = merkle.Tree([leaf(place) for place in range(count)])
    opening = tree.opening(places)
    assert len(opening) == merkle.opening_size(count, places)
    leaves = {place: leaf(place) for place in places}
    assert reached(count, leaves, opening) == tree.root
    changed = data.draw(st.sampled_from(places))
    assert reached(count, leaves | {changed: b"other"}, opening) != tree.root
    if opening:
        bit = data.draw(st.integers(0, 8 * len(opening) - 1))
        damaged = bytearray(opening)
        damaged[bit // 8] ^= 1 << (bit % 8)
        assert reached(count, leaves, bytes(damaged)) != tree.root
        with pytest.raises(MalformedMessage):
            reached(count, leaves, opening[:-1])


def test_leaves_and_nodes_are_told_apart() -> None:
    """Two hashes put together are no leaf of the tree one level up."""
    tree = merkle.Tree([b"a", b"b", b"c", b"d"])
    a, b, c, d = (hashlib.sha256(b"\0" + entry).digest() for entry in (b"a", b"b", b"c", b"d"))
    halves = [a + b, c + d]
    assert merkle.Tree(halves).root != tree.root
