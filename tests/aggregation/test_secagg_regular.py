"""Secure aggregation on a regular graph: who shares with whom, what a client is told, when an attempt ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedpriv.aggregation import SecureAggregation, Session, Terms, perform
from fedpriv.aggregation.conformance.bench import Altered
from fedpriv.aggregation.secagg import Client, Server
from fedpriv.aggregation.secagg import messages as m
from fedpriv.crypto import agreement, merkle, wire
from fedpriv.errors import (
    AuthenticationFailed,
    CohortTooSmall,
    ContextMismatch,
    InvalidShare,
    MalformedMessage,
    ProtocolError,
    TooFewSurvivors,
)
from fedpriv.network import Message, Network, Wire
from fedpriv.threat import SERVER, client

N, LENGTH = 40, 5
DESCRIPTION = SecureAggregation(graph="regular", corrupt=0.05, dropout=0.1)


class Setting:
    """A deployment, a session, and its graph."""

    def __init__(self, n: int = N, description: SecureAggregation = DESCRIPTION, context: bytes = b"") -> None:
        domain = description.domain(sum_bound=n, length=LENGTH, cohort=n)
        self.n = n
        self.terms = Terms(length=LENGTH, input_bound=1, cohort=n, domain=domain)
        self.deployment: Any = description.deploy(self.terms)
        self.session = Session(round=0, attempt=0, participants=tuple(range(n)), context=context)
        self.parameters = description.parameters(n)
        self.agreed = m.Agreed.on(self.terms, domain, self.parameters, self.session)  # type: ignore[arg-type]

    def reach(self, members: Any = None) -> m.Reach:
        return self.agreed.reach(wire.members(range(self.n) if members is None else members, self.n))

    def run(self, lost: Any = None, tamper: Any = None, alter: Any = None) -> Any:
        schedule = {client(i): stage for i, stage in (lost or {}).items()}
        carrier = Wire(Network(), schedule=schedule, tamper=tamper)
        performed = Altered(self.deployment, alter) if alter else self.deployment
        ones = np.ones(LENGTH, dtype=np.int64)
        return perform(performed, self.session, carrier, lambda there: [(party, ones) for party in there], SERVER)

    def expect(self, error: type[Exception], lost: Any) -> set[str]:
        """The real attempt and the ideal one end with it; the stages in which the server still spoke."""
        spoken: set[str] = set()

        def record(message: Message) -> Message:
            if message.sender == SERVER:
                spoken.add(message.stage)
            return message

        with pytest.raises(error):
            self.deployment.contributors(self.session, {client(i): stage for i, stage in lost.items()})
        with pytest.raises(error):
            self.run(lost, tamper=record)
        return spoken


def test_the_graph_is_regular_mutual_and_drawn_for_the_session_and_its_roster() -> None:
    setting = Setting()
    reach, k = setting.reach(), setting.parameters.degree
    for one in range(N):
        holders = reach.holders(one)
        assert len(holders) == k
        assert one not in holders
        assert list(holders) == sorted(set(holders))
        assert all(one in reach.holders(other) for other in holders)
        assert list(reach.seats(one)) == sorted({one, *holders})
    others = [Setting(context=b"another").reach(), setting.reach(range(1, N))]
    assert all([other.holders(i) for i in range(N)] != [reach.holders(i) for i in range(N)] for other in others)
    assert [Setting().reach().holders(i) for i in range(N)] == [reach.holders(i) for i in range(N)]


def test_clients_are_told_of_their_neighbours_only() -> None:
    """Messages do not grow with n beyond one bit for each invited client and the depth of the tree."""
    sizes = {}
    for n in (200, 800):
        setting, sent = Setting(n, SecureAggregation(graph="regular", corrupt=0.01, dropout=0.01)), {}
        k = setting.parameters.degree

        def record(message: Message, sent: dict[str, int] = sent) -> Message:
            sent[message.stage] = max(sent.get(message.stage, 0), len(message.body) - wire.FRAME)
            return message

        assert setting.run(tamper=record).total.tolist() == [n] * LENGTH
        assert sent[m.SHARE] == agreement.KEY + k * m.ENVELOPE
        assert sent[m.ROUTE] == wire.packed_size(k + 1, 1) + k * m.ENVELOPE
        assert sent[m.SURVIVORS] == wire.packed_size(k + 1, 1)
        assert sent[m.UNMASK] == k * m.SHARE_BYTES
        depth = (n - 1).bit_length()
        assert sent[m.ROSTER] <= n // 8 + (k + 1) * (m.KEYS + merkle.HASH * depth)
        sizes[n] = k
    assert sizes[800] < 20


@pytest.mark.parametrize("stage", [m.SHARE, m.MASKED, m.UNMASK])
def test_a_client_that_loses_too_many_neighbours_ends_the_attempt(stage: str) -> None:
    """k − t of its neighbours may be lost at any stage; with one more its secrets cannot be opened."""
    description = SecureAggregation(graph="regular", corrupt=0.02, dropout=0.3)
    for one in range(2):
        setting = Setting(80, description, context=bytes([one]))
        holders = setting.reach().holders(one)
        spare = setting.parameters.degree - setting.parameters.threshold
        assert spare + 1 <= setting.parameters.dropouts  # so that the neighbourhood's bound is what is tested
        spoken = setting.expect(TooFewSurvivors, dict.fromkeys(holders[: spare + 1], stage))
        server_stages = [m.ROSTER, m.ROUTE, m.SURVIVORS]
        assert spoken == set(server_stages[: [m.SHARE, m.MASKED, m.UNMASK].index(stage) + 1])  # it looks by itself
        setting = Setting(80, description, context=bytes([one]))
        result = setting.run(dict.fromkeys(holders[:spare], stage))
        assert set(range(80)) - set(result.contributors) == (set() if stage == m.UNMASK else set(holders[:spare]))


def test_a_neighbourhood_may_be_too_small_from_the_start() -> None:
    """So rarely that the threshold is raised to k here: then one client that does not advertise ends the attempt."""
    setting = Setting()
    strict = replace(setting.parameters, threshold=setting.parameters.degree)
    setting.deployment._parameters = lambda session: strict
    assert not setting.expect(TooFewSurvivors, {7: m.ADVERTISE})
    agreed = replace(setting.agreed, parameters=strict)
    advertised = {i: bytes([2 * i]) * 32 + bytes([2 * i + 1]) * 32 for i in range(1, N)}
    roster = m.FullRoster.of(agreed, advertised)
    lonely = roster.reach.holders(0)[0]
    made = Client(agreed, lonely)  # and a client looks by itself
    (message,) = made.step(m.ADVERTISE)
    roster = m.FullRoster.of(agreed, advertised | {lonely: message.body[wire.TAG : -wire.DIGEST]})
    with pytest.raises(TooFewSurvivors):
        made.receive(Server(agreed).send(client(lonely), m.ROSTER, roster.encode(lonely)))


@pytest.mark.parametrize("stage", [m.ADVERTISE, m.SHARE, m.MASKED])
def test_more_losses_than_permitted_end_the_attempt(stage: str) -> None:
    """The bound on the graph's failure is for f losses: with one more there is no sum, whoever they are."""
    setting = Setting(N, SecureAggregation(graph="regular", corrupt=0.0, dropout=0.05))
    f = setting.parameters.dropouts
    far = [i for i in range(N) if i not in setting.reach().seats(0)][: f + 1]
    setting.expect(TooFewSurvivors, dict.fromkeys(far, stage))


