"""What every role has in common: its turn comes once, each message is heard once, inputs are checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.aggregation.protocol import Session, Terms
from fedpriv.crypto import wire
from fedpriv.encoding import Integers, require_finite
from fedpriv.errors import CohortTooSmall, EncodingError, EncodingOverflow, UnexpectedMessage
from fedpriv.network import Message
from fedpriv.threat import Party


@dataclass(frozen=True)
class Act:
    """A stage in which the role acts."""

    stage: str
    do: Callable[[], list[Message]]


@dataclass(frozen=True)
class Hear:
    """Messages of one stage, at most one from each sender, taken in until the role's next act."""

    stage: str
    senders: frozenset[Party]
    take: Callable[[Party, memoryview], None]


Script: TypeAlias = Sequence[Act | Hear]


class Movable:
    """A role that can be moved to another process until something has happened to it: there it is made anew.

    Pickling gives the constructor's arguments, never keys or inputs: what an attempt makes secret is made after the
    move and stays where it was made.
    """

    _made: tuple[Any, ...]

    def __new__(cls, *made: Any) -> Self:
        role = super().__new__(cls)
        role._made = made
        return role

    @property
    def begun(self) -> bool:
        """Whether the role has acted, heard something or taken an input."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[object, ...]:
        if self.begun:
            raise TypeError("A role that has begun is not copied, pickled or sent.")
        return type(self), self._made


class ScriptedRole(Movable):
    """A role that follows a script: acts in turn, hears each expected message once, refuses everything else.

    Args:
        party: whose role.
        transcript: a hash of all that the parties of this attempt must agree on; every message is bound to it.
    """

    def __init__(self, party: Party, transcript: bytes) -> None:
        self.party = party
        self._transcript = transcript
        self._script: Script = ()
        self._at = 0
        self._heard: set[Party] = set()
        self._over = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.party}>"

    @property
    def begun(self) -> bool:
        inputs = (value for value in vars(self).values() if isinstance(value, OneInput))
        return bool(self._at or self._heard or self._over) or any(entry.taken for entry in inputs)

    def follow(self, *script: Act | Hear) -> None:
        """Set the script; at construction."""
        self._script = script

    def receive(self, message: Message) -> None:
        """Take in one message.

        Raises:
            UnexpectedMessage: a duplicate, a wrong stage, a wrong sender or recipient, or the role is over.
            ContextMismatch: it was made for another session.
            MalformedMessage: damaged, or bytes that no honest party sends.
        """
        turn = self._script[self._at] if self._at < len(self._script) else None
        if self._over or not isinstance(turn, Hear) or turn.stage != message.stage or message.recipient != self.party:
            raise self._refuse("A message arrives in its stage, at its recipient.", message)
        if message.sender not in turn.senders:
            raise self._refuse("A message comes from a party that speaks in its stage.", message)
        if message.sender in self._heard:
            raise self._refuse("A party speaks once in a stage.", message)
        try:
            payload = wire.unframe(self._tag(message.stage, message.sender, message.recipient), message.body)
            turn.take(message.sender, payload)
        except BaseException:
            self._end()
            raise
        self._heard.add(message.sender)

    def step(self, stage: str) -> list[Message]:
        """Act in a stage.

        Raises:
            UnexpectedMessage: not this role's next stage, or the role is over.
        """
        position = self._at
        if position < len(self._script) and isinstance(self._script[position], Hear):
            position += 1
        turn = self._script[position] if position < len(self._script) else None
        if self._over or not isinstance(turn, Act) or turn.stage != stage:
            self._end()
            raise UnexpectedMessage(
                "A role acts once in each of its stages, in order.",
                value=(self.party, stage),
                remedy="Start a new attempt; one is never resumed.",
            )
        try:
            messages = turn.do()
        except BaseException:
            self._end()
            raise
        self._at = position + 1
        self._heard = set()
        return messages

    def send(self, recipient: Party, stage: str, payload: bytes) -> Message:
        """A message bound to this session, stage and pair."""
        return Message(self.party, recipient, stage, wire.frame(self._tag(stage, self.party, recipient), payload))

    def _tag(self, stage: str, sender: Party, recipient: Party) -> bytes:
        return wire.digest(self._transcript, stage.encode(), sender.encode(), recipient.encode())[: wire.TAG]

    def forget(self) -> None:
        """Drop what is secret; called when the role is over. Python cannot promise that the memory is wiped."""

    def _end(self) -> None:
        self._over = True
        self.forget()

    def _refuse(self, rule: str, message: Message) -> UnexpectedMessage:
        self._end()
        found = (message.sender, message.recipient, message.stage)  # an error is kept: not the message's body
        return UnexpectedMessage(rule, value=found, remedy="Start a new attempt; one is never resumed.")


class OneInput:
    """The one vector a client puts in."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._vector: Integers | None = None
        self._taken = False

    @property
    def taken(self) -> bool:
        """Whether a vector was put in."""
        return self._taken

    def put(self, vector: Integers) -> None:
        """Take a copy of ``[length] int64``.

        Raises:
            UnexpectedMessage: a second vector.
            EncodingError: a wrong type or shape (NonFiniteInput for NaN or infinity).
            EncodingOverflow: a coordinate beyond the terms' bound.
        """
        if self._taken:
            raise UnexpectedMessage(
                "A role takes exactly one input.", remedy="Concatenate all vectors of a round; start a new attempt."
            )
        self._vector = checked_input(vector, self._terms).copy()
        self._taken = True

    def drop(self) -> None:
        """Forget the vector, and take no other."""
        self._vector, self._taken = None, True

    def take(self) -> Integers:
        """The vector; the reference is dropped.

        Raises:
            UnexpectedMessage: nothing was put in.
        """
        if self._vector is None:
            raise UnexpectedMessage("A client uploads after it was given its vector.", remedy="Call submit first.")
        vector, self._vector = self._vector, None
        return vector


