"""Masking secure aggregation beside Flower's SecAgg+ and the machine's floor: processor time, bytes, peak memory.

The complete graph, an honest-but-curious server. The roles of a real attempt are driven, every message real. A client's
time is encoding its vector and its step of the stage masked-input; the server's is everything from the first masked
vector on. The floor is AES-256-CTR and addition fused in the cache, once for each mask, with encoding or unpacking and
adding up. Flower's server above 10 clients is composed from the times of its own functions (``secagg_flower.py``).
"""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from benchmarks import Row, peers
from benchmarks.apart import apart
from fedpriv.aggregation import SecureAggregation, Session, Terms
from fedpriv.aggregation.protocol import ClientRole, Releaser, Role
from fedpriv.crypto import wire
from fedpriv.encoding import FixedPoint, Ring, ring_for
from fedpriv.network import Message, Stage
from fedpriv.threat import CLIENT, SERVER, Party, client_index

POINTS = tuple((clients, length) for length in (100_000, 1_000_000) for clients in (10, 50, 100, 200))
QUICK = ((10, 20_000), (20, 100_000))
DROPOUTS = (0.0, 0.1, 0.3)
INPUT_BITS = 16
RINGS = (16, 32)
"""Rings that are measured as well, at :data:`RINGS_AT`; else the ring is the smallest that holds the sums."""
RINGS_AT = (100, 1_000_000)
REPEATS = 5
FLOWER = Path(__file__).with_name("secagg_flower.py")

Key = tuple[str | int | float | None, ...]


def rows(*, quick: bool) -> Iterator[Row]:
    """Each client, and each server at each dropout rate."""
    points = QUICK if quick else POINTS
    flower = _flower(points)
    for clients, length in points:
        yield from _point(clients, length, INPUT_BITS, DROPOUTS, flower)
    if not quick:
        clients, length = RINGS_AT
        for ring in RINGS:
            # The widest inputs of which `clients` sum up to fewer than 2^ring.
            yield from _point(clients, length, ring - (clients - 1).bit_length(), (0.0,), flower)


def _point(
    clients: int, length: int, input_bits: int, dropouts: Sequence[float], flower: Mapping[Key, Row]
) -> Iterator[Row]:
    attempt = Attempt.of(clients, length, input_bits)
    floor = Floor.of(attempt.codec, attempt.ring, length)
    spent, memory = attempt.one_client()
    uploads = attempt.all_clients()
    measured = {dropout: attempt.server(uploads, round(dropout * clients)) for dropout in dropouts}
    yield _row(
        attempt,
        flower,
        role="client",
        dropout=0.0,
        cpu=spent,
        floor=floor.client(clients),
        setup=attempt.setup_seconds,
        sent=attempt.setup_bytes + len(uploads[0].body) + measured[0.0].answer_bytes,
        memory=memory,
    )
    for dropout, server in measured.items():
        yield _row(
            attempt,
            flower,
            role="server",
            dropout=dropout,
            cpu=server.seconds,
            floor=floor.server(clients, round(dropout * clients)),
            setup=None,
            sent=None,
            memory=server.peak,
        )


def _row(
    attempt: Attempt,
    flower: Mapping[Key, Row],
    *,
    role: str,
    dropout: float,
    cpu: float,
    floor: float,
    setup: float | None,
    sent: int | None,
    memory: int,
) -> Row:
    peer = flower.get((role, attempt.clients, attempt.length, dropout), {})
    return {
        "role": role,
        "clients": attempt.clients,
        "coordinates": attempt.length,
        "dropout": dropout,
        "ring_bits": attempt.ring.bits,
        "cpu_seconds": cpu,
        "floor_seconds": floor,
        "flower_seconds": peer.get("cpu_seconds"),
        "flower": peer.get("how"),
        "to_floor": cpu / floor,
        "flower_to_cpu": _ratio(peer.get("cpu_seconds"), cpu),
        "setup_seconds": setup,
        "flower_setup": peer.get("setup_seconds"),
        "sent_bytes": sent,
        "sent_to_flower": _ratio(sent, peer.get("sent_bytes")),
        "peak_bytes": memory,
        "peak_to_flower": _ratio(memory, peer.get("peak_bytes")),
        "plan": repr(attempt.description),
    }


