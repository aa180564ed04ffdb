"""What a homomorphic round costs under each key model, from a small real one on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fedpriv.aggregation.homomorphic import envelope
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment, stages_of
from fedpriv.aggregation.homomorphic.keys import KeyAuthority, KeyModel, SharedClientKey
from fedpriv.aggregation.homomorphic.turns import ADD, ENCRYPT, FORWARD
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Session
from fedpriv.network import Network, StageCost, Wire
from fedpriv.threat import CLIENT, SERVER, Party

PROBES = 3
"""Clients of the small round."""


class Rates(NamedTuple):
    """CPU seconds and bytes of one ciphertext."""

    seconds: Mapping[tuple[str, Party], float]
    """By stage and role; for each client where its work or its upload is meant, see :func:`_each`."""
    upload: int
    """Bytes of a client's ciphertext."""
    aggregate: int
    """Bytes of a sum's; 0 where none travels."""


class Volume(NamedTuple):
    """How much one vector is."""

    ciphertexts: int
    chunks: int
    """Messages; a message can hold several ciphertexts."""


def probe(keys: KeyModel) -> KeyModel:
    """The key model that is measured in another's place: who does what is the same, the minimum is small."""
    if keys.clients_hold_secret:
        return SharedClientKey(min_contributors=PROBES)
    return KeyAuthority(min_contributors=PROBES, additions="trusted-authority" if keys.signed else "trusted-server")


def measure(deployment: HomomorphicDeployment, keys: KeyModel, length: int) -> Rates:
    """One real round of :data:`PROBES` clients whose vectors fill one ciphertext each, after one to warm up."""
    zeros = np.zeros(length, dtype=np.int64)
    costs: tuple[StageCost, ...] = ()
    for attempt in range(2):
        wire = Wire(Network())
        session = Session(round=attempt, attempt=0, participants=tuple(range(PROBES)), context=b"")
        perform(deployment, session, wire, lambda present: [(party, zeros) for party in present], keys.decryptor)
        costs = tuple(wire.costs)
    sent = {row.stage: row.bytes_sent // row.messages for row in costs if row.messages}
    return Rates(
        seconds={(row.stage, row.role): row.cpu_seconds / _each(row.stage, row.role, PROBES) for row in costs},
        upload=sent[ENCRYPT] - envelope.size(1, 0, signed=keys.signed),
        aggregate=sent[ADD] - envelope.size(PROBES, 0) if ADD in sent else 0,
    )


def rows(rates: Rates, volume: Volume, cohort: int, keys: KeyModel) -> tuple[StageCost, ...]:
    """The stages of a round without dropouts."""
    ciphertexts, chunks = volume
    uploads = cohort * (chunks * envelope.size(1, 0, signed=keys.signed) + ciphertexts * rates.upload)
    recipients = _each(ADD, keys.decryptor, cohort)
    sums = recipients * (chunks * envelope.size(cohort, 0) + ciphertexts * rates.aggregate)

    def row(stage: str, role: Party, *, messages: int = 0, sent: int = 0, received: int = 0) -> StageCost:
        parties = cohort if role == CLIENT else 1
        seconds = _each(stage, role, cohort) * ciphertexts * rates.seconds[stage, role]
        return StageCost(
            stage=stage,
            role=role,
            parties=parties,
            messages=messages,
            bytes_sent=sent,
            bytes_received=received,
            cpu_seconds=seconds,
            modelled_seconds=seconds / parties,  # clients work side by side
        )

    _, middle, last = stages_of(keys)
    if middle.name == FORWARD:
        handed = {"messages": cohort * chunks, "sent": uploads}
    else:
        handed = {"messages": recipients * chunks, "sent": sums}
    return (
        row(ENCRYPT, CLIENT, messages=cohort * chunks, sent=uploads),
        row(ENCRYPT, SERVER, received=uploads),
        row(middle.name, SERVER, **handed),
        row(middle.name, keys.decryptor, received=handed["sent"]),
        row(last.name, keys.decryptor),
    )


def _each(stage: str, role: Party, cohort: int) -> int:
    """How often a role's work of a stage is done: for each client, where clients act or their uploads arrive."""
    return cohort if role == CLIENT or stage in (ENCRYPT, FORWARD) else 1
