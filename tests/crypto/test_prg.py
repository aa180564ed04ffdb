"""AES-256-CTR and ChaCha20 against their vectors, and masks against a slow reference."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import cryptography_vectors
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.crypto import prg
from fedpriv.errors import ConfigurationError


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def test_sp800_38a_section_f_5_5() -> None:
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    start = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plaintext = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    ciphertext = bytes.fromhex(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    assert prg.keystream(key, start).update(plaintext) == ciphertext


def test_rfc3686_aes256() -> None:
    with cryptography_vectors.open_vector_file("ciphers/AES/CTR/aes-256-ctr.txt", "r") as file:
        text = file.read()
    vectors = [dict(re.findall(r"^(\w+) = (\w+)", block, re.MULTILINE)) for block in text.split("COUNT = ")[1:]]
    assert len(vectors) >= 3
    for vector in vectors:
        stream = prg.keystream(bytes.fromhex(vector["KEY"]), bytes.fromhex(vector["IV"]))
        assert stream.update(bytes.fromhex(vector["PLAINTEXT"])).hex().upper() == vector["CIPHERTEXT"].upper()


def test_expansion_is_aes_of_the_counters_from_zero() -> None:
    key = bytes(range(32))
    counters = b"".join(i.to_bytes(16, "big") for i in range(9))
    assert prg.expand(key, 144) == Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(counters)


def test_rfc8439_section_2_4_2() -> None:
    start = (1).to_bytes(4, "little") + bytes.fromhex("000000000000004a00000000")
    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would "
        b"be it."
    )
    ciphertext = bytes.fromhex(
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b"
        "f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8"
        "07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736"
        "5af90bbf74a35be6b40b8eedf2785e42874d"
    )
    assert prg.keystream(bytes(range(32)), start, cipher="chacha20").update(plaintext) == ciphertext


def test_rfc8439_appendix_a_2() -> None:
    with cryptography_vectors.open_vector_file("ciphers/ChaCha20/rfc7539.txt", "r") as file:
        text = file.read()
    vectors = [dict(re.findall(r"^(\w+) = (\w+)", block, re.MULTILINE)) for block in text.split("COUNT = ")[1:]]
    assert len(vectors) >= 3
    for vector in vectors:
        start = int(vector["INITIAL_BLOCK_COUNTER"]).to_bytes(4, "little") + bytes.fromhex(vector["NONCE"])
        stream = prg.keystream(bytes.fromhex(vector["KEY"]), start, cipher="chacha20")
        assert stream.update(bytes.fromhex(vector["PLAINTEXT"])).hex() == vector["CIPHERTEXT"].lower()


def test_chacha20_expands_blocks_from_zero_under_the_zero_nonce() -> None:
    key = bytes(range(32))
    blocks = [Cipher(algorithms.ChaCha20(key, i.to_bytes(4, "little") + bytes(12)), None) for i in range(5)]
    assert prg.expand(key, 320, cipher="chacha20") == b"".join(b.encryptor().update(bytes(64)) for b in blocks)


def test_chacha20_ends_with_its_counter() -> None:
    long = np.broadcast_to(np.zeros(1, dtype="<u8"), (2**35 + 1,))  # 8 bytes more than 2^32 blocks
    with pytest.raises(ConfigurationError):
        prg.mask(long, add=[bytes(32)], cipher="chacha20")
    with pytest.raises(ConfigurationError):
        prg.expand(bytes(32), 2**38 + 1, cipher="chacha20")


def test_another_cipher_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        prg.keystream(bytes(32), cipher="rc4")  # type: ignore[arg-type]


@pytest.mark.parametrize("cipher", prg.MASK_CIPHERS)
@pytest.mark.parametrize("kind", ["<u2", "<u4", "<u8"])
@pytest.mark.parametrize("length", [0, 1, 7, 650, 3 * prg.PIECE // 8 + 5])
def test_masks_equal_a_slow_reference(kind: str, length: int, cipher: prg.MaskCipher) -> None:
    width = np.dtype(kind).itemsize
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2 ** (8 * width) - 1, length, dtype=kind, endpoint=True)
    add = [bytes([i]) * 32 for i in range(3)]
    subtract = [bytes([i]) * 32 for i in range(10, 12)]
    expected = values.copy()
    for key in add:
        expected += np.frombuffer(prg.expand(key, width * length, cipher=cipher), dtype=kind)
    for key in subtract:
        expected -= np.frombuffer(prg.expand(key, width * length, cipher=cipher), dtype=kind)
    masked = values.copy()
    prg.mask(masked, add=add, subtract=subtract, cipher=cipher)
    assert np.array_equal(masked, expected)
    prg.mask(masked, add=subtract, subtract=add, cipher=cipher)
    assert np.array_equal(masked, values)


@given(st.integers(0, 200), st.integers(0, 2**32))
def test_any_number_of_masks_cancels(keys: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [rng.bytes(32) for _ in range(keys)]
    vector = np.arange(11, dtype="<u4")
    prg.mask(vector, add=names)
    if keys:
        assert not np.array_equal(vector, np.arange(11))
    prg.mask(vector, subtract=iter(reversed(names)))
    assert np.array_equal(vector, np.arange(11))


def test_only_the_vector_itself_is_changed() -> None:
    whole = np.zeros(100, dtype="<u4")
    prg.mask(whole[10:90], add=[bytes(32)])
    assert not whole[:10].any()
    assert not whole[90:].any()
    assert whole[10:90].any()


@pytest.mark.parametrize("cipher", prg.MASK_CIPHERS)
@pytest.mark.parametrize("threads", [None, 1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["<u2", "<u4", "<u8"])
def test_masks_do_not_depend_on_the_number_of_threads(kind: str, threads: int | None, cipher: prg.MaskCipher) -> None:
    keys = [bytes([i]) * 32 for i in range(30)]
    for length in (5, prg.PIECE // 4, 5 * prg.PIECE // 2 + 3):
        expected, found = np.zeros(length, dtype=kind), np.zeros(length, dtype=kind)
        for key in keys:
            stream = np.frombuffer(prg.expand(key, expected.nbytes, cipher=cipher), dtype=kind)
            expected += stream if key[0] % 3 else -stream
        prg.mask(
            found,
            add=(key for key in keys if key[0] % 3),
            subtract=(key for key in keys if not key[0] % 3),
            cipher=cipher,
            threads=threads,
        )
        assert (found == expected).all()


@pytest.mark.parametrize(("pieces", "keys", "threaded"), [(15, 100, False), (16, 3, False), (16, 4, True)])
def test_threads_only_for_long_vectors_with_enough_to_do(
    pieces: int, keys: int, threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, size: int) -> None:
            pools.append(size)
            super().__init__(size)

    monkeypatch.setattr(prg, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    prg.mask(np.zeros(pieces * prg.PIECE // 8, dtype="<u8"), add=[bytes(32)] * keys)
    assert pools == ([2] if threaded else [])
