"""Paillier through phe: against the textbook's decryption, randomised, refusing what is not a ciphertext."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phe import paillier as phe_paillier
from phe import util as phe_util

from fedpriv.crypto.paillier import SECURITY_BITS, PublicKey, SecretKey, SharedSecretKey
from fedpriv.errors import ConfigurationError, MalformedMessage

KEY = SecretKey(2048)
plaintexts = st.integers(0, 2**2047 - 1) | st.integers(0, 10)


def _textbook(key: SecretKey, ciphertext: int) -> int:
    """Paillier 1999, scheme 1: L(c^λ mod n²) · λ⁻¹ mod n, with g = 1 + n."""
    p, q = key._key.p, key._key.q
    n, order = p * q, math.lcm(p - 1, q - 1)
    return (pow(ciphertext, order, n * n) - 1) // n * pow(order, -1, n) % n


@given(plaintext=plaintexts)
def test_decrypts_as_the_textbook_says(plaintext: int) -> None:
    data = KEY.public.encrypt(plaintext)
    assert KEY.decrypt(data) == plaintext == _textbook(KEY, KEY.public.load(data))


@given(left=plaintexts, right=plaintexts)
def test_adds_mod_n(left: int, right: int) -> None:
    public = KEY.public
    n = int.from_bytes(public.to_bytes(), "big")
    total = public.add(public.load(public.encrypt(left)), public.load(public.encrypt(right)))
    assert KEY.decrypt(public.dump(total)) == (left + right) % n


@pytest.mark.parametrize("bits", [2048, 3072])
def test_key_sizes(bits: int) -> None:
    key = SecretKey(bits)
    n = int.from_bytes(key.public.to_bytes(), "big")
    assert n.bit_length() == bits == key.public.bits
    assert key.public.plaintext_bits == bits - 1
    assert len(key.public.encrypt(1)) == key.public.ciphertext_bytes == bits // 4
    assert PublicKey(n).key_id == key.public.key_id


def test_security_levels_are_those_of_nist() -> None:
    assert (SECURITY_BITS[2048], SECURITY_BITS[3072]) == (112, 128)


@pytest.mark.parametrize("bits", [0, 512, 1024, 2047, 3000])
def test_refuses_small_or_odd_keys(bits: int) -> None:
    with pytest.raises(ConfigurationError, match="2048"):
        SecretKey(bits)


def test_refuses_a_small_modulus() -> None:
    with pytest.raises(ConfigurationError):
        PublicKey(2**1023 + 1)


def test_every_encryption_is_fresh_whatever_pythons_generator_is() -> None:
    """The same plaintext, the same seed of the generator that must not be used: different ciphertexts."""
    seen = set()
    for _ in range(3):
        random.seed(0)
        seen.add(KEY.public.encrypt(5))
    assert len(seen) == 3
    for data in seen:
        assert (KEY.public.load(data) - 1) % int.from_bytes(KEY.public.to_bytes(), "big") != 0, "no obfuscator"


def test_phe_draws_from_the_operating_system() -> None:
    """The claim of the module's docstring, checked against the installed version."""
    for source in (phe_paillier.PaillierPublicKey.get_random_lt_n, phe_util.getprimeover):
        assert "random.SystemRandom()" in inspect.getsource(source)
    assert "get_random_lt_n" in inspect.getsource(phe_paillier.PaillierPublicKey.raw_encrypt)


def test_plaintext_out_of_range_is_refused_and_not_shown() -> None:
    for plaintext in (-1, 2**2047):
        with pytest.raises(ConfigurationError) as error:
            KEY.public.encrypt(plaintext)
        assert error.value.value is None


@pytest.mark.parametrize("data", [b"", b"\1", bytes(512), b"\xff" * 512, bytes(511), bytes(513)])
def test_foreign_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        KEY.public.load(data)
    with pytest.raises(MalformedMessage):
        KEY.decrypt(data)


@given(data=st.binary(max_size=520))
def test_random_bytes_are_malformed_or_a_residue(data: bytes) -> None:
    try:
        value = KEY.public.load(data)
    except MalformedMessage:
        return
    assert len(data) == 512
    assert 0 < value < int.from_bytes(KEY.public.to_bytes(), "big") ** 2


def test_a_wrong_key_gives_something_else() -> None:
    other = SecretKey(2048)
    with contextlib.suppress(MalformedMessage):  # a residue beyond the other key's n²
        assert other.decrypt(KEY.public.encrypt(1)) != 1


def test_secret_keys_are_not_shown_copied_or_pickled() -> None:
    assert repr(KEY) == f"<Paillier secret key {KEY.public.key_id.hex()}, 2048 bits>"
    assert str(KEY._key.p) not in repr(KEY)
    for move in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="not copied"):
            move(KEY)


def test_what_no_encryption_is_cannot_be_loaded() -> None:
    """A multiple of a prime of n is no unit mod n², and would spoil whatever it is added to."""
    key = KEY
    for value in (key.public._key.n, 7 * key._key.p):
        with pytest.raises(MalformedMessage):
            key.public.load(key.public.dump(int(value)))


def test_a_shared_key_travels_and_decrypts() -> None:
    key = SharedSecretKey(2048)
    assert str(key._key.p) not in repr(key)
    for moved in (pickle.loads(pickle.dumps(key)), SharedSecretKey.from_bytes(key.to_bytes())):
        assert isinstance(moved, SharedSecretKey)
        assert moved.public.key_id == key.public.key_id
        assert moved.decrypt(key.public.encrypt(7)) == 7
    assert len(key.to_bytes()) == key.key_bytes == 256


@pytest.mark.parametrize("data", [b"", b"\1" * 10, b"\xff" * 257, b"\xff" * 256, b"\xff" * 128 + bytes(127) + b"\3"])
def test_a_broken_shared_key_is_refused(data: bytes) -> None:
    with pytest.raises((MalformedMessage, ConfigurationError)):
        SharedSecretKey.from_bytes(data)


def test_public_keys_travel() -> None:
    assert pickle.loads(pickle.dumps(KEY.public)).key_id == KEY.public.key_id
