"""The sum is exact: every scheme under every key model, at any mixture of extremes that its plan permits."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.aggregation.homomorphic.bfv import BFV
from fedpriv.aggregation.homomorphic.ckks import CKKS
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.homomorphic.fitting import data_slots
from fedpriv.aggregation.homomorphic.keys import KeyAuthority, KeyModel, SharedClientKey
from fedpriv.aggregation.homomorphic.paillier import Lanes, Paillier
from fedpriv.aggregation.homomorphic.presets import PRESETS
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Session, Sum, Terms, perform_ideal
from fedpriv.encoding import Integers
from fedpriv.errors import EncodingOverflow, PlanError, ProtocolError, UnexpectedMessage
from fedpriv.network import Network, Wire
from fedpriv.threat import Party

KEYS: dict[str, KeyModel] = {
    "trusted-server": KeyAuthority(min_contributors=1),
    "trusted-authority": KeyAuthority(min_contributors=1, additions="trusted-authority"),
    "shared-key": SharedClientKey(min_contributors=1),
}
SCHEMES = ("ckks-lean", "ckks-precise", "bfv-exact", "bfv-wide", "paillier-2048")
MOST = 6
"""K_max."""
SHAPES = ("random", "top", "bottom", "alternating", "clashing", "zero", "last")


class World:
    """A scheme under a key model, deployed for as large values as its preset carries, to be used round after round."""

    def __init__(self, scheme: str, keys: KeyModel, tail: int, chunks: int) -> None:
        preset = PRESETS[scheme]
        if preset.scheme == "Paillier":
            self.aggregator: CKKS | BFV | Paillier = Paillier(keys=keys, key_bits=2048)
            self.bound = 2**19
            width = Lanes.for_sums(offset=self.bound, cohort=MOST, plaintext_bits=2047).count
        else:
            self.aggregator = (
                CKKS(keys=keys, preset=scheme) if preset.scheme == "CKKS" else BFV(keys=keys, preset=scheme)
            )
            width = data_slots(preset.parameters)
            self.bound = _most(self.aggregator, chunks * width + tail)
        self.keys, self.round = keys, 0
        self.terms, self.deployment = deployed(self.aggregator, self.bound, chunks * width + tail)

    def session(self, clients: int) -> Session:
        """A new round; indices have gaps."""
        self.round += 1
        indices = tuple(2 * index + 1 for index in range(clients))
        return Session(round=self.round, attempt=0, participants=indices, context=b"context")

    def sum(self, vectors: np.ndarray) -> Sum:
        """A real round."""
        session = self.session(len(vectors))
        return perform(self.deployment, session, Wire(Network()), feed(session, vectors), self.keys.decryptor)


def deployed(aggregator: CKKS | BFV | Paillier, bound: int, length: int) -> tuple[Terms, HomomorphicDeployment]:
    """For a full cohort of values within ±bound."""
    domain = aggregator.domain(sum_bound=MOST * bound, length=length, cohort=MOST)
    terms = Terms(length=length, input_bound=bound, cohort=MOST, domain=domain)
    return terms, aggregator.deploy(terms)


def _most(aggregator: CKKS | BFV, length: int) -> int:
    """The largest values whose sums the preset carries, to the last unit."""
    low, high = 1, 2**60
    while high - low > 1:
        middle = (low + high) // 2
        try:
            deployed(aggregator, middle, length)
        except PlanError:
            high = middle
        else:
            low = middle
    return low


def feed(session: Session, vectors: np.ndarray):  # type: ignore[no-untyped-def]
    rows = dict(zip(session.parties, vectors, strict=True))

    def inputs(present: list[Party]) -> list[tuple[Party, Integers]]:
        return [(party, rows[party]) for party in present]

    return inputs


@cache
def world(scheme: str, keys: str, tail: int = 0, chunks: int = 1) -> World:
    return World(scheme, KEYS[keys], tail, chunks)


def drawn(shape: str, bound: int, clients: int, length: int, rng: np.random.Generator) -> np.ndarray:
    full = np.full((clients, length), bound)
    signs = (-1) ** np.arange(length)
    return {
        "random": lambda: rng.integers(-bound, bound + 1, full.shape),
        "top": lambda: full,
        "bottom": lambda: -full,
        "alternating": lambda: full * signs,
        "clashing": lambda: full * signs * (-1) ** np.arange(clients)[:, None],
        "zero": lambda: np.zeros_like(full),
        "last": lambda: full * (np.arange(length) == length - 1),
    }[shape]()


everywhere = pytest.mark.parametrize("keys", KEYS)
schemes = pytest.mark.parametrize("scheme", SCHEMES)


@schemes
@everywhere
@settings(max_examples=10)
@given(
    clients=st.integers(1, MOST),
    chunks=st.sampled_from([1, 1, 1, 2]),
    tail=st.sampled_from([-1, 0, 1]),
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_sum_is_the_integer_sum(
    scheme: str, keys: str, clients: int, chunks: int, tail: int, shape: str, seed: int
) -> None:
    """For K = 1 … K_max, lengths around whole ciphertexts, worst-case vectors, and any order of the clients."""
    here, rng = world(scheme, keys, tail, chunks), np.random.default_rng(seed)
    vectors = drawn(shape, here.bound, clients, here.terms.length, rng)
    assert np.array_equal(here.sum(vectors).total, vectors.sum(0))
    assert np.array_equal(here.sum(rng.permutation(vectors)).total, vectors.sum(0))


@schemes
@everywhere
@pytest.mark.parametrize("shape", ["top", "bottom", "alternating", "zero"])
def test_a_full_cohort_at_its_extremes(scheme: str, keys: str, shape: str) -> None:
    """The most ciphertexts, the largest sums."""
    here = world(scheme, keys)
    vectors = drawn(shape, here.bound, MOST, here.terms.length, np.random.default_rng(0))
    assert np.abs(vectors.sum(0)).max(initial=0) in (0, MOST * here.bound)
    assert np.array_equal(here.sum(vectors).total, vectors.sum(0))


@schemes
@everywhere
def test_an_input_beyond_the_bound_is_refused(scheme: str, keys: str) -> None:
    here = world(scheme, keys)
    vectors = drawn("top", here.bound, MOST, here.terms.length, np.random.default_rng(0))
    vectors[0, -1] += 1
    with pytest.raises(EncodingOverflow):
        here.sum(vectors)


@schemes
@everywhere
def test_one_client_more_than_planned_is_refused(scheme: str, keys: str) -> None:
    here = world(scheme, keys)
    vectors = np.zeros((MOST + 1, here.terms.length), dtype=np.int64)
    with pytest.raises(ProtocolError):
        here.sum(vectors)


@pytest.mark.parametrize("scheme", SCHEMES[:4])
def test_one_unit_more_than_planned_is_refused(scheme: str) -> None:
    """Of the schemes whose parameters are fixed; Paillier's lanes are cut to measure."""
    here = world(scheme, "trusted-server")
    with pytest.raises(PlanError):
        deployed(here.aggregator, here.bound + 1, here.terms.length)