def checked_input(vector: npt.ArrayLike, terms: Terms) -> Integers:
    """The vector itself, if the terms allow it.

    Raises:
        EncodingError: not ``[terms.length] int64`` (NonFiniteInput for NaN or infinity).
        EncodingOverflow: a coordinate beyond ``terms.input_bound``.
    """
    array: npt.NDArray[Any] = np.asarray(vector)
    if np.issubdtype(array.dtype, np.floating):
        require_finite(array)
    if array.dtype != np.int64 or array.shape != (terms.length,):
        raise EncodingError(
            f"An input is an int64 vector of length {terms.length}.",
            value=f"{array.dtype} of shape {array.shape}",
            remedy="Encode it with the plan's codec.",
        )
    bound = terms.input_bound
    if array.size and (int(array.max()) > bound or int(array.min()) < -bound):
        raise EncodingOverflow(
            f"No coordinate of an input exceeds {bound} in absolute value.",
            remedy="Clip and encode with the plan's codec; the terms' bound covers value, weight and noise.",
        )
    return array


class Attempts:
    """Remembers which attempts were used, for a deployment."""

    def __init__(self, cohort: int) -> None:
        self._cohort = cohort
        self._used: set[tuple[int, int]] = set()

    def open(self, session: Session) -> None:
        """Begin an attempt.

        Raises:
            UnexpectedMessage: its number was used before.
            CohortTooSmall, UnexpectedMessage: see :func:`checked_participants`.
        """
        if (session.round, session.attempt) in self._used:
            raise UnexpectedMessage(
                "An attempt is never resumed or retried under the same number.",
                value=(session.round, session.attempt),
                remedy="Use the next attempt number.",
            )
        self._used.add((session.round, session.attempt))
        checked_participants(session, self._cohort)


def checked_participants(session: Session, cohort: int) -> None:
    """Raises CohortTooSmall for nobody, UnexpectedMessage unless sorted, distinct and at most ``cohort`` indices."""
    indices = session.participants
    if not indices:
        raise CohortTooSmall("A round needs participants.", value=0, remedy="Sample more clients.")
    if len(indices) > cohort or indices[0] < 0 or indices[-1] >= 2**32 or any(a >= b for a, b in pairwise(indices)):
        raise UnexpectedMessage(
            f"Participants are at most {cohort} distinct client indices in increasing order.",
            value=len(indices),
            remedy="Sort them; the terms' cohort is the largest a round can have.",
        )


def session_hash(protocol: str, terms: Terms, session: Session, *configuration: bytes) -> bytes:
    """T0: what all parties of an attempt agree on before the first message. 32 bytes.

    It covers the protocol, its configuration, the terms, round, attempt, participants and the context.
    """
    return wire.digest(
        b"fedpriv/session/v1",
        protocol.encode(),
        repr((terms.length, terms.input_bound, terms.cohort, terms.domain)).encode(),
        repr((session.round, session.attempt)).encode(),
        b"".join(wire.u32(index) for index in session.participants),
        session.context,
        *configuration,
    )
