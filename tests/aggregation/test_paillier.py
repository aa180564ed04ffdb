"""Paillier as an aggregator: lanes that never carry, the counter, key sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.aggregation.homomorphic.paillier import (
    COUNTER_BITS,
    Lanes,
    Paillier,
    PaillierAdder,
    PaillierDecryptor,
    PaillierEncryptor,
)
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Session, Terms
from fedpriv.crypto.paillier import SecretKey
from fedpriv.encoding import Bounded
from fedpriv.errors import ConfigurationError, DecryptionFailed, MalformedMessage
from fedpriv.network import Network, Wire
from fedpriv.threat import AUTHORITY

terms = st.builds(
    lambda bound, cohort: Terms(length=1, input_bound=bound, cohort=cohort, domain=Bounded(bound * cohort)),
    bound=st.integers(1, 2**30),
    cohort=st.integers(1, 10_000),
)


@given(terms=terms, bits=st.sampled_from([2047, 3071]), data=st.data())
def test_lanes_never_carry(terms: Terms, bits: int, data: st.DataObject) -> None:
    """The sum of a whole cohort's plaintexts, at any mixture of extremes, is below n and unpacks to integer sums."""
    lanes = Lanes.of(terms, bits)
    assert lanes.base**lanes.count << COUNTER_BITS <= 1 << bits
    bound = terms.input_bound
    extremes = data.draw(st.lists(st.sampled_from([-bound, 0, bound]), min_size=1, max_size=2 * lanes.count))
    vector = np.array(extremes, dtype=np.int64)
    sums: list[int] = []
    for packed in lanes.pack(vector):
        total = packed * terms.cohort  # every client at the same extremes is the worst case
        assert total.bit_length() <= bits
        sums += lanes.unpack(total, terms.cohort)
    assert sums[: len(vector)] == (vector * terms.cohort).tolist()
    assert not any(sums[len(vector) :]), "padding"


@given(terms=terms, data=st.data())
def test_lanes_are_as_narrow_as_they_can_be(terms: Terms, data: st.DataObject) -> None:
    lanes = Lanes.of(terms, 2047)
    assert 2 * lanes.offset * terms.cohort == lanes.base - 1
    assert lanes.base ** (lanes.count + 1) << COUNTER_BITS > 1 << 2047


def test_full_lanes_of_a_full_cohort_do_not_carry() -> None:
    """All clients at their bound, in every lane: cut for one client fewer, they would carry."""
    terms = Terms(length=99, input_bound=1100, cohort=9, domain=Bounded(9 * 1100))
    lanes, tight = Lanes.of(terms, 2047), Lanes.of(replace(terms, cohort=8), 2047)
    assert tight.base <= 9 * 2 * 1100 < lanes.base
    for extreme in (1100, -1100):
        (packed,) = lanes.pack(np.full(lanes.count, extreme))
        assert lanes.unpack(9 * packed, 9) == [9 * extreme] * lanes.count


def test_every_ciphertext_of_every_vector_is_randomised() -> None:
    """A vector of zeros, twice: no two ciphertexts are alike, and none is the bare plaintext."""
    key = SecretKey(2048)
    lanes = Lanes.of(Terms(length=1, input_bound=10, cohort=3, domain=Bounded(30)), key.public.plaintext_bits)
    encryptor, zeros = PaillierEncryptor(key.public, lanes), np.zeros(3 * lanes.count, dtype=np.int64)
    payloads = [*encryptor.encrypt(zeros), *encryptor.encrypt(zeros)]
    ciphertexts = [payload[at : at + 512] for payload in payloads for at in range(0, len(payload), 512)]
    assert len(ciphertexts) == len(set(ciphertexts)) == 6
    n = int.from_bytes(key.public.to_bytes(), "big")
    assert all(key.public.load(ciphertext) % n != 1 for ciphertext in ciphertexts), "(1 + n)^m without r^n"


