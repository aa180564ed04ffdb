"""The bench on which an aggregator is tested: deployments, sessions, inputs, one real attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Aggregator, ClientRole, Deployment, Releaser, Role, Session, Sum, Terms
from fedpriv.encoding import Integers
from fedpriv.errors import ConfigurationError, TooFewSurvivors
from fedpriv.network import Message, Network, Schedule, Tamper, Wire
from fedpriv.threat import CLIENT, Party, client

Vectors: TypeAlias = Mapping[int, Integers]
Kind: TypeAlias = tuple[str, str, str]
"""Stage, kind of sender, kind of recipient."""
Alter: TypeAlias = Callable[[Party, Role], Role]
"""Exchanges a role for one that misbehaves."""


class ConformanceFailure(AssertionError):
    """An aggregator does not do what every aggregator must do."""


@dataclass(kw_only=True)
class Bench:
    """An aggregator under test; its deployments are made once and reused, since keys can be slow to make.

    Args:
        aggregator: what is tested.
        cohorts: numbers of participants; those that the aggregator refuses in a plan are left out.
        lengths: numbers of coordinates.
        input_bound: the terms' bound on a coordinate.
        flips: how many single-bit flips are tried in each kind of message.
        bytes_tolerance: the relative difference allowed between estimated and counted bytes.
        seed: of inputs, schedules and positions; never of a secret.
    """

    aggregator: Aggregator
    cohorts: Sequence[int] = (2, 3, 4, 5, 8)
    lengths: Sequence[int] = (1, 7, 130)
    input_bound: int = 1000
    flips: int = 8
    bytes_tolerance: float = 0.0
    seed: int = 0
    _deployments: dict[int, tuple[Deployment, Terms]] = field(default_factory=dict, init=False, repr=False)
    _attempts: list[int] = field(default_factory=list, init=False, repr=False)
    """Round → its attempts so far."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.cohorts = [cohort for cohort in sorted(self.cohorts) if self._accepts(cohort)]
        if not self.cohorts:
            raise ConformanceFailure("The aggregator refuses every cohort of the suite; give larger `cohorts`.")

    def _accepts(self, cohort: int) -> bool:
        try:
            return self.aggregator.least_contributors(cohort) <= cohort
        except ConfigurationError:
            return False

    @property
    def cohort(self) -> int:
        """A middling number of participants."""
        return self.cohorts[len(self.cohorts) // 2]

    @property
    def length(self) -> int:
        """A middling length."""
        return sorted(self.lengths)[len(self.lengths) // 2]

    def fresh_deployment(self, length: int) -> tuple[Deployment, Terms]:
        """Deployed for the largest cohort."""
        largest = max(self.cohorts)
        domain = self.aggregator.domain(sum_bound=largest * self.input_bound, length=length, cohort=largest)
        terms = Terms(length=length, input_bound=self.input_bound, cohort=largest, domain=domain)
        return self.aggregator.deploy(terms), terms

    def deployment(self, length: int | None = None) -> tuple[Deployment, Terms]:
        """Deployed for the largest cohort, once for each length."""
        size = self.length if length is None else length
        if size not in self._deployments:
            self._deployments[size] = self.fresh_deployment(size)
        return self._deployments[size]

    def session(self, cohort: int | None = None, *, round: int | None = None, context: bytes = b"context") -> Session:
        """A new attempt, of a new round unless one is given; the participants' indices have gaps.

        A round has one sum at most: only one that ended without a sum is given another attempt.
        """
        if round is None:
            round = len(self._attempts)
            self._attempts.append(0)
        attempt, self._attempts[round] = self._attempts[round], self._attempts[round] + 1
        indices = tuple(3 * i + 1 for i in range(self.cohort if cohort is None else cohort))
        return Session(round=round, attempt=attempt, participants=indices, context=context)

    def vectors(self, session: Session, length: int | None = None) -> Vectors:
        """Random inputs over the whole permitted interval."""
        size = self.length if length is None else length
        bound = self.input_bound
        return {index: self.rng.integers(-bound, bound + 1, size, dtype=np.int64) for index in session.participants}

    def run(
        self,
        session: Session,
        vectors: Vectors,
        *,
        length: int | None = None,
        schedule: Schedule | None = None,
        tamper: Tamper | None = None,
        alter: Alter | None = None,
        wire: Wire | None = None,
    ) -> Sum:
        """One real attempt."""
        deployment, _ = self.deployment(length)
        carrier = wire or Wire(Network(), schedule=schedule, tamper=tamper)
        performed = Altered(deployment, alter) if alter else deployment
        return perform(performed, session, carrier, inputs(vectors), self.aggregator.threat_model.releaser)

    def kinds(self) -> dict[Kind, list[Message]]:
        """The messages of a clean attempt, by kind."""
        session, kinds = self.session(), dict[Kind, list[Message]]()
        self.run(session, self.vectors(session), tamper=_recording(kinds))
        return kinds

    def unfinished(self, session: Session) -> dict[Kind, list[Message]]:
        """The messages of an attempt that ends before its last stage, without a sum, by kind.

        Where clients upload in the last stage, it goes to the end.
        """
        kinds, last = dict[Kind, list[Message]](), self.deployment()[0].stages[-1].name
        alter = None if last == upload_stage(self) else _ending_at(last)
        with suppress(TooFewSurvivors):
            self.run(session, self.vectors(session), tamper=_recording(kinds), alter=alter)
        return kinds


def _recording(kinds: dict[Kind, list[Message]]) -> Tamper:
    def record(message: Message) -> Message:
        kinds.setdefault(kind_of(message), []).append(message)
        return message

    return record


class Proxy:
    """A role that passes everything on; subclasses misbehave."""

    def __init__(self, inner: Role) -> None:
        self._inner = inner

    def receive(self, message: Message) -> None:
        self._inner.receive(message)

    def step(self, stage: str) -> list[Message]:
        return self._inner.step(stage)

    def submit(self, vector: Integers) -> None:
        if isinstance(self._inner, ClientRole):
            self._inner.submit(vector)

    def result(self) -> Sum:
        if not isinstance(self._inner, Releaser):
            raise ConformanceFailure("The releaser has no result.")
        return self._inner.result()


def _ending_at(last: str) -> Alter:
    class Ends(Proxy):
        def step(self, stage: str) -> list[Message]:
            if stage == last:
                raise TooFewSurvivors("The attempt goes on.", remedy="Start another.")
            return super().step(stage)

    return lambda party, role: Ends(role)


class Altered:
    """A deployment whose roles are exchanged as they are made."""

    def __init__(self, inner: Deployment, alter: Alter) -> None:
        self._inner = inner
        self._alter = alter
        self.stages = inner.stages
        self.key_bytes = inner.key_bytes
        self.contributors = inner.contributors

    def round(self, session: Session) -> Mapping[Party, Role]:
        return {party: self._alter(party, role) for party, role in self._inner.round(session).items()}


def inputs(vectors: Vectors) -> Callable[[Sequence[Party]], list[tuple[Party, Integers]]]:
    """Feeds an attempt with these vectors."""
    by_party = {client(index): vector for index, vector in vectors.items()}
    return lambda parties: [(party, by_party[party]) for party in parties]


def kind_of(message: Message) -> Kind:
    """What sort of message it is."""
    sender, recipient = (party.partition("/")[0] for party in (message.sender, message.recipient))
    return message.stage, sender, recipient


def client_role(roles: Mapping[Party, Role], party: Party) -> ClientRole:
    """The role of a client. Raises ConformanceFailure where it takes no input."""
    role = roles[party]
    if not isinstance(role, ClientRole):
        raise ConformanceFailure(f"The role of {party} takes no input.")
    return role


def upload_stage(bench: Bench) -> str:
    """The name of the stage in which clients upload."""
    stages = bench.deployment()[0].stages
    return next(stage.name for stage in stages if stage.actor == CLIENT and stage.phase == "upload")
