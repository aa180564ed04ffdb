"""What every aggregator must do: one suite for fedpriv's protocols and for yours.

``check_aggregator(MyProtocol())`` runs real rounds in memory and raises :class:`ConformanceFailure`, naming every check
that failed and why. Each check is a function of a :class:`Bench` in :data:`CHECKS`, so that a test suite can run them
one by one::

    @pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check, bench):
        check(bench)

The suite tests behaviour. It cannot prove secrecy: it only catches an upload that is plainly not hidden.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from fedpriv.aggregation.protocol import (
    Aggregator,
    ClientRole,
    Deployment,
    Releaser,
    Role,
    Session,
    Sum,
    Terms,
    perform,
    perform_ideal,
)
from fedpriv.encoding import Integers
from fedpriv.errors import (
    ConfigurationError,
    EncodingError,
    EncodingOverflow,
    FedprivError,
    MalformedMessage,
    NonFiniteInput,
    ProtocolError,
    RoundAborted,
    UnexpectedMessage,
)
from fedpriv.network import Message, Network, Schedule, StageCost, Tamper, Wire
from fedpriv.threat import CLIENT, SERVER, Party, View, client

Vectors: TypeAlias = Mapping[int, Integers]
Kind: TypeAlias = tuple[str, str, str]
"""Stage, kind of sender, kind of recipient."""


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
    _attempt: int = field(default=0, init=False, repr=False)

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

    def session(self, cohort: int | None = None, *, round: int = 0, context: bytes = b"context") -> Session:
        """A new attempt; the participants' indices have gaps."""
        self._attempt += 1
        indices = tuple(3 * i + 1 for i in range(self.cohort if cohort is None else cohort))
        return Session(round=round, attempt=self._attempt, participants=indices, context=context)

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
        alter: Callable[[Party, Role], Role] | None = None,
        wire: Wire | None = None,
    ) -> Sum:
        """One real attempt."""
        deployment, _ = self.deployment(length)
        carrier = wire or Wire(Network(), schedule=schedule, tamper=tamper)
        performed = _Altered(deployment, alter) if alter else deployment
        return perform(performed, session, carrier, _inputs(vectors), self.aggregator.threat_model.releaser)

    def kinds(self, *, round: int = 0) -> dict[Kind, list[Message]]:
        """The messages of a clean attempt, by kind."""
        kinds: dict[Kind, list[Message]] = {}

        def record(message: Message) -> Message:
            kinds.setdefault(_kind_of(message), []).append(message)
            return message

        session = self.session(round=round)
        self.run(session, self.vectors(session), tamper=record)
        return kinds


# --- the sum --------------------------------------------------------------------------------------------------------


def check_sum_is_exact(bench: Bench) -> None:
    """The sum of random vectors, for every cohort and length."""
    for length in bench.lengths:
        for cohort in bench.cohorts:
            session = bench.session(cohort)
            vectors = bench.vectors(session, length)
            _same(bench.run(session, vectors, length=length), vectors, session.participants)


def check_extremes_do_not_wrap(bench: Bench) -> None:
    """Everybody at +bound, everybody at -bound, and half and half, in the largest cohort."""
    cohort = max(bench.cohorts)
    for signs in ((1, 1), (-1, -1), (1, -1)):
        session = bench.session(cohort)
        vectors = {
            index: np.full(bench.length, signs[i % 2] * bench.input_bound, dtype=np.int64)
            for i, index in enumerate(session.participants)
        }
        _same(bench.run(session, vectors), vectors, session.participants)


def check_order_does_not_matter(bench: Bench) -> None:
    """Clients exchange their vectors: the sum stays."""
    first, second = bench.session(), bench.session()
    vectors = bench.vectors(first)
    exchanged = dict(zip(vectors, reversed(list(vectors.values())), strict=True))
    if not np.array_equal(bench.run(first, vectors).total, bench.run(second, exchanged).total):
        raise ConformanceFailure("The sum changed when clients exchanged their vectors.")