def test_a_small_cohort_is_refused() -> None:
    setting = Setting(N, SecureAggregation(graph="regular", corrupt=0.0, dropout=0.1, min_cohort=36))
    setting.expect(CohortTooSmall, dict.fromkeys(range(5), m.ADVERTISE))


# --- what a server that follows the protocol never sends --------------------------------------------------------------


def changing(stage: str, sender: str, recipient: str, change: Any) -> Any:
    """A tamper that changes one message's payload and frames it anew."""

    def tamper(message: Message) -> Message:
        if (message.stage, message.sender, message.recipient) != (stage, sender, recipient):
            return message
        payload = change(message.body[wire.TAG : -wire.DIGEST])
        return Message(sender, recipient, stage, wire.frame(message.body[: wire.TAG], payload))

    return tamper


def flipped(place: int) -> Any:
    return lambda payload: payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]


@pytest.mark.parametrize("part", ["a neighbour's key", "a hash", "who is there"])
def test_a_roster_that_differs_from_the_others_opens_nothing(part: str) -> None:
    """T1 differs, whatever part of the roster does: no envelope opens, and nothing is uploaded."""
    setting, uploaded = Setting(), []
    bitmap = wire.packed_size(N, 1)
    seats = list(setting.reach().seats(0))
    neighbour = seats.index(setting.reach().holders(0)[0])
    places = {
        "a neighbour's key": bitmap + m.KEYS * neighbour + agreement.KEY,
        "a hash": bitmap + m.KEYS * len(seats) + 1,
        "who is there": 3,
    }
    tamper = changing(m.ROSTER, SERVER, client(0), flipped(places[part]))

    def watching(message: Message) -> Message:
        if message.stage == m.MASKED:
            uploaded.append(message.sender)
        return tamper(message)

    # Another U1 means another graph, another opening, another order: refused while it is read, or as an envelope.
    with pytest.raises((MalformedMessage, ContextMismatch) if part == "who is there" else AuthenticationFailed):
        setting.run(tamper=watching)
    assert client(0) not in uploaded
    assert part == "who is there" or set(uploaded) <= set(map(client, range(N))) - set(
        map(client, setting.reach().seats(0))
    )


