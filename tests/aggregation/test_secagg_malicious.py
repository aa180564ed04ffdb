"""A server that lies about keys, and about the parameters of the attempt. Each attack recovers what it is after from a
weakened variant, and ends with its own typed error against the protocol as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from secagg_by_hand import IDENTITIES, SIGNED, agreed_on, inside, opened
from secagg_world import World

from fedpriv.aggregation.secagg import SignedClient, SignedServer
from fedpriv.aggregation.secagg import messages as m
from fedpriv.crypto import agreement, shamir, signing
from fedpriv.errors import AuthenticationFailed, CohortTooSmall, ContextMismatch, TooFewSurvivors, UnexpectedMessage
from fedpriv.threat import SERVER, client

# --- other keys -------------------------------------------------------------------------------------------------------


def rosters(world: World) -> dict[int, bytes]:
    """What clients advertise."""
    return {i: inside(role.step(m.ADVERTISE)[0]) for i, role in enumerate(world.clients)}


def between(world: World, false: Mapping[int, Mapping[int, bytes]]) -> None:
    """The server shows each client its own keys, and in the places of the others what ``false`` says."""
    advertised = rosters(world)
    for i in world.honest:
        shown = m.FullRoster.of(world.agreed, advertised | dict(false.get(i, {})))
        world.say(i, m.ROSTER, shown.encode(i))


def test_substituted_keys_lay_every_share_open_without_signatures() -> None:
    """The server shows client 0 keys of its own for all others: it opens the envelopes meant for them, and so holds all
    shares of client 0's mask key and seed before a vector is sent. With signatures client 0 sends nothing.
    """
    own = {i: (agreement.KeyPair(), agreement.KeyPair()) for i in range(1, 6)}
    false = {i: pair[0].public + pair[1].public for i, pair in own.items()}
    world = World(6, corrupt=0.1, dropout=0.1)
    between(world, {0: false})
    victim = world.clients[0]
    secret, seed = victim._mask_key.secret(), victim._seed
    body = inside(victim.step(m.SHARE)[0])[agreement.KEY :]
    roster, rows = victim._roster, []
    for place, i in enumerate(own):
        context = roster.envelope_context(0, i)
        key = agreement.derive(own[i][0].agree(roster.envelope_key(0)), salt=roster.transcript, info=context)
        sealed = body[m.ENVELOPE * place : m.ENVELOPE * (place + 1)]
        rows.append(m.envelope.unseal(key, sealed, context))
    t = world.agreed.parameters.threshold
    shares = shamir.unpack(b"".join(rows[:t]), m.LIMBS).reshape(t, -1)
    assert opened(list(own)[:t], shares) == secret + seed

    world = World(6, corrupt=0.1, dropout=0.1, **SIGNED)
    with pytest.raises(AuthenticationFailed):
        between(world, {0: {i: keys + bytes(signing.SIGNATURE) for i, keys in false.items()}})
    with pytest.raises(UnexpectedMessage):
        world.clients[0].step(m.SHARE)


@pytest.mark.parametrize("signer", ["a corrupt client", "itself, in another attempt", "itself, as another position"])
def test_a_signature_of_keys_belongs_to_client_session_and_position(signer: str) -> None:
    world = World(6, corrupt=0.1, dropout=0.1, **SIGNED)
    keys = agreement.KeyPair().public + agreement.KeyPair().public
    if signer == "a corrupt client":
        false = keys + IDENTITIES[5].sign(m.advertisement(world.agreed, 1, keys))
    elif signer == "itself, in another attempt":
        other = replace(world.agreed, transcript=bytes(32))
        false = keys + IDENTITIES[1].sign(m.advertisement(other, 1, keys))
    else:
        false = keys + IDENTITIES[1].sign(m.advertisement(world.agreed, 2, keys))
    with pytest.raises(AuthenticationFailed):
        between(world, {0: {1: false}})
    with pytest.raises(AuthenticationFailed):  # the relay looks as well, and knows whose it is
        world.server.receive(world.clients[1].send(SERVER, m.ADVERTISE, false))


def test_identities_are_part_of_the_session() -> None:
    """A client that was given another registry does not speak with the others."""
    registry = [IDENTITIES[0], *(signing.SigningKey() for _ in range(5))]
    world = World(6, corrupt=0.1, dropout=0.1, **SIGNED)
    other = agreed_on(6, identities=registry, graph="complete", corrupt=0.1, dropout=0.1, **SIGNED)
    assert world.agreed.transcript != other.transcript
    (message,) = SignedClient(other, 0, registry[0]).step(m.ADVERTISE)
    with pytest.raises(ContextMismatch):
        world.server.receive(message)


# --- a threshold, a degree, a cohort that the server would like -------------------------------------------------------


def test_a_server_that_states_another_threshold_speaks_of_another_session() -> None:
    """A weakened variant that took t = 2 from the server would give two answers' worth; here parameters are the
    client's own, and covered by T0.
    """
    for change in ({"threshold": 2}, {"least": 2}, {"min_cohort": 2}, {"degree": 2}, {"graph": "regular", "degree": 4}):
        world = World(6, corrupt=0.1, dropout=0.1, **SIGNED)
        liar = agreed_on(6, forced=change, graph="complete", corrupt=0.1, dropout=0.1, **SIGNED)
        assert liar.transcript != world.agreed.transcript
        world.clients[0].step(m.ADVERTISE)
        with pytest.raises(ContextMismatch):
            world.clients[0].receive(SignedServer(liar).send(client(0), m.ROSTER, b""))


def test_a_low_threshold_lets_few_clients_open_a_secret() -> None:
    """The weakened variant: with t = 2 and two corrupt clients the adversary opens everything without an answer."""
    world = World(10, corrupt=0.2, dropout=0.3, threshold=2)
    world.upload()
    world.honest, target = [], 3  # it needs no answer
    assert world.sum_of([target]) == world.truth([target])
    world = World(10, corrupt=0.2, dropout=0.3)
    world.upload()
    world.honest = []
    assert world.sum_of([target]) is None


def test_a_small_roster_is_refused() -> None:
    for size, error in ((2, CohortTooSmall), (4, TooFewSurvivors)):
        world = World(10, corrupt=0.1, dropout=0.1, **SIGNED)
        advertised = rosters(world)
        shown = m.FullRoster.of(world.agreed, {i: advertised[i] for i in range(size)})
        with pytest.raises(error):
            world.say(0, m.ROSTER, shown.encode(0))
