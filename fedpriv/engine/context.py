"""What a round's clients must agree on: every byte the server sends that influences an update, hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedpriv.engine.plan import describe
from fedpriv.learning.update import Broadcast
from fedpriv.privacy.mechanism import RoundSpec


def serialise(broadcast: Broadcast) -> bytes:
    """The broadcast as bytes: names and float32 vectors, each with its length, in a fixed order."""
    parts: list[bytes] = []
    vectors: Mapping[str, Any] = {"parameters": broadcast.parameters, **dict(sorted(broadcast.extra.items()))}
    for name, vector in vectors.items():
        data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
        parts += [_length(name.encode()), name.encode(), _length(data), data]
    return b"".join(parts)


def digest(sent: bytes, spec: RoundSpec, client: object, rounds: int) -> bytes:
    """SHA-256 over the broadcast, the round's public terms (clip, grid, weights) and the client's algorithm."""
    terms = json.dumps({"spec": describe(spec), "client": describe(client), "rounds": rounds}, sort_keys=True).encode()
    return hashlib.sha256(b"fedpriv/context/v1" + _length(terms) + terms + _length(sent) + sent).digest()


def _length(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little")
