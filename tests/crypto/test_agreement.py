"""X25519 and HKDF against the vectors of their RFCs."""

from __future__ import annotations

import re

import cryptography_vectors
import pytest

from fedpriv.crypto import agreement
from fedpriv.errors import MalformedMessage


def blocks(path: str) -> list[dict[str, str]]:
    with cryptography_vectors.open_vector_file(path, "r") as file:
        text = file.read()
    found = []
    for block in re.split(r"COUNT = \d+", text)[1:]:
        found.append(dict(re.findall(r"^(\w+)\s*=[ \t]*(\S*)", block, flags=re.MULTILINE)))
    return found


def test_x25519_rfc7748_section_5_2() -> None:
    vectors = blocks("asymmetric/X25519/rfc7748.txt")
    assert len(vectors) >= 2
    for vector in vectors:
        pair = agreement.KeyPair(bytes.fromhex(vector["INPUT_SCALAR"]))
        assert pair.agree(bytes.fromhex(vector["INPUT_U"])).hex() == vector["OUTPUT_U"]


def test_x25519_rfc7748_section_5_2_iterated() -> None:
    """After 1,000 iterations of k, u = X25519(k, u), k."""
    k = u = (9).to_bytes(32, "little")
    for _ in range(1000):
        k, u = agreement.KeyPair(k).agree(u), k
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_hkdf_sha256_rfc5869() -> None:
    vectors = blocks("KDF/rfc-5869-HKDF-SHA256.txt")
    assert len(vectors) == 3
    for vector in vectors:
        key = agreement.derive(
            bytes.fromhex(vector["IKM"]),
            salt=bytes.fromhex(vector["salt"]),
            info=bytes.fromhex(vector["info"]),
            length=int(vector["L"]),
        )
        assert key.hex() == vector["OKM"]


def test_both_sides_agree_and_nobody_else() -> None:
    one, other, third = (agreement.KeyPair() for _ in range(3))
    assert one.agree(other.public) == other.agree(one.public)
    assert one.agree(other.public) != third.agree(other.public)
    assert agreement.KeyPair(one.secret()).public == one.public


@pytest.mark.parametrize("public", [bytes(32), b"\1" + bytes(31), b"short", b""])
def test_keys_of_small_order_and_of_wrong_length_are_refused(public: bytes) -> None:
    with pytest.raises(MalformedMessage):
        agreement.KeyPair().agree(public)


def test_the_private_half_is_not_shown() -> None:
    pair = agreement.KeyPair()
    assert pair.secret().hex() not in repr(pair)
    assert str(pair.secret()) not in repr(pair)


def test_salt_and_info_separate_keys() -> None:
    keys = {agreement.derive(bytes(32), salt=salt, info=info) for salt in (b"a", b"b") for info in (b"a", b"b")}
    assert len(keys) == 4


def test_a_coordinate_has_one_canonical_encoding() -> None:
    """RFC 7748, Section 5: the top bit is ignored, and 2^255 − 19 + x stands for x as well."""
    assert agreement.canonical((2**255 - 20).to_bytes(32, "little"))
    assert not agreement.canonical((2**255 - 19).to_bytes(32, "little"))
    mine, other = agreement.KeyPair(), agreement.KeyPair()
    twin = other.public[:-1] + bytes([other.public[-1] | 0x80])
    assert mine.agree(twin) == mine.agree(other.public)
    assert agreement.canonical(other.public)
    assert not agreement.canonical(twin)
