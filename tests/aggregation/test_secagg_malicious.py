"""A server that lies, with some clients on its side. Each attack recovers what it is after from a weakened variant,
and ends with its own typed error against the protocol as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedpriv.aggregation import SecureAggregation, Session, Terms
from fedpriv.aggregation.secagg import Client, Server, SignedClient, SignedServer
from fedpriv.aggregation.secagg import messages as m
from fedpriv.aggregation.secagg.client import lifted
from fedpriv.crypto import agreement, prg, shamir, signing, wire
from fedpriv.encoding import Integers
from fedpriv.errors import (
    AuthenticationFailed,
    CohortTooSmall,
    ContextMismatch,
    MalformedMessage,
    TooFewSurvivors,
    UnexpectedMessage,
)
from fedpriv.network import Message
from fedpriv.threat import SERVER, client

LENGTH, BOUND = 4, 1000
SIGNED = {"adversary": "malicious"}


class World:
    """An attempt whose server is the adversary's from the survivor set on, with the last ``corrupt`` clients its own.

    It holds every message, the corrupt clients' whole state and their identities; of honest clients nothing else.
    """

    def __init__(
        self,
        n: int,
        *,
        corrupt: float,
        dropout: float,
        threshold: int | None = None,
        make: Callable[[m.Agreed, int], Client] = Client,
        **arguments: Any,
    ) -> None:
        description = SecureAggregation(corrupt=corrupt, dropout=dropout, graph="complete", **arguments)
        domain = description.domain(sum_bound=n * BOUND, length=LENGTH, cohort=n)
        terms = Terms(length=LENGTH, input_bound=BOUND, cohort=n, domain=domain)
        session = Session(round=0, attempt=0, participants=tuple(range(n)), context=b"model")
        parameters = description.parameters(n)
        if threshold is not None:  # the weakness: a threshold that the description does not give
            parameters = replace(parameters, threshold=threshold, least=threshold)
        signed = description.adversary == "malicious"
        self.identities = [signing.SigningKey() for _ in range(n)] if signed else []
        publics = tuple(identity.public for identity in self.identities)
        self.agreed = m.Agreed.on(terms, domain, parameters, session, publics)  # type: ignore[arg-type]
        self.roles: list[Any] = [
            SignedClient(self.agreed, i, self.identities[i]) if signed else make(self.agreed, i) for i in range(n)
        ]
        self.server: Any = SignedServer(self.agreed) if signed else Server(self.agreed)
        self.honest = list(range(n - parameters.corrupt))
        self.corrupt = list(range(n - parameters.corrupt, n))
        self.inputs = np.random.default_rng(n).integers(-BOUND, BOUND, (n, LENGTH))
        self.masked: dict[int, Any] = {}
        self.dead: dict[int, frozenset[int]] = {}

    def upload(self, partners: Mapping[int, Sequence[int]] | None = None) -> None:
        """Everything up to the masked inputs, played honestly by all, but for whom the server names as U2 to some."""
        for stage in (m.ADVERTISE, m.ROSTER, m.SHARE, m.ROUTE, m.MASKED):
            if stage in (m.ROSTER, m.ROUTE):
                for message in self.server.step(stage):
                    i = int(message.recipient.partition("/")[2])
                    if stage == m.ROUTE and partners and i in partners:
                        self.say(i, m.ROUTE, self.narrowed(i, partners[i], message))
                    else:
                        self.roles[i].receive(message)
                continue
            for i, role in enumerate(self.roles):
                if stage == m.MASKED:
                    role.submit(self.inputs[i])
                for message in role.step(stage):
                    self.server.receive(message)
                    if stage == m.MASKED:
                        payload = message.body[wire.TAG : -wire.DIGEST]
                        self.masked[i] = wire.unpack_bits(payload, LENGTH, self.agreed.ring.bits, self.agreed.word)

    def role(self, party: str) -> Any:
        return self.roles[int(party.partition("/")[2])]

    def say(self, position: int, stage: str, payload: bytes) -> None:
        self.roles[position].receive(self.server.send(client(position), stage, payload))

    def narrowed(self, position: int, members: Sequence[int], message: Message) -> bytes:
        """U2 as these members only, with their envelopes out of a message that has everybody's."""
        n, size = self.agreed.invited, m.ENVELOPE
        body = message.body[wire.TAG + wire.packed_size(n, 1) : -wire.DIGEST]
        places = {other: place for place, other in enumerate(i for i in range(n) if i != position)}
        return wire.members(members, n) + b"".join(
            body[size * places[i] : size * (places[i] + 1)] for i in members if i != position
        )

    def tell(self, dead: Mapping[int, Sequence[int]]) -> None:
        """Each honest client its own dead-list."""
        for i in self.honest:
            self.dead[i] = frozenset(dead.get(i, ()))
            self.say(i, m.SURVIVORS, wire.members(self.dead[i], self.agreed.invited))
        if self.identities:
            self.convince()

    def convince(self) -> None:
        """Each honest client gets every signature on *its* view that there is: honest ones, and the adversary's."""
        n = self.agreed.invited
        own = {i: self.roles[i].step(m.CONSISTENCY)[0].body[wire.TAG : -wire.DIGEST] for i in self.honest}
        for i in self.honest:
            alive = [j for j in range(n) if j not in self.dead[i]]
            statement = m.survivor_statement(self.roles[self.corrupt[0]]._roster, range(n), alive, n)
            found = {j: own[j] for j in self.honest if self.dead[j] == self.dead[i]}
            found |= {j: self.identities[j].sign(statement) for j in self.corrupt}
            self.say(i, m.SIGNATURES, wire.members(found, n) + b"".join(found[j] for j in sorted(found)))

    def opened(self) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Mask keys and self-mask seeds of whom the adversary has t shares, from answers and from its own clients."""
        size, n = m.SHARE_BYTES, self.agreed.invited
        shares: dict[tuple[int, bool], dict[int, bytes]] = {}
        for i in self.honest:
            answer = self.roles[i].step(m.UNMASK)[0].body[wire.TAG : -wire.DIGEST]
            for owner in range(n):
                part = answer[size * owner : size * (owner + 1)]
                shares.setdefault((owner, owner in self.dead[i]), {})[i] = part
        for i in self.corrupt:
            for owner, both in self.roles[i]._shares.items():
                shares.setdefault((owner, True), {})[i] = both[:size]
                shares.setdefault((owner, False), {})[i] = both[size:]
        secrets: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
        for (owner, is_key), held in shares.items():
            chosen = sorted(held)[: self.agreed.parameters.threshold]
            if len(chosen) == self.agreed.parameters.threshold:
                rows = shamir.unpack(b"".join(held[i] for i in chosen), m.LIMBS)
                opened = shamir.combine([i + 1 for i in chosen], rows)
                secrets[0 if is_key else 1][owner] = shamir.from_limbs(opened)
        return secrets

    def sum_of(self, targets: Sequence[int], among: Sequence[int] | None = None) -> Integers | None:
        """The sum of these clients' vectors alone, masked with those ``among``, where the opened secrets give it."""
        roster = self.roles[self.corrupt[0]]._roster if self.corrupt else self.server._roster
        keys, seeds = self.opened()
        keys |= {i: self.roles[i]._mask_key.secret() for i in self.corrupt}
        total = np.zeros(LENGTH, dtype=self.agreed.word)
        for target in targets:
            if target not in seeds:
                return None
            total += self.masked[target]
            prg.mask(total, subtract=[roster.self_mask(self.agreed, target, seeds[target])])
            for other in range(self.agreed.invited) if among is None else among:
                if other in targets:
                    continue
                if target in keys:
                    shared = agreement.KeyPair(keys[target]).agree(roster.mask_key(other))
                elif other in keys:
                    shared = agreement.KeyPair(keys[other]).agree(roster.mask_key(target))
                else:
                    return None
                key = [roster.pairwise_mask(self.agreed, target, other, shared)]
                prg.mask(total, **{"subtract" if target < other else "add": key})
        return lifted(total, self.agreed.ring.bits)

    def truth(self, targets: Sequence[int]) -> list[int]:
        total: list[int] = self.inputs[list(targets)].sum(axis=0).tolist()
        return total


