"""One attempt of a protocol, performed in memory: stage by stage, every message carried and counted."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fedpriv.aggregation.hosting import Acted, Collect, Here, Hosts
from fedpriv.aggregation.protocol import Deployment, Inputs, Releaser, Role, Session, Sum
from fedpriv.errors import ProtocolError, TooFewSurvivors
from fedpriv.network import Wire
from fedpriv.threat import CLIENT, Party


def perform(
    deployment: Deployment,
    session: Session,
    wire: Wire,
    inputs: Inputs,
    releaser: Party,
    *,
    hosts: Hosts | None = None,
    collect: Collect = lambda _: None,
) -> Sum:
    """Run one attempt.

    Args:
        deployment: the protocol.
        session: the attempt.
        wire: the network, and what the attempt costs.
        inputs: the clients' vectors.
        releaser: the party that ends up with the sum; ``client``: every client that acts in the last stage.
        hosts: where the clients live; in this process by default.
        collect: takes what ``inputs`` returns for each block of clients, in order.

    Raises:
        RoundAborted: the attempt failed; nothing was released.
    """
    roles = dict(deployment.round(session))
    hosts = hosts or Here()
    try:
        hosts.open({party: roles.pop(party) for party in session.parties})
        present: list[Party] = []
        for stage in deployment.stages:
            wire.enter(stage)
            if stage.actor != CLIENT:
                _pass_on([_step(roles, stage.actor, stage.name)], roles, hosts, session, wire)
            else:
                present = [party for party in session.parties if not wire.silent(party)]
                if stage.phase == "upload":
                    acted = hosts.upload(stage.name, present, inputs, collect)
                else:
                    acted = hosts.act(stage.name, present)
                _pass_on(acted, roles, hosts, session, wire)
            wire.leave(stage)
        return _agreed(hosts.results(present)) if releaser == CLIENT else _result(roles, releaser)
    finally:
        hosts.close()


def _step(roles: Mapping[Party, Role], party: Party, stage: str) -> Acted:
    started = time.process_time()
    messages = roles[party].step(stage)
    return Acted(party, messages, time.process_time() - started)


def _pass_on(acted: Iterable[Acted], roles: Mapping[Party, Role], hosts: Hosts, session: Session, wire: Wire) -> None:
    """What each party sends is delivered at once, and its recipients' work is charged to them."""
    clients = frozenset(session.parties)
    for act in acted:
        wire.spent(act.party, act.seconds)
        for message in wire.carry(act.messages):
            if message.recipient in clients:
                hosts.deliver(message)
            elif message.recipient in roles:
                started = time.process_time()
                roles[message.recipient].receive(message)
                wire.spent(message.recipient, time.process_time() - started)
            else:
                raise ProtocolError(
                    "A message goes to a party of this attempt.", value=message.recipient, remedy="Check the protocol."
                )
    for party, seconds in hosts.settle():
        wire.spent(party, seconds)


def _result(roles: Mapping[Party, Role], releaser: Party) -> Sum:
    holder = roles[releaser]
    if not isinstance(holder, Releaser):
        raise ProtocolError(
            "The releaser of a protocol has a role with a result.", value=releaser, remedy="Implement Releaser."
        )
    return holder.result()


def _agreed(sums: Sequence[Sum]) -> Sum:
    """The one sum that all clients hold."""
    if not sums:
        raise TooFewSurvivors(
            "Some client is left to hold the sum.", value=0, remedy="Permit less dropout; start a new attempt."
        )
    first = sums[0]
    for other in sums[1:]:
        if other.contributors != first.contributors or not np.array_equal(other.total, first.total):
            raise ProtocolError(
                "All clients hold the same sum.",
                value="two that differ",
                remedy="Somebody sent different aggregates; discard the attempt.",
            )
    return first