@schemes
@everywhere
@given(seed=st.integers(0, 2**32 - 1), gone=st.sets(st.integers(0, MOST - 1), max_size=MOST - 1))
@settings(max_examples=5)
def test_ideal_gives_the_same_sum_of_whoever_is_left(scheme: str, keys: str, seed: int, gone: set[int]) -> None:
    here, rng = world(scheme, keys), np.random.default_rng(seed)
    vectors = drawn("random", here.bound, MOST, here.terms.length, rng)
    session = here.session(MOST)
    schedule = {session.parties[index]: "encrypt" for index in gone}
    inputs = feed(session, vectors)
    real = perform(here.deployment, session, Wire(Network(), schedule=schedule), inputs, here.keys.decryptor)
    ideal = perform_ideal(here.deployment, session, schedule, inputs, here.terms.length)
    assert np.array_equal(real.total, ideal.total)
    assert real.contributors == ideal.contributors
    assert np.array_equal(real.total, np.delete(vectors, list(gone), axis=0).sum(0))


@pytest.mark.parametrize("scheme", SCHEMES[:4])
def test_a_seed_that_was_used_is_refused(scheme: str) -> None:
    """Two ciphertexts of one seed give away the difference of their vectors, in one round or in two."""
    here = World(scheme, KEYS["shared-key"], 0, 1)
    vectors = np.zeros((2, here.terms.length), dtype=np.int64)
    encryptor = here.deployment._encryptor
    (payload,) = encryptor.encrypt(vectors[0])

    class Replaying:
        def encrypt(self, vector: Integers) -> list[bytes]:
            return [payload]

    here.deployment._encryptor = Replaying()
    with pytest.raises(UnexpectedMessage, match="seed"):
        here.sum(vectors)
    with pytest.raises(UnexpectedMessage, match="seed"):
        here.sum(vectors[:1])
    here.deployment._encryptor = encryptor
    assert not here.sum(vectors).total.any()


@pytest.mark.parametrize("scheme", SCHEMES[:4])
def test_seeds_are_those_of_seeded_uploads(scheme: str) -> None:
    for keys in ("shared-key", "trusted-server"):
        here = world(scheme, keys)
        adder, encryptor = here.deployment._adder, here.deployment._encryptor
        zeros = np.zeros(here.terms.length, dtype=np.int64)
        payloads = [payload for _ in range(3) for payload in encryptor.encrypt(zeros)]
        seeds = [adder.seed_of(payload) for payload in payloads]
        if keys == "trusted-server":
            assert seeds == [None] * 3
        else:
            assert len(set(seeds)) == 3
            assert adder.seed_of(bytes(bytearray(payloads[0]))) == seeds[0]
        opened = adder.load(payloads[-1]).to_bytes()  # the one kept open for it belongs to these very bytes
        assert adder.load(payloads[0]).to_bytes() != opened