# --- a client both alive and dead -------------------------------------------------------------------------------------


class TwoLists(Client):
    """The weakened variant: it is sent who is dead and who is alive, as two lists, and reveals what each asks for."""

    both: frozenset[int] = frozenset()

    def _mourn(self, payload: memoryview) -> None:
        reader = wire.Reader(payload, m.SURVIVORS)
        self._dead = frozenset(reader.members(self._agreed.invited))
        self.both = self._dead & frozenset(reader.members(self._agreed.invited))

    def _reveal(self) -> list[Message]:
        seeds = b"".join(self._shares[member][m.SHARE_BYTES :] for member in sorted(self.both))
        (message,) = super()._reveal()
        payload = message.body[wire.TAG : -wire.DIGEST]
        return [self.send(SERVER, m.UNMASK, payload + seeds)]


def test_a_client_named_alive_and_dead_is_laid_open_by_two_lists() -> None:
    """And here the second list is refused; nothing is revealed."""
    n, target = 7, 2
    lists = wire.members([target], n) + wire.members(range(n), n)
    world = World(n, corrupt=0.1, dropout=0.1, make=TwoLists)
    world.upload()
    answers = {}
    for i in world.honest:
        world.say(i, m.SURVIVORS, lists)
        answers[i] = world.roles[i].step(m.UNMASK)[0].body[wire.TAG : -wire.DIGEST]
    chosen = world.honest[: world.agreed.parameters.threshold]
    points = [i + 1 for i in chosen]

    def open_at(start: int) -> bytes:
        rows = shamir.unpack(b"".join(answers[i][start : start + m.SHARE_BYTES] for i in chosen), m.LIMBS)
        return shamir.from_limbs(shamir.combine(points, rows))

    pair, seed = agreement.KeyPair(open_at(target * m.SHARE_BYTES)), open_at(n * m.SHARE_BYTES)
    roster, vector = world.server._roster, world.masked[target].copy()
    prg.mask(vector, subtract=[roster.self_mask(world.agreed, target, seed)])
    for other in range(n):
        if other != target:
            key = [roster.pairwise_mask(world.agreed, target, other, pair.agree(roster.mask_key(other)))]
            prg.mask(vector, **{"subtract" if target < other else "add": key})
    assert lifted(vector, world.agreed.ring.bits).tolist() == world.truth([target])

    for arguments in ({}, SIGNED):
        world = World(n, corrupt=0.1, dropout=0.1, **arguments)
        world.upload()
        with pytest.raises(MalformedMessage):
            world.say(0, m.SURVIVORS, lists)
        with pytest.raises(UnexpectedMessage):
            world.roles[0].step(m.CONSISTENCY if arguments else m.UNMASK)