def check_dropouts_equal_ideal(bench: Bench) -> None:
    """For clients lost at any stage the real attempt and the ideal one give the same sum or the same error type."""
    for cohort in (min(bench.cohorts), bench.cohort):
        for schedule in _schedules(bench, cohort):
            session = bench.session(cohort)
            vectors = bench.vectors(session)
            real = _outcome(bench, session, vectors, schedule)
            ideal = _ideal(bench, session, vectors, schedule)
            if real != ideal:
                raise ConformanceFailure(f"{schedule} of {cohort} clients: really {real}, ideally {ideal}.")


def check_least_contributors(bench: Bench) -> None:
    """With exactly the stated least number of uploads there is a sum; with one fewer there is none."""
    for cohort in bench.cohorts:
        least = bench.aggregator.least_contributors(cohort)
        session = bench.session(cohort)
        stage = _upload(bench)
        enough = {client(index): stage for index in session.participants[least:]}
        outcome = _outcome(bench, session, bench.vectors(session), enough)
        if isinstance(outcome, type):
            raise ConformanceFailure(f"{least} of {cohort} contributors should be enough; got {outcome.__name__}.")
        session = bench.session(cohort)
        few = {client(index): stage for index in session.participants[least - 1 :]}
        outcome = _outcome(bench, session, bench.vectors(session), few)
        if not (isinstance(outcome, type) and issubclass(outcome, RoundAborted)):
            raise ConformanceFailure(f"{least - 1} of {cohort} contributors gave a sum, below the stated {least}.")


# --- what is refused --------------------------------------------------------------------------------------------------


def check_refuses_bad_inputs(bench: Bench) -> None:
    """Wrong length, wrong type, NaN, infinity and coordinates out of bound are refused before anything is sent."""
    deployment, _ = bench.deployment()
    length, bound = bench.length, bench.input_bound
    good = np.zeros(length, dtype=np.int64)
    over, under = good.copy(), good.copy()
    over[-1], under[0] = bound + 1, -bound - 1
    cases: list[tuple[str, object, type[FedprivError]]] = [
        ("one coordinate too many", np.zeros(length + 1, dtype=np.int64), EncodingError),
        ("one coordinate too few", np.zeros(length - 1, dtype=np.int64), EncodingError),
        ("two dimensions", good[None, :], EncodingError),
        ("floats", good.astype(np.float64), EncodingError),
        ("NaN", np.full(length, np.nan), NonFiniteInput),
        ("infinity", np.full(length, np.inf), NonFiniteInput),
        ("a coordinate above the bound", over, EncodingOverflow),
        ("a coordinate below the bound", under, EncodingOverflow),
        ("the smallest int64", np.full(length, np.iinfo(np.int64).min), EncodingOverflow),
    ]
    for what, vector, error in cases:
        session = bench.session()
        role = _client_role(deployment.round(session), session.parties[0])
        _expect(error, lambda role=role, vector=vector: role.submit(vector), f"an input with {what}")  # type: ignore[misc]


def check_takes_one_input(bench: Bench) -> None:
    """A second vector is refused; so is an upload without one."""
    deployment, _ = bench.deployment()
    session = bench.session()
    vectors = bench.vectors(session)
    role = _client_role(deployment.round(session), session.parties[0])
    vector = vectors[session.participants[0]]
    role.submit(vector)
    _expect(UnexpectedMessage, lambda: role.submit(vector), "a second input")
    session = bench.session()
    forgetful = session.parties[0]
    _expect(
        ProtocolError,
        lambda: bench.run(
            session, vectors, alter=lambda party, role: _NoInput(role) if party == forgetful else _Proxy(role)
        ),
        "an upload without an input",
    )


def check_acts_once(bench: Bench) -> None:
    """A second call of the same stage, and an unknown stage, are refused by every role."""
    deployment, _ = bench.deployment()
    for stage in deployment.stages:
        session = bench.session()
        _expect(
            UnexpectedMessage,
            lambda session=session, name=stage.name: bench.run(  # type: ignore[misc]
                session, bench.vectors(session), alter=lambda party, role: _StepsTwice(role, name)
            ),
            f"a second {stage.name}",
        )
    for party, role in deployment.round(bench.session()).items():
        _expect(UnexpectedMessage, lambda role=role: role.step("no such stage"), f"an unknown stage of {party}")  # type: ignore[misc]


