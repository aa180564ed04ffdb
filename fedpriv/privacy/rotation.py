"""A public random rotation: it spreads every vector evenly over its coordinates, so that few bits hold each of them."""

from __future__ import annotations

import math

import numpy as np

from fedpriv.encoding import Reals
from fedpriv.randomness import Streams


def padded(length: int) -> int:
    """The power of two to which vectors of this length are padded with zeros."""
    return 1 << (length - 1).bit_length()


def rotate(rows: Reals, public: int, round: int) -> Reals:
    """H D x / √d, for random signs D and Walsh and Hadamard's matrix H: ``[n, length]`` → ``[n, d]``, d padded.

    Orthonormal: norms and distances stay. Each coordinate of a rotated x, which must not depend on the signs, is a sum
    of ±x_i / √d: subgaussian with variance proxy ‖x‖² / d (Hoeffding's lemma). O(d log d).

    Args:
        rows: one vector in each.
        public: the round's public randomness; everybody derives the same signs from it.
        round: its number.

    Reference: Ailon and Chazelle 2006; Kairouz, Liu and Steinke 2021, section 4.2.
    """
    signed = np.zeros((len(rows), padded(rows.shape[1])))
    np.multiply(rows, _signs(signed.shape[1], public, round)[: rows.shape[1]], out=signed[:, : rows.shape[1]])
    return _hadamard(signed)


def unrotate(rows: Reals, public: int, round: int) -> Reals:
    """The inverse, D H x / √d: ``[n, d]`` → ``[n, d]``; the padding comes last."""
    turned = _hadamard(np.array(rows, dtype=np.float64))
    turned *= _signs(turned.shape[1], public, round)
    return turned


def _signs(size: int, public: int, round: int) -> Reals:
    words = Streams(public).generator("rotation", round).bit_generator.random_raw(-(-size // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=size)
    return 1.0 - 2.0 * bits.astype(np.float64)


def _hadamard(rows: Reals) -> Reals:
    """H x / √d of each row. H of a · b coordinates is H of a by H of b: long inner loops in both."""
    n, d = rows.shape
    a = 1 << (d.bit_length() // 2)
    b = d // a
    _butterflies(rows.reshape(n, a, b))
    turned = np.ascontiguousarray(rows.reshape(n, a, b).swapaxes(1, 2))
    _butterflies(turned)
    turned *= 1.0 / math.sqrt(d)
    return np.ascontiguousarray(turned.swapaxes(1, 2)).reshape(n, d)


def _butterflies(blocks: Reals) -> None:
    """H along the middle axis of ``[n, a, b]``, in place."""
    n, a, b = blocks.shape
    half = 1
    while half < a:
        pairs = blocks.reshape(n, a // (2 * half), 2, half * b)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        difference = first - second
        first += second
        second[...] = difference
        half *= 2
