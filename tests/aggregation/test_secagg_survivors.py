"""A server that lies about who is alive, with some clients on its side. Each attack recovers what it is after from a
weakened variant, and ends with its own typed error against the protocol as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from secagg_by_hand import SIGNED, inside, opened
from secagg_world import World

from fedpriv.aggregation import SecureAggregation, Session
from fedpriv.aggregation.secagg import Client
from fedpriv.aggregation.secagg import messages as m
from fedpriv.crypto import shamir, wire
from fedpriv.errors import MalformedMessage, TooFewSurvivors, UnexpectedMessage
from fedpriv.network import Message
from fedpriv.threat import SERVER, client

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
        return [self.send(SERVER, m.UNMASK, inside(message) + seeds)]


def test_a_client_named_alive_and_dead_is_laid_open_by_two_lists() -> None:
    """And here the second list is refused; nothing is revealed."""
    n, target = 7, 2
    lists = wire.members([target], n) + wire.members(range(n), n)
    world = World(n, corrupt=0.1, dropout=0.1, make=TwoLists)
    world.upload()
    answers = {}
    for i in world.honest:
        world.say(i, m.SURVIVORS, lists)
        answers[i] = inside(world.clients[i].step(m.UNMASK)[0])
    chosen = world.honest[: world.agreed.parameters.threshold]

    def open_at(start: int) -> bytes:
        shares = b"".join(answers[i][start : start + m.SHARE_BYTES] for i in chosen)
        return opened(chosen, shamir.unpack(shares, m.LIMBS))

    key, seed = open_at(target * m.SHARE_BYTES), open_at(n * m.SHARE_BYTES)
    assert world.unmasked([target], {target: key}, {target: seed}) == world.truth([target])

    for arguments in ({}, SIGNED):
        world = World(n, corrupt=0.1, dropout=0.1, **arguments)
        world.upload()
        with pytest.raises(MalformedMessage):
            world.say(0, m.SURVIVORS, lists)
        with pytest.raises(UnexpectedMessage):
            world.clients[0].step(m.CONSISTENCY if arguments else m.UNMASK)


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
    assert world.sum_of(targets) == world.truth(targets)

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
        assert world.sum_of([target]) == world.truth([target])
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
    assert weak.sum_of(pair, among=few) == weak.truth(pair)
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
    keys, seeds = world.secrets()
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
    assert world.sum_of(range(10)) == world.truth(range(10))
