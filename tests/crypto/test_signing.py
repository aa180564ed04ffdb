"""Ed25519 against the vectors of its authors, among them those of RFC 8032."""

from __future__ import annotations

import cryptography_vectors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.crypto import signing
from fedpriv.errors import AuthenticationFailed


def vectors() -> list[tuple[bytes, bytes, bytes, bytes]]:
    """(private, public, message, signature) of the 1024 vectors published with Ed25519."""
    with cryptography_vectors.open_vector_file("asymmetric/Ed25519/sign.input", "r") as file:
        rows = [line.strip().split(":") for line in file if line.strip()]
    fields = [[bytes.fromhex(field) for field in row[:4]] for row in rows]
    return [(secret[:32], public, message, signed[:64]) for secret, public, message, signed in fields]


def test_ed25519_published_vectors() -> None:
    found = vectors()
    assert len(found) == 1024
    for private, public, message, signature in found:
        key = signing.SigningKey(private)
        assert key.public == public
        assert key.sign(message) == signature
        signing.verify(public, signature, message)


def test_ed25519_rfc8032_section_7_1() -> None:
    """TEST 1 and TEST 3 of the RFC, typed in from its text: they are among the vectors."""
    first, _, third = vectors()[:3]
    assert first[0].hex() == "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    assert first[2] == b""
    assert first[3].hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8")
    assert third[0].hex() == "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7"
    assert third[2].hex() == "af82"


@given(st.binary(max_size=100), st.integers(0, 8 * signing.SIGNATURE - 1))
def test_every_flipped_bit_of_a_signature_is_refused(message: bytes, bit: int) -> None:
    key = signing.SigningKey()
    signature = bytearray(key.sign(message))
    signature[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(AuthenticationFailed):
        signing.verify(key.public, signature, message)


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_what_is_no_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(AuthenticationFailed):
        signing.verify(signing.SigningKey().public, signature, b"message")


def test_a_signature_belongs_to_its_signer_and_message() -> None:
    one, other = signing.SigningKey(), signing.SigningKey()
    signature = one.sign(b"message")
    signing.verify(one.public, signature, b"message")
    for public, message in ((other.public, b"message"), (one.public, b"another"), (bytes(31), b"message")):
        with pytest.raises(AuthenticationFailed):
            signing.verify(public, signature, message)


def test_a_private_key_is_not_shown() -> None:
    private = bytes(range(32))
    assert private.hex() not in repr(signing.SigningKey(private))
