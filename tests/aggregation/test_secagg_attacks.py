"""What an adversary could try within and just beyond the model; each attempt ends with its own typed error.

:mod:`secagg_by_hand` plays the attempts. What a server can do with the roster is in ``test_secagg_rosters.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_by_hand import BITMAP, EVERYBODY, LENGTH, Attempt, N, agreed_on, changing, flipped, replaced

from fedpriv.aggregation.secagg import Client
from fedpriv.aggregation.secagg import messages as m
from fedpriv.crypto import agreement, envelope, shamir, wire
from fedpriv.errors import (
    AuthenticationFailed,
    FedprivError,
    InvalidShare,
    MalformedMessage,
    RoundAborted,
    TooFewSurvivors,
    UnexpectedMessage,
)
from fedpriv.network import Message
from fedpriv.threat import SERVER, client

MODES: dict[str, dict[str, Any]] = {
    "complete": {"n": 6},
    "malicious": {"n": 6, "adversary": "malicious"},
    "regular": {"n": 12, "graph": "regular", "corrupt": 0.0, "dropout": 0.1},
}


@pytest.mark.parametrize("stage", [m.ADVERTISE, m.SHARE, m.MASKED, m.CONSISTENCY, m.UNMASK])
@pytest.mark.parametrize("mode", MODES)
def test_an_attempt_that_nobody_attacks(mode: str, stage: str) -> None:
    """Also with a client that is missing before share-keys: it is in no list, and nobody waits for it."""
    agreed = agreed_on(**MODES[mode])
    everybody = range(agreed.invited)
    after = stage in (m.UNMASK, m.CONSISTENCY)
    attempt = Attempt(agreed, lost={2: stage})
    total = attempt.play()
    there = tuple(everybody) if after or stage not in {s.name for s in m.SIGNED_STAGES} else tuple({*everybody} - {2})
    assert attempt.server.result().contributors == there
    assert total.tolist() == attempt.truth(there)


class Overlooking(Client):
    """The weakened variant: it takes everybody of U1 to have shared keys, and masks with them."""

    def _collect(self, payload: memoryview) -> None:
        super()._collect(payload)
        self._sharers = self._roster.members


def test_a_client_missing_before_share_keys_ruins_the_sum_of_a_variant_that_overlooks_it() -> None:
    attempt = Attempt(agreed_on(length=64), make=Overlooking, lost={2: m.SHARE})
    assert attempt.play().tolist() != attempt.truth([0, 1, 3, 4, 5])


# --- shares and envelopes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", range(N))
def test_a_changed_share_opens_nothing(member: int) -> None:
    """Of a seed (the living) or of a mask key (client 2 is lost), by a client among the first t that answer."""
    change = flipped(member * m.SHARE_BYTES)
    Attempt(carry=changing(m.UNMASK, 0, change), lost={2: m.MASKED}).refused(InvalidShare)


@pytest.mark.parametrize("sender", [0, 5])
def test_a_share_outside_the_field_is_malformed(sender: int) -> None:
    """Also where it is not needed: of six answers the first four open the secrets."""
    outside = shamir.pack(np.full((1, m.LIMBS), 131071)).tobytes()
    Attempt(carry=changing(m.UNMASK, sender, replaced(0, outside))).refused(MalformedMessage)


def test_shares_of_the_wrong_kind_open_nothing() -> None:
    """A client that answers for the dead as for the living gives shares of another secret."""
    attempt = Attempt(lost={2: m.MASKED})
    attempt.clients[0]._mourn = lambda payload: None  # never hears who is dead
    attempt.refused(InvalidShare)
    assert not attempt.server._answers  # an honest server keeps no shares, and no vector that is unmasked in part
    assert not attempt.server._vector.size


@pytest.mark.parametrize("place", [agreement.KEY, agreement.KEY + 20, agreement.KEY + m.ENVELOPE - 1])
def test_a_changed_envelope_is_not_opened(place: int) -> None:
    Attempt(carry=changing(m.SHARE, 0, flipped(place))).refused(AuthenticationFailed, silent=[1])


def test_a_sealed_share_outside_the_field_is_refused_by_its_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that handed it on would be taken for the one that made it; so it sends nothing."""
    attempt, seal = Attempt(), envelope.seal
    liar = attempt.clients[1]
    share: Callable[[], list[Message]] = liar._share

    def lie() -> list[Message]:
        with monkeypatch.context() as patch:
            patch.setattr(envelope, "seal", lambda key, plain, context: seal(key, b"\xff" * len(plain), context))
            return share()

    liar.follow(*(replace(turn, do=lie) if turn.stage == m.SHARE else turn for turn in liar._script))
    attempt.refused(MalformedMessage, silent=EVERYBODY)


