"""What every role refuses, whatever its protocol; and what a session's hash covers."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedpriv.aggregation import Session, Sum, Terms
from fedpriv.aggregation.roles import Act, Attempts, Hear, OneInput, ScriptedRole, checked_participants, session_hash
from fedpriv.encoding import Ring
from fedpriv.errors import CohortTooSmall, EncodingError, EncodingOverflow, UnexpectedMessage
from fedpriv.network import Message
from fedpriv.threat import SERVER, client

TERMS = Terms(length=3, input_bound=10, cohort=5, domain=Ring(8))
SESSION = Session(round=1, attempt=2, participants=(1, 2, 5), context=b"context")


class Listener(ScriptedRole):
    """Hears one stage, then acts, then hears another."""

    def __init__(self, party: str) -> None:
        super().__init__(party, b"transcript")
        self.taken: list[bytes] = []
        self.follow(
            Hear("first", frozenset({client(1), client(2)}), lambda _, payload: self.taken.append(bytes(payload))),
            Act("speak", lambda: [self.send(SERVER, "speak", b"hello")]),
            Hear("second", frozenset({client(1)}), lambda _, payload: self.taken.append(bytes(payload))),
        )


def message(sender: str, recipient: str, stage: str) -> Message:
    """Sound, and made with knowledge of the transcript."""
    return ScriptedRole(sender, b"transcript").send(recipient, stage, b"payload")


def test_a_script_is_followed() -> None:
    role = Listener(SERVER)
    role.receive(message(client(2), SERVER, "first"))
    role.receive(message(client(1), SERVER, "first"))
    assert role.step("speak")[0].stage == "speak"
    role.receive(message(client(1), SERVER, "second"))
    assert role.taken == [b"payload"] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        message(client(3), SERVER, "first"),  # a stranger who knows the transcript
        message(client(1), client(2), "first"),  # for somebody else
        message(client(1), SERVER, "second"),  # too early
        message(client(1), SERVER, "never"),
    ],
    ids=["stranger", "another recipient", "early", "unknown"],
)
def test_what_is_not_in_the_script_is_refused(wrong: Message) -> None:
    role = Listener(SERVER)
    with pytest.raises(UnexpectedMessage):
        role.receive(wrong)
    with pytest.raises(UnexpectedMessage):  # and the role is over
        role.step("speak")
    assert role.taken == []


def test_what_comes_too_late_is_refused() -> None:
    role = Listener(SERVER)
    role.step("speak")
    with pytest.raises(UnexpectedMessage):
        role.receive(message(client(1), SERVER, "first"))


@pytest.mark.parametrize(
    "change",
    [
        {"round": 2},
        {"attempt": 3},
        {"participants": (1, 2, 6)},
        {"participants": (1, 2)},
        {"context": b"another"},
    ],
)
def test_the_session_hash_covers_the_session(change: dict[str, Any]) -> None:
    assert session_hash("p", TERMS, SESSION) != session_hash("p", TERMS, replace(SESSION, **change))


@pytest.mark.parametrize("change", [{"length": 4}, {"input_bound": 11}, {"cohort": 6}, {"domain": Ring(9)}])
def test_the_session_hash_covers_the_terms(change: dict[str, Any]) -> None:
    assert session_hash("p", TERMS, SESSION) != session_hash("p", replace(TERMS, **change), SESSION)
    assert session_hash("p", TERMS, SESSION) != session_hash("q", TERMS, SESSION)
    assert session_hash("p", TERMS, SESSION) != session_hash("p", TERMS, SESSION, b"configuration")
    assert session_hash("p", TERMS, SESSION) == session_hash("p", TERMS, SESSION)


@pytest.mark.parametrize("participants", [(2, 1), (1, 1), (-1, 2), (1, 2, 3, 4, 5, 6), (1, 2**32)])
def test_participants_are_distinct_sorted_and_not_too_many(participants: tuple[int, ...]) -> None:
    with pytest.raises(UnexpectedMessage):
        checked_participants(replace(SESSION, participants=participants), 5)


def test_nobody_is_too_few() -> None:
    with pytest.raises(CohortTooSmall):
        checked_participants(replace(SESSION, participants=()), 5)


def test_an_attempt_number_is_used_once_even_where_it_was_refused() -> None:
    attempts = Attempts(5)
    with pytest.raises(CohortTooSmall):
        attempts.open(replace(SESSION, participants=()))
    with pytest.raises(UnexpectedMessage):
        attempts.open(SESSION)
    attempts.open(replace(SESSION, attempt=3))
    attempts.open(replace(SESSION, round=2))


def test_one_input() -> None:
    held = OneInput(replace(TERMS, input_bound=15))
    with pytest.raises(UnexpectedMessage):
        held.take()
    with pytest.raises(EncodingError):
        held.put(np.zeros(3, dtype=np.int32))
    with pytest.raises(EncodingOverflow):
        held.put(np.array([0, 0, 16]))
    vector = np.array([15, -15, 0])
    held.put(vector)  # a refused vector was not an input
    vector[:] = 99
    assert held.take().tolist() == [15, -15, 0]
    with pytest.raises(UnexpectedMessage):
        held.put(np.zeros(3, dtype=np.int64))


def test_a_refusal_names_the_message_and_not_its_body() -> None:
    """Of the plain sum the body is an update; errors are kept, pickled and sent."""
    with pytest.raises(UnexpectedMessage) as refusal:
        Listener(SERVER).receive(Message("client/1", "server", "nonsense", b"12345"))
    assert "client/1" in str(refusal.value)
    assert b"12345" not in pickle.dumps(refusal.value)


def test_a_sum_is_not_shown() -> None:
    """Under a key authority it is the authority's secret."""
    assert "12345" not in repr(Sum(total=np.array([12345]), contributors=(1,)))
