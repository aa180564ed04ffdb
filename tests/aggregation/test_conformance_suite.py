"""The conformance suite bites: each broken aggregator fails the check that is there for it, and every check has one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from fedpriv.aggregation import PlainSum, SecureAggregation, Session, Terms, conformance, plain, roles
from fedpriv.aggregation.conformance.bench import Altered, Proxy
from fedpriv.aggregation.plain import PlainClient, PlainDeployment, PlainServer
from fedpriv.crypto import wire
from fedpriv.encoding import Ring
from fedpriv.network import Stage
from fedpriv.threat import CLIENT, SERVER

Alter = Callable[[str, Any], Any]


@dataclass(frozen=True, kw_only=True)
class Broken(PlainSum):
    """A plain sum whose roles are exchanged for worse ones."""

    alter: Alter

    def deploy(self, terms: Terms) -> Any:
        return Altered(PlainDeployment(terms), self.alter)


def server(change: Callable[[Any], Any]) -> Alter:
    return lambda party, role: change(role) if party == SERVER else role


def clients(change: Callable[[Any], Any]) -> Alter:
    return lambda party, role: role if party == SERVER else change(role)


class OffByOne(Proxy):
    def result(self) -> Any:
        result = super().result()
        return replace(result, total=result.total + 1)


class Saturating(Proxy):
    """Loses what does not fit into a ring that is too small."""

    def result(self) -> Any:
        result = super().result()
        return replace(result, total=np.clip(result.total, -5000, 5000))


class Weighing(PlainServer):
    """Counts some clients twice."""

    def _add(self, sender: str, payload: memoryview) -> None:
        super()._add(sender, payload)
        if sender == "client/1":
            self._contributors.discard(1)
            super()._add(sender, payload)


class Deaf(Proxy):
    """Ignores, silently, what it should refuse."""

    def receive(self, message: Any) -> None:
        with contextlib.suppress(roles.UnexpectedMessage):
            super().receive(message)


class Twice(Proxy):
    def step(self, stage: str) -> Any:
        try:
            return super().step(stage)
        except roles.UnexpectedMessage:
            return []


class Lenient(Proxy):
    """Takes the last of several inputs, and any numbers."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)

    def submit(self, vector: Any) -> None:
        assert isinstance(self._inner, PlainClient)
        self._inner._input._vector = np.resize(np.nan_to_num(vector), self._inner._terms.length).astype(np.int64)


class Trusting(PlainServer):
    """Looks neither at the checksum nor at the tag, nor at who sends what."""

    def receive(self, message: Any) -> None:
        body = message.body[wire.TAG : -wire.DIGEST]
        size = wire.packed_size(self._terms.length, plain._width(self._terms))
        body = (body + bytes(size))[: size - 1] + b"\0"
        self._add(message.sender if message.sender.startswith("client") else "client/1", memoryview(body))


class Untyped(PlainServer):
    """Fails on strange bytes with whatever comes."""

    def receive(self, message: Any) -> None:
        if len(message.body) < 40:
            raise ValueError("short")
        super().receive(message)


def contextless() -> Alter:
    """Roles whose transcript leaves something out."""

    def alter(party: str, role: Any) -> Any:
        role._transcript = b"the same always"
        return role

    return alter


def as_server(kind: type[PlainServer]) -> Alter:
    def alter(party: str, role: Any) -> Any:
        if party == SERVER:
            role.__class__ = kind
            if kind is Weighing or kind is Untyped:
                hear = role._script[0]
                role.follow(roles.Hear(hear.stage, hear.senders, role._add))
        return role

    return alter


@dataclass(frozen=True, kw_only=True)
class NarrowRing(SecureAggregation):
    """One bit too few: sums wrap silently."""

    def domain(self, *, sum_bound: int, length: int, cohort: int) -> Any:
        domain = super().domain(sum_bound=sum_bound, length=length, cohort=cohort)
        assert isinstance(domain, Ring)
        return Ring(domain.bits - 2)


@dataclass(frozen=True, kw_only=True)
class NotMasked(PlainSum):
    """Says that the server sees ciphertexts only."""

    @property
    def threat_model(self) -> Any:
        return SecureAggregation().threat_model


PAD = np.random.default_rng(0).bytes(4096)


def padded(message: Any) -> Any:
    return replace(message, body=bytes(a ^ b for a, b in zip(message.body, PAD, strict=False)))


class PadsUpload(Proxy):
    def step(self, stage: str) -> Any:
        return [padded(message) for message in super().step(stage)]


class Unpads(Proxy):
    def receive(self, message: Any) -> None:
        super().receive(padded(message))


@dataclass(frozen=True, kw_only=True)
class OnePad(NotMasked):
    """Masks every vector with the same pad."""

    def deploy(self, terms: Terms) -> Any:
        return Altered(PlainDeployment(terms), lambda party, role: (Unpads if party == SERVER else PadsUpload)(role))


