"""The noise bounds of CKKS and BFV hold, are not idle, and describe SEAL's noise: its variance is the derivation's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.crypto.lattice import (
    Adder,
    BFVCode,
    BFVParameters,
    CKKSCode,
    CKKSParameters,
    Code,
    Encryption,
    SecretKey,
    bfv_noise,
    ckks_noise,
    raw,
    ring,
)
from fedpriv.crypto.lattice.tails import deviations, inflation

TWO, ONE = CKKSParameters(moduli=(40, 60)), CKKSParameters(degree=2048, moduli=(54,))
BFV_TWO = BFVParameters(degree=4096, moduli=(48, 60), plain_bits=25)
BFV_ONE = BFVParameters(degree=2048, moduli=(54,), plain_bits=30)
SCALE = 2.0**22


def _sum(key: SecretKey, vectors: np.ndarray, encryption: Encryption) -> bytes:
    adder = Adder(key.code)
    encrypt = (key.public if encryption == "public" else key).encrypt
    total = adder.load(encrypt(vectors[0]))
    for vector in vectors[1:]:
        adder.add(total, adder.load(encrypt(vector)))
    return total.to_bytes()


def _ckks_errors(key: SecretKey, vectors: np.ndarray, encryption: Encryption) -> np.ndarray:
    """``[n]``: decrypted minus encrypted."""
    slots = raw.floats(key, _sum(key, vectors, encryption))
    return np.concatenate([slots.real, slots.imag]) - vectors.sum(0)


def _bfv_noise(key: SecretKey, data: bytes) -> np.ndarray:
    """``[n]``: t·v/q, from the ciphertext and the secret key, without SEAL."""
    q, t = raw.modulus(key.code.parameters), key.code.parameters.plain_modulus
    first, second = raw.coefficients(key.code, data)
    secret = raw.secret_coefficients(key).astype(object) % q
    product = ring.interpolate(ring.evaluate(second, q) * ring.evaluate(secret, q) % q, q)
    return ring.centred(t * (first + product) % q, q).astype(np.float64) / q


def _vectors(shape: str, clients: int, slots: int, bound: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return {
        "constant": lambda: np.full((clients, slots), bound),
        "alternating": lambda: np.tile([bound, -bound], (clients, slots // 2)),
        "random": lambda: rng.integers(-bound, bound + 1, (clients, slots)),
        "zero": lambda: np.zeros((clients, slots), dtype=np.int64),
    }[shape]()


# --- the bounds hold and are not idle ---------------------------------------------------------------------------------


@pytest.mark.parametrize("encryption", ["public", "secret"])
@pytest.mark.parametrize("parameters", [TWO, ONE], ids=["special prime", "one prime"])
@pytest.mark.parametrize("shape", ["constant", "alternating", "random", "zero"])
@pytest.mark.parametrize("clients", [1, 40])
def test_ckks_errors_are_within_the_bound(
    parameters: CKKSParameters, encryption: Encryption, shape: str, clients: int
) -> None:
    code = CKKSCode(parameters, SCALE)
    vectors = _vectors(shape, clients, code.slots, 500)
    bound = ckks_noise.slot_error(
        parameters, additions=clients, slots=code.slots, largest=clients * 500, scale=SCALE, encryption=encryption
    )
    worst = float(np.abs(_ckks_errors(SecretKey(code), vectors, encryption)).max())
    assert bound.total / 100 < worst < bound.total / 2, "neither broken nor idle"


@pytest.mark.parametrize("clients", [2, 64])
def test_ckks_holds_at_the_largest_sums_of_the_widest_ring(clients: int) -> None:
    """Where double arithmetic dominates: sums of 2^35 at 60 bits. That part is a worst case, not a tail."""
    parameters = CKKSParameters()
    bound = 2**35 // clients
    code = CKKSCode(parameters, parameters.scale_for(clients * bound))
    for shape in ("constant", "alternating", "random"):
        key, vectors = SecretKey(code), _vectors(shape, clients, code.slots, bound)
        error = ckks_noise.slot_error(
            parameters,
            additions=clients,
            slots=code.slots,
            largest=clients * bound,
            scale=code.scale,
            encryption="public",
        )
        worst = float(np.abs(_ckks_errors(key, vectors, "public")).max())
        assert worst < error.total < 0.25
        assert np.array_equal(key.decrypt(_sum(key, vectors, "public"), additions=clients), vectors.sum(0))


@pytest.mark.parametrize("encryption", ["public", "secret"])
@pytest.mark.parametrize("parameters", [BFV_TWO, BFV_ONE], ids=["special prime", "one prime"])
@pytest.mark.parametrize("shape", ["constant", "alternating", "random", "zero"])
@pytest.mark.parametrize("clients", [1, 40])
def test_bfv_noise_is_within_the_bound(
    parameters: BFVParameters, encryption: Encryption, shape: str, clients: int
) -> None:
    key = SecretKey(BFVCode(parameters))
    vectors = _vectors(shape, clients, parameters.slots, parameters.largest // clients)
    bound = bfv_noise.noise_bound(parameters, additions=clients, ciphertexts=1, encryption=encryption)
    data = _sum(key, vectors, encryption)
    worst = float(np.abs(_bfv_noise(key, data)).max())
    assert bound / 100 < worst < bound, "neither broken nor idle"
    measured = key._decryptor.invariant_noise_budget(Adder(key.code).load(data).sealed)
    assert measured == math.floor(-math.log2(worst)) - 1 or abs(math.log2(worst) % 1) < 1e-3, "SEAL's budget is this"
    assert 0 < bfv_noise.budget(bound) <= measured <= bfv_noise.budget(bound) + 8
    assert np.array_equal(key.decrypt(data, additions=clients), vectors.sum(0))


@pytest.mark.parametrize("encryption", ["public", "secret"])
def test_bfv_is_exact_at_most_additions_and_fails_far_beyond(encryption: Encryption) -> None:
    """One ciphertext added to itself has K times its noise, as much as K² clients have: √K stands for K here."""
    parameters = BFVParameters(degree=2048, moduli=(40,), plain_bits=20)
    most = bfv_noise.most_additions(parameters, ciphertexts=1, encryption=encryption)
    below, above = (
        bfv_noise.noise_bound(parameters, additions=k, ciphertexts=1, encryption=encryption) for k in (most, most + 1)
    )
    assert below < bfv_noise.ROOM <= above
    key = SecretKey(BFVCode(parameters))
    zero = (key.public if encryption == "public" else key).encrypt(np.zeros(2048, dtype=np.int64))
    for power in (1, 64 * 8):
        adder = Adder(key.code)
        total, count = adder.load(zero), 1
        while count < power * math.sqrt(most):
            adder.add(total, adder.load(total.to_bytes()))
            count *= 2
        if power == 1:
            assert not key.decrypt(total.to_bytes()).any()
        else:
            with pytest.raises(Exception, match="budget"):
                key.decrypt(total.to_bytes())


@given(bound=st.floats(2.0**-30, 0.5))
def test_the_predicted_budget_is_what_seal_measures_at_the_bound(bound: float) -> None:
    """SEAL counts bits(q) − bits(|t·v|) − 1; here with 40 bits of q."""
    worst = math.ceil(bound * 2**40) - 1
    assert bfv_noise.budget(bound) == max(0, 40 - worst.bit_length() - 1)
    assert (bfv_noise.budget(bound) > 0) == (bound <= bfv_noise.ROOM)


def test_what_cannot_carry_one_encryption_has_no_additions() -> None:
    parameters = BFVParameters(degree=2048, moduli=(40,), plain_bits=35)
    assert bfv_noise.most_additions(parameters, ciphertexts=1, encryption="public") == 0


# --- SEAL's noise is the one derived ----------------------------------------------------------------------------------

FRESH = 10.5 * (1 + 4 / 3 * 2048)  # of e₁ + e₂·s − e·u in ring 2048, a coefficient


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("code", "encryption", "variance"),
    [
        # a slot's part: n/2 times a coefficient's variance; rounding errors have 1/12, s has 2/3 a coefficient
        (CKKSCode(TWO, SCALE), "public", 4096 / 2 * (1 / 12 + 4096 * 2 / 3 / 12)),
        (CKKSCode(TWO, SCALE), "secret", 4096 / 2 * 10.5),
        (CKKSCode(ONE, SCALE), "public", 2048 / 2 * FRESH),
        (CKKSCode(ONE, SCALE), "secret", 2048 / 2 * 10.5),
        # a coefficient; each client's scaled plaintext is rounded as well
        (BFVCode(BFV_TWO), "public", 1 / 12 + 4096 * 2 / 3 / 12 + 1 / 12),
        (BFVCode(BFV_TWO), "secret", 10.5 + 1 / 12),
        (BFVCode(BFV_ONE), "public", FRESH + 1 / 12),
        (BFVCode(BFV_ONE), "secret", 10.5 + 1 / 12),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, CKKSCode | BFVCode) else str(value),
)
def test_noise_has_the_variance_of_the_derivation(code: Code, encryption: Encryption, variance: float) -> None:
    """The sum of 3 encryptions has 3 times the variance of one.

    n = 4 keys × 3 sums × 2048 or 4096 values. CKKS vectors are constant, which encodes without rounding. A public-key
    slot is a Gaussian times a factor like |s(ζ)|, whose square is nearly exponential: squares have a relative variance
    of 5, and slots of one key share the factors: a relative error below 0.03. BFV and secret-key squares have 2 and no
    shared factors: 0.01. The interval is over 5 σ wide (alpha = 1e-6); the noise is SEAL's own, from the operating
    system, so no seed can be fixed.
    """
    clients, squares = 3, []
    for _ in range(4):
        key = SecretKey(code)
        for _ in range(3):
            if isinstance(code, CKKSCode):
                noise = _ckks_errors(key, np.full((clients, code.slots), 7), encryption) * SCALE
            else:
                data = _sum(key, _vectors("random", clients, code.slots, 1000), encryption)
                noise = _bfv_noise(key, data) * raw.modulus(code.parameters) / code.parameters.plain_modulus
            squares.append(noise**2)
    mean = float(np.mean(squares))
    _covers(code, encryption, clients, math.sqrt(mean))
    ratio = mean / (clients * variance)
    assert 0.85 < ratio < 1.15
    for factor in (2 / 3, 3 / 2):  # power: another σ would be noticed
        assert not 0.85 < ratio / factor**2 < 1.15


def _covers(code: Code, encryption: Encryption, clients: int, spread: float) -> None:
    """The bound is that of a Gaussian of the measured spread at the stated failure probability, and little more."""
    if isinstance(code, CKKSCode):
        bound = ckks_noise.slot_error(
            code.parameters, additions=clients, slots=code.slots, largest=21, scale=1.0, encryption=encryption
        ).encryption
        gauss = spread * deviations(code.slots, ckks_noise.FAILURE)
        if encryption == "public":  # the slot with the largest |s(ζ)|
            gauss *= math.sqrt(inflation(2, ckks_noise.FAILURE / (code.slots // 2)))
    else:
        bound = bfv_noise.noise_bound(code.parameters, additions=clients, ciphertexts=1, encryption=encryption)
        bound *= raw.modulus(code.parameters) / code.parameters.plain_modulus
        gauss = spread * deviations(code.slots, bfv_noise.FAILURE)
    assert 0.93 * gauss < bound < 1.6 * gauss, "0.93: the spread is measured"


@pytest.mark.statistical
def test_tails_of_norms_are_above_the_true_quantiles() -> None:
    """The bounds for 1e-3 and 1e-2, against Gaussians, which attain the proxies; n = 10^6 and 10^5, seed 0.

    The true tails are 10 to 25 times below what is allowed, several standard errors away from both ends.
    """
    rng = np.random.default_rng(0)
    for dimension, draws in ((2, 10**6), (64, 10**5)):
        norms = (rng.standard_normal((draws, dimension)) ** 2).sum(1) / dimension
        x = inflation(dimension, 1e-3)
        exceeding = float(np.mean(norms > x))
        assert exceeding < 1e-3, "a bound"
        assert exceeding > 1e-5, "not idle"
    gauss = np.abs(rng.standard_normal((10**5, 10))).max(1)
    assert 1e-4 < float(np.mean(gauss > deviations(10, 0.01))) < 0.01


@given(dimension=st.sampled_from([2, 2048, 4096]), bits=st.integers(1, 200))
def test_inflation_solves_its_equation(dimension: int, bits: int) -> None:
    x = inflation(dimension, 2.0**-bits)
    assert x > 1
    assert dimension / 2 * (math.log(x) + 1 - x) == pytest.approx(-bits * math.log(2), rel=1e-6)


# --- what the bounds depend on --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encryption", ["public", "secret"])
def test_bounds_grow_with_what_they_must_grow_with(encryption: Encryption) -> None:
    def ckks(additions: int = 100, slots: int = 4096, largest: int = 2**20, failure: float = 2.0**-60) -> float:
        return ckks_noise.slot_error(
            TWO,
            additions=additions,
            slots=slots,
            largest=largest,
            scale=2.0**20,
            failure=failure,
            encryption=encryption,
        ).total

    def bfv(additions: int = 100, ciphertexts: int = 1, failure: float = 2.0**-128) -> float:
        return bfv_noise.noise_bound(
            BFV_TWO, additions=additions, ciphertexts=ciphertexts, failure=failure, encryption=encryption
        )

    assert ckks(additions=101) > ckks()
    assert ckks(slots=500 * 4096) > ckks()
    assert ckks(largest=2**21) > ckks()
    assert ckks(failure=2.0**-80) > ckks()
    assert bfv(additions=101) > bfv()
    assert bfv(ciphertexts=500) > bfv()
    assert bfv(failure=2.0**-140) > bfv()
    rounded = 10**12 / 2 * BFV_TWO.plain_modulus / BFV_TWO.primes[0]
    assert bfv(additions=10**12) > rounded > bfv(additions=10**12) / 2, "plaintexts may all be rounded the same way"


def test_secret_key_encryption_is_quieter_and_a_special_prime_helps() -> None:
    def ckks(parameters: CKKSParameters, encryption: Encryption) -> float:
        return ckks_noise.slot_error(
            parameters, additions=10, slots=4096, largest=1, scale=1.0, encryption=encryption
        ).encryption

    def bfv(moduli: tuple[int, ...], encryption: Encryption) -> float:
        parameters = BFVParameters(degree=4096, moduli=moduli, plain_bits=25)
        return bfv_noise.noise_bound(parameters, additions=10, ciphertexts=1, encryption=encryption)

    alone, beside, tiny = (CKKSParameters(moduli=moduli) for moduli in ((54,), (54, 55), (54, 20)))
    assert ckks(alone, "public") > ckks(beside, "public") > ckks(beside, "secret") == ckks(alone, "secret")
    assert ckks(tiny, "public") > ckks(beside, "public"), "fresh noise is divided by P, whatever it is"
    assert bfv((54, 20), "public") > bfv((54, 55), "public")
    assert bfv((54,), "public") > bfv((54, 55), "public") > bfv((54, 55), "secret") == bfv((54,), "secret")