# --- other dead-lists for other clients -------------------------------------------------------------------------------


def lists_that_leave_two(world: World) -> dict[int, list[int]]:
    """Dead-lists of the allowed length n − t by which t clients, corrupt ones included, give each honest client's mask
    key, but for two clients, of whom all give the self-mask seed.
    """
    allowed = world.agreed.invited - world.agreed.parameters.threshold
    first, second, *rest = world.honest
    dead = {i: [rest[(k + j) % len(rest)] for j in range(1, allowed + 1)] for k, i in enumerate(rest)}
    return dead | {first: rest[:allowed], second: rest[-allowed:]}


@pytest.mark.parametrize(("n", "share", "t"), [(10, 0.3, 7), (100, 0.33, 67)])
def test_per_client_dead_lists_leave_a_sum_of_two(n: int, share: float, t: int) -> None:
    """With n = 100, t = 67 and 33 corrupt, every list of allowed length: 2t > n + c alone is no help, agreement is."""
    world = World(n, corrupt=share, dropout=share)
    assert world.agreed.parameters.threshold == t
    assert 2 * t > n + len(world.corrupt)
    lists = lists_that_leave_two(world)
    assert max(map(len, lists.values())) == n - t
    world.upload()
    world.tell(lists)
    targets = world.honest[:2]
    found = world.sum_of(targets)
    assert found is not None
    assert found.tolist() == world.truth(targets)

    world = World(n, corrupt=share, dropout=share, **SIGNED)
    assert world.agreed.parameters.threshold == t
    world.upload()
    with pytest.raises(TooFewSurvivors):
        world.tell(lists)