def test_a_tree_that_is_too_short_or_too_long_is_malformed() -> None:
    for change in (lambda payload: payload[:-1], lambda payload: payload + bytes(merkle.HASH)):
        with pytest.raises(MalformedMessage):
            Setting().run(tamper=changing(m.ROSTER, SERVER, client(0), change))


def test_a_changed_share_opens_nothing() -> None:
    """Wherever it is used: each neighbour's first share is changed in turn."""
    noticed = 0
    for holder in range(6):
        try:
            Setting().run(tamper=changing(m.UNMASK, client(holder), SERVER, flipped(0)), lost={})
        except InvalidShare:
            noticed += 1
    assert noticed >= 1  # t of k shares are used; those beyond are not looked at


def test_exchanged_envelopes_are_not_opened() -> None:
    head = wire.packed_size(Setting().parameters.degree + 1, 1)
    first, second = slice(head, head + m.ENVELOPE), slice(head + m.ENVELOPE, head + 2 * m.ENVELOPE)

    def exchange(payload: bytes) -> bytes:
        return payload[:head] + payload[second] + payload[first] + payload[second.stop :]

    with pytest.raises(AuthenticationFailed):
        Setting().run(tamper=changing(m.ROUTE, SERVER, client(0), exchange))


@pytest.mark.parametrize("stage", [m.ROUTE, m.SURVIVORS])
def test_a_client_keeps_its_threshold_of_neighbours(stage: str) -> None:
    """A server that names too many neighbours dead, or absent, gets no answer: t is the client's own."""
    setting = Setting()
    seats = list(setting.reach().seats(0))
    kept = [seats.index(0), *(seats.index(h) for h in setting.reach().holders(0)[: setting.parameters.threshold - 1])]
    size = wire.packed_size(len(seats), 1)

    def few(payload: bytes) -> bytes:
        if stage == m.SURVIVORS:
            return wire.members(set(range(len(seats))) - set(kept), len(seats))
        return wire.members(kept, len(seats)) + payload[size : size + m.ENVELOPE * (len(kept) - 1)]

    with pytest.raises(TooFewSurvivors):
        setting.run(tamper=changing(stage, SERVER, client(0), few))


def test_a_server_cannot_choose_the_degree() -> None:
    """Parameters are each client's own and covered by T0; neighbours follow from T0 and U1."""
    setting = Setting()
    weak = m.Agreed.on(setting.terms, setting.agreed.ring, replace(setting.parameters, degree=2), setting.session)
    assert weak.transcript != setting.agreed.transcript

    def alter(party: str, role: Any) -> Any:
        return type(role)(weak) if party == SERVER else role

    with pytest.raises(ProtocolError):
        setting.run(alter=alter)
