"""The plain sum: every client sends its vector to the server, which adds them up. The baseline of every comparison."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from fedpriv.aggregation.protocol import Role, Session, Sum, Terms, survivors
from fedpriv.aggregation.roles import Act, Attempts, Hear, OneInput, ScriptedRole, checked_participants, session_hash
from fedpriv.crypto import wire
from fedpriv.encoding import Bounded, Domain, Integers, check_sum_bound
from fedpriv.errors import MalformedMessage, TooFewSurvivors
from fedpriv.network import Message, Schedule, Stage, StageCost
from fedpriv.threat import CLIENT, SERVER, Party, ThreatModel, View, client_index

UPLOAD = "upload"


@dataclass(frozen=True, kw_only=True)
class PlainSum:
    """The server receives every client's vector as it is, and adds.

    A vector travels bit-packed, each coordinate in the fewest bits that hold ± the terms' bound, so that its bytes are
    a fair baseline for the protected protocols.

    Guarantees: the exact sum over the clients that uploaded. Nothing is hidden from the server.
    Assumes: authenticated, confidential channels between each client and the server; an honest server.
    Does not hide: any client's update from the server.
    Reference: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", Alg. 1.
    """

    @property
    def threat_model(self) -> ThreatModel:
        """The server sees every update."""
        return ThreatModel(
            adversary="honest-but-curious",
            corrupt=0.0,
            assumptions=(
                "Channels between each client and the server are authenticated and confidential.",
                "The server is trusted with every client's update.",
            ),
            reference="McMahan et al. 2017, Algorithm 1",
            learns={SERVER: frozenset({View.COHORT, View.SURVIVORS, View.UPDATES, View.EXACT_SUM})},
        )

    def domain(self, *, sum_bound: int, length: int, cohort: int) -> Domain:
        """Integers within ±sum_bound; the server adds in int64.

        Raises:
            EncodingOverflow: the sum does not fit into 62 bits.
        """
        check_sum_bound(sum_bound)
        return Bounded(sum_bound)

    def least_contributors(self, cohort: int) -> int:
        """One: the plain sum has no threshold."""
        return 1

    def deploy(self, terms: Terms) -> PlainDeployment:
        """There is nothing to set up."""
        return PlainDeployment(terms)

    def estimate(self, terms: Terms, cohort: int) -> tuple[StageCost, ...]:
        """Bytes are exact; CPU seconds from timing pack and unpack on this machine."""
        size = cohort * (wire.FRAME + wire.packed_size(terms.length, _width(terms)))
        pack, unpack = _seconds_per_value(_width(terms))
        sent, taken = pack * terms.length, unpack * terms.length * cohort
        return (
            _cost(CLIENT, cohort, cohort, size, 0, sent * cohort, sent),
            _cost(SERVER, 1, 0, 0, size, taken, taken),
        )


class PlainDeployment:
    """A plain sum set up for a run."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._attempts = Attempts(terms.cohort)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage(UPLOAD, CLIENT, "upload"),)

    @property
    def key_bytes(self) -> int:
        return 0

    def round(self, session: Session) -> Mapping[Party, Role]:
        self._attempts.open(session)
        # Without the participants: a client that could compute this hash could guess who else takes part.
        transcript = session_hash("plain", self._terms, replace(session, participants=()))
        roles: dict[Party, Role] = {party: PlainClient(party, transcript, self._terms) for party in session.parties}
        roles[SERVER] = PlainServer(session, transcript, self._terms)
        return roles

    def contributors(self, session: Session, schedule: Schedule) -> tuple[int, ...]:
        checked_participants(session, self._terms.cohort)
        return _enough(survivors(session, schedule, self.stages, UPLOAD))


class PlainClient(ScriptedRole):
    """Sends its vector."""

    def __init__(self, party: Party, transcript: bytes, terms: Terms) -> None:
        super().__init__(party, transcript)
        self._terms = terms
        self._input = OneInput(terms)
        self.follow(Act(UPLOAD, self._upload))

    def submit(self, vector: Integers) -> None:
        self._input.put(vector)

    def _upload(self) -> list[Message]:
        bits = _width(self._terms)
        shifted = (self._input.take() + self._terms.input_bound).astype(wire.word_type(bits))
        return [self.send(SERVER, UPLOAD, wire.pack_bits(shifted, bits))]


class PlainServer(ScriptedRole):
    """Adds what arrives."""

    def __init__(self, session: Session, transcript: bytes, terms: Terms) -> None:
        super().__init__(SERVER, transcript)
        self._terms = terms
        self._total = np.zeros(terms.length, dtype=np.int64)
        self._contributors: set[int] = set()
        self.follow(Hear(UPLOAD, frozenset(session.parties), self._add))

    def _add(self, sender: Party, payload: memoryview) -> None:
        bits, bound = _width(self._terms), self._terms.input_bound
        values = wire.unpack_bits(payload, self._terms.length, bits, wire.word_type(bits))
        if values.size and int(values.max()) > 2 * bound:
            raise MalformedMessage(
                f"No coordinate of an input exceeds {bound} in absolute value.",
                remedy="Drop the sender or the attempt.",
            )
        self._total += values.astype(np.int64) - bound
        self._contributors.add(client_index(sender))

    def result(self) -> Sum:
        """The sum over everybody that uploaded.

        Raises:
            TooFewSurvivors: nobody did.
        """
        return Sum(total=self._total.copy(), contributors=_enough(tuple(sorted(self._contributors))))


def _enough(contributors: tuple[int, ...]) -> tuple[int, ...]:
    if not contributors:
        raise TooFewSurvivors("A sum needs a contributor.", value=0, remedy="Start a new attempt.")
    return contributors


def _width(terms: Terms) -> int:
    return max(1, (2 * terms.input_bound).bit_length())


@lru_cache
def _seconds_per_value(bits: int) -> tuple[float, float]:
    """CPU seconds per coordinate to pack and to unpack, the better of three."""
    values = np.zeros(1 << 16, dtype=wire.word_type(bits))
    best = [float("inf"), float("inf")]
    for _ in range(3):
        begun = time.process_time()
        packed = wire.pack_bits(values, bits)
        turned = time.process_time()
        wire.unpack_bits(packed, values.size, bits, values.dtype)
        best = [min(best[0], turned - begun), min(best[1], time.process_time() - turned)]
    return best[0] / values.size, best[1] / values.size


def _cost(role: Party, parties: int, messages: int, sent: int, received: int, cpu: float, modelled: float) -> StageCost:
    return StageCost(
        stage=UPLOAD,
        role=role,
        parties=parties,
        messages=messages,
        bytes_sent=sent,
        bytes_received=received,
        cpu_seconds=cpu,
        modelled_seconds=modelled,
    )
