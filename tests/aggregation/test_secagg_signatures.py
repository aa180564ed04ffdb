"""Signatures on survivor sets, against a server that forges, withholds, repeats and exchanges them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from secagg_by_hand import IDENTITIES, SIGNED, inside
from secagg_world import World

from fedpriv.aggregation.secagg import messages as m
from fedpriv.crypto import signing, wire
from fedpriv.errors import AuthenticationFailed, MalformedMessage, TooFewSurvivors, UnexpectedMessage
from fedpriv.threat import SERVER


def told(change: Callable[[World, dict[int, bytes]], bytes]) -> World:
    """A world in which client 0 is passed signatures that the adversary changed."""
    world = World(8, corrupt=0.1, dropout=0.1, **SIGNED)
    world.upload()
    for i in range(8):
        world.say(i, m.SURVIVORS, wire.members([], 8))
    made = {i: inside(role.step(m.CONSISTENCY)[0]) for i, role in enumerate(world.clients)}
    world.say(0, m.SIGNATURES, change(world, made))
    return world


def passed(made: Mapping[int, bytes], signers: Sequence[int]) -> bytes:
    return wire.members(signers, 8) + b"".join(made[i] for i in signers)


def test_t_signatures_are_enough() -> None:
    world = told(lambda world, made: passed(made, range(world.agreed.parameters.threshold)))
    assert world.clients[0].step(m.UNMASK)


def test_fewer_than_t_signatures_are_not() -> None:
    with pytest.raises(TooFewSurvivors):
        told(lambda world, made: passed(made, range(world.agreed.parameters.threshold - 1)))


def test_a_server_does_not_pass_on_fewer() -> None:
    world = World(8, corrupt=0.1, dropout=0.1, **SIGNED)
    world.through(m.SURVIVORS)
    for role in world.clients[: world.agreed.parameters.threshold - 1]:
        world.server.receive(role.step(m.CONSISTENCY)[0])
    with pytest.raises(TooFewSurvivors):
        world.server.step(m.SIGNATURES)


def test_signatures_end_with_the_last() -> None:
    with pytest.raises(MalformedMessage):
        told(lambda world, made: passed(made, range(8)) + b"more")


@pytest.mark.parametrize(
    "forge",
    [
        lambda world, made: made | {3: made[2]},  # one signer's, counted twice
        lambda world, made: made | {3: bytes(64)},
        lambda world, made: made | {3: IDENTITIES[2].sign(b"anything")},
        lambda world, made: made | {3: IDENTITIES[3].sign(b"another statement")},
        lambda world, made: made | {3: world.clients[3]._advertised[m.KEYS :]},  # its signature of its keys
    ],
    ids=["twice", "zeros", "another's", "another statement", "advertisement"],
)
def test_forged_signatures_are_refused(forge: Callable[[World, dict[int, bytes]], dict[int, bytes]]) -> None:
    with pytest.raises(AuthenticationFailed):
        told(lambda world, made: passed(forge(world, made), range(8)))


def test_signatures_of_another_survivor_set_are_refused() -> None:
    """A replay within the session: all signed that nobody is dead; client 0 was told that client 7 is."""
    world = World(8, corrupt=0.1, dropout=0.1, **SIGNED)
    world.upload()
    for i in range(8):
        world.say(i, m.SURVIVORS, wire.members([7] if i == 0 else [], 8))
    made = {i: inside(role.step(m.CONSISTENCY)[0]) for i, role in enumerate(world.clients)}
    with pytest.raises(AuthenticationFailed):
        world.say(0, m.SIGNATURES, passed(made, range(7)))


@pytest.mark.parametrize(
    ("sharers", "alive"), [([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]), (range(8), [0, 1, 2, 3, 4, 5, 6])]
)
def test_a_statement_covers_both_survivor_sets(sharers: Sequence[int], alive: Sequence[int]) -> None:
    """Of another U2, or another U3, there is another signature; of another roster, too."""
    world = World(8, corrupt=0.1, dropout=0.1, **SIGNED)
    world.upload()
    roster = world.server._roster
    own = m.survivor_statement(roster, range(8), range(8), 8)
    assert m.survivor_statement(roster, sharers, alive, 8) != own
    assert m.survivor_statement(roster, sharers, alive, 8) != m.survivor_statement(roster, range(7), range(6), 8)
    assert m.survivor_statement(roster, range(7), range(7), 8) != m.survivor_statement(roster, range(8), range(7), 8)
    assert m.survivor_statement(replace(roster, transcript=bytes(32)), range(8), range(8), 8) != own


def test_a_signer_is_alive() -> None:
    world = World(8, corrupt=0.1, dropout=0.1, **SIGNED)
    world.upload()
    for i in range(7):
        world.say(i, m.SURVIVORS, wire.members([7], 8))
    made = {i: inside(role.step(m.CONSISTENCY)[0]) for i, role in enumerate(world.clients[:7])}
    with pytest.raises(UnexpectedMessage):
        world.say(0, m.SIGNATURES, passed(made | {7: made[6]}, [0, 1, 2, 3, 4, 5, 7]))


def test_no_share_without_signatures() -> None:
    world = World(8, corrupt=0.1, dropout=0.1, **SIGNED)
    world.upload()
    world.say(0, m.SURVIVORS, wire.members([], 8))
    assert [message.stage for message in world.clients[0].step(m.CONSISTENCY)] == [m.CONSISTENCY]
    with pytest.raises(UnexpectedMessage):
        world.clients[0].step(m.UNMASK)


def test_a_server_refuses_a_false_signature() -> None:
    world = World(8, corrupt=0.1, dropout=0.1, **SIGNED)
    world.through(m.SURVIVORS)
    with pytest.raises(AuthenticationFailed):
        world.server.receive(world.clients[0].send(SERVER, m.CONSISTENCY, bytes(signing.SIGNATURE)))
