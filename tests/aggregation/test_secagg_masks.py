"""Masks: uniform over the whole ring, and none that is used twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2
from secagg_by_hand import BOUND, LENGTH, Attempt, Make, N, agreed_on

from fedpriv.aggregation.secagg import Client
from fedpriv.aggregation.secagg import messages as m
from fedpriv.crypto import agreement
from fedpriv.network import Message
from fedpriv.threat import SERVER


def masked(agreed: m.Agreed, value: int = 1, make: Make = Client) -> list[np.ndarray]:
    """What the server gets where every element of every input is the same."""
    attempt = Attempt(agreed, make=make)
    attempt.inputs[:] = value
    attempt.upload()
    return [attempt.masked(i) for i in range(agreed.invited)]


def looks_uniform(values: np.ndarray, bits: int) -> bool:
    """χ² over every element of the ring, at α = 1e-6."""
    counts = np.bincount(values.astype(np.int64), minlength=2**bits)
    expected = len(values) / 2**bits
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return len(counts) == 2**bits and statistic < chi2.isf(1e-6, 2**bits - 1)


@pytest.mark.statistical
@pytest.mark.parametrize(("bound", "bits"), [(1, 4), (1000, 14)])
def test_masked_vectors_are_uniform_over_the_whole_ring(bound: int, bits: int) -> None:
    """Of constant inputs: every element is equally likely, the top one included. n = 400,000 values a vector.

    The masks come from the operating system's generator, so no seed is fixed: it fails by chance once in 10^6 vectors.
    """
    length = 400_000
    agreed = agreed_on(n=5, length=length, bound=bound)
    assert agreed.ring.bits == bits
    vectors = masked(agreed)
    for vector in vectors:
        assert looks_uniform(vector, bits)
        assert vector.max() == 2**bits - 1
    again = masked(agreed_on(n=5, length=length, bound=bound, number=(0, 1)))
    for one, other in zip(vectors, again, strict=True):  # fresh in each attempt: the difference is uniform, too
        assert looks_uniform((one - other) & ((1 << bits) - 1), bits)
    assert looks_uniform((vectors[0] - vectors[1]) & ((1 << bits) - 1), bits)
    # Power: a mask that never draws the top value (Flower's randint(0, mod − 1)) and a reused one are told apart.
    rng = np.random.default_rng(0)
    assert looks_uniform(rng.integers(0, 2**bits, length), bits)
    if bits == 4:
        assert not looks_uniform(rng.integers(0, 2**bits - 1, length), bits)
    assert not looks_uniform(vectors[0] - vectors[0], bits)


def test_masks_differ_between_attempts_contexts_and_clients() -> None:
    seen: set[bytes] = set()
    for attempt in (0, 1, 2):
        for context in (b"model", b"other"):
            for vector in masked(agreed_on(number=(0, attempt), context=context, length=40)):
                seen.add(vector.tobytes())
    assert len(seen) == 3 * 2 * N


def test_a_mask_key_belongs_to_one_pair_ring_length_and_session() -> None:
    """The same shared secret gives other keys wherever anything differs, and the same one for either of the pair."""
    secret, keys = bytes(32), set()
    for agreed in (agreed_on(), agreed_on(length=LENGTH + 1), agreed_on(bound=10 * BOUND), agreed_on(number=(0, 1))):
        advertised = {i: bytes([i]) * m.KEYS for i in range(N)}
        roster = m.FullRoster.of(agreed, advertised)
        assert roster.pairwise_mask(agreed, 1, 2, secret) == roster.pairwise_mask(agreed, 2, 1, secret)
        keys |= {roster.pairwise_mask(agreed, 1, other, secret) for other in (2, 3)}
        keys |= {roster.self_mask(agreed, 1, secret), roster.commitment(1, secret)}
    assert len(keys) == 4 * 4
    for other in (agreed_on(length=LENGTH + 1), agreed_on(bound=10 * BOUND)):  # ring and length also by themselves
        keys |= {roster.pairwise_mask(other, 1, 2, secret), roster.self_mask(other, 1, secret)}
    assert len(keys) == 4 * 4 + 4


class Reusing(Client):
    """The weakened variant: keys and seed are the client's for good, and masks are bound to no session."""

    def _advertise(self) -> list[Message]:
        super()._advertise()
        self._envelope_key, self._mask_key = (agreement.KeyPair(bytes([i, self._position]) * 16) for i in (1, 2))
        self._seed = bytes([3, self._position]) * 16
        self._advertised = self._envelope_key.public + self._mask_key.public
        return [self.send(SERVER, m.ADVERTISE, self._advertised)]

    def _meet(self, payload: memoryview) -> None:
        super()._meet(payload)
        if self.unbound:
            self._roster = replace(self._roster, transcript=bytes(32))

    unbound = True


class Bound(Reusing):
    """Keys are reused, but masks are derived from T1, as they are."""

    unbound = False


@pytest.mark.parametrize(("role", "repeats"), [(Reusing, True), (Bound, False), (Client, False)])
def test_masks_used_twice_give_the_difference_of_inputs(role: type[Client], repeats: bool) -> None:
    """Across attempts (another T0) with other inputs: y − y' = x − x' mod 2^b where masks repeat."""
    agreed = [agreed_on(number=(0, number), length=64) for number in (0, 1)]
    vectors = [masked(here, 10 * number, make=role) for number, here in enumerate(agreed)]
    modulus = 2 ** agreed[0].ring.bits
    differences = [(second.astype(int) - first) % modulus for first, second in zip(*vectors, strict=True)]
    assert [bool((difference == 10).all()) for difference in differences] == [repeats] * N