@dataclass(frozen=True)
class Floor:
    """Seconds below which nothing that masks with AES-256-CTR can go on this machine."""

    mask: float
    """One mask: AES-256-CTR and addition, piece by piece in the cache."""
    encode: float
    """One vector of reals to integers."""
    pack: float
    fold: float
    """Unpacking a vector and adding it."""

    @classmethod
    def of(cls, codec: FixedPoint, ring: Ring, length: int) -> Floor:
        """Measured now, at this length and ring."""
        vector = _reals(length)
        words = np.random.default_rng(0).integers(0, 2**ring.bits, length, dtype=np.uint64)
        word = wire.word_type(ring.bits)
        values, total = words.astype(word), np.zeros(length, dtype=word)
        packed = wire.pack_bits(values, ring.bits)
        return cls(
            mask=min(_least(partial(_fused, total, size)) for size in (1 << 16, 1 << 17, 1 << 18)),
            encode=_least(lambda: codec.encode(vector)),
            pack=_least(lambda: wire.pack_bits(values, ring.bits)),
            fold=_least(lambda: np.add(total, wire.unpack_bits(packed, length, ring.bits, word), out=total)),
        )

    def client(self, clients: int) -> float:
        """Its own mask and one for each other client."""
        return self.encode + clients * self.mask + self.pack

    def server(self, clients: int, lost: int) -> float:
        """The masks of the living, and those between each of the lost and each of the living."""
        alive = clients - lost
        return alive * self.fold + (alive + lost * alive) * self.mask


