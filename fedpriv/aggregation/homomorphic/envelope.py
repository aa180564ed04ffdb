"""The envelope of a ciphertext: what it is, whose, for which key and attempt, all checked before it is deserialised.

It names scheme, parameters, key, context, round, attempt, chunk and the clients whose vectors the ciphertext adds up.

**Guarantees** A ciphertext of anything else, a replay, and any accidental change are refused. A signed envelope is
moreover its signer's, for this attempt: nobody else made or changed any part of it.

**Assumes** Where envelopes are not signed, that channels are authenticated: the checksum finds damage, and whoever
forges an envelope computes a fresh one. Where they are, that the verifier holds the signer's true key.

**Does not hide** Anything. Whether the ciphertext inside was made honestly.

**Reference** RFC 8032 (Ed25519).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedpriv.crypto import signing
from fedpriv.errors import AuthenticationFailed, ContextMismatch, MalformedMessage, UnexpectedMessage

MAGIC = b"FPHE"
VERSION = 1
SCHEMES = {"CKKS": 1, "Paillier": 2, "BFV": 3}

# magic, version, scheme, parameters, key, context, round, attempt, chunk, chunks, contributors, payload bytes
_HEAD = struct.Struct("<4sBB16s16s32sQIIIIQ")
_CHECKSUM = 32
_SIGNED = b"fedpriv/homomorphic/upload/v1"


@dataclass(frozen=True, kw_only=True)
class Label:
    """What every ciphertext of one attempt has in common."""

    scheme: str
    parameters: bytes
    """Names the scheme's parameters and the terms, 16 bytes."""
    key: bytes
    """Names the public key, 16 bytes."""
    context: bytes
    """A hash of the session's context, 32 bytes."""
    round: int
    attempt: int
    chunks: int
    """Messages that carry one vector."""


class Part(NamedTuple):
    """An opened envelope."""

    chunk: int
    contributors: tuple[int, ...]
    """The clients whose vectors the ciphertext adds up, in increasing order."""
    payload: bytes


def size(contributors: int, payload: int, *, signed: bool = False) -> int:
    """Bytes of an envelope."""
    return _HEAD.size + 4 * contributors + payload + _CHECKSUM + (signing.SIGNATURE if signed else 0)


def sign(identity: signing.SigningKey, message: bytes) -> bytes:
    """A sealed envelope with its sender's signature behind it."""
    return message + identity.sign(_SIGNED + message)


def verify(identity: bytes, message: bytes) -> None:
    """Accept a signed envelope of whoever owns this verification key.

    Raises:
        AuthenticationFailed: another signer, or a change of any bit.
    """
    signing.verify(identity, message[-signing.SIGNATURE :], _SIGNED + message[: -signing.SIGNATURE])


def unsigned(message: bytes) -> bytes:
    """A signed envelope without its signature, which is not looked at."""
    return message[: -signing.SIGNATURE]


def seal(label: Label, chunk: int, contributors: tuple[int, ...], payload: bytes) -> bytes:
    """The envelope of one chunk."""
    head = _HEAD.pack(
        MAGIC,
        VERSION,
        SCHEMES[label.scheme],
        label.parameters,
        label.key,
        label.context,
        label.round,
        label.attempt,
        chunk,
        label.chunks,
        len(contributors),
        len(payload),
    )
    body = b"".join((head, np.asarray(contributors, dtype="<u4").tobytes(), payload))
    return body + hashlib.sha256(body).digest()


def unseal(label: Label, message: bytes) -> Part:
    """Check an envelope against the attempt's label and open it.

    Raises:
        MalformedMessage: not an envelope, or of a wrong length.
        AuthenticationFailed: the checksum does not fit: a flipped bit.
        UnexpectedMessage: of another round or attempt.
        ContextMismatch: of another scheme, parameters, key or context.
    """
    if len(message) < _HEAD.size + _CHECKSUM:
        raise _malformed(f"{len(message)} bytes")
    magic, version, scheme, parameters, key, context, round_, attempt, chunk, chunks, count, length = _HEAD.unpack_from(
        message
    )
    if magic != MAGIC or version != VERSION or len(message) != size(count, length):
        raise _malformed(f"{len(message)} bytes")
    if hashlib.sha256(message[:-_CHECKSUM]).digest() != message[-_CHECKSUM:]:
        raise AuthenticationFailed(
            "A ciphertext arrives as it was sent.",
            value="a checksum that does not fit",
            remedy="Check the channel; start a new attempt.",
        )
    if (round_, attempt) != (label.round, label.attempt):
        raise UnexpectedMessage(
            f"A ciphertext is of round {label.round}, attempt {label.attempt}.",
            value=(round_, attempt),
            remedy="It is a replay or late; start a new attempt.",
        )
    for what, found, expected in (
        ("scheme", scheme, SCHEMES[label.scheme]),
        ("parameters", parameters, label.parameters),
        ("public key", key, label.key),
        ("context", context, label.context),
        ("number of chunks", chunks, label.chunks),
    ):
        if found != expected:
            raise ContextMismatch(
                f"All ciphertexts of an attempt have the same {what}.",
                remedy="Give all parties the same plan, key and broadcast; start a new attempt.",
            )
    end = _HEAD.size + 4 * count
    contributors = np.frombuffer(message, dtype="<u4", count=count, offset=_HEAD.size)
    if count == 0 or np.any(contributors[1:] <= contributors[:-1]) or chunk >= chunks:
        raise _malformed("contributors out of order, or a chunk beyond the last")
    return Part(chunk, tuple(contributors.tolist()), message[end:-_CHECKSUM])


def _malformed(found: str) -> MalformedMessage:
    return MalformedMessage(
        "A ciphertext travels in an envelope of its one canonical form.",
        value=found,
        remedy="Drop the sender or the attempt.",
    )
