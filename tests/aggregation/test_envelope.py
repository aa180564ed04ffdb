"""Envelopes: one canonical form, and every difference its own error, before anything is opened."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.aggregation.homomorphic import envelope
from fedpriv.aggregation.homomorphic.envelope import Label, seal, unseal
from fedpriv.crypto.signing import SIGNATURE, SigningKey
from fedpriv.errors import AuthenticationFailed, ContextMismatch, MalformedMessage, ProtocolError, UnexpectedMessage

LABEL = Label(scheme="CKKS", parameters=b"p" * 16, key=b"k" * 16, context=b"c" * 32, round=3, attempt=1, chunks=4)
MESSAGE = seal(LABEL, 2, (5, 9), b"payload")


@given(
    chunk=st.integers(0, 3),
    contributors=st.sets(st.integers(0, 2**32 - 1), min_size=1, max_size=20),
    payload=st.binary(max_size=200),
)
def test_unseals_what_was_sealed(chunk: int, contributors: set[int], payload: bytes) -> None:
    ordered = tuple(sorted(contributors))
    message = seal(LABEL, chunk, ordered, payload)
    assert len(message) == envelope.size(len(ordered), len(payload))
    assert unseal(LABEL, message) == (chunk, ordered, payload)


def test_every_flipped_bit_is_refused() -> None:
    for bit in range(8 * len(MESSAGE)):
        flipped = bytearray(MESSAGE)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((AuthenticationFailed, MalformedMessage)):
            unseal(LABEL, bytes(flipped))


def test_a_flip_in_the_payload_is_an_authentication_failure() -> None:
    flipped = MESSAGE.replace(b"payload", b"paxload")
    with pytest.raises(AuthenticationFailed):
        unseal(LABEL, flipped)


@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"round": 4}, UnexpectedMessage),
        ({"attempt": 0}, UnexpectedMessage),
        ({"scheme": "Paillier"}, ContextMismatch),
        ({"scheme": "BFV"}, ContextMismatch),
        ({"parameters": b"q" * 16}, ContextMismatch),
        ({"key": b"l" * 16}, ContextMismatch),
        ({"context": b"d" * 32}, ContextMismatch),
        ({"chunks": 5}, ContextMismatch),
    ],
    ids=str,
)
def test_another_conversation_is_refused(other: dict[str, object], error: type[ProtocolError]) -> None:
    with pytest.raises(error):
        unseal(replace(LABEL, **other), MESSAGE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [b"", MESSAGE[:-1], MESSAGE[1:], MESSAGE + b"\0", b"XPHE" + MESSAGE[4:], MESSAGE[:4] + b"\2" + MESSAGE[5:]],
    ids=["empty", "truncated", "beheaded", "extended", "magic", "version"],
)
def test_other_bytes_are_malformed(message: bytes) -> None:
    with pytest.raises(MalformedMessage):
        unseal(LABEL, message)


@pytest.mark.parametrize(
    ("chunk", "contributors"), [(4, (5,)), (0, ()), (0, (9, 5)), (0, (5, 5))], ids=["chunk", "none", "order", "twice"]
)
def test_nonsense_with_a_sound_checksum_is_malformed(chunk: int, contributors: tuple[int, ...]) -> None:
    with pytest.raises(MalformedMessage):
        unseal(LABEL, seal(LABEL, chunk, contributors, b""))


@given(message=st.binary(max_size=400))
def test_random_bytes_are_malformed(message: bytes) -> None:
    with pytest.raises(MalformedMessage):
        unseal(LABEL, message)


@given(tail=st.binary(max_size=400))
def test_random_bytes_after_a_sound_head_are_refused(tail: bytes) -> None:
    with pytest.raises((MalformedMessage, AuthenticationFailed)):
        unseal(LABEL, MESSAGE[:6] + tail)


# --- signed envelopes -----------------------------------------------------------------------------------------------

OWNER = SigningKey()
SIGNED = envelope.sign(OWNER, MESSAGE)


def test_a_signed_envelope_is_the_envelope_with_a_signature() -> None:
    assert len(SIGNED) == envelope.size(2, len(b"payload"), signed=True) == len(MESSAGE) + SIGNATURE
    assert envelope.unsigned(SIGNED) == MESSAGE
    envelope.verify(OWNER.public, SIGNED)


def test_every_flipped_bit_of_a_signed_envelope_is_refused() -> None:
    for bit in range(8 * len(SIGNED)):
        flipped = bytearray(SIGNED)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AuthenticationFailed):
            envelope.verify(OWNER.public, bytes(flipped))


def test_another_signer_is_refused() -> None:
    with pytest.raises(AuthenticationFailed):
        envelope.verify(SigningKey().public, SIGNED)


def test_a_signature_of_something_else_is_not_one_of_an_envelope() -> None:
    """Identities sign other things too: what was signed says what it is."""
    with pytest.raises(AuthenticationFailed):
        envelope.verify(OWNER.public, MESSAGE + OWNER.sign(MESSAGE))


@given(message=st.binary(max_size=200))
def test_random_bytes_are_not_signed(message: bytes) -> None:
    with pytest.raises(AuthenticationFailed):
        envelope.verify(OWNER.public, message)