@dataclass(frozen=True, kw_only=True)
class Releasing(PlainSum):
    """Does not say that the server sees the sum."""

    @property
    def threat_model(self) -> Any:
        return replace(super().threat_model, learns={})


@dataclass(frozen=True, kw_only=True)
class Underestimating(PlainSum):
    def estimate(self, terms: Terms, cohort: int) -> Any:
        return tuple(replace(cost, bytes_sent=cost.bytes_sent * 9 // 10) for cost in super().estimate(terms, cohort))


@dataclass(frozen=True, kw_only=True)
class Optimistic(SecureAggregation):
    """States fewer contributors than it needs."""

    def least_contributors(self, cohort: int) -> int:
        return super().least_contributors(cohort) - 1


class Forgetful(PlainDeployment):
    """Takes an attempt number again."""

    def round(self, session: Session) -> Mapping[str, Any]:
        self._attempts = roles.Attempts(self._terms.cohort)
        return super().round(session)


class Blind(PlainDeployment):
    """Its ideal functionality loses nobody."""

    def contributors(self, session: Session, schedule: Any) -> tuple[int, ...]:
        return session.participants


class TwoUploads(PlainDeployment):
    @property
    def stages(self) -> tuple[Stage, ...]:
        return (*super().stages, Stage("again", CLIENT, "upload"))


@dataclass(frozen=True, kw_only=True)
class With(PlainSum):
    deployment: type[PlainDeployment]

    def deploy(self, terms: Terms) -> Any:
        return self.deployment(terms)


class Counting(PlainSum):
    """Not a value: it changes as it is used."""

    uses = 0

    def deploy(self, terms: Terms) -> Any:
        def alter(party: str, role: Any) -> Any:
            Counting.uses += 1
            return role

        return Altered(PlainDeployment(terms), alter)

    def __repr__(self) -> str:
        return f"Counting({self.uses})"


MUTANTS: dict[str, tuple[Any, str]] = {
    "off by one": (Broken(alter=server(OffByOne)), "check_sum_is_exact"),
    "saturates": (Broken(alter=server(Saturating)), "check_extremes_do_not_wrap"),
    "wraps silently": (NarrowRing(), "check_extremes_do_not_wrap"),
    "weighs clients differently": (Broken(alter=as_server(Weighing)), "check_order_does_not_matter"),
    "an ideal that loses nobody": (With(deployment=Blind), "check_dropouts_equal_ideal"),
    "states too small a threshold": (Optimistic(), "check_least_contributors"),
    "takes any numbers": (Broken(alter=clients(Lenient)), "check_refuses_bad_inputs"),
    "takes a second input": (Broken(alter=clients(Lenient)), "check_takes_one_input"),
    "acts twice": (Broken(alter=clients(Twice)), "check_acts_once"),
    "ignores duplicates": (Broken(alter=server(Deaf)), "check_refuses_duplicates"),
    "takes replays": (Broken(alter=contextless()), "check_refuses_replays"),
    "takes any sender": (Broken(alter=as_server(Trusting)), "check_refuses_wrong_parties"),
    "takes flipped bits": (Broken(alter=as_server(Trusting)), "check_notices_flipped_bits"),
    "fails in any way": (Broken(alter=as_server(Untyped)), "check_refuses_other_bytes"),
    "knows no context": (Broken(alter=contextless()), "check_refuses_other_contexts"),
    "reuses attempts": (With(deployment=Forgetful), "check_attempts_are_used_once"),
    "hides who sees the sum": (Releasing(), "check_threat_model"),
    "uploads twice": (With(deployment=TwoUploads), "check_stages"),
    "does not mask": (NotMasked(), "check_uploads_look_hidden"),
    "uses a mask again": (OnePad(), "check_uploads_look_hidden: .*most bytes in common"),
    "underestimates": (Underestimating(), "check_bytes_match_estimate"),
    "is no value": (Counting(), "check_descriptions_are_values"),
}


@pytest.mark.conformance
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_aggregator_fails(name: str) -> None:
    aggregator, check = MUTANTS[name]
    with pytest.raises(conformance.ConformanceFailure, match=check):
        conformance.check_aggregator(aggregator, cohorts=(4, 5, 8), flips=4)


def test_every_check_is_needed_by_a_mutant() -> None:
    assert {check.partition(":")[0] for _, check in MUTANTS.values()} == {
        check.__name__ for check in conformance.CHECKS
    }


@pytest.mark.conformance
def test_a_sound_aggregator_passes() -> None:
    conformance.check_aggregator(PlainSum())


def test_a_suite_without_a_cohort_is_refused() -> None:
    with pytest.raises(conformance.ConformanceFailure, match="cohort"):
        conformance.check_aggregator(SecureAggregation(min_cohort=50))
