"""Rounds with any losses: the ideal sum or the ideal abort. One vector on the server. No secret left behind."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.aggregation import PlainSum, SecureAggregation, Session, Terms, perform, perform_ideal
from fedpriv.aggregation.conformance.bench import Altered
from fedpriv.aggregation.secagg import messages as m
from fedpriv.crypto import prg
from fedpriv.errors import ContextMismatch, MalformedMessage, RoundAborted, TooFewSurvivors, UnexpectedMessage
from fedpriv.network import Message, Network, Wire
from fedpriv.threat import SERVER, client


def attempt(action: Any) -> Any:
    try:
        result = action()
    except RoundAborted as error:
        return type(error)
    return result.contributors, result.total.tolist()


MODES = {
    "complete": (4, 9, [SecureAggregation(), SecureAggregation(corrupt=0.0, dropout=0.5, min_cohort=2)]),
    "malicious": (
        4,
        9,
        [
            SecureAggregation(adversary="malicious"),
            SecureAggregation(adversary="malicious", corrupt=0.0, dropout=0.25, min_cohort=2),
        ],
    ),
    "chacha20": (
        4,
        9,
        [
            SecureAggregation(masks="chacha20", corrupt=0.0, dropout=0.5, min_cohort=2),
            SecureAggregation(masks="chacha20", adversary="malicious", corrupt=0.0, dropout=0.25, min_cohort=2),
        ],
    ),
    "regular": (
        24,
        32,
        [
            SecureAggregation(graph="regular", corrupt=0.0, dropout=0.25),
            SecureAggregation(graph="regular", corrupt=0.04, dropout=0.1, min_cohort=20),
        ],
    ),
}


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=40)
@given(st.data())
def test_any_losses_give_the_ideal_sum_or_the_ideal_abort(mode: str, data: st.DataObject) -> None:
    fewest, most, descriptions = MODES[mode]
    n = data.draw(st.integers(fewest, most))
    length = data.draw(st.integers(1, 70))
    bits = data.draw(st.integers(2, 56))
    description = data.draw(st.sampled_from(descriptions))
    bound = 2 ** (bits - 1) - 1
    domain = description.domain(sum_bound=n * bound, length=length, cohort=n)
    terms = Terms(length=length, input_bound=bound, cohort=n, domain=domain)
    stages = [stage.name for stage in description.deploy(terms).stages]
    most_lost = data.draw(st.sampled_from([2, n]))
    lost = data.draw(st.dictionaries(st.integers(0, n - 1), st.sampled_from(stages), max_size=most_lost))
    schedule = {client(5 * i): stage for i, stage in lost.items()}
    context = data.draw(st.binary(max_size=4))  # another graph
    session = Session(round=3, attempt=1, participants=tuple(5 * i for i in range(n)), context=context)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    vectors = {party: rng.integers(-bound, bound, length, endpoint=True) for party in session.parties}
    extreme = data.draw(st.sampled_from([None, bound, -bound]))
    if extreme is not None:
        vectors = {party: np.full(length, extreme) for party in session.parties}

    def inputs(parties: Any) -> Any:
        return [(party, vectors[party]) for party in parties]

    deployment = description.deploy(terms)
    real = attempt(lambda: perform(deployment, session, Wire(Network(), schedule=schedule), inputs, SERVER))
    ideal = attempt(lambda: perform_ideal(deployment, session, schedule, inputs, length))
    assert real == ideal


def test_parties_with_different_masks_do_not_interoperate() -> None:
    (aes, session, _), (chacha, _, _) = setting(5, 4), setting(5, 4, masks="chacha20")
    ours, theirs = aes.round(session), chacha.round(session)
    (message,) = theirs[client(0)].step(m.ADVERTISE)
    with pytest.raises(ContextMismatch):
        ours[SERVER].receive(message)
    theirs[SERVER].receive(message)


def test_masks_are_of_the_cipher_that_was_agreed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients and server that all took the default would agree as well."""
    used: list[object] = []
    real = prg.mask

    def noted(*arguments: Any, **options: Any) -> None:
        used.append(options["cipher"])
        real(*arguments, **options)

    monkeypatch.setattr(prg, "mask", noted)
    deployment, session, _ = setting(5, 4, masks="chacha20")
    vectors = {party: np.arange(4) for party in session.parties}
    found = perform(
        deployment,
        session,
        Wire(Network(), schedule={client(2): m.MASKED}),
        lambda parties: [(party, vectors[party]) for party in parties],
        SERVER,
    )
    assert found.total.tolist() == [0, 4, 8, 12]
    assert used == ["chacha20"] * 6  # four clients; their own masks and those of the lost