@given(
    vectors=st.lists(st.lists(st.integers(-1000, 1000), min_size=300, max_size=300), min_size=1, max_size=5),
)
def test_offsets_are_those_of_the_included_contributors(vectors: list[list[int]]) -> None:
    """Fewer contribute than the lanes were cut for."""
    lanes = Lanes.of(Terms(length=300, input_bound=1000, cohort=9, domain=Bounded(9000)), 2047)
    totals = [sum(column) for column in zip(*(lanes.pack(np.array(v)) for v in vectors), strict=True)]
    sums = [value for total in totals for value in lanes.unpack(total, len(vectors))]
    assert sums[:300] == np.sum(vectors, axis=0).tolist()


@pytest.mark.parametrize("named", [0, 1, 3, 4])
def test_a_wrong_count_is_refused(named: int) -> None:
    lanes = Lanes.of(Terms(length=1, input_bound=10, cohort=5, domain=Bounded(50)), 2047)
    (packed,) = lanes.pack(np.array([7]))
    assert lanes.unpack(2 * packed, 2)[0] == 14
    with pytest.raises(DecryptionFailed):
        lanes.unpack(2 * packed, named)


@given(plaintext=st.integers(0, 2**2047 - 1))
def test_garbage_fails_the_count(plaintext: int) -> None:
    lanes = Lanes.of(Terms(length=1, input_bound=1000, cohort=5, domain=Bounded(5000)), 2047)
    if plaintext // lanes.base**lanes.count != 3:
        with pytest.raises(DecryptionFailed):
            lanes.unpack(plaintext, 3)


def test_padding_and_length_are_checked() -> None:
    key = SecretKey(2048)
    lanes = Lanes.of(Terms(length=1, input_bound=10, cohort=1, domain=Bounded(10)), key.public.plaintext_bits)
    payload = b"".join(PaillierEncryptor(key.public, lanes).encrypt(np.array([7, 5])))
    assert PaillierDecryptor(key, lanes, 2).decrypt([payload], 1).tolist() == [7, 5]
    with pytest.raises(DecryptionFailed, match="padding"):
        PaillierDecryptor(key, lanes, 1).decrypt([payload], 1)
    for payloads in ([], [payload, payload]):
        with pytest.raises(DecryptionFailed):
            PaillierDecryptor(key, lanes, 2).decrypt(payloads, 1)


def test_messages_hold_whole_ciphertexts_and_equally_many() -> None:
    adder = PaillierAdder(SecretKey(2048).public)
    one, two = adder.load(b"\1" * 512), adder.load(b"\1" * 1024)
    with pytest.raises(MalformedMessage):
        adder.add(one, two)
    with pytest.raises(MalformedMessage):
        adder.add(one, adder.load(b""))
    with pytest.raises(MalformedMessage):
        adder.load(b"\1" * 513)


@pytest.mark.parametrize("bits", [512, 1024, 2000, 3071])
def test_small_keys_are_refused(bits: int) -> None:
    with pytest.raises(ConfigurationError):
        Paillier(key_bits=bits)


def test_security_is_labelled() -> None:
    assert Paillier().security_bits == 128
    assert Paillier(key_bits=2048).security_bits == 112
    assert "112-bit" in " ".join(Paillier(key_bits=2048).threat_model.assumptions)


def test_the_default_key_works_end_to_end() -> None:
    aggregator = Paillier()
    domain = aggregator.domain(sum_bound=30, length=4, cohort=3)
    deployment = aggregator.deploy(Terms(length=4, input_bound=10, cohort=3, domain=domain))
    session = Session(round=0, attempt=0, participants=(2, 5, 7), context=b"")
    vector = np.array([10, -10, 0, 1])
    result = perform(deployment, session, Wire(Network()), lambda here: [(p, vector) for p in here], AUTHORITY)
    assert result.total.tolist() == [30, -30, 0, 3]
    assert result.contributors == (2, 5, 7)


def test_estimated_bytes_are_those_of_the_lanes() -> None:
    """K = 200, 16 bits: 127 lanes in a 3072-bit plaintext, 768 bytes each."""
    terms = Terms(length=650, input_bound=2**15 - 1, cohort=200, domain=Bounded(200 * (2**15 - 1)))
    lanes = Lanes.of(terms, 3071)
    assert lanes.count == 127
    upload = Paillier().estimate(terms, 200)[0]
    assert upload.messages == 200
    assert 6 * 768 <= upload.bytes_sent / 200 <= 6 * 768 + 200
