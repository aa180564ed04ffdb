"""The seam of aggregation: what a protocol for a sum is.

An :class:`Aggregator` is a frozen description that stands in a plan. It is deployed once for a run (:class:`Deployment`
owns identities and keys) and makes the roles of each round. A :class:`Role` is sans-IO: it takes bytes and gives bytes,
so that the same roles run in memory (:mod:`fedpriv.aggregation.performance`), in workers or over a socket. Inputs and
the sum are signed int64 vectors; how they travel (ring elements, ciphertexts, lanes) is the protocol's own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fedpriv.encoding import Domain, Integers
from fedpriv.network import Message, Schedule, Stage, StageCost
from fedpriv.threat import Party, ThreatModel, client


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the plan has settled about every sum of a run; public."""

    length: int
    """Coordinates of a client's vector."""
    input_bound: int
    """No coordinate of one client's vector, noise included, exceeds it in absolute value."""
    cohort: int
    """The largest number of participants a round can have."""
    domain: Domain
    """Where sums live; from :meth:`Aggregator.domain`."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """One attempt at one round's sum. An attempt is never resumed or retried under the same number."""

    round: int
    attempt: int
    participants: tuple[int, ...]
    """Sorted client indices."""
    context: bytes
    """A hash over every byte the server sent that influences the updates; roles that differ in it do not meet."""

    @property
    def parties(self) -> tuple[Party, ...]:
        """The participants' party names, in order."""
        return tuple(client(index) for index in self.participants)


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The result of one attempt, held by the releaser."""

    total: Integers = field(repr=False)
    """``[length] int64``: the exact sum of the contributors' vectors."""
    contributors: tuple[int, ...]
    """Sorted indices of the clients whose vectors are in the sum."""


class Role(Protocol):
    """One party's side of one attempt. A refused message or step raises a ProtocolError and ends the attempt."""

    def receive(self, message: Message) -> None:
        """Take in one message. Large vectors are folded in here, so that nothing of size n·d is kept."""
        ...

    def step(self, stage: str) -> list[Message]:
        """Act in a stage, once. A second call for the same stage is refused."""
        ...


@runtime_checkable
class ClientRole(Role, Protocol):
    """A client's role: it takes exactly one input vector, before the upload stage."""

    def submit(self, vector: Integers) -> None:
        """``[length] int64``, each coordinate within the terms' input bound. A second one is refused."""
        ...


@runtime_checkable
class Releaser(Role, Protocol):
    """The role of the party that ends up with the sum (``threat_model.releaser``)."""

    def result(self) -> Sum:
        """The exact sum, after the last stage."""
        ...


class Deployment(Protocol):
    """A protocol set up for a run: it owns what outlives a round (identities, keys, counters). Never checkpointed."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in order, each with who acts."""
        ...

    @property
    def key_bytes(self) -> int:
        """Bytes that every client is sent once, before its first round: a public key that outlives rounds, or none."""
        ...

    def round(self, session: Session) -> Mapping[Party, Role]:
        """Fresh roles for one attempt: every participant, and the protocol's other parties.

        Raises:
            RoundAborted: the attempt was used before, or the cohort is refused from the start.
        """
        ...

    def contributors(self, session: Session, schedule: Schedule) -> tuple[int, ...]:
        """The ideal functionality's view of dropouts: who will be in the sum.

        Raises:
            RoundAborted: exactly where, and with the same error type as, the real attempt would abort.
        """
        ...


class Aggregator(Protocol):
    """A frozen description of a protocol; stands in a plan."""

    @property
    def threat_model(self) -> ThreatModel:
        """What the protocol claims and what each party sees of one round."""
        ...

    def domain(self, *, sum_bound: int, length: int, cohort: int) -> Domain:
        """The domain for sums within ±sum_bound.

        Raises:
            PlanError: no domain of this protocol holds them.
        """
        ...

    def least_contributors(self, cohort: int) -> int:
        """The fewest contributors, corrupted ones included, that a sum of this cohort can have without an abort.

        Raises:
            PlanError: the cohort or the threshold is too small for the collusion and dropout the description permits.
        """
        ...

    def deploy(self, terms: Terms) -> Deployment:
        """Make keys and identities for a run."""
        ...

    def estimate(self, terms: Terms, cohort: int) -> tuple[StageCost, ...]:
        """The modelled costs of one round without dropouts: bytes from the message formats, CPU seconds from timing the
        protocol's primitives on this machine.
        """
        ...


Inputs = Callable[[Sequence[Party]], Iterable[tuple[Party, Integers]]]
"""Given clients that are still there at the upload stage, yields each one's vector, in order, when it is ready. It is
called for one block of clients at a time; a generator's return value reaches ``collect``."""


Totals = Callable[[Sequence[Party]], Iterable[tuple[Any, Integers]]]
"""Given the contributors, yields their vectors, or sums of some of them."""


def perform_ideal(deployment: Deployment, session: Session, schedule: Schedule, inputs: Totals, length: int) -> Sum:
    """The ideal functionality: the same sum and the same abort as the real attempt, without the cryptography.

    Nobody sees a single vector here, so ``inputs`` may add up what is at one place before it travels.
    """
    contributors = deployment.contributors(session, schedule)
    total = np.zeros(length, dtype=np.int64)
    for _, vector in inputs([client(index) for index in contributors]):
        total += vector
    return Sum(total=total, contributors=contributors)


def survivors(session: Session, schedule: Schedule, stages: Sequence[Stage], through: str) -> tuple[int, ...]:
    """The participants that still act in the stage named ``through``; a helper for ``contributors``."""
    order = [stage.name for stage in stages]
    last = order.index(through)
    return tuple(
        index
        for index in session.participants
        if client(index) not in schedule or order.index(schedule[client(index)]) > last
    )
