"""Everything out of turn, out of bounds, out of context or damaged is refused with its own error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from fedpriv.aggregation.conformance.bench import (
    Alter,
    Altered,
    Bench,
    ConformanceFailure,
    Kind,
    Proxy,
    client_role,
    inputs,
    kind_of,
)
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Session
from fedpriv.encoding import Integers
from fedpriv.errors import (
    EncodingError,
    EncodingOverflow,
    FedprivError,
    MalformedMessage,
    NonFiniteInput,
    ProtocolError,
    RoundAborted,
    UnexpectedMessage,
)
from fedpriv.network import Message, Network, Wire
from fedpriv.threat import SERVER, Party, client

Change: TypeAlias = Callable[[Message], Message]


def check_refuses_bad_inputs(bench: Bench) -> None:
    """Wrong length, wrong type, NaN, infinity and coordinates out of bound are refused before anything is sent."""
    deployment, _ = bench.deployment()
    length, bound = bench.length, bench.input_bound
    good = np.zeros(length, dtype=np.int64)
    over, under = good.copy(), good.copy()
    over[-1], under[0] = bound + 1, -bound - 1
    cases: list[tuple[str, Any, type[FedprivError]]] = [
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
        role = client_role(deployment.round(session), session.parties[0])
        expect(error, f"an input with {what}", role.submit, vector)


def check_takes_one_input(bench: Bench) -> None:
    """A second vector is refused; so is an upload without one."""
    deployment, _ = bench.deployment()
    session = bench.session()
    vectors = bench.vectors(session)
    role = client_role(deployment.round(session), session.parties[0])
    vector = vectors[session.participants[0]]
    role.submit(vector)
    expect(UnexpectedMessage, "a second input", role.submit, vector)
    session = bench.session()
    silent = session.parties[0]
    expect(ProtocolError, "an upload without an input", bench.run, session, vectors, alter=_without_input(silent))


def check_acts_once(bench: Bench) -> None:
    """A second call of the same stage, and an unknown stage, are refused by every role."""
    deployment, _ = bench.deployment()
    for stage in deployment.stages:
        session = bench.session()
        vectors = bench.vectors(session)
        expect(
            UnexpectedMessage, f"a second {stage.name}", bench.run, session, vectors, alter=_stepping_twice(stage.name)
        )
    for party, role in deployment.round(bench.session()).items():
        expect(UnexpectedMessage, f"an unknown stage of {party}", role.step, "no such stage")


def check_refuses_duplicates(bench: Bench) -> None:
    """A message delivered twice ends the attempt."""
    for kind in bench.kinds():
        session = bench.session()
        vectors = bench.vectors(session)
        expect(UnexpectedMessage, f"a duplicate of {kind}", bench.run, session, vectors, alter=_hearing_twice(kind))


def check_refuses_replays(bench: Bench) -> None:
    """A message of another attempt or another round, put in the place of the same message of this one, is refused."""
    before = bench.session()
    for kind, (old, *_) in bench.unfinished(before).items():
        for session, of in ((bench.session(round=before.round), "attempt"), (bench.session(), "round")):
            refused(bench, kind, _instead(old), ProtocolError, f"a replayed {kind} of another {of}", session)


def check_refuses_wrong_parties(bench: Bench) -> None:
    """A message under another sender's name, or delivered to another recipient, is refused."""
    for kind in bench.kinds():
        for other in (client(4), client(10**6), SERVER, "stranger"):
            refused(bench, kind, _under_name(other), ProtocolError, f"{kind} under the name of {other}")
        for other in (client(4), SERVER, "stranger"):
            refused(bench, kind, _delivered_to(other), ProtocolError, f"{kind} delivered to {other}")
        refused(bench, kind, lambda message: replace(message, stage="no such stage"), ProtocolError, f"{kind} renamed")


def check_notices_flipped_bits(bench: Bench) -> None:
    """One flipped bit anywhere in any message ends the attempt; it never changes a sum."""
    for kind in bench.kinds():
        for i in range(bench.flips):
            place = (0.0, 1.0)[i] if i < 2 else float(bench.rng.random())
            refused(bench, kind, _flipped(place), ProtocolError, f"a flipped bit, {place:.4f} into {kind},")


