"""Each attack here succeeds against a variant from which one guard is taken away, and fails, with its own typed error,
against the roles as they are. Where two guards overlap the variant has lost both, and a comment says so.

:mod:`secagg_by_hand` plays the attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from secagg_by_hand import Attempt, Carry, Make, N, agreed_on, changing, flipped, inside, opened, reframed

from fedpriv.aggregation.secagg import Client, Server
from fedpriv.aggregation.secagg import messages as m
from fedpriv.aggregation.secagg.reach import Regular
from fedpriv.crypto import agreement, envelope, prg, shamir, wire
from fedpriv.errors import (
    AuthenticationFailed,
    CohortTooSmall,
    ContextMismatch,
    FedprivError,
    InvalidShare,
    MalformedMessage,
    TooFewSurvivors,
    UnexpectedMessage,
)
from fedpriv.network import Message
from fedpriv.threat import SERVER, client

# --- tampered shares --------------------------------------------------------------------------------------------------


class Credulous(Server):
    """The weakened variant: whatever the shares reconstruct is taken for what was committed to, and advertised."""

    def _combined(self, points: Sequence[int], owners: Sequence[int], held: shamir.Field) -> dict[int, bytes]:
        rows = shamir.combine(points, held.reshape(len(points), -1)).reshape(-1, m.LIMBS)
        rows %= 1 << shamir.LIMB_BITS  # 2^16 is no limb of a secret, and is not refused, either
        return {owner: shamir.from_limbs(limbs) for owner, limbs in zip(owners, rows, strict=True)}

    def _self_masks(self, secrets: dict[int, bytes]) -> Any:
        self._commitments |= {i: self._roster.commitment(i, secrets[i]) for i in self._alive}
        return super()._self_masks(secrets)

    def _masks_of_the_dead(self, secrets: dict[int, bytes]) -> Any:
        rows = dict(self._roster.advertised)
        for dead in self._sharers.keys() - self._alive.keys():
            rows[dead] = self._roster.envelope_key(dead) + agreement.KeyPair(secrets[dead]).public
        self._roster = replace(self._roster, advertised=rows)  # T1 stays
        return super()._masks_of_the_dead(secrets)


@pytest.mark.parametrize("owner", [1, 2])  # of a seed; of a mask key, for client 2 is lost
def test_a_tampered_share(owner: int) -> None:
    living = [0, 1, 3, 4, 5]

    def change(payload: bytes) -> bytes:
        shares = shamir.unpack(payload, m.LIMBS)
        shares[owner] += 1
        return shamir.pack(shares % shamir.PRIME).tobytes()

    carry = changing(m.UNMASK, 0, change)
    weak = Attempt(server=Credulous, carry=carry, lost={2: m.MASKED})
    assert weak.play().tolist() != weak.truth(living)
    Attempt(carry=carry, lost={2: m.MASKED}).refused(InvalidShare)


def unauthenticated(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """AES-256-GCM without its tag: counter mode from 2 on (SP 800-38D, Section 7.2)."""
    nonce, sealed = sealed[: envelope.NONCE], sealed[envelope.NONCE : -16]
    return prg.keystream(key, nonce + (2).to_bytes(4, "big")).update(sealed)


def test_a_tampered_envelope(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit of the seed's share for client 1. Two guards overlap: a share that was changed under way is noticed again
    by who reconstructs with it. (With probability 2^-16 the limb leaves the field, and every variant refuses it.)
    """
    place = agreement.KEY + envelope.NONCE + m.SHARE_BYTES + m.SHARE_BYTES // 2
    carry = changing(m.SHARE, 0, flipped(place))
    Attempt(carry=carry).refused(AuthenticationFailed, silent=[1])
    monkeypatch.setattr(envelope, "unseal", unauthenticated)
    Attempt(carry=carry).refused(InvalidShare)
    weak = Attempt(server=Credulous, carry=carry)
    assert weak.play().tolist() != weak.truth(range(N))


# --- swapped shares ---------------------------------------------------------------------------------------------------


def unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened variant: neither associated data nor HKDF info (they are the same bytes, and either would do) say
    whose an envelope is and for whom.
    """
    monkeypatch.setattr(m.Roster, "envelope_context", lambda roster, sender, recipient: roster._heads["envelope"])


class Group(agreement.KeyPair):
    """An envelope key that all clients have."""

    __slots__ = ()

    def agree(self, public: bytes) -> bytes:
        return bytes(32)


class Grouped(Client):
    def _share(self) -> list[Message]:
        self._envelope_key = Group()
        return super()._share()


def test_shares_swapped_between_two_recipients(monkeypatch: pytest.MonkeyPatch) -> None:
    """What client 0 sealed for clients 1 and 2 changes places. Three guards overlap: the associated data, the pair's
    own key, and the check of what is reconstructed; each by itself is enough.
    """

    def swap(payload: bytes) -> bytes:
        first, size = agreement.KEY, m.ENVELOPE
        one, other = payload[first : first + size], payload[first + size : first + 2 * size]
        return payload[:first] + other + one + payload[first + 2 * size :]

    carry = changing(m.SHARE, 0, swap)
    for make in (Client, Grouped):  # the associated data, with a key for each pair and with the group's
        Attempt(make=make, server=Credulous, carry=carry).refused(AuthenticationFailed)
    unbound(monkeypatch)
    Attempt(server=Credulous, carry=carry).refused(AuthenticationFailed)  # the key
    Attempt(make=Grouped, carry=carry).refused(InvalidShare)  # the check
    weak = Attempt(make=Grouped, server=Credulous, carry=carry)
    assert weak.play().tolist() != weak.truth(range(N))


def test_shares_given_back_to_their_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gives client 0 its own envelopes back, as if from those they are for: a pair has one key. One answer,
    no one's but its own, then holds t shares of its mask key and t of its seed. n = 6, t = 3; clients 1 to 3 are named
    dead, as many as n − t; nobody is corrupt.
    """
    sealed: list[bytes] = []
    head = wire.packed_size(N, 1)

    def carry(message: Message) -> Iterable[Message]:
        if message.stage == m.SHARE and message.sender == client(0):
            sealed.append(inside(message)[agreement.KEY :])
        if message.stage == m.ROUTE and message.recipient == client(0):
            return [reframed(message, inside(message)[:head] + sealed.pop())]
        return [message]

    agreed = agreed_on(dropout=0.5)
    assert agreed.parameters.threshold == 3
    Attempt(agreed, carry=carry).refused(AuthenticationFailed, silent=[0])
    unbound(monkeypatch)
    weak = Attempt(agreed, carry=carry)
    weak.upload()
    dead, alive = [1, 2, 3], [0, 4, 5]
    weak.say(0, m.SURVIVORS, wire.members(dead, N))
    answer = shamir.unpack(inside(weak.clients[0].step(m.UNMASK)[0]), m.LIMBS)
    key, seed = opened(dead, answer[dead]), opened(alive, answer[alive])
    assert weak.unmasked([0], {0: key}, {0: seed}) == weak.truth([0])


# --- duplicates and replays -------------------------------------------------------------------------------------------


class Forgetful(Server):
    """The weakened variant: it does not remember who has spoken in a stage."""

    def receive(self, message: Message) -> None:
        self._heard.discard(message.sender)
        super().receive(message)


def test_a_masked_input_that_arrives_twice() -> None:
    def twice(message: Message) -> Iterable[Message]:
        return [message] * (2 if (message.stage, message.sender) == (m.MASKED, client(0)) else 1)

    weak = Attempt(server=Forgetful, carry=twice)
    total = weak.play()
    # Accepted, with client 0 counted twice, the second time with its masks:
    assert total.tolist() == weak.lifted(weak.truth(range(N)) + weak.masked(0).astype(np.int64))
    assert total.tolist() != weak.truth(range(N))
    Attempt(carry=twice).refused(UnexpectedMessage)


def anywhere(self: Any, stage: str, sender: str, recipient: str) -> bytes:
    """The weakened variant: a message is bound to its stage and pair, but to no session."""
    return wire.digest(stage.encode(), sender.encode(), recipient.encode())[: wire.TAG]


class BoundlessClient(Client):
    _tag = anywhere


class BoundlessServer(Server):
    _tag = anywhere


@pytest.mark.parametrize("number", [(0, 1), (1, 0)])
def test_a_masked_input_of_another_attempt_or_round(number: tuple[int, int]) -> None:
    def replayed(earlier: Attempt) -> Carry:
        earlier.play()
        which = (m.MASKED, client(0), SERVER)
        old = earlier.sent[which]
        return lambda new: [old if (new.stage, new.sender, new.recipient) == which else new]

    earlier = Attempt(make=BoundlessClient, server=BoundlessServer)
    carry = replayed(earlier)
    weak = Attempt(agreed_on(number=number), make=BoundlessClient, server=BoundlessServer, carry=carry)
    total = weak.play()
    # Accepted, with the stale vector in the place of the fresh one:
    stale = earlier.masked(0).astype(np.int64) - weak.masked(0).astype(np.int64)
    assert total.tolist() == weak.lifted(weak.truth(range(N)) + stale)
    assert total.tolist() != weak.truth(range(N))
    Attempt(agreed_on(number=number), carry=replayed(Attempt())).refused(ContextMismatch)


