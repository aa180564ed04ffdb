"""CKKS through TenSEAL: exact integers, an error bound that holds and is not idle, refusals, and no secret in sight."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import tenseal
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.crypto.lattice.legacy import MAX_MODULUS_BITS, Adder, CKKSParameters, PublicKey, SecretKey
from fedpriv.crypto.lattice.legacy_noise import slot_error
from fedpriv.errors import ConfigurationError, DecryptionFailed, MalformedMessage

PARAMETERS = CKKSParameters()
SLOTS = PARAMETERS.slots
SCALE = 2.0**30


@pytest.fixture(scope="module")
def key() -> SecretKey:
    return SecretKey(PARAMETERS)


@pytest.fixture(scope="module")
def adder() -> Adder:
    return Adder(PARAMETERS, SCALE)


def _sum(key: SecretKey, vectors: np.ndarray, scale: float) -> bytes:
    adder = Adder(PARAMETERS, scale)
    total = adder.load(key.public.encrypt(vectors[0].astype(float), scale))
    for vector in vectors[1:]:
        adder.add(total, adder.load(key.public.encrypt(vector.astype(float), scale)))
    return total.to_bytes()


def _distance(key: SecretKey, vectors: np.ndarray, scale: float) -> np.ndarray:
    return key._floats(_sum(key, vectors, scale), scale) - vectors.sum(0)


# --- the sum and its error ------------------------------------------------------------------------------------------


def test_decrypts_the_exact_sum(key: SecretKey) -> None:
    vectors = np.random.default_rng(0).integers(-(2**20), 2**20, (5, SLOTS))
    total = key.decrypt(_sum(key, vectors, SCALE), scale=SCALE, tolerance=0.25)
    assert total.dtype == np.int64
    assert np.array_equal(total, vectors.sum(0))


@pytest.mark.parametrize("shape", ["constant", "negative", "alternating", "random", "random signs", "one slot", "zero"])
def test_measured_error_is_within_the_bound_for_200_clients(key: SecretKey, shape: str) -> None:
    """At the largest permitted values, all-constant vectors (the worst case of overflow) included."""
    clients, bound, rng = 200, 2**27 - 1, np.random.default_rng(1)
    vectors = {
        "constant": lambda: np.full((clients, SLOTS), bound),
        "negative": lambda: np.full((clients, SLOTS), -bound),
        "alternating": lambda: np.tile([bound, -bound], (clients, SLOTS // 2)),
        "random": lambda: rng.integers(-bound, bound + 1, (clients, SLOTS)),
        "random signs": lambda: bound * rng.choice([-1, 1], (clients, SLOTS)),
        "one slot": lambda: bound * (np.arange(SLOTS) == 5) * np.ones((clients, 1), dtype=np.int64),
        "zero": lambda: np.zeros((clients, SLOTS), dtype=np.int64),
    }[shape]()
    largest = clients * bound
    scale = PARAMETERS.scale_for(largest)
    bounds = slot_error(PARAMETERS, additions=clients, slots=SLOTS, largest=largest, scale=scale)
    worst = float(np.abs(_distance(key, vectors, scale)).max())
    assert bounds.total < 0.25
    assert worst < bounds.total / 5, "well under the bound"
    assert worst > bounds.total / 100, "the bound is not absurdly loose"


@pytest.mark.statistical
def test_noise_has_the_variance_of_the_derivation() -> None:
    """Constant vectors encode without rounding, so that only encryption noise is left: variance K·n²/36 + K·n/24.

    n = 4 keys × 4 sums × 2048 slots. A slot is a Gaussian times |s(ζ)|, whose square is nearly exponential: squares
    have a relative variance of 5, slots of one key share |s(ζ)|: a relative error of 0.03. The interval is over 5 σ
    wide (alpha = 1e-6); the noise is SEAL's own, from the operating system, so no seed can be fixed.
    """
    n, clients, squares = PARAMETERS.degree, 3, []
    for _ in range(4):
        key = SecretKey(PARAMETERS)
        squares += [_distance(key, np.full((clients, SLOTS), 7), SCALE) ** 2 for _ in range(4)]
    bound = slot_error(PARAMETERS, additions=clients, slots=SLOTS, largest=21, scale=SCALE)
    assert np.max(squares) < bound.encryption**2, "the part for encryption holds by itself"
    measured = float(np.mean(squares)) * SCALE**2
    expected = clients * (n * n / 36 + n / 24)
    assert 0.8 < measured / expected < 1.2
    for factor in (2 / 3, 3 / 2):  # power: another σ would be noticed
        assert not 0.8 < measured / (factor**2 * expected) < 1.2


def test_bound_grows_with_what_it_must_grow_with() -> None:
    def total(additions: int = 100, slots: int = SLOTS, largest: int = 2**30, failure: float = 2.0**-60) -> float:
        return slot_error(
            PARAMETERS, additions=additions, slots=slots, largest=largest, scale=SCALE, failure=failure
        ).total

    assert total(additions=101) > total()
    assert total(slots=500 * SLOTS) > total()
    assert total(largest=2**31) > total()
    assert total(failure=2.0**-80) > total()


def test_small_special_prime_makes_more_noise() -> None:
    """Fresh noise is divided by P: were that forgotten, 30 and 49 bits would give the same bound."""
    bounds = [
        slot_error(CKKSParameters(moduli=(60, bits)), additions=10, slots=SLOTS, largest=2**20, scale=SCALE).encryption
        for bits in (30, 49)
    ]
    assert bounds[0] > bounds[1]


def test_overflow_is_silent_in_ckks_itself(key: SecretKey) -> None:
    """Why sums must be bounded before the first round: past q/2 integers come back wrong and look sound."""
    scale = 2.0**40
    fits = np.full((3, SLOTS), 2**16)
    wraps = np.full((3, SLOTS), 3 * 2**16)
    assert np.array_equal(key.decrypt(_sum(key, fits, scale), scale=scale, tolerance=0.25), fits.sum(0))
    assert PARAMETERS.scale_for(int(wraps[0].sum())) < scale, "the chosen scale leaves room"
    wrong = key._floats(_sum(key, wraps, scale), scale)
    assert np.all(np.abs(wrong - wraps.sum(0)) > 1000)


@given(bits=st.integers(1, 58))
def test_scale_leaves_room_for_the_largest_sum(bits: int) -> None:
    largest = 2**bits - 1
    scale = PARAMETERS.scale_for(largest)
    assert largest * scale + scale <= 2**58  # q/2 ≥ 2^58


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("degree", "moduli"), [(2048, (30, 30)), (4096, (60, 50)), (4096, (50, 60))])
def test_refuses_more_bits_than_128_bit_security_allows(degree: int, moduli: tuple[int, int]) -> None:
    with pytest.raises(ConfigurationError, match="128-bit"):
        CKKSParameters(degree=degree, moduli=moduli)


@pytest.mark.parametrize("degree", sorted(MAX_MODULUS_BITS))
def test_the_security_table_is_that_of_seal(degree: int) -> None:
    """SEAL takes moduli at the limit and refuses one bit more."""
    limit, parts = MAX_MODULUS_BITS[degree], 2 if degree < 8192 else 8
    sizes = [limit // parts + (i < limit % parts) for i in range(parts)]
    tenseal.context(tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=sizes, n_threads=1)
    sizes[-1] += 1
    with pytest.raises(ValueError, match="set correctly"):
        tenseal.context(tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=sizes, n_threads=1)


@pytest.mark.parametrize(("degree", "moduli"), [(1024, (27, 27)), (4000, (60, 49)), (4096, (60,)), (8192, (61, 60))])
def test_refuses_unknown_rings(degree: int, moduli: tuple[int, int]) -> None:
    with pytest.raises(ConfigurationError):
        CKKSParameters(degree=degree, moduli=moduli)


def test_wrong_key_is_refused(key: SecretKey) -> None:
    data = key.public.encrypt(np.zeros(SLOTS), SCALE)
    with pytest.raises(DecryptionFailed) as failure:
        SecretKey(PARAMETERS).decrypt(data, scale=SCALE, tolerance=0.25)
    assert failure.value.value is None, "no decrypted value in the error"


def test_sum_under_two_keys_is_refused(key: SecretKey) -> None:
    adder = Adder(PARAMETERS, SCALE)
    total = adder.load(key.public.encrypt(np.ones(SLOTS), SCALE))
    adder.add(total, adder.load(SecretKey(PARAMETERS).public.encrypt(np.ones(SLOTS), SCALE)))
    with pytest.raises(DecryptionFailed):
        key.decrypt(total.to_bytes(), scale=SCALE, tolerance=0.25)


def test_halves_are_refused(key: SecretKey) -> None:
    """A plaintext between the integers: the tolerance is checked, not only the key."""
    with pytest.raises(DecryptionFailed):
        key.decrypt(key.public.encrypt(np.full(SLOTS, 0.4), SCALE), scale=SCALE, tolerance=0.25)


def test_wrong_number_of_values_is_refused(key: SecretKey) -> None:
    for size in (0, 1, SLOTS - 1, SLOTS + 1):
        with pytest.raises(ConfigurationError):
            key.public.encrypt(np.zeros(size), SCALE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**28, -(2.0**28)])
def test_values_that_would_wrap_are_refused_and_not_shown(key: SecretKey, value: float) -> None:
    values = np.zeros(SLOTS)
    values[3] = value
    with pytest.raises(ConfigurationError) as refusal:
        key.public.encrypt(values, SCALE)
    assert refusal.value.value is None


def test_foreign_ciphertexts_are_malformed(key: SecretKey) -> None:
    """TenSEAL would take each of these without a word, or fail in its own way."""
    adder = Adder(PARAMETERS, SCALE)
    good = key.public.encrypt(np.zeros(SLOTS), SCALE)
    larger = SecretKey(CKKSParameters(degree=8192)).public.encrypt(np.zeros(4096), SCALE)
    short = bytes(tenseal.ckks_vector(key.public._context, [1.0, 2.0], SCALE).serialize())
    multiplying = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[60, 49], n_threads=1)
    multiplying.auto_relin = multiplying.auto_rescale = False
    root = tenseal.ckks_vector(multiplying, [1.0] * SLOTS, SCALE**0.5)
    three_parts = bytes((root * root).serialize())
    other_scale = key.public.encrypt(np.zeros(SLOTS), SCALE / 2)
    for data in (b"", good[:-1], good[1:], good[: len(good) // 2], larger, short, three_parts, other_scale):
        with pytest.raises(MalformedMessage):
            adder.load(data)
        with pytest.raises((MalformedMessage, DecryptionFailed)):
            key.decrypt(data, scale=SCALE, tolerance=0.25)


@given(data=st.binary(max_size=300))
def test_random_bytes_are_malformed(adder: Adder, data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        adder.load(data)


@pytest.mark.parametrize("data", [b"", b"key", bytes(1000)])
def test_foreign_public_keys_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        PublicKey(PARAMETERS, data)


# --- secrets --------------------------------------------------------------------------------------------------------


def test_encryption_is_randomised(key: SecretKey) -> None:
    assert key.public.encrypt(np.zeros(SLOTS), SCALE) != key.public.encrypt(np.zeros(SLOTS), SCALE)


def test_keys_differ() -> None:
    assert SecretKey(PARAMETERS).public.key_id != SecretKey(PARAMETERS).public.key_id


def test_the_adder_holds_no_key(key: SecretKey, adder: Adder) -> None:
    context = adder._context
    assert not context.has_secret_key()
    assert not context.has_public_key()
    with pytest.raises(ValueError, match="secret_key"):
        adder.load(key.public.encrypt(np.zeros(SLOTS), SCALE))._vector.decrypt()


def test_the_public_key_holds_no_secret(key: SecretKey) -> None:
    context = tenseal.context_from(key.public.to_bytes(), n_threads=1)
    assert not context.has_secret_key()
    with pytest.raises(ValueError, match="secret_key"):
        tenseal.ckks_vector_from(context, key.public.encrypt(np.zeros(SLOTS), SCALE)).decrypt()
    assert PublicKey(PARAMETERS, key.public.to_bytes()).key_id == key.public.key_id


def test_secret_keys_are_not_shown_copied_or_pickled(key: SecretKey) -> None:
    assert repr(key) == f"<CKKS secret key {key.public.key_id.hex()}>"
    assert "object at" not in repr(key.public)
    for move in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="not copied"):
            move(key)
