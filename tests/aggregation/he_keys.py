"""Homomorphic rounds by hand under any key model: Paillier, 2048 bits, and attempts whose messages are at the test's
mercy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.homomorphic.keys import KeyModel
from fedpriv.aggregation.homomorphic.paillier import Lanes, Paillier
from fedpriv.aggregation.protocol import Session, Terms
from fedpriv.encoding import Bounded, Integers
from fedpriv.network import Message
from fedpriv.threat import SERVER, Party

COHORT, BOUND = 5, 1000


def terms_of(length: int) -> Terms:
    return Terms(length=length, input_bound=BOUND, cohort=COHORT, domain=Bounded(COHORT * BOUND))


def deployed(keys: KeyModel, length: int = 3) -> HomomorphicDeployment:
    """A deployment of its own."""
    return Paillier(keys=keys, key_bits=2048).deploy(terms_of(length))


@cache
def two_chunks() -> int:
    """A length that takes two messages where a message holds one ciphertext."""
    return Lanes.of(terms_of(1), 2047).count + 1


def session_of(clients: Sequence[int] = (0, 1, 2), *, round: int = 0, attempt: int = 0) -> Session:
    return Session(round=round, attempt=attempt, participants=tuple(clients), context=b"context")


def vectors_of(session: Session, length: int = 3) -> dict[Party, Integers]:
    """Different for every client, so that whose vector is in a sum shows."""
    return {
        party: np.full(length, 2**index, dtype=np.int64)
        for party, index in zip(session.parties, session.participants, strict=True)
    }


def uploads(roles: Mapping[Party, Any], vectors: Mapping[Party, Integers]) -> dict[Party, list[Message]]:
    """Every client's messages."""
    sent = {}
    for party, vector in vectors.items():
        roles[party].submit(vector)
        sent[party] = roles[party].step("encrypt")
    return sent


def hear(role: Any, messages: Sequence[Message]) -> None:
    for message in messages:
        role.receive(message)


def handed_on(roles: Mapping[Party, Any], session: Session, length: int = 3) -> list[Message]:
    """An honest attempt, up to what the server hands on."""
    for messages in uploads(roles, vectors_of(session, length)).values():
        hear(roles[SERVER], messages)
    stage = "forward" if type(roles[SERVER]).__name__ == "ForwardingServer" else "add"
    sent: list[Message] = roles[SERVER].step(stage)
    return sent