# --- a cohort, a degree that the server chooses -----------------------------------------------------------------------

SMALL: dict[str, Any] = {"threshold": 2, "least": 2, "min_cohort": 2}


@pytest.mark.parametrize(
    ("believed", "error"),
    [
        (("threshold", "least", "min_cohort"), None),
        (("threshold", "least"), CohortTooSmall),
        (("min_cohort",), TooFewSurvivors),
        ((), CohortTooSmall),
    ],
)
def test_a_cohort_of_colluders_and_one_victim(believed: Collection[str], error: type[FedprivError] | None) -> None:
    """n = 10, of whom clients 8 and 9 are the server's. It says that nobody advertised but these two and client 0. Two
    guards overlap, min_cohort and t: only a victim that lets both shrink with the roster, and does not derive them
    from the number of the invited, is laid open: its vector is the sum less the colluders'.
    """
    agreed, cohort = agreed_on(10, corrupt=0.2, min_cohort=4), [0, 8, 9]
    assert (agreed.parameters.threshold, agreed.parameters.min_cohort) == (7, 4)

    def low(names: Collection[str]) -> m.Agreed:
        return replace(agreed, parameters=replace(agreed.parameters, **{name: SMALL[name] for name in names}))

    attempt = Attempt(
        agreed,
        make=lambda agreed, i: Client(low(SMALL) if i in (8, 9) else low(believed), i),
        server=lambda agreed: Server(low(SMALL)),
        lost=dict.fromkeys(set(range(10)) - set(cohort), m.ADVERTISE),
    )
    if error is not None:
        attempt.refused(error, silent=[0])
        return
    assert (attempt.play() - attempt.inputs[8] - attempt.inputs[9]).tolist() == attempt.truth([0])


class Told(m.Agreed):
    """The weakened variant: who is whose neighbour is what the server says, here in two components."""

    alone = (0, 38, 39)

    def reach(self, members: bytes) -> Regular:
        parts = (self.alone, tuple(sorted(set(range(self.invited)) - set(self.alone))))
        return Regular({i: tuple(j for j in part if j != i) for part in parts for i in part})


def test_a_neighbourhood_of_colluders() -> None:
    """n = 40, k = 8, t = 3, of whom clients 38 and 39 are the server's; it gives client 0 these two for neighbours. Two
    guards overlap: a client computes its neighbours by itself, and it wants t of them, where two are fewer.
    """
    agreed = agreed_on(40, graph="regular", corrupt=0.05, dropout=0.1)
    assert (agreed.parameters.degree, agreed.parameters.threshold) == (8, 3)
    fields = {name: getattr(agreed, name) for name in m.Agreed.__dataclass_fields__}
    told, pair = Told(**fields), replace(agreed.parameters, threshold=2)
    chosen = replace(told, parameters=pair)  # T0 stays, as a server that lies would have it
    weak = Attempt(chosen)
    assert weak.play().tolist() == weak.truth(range(40))  # nobody notices anything

    weak = Attempt(chosen)
    weak.upload()
    held = b"".join(weak.clients[i]._shares[0][m.SHARE_BYTES :] for i in (38, 39))
    seed = opened([0, 1], shamir.unpack(held, m.LIMBS))
    keys = {i: weak.clients[i]._mask_key.secret() for i in (38, 39)}
    assert weak.unmasked([0], keys, {0: seed}, among=keys) == weak.truth([0])

    # A client reads its roster by the graph that it draws itself: keys of two are not those of its eight neighbours.
    own_degree, own_threshold = replace(agreed, parameters=pair), told
    for theirs, error in ((own_degree, MalformedMessage), (own_threshold, TooFewSurvivors), (agreed, MalformedMessage)):
        attempt = Attempt(chosen, make=lambda _, i, theirs=theirs: Client(theirs, i))  # type: ignore[misc]
        attempt.refused(error, silent=[0])


@pytest.mark.parametrize(
    ("make", "server"), [(Grouped, Credulous), (Client, Forgetful), (BoundlessClient, BoundlessServer)]
)
def test_the_weakened_variants_are_right_where_nobody_attacks(
    make: Make, server: Callable[[m.Agreed], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    unbound(monkeypatch)
    monkeypatch.setattr(envelope, "unseal", unauthenticated)
    attempt = Attempt(make=make, server=server, lost={2: m.MASKED})
    assert attempt.play().tolist() == attempt.truth([0, 1, 3, 4, 5])
