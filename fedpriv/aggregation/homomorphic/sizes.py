"""Bytes of a serialised lattice ciphertext, from its parameters alone.

A ciphertext is two polynomials of n coefficients, uniform modulo the wire modulus q; a seeded one carries the first and
the seed of the second. SEAL writes each coefficient as a 64-bit word, little-endian, and compresses with zstd. Uniform
residues hold nothing that repeats, so what zstd gains is its order-0 Huffman code of the bytes, whose mean length
follows from log₂ q: 5.98 bytes a coefficient at 40 bits, 7.53 at 54. Above 56 bits the gain is too small for zstd, and
words travel as they are. Tests hold these sizes against real ciphertexts.

**Reference** RFC 8878 (zstd; sections 3.1.1.3 and 4.2); SEAL 4, ``serialization.cpp``.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from functools import cache

WORD = 8
HEADER, SEEDED_HEADER = 120, 200
"""SEAL's own fields and zstd's code table, about; with a seed, SEAL also names its generator."""
LEAST_GAIN = 1 / 64
"""zstd stores a block as it is where compression would gain less."""


def ciphertext_bytes(degree: int, wire_bits: int, *, seeded: bool) -> int:
    """Bytes of a ciphertext of ring degree n; within 1 % of SEAL's for wire moduli of 40 bits and more."""
    coded = coefficient_bytes(wire_bits)
    return round(degree * coded) + SEEDED_HEADER if seeded else round(2 * degree * coded) + HEADER


@cache
def coefficient_bytes(wire_bits: int) -> float:
    """Mean bytes of one coefficient as it travels."""
    coded = _huffman_mean(list(_byte_frequencies(wire_bits)))
    return coded if coded < WORD * (1 - LEAST_GAIN) else float(WORD)


def _byte_frequencies(wire_bits: int) -> Iterator[float]:
    """How often each byte value occurs among the eight bytes of a word that is uniform below 2^wire_bits."""
    whole, rest = divmod(wire_bits, 8)
    for value in range(256):
        top = 2.0**-rest if value < 2**rest and whole < WORD else 0.0
        zeros = max(0, WORD - whole - 1) if value == 0 else 0
        yield (whole / 256 + top + zeros) / WORD


def _huffman_mean(frequencies: list[float]) -> float:
    """Mean bits of an optimal prefix code, which are bytes for a word of eight symbols: the sum of all its joins."""
    heap = [frequency for frequency in frequencies if frequency > 0]
    heapq.heapify(heap)
    mean = 0.0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        mean += joined
        heapq.heappush(heap, joined)
    return mean
