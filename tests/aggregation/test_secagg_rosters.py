"""A server that shows a client other keys, other members or another model than there are: it gets no masked vector."""

from __future__ import annotations

from dataclasses import replace

import pytest
from secagg_by_hand import BITMAP, EVERYBODY, Attempt, N, agreed_on, changing, replaced

from fedpriv.aggregation.secagg import Client, Server
from fedpriv.aggregation.secagg import messages as m
from fedpriv.crypto import agreement, wire
from fedpriv.errors import (
    AuthenticationFailed,
    CohortTooSmall,
    ContextMismatch,
    MalformedMessage,
    TooFewSurvivors,
    UnexpectedMessage,
)
from fedpriv.threat import client


def test_a_client_whose_key_was_exchanged_notices_it() -> None:
    Attempt(carry=changing(m.ADVERTISE, 3, replaced(0, agreement.KeyPair().public))).refused(ContextMismatch)


def test_a_client_that_was_shown_another_roster_uploads_nothing() -> None:
    """Only client 0 sees another mask key for client 3; every envelope between it and the others is bound to T1."""
    place = BITMAP + 3 * m.KEYS + agreement.KEY
    carry = changing(m.ROSTER, 0, replaced(place, agreement.KeyPair().public))
    Attempt(carry=carry).refused(AuthenticationFailed, silent=EVERYBODY)


@pytest.mark.parametrize("half", [0, agreement.KEY])
def test_a_roster_that_names_a_key_twice_is_refused(half: int) -> None:
    """Figure 4, round 1: all public keys are different."""

    def twice(payload: bytes) -> bytes:
        one, other = BITMAP + 4 * m.KEYS + half, BITMAP + 3 * m.KEYS
        return replaced(one, payload[other : other + agreement.KEY])(payload)

    Attempt(carry=changing(m.ROSTER, 0, twice)).refused(MalformedMessage, match="different")


@pytest.mark.parametrize("half", [0, agreement.KEY])
def test_a_key_in_another_encoding_is_refused(half: int) -> None:
    """X25519 ignores the top bit, so that one client's key could pass as a different one of another's."""

    def twin(payload: bytes) -> bytes:
        key = payload[BITMAP + 3 * m.KEYS :][: agreement.KEY]
        return replaced(BITMAP + 4 * m.KEYS + half, key[:-1] + bytes([key[-1] | 0x80]))(payload)

    Attempt(carry=changing(m.ROSTER, 0, twin)).refused(MalformedMessage, match="different")


def test_a_key_of_small_order_is_refused() -> None:
    Attempt(carry=changing(m.ROSTER, 0, replaced(BITMAP + 3 * m.KEYS, bytes(agreement.KEY)))).refused(MalformedMessage)


def test_a_roster_without_oneself_is_refused() -> None:
    without = lambda payload: wire.members([1, 2, 3, 4, 5], N) + payload[BITMAP + m.KEYS :]  # noqa: E731
    Attempt(carry=changing(m.ROSTER, 0, without)).refused(ContextMismatch)


def test_routed_shares_without_oneself_are_refused() -> None:
    others = lambda payload: wire.members([1, 2, 3, 4, 5], N) + payload[BITMAP:]  # noqa: E731
    Attempt(carry=changing(m.ROUTE, 0, others)).refused(UnexpectedMessage)


def test_the_threshold_is_the_clients_own() -> None:
    """n = 6, c = f = 1: t = 4. A server that shows a roster of 3, or drops half of it later, gets nothing."""
    assert agreed_on().parameters.threshold == 4
    few = lambda payload: wire.members([0, 1, 2], N) + payload[BITMAP : BITMAP + 3 * m.KEYS]  # noqa: E731
    Attempt(carry=changing(m.ROSTER, 0, few)).refused(TooFewSurvivors)
    fewer = lambda payload: wire.members([0, 1, 2], N) + payload[BITMAP : BITMAP + 2 * m.ENVELOPE]  # noqa: E731
    Attempt(carry=changing(m.ROUTE, 0, fewer)).refused(TooFewSurvivors, silent=EVERYBODY)


def test_the_least_cohort_is_the_clients_own() -> None:
    agreed = agreed_on(n=10, min_cohort=9)
    size = wire.packed_size(10, 1)
    few = lambda payload: wire.members(range(8), 10) + payload[size : size + 8 * m.KEYS]  # noqa: E731
    Attempt(agreed, carry=changing(m.ROSTER, 0, few)).refused(CohortTooSmall)


class TwoFaced(Server):
    """Speaks to one client as if it had been sent the same model as the others: tags are made for each side."""

    def __init__(self, agreed: m.Agreed, misled: str, transcript: bytes) -> None:
        super().__init__(agreed)
        self.misled, self.transcript = misled, transcript

    def _tag(self, stage: str, sender: str, recipient: str) -> bytes:
        honest = self._transcript
        if self.misled in (sender, recipient):
            self._transcript = self.transcript
        try:
            return super()._tag(stage, sender, recipient)
        finally:
            self._transcript = honest


def test_an_inconsistent_model_gets_no_masked_vector() -> None:
    """Pasquini et al. 2022: a server sends one client another model, and relays everything without a fault."""
    here, there = agreed_on(), agreed_on(context=b"another model")

    def make(agreed: m.Agreed, i: int) -> Client:
        return Client(there if i == 0 else agreed, i)

    def relay(agreed: m.Agreed) -> TwoFaced:
        return TwoFaced(agreed, client(0), there.transcript)

    Attempt(here, make=make).refused(ContextMismatch)  # an honest relay notices at the first message
    # A lying relay does not help: envelopes are bound to T0.
    Attempt(here, make=make, server=relay).refused(AuthenticationFailed, silent=EVERYBODY)


def test_an_inconsistent_model_goes_unnoticed_without_a_context() -> None:
    """The weakened variant: T0 leaves the context out, and the sum of updates of two models comes out."""
    here, there = agreed_on(), agreed_on(context=b"another model")
    attempt = Attempt(here)
    attempt.clients[0] = Client(replace(there, transcript=here.transcript), 0)
    assert attempt.play().tolist() == attempt.truth(EVERYBODY)