def _fused(vector: wire.Words, size: int) -> None:
    """One keystream added to a vector: what the two instructions cost without a protocol around them."""
    stream = Cipher(AES256(bytes(32)), CTR(bytes(16))).encryptor()
    zeros, drawn = memoryview(bytes(size)), bytearray(size + 15)
    mask = np.frombuffer(drawn, dtype=vector.dtype, count=size // vector.itemsize)
    for start in range(0, vector.size, mask.size):
        piece = vector[start : start + mask.size]
        stream.update_into(zeros[: piece.nbytes], drawn)
        np.add(piece, mask[: piece.size], out=piece)


@dataclass(frozen=True)
class Recovery:
    """What the server spends, and what one client sends, from the first masked vector on."""

    seconds: float
    answer_bytes: int
    """Of the first client, after its masked vector."""
    peak: int
    """Of the server and of the living clients, which answer from what they hold already."""


@dataclass(frozen=True)
class Attempt:
    """An attempt before its upload: all advertised, all shared their keys. A role speaks once, so that whatever is
    timed runs in a fork of this process, which can be repeated.
    """

    description: SecureAggregation
    clients: int
    length: int
    codec: FixedPoint
    ring: Ring
    stages: tuple[Stage, ...]
    roles: Mapping[Party, Role]
    parties: tuple[Party, ...]
    setup_seconds: float
    """Of one client, the mean: everything before its upload."""
    setup_bytes: int
    """That one client sent, the first."""

    @classmethod
    def of(cls, clients: int, length: int, input_bits: int) -> Attempt:
        """Set up, with shares that survive a dropout of 30 %."""
        description = SecureAggregation(corrupt=0.1, dropout=max(DROPOUTS), graph="complete")
        codec = FixedPoint.for_limit(1.0, input_bits)
        ring = ring_for(codec.sum_bound(clients))
        terms = Terms(length=length, input_bound=codec.bound, cohort=clients, domain=ring)
        deployment = description.deploy(terms)
        session = Session(round=0, attempt=0, participants=tuple(range(clients)), context=b"benchmark")
        roles = dict(deployment.round(session))
        upload = next(index for index, stage in enumerate(deployment.stages) if stage.phase == "upload")
        spent, sent = 0.0, 0
        for stage in deployment.stages[:upload]:
            for party in _actors(stage, session.parties):
                started = time.process_time()
                messages = roles[party].step(stage.name)
                spent += (party != SERVER) * (time.process_time() - started)
                sent += sum(len(message.body) for message in messages if party == session.parties[0])
                spent += _deliver(roles, messages, lambda recipient: recipient != SERVER)
        return cls(
            description=description,
            clients=clients,
            length=length,
            codec=codec,
            ring=ring,
            stages=deployment.stages[upload:],
            roles=roles,
            parties=session.parties,
            setup_seconds=spent / clients,
            setup_bytes=sent,
        )

    def one_client(self) -> tuple[float, int]:
        """Seconds and peak bytes of one client's encoding and upload."""
        party = self.parties[self.clients // 2]
        reals = _reals(self.length)

        def upload() -> None:
            self._upload(party, reals)

        return _timed(upload), _peak(upload)

    def all_clients(self) -> list[Message]:
        """Every client's masked vector."""
        return [message for party in self.parties for message in self._upload(party, self._input(party))]

    def server(self, uploads: list[Message], lost: int) -> Recovery:
        """The server from the first masked vector on, the last ``lost`` clients lost."""
        alive = self.parties[: self.clients - lost]
        expected = np.zeros(self.length, dtype=np.int64)
        for party in alive:
            expected += self.codec.encode(self._input(party)).values

        def recover() -> tuple[float, int]:
            answer = 0
            spent = _deliver(self.roles, uploads[: len(alive)], lambda recipient: recipient == SERVER)
            for stage in self.stages[1:]:
                for party in _actors(stage, alive):
                    started = time.process_time()
                    messages = self.roles[party].step(stage.name)
                    spent += (party == SERVER) * (time.process_time() - started)
                    answer += sum(len(message.body) for message in messages if party == alive[0])
                    spent += _deliver(self.roles, messages, lambda recipient: recipient == SERVER)
            releaser = self.roles[SERVER]
            if not isinstance(releaser, Releaser) or not np.array_equal(releaser.result().total, expected):
                raise AssertionError("Another sum than that of the inputs.")
            return spent, answer

        spent, answer = min(apart(recover) for _ in range(REPEATS))
        return Recovery(spent, answer, _peak(recover))

    def _upload(self, party: Party, reals: npt.NDArray[np.float32]) -> list[Message]:
        role = self.roles[party]
        if not isinstance(role, ClientRole):
            raise AssertionError(f"{party} takes no input.")
        role.submit(self.codec.encode(reals).values)
        return role.step(self.stages[0].name)

    def _input(self, party: Party) -> npt.NDArray[np.float32]:
        return _reals(self.length) * np.float32(1 - client_index(party) / self.clients)


def _actors(stage: Stage, present: Iterable[Party]) -> Iterable[Party]:
    return present if stage.actor == CLIENT else (stage.actor,)


def _deliver(roles: Mapping[Party, Role], messages: Iterable[Message], counted: Callable[[Party], bool]) -> float:
    """Hand messages over; returns the seconds of the recipients that count. Those that were lost hear nothing more."""
    spent = 0.0
    for message in messages:
        started = time.process_time()
        roles[message.recipient].receive(message)
        spent += counted(message.recipient) * (time.process_time() - started)
    return spent


def _reals(length: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)


def _timed(action: Callable[[], object]) -> float:
    """The least processor time of a call, each in a fork of its own."""

    def once() -> float:
        started = time.process_time()
        action()
        return time.process_time() - started

    return min(apart(once) for _ in range(REPEATS))


def _peak(action: Callable[[], object]) -> int:
    """Bytes that a call holds at most, beyond those before it."""

    def once() -> int:
        tracemalloc.start()
        action()
        return tracemalloc.get_traced_memory()[1]

    return apart(once)


def _least(action: Callable[[], object]) -> float:
    """The least processor time of a call, here."""
    best = float("inf")
    for _ in range(4 * REPEATS):
        started = time.process_time()
        action()
        best = min(best, time.process_time() - started)
    return best


def _flower(points: Sequence[tuple[int, int]]) -> dict[Key, Row]:
    wanted = json.dumps({"points": points, "dropouts": DROPOUTS, "whole": 10})
    measured = peers.measure("Flower's SecAgg+", FLOWER, wanted)
    return {(row["role"], row["clients"], row["coordinates"], row["dropout"]): row for row in measured}


def _ratio(value: Any, reference: Any) -> float | None:
    return value / reference if value is not None and reference else None