def check_refuses_duplicates(bench: Bench) -> None:
    """A message delivered twice ends the attempt."""
    for kind in bench.kinds():
        session = bench.session()
        _expect(
            UnexpectedMessage,
            lambda session=session, kind=kind: bench.run(  # type: ignore[misc]
                session, bench.vectors(session), alter=lambda party, role: _HearsTwice(role, kind)
            ),
            f"a duplicate of {kind}",
        )


def check_refuses_replays(bench: Bench) -> None:
    """A message of another attempt or another round, put in the place of the same message of this one, is refused."""
    for round in (0, 1):
        for kind, (old, *_) in bench.kinds(round=round).items():
            _refused(bench, kind, lambda message, old=old: old, ProtocolError, f"a replayed {kind} of round {round}")  # type: ignore[misc]


def check_refuses_wrong_parties(bench: Bench) -> None:
    """A message under another sender's name, or delivered to another recipient, is refused."""
    for kind in bench.kinds():
        for other in (client(4), client(10**6), SERVER, "stranger"):
            _refused(
                bench,
                kind,
                lambda message, other=other: replace(message, sender=other),  # type: ignore[misc]
                ProtocolError,
                f"{kind} under the name of {other}",
            )
        for other in (client(4), SERVER, "stranger"):
            _refused(
                bench,
                kind,
                lambda message, other=other: replace(message, recipient=other),  # type: ignore[misc]
                ProtocolError,
                f"{kind} delivered to {other}",
            )
        _refused(bench, kind, lambda message: replace(message, stage="no such stage"), ProtocolError, f"{kind} renamed")


def check_notices_flipped_bits(bench: Bench) -> None:
    """One flipped bit anywhere in any message ends the attempt; it never changes a sum."""
    for kind in bench.kinds():
        for i in range(bench.flips):
            place = (0.0, 1.0)[i] if i < 2 else float(bench.rng.random())
            _refused(bench, kind, lambda message, place=place: _flip(message, place), ProtocolError, f"a bit of {kind}")  # type: ignore[misc]