def check_refuses_other_bytes(bench: Bench) -> None:
    """Empty, truncated, extended and random bytes are malformed messages, and nothing worse happens."""
    changes: dict[str, Callable[[bytes], bytes]] = {
        "nothing": lambda body: b"",
        "one byte": lambda body: b"\0",
        "all but the last byte": lambda body: body[:-1],
        "all but the first byte": lambda body: body[1:],
        "one half": lambda body: body[: len(body) // 2],
        "one byte more": lambda body: body + b"\0",
        "random bytes": lambda body: bench.rng.bytes(len(body)),
        "64 random bytes": lambda body: bench.rng.bytes(64),
    }
    for kind in bench.kinds():
        for what, change in changes.items():
            refused(bench, kind, _with_body(change), MalformedMessage, f"{what} in the place of {kind}")


def check_refuses_other_contexts(bench: Bench) -> None:
    """A client that was sent another model does not meet the others: the attempt ends."""
    (here, _), (there, _) = bench.deployment(), bench.fresh_deployment(bench.length)
    session = bench.session()
    misled = session.parties[0]
    other = there.round(replace(session, context=b"another model"))[misled]
    altered = Altered(here, lambda party, role: other if party == misled else role)
    feed = inputs(bench.vectors(session))
    releaser = bench.aggregator.threat_model.releaser
    expect(ProtocolError, "a client with another context", perform, altered, session, Wire(Network()), feed, releaser)


def check_attempts_are_used_once(bench: Bench) -> None:
    """Round and attempt make a number that is used once, whether or not the attempt succeeded."""
    deployment, _ = bench.deployment()
    session = bench.session()
    deployment.round(session)
    expect(RoundAborted, "a second use of an attempt", deployment.round, session)


def expect(error: type[FedprivError], what: str, action: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    """The action must end with this error."""
    try:
        action(*args, **kwargs)
    except error:
        return
    except Exception as other:
        found = f"{type(other).__name__}: {other}"
        raise ConformanceFailure(f"{what} should raise {error.__name__}; it raised {found}") from other
    raise ConformanceFailure(f"{what} should raise {error.__name__}; nothing happened.")


def refused(
    bench: Bench,
    kind: Kind,
    change: Change,
    error: type[FedprivError],
    what: str,
    session: Session | None = None,
) -> None:
    """The first message of a kind that the change alters is altered under way; the attempt must end with this error.

    Where it alters none (that is who it came from, or went to, anyway) there is nothing to refuse.
    """
    done: list[Message] = []

    def tamper(message: Message) -> Message:
        if done or kind_of(message) != kind:
            return message
        changed = change(message)
        if changed != message:
            done.append(message)
        return changed

    session = session or bench.session()
    try:
        bench.run(session, bench.vectors(session), tamper=tamper)
    except error:
        return
    except Exception as other:
        found = f"{type(other).__name__}: {other}"
        raise ConformanceFailure(f"{what} should raise {error.__name__}; it raised {found}") from other
    if done:
        raise ConformanceFailure(f"{what} should raise {error.__name__}; nothing happened.")


def _instead(old: Message) -> Change:
    return lambda message: old


def _under_name(other: Party) -> Change:
    return lambda message: replace(message, sender=other)


def _delivered_to(other: Party) -> Change:
    return lambda message: replace(message, recipient=other)


def _with_body(change: Callable[[bytes], bytes]) -> Change:
    return lambda message: replace(message, body=change(message.body))


def _flipped(place: float) -> Change:
    def flip(body: bytes) -> bytes:
        bit = min(int(place * 8 * len(body)), 8 * len(body) - 1)
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << (bit % 8)
        return bytes(damaged)

    return _with_body(flip)


def _without_input(silent: Party) -> Alter:
    class NoInput(Proxy):
        def submit(self, vector: Integers) -> None:
            pass

    return lambda party, role: NoInput(role) if party == silent else role


def _stepping_twice(name: str) -> Alter:
    class StepsTwice(Proxy):
        def step(self, stage: str) -> list[Message]:
            messages = super().step(stage)
            return messages + super().step(stage) if stage == name else messages

    return lambda party, role: StepsTwice(role)


def _hearing_twice(kind: Kind) -> Alter:
    class HearsTwice(Proxy):
        def receive(self, message: Message) -> None:
            super().receive(message)
            if kind_of(message) == kind:
                super().receive(message)

    return lambda party, role: HearsTwice(role)
