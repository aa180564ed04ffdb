"""Rings: the security table is SEAL's, the primes are SEAL's, and what is too weak or does not exist is refused."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenseal import sealapi

from fedpriv.crypto.lattice import MAX_MODULUS_BITS, BFVCode, BFVParameters, CKKSCode, CKKSParameters, SecretKey, seal
from fedpriv.errors import ConfigurationError


@pytest.mark.parametrize("degree", sorted(MAX_MODULUS_BITS))
def test_the_security_table_is_that_of_seal(degree: int) -> None:
    assert sealapi.CoeffModulus.MaxBitCount(degree, sealapi.SEC_LEVEL_TYPE.TC128) == MAX_MODULUS_BITS[degree]


@pytest.mark.parametrize("degree", [2048, 4096])
def test_seal_takes_the_limit_and_refuses_one_bit_more(degree: int) -> None:
    limit = MAX_MODULUS_BITS[degree]
    assert seal.context(CKKSParameters(degree=degree, moduli=(limit // 2, limit - limit // 2))).seal.parameters_set()
    chosen = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    chosen.set_poly_modulus_degree(degree)
    chosen.set_coeff_modulus(sealapi.CoeffModulus.Create(degree, [limit // 2, limit + 1 - limit // 2]))
    assert not sealapi.SEALContext(chosen, True, sealapi.SEC_LEVEL_TYPE.TC128).parameters_set()


@pytest.mark.parametrize(
    ("degree", "moduli"), [(2048, (30, 30)), (2048, (55,)), (4096, (60, 50)), (4096, (50, 60))], ids=str
)
def test_refuses_more_bits_than_128_bit_security_allows(degree: int, moduli: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="128-bit"):
        CKKSParameters(degree=degree, moduli=moduli)
    with pytest.raises(ConfigurationError, match="128-bit"):
        BFVParameters(degree=degree, moduli=moduli, plain_bits=20)


@pytest.mark.parametrize(
    ("degree", "moduli"),
    [
        (1024, (27,)),
        (4000, (60, 49)),
        (4096, ()),
        (4096, (30, 30, 30)),
        (4096, (19,)),
        (8192, (61, 60)),
        (4096, [60, 49]),
        (16384, (20, 20, 20)),
    ],
    ids=str,
)
def test_refuses_unknown_rings(degree: int, moduli: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError):
        CKKSParameters(degree=degree, moduli=moduli)


@pytest.mark.parametrize("degree", sorted(MAX_MODULUS_BITS))
def test_every_size_has_two_primes(degree: int) -> None:
    for bits in range(20, min(60, MAX_MODULUS_BITS[degree] // 2) + 1):
        primes = CKKSParameters(degree=degree, moduli=(bits, bits)).primes
        assert len({*primes}) == 2
        assert all(prime.bit_length() == bits and prime % (2 * degree) == 1 for prime in primes)


@pytest.mark.parametrize(
    ("moduli", "plain_bits"),
    [((40,), 40), ((40,), 41), ((54, 30), 30), ((54,), 12), ((54,), 2), ((54,), 0), ((54,), -9)],
)
def test_refuses_impossible_plaintext_moduli(moduli: tuple[int, ...], plain_bits: int) -> None:
    degree = 2048 if sum(moduli) <= 54 else 4096
    with pytest.raises(ConfigurationError):
        BFVParameters(degree=degree, moduli=moduli, plain_bits=plain_bits)


@given(degree=st.sampled_from([2048, 4096, 8192, 16384]), moduli=st.lists(st.integers(22, 60), min_size=1, max_size=2))
def test_the_primes_are_those_that_seal_takes(degree: int, moduli: list[int]) -> None:
    if sum(moduli) <= MAX_MODULUS_BITS[degree]:
        expected = [prime.value() for prime in sealapi.CoeffModulus.Create(degree, moduli)]
        assert list(CKKSParameters(degree=degree, moduli=tuple(moduli)).primes) == expected


@pytest.mark.parametrize("bits", [17, 20, 30, 36, 53])
def test_the_plaintext_modulus_is_that_of_seal(bits: int) -> None:
    parameters = BFVParameters(degree=2048, moduli=(54,), plain_bits=bits)
    assert parameters.plain_modulus == sealapi.PlainModulus.Batching(2048, bits).value()
    assert parameters.largest == (parameters.plain_modulus - 1) // 2
    code = BFVCode(parameters)
    assert code.slots == 2048
    seal.context(parameters)


@pytest.mark.parametrize("parameters", [CKKSParameters(), CKKSParameters(degree=2048, moduli=(54,))], ids=repr)
@given(bits=st.integers(1, 70), part=st.floats(0, 1))
def test_the_scale_is_the_largest_that_leaves_room(parameters: CKKSParameters, bits: int, part: float) -> None:
    largest = round(2 ** (bits - part))
    scale = parameters.scale_for(largest)
    assert math.frexp(scale)[0] == 0.5, "a power of two"
    q = parameters.primes[0]
    assert (math.sqrt(2) * largest + 1) * scale <= q / 2
    assert (math.sqrt(2) * largest + 3) * 2 * scale > q / 2


def test_a_single_upload_carries_half_of_the_largest_sum() -> None:
    """What a scale is chosen for can be encrypted by two clients: SEAL's own limit does not interfere."""
    parameters = CKKSParameters()
    code = CKKSCode(parameters, parameters.scale_for(2**30))
    assert code.largest >= 2**29
    key = SecretKey(CKKSCode(parameters, parameters.scale_for(2 * code.largest)))
    worst = np.where(np.arange(4096) % 2 == 0, 1, -1) * key.code.largest
    worst[2048:] = key.code.largest
    assert np.array_equal(key.decrypt(key.encrypt(worst)), worst)


def test_digests_tell_codes_apart() -> None:
    ckks = [CKKSParameters(), CKKSParameters(moduli=(60, 48)), CKKSParameters(degree=8192)]
    bfv = [BFVParameters(degree=4096, moduli=(60, 49), plain_bits=bits) for bits in (25, 30)]
    codes = [CKKSCode(ckks[0], 2.0**20), CKKSCode(ckks[0], 2.0**21), BFVCode(bfv[0])]
    digests = [item.digest() for item in (*ckks, *bfv, *codes[:2])]
    assert len({*digests}) == len(digests)
    assert {len(digest) for digest in digests} == {32}
    assert codes[2].digest() == bfv[0].digest()


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 2.0**59])
def test_refuses_impossible_scales(scale: float) -> None:
    with pytest.raises(ConfigurationError):
        CKKSCode(CKKSParameters(), scale)


def test_planning_loads_no_tenseal() -> None:
    script = (
        "import sys\n"
        "from fedpriv.crypto.lattice import BFVParameters, CKKSParameters, bfv_noise, ckks_noise\n"
        "p = BFVParameters(degree=2048, moduli=(54,), plain_bits=30)\n"
        "assert bfv_noise.most_additions(p, ciphertexts=9, encryption='public') > 1\n"
        "assert p.largest and CKKSParameters().primes\n"
        "assert not any(name.startswith('tenseal') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