def check_refuses_other_bytes(bench: Bench) -> None:
    """Empty, truncated, extended and random bytes are malformed messages, and nothing worse happens."""
    for kind in bench.kinds():
        changes: list[Callable[[bytes], bytes]] = [
            lambda body: b"",
            lambda body: b"\0",
            lambda body: body[:-1],
            lambda body: body[1:],
            lambda body: body[: len(body) // 2],
            lambda body: body + b"\0",
            lambda body: bench.rng.bytes(len(body)),
            lambda body: bench.rng.bytes(64),
        ]
        for i, change in enumerate(changes):
            _refused(
                bench,
                kind,
                lambda message, change=change: replace(message, body=change(message.body)),  # type: ignore[misc]
                MalformedMessage,
                f"other bytes ({i}) for {kind}",
            )


def check_refuses_other_contexts(bench: Bench) -> None:
    """A client that was sent another model does not meet the others: the attempt ends."""
    (here, _), (there, _) = bench.deployment(), bench.fresh_deployment(bench.length)
    session = bench.session()
    misled = session.parties[0]
    other = there.round(replace(session, context=b"another model"))[misled]
    _expect(
        ProtocolError,
        lambda: perform(
            _Altered(here, lambda party, role: other if party == misled else role),
            session,
            Wire(Network()),
            _inputs(bench.vectors(session)),
            bench.aggregator.threat_model.releaser,
        ),
        "a client with another context",
    )


def check_attempts_are_used_once(bench: Bench) -> None:
    """Round and attempt make a number that is used once, whether or not the attempt succeeded."""
    deployment, _ = bench.deployment()
    session = bench.session()
    deployment.round(session)
    _expect(RoundAborted, lambda: deployment.round(session), "a second use of an attempt")


# --- what is stated ---------------------------------------------------------------------------------------------------


def check_threat_model(bench: Bench) -> None:
    """The threat model names assumptions, a reference, and a releaser that holds the sum."""
    model = bench.aggregator.threat_model
    deployment, _ = bench.deployment()
    roles = deployment.round(bench.session())
    if not model.assumptions or not model.reference:
        raise ConformanceFailure("A threat model states its assumptions and a reference.")
    if not isinstance(roles.get(model.releaser), Releaser):
        raise ConformanceFailure(f"The releaser {model.releaser!r} has a role with a result.")
    if View.EXACT_SUM not in model.learns.get(model.releaser, frozenset()):
        raise ConformanceFailure(f"The releaser {model.releaser!r} sees the exact sum; the threat model must say so.")


def check_stages(bench: Bench) -> None:
    """Stage names differ, phases go forward, and clients upload in exactly one stage."""
    stages = bench.deployment()[0].stages
    order = ["setup", "upload", "recovery"]
    if len({stage.name for stage in stages}) != len(stages):
        raise ConformanceFailure("Two stages have the same name.")
    positions = [order.index(stage.phase) for stage in stages]
    if positions != sorted(positions):
        raise ConformanceFailure("Phases go setup, upload, recovery.")
    if len([stage for stage in stages if stage.actor == CLIENT and stage.phase == "upload"]) != 1:
        raise ConformanceFailure("Clients upload in exactly one stage.")


def check_uploads_look_hidden(bench: Bench) -> None:
    """Unless the server is said to see updates: uploads of zeros differ between attempts and do not compress."""
    model = bench.aggregator.threat_model
    if View.UPDATES in model.sees("server"):
        return
    length = max(bench.lengths)
    uploads = []
    for _ in range(2):
        session = bench.session()
        sent: list[Message] = []
        stage = _upload(bench)
        bench.run(
            session,
            {index: np.zeros(length, dtype=np.int64) for index in session.participants},
            length=length,
            tamper=lambda message, sent=sent, stage=stage: (  # type: ignore[misc]
                sent.append(message) if message.stage == stage else None,
                message,
            )[1],
        )
        uploads += [message.body for message in sent if message.sender.startswith(CLIENT)]
    if len(set(uploads)) < len(uploads):
        raise ConformanceFailure("Two uploads of the same vector are the same bytes.")
    for body in uploads:
        if len(zlib.compress(body)) < 0.5 * len(body):
            raise ConformanceFailure("An upload of zeros compresses to less than half: it is not hidden.")


def check_bytes_match_estimate(bench: Bench) -> None:
    """The estimate's messages and bytes of every stage and kind of party are those of a real attempt."""
    for length in bench.lengths:
        _, terms = bench.deployment(length)
        for cohort in (min(bench.cohorts), max(bench.cohorts)):
            session = bench.session(cohort)
            wire = Wire(Network())
            bench.run(session, bench.vectors(session, length), length=length, wire=wire)
            counted = _by_party(wire.costs)
            estimated = _by_party(bench.aggregator.estimate(terms, cohort))
            if set(counted) != set(estimated):
                raise ConformanceFailure(
                    f"Estimated rows {sorted(estimated)} are not the counted rows {sorted(counted)}."
                )
            for row, real in counted.items():
                for name, was, said in zip(("messages", "sent", "received"), real, estimated[row], strict=True):
                    if abs(was - said) > bench.bytes_tolerance * was:
                        raise ConformanceFailure(f"{row}, {name}: {said} estimated, {was} counted (n = {cohort}).")


def check_descriptions_are_values(bench: Bench) -> None:
    """An aggregator is a frozen description: hashable, and unchanged by its deployments."""
    before = (hash(bench.aggregator), repr(bench.aggregator))
    session = bench.session()
    bench.run(session, bench.vectors(session))
    if (hash(bench.aggregator), repr(bench.aggregator)) != before:
        raise ConformanceFailure("An aggregator changed when it was used.")


Check: TypeAlias = Callable[[Bench], None]

CHECKS: tuple[Check, ...] = (
    check_sum_is_exact,
    check_extremes_do_not_wrap,
    check_order_does_not_matter,
    check_dropouts_equal_ideal,
    check_least_contributors,
    check_refuses_bad_inputs,
    check_takes_one_input,
    check_acts_once,
    check_refuses_duplicates,
    check_refuses_replays,
    check_refuses_wrong_parties,
    check_notices_flipped_bits,
    check_refuses_other_bytes,
    check_refuses_other_contexts,
    check_attempts_are_used_once,
    check_threat_model,
    check_stages,
    check_uploads_look_hidden,
    check_bytes_match_estimate,
    check_descriptions_are_values,
)


def check_aggregator(
    aggregator: Aggregator,
    *,
    cohorts: Sequence[int] = (2, 3, 4, 5, 8),
    lengths: Sequence[int] = (1, 7, 130),
    input_bound: int = 1000,
    flips: int = 8,
    bytes_tolerance: float = 0.0,
    seed: int = 0,
) -> None:
    """Run every check; see :class:`Bench` for the arguments.

    Raises:
        ConformanceFailure: names each check that failed, with its reason.
    """
    bench = Bench(
        aggregator=aggregator,
        cohorts=cohorts,
        lengths=lengths,
        input_bound=input_bound,
        flips=flips,
        bytes_tolerance=bytes_tolerance,
        seed=seed,
    )
    failures = []
    for check in CHECKS:
        try:
            check(bench)
        except Exception as error:  # a foreign aggregator may fail in any way
            failures.append(f"{check.__name__}: {type(error).__name__}: {error}")
    if failures:
        raise ConformanceFailure(f"{len(failures)} of {len(CHECKS)} checks failed.\n" + "\n".join(failures))


# --- helpers ----------------------------------------------------------------------------------------------------------


class _Proxy:
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


class _NoInput(_Proxy):
    def submit(self, vector: Integers) -> None:
        pass


class _StepsTwice(_Proxy):
    def __init__(self, inner: Role, stage: str) -> None:
        super().__init__(inner)
        self._stage = stage

    def step(self, stage: str) -> list[Message]:
        messages = super().step(stage)
        return messages + super().step(stage) if stage == self._stage else messages


class _HearsTwice(_Proxy):
    def __init__(self, inner: Role, kind: Kind) -> None:
        super().__init__(inner)
        self._kind = kind

    def receive(self, message: Message) -> None:
        super().receive(message)
        if _kind_of(message) == self._kind:
            super().receive(message)


class _Altered:
    """A deployment whose roles are exchanged as they are made."""

    def __init__(self, inner: Deployment, alter: Callable[[Party, Role], Role]) -> None:
        self._inner = inner
        self._alter = alter
        self.stages = inner.stages
        self.contributors = inner.contributors

    def round(self, session: Session) -> Mapping[Party, Role]:
        return {party: self._alter(party, role) for party, role in self._inner.round(session).items()}


def _inputs(vectors: Vectors) -> Callable[[Sequence[Party]], list[tuple[Party, Integers]]]:
    by_party = {client(index): vector for index, vector in vectors.items()}
    return lambda parties: [(party, by_party[party]) for party in parties]


def _kind_of(message: Message) -> Kind:
    sender, recipient = (party.partition("/")[0] for party in (message.sender, message.recipient))
    return message.stage, sender, recipient


def _client_role(roles: Mapping[Party, Role], party: Party) -> ClientRole:
    role = roles[party]
    if not isinstance(role, ClientRole):
        raise ConformanceFailure(f"The role of {party} takes no input.")
    return role


def _upload(bench: Bench) -> str:
    stages = bench.deployment()[0].stages
    return next(stage.name for stage in stages if stage.actor == CLIENT and stage.phase == "upload")


def _same(outcome: Sum, vectors: Vectors, contributors: Sequence[int]) -> None:
    if outcome.contributors != tuple(contributors):
        raise ConformanceFailure(f"Contributors are {tuple(contributors)}, not {outcome.contributors}.")
    expected = np.sum([vectors[index] for index in contributors], axis=0)
    if outcome.total.dtype != np.int64 or not np.array_equal(outcome.total, expected):
        raise ConformanceFailure("The sum is not the exact int64 sum of the contributors' vectors.")


def _outcome(
    bench: Bench, session: Session, vectors: Vectors, schedule: Schedule
) -> tuple[tuple[int, ...], bytes] | type[RoundAborted]:
    try:
        result = bench.run(session, vectors, schedule=schedule)
    except RoundAborted as error:
        return type(error)
    _same(result, vectors, result.contributors)
    return result.contributors, result.total.tobytes()


def _ideal(
    bench: Bench, session: Session, vectors: Vectors, schedule: Schedule
) -> tuple[tuple[int, ...], bytes] | type[RoundAborted]:
    try:
        result = perform_ideal(bench.deployment()[0], session, schedule, _inputs(vectors), bench.length)
    except RoundAborted as error:
        return type(error)
    return result.contributors, result.total.tobytes()


def _schedules(bench: Bench, cohort: int) -> list[Schedule]:
    """Losses at each stage: nobody, one, as many as can be borne, one more, all; and mixtures."""
    stages = [stage.name for stage in bench.deployment()[0].stages if stage.actor == CLIENT]
    parties = [client(3 * i + 1) for i in range(cohort)]
    spare = cohort - bench.aggregator.least_contributors(cohort)
    schedules: list[Schedule] = [{}]
    for stage in stages:
        for lost in sorted({1, spare, spare + 1, cohort}):
            schedules.append(dict.fromkeys(bench.rng.permutation(parties)[:lost].tolist(), stage))
    for _ in range(6):
        drawn = bench.rng.random(cohort) < 0.3
        schedules.append(
            {party: str(bench.rng.choice(stages)) for party, gone in zip(parties, drawn, strict=True) if gone}
        )
    return schedules


def _expect(error: type[FedprivError], action: Callable[[], object], what: str) -> None:
    try:
        action()
    except error:
        return
    except Exception as other:
        raise ConformanceFailure(
            f"{what} should raise {error.__name__}; it raised {type(other).__name__}: {other}"
        ) from other
    raise ConformanceFailure(f"{what} should raise {error.__name__}; nothing happened.")


def _refused(
    bench: Bench, kind: Kind, change: Callable[[Message], Message], error: type[FedprivError], what: str
) -> None:
    """The first message of a kind is changed under way; the attempt must end with this error."""
    done: list[Message] = []

    def tamper(message: Message) -> Message:
        if done or _kind_of(message) != kind:
            return message
        changed = change(message)
        if changed != message:
            done.append(message)
        return changed

    session = bench.session()
    try:
        bench.run(session, bench.vectors(session), tamper=tamper)
    except error:
        return
    except Exception as other:
        found = f"{type(other).__name__}: {other}"
        raise ConformanceFailure(f"{what} should raise {error.__name__}; it raised {found}") from other
    if done:  # else nothing could be changed: that is who it came from, or went to, anyway
        raise ConformanceFailure(f"{what} should raise {error.__name__}; nothing happened.")


def _flip(message: Message, place: float) -> Message:
    bit = min(int(place * 8 * len(message.body)), 8 * len(message.body) - 1)
    body = bytearray(message.body)
    body[bit // 8] ^= 1 << (bit % 8)
    return replace(message, body=bytes(body))


def _by_party(costs: Sequence[StageCost]) -> dict[tuple[str, str], tuple[int, int, int]]:
    """(stage, role) → messages, bytes sent, bytes received; rows in which nothing travelled are left out."""
    return {
        (cost.stage, cost.role): (cost.messages, cost.bytes_sent, cost.bytes_received)
        for cost in costs
        if cost.messages or cost.bytes_received
    }