def test_exchanged_envelopes_are_not_opened() -> None:
    """The server delivers to client 0 another member's envelope in the place of the right one."""
    first, second = slice(BITMAP, BITMAP + m.ENVELOPE), slice(BITMAP + m.ENVELOPE, BITMAP + 2 * m.ENVELOPE)
    exchange = lambda payload: payload[:BITMAP] + payload[second] + payload[first] + payload[second.stop :]  # noqa: E731
    Attempt(carry=changing(m.ROUTE, 0, exchange)).refused(AuthenticationFailed, silent=EVERYBODY)


def test_a_changed_commitment_is_noticed() -> None:
    Attempt(carry=changing(m.SHARE, 0, flipped(0))).refused(InvalidShare)


# --- the dead ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dead", "error"),
    [
        ([0], UnexpectedMessage),  # the client itself
        ([1, 2, 3], TooFewSurvivors),  # fewer than the threshold alive
        ([5], UnexpectedMessage),  # client 5 never shared its keys: not in U2
    ],
)
def test_dead_lists_that_no_honest_server_sends(dead: list[int], error: type[FedprivError]) -> None:
    carry = changing(m.SURVIVORS, 0, lambda payload: wire.members(dead, N))
    Attempt(carry=carry, lost={5: m.SHARE}).refused(error)


def test_nobody_is_asked_for_both_secrets_of_a_client() -> None:
    """The server names the dead only, once; who is not among them is alive."""
    attempt = Attempt()
    attempt.play()
    role = attempt.clients[0]
    with pytest.raises(UnexpectedMessage):
        role.receive(attempt.sent[m.SURVIVORS, SERVER, client(0)])
    with pytest.raises(UnexpectedMessage):
        role.step(m.UNMASK)
    answers = [message for (stage, *_), message in attempt.sent.items() if stage == m.UNMASK]
    assert {len(message.body) for message in answers} == {wire.FRAME + N * m.SHARE_BYTES}


def test_a_client_that_left_does_not_come_back() -> None:
    attempt = Attempt(lost={5: m.SHARE})

    def come_back(payload: bytes) -> bytes:
        absent = Client(attempt.agreed, 5)
        attempt.server.receive(absent.send(SERVER, m.MASKED, bytes(attempt.agreed.vector_bytes)))
        return payload

    attempt.carry = changing(m.MASKED, 0, come_back)
    attempt.refused(UnexpectedMessage)


def test_an_input_out_of_range_moves_the_sum_by_itself_only() -> None:
    """A malicious client is not kept from it: the sum is then its vector plus the others', mod 2^b."""
    attempt = Attempt()
    attempt.clients[0]._input.put = lambda vector: None
    attempt.clients[0]._input.take = lambda: np.full(LENGTH, 10**6)
    half = 2 ** (attempt.agreed.ring.bits - 1)
    expected = (10**6 + attempt.inputs[1:].sum(axis=0) + half) % (2 * half) - half
    assert attempt.play().tolist() == expected.tolist()


# --- decoders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=100)
@given(st.sampled_from([stage.name for stage in m.SIGNED_STAGES if stage.name != m.RECONSTRUCT]), st.data())
def test_decoders_survive_any_payload(mode: str, stage: str, data: st.DataObject) -> None:
    """A soundly framed payload of any bytes ends the attempt with an abort, or is a message like any other."""

    def change(payload: bytes) -> bytes:
        how = data.draw(st.sampled_from(["any", "cut", "longer", "spliced"]))
        if how == "any":
            return data.draw(st.binary(max_size=300))
        if how == "cut":
            return payload[: data.draw(st.integers(0, len(payload)))]
        if how == "longer":
            return payload + data.draw(st.binary(min_size=1, max_size=100))
        start = data.draw(st.integers(0, len(payload) - 1))
        new = data.draw(st.binary(min_size=1, max_size=40))
        return replaced(start, new)(payload)[: len(payload)]

    with contextlib.suppress(RoundAborted):
        Attempt(agreed_on(**MODES[mode]), carry=changing(stage, 0, change), lost={4: m.MASKED}).play()