def setting(n: int, length: int, **arguments: Any) -> tuple[Any, Session, Terms]:
    description = SecureAggregation(**arguments)
    domain = description.domain(sum_bound=100 * n, length=length, cohort=n)
    terms = Terms(length=length, input_bound=100, cohort=n, domain=domain)
    session = Session(round=0, attempt=0, participants=tuple(range(n)), context=b"context")
    return description.deploy(terms), session, terms


def test_the_sum_is_that_of_the_plain_protocol() -> None:
    deployment, session, terms = setting(6, 33)
    vectors = {party: np.arange(33) - 7 * i for i, party in enumerate(session.parties)}

    def inputs(parties: Any) -> Any:
        return [(party, vectors[party]) for party in parties]

    plain = PlainSum().deploy(terms)
    schedule = {client(2): m.MASKED}
    masked = perform(deployment, session, Wire(Network(), schedule=schedule), inputs, SERVER)
    clear = perform(plain, session, Wire(Network(), schedule={client(2): "upload"}), inputs, SERVER)
    assert masked.contributors == clear.contributors
    assert np.array_equal(masked.total, clear.total)


def test_a_client_lost_after_its_upload_stays_in_the_sum() -> None:
    deployment, session, _ = setting(6, 3, dropout=0.2)
    result = perform(
        deployment,
        session,
        Wire(Network(), schedule={client(5): m.UNMASK}),
        lambda parties: [(party, np.ones(3, dtype=np.int64)) for party in parties],
        SERVER,
    )
    assert result.contributors == (0, 1, 2, 3, 4, 5)
    assert result.total.tolist() == [6, 6, 6]


def test_the_server_holds_one_vector() -> None:
    """Taking in 12 masked vectors of 1.6 MB needs less than two vectors of memory beyond the messages themselves."""
    length = 400_000
    deployment, session, _ = setting(12, length)
    roles = deployment.round(session)
    waiting: list[Message] = []
    for stage in deployment.stages[:5]:
        actors = [SERVER] if stage.actor == SERVER else session.parties
        for party in actors:
            if stage.name == m.MASKED:
                roles[party].submit(np.zeros(length, dtype=np.int64))
            for message in roles[party].step(stage.name):
                if stage.name == m.MASKED:
                    waiting.append(message)
                else:
                    roles[message.recipient].receive(message)
    tracemalloc.start()
    for message in waiting:
        roles[SERVER].receive(message)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * length * 2  # ring elements of 12 bits are held in 16


def secrets_of(role: Any) -> set[str]:
    return {"_envelope_key", "_mask_key", "_seed", "_openers", "_shares"} & set(vars(role))


@pytest.mark.parametrize("answering", [6, 1])
def test_secrets_are_dropped_after_the_last_answer_and_when_an_attempt_aborts(answering: int) -> None:
    deployment, session, _ = setting(6, 3)
    kept: dict[str, Any] = {}
    altered = Altered(deployment, lambda party, role: kept.setdefault(party, role))
    schedule = {client(i): m.UNMASK for i in range(answering, 6)}
    outcome = attempt(
        lambda: perform(
            altered,
            session,
            Wire(Network(), schedule=schedule),
            lambda parties: [(party, np.ones(3, dtype=np.int64)) for party in parties],
            SERVER,
        )
    )
    assert (outcome is TooFewSurvivors) == (answering == 1)
    assert not any(secrets_of(kept[client(i)]) for i in range(answering))


def test_a_refused_message_ends_the_role_and_drops_its_secrets() -> None:
    deployment, session, _ = setting(6, 3)
    role: Any = deployment.round(session)[client(0)]
    role.step(m.ADVERTISE)
    assert secrets_of(role)
    secret = role._mask_key.secret().hex()
    assert secret not in repr(role)
    with pytest.raises(MalformedMessage) as refusal:
        role.receive(Message(SERVER, client(0), m.ROSTER, b"garbage"))
    assert secret not in str(refusal.value)
    assert not secrets_of(role)
    with pytest.raises(UnexpectedMessage):
        role.step(m.SHARE)
