"""A Merkle tree: one hash commits to a list, and a few hashes show which entries it has.

Leaves and inner nodes are hashed under different prefixes (as in RFC 6962), and a last node without a sibling moves up
as it is. Several leaves are opened at once: hashes that follow from the leaves themselves are not sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fedpriv.crypto.wire import Reader

HASH = 32
"""Bytes of a node."""


class Tree:
    """A tree over a list of leaves, in their order.

    Args:
        leaves: at least one; of one length, or otherwise unambiguous.
    """

    def __init__(self, leaves: Iterable[bytes]) -> None:
        level = [_leaf(leaf) for leaf in leaves]
        self._levels = [level]
        while len(level) > 1:
            paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
            level = paired + level[len(level) & ~1 :]
            self._levels.append(level)

    @property
    def root(self) -> bytes:
        """32 bytes that commit to every leaf and its place; with the number of leaves, to the whole list."""
        return self._levels[-1][0]

    def opening(self, places: Sequence[int]) -> bytes:
        """The hashes that lead from the leaves at these places (0 first, increasing) to the root."""
        return b"".join(self._levels[height][place] for height, place in _missing(len(self._levels[0]), places))


def opening_size(count: int, places: Sequence[int]) -> int:
    """Bytes of an opening in a tree of ``count`` leaves."""
    return HASH * sum(1 for _ in _missing(count, places))


def root(count: int, leaves: Mapping[int, bytes], opening: Reader) -> bytes:
    """The root that these leaves, by place in a list of ``count``, have together with an opening.

    It is the list's root only if every leaf stands at its place (SHA-256 is collision-resistant): compare them.

    Raises:
        MalformedMessage: the opening is too short.
    """
    nodes = {place: _leaf(leaves[place]) for place in sorted(leaves)}
    while count > 1:
        above: dict[int, bytes] = {}
        for place, node in nodes.items():
            sibling = place ^ 1
            if place & 1 and sibling in nodes:
                continue  # taken together with its left sibling
            if sibling >= count:
                above[place >> 1] = node
                continue
            other = nodes[sibling] if sibling in nodes else bytes(opening.take(HASH))
            above[place >> 1] = _node(other, node) if place & 1 else _node(node, other)
        nodes, count = above, (count + 1) // 2
    return nodes[0]


def _missing(count: int, places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(height, place) of each hash that an opening holds, in the order in which :func:`root` takes them."""
    known = list(places)
    height = 0
    while count > 1:
        present = set(known)
        for place in known:
            if place ^ 1 < count and place ^ 1 not in present:
                yield height, place ^ 1
        known = list(dict.fromkeys(place >> 1 for place in known))
        count, height = (count + 1) // 2, height + 1


def _leaf(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\0" + leaf).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
