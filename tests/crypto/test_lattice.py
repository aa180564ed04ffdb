"""CKKS and BFV on SEAL: exact integers, and what is refused."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lattice_codes import CODES, ONE, SUM, bytes_of
from tenseal import sealapi

from fedpriv.crypto.lattice import (
    Adder,
    BFVParameters,
    CKKSCode,
    Code,
    PublicKey,
    SecretKey,
    SharedSecretKey,
    ckks_noise,
    raw,
    seal,
)
from fedpriv.errors import ConfigurationError, DecryptionFailed, MalformedMessage


def _sum(code: Code, uploads: list[bytes]) -> bytes:
    adder = Adder(code)
    total = adder.load(uploads[0])
    for upload in uploads[1:]:
        adder.add(total, adder.load(upload))
    return total.to_bytes()


def _shapes(slots: int, bound: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "constant": np.full(slots, bound),
        "negative": np.full(slots, -bound),
        "alternating": np.where(np.arange(slots) % 2 == 0, bound, -bound),
        "imaginary only": np.where(np.arange(slots) < slots // 2, 0, bound),
        # every slot a multiple of the value of X^(n/4): one coefficient holds √2·bound, the most that there is
        "one coefficient": np.where((np.arange(slots) < slots // 2) & (np.arange(slots) % 2 == 1), -bound, bound),
        "random": rng.integers(-bound, bound + 1, slots),
        "one slot": bound * (np.arange(slots) == 5),
        "zero": np.zeros(slots, dtype=np.int64),
    }


# --- the sum --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("additions", [1, 2, 3, 64])
def test_decrypts_the_exact_sum_of_every_shape(key: SecretKey, by: PublicKey | SecretKey, additions: int) -> None:
    """At the largest permitted values. Repeated additions of few uploads stand for many clients."""
    clients = min(additions, 2)
    largest = min(SUM, key.code.parameters.largest) if isinstance(key.code.parameters, BFVParameters) else SUM
    for name, vector in _shapes(key.code.slots, largest // max(2, additions)).items():
        uploads = [by.encrypt(vector) for _ in range(clients)]
        total = key.decrypt(_sum(key.code, uploads * (additions // clients) + uploads[: additions % clients]))
        assert total.dtype == np.int64
        assert np.array_equal(total, additions * vector), name


@given(data=st.data())
def test_sums_are_exact_for_any_vectors(data: st.DataObject) -> None:
    code = data.draw(st.sampled_from(list(CODES.values())), label="code")
    key = data.draw(st.sampled_from([SecretKey, SharedSecretKey]), label="key")(code)
    clients = data.draw(st.integers(1, 5), label="clients")
    bound = SUM // max(2, clients)
    pattern = st.lists(st.integers(-bound, bound), min_size=1, max_size=9)
    vectors = [np.resize(data.draw(pattern, label="pattern"), code.slots) for _ in range(clients)]
    mixed = [(key.public if i % 2 else key).encrypt(vector) for i, vector in enumerate(vectors)]
    assert np.array_equal(key.decrypt(_sum(code, mixed), additions=clients), np.sum(vectors, axis=0))
    order = data.draw(st.permutations(range(clients)), label="order")
    assert np.array_equal(key.decrypt(_sum(code, [mixed[i] for i in order])), np.sum(vectors, axis=0))


def test_overflow_is_silent_in_ckks_itself() -> None:
    """Why sums must be bounded before the first round: past q/2 integers come back wrong and look sound."""
    code = CODES["CKKS, special prime"]
    assert isinstance(code, CKKSCode)
    key = SecretKey(code)
    bound = code.largest
    vector = np.where((np.arange(code.slots) < code.slots // 2) & (np.arange(code.slots) % 2 == 1), -bound, bound)
    total = _sum(code, [key.encrypt(vector)] * 4)
    assert code.parameters.scale_for(4 * bound) < code.scale, "the chosen scale would leave room"
    slots = raw.floats(key, total)
    assert np.abs(slots - 4 * (vector[: len(slots)] + 1j * vector[len(slots) :])).min() > 1000
    wrapped = CKKSCode(code.parameters, 2.0**60 / 2**30 / 2)  # q a multiple of the scale, but for its last bits
    wrapping = SecretKey(wrapped)
    constant = np.full(code.slots, wrapped.largest)
    constant[code.slots // 2 :] = 0
    wrong = wrapping.decrypt(_sum(wrapped, [wrapping.encrypt(constant)] * 4))
    assert not np.array_equal(wrong, 4 * constant), "and no failure"


def test_overflow_is_silent_in_bfv_itself() -> None:
    code = CODES["BFV, one prime"]
    key = SecretKey(code)
    t = code.parameters.plain_modulus
    vector = np.full(code.slots, code.largest)
    assert np.array_equal(key.decrypt(_sum(code, [key.encrypt(vector)] * 2)), 2 * vector - t)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_wrong_key_is_refused(key: SecretKey, by: PublicKey | SecretKey) -> None:
    data = by.encrypt(np.zeros(key.code.slots, dtype=np.int64))
    with pytest.raises(DecryptionFailed) as failure:
        SecretKey(key.code).decrypt(data)
    assert failure.value.value is None, "no decrypted value in the error"


def test_sum_under_two_keys_is_refused(key: SecretKey) -> None:
    ones = np.ones(key.code.slots, dtype=np.int64)
    total = _sum(key.code, [key.encrypt(ones), SecretKey(key.code).encrypt(ones)])
    with pytest.raises(DecryptionFailed):
        key.decrypt(total)


def test_halves_are_refused(key: SecretKey) -> None:
    """A plaintext between the integers: the tolerance is checked, not only the key."""
    if isinstance(key.code, CKKSCode):
        fine = SharedSecretKey.from_bytes(CKKSCode(key.code.parameters, key.code.scale / 2), bytes_of(key))
        assert fine.key_id != key.key_id, "a name belongs to a key and a code"
        odd = np.ones(key.code.slots, dtype=np.int64)
        assert np.array_equal(fine.decrypt(fine.encrypt(odd)), odd)
        half = _rescaled(fine.encrypt(odd), fine.code, key.code.scale)
        with pytest.raises(DecryptionFailed, match="integer"):
            key.decrypt(half)


def _rescaled(data: bytes, code: Code, scale: float) -> bytes:
    """The same ciphertext with another scale written on it."""
    sealed = Adder(code).load(data).sealed
    sealed.scale = scale
    return seal.dump(sealed)


@pytest.mark.parametrize("additions", [1, 20])
def test_more_noise_than_honest_additions_have_is_refused(additions: int) -> None:
    """Sums of far more ciphertexts than were named: still exact, and no longer what was asked for."""
    for name, sums in (("CKKS, one prime", 2000), ("BFV, one prime", 2000)):
        code = CODES[name]
        key = SecretKey(code)
        zeros = key.public.encrypt(np.zeros(code.slots, dtype=np.int64))
        total = _sum(code, [zeros] * sums)  # the same error 2000 times: as much as 4 million have
        assert not key.decrypt(total).any(), name
        with pytest.raises(DecryptionFailed):
            key.decrypt(total, additions=additions)
        assert not key.decrypt(_sum(code, [zeros] * additions), additions=additions**2).any(), name


def test_what_is_refused_is_what_the_proof_for_the_whole_sum_rules_out() -> None:
    """A sum of many ciphertexts has more chances to be noisy: each is held to the bound for all of them."""
    code = CKKSCode(ONE, 2.0**22)
    one, all_ = (
        ckks_noise.slot_error(
            code.parameters,
            additions=1,
            slots=count * code.slots,
            largest=code.largest,
            scale=code.scale,
            encryption="public",
        ).total
        for count in (1, 2**20)
    )
    assert one < all_ < 0.25
    key, ring = SecretKey(code), seal.context(code.parameters)
    plain = ring.plaintext()
    ring.encoder.encode([complex((one + all_) / 2)] * (code.slots // 2), code.scale, plain)  # between the bounds
    data = seal.dump(key._encryptor.encrypt_symmetric(plain))
    with pytest.raises(DecryptionFailed):
        key.decrypt(data, additions=1)
    assert not key.decrypt(data, additions=1, ciphertexts=2**20).any()


def test_wrong_number_of_values_is_refused(by: PublicKey | SecretKey) -> None:
    slots = by.code.slots
    for size in (0, 1, slots - 1, slots + 1):
        with pytest.raises(ConfigurationError, match="holds"):
            by.encrypt(np.zeros(size, dtype=np.int64))
    for kind in (np.float64, np.uint64, np.bool_, np.complex128, object):
        with pytest.raises(ConfigurationError, match="integers"):
            by.encrypt(np.zeros(slots, dtype=kind))


def test_values_that_would_wrap_are_refused_and_not_shown(by: PublicKey | SecretKey) -> None:
    for value in (by.code.largest + 1, -by.code.largest - 1, np.iinfo(np.int64).min, np.iinfo(np.int64).max):
        values = np.zeros(by.code.slots, dtype=np.int64)
        values[3] = value
        with pytest.raises(ConfigurationError) as refusal:
            by.encrypt(values)
        assert refusal.value.value is None


def test_foreign_ciphertexts_are_malformed(key: SecretKey, by: PublicKey | SecretKey) -> None:
    """SEAL would take some of these without a word, or fail in its own way."""
    code = key.code
    zeros = np.zeros(code.slots, dtype=np.int64)
    good = by.encrypt(zeros)
    others = [other for other in CODES.values() if other != code]
    foreign = [SecretKey(other).encrypt(np.zeros(other.slots, dtype=np.int64)) for other in others]
    header = bytearray(good)
    header[8] ^= 1
    scaled = _rescaled(good, code, 2.0 * code.scale)
    cases = [b"", good[:7], good[:-1], good[1:], good + b"\0", good[: len(good) // 2], bytes(header), scaled, *foreign]
    cases += [key.public.to_bytes(), bytes(len(good))]
    for data in cases:
        with pytest.raises(MalformedMessage):
            Adder(code).load(data)
        with pytest.raises(MalformedMessage):
            key.decrypt(data)


def test_three_polynomials_and_other_forms_are_malformed(key: SecretKey) -> None:
    code = key.code
    ring, one = seal.context(code.parameters), np.ones(code.slots, dtype=np.int64)
    sealed, factor = (Adder(code).load(key.encrypt(one)).sealed for _ in range(2))
    sealed.scale = factor.scale = 1.0  # SEAL has no room for a product at the code's scale
    ring.evaluator.multiply_inplace(sealed, factor)
    assert sealed.size() == 3
    sealed.scale = code.scale
    other = Adder(code).load(key.encrypt(one)).sealed
    (ring.evaluator.transform_from_ntt_inplace if ring.transformed else ring.evaluator.transform_to_ntt_inplace)(other)
    for data in (seal.dump(sealed), seal.dump(other)):
        with pytest.raises(MalformedMessage):
            Adder(code).load(data)


def test_ciphertexts_mod_qp_are_malformed() -> None:
    """At the key's level, where public keys live: SEAL encrypts zero there when told to."""
    for name in ("CKKS, special prime", "BFV, special prime"):
        code = CODES[name]
        ring = seal.context(code.parameters).seal
        sealed = sealapi.Ciphertext()
        encryptor = sealapi.Encryptor(ring, sealapi.KeyGenerator(ring).secret_key())
        encryptor.encrypt_zero_symmetric(ring.key_parms_id(), sealed)
        sealed.scale = code.scale
        assert sealed.coeff_modulus_size() == 2
        with pytest.raises(MalformedMessage):
            Adder(code).load(seal.dump(sealed))