@pytest.mark.parametrize("threshold", [5, 6, None])
def test_a_split_view_up_to_the_boundary(threshold: int | None) -> None:
    """n = 10, 2 corrupt: at 2t ≤ n + c = 12 half the clients sign that the target is dead and half that it is alive,
    both with the help of the corrupt. The threshold that clients derive is 7, and no split finds 7 signers twice.
    """
    laid_open = []
    for size in range(1, 8):  # of the part that is told that the target is dead
        world = World(10, corrupt=0.2, dropout=0.3, threshold=threshold, **SIGNED)
        target = world.honest[-1]
        split = {i: [target] for i in world.honest[:size]}
        world.upload()
        if threshold is None or min(size, 8 - size) + 2 < threshold:
            with pytest.raises(TooFewSurvivors):
                world.tell(split)
            continue
        world.tell(split)
        found = world.sum_of([target])
        assert found is not None
        assert found.tolist() == world.truth([target])
        laid_open.append(size)
    assert laid_open == {5: [3, 4, 5], 6: [4], None: []}[threshold]
    assert World(10, corrupt=0.2, dropout=0.3, **SIGNED).agreed.parameters.threshold == 7


def test_other_partners_for_two_clients_up_to_the_boundary() -> None:
    """The split before the upload. Two clients are told that U2 is themselves, two others and the corrupt; the rest,
    with the corrupt, then sign that those two others are dead. At 2t = n + c = 12 both sides are large enough, and the
    sum of two comes out, fewer than t − c = 4. At the threshold that clients derive one of the sides is too small.
    """
    pair, lost = [0, 1], [2, 3]

    def world(threshold: int | None, partners: Sequence[int]) -> World:
        made = World(10, corrupt=0.2, dropout=0.3, threshold=threshold, **SIGNED)
        made.upload(dict.fromkeys(pair, partners))
        made.honest = [4, 5, 6, 7]
        made.tell(dict.fromkeys(made.honest, lost))
        return made

    few = [*pair, *lost, 8, 9]
    weak = world(6, few)
    found = weak.sum_of(pair, among=few)
    assert found is not None
    assert found.tolist() == weak.truth(pair)
    with pytest.raises(TooFewSurvivors):  # the two: six partners are fewer than t = 7
        world(None, few)
    with pytest.raises(TooFewSurvivors):  # the rest: six signers are
        world(None, [*pair, *lost, 4, 8, 9])


def test_one_survivor_set_for_all_gives_nobody_by_itself() -> None:
    """Where every view is the same the adversary has the sum of the living, and of no two of them."""
    world = World(10, corrupt=0.2, dropout=0.3, **SIGNED)
    world.upload()
    dead = world.honest[-1]
    everybody, world.honest = world.honest, world.honest[:-1]
    world.tell({i: [dead] for i in world.honest})
    keys, seeds = world.opened()
    assert set(keys) & set(everybody) == {dead}
    assert set(seeds) & set(everybody) == set(world.honest)


def test_an_attempt_that_ends_may_have_given_the_adversary_its_sum() -> None:
    """Secure with abort: t − c honest answers are too few for a sum, but not with what the two silent corrupt hold."""
    world = World(10, corrupt=0.2, dropout=0.3)
    assert world.agreed.parameters.threshold == 7
    session = Session(round=0, attempt=0, participants=tuple(range(10)), context=b"model")
    deployment = SecureAggregation(corrupt=0.2, dropout=0.3, graph="complete").deploy(world.agreed.terms)
    with pytest.raises(TooFewSurvivors):
        deployment.contributors(session, {client(i): m.UNMASK for i in range(5, 10)})
    world.upload()
    world.honest = [0, 1, 2, 3, 4]
    world.tell({})
    found = world.sum_of(range(10))
    assert found is not None
    assert found.tolist() == world.truth(range(10))


# --- signatures -------------------------------------------------------------------------------------------------------


