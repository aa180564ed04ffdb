"""What a round's clients must agree on: every byte the server sends that influences an update, hashed."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from fedpriv.engine.description import describe
from fedpriv.errors import ConfigurationError
from fedpriv.learning.update import Broadcast
from fedpriv.privacy.mechanism import RoundSpec


def serialise(broadcast: Broadcast) -> bytes:
    """The broadcast as bytes: names and float32 vectors, each with its length, in a fixed order.

    Raises:
        ConfigurationError: an extra entry that is no float32 vector: clients would compute with other values than
            those that were sent.
    """
    parts: list[bytes] = []
    for name, vector in [("parameters", broadcast.parameters), *sorted(broadcast.extra.items())]:
        if not isinstance(vector, np.ndarray) or vector.dtype != np.float32 or vector.ndim != 1:
            raise ConfigurationError(
                f"A broadcast holds float32 vectors; {name!r} is none.",
                value=f"{getattr(vector, 'dtype', type(vector).__name__)} of shape {np.shape(vector)}",
                remedy="Return vector.astype(np.float32) from the server optimiser's broadcast.",
            )
        data = vector.astype("<f4").tobytes()
        parts += [_length(name.encode()), name.encode(), _length(data), data]
    return b"".join(parts)


def digest(sent: bytes, spec: RoundSpec, client: object, rounds: int, weighting: object = "equal") -> bytes:
    """SHA-256 over the broadcast, the round's public terms (clip, grid, weights) and the client's algorithm."""
    about = {"spec": describe(spec), "client": describe(client), "rounds": rounds, "weighting": describe(weighting)}
    terms = json.dumps(about, sort_keys=True).encode()
    return hashlib.sha256(b"fedpriv/context/v1" + _length(terms) + terms + _length(sent) + sent).digest()


def _length(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little")
