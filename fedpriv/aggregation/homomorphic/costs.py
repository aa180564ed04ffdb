"""What a homomorphic round costs, from a small real one on this machine."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedpriv.aggregation.homomorphic import envelope
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.homomorphic.roles import ADD, DECRYPT, ENCRYPT
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Session
from fedpriv.network import Network, StageCost, Wire
from fedpriv.threat import AUTHORITY, CLIENT, SERVER, Party

PROBES = 3
"""Clients of the small round."""


class Rates(NamedTuple):
    """CPU seconds and bytes of one ciphertext."""

    encrypt: float
    """Encrypt, serialise, seal: a client."""
    fold: float
    """Open, load, add: the server, for each client."""
    forward: float
    """Serialise, seal: the server, once."""
    accept: float
    """Open: the authority."""
    decrypt: float
    payload: int
    """Bytes of a serialised ciphertext."""


class Volume(NamedTuple):
    """How much one vector is."""

    ciphertexts: int
    chunks: int
    """Messages; a message can hold several ciphertexts."""


def measure(deployment: HomomorphicDeployment, length: int) -> Rates:
    """One real round of :data:`PROBES` clients whose vectors fill one ciphertext each, after one to warm up."""
    zeros = np.zeros(length, dtype=np.int64)
    rows: dict[tuple[str, Party], StageCost] = {}
    for attempt in range(2):
        wire = Wire(Network())
        session = Session(round=attempt, attempt=0, participants=tuple(range(PROBES)), context=b"")
        perform(deployment, session, wire, lambda present: [(party, zeros) for party in present], AUTHORITY)
        rows = {(row.stage, row.role): row for row in wire.costs}
    uploaded = rows[ENCRYPT, CLIENT].bytes_sent // PROBES
    return Rates(
        encrypt=rows[ENCRYPT, CLIENT].cpu_seconds / PROBES,
        fold=rows[ENCRYPT, SERVER].cpu_seconds / PROBES,
        forward=rows[ADD, SERVER].cpu_seconds,
        accept=rows[ADD, AUTHORITY].cpu_seconds,
        decrypt=rows[DECRYPT, AUTHORITY].cpu_seconds,
        payload=uploaded - envelope.size(1, 0),
    )


def rows(rates: Rates, volume: Volume, cohort: int) -> tuple[StageCost, ...]:
    """The stages of a round without dropouts."""
    n, (ciphertexts, chunks) = cohort, volume
    up = chunks * envelope.size(1, 0) + ciphertexts * rates.payload
    across = chunks * envelope.size(n, 0) + ciphertexts * rates.payload
    encrypt = ciphertexts * rates.encrypt
    return (
        _row(ENCRYPT, CLIENT, n, messages=n * chunks, sent=n * up, cpu=n * encrypt, modelled=encrypt),
        _row(ENCRYPT, SERVER, received=n * up, cpu=n * ciphertexts * rates.fold),
        _row(ADD, SERVER, messages=chunks, sent=across, cpu=ciphertexts * rates.forward),
        _row(ADD, AUTHORITY, received=across, cpu=ciphertexts * rates.accept),
        _row(DECRYPT, AUTHORITY, cpu=ciphertexts * rates.decrypt),
    )


def _row(
    stage: str,
    role: Party,
    parties: int = 1,
    *,
    cpu: float,
    modelled: float | None = None,
    messages: int = 0,
    sent: int = 0,
    received: int = 0,
) -> StageCost:
    return StageCost(
        stage=stage,
        role=role,
        parties=parties,
        messages=messages,
        bytes_sent=sent,
        bytes_received=received,
        cpu_seconds=cpu,
        modelled_seconds=cpu if modelled is None else modelled,
    )