def told(change: Callable[[World, dict[int, bytes]], bytes]) -> World:
    """A world in which client 0 is passed signatures that the adversary changed."""
    world = World(8, corrupt=0.1, dropout=0.1, **SIGNED)
    world.upload()
    for i in range(8):
        world.say(i, m.SURVIVORS, wire.members([], 8))
    made = {i: role.step(m.CONSISTENCY)[0].body[wire.TAG : -wire.DIGEST] for i, role in enumerate(world.roles)}
    world.say(0, m.SIGNATURES, change(world, made))
    return world


def passed(made: Mapping[int, bytes], signers: Sequence[int]) -> bytes:
    return wire.members(signers, 8) + b"".join(made[i] for i in signers)


def test_t_signatures_are_enough() -> None:
    world = told(lambda world, made: passed(made, range(world.agreed.parameters.threshold)))
    assert world.roles[0].step(m.UNMASK)


def test_fewer_than_t_signatures_are_not() -> None:
    with pytest.raises(TooFewSurvivors):
        told(lambda world, made: passed(made, range(world.agreed.parameters.threshold - 1)))


def test_a_server_does_not_pass_on_fewer() -> None:
    world = World(8, corrupt=0.1, dropout=0.1, **SIGNED)
    world.upload()
    for message in world.server.step(m.SURVIVORS):
        world.role(message.recipient).receive(message)
    for role in world.roles[: world.agreed.parameters.threshold - 1]:
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
        lambda world, made: made | {3: world.identities[2].sign(b"anything")},
        lambda world, made: made | {3: world.identities[3].sign(b"another statement")},
        lambda world, made: made | {3: world.roles[3]._advertised[m.KEYS :]},  # its signature of its keys
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
    made = {i: role.step(m.CONSISTENCY)[0].body[wire.TAG : -wire.DIGEST] for i, role in enumerate(world.roles)}
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
    made = {i: role.step(m.CONSISTENCY)[0].body[wire.TAG : -wire.DIGEST] for i, role in enumerate(world.roles[:7])}
    with pytest.raises(UnexpectedMessage):
        world.say(0, m.SIGNATURES, passed(made | {7: made[6]}, [0, 1, 2, 3, 4, 5, 7]))


def test_no_share_without_signatures() -> None:
    world = World(8, corrupt=0.1, dropout=0.1, **SIGNED)
    world.upload()
    world.say(0, m.SURVIVORS, wire.members([], 8))
    assert [message.stage for message in world.roles[0].step(m.CONSISTENCY)] == [m.CONSISTENCY]
    with pytest.raises(UnexpectedMessage):
        world.roles[0].step(m.UNMASK)


def test_a_server_refuses_a_false_signature() -> None:
    world = World(8, corrupt=0.1, dropout=0.1, **SIGNED)
    world.upload()
    for message in world.server.step(m.SURVIVORS):
        world.role(message.recipient).receive(message)
    with pytest.raises(AuthenticationFailed):
        world.server.receive(world.roles[0].send(SERVER, m.CONSISTENCY, bytes(signing.SIGNATURE)))


# --- other keys -------------------------------------------------------------------------------------------------------


def rosters(world: World) -> dict[int, bytes]:
    """What clients advertise."""
    return {i: role.step(m.ADVERTISE)[0].body[wire.TAG : -wire.DIGEST] for i, role in enumerate(world.roles)}


def between(world: World, false: Mapping[int, Mapping[int, bytes]]) -> dict[int, Any]:
    """The server shows each client its own keys, and in the places of the others what ``false`` says."""
    advertised = rosters(world)
    for i in world.honest:
        shown = m.FullRoster.of(world.agreed, advertised | dict(false.get(i, {})))
        world.say(i, m.ROSTER, shown.encode(i))
    return advertised