def test_a_ciphertext_that_hides_nothing_is_malformed(key: SecretKey) -> None:
    """c₁ = 0 and c₀ = 0, which SEAL calls transparent: made by hand, and as a sum that cancels."""
    code, adder = key.code, Adder(key.code)
    ring = seal.context(code.parameters)
    blank = sealapi.Ciphertext(ring.seal)
    blank.resize(ring.seal, ring.seal.first_parms_id(), 2)
    blank.scale = code.scale
    with pytest.raises(MalformedMessage):
        adder.load(seal.dump(blank))
    total = adder.load(key.encrypt(np.ones(code.slots, dtype=np.int64)))
    minus = adder.load(total.to_bytes())
    negative = sealapi.Ciphertext()
    ring.evaluator.negate(minus.sealed, negative)
    minus.sealed = negative
    with pytest.raises(MalformedMessage, match="hides"):
        adder.add(total, minus)


def test_flipped_bits_end_in_a_typed_error_or_in_a_decryption(key: SecretKey) -> None:
    """Nothing but typed errors. CKKS shows every flip, as slots between integers; BFV need not: see the next test."""
    vector = np.arange(key.code.slots, dtype=np.int64)
    data = bytearray(key.encrypt(vector))
    rng, undetected = np.random.default_rng(3), 0
    for position in [*range(16), *rng.integers(16, len(data), 60).tolist()]:
        data[position] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(MalformedMessage, DecryptionFailed):
            undetected += not np.array_equal(key.decrypt(bytes(data)), vector)
        data = bytearray(key.encrypt(vector))
    if isinstance(key.code, CKKSCode):
        assert undetected == 0


def test_bfv_does_not_show_a_change_by_a_multiple_of_q_over_t() -> None:
    """Why ciphertexts are authenticated: adding an encryption of ones changes every integer and fails nowhere."""
    code = CODES["BFV, one prime"]
    key, ones = SecretKey(code), np.ones(code.slots, dtype=np.int64)
    assert np.array_equal(key.decrypt(_sum(code, [key.encrypt(ones), key.public.encrypt(ones)])), 2 * ones)


@given(data=st.binary(max_size=300))
def test_random_bytes_are_malformed(data: bytes) -> None:
    for code in CODES.values():
        with pytest.raises(MalformedMessage):
            Adder(code).load(data)
        framed = b"\x5e\xa1\x10\x04\x03\x02\x00\x00" + (16 + len(data)).to_bytes(8, "little") + data
        with pytest.raises(MalformedMessage):
            Adder(code).load(framed)
        with pytest.raises(MalformedMessage):
            PublicKey(code, framed)
        with pytest.raises(MalformedMessage):
            SharedSecretKey.from_bytes(code, framed)