def test_substituted_keys_lay_every_share_open_without_signatures() -> None:
    """The server shows client 0 keys of its own for all others: it opens the envelopes meant for them, and so holds all
    shares of client 0's mask key and seed before a vector is sent. With signatures client 0 sends nothing.
    """
    own = {i: (agreement.KeyPair(), agreement.KeyPair()) for i in range(1, 6)}
    false = {i: pair[0].public + pair[1].public for i, pair in own.items()}
    world = World(6, corrupt=0.1, dropout=0.1)
    between(world, {0: false})
    victim = world.roles[0]
    secret, seed = victim._mask_key.secret(), victim._seed
    body = victim.step(m.SHARE)[0].body[wire.TAG + agreement.KEY : -wire.DIGEST]
    roster, rows = victim._roster, []
    for place, i in enumerate(own):
        context = roster.envelope_context(0, i)
        key = agreement.derive(own[i][0].agree(roster.envelope_key(0)), salt=roster.transcript, info=context)
        sealed = body[m.ENVELOPE * place : m.ENVELOPE * (place + 1)]
        rows.append(m.envelope.unseal(key, sealed, context))
    t = world.agreed.parameters.threshold
    shares = shamir.unpack(b"".join(rows[:t]), m.LIMBS).reshape(t, -1)
    opened = shamir.combine([i + 1 for i in list(own)[:t]], shares)
    assert shamir.from_limbs(opened) == secret + seed

    world = World(6, corrupt=0.1, dropout=0.1, **SIGNED)
    with pytest.raises(AuthenticationFailed):
        between(world, {0: {i: keys + bytes(signing.SIGNATURE) for i, keys in false.items()}})
    with pytest.raises(UnexpectedMessage):
        world.roles[0].step(m.SHARE)


@pytest.mark.parametrize("signer", ["a corrupt client", "itself, in another attempt", "itself, as another position"])
def test_a_signature_of_keys_belongs_to_client_session_and_position(signer: str) -> None:
    world = World(6, corrupt=0.1, dropout=0.1, **SIGNED)
    keys = agreement.KeyPair().public + agreement.KeyPair().public
    if signer == "a corrupt client":
        false = keys + world.identities[5].sign(m.advertisement(world.agreed, 1, keys))
    elif signer == "itself, in another attempt":
        other = replace(world.agreed, transcript=bytes(32))
        false = keys + world.identities[1].sign(m.advertisement(other, 1, keys))
    else:
        false = keys + world.identities[1].sign(m.advertisement(world.agreed, 2, keys))
    with pytest.raises(AuthenticationFailed):
        between(world, {0: {1: false}})
    with pytest.raises(AuthenticationFailed):  # the relay looks as well, and knows whose it is
        world.server.receive(world.roles[1].send(SERVER, m.ADVERTISE, false))


def test_identities_are_part_of_the_session() -> None:
    """A client that was given another registry does not speak with the others."""
    world, other = World(6, corrupt=0.1, dropout=0.1, **SIGNED), World(6, corrupt=0.1, dropout=0.1, **SIGNED)
    assert world.agreed.transcript != other.agreed.transcript
    (message,) = other.roles[0].step(m.ADVERTISE)
    with pytest.raises(ContextMismatch):
        world.server.receive(message)


# --- a threshold, a degree, a cohort that the server would like -------------------------------------------------------


def test_a_server_that_states_another_threshold_speaks_of_another_session() -> None:
    """A weakened variant that took t = 2 from the server would give two answers' worth; here parameters are the
    client's own, and covered by T0.
    """
    for change in ({"threshold": 2}, {"least": 2}, {"min_cohort": 2}, {"degree": 2}, {"graph": "regular", "degree": 4}):
        world = World(6, corrupt=0.1, dropout=0.1, **SIGNED)
        low = replace(world.agreed.parameters, **change)
        session = Session(round=0, attempt=0, participants=tuple(range(6)), context=b"model")
        liar = m.Agreed.on(world.agreed.terms, world.agreed.ring, low, session, world.agreed.identities)
        assert liar.transcript != world.agreed.transcript
        world.roles[0].step(m.ADVERTISE)
        with pytest.raises(ContextMismatch):
            world.roles[0].receive(SignedServer(liar).send(client(0), m.ROSTER, b""))


def test_a_low_threshold_lets_few_clients_open_a_secret() -> None:
    """The weakened variant: with t = 2 and two corrupt clients the adversary opens everything without an answer."""
    world = World(10, corrupt=0.2, dropout=0.3, threshold=2)
    world.upload()
    world.honest, target = [], 3  # it needs no answer
    found = world.sum_of([target])
    assert found is not None
    assert found.tolist() == world.truth([target])
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
