"""What CKKS and Paillier share: the conformance suite, the exact sum, the authority's policy, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.aggregation import conformance
from fedpriv.aggregation.homomorphic import paillier
from fedpriv.aggregation.homomorphic.ckks import CKKS, DATA_SLOTS
from fedpriv.aggregation.homomorphic.envelope import seal
from fedpriv.aggregation.homomorphic.keys import Decryptions, KeyAuthority
from fedpriv.aggregation.homomorphic.paillier import Lanes, Paillier
from fedpriv.aggregation.homomorphic.roles import HomomorphicDeployment, HomomorphicServer
from fedpriv.aggregation.protocol import Session, Sum, Terms, perform, perform_ideal
from fedpriv.encoding import Bounded
from fedpriv.errors import (
    AuthenticationFailed,
    CohortTooSmall,
    ConfigurationError,
    ContextMismatch,
    DecryptionFailed,
    EncodingOverflow,
    PlanError,
    ProtocolError,
    TooFewSurvivors,
    UnexpectedMessage,
)
from fedpriv.network import Message, Network, Wire
from fedpriv.threat import AUTHORITY, SERVER, Coalition, Party, View, client

Protected: TypeAlias = CKKS | Paillier
SCHEMES = [CKKS(), Paillier(key_bits=2048)]
both = pytest.mark.parametrize("aggregator", SCHEMES, ids=["CKKS", "Paillier"])
COHORT, BOUND = 6, 2**15 - 1


def _terms(aggregator: Protected, length: int, cohort: int = COHORT, bound: int = BOUND, headroom: int = 0) -> Terms:
    domain = aggregator.domain(sum_bound=cohort * bound + headroom, length=length, cohort=cohort)
    return Terms(length=length, input_bound=bound, cohort=cohort, domain=domain, noise_headroom=headroom)


def _session(clients: int, attempt: int = 0, round: int = 0) -> Session:
    return Session(round=round, attempt=attempt, participants=tuple(range(clients)), context=b"context")


def _run(
    deployment: HomomorphicDeployment,
    session: Session,
    vectors: np.ndarray,
    tamper: Callable[[Message], Message | None] | None = None,
) -> Sum:
    wire = Wire(Network(), tamper=tamper)
    rows = dict(zip(session.parties, vectors, strict=True))
    return perform(deployment, session, wire, lambda present: [(p, rows[p]) for p in present], AUTHORITY)


def _per_ciphertext(aggregator: Protected, terms: Terms) -> int:
    return DATA_SLOTS if isinstance(aggregator, CKKS) else Lanes.of(terms, aggregator.key_bits - 1).count


# --- conformance --------------------------------------------------------------------------------------------------

BENCHES = {
    "CKKS": conformance.Bench(aggregator=CKKS(), bytes_tolerance=0.01),
    "Paillier": conformance.Bench(aggregator=Paillier(key_bits=2048)),
}


@pytest.mark.conformance
@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("scheme", BENCHES)
def test_conformance(scheme: str, check: conformance.Check) -> None:
    check(BENCHES[scheme])


# --- the exact sum ------------------------------------------------------------------------------------------------

DEPLOYED: dict[tuple[int, int], tuple[HomomorphicDeployment, Terms, int]] = {}
SHAPES = ["random", "constant", "negative", "alternating", "zero", "one"]


@both
@settings(max_examples=12)
@given(
    clients=st.integers(1, COHORT),
    full=st.integers(1, 2),
    tail=st.sampled_from([-1, 0, 1]),
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_integer_sum(
    aggregator: Protected, clients: int, full: int, tail: int, shape: str, seed: int
) -> None:
    """For K = 1 … K_max, lengths around whole ciphertexts, worst-case vectors, and any order of the clients."""
    aggregator = replace(aggregator, keys=KeyAuthority(min_contributors=1))
    key = (SCHEMES.index(replace(aggregator, keys=KeyAuthority())), 3 * full + tail)
    if key not in DEPLOYED:
        length = full * _per_ciphertext(aggregator, _terms(aggregator, 1)) + tail
        terms = _terms(aggregator, length)
        DEPLOYED[key] = (aggregator.deploy(terms), terms, 0)
    deployment, terms, attempt = DEPLOYED[key]
    DEPLOYED[key] = (deployment, terms, attempt + 2)
    rng = np.random.default_rng(seed)
    size = (clients, terms.length)
    vectors = {
        "random": lambda: rng.integers(-BOUND, BOUND + 1, size),
        "constant": lambda: np.full(size, BOUND),
        "negative": lambda: np.full(size, -BOUND),
        "alternating": lambda: np.tile(BOUND * (-1) ** np.arange(terms.length), (clients, 1)),
        "zero": lambda: np.zeros(size, dtype=np.int64),
        "one": lambda: np.eye(1, terms.length, terms.length - 1, dtype=np.int64) * BOUND * np.ones((clients, 1), int),
    }[shape]()
    total = _run(deployment, _session(clients, attempt), vectors).total
    assert np.array_equal(total, vectors.sum(0))
    assert np.array_equal(_run(deployment, _session(clients, attempt + 1), rng.permutation(vectors)).total, total)


@both
def test_noise_within_the_headroom_is_summed_exactly(aggregator: Protected) -> None:
    terms = _terms(aggregator, 5, bound=100, headroom=1000)
    vectors = np.zeros((COHORT, 5), dtype=np.int64)
    vectors[0], vectors[1] = 1100, -1100  # beyond the input bound by all of the headroom
    deployment = aggregator.deploy(terms)
    assert np.array_equal(_run(deployment, _session(COHORT), vectors).total, np.zeros(5))
    roles = deployment.round(_session(COHORT, attempt=1))
    with pytest.raises(EncodingOverflow):
        roles[client(0)].submit(np.full(5, 1101))  # type: ignore[attr-defined]


@both
def test_ideal_gives_the_same(aggregator: Protected) -> None:
    vectors = np.random.default_rng(0).integers(-BOUND, BOUND + 1, (COHORT, 9))
    deployment, session = aggregator.deploy(_terms(aggregator, 9)), _session(COHORT)
    real = _run(deployment, session, vectors)
    ideal = perform_ideal(deployment, session, {}, lambda present: zip(present, vectors, strict=True), 9)
    assert np.array_equal(real.total, ideal.total)
    assert real.contributors == ideal.contributors


# --- the authority's policy ---------------------------------------------------------------------------------------


@both
def test_fewer_than_the_minimum_are_refused(aggregator: Protected) -> None:
    deployment = aggregator.deploy(_terms(aggregator, 3))
    with pytest.raises(CohortTooSmall):
        deployment.round(_session(2))
    with pytest.raises(CohortTooSmall):
        deployment.contributors(_session(2), {})
    with pytest.raises(PlanError):
        aggregator.least_contributors(2)
    assert aggregator.least_contributors(3) == 3


@both
def test_the_authority_itself_refuses_too_few(aggregator: Protected) -> None:
    """A server without the check hands over the aggregate of one client: the authority does not decrypt it."""
    deployment = aggregator.deploy(_terms(aggregator, 3))
    roles = deployment.round(_session(3))
    server = roles[SERVER]
    assert isinstance(server, HomomorphicServer)
    server._keys = KeyAuthority(min_contributors=1)
    roles[client(0)].submit(np.ones(3, dtype=np.int64))  # type: ignore[attr-defined]
    for message in roles[client(0)].step("encrypt"):
        server.receive(message)
    for message in server.step("add"):
        roles[AUTHORITY].receive(message)
    with pytest.raises(TooFewSurvivors):
        roles[AUTHORITY].step("decrypt")
    assert deployment.decryptions == 0


@both
def test_decryptions_are_counted(aggregator: Protected) -> None:
    deployment = aggregator.deploy(_terms(aggregator, 3))
    for attempt in range(2):
        _run(deployment, _session(3, attempt), np.ones((3, 3), dtype=np.int64))
    assert deployment.decryptions == 2
    assert "2 decryptions" in repr(deployment)


def test_one_decryption_in_an_attempt_and_none_after_a_failure() -> None:
    record = Decryptions()
    record.begin(0, 0)
    with pytest.raises(UnexpectedMessage):
        record.begin(0, 0)
    record.begin(0, 1)
    record.failed(0)
    with pytest.raises(UnexpectedMessage):
        record.begin(0, 2)
    record.begin(1, 0)
    assert record.count == 3


@both
def test_a_failed_decryption_is_final_for_its_round(aggregator: Protected) -> None:
    terms = _terms(aggregator, 3)
    deployment, other = aggregator.deploy(terms), aggregator.deploy(terms)
    right, deployment._decryptor = deployment._decryptor, other._decryptor
    vectors = np.ones((3, 3), dtype=np.int64)
    with pytest.raises(ProtocolError) as failure:
        _run(deployment, _session(3), vectors)
    assert isinstance(failure.value, DecryptionFailed) or isinstance(aggregator, Paillier)  # or a residue beyond n²
    deployment._decryptor = right
    with pytest.raises(UnexpectedMessage, match="never again"):
        _run(deployment, _session(3, attempt=1), vectors)
    assert np.array_equal(_run(deployment, _session(3, round=1), vectors).total, [3, 3, 3])


@pytest.mark.parametrize("least", [0, -1, 2.5, True, "3"])
def test_minimum_is_a_positive_integer(least: object) -> None:
    with pytest.raises(ConfigurationError):
        KeyAuthority(min_contributors=least)  # type: ignore[arg-type]


# --- who learns what ----------------------------------------------------------------------------------------------


@both
def test_who_learns_what(aggregator: Protected) -> None:
    model = aggregator.threat_model
    assert model.releaser == AUTHORITY
    assert model.sees("server") == {View.COHORT, View.SURVIVORS, View.CIPHERTEXTS}
    assert View.EXACT_SUM in model.sees("authority")
    assert View.UPDATES not in model.sees("authority")
    assert model.sees("participant") == frozenset()
    assert model.sees("public") == frozenset()
    assert View.UPDATES not in model.sees(Coalition(server=True, clients=0.9)), "clients hold the public key alone"
    assert {View.UPDATES, View.EXACT_SUM} <= model.sees(Coalition(server=True, authority=True))
    assert SERVER in model.computational


@both
def test_no_role_of_client_or_server_reaches_the_secret_key(aggregator: Protected) -> None:
    """Everything that a client's or the server's role refers to, however deep, is searched."""
    deployment = aggregator.deploy(_terms(aggregator, 3))
    roles = deployment.round(_session(3))
    secret = deployment._decryptor._key  # type: ignore[attr-defined]

    hidden = {id(secret)} | {id(part) for name, part in vars(secret).items() if name != "public"}

    def reaches(thing: object, seen: set[int]) -> bool:
        if id(thing) in hidden:
            return True
        if id(thing) in seen:
            return False
        seen.add(id(thing))
        inside = list(getattr(thing, "__dict__", {}).values())
        inside += thing if isinstance(thing, list | tuple | set) else []
        return any(reaches(part, seen) for part in inside)

    assert reaches(roles[AUTHORITY], set()), "the search finds it where it is"
    for party, role in roles.items():
        if party != AUTHORITY:
            assert not reaches(role, set()), party


@both
def test_reprs_show_no_secret(aggregator: Protected) -> None:
    deployment = aggregator.deploy(_terms(aggregator, 3))
    roles = deployment.round(_session(3))
    roles[client(0)].submit(np.full(3, 12345))  # type: ignore[attr-defined]
    for thing in (deployment, deployment._decryptor, *roles.values()):
        text = repr(thing)
        assert len(text) < 120
        assert "12345" not in text


# --- refusals -----------------------------------------------------------------------------------------------------


@both
def test_one_client_too_many_is_refused(aggregator: Protected) -> None:
    deployment = aggregator.deploy(_terms(aggregator, 3))
    for refuse in (deployment.round, lambda session: deployment.contributors(session, {})):
        with pytest.raises(UnexpectedMessage):
            refuse(_session(COHORT + 1))


@both
def test_terms_that_can_overflow_are_refused(aggregator: Protected) -> None:
    """A domain for six clients does not serve seven."""
    small = _terms(aggregator, 3)
    with pytest.raises(PlanError):
        aggregator.deploy(replace(small, cohort=COHORT + 1))
    with pytest.raises(PlanError):
        aggregator.deploy(replace(small, domain=Bounded(COHORT * BOUND - 1)))
    with pytest.raises(PlanError):
        aggregator.domain(sum_bound=2**62, length=3, cohort=3)
    with pytest.raises(PlanError):  # noise of all clients together
        aggregator.deploy(replace(small, noise_headroom=2**60))


def _damage(kind: str, change: Callable[[Message], Message | None]) -> Callable[[Message], Message | None]:
    return lambda message: change(message) if message.stage == kind else message


def _flip(message: Message) -> Message:
    body = bytearray(message.body)
    body[len(body) // 2] ^= 1
    return replace(message, body=bytes(body))


@both
@pytest.mark.parametrize("stage", ["encrypt", "add"])
def test_a_flipped_bit_is_an_authentication_failure(aggregator: Protected, stage: str) -> None:
    deployment = aggregator.deploy(_terms(aggregator, 3))
    with pytest.raises(AuthenticationFailed):
        _run(deployment, _session(3), np.ones((3, 3), dtype=np.int64), _damage(stage, _flip))


@both
def test_uploads_of_another_key_context_or_round_are_refused(aggregator: Protected) -> None:
    terms = _terms(aggregator, 3)
    deployment, other = aggregator.deploy(terms), aggregator.deploy(terms)
    cases: list[tuple[HomomorphicDeployment, Session, type[ProtocolError]]] = [
        (other, _session(3), ContextMismatch),
        (deployment, replace(_session(3, attempt=1), context=b"another model"), UnexpectedMessage),
        (other, replace(_session(3), attempt=9), UnexpectedMessage),
        (other, replace(_session(3), round=9), UnexpectedMessage),
    ]
    for attempt, (source, session, error) in enumerate(cases):
        role = source.round(session)[client(0)]
        role.submit(np.ones(3, dtype=np.int64))  # type: ignore[attr-defined]
        server = deployment.round(_session(3, attempt=0 if attempt == 0 else 10 + attempt))[SERVER]
        for message in role.step("encrypt"):
            with pytest.raises(error):
                server.receive(message)
            with pytest.raises(UnexpectedMessage):  # the attempt is over
                server.step("add")


@both
@pytest.mark.parametrize("change", [{"sender": client(1)}, {"recipient": AUTHORITY}], ids=["sender", "recipient"])
def test_an_upload_is_its_senders_and_for_its_recipient(aggregator: Protected, change: dict[str, Party]) -> None:
    """A vector under the name of a client that has sent nothing yet; a message that was meant for another."""
    roles = aggregator.deploy(_terms(aggregator, 3)).round(_session(3))
    roles[client(0)].submit(np.ones(3, dtype=np.int64))  # type: ignore[attr-defined]
    (message,) = roles[client(0)].step("encrypt")
    with pytest.raises(UnexpectedMessage):
        roles[SERVER].receive(replace(message, **change))


@pytest.fixture
def chunked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Protected], tuple[HomomorphicDeployment, int]]:
    """A deployment in which a vector takes two messages, and the vector's length."""
    monkeypatch.setattr(paillier, "MESSAGE_BYTES", 512)  # one ciphertext of a 2048-bit key

    def deploy(aggregator: Protected) -> tuple[HomomorphicDeployment, int]:
        aggregator = replace(aggregator, keys=KeyAuthority(min_contributors=1))
        length = _per_ciphertext(aggregator, _terms(aggregator, 1, cohort=2)) + 1
        return aggregator.deploy(_terms(aggregator, length, cohort=2)), length

    return deploy


Chunked: TypeAlias = Callable[[Protected], tuple[HomomorphicDeployment, int]]


@both
@pytest.mark.parametrize("order", [[0, 0], [1], [0, 1, 0], [0, 1, 1]], ids=str)
def test_chunks_come_once_each_and_in_order(aggregator: Protected, chunked: Chunked, order: list[int]) -> None:
    deployment, length = chunked(aggregator)
    roles = deployment.round(_session(2))
    roles[client(0)].submit(np.ones(length, dtype=np.int64))  # type: ignore[attr-defined]
    chunks = roles[client(0)].step("encrypt")
    assert len(chunks) == 2
    for place in order[:-1]:
        roles[SERVER].receive(chunks[place])
    with pytest.raises(UnexpectedMessage):
        roles[SERVER].receive(chunks[order[-1]])


@both
def test_a_client_lost_within_its_upload_is_not_in_the_sum(aggregator: Protected, chunked: Chunked) -> None:
    """The last chunk of one client never arrives: the sum is the others', exactly."""
    deployment, length = chunked(aggregator)
    sent: list[Party] = []

    def swallow(message: Message) -> Message | None:
        sent.append(message.sender)
        return None if message.sender == client(0) and sent.count(client(0)) > 1 else message

    vectors = np.array([np.ones(length), -np.ones(length)], dtype=np.int64)
    result = _run(deployment, _session(2), vectors, swallow)
    assert result.contributors == (1,)
    assert np.array_equal(result.total, vectors[1])


@both
def test_the_server_keeps_one_vector(aggregator: Protected, chunked: Chunked) -> None:
    """Uploads are folded in as they complete, chunks of two clients interleaved."""
    deployment, length = chunked(aggregator)
    roles = deployment.round(_session(2))
    server = roles[SERVER]
    assert isinstance(server, HomomorphicServer)
    uploads = []
    for party in (client(0), client(1)):
        roles[party].submit(np.ones(length, dtype=np.int64))  # type: ignore[attr-defined]
        uploads.append(roles[party].step("encrypt"))
    for pair in zip(*uploads, strict=True):
        for message in pair:
            server.receive(message)
    assert (len(server._totals), server._arriving) == (2, {})
    for message in server.step("add"):
        roles[AUTHORITY].receive(message)
    assert server._totals == []
    roles[AUTHORITY].step("decrypt")
    assert np.array_equal(roles[AUTHORITY].result().total, np.full(length, 2))  # type: ignore[attr-defined]


@both
@pytest.mark.parametrize("named", [((0, 1), (0,)), ((0, 7), (0, 7))], ids=["differing", "unknown"])
def test_aggregates_name_their_contributors(
    aggregator: Protected, chunked: Chunked, named: tuple[tuple[int, ...], ...]
) -> None:
    """All chunks name the same clients, and only participants."""
    deployment, _ = chunked(aggregator)
    roles = deployment.round(_session(2))
    label = roles[AUTHORITY]._label  # type: ignore[attr-defined]
    first, second = (
        Message(SERVER, AUTHORITY, "add", seal(label, chunk, contributors, b"x"))
        for chunk, contributors in enumerate(named)
    )
    with pytest.raises(UnexpectedMessage):  # noqa: PT012
        roles[AUTHORITY].receive(first)
        roles[AUTHORITY].receive(second)


@both
def test_a_lost_or_altered_aggregate_is_refused(aggregator: Protected) -> None:
    deployment = aggregator.deploy(_terms(aggregator, 3))
    vectors = np.ones((3, 3), dtype=np.int64)
    with pytest.raises(UnexpectedMessage, match="1 chunks"):
        _run(deployment, _session(3), vectors, _damage("add", lambda message: None))
    assert deployment.decryptions == 0


@both
def test_a_wrong_number_of_additions_shows(aggregator: Protected) -> None:
    """A server that folds one client's ciphertext in twice: the counter in the ciphertext does not fit."""
    deployment = aggregator.deploy(_terms(aggregator, 3))
    roles = dict(deployment.round(_session(4)))
    server = roles[SERVER]
    assert isinstance(server, HomomorphicServer)
    for party in map(client, range(3)):
        roles[party].submit(np.ones(3, dtype=np.int64))  # type: ignore[attr-defined]
        for message in roles[party].step("encrypt"):
            server.receive(message)
            if party == client(0):
                server._contributors.clear()
                server.receive(message)
    for message in server.step("add"):
        roles[AUTHORITY].receive(message)
    with pytest.raises(DecryptionFailed):
        roles[AUTHORITY].step("decrypt")
    with pytest.raises(ProtocolError):
        roles[AUTHORITY].result()  # type: ignore[attr-defined]


@both
def test_a_sum_beyond_the_bound_is_refused(aggregator: Protected) -> None:
    """Inputs that a client's role would refuse are encrypted all the same: the authority releases nothing."""
    deployment = aggregator.deploy(_terms(aggregator, 3, cohort=3, bound=1000))
    roles = deployment.round(_session(3))
    for party in map(client, range(3)):
        role = roles[party]
        role._input._vector = np.full(3, 1020)  # type: ignore[attr-defined]
        for message in role.step("encrypt"):
            roles[SERVER].receive(message)
    for message in roles[SERVER].step("add"):
        roles[AUTHORITY].receive(message)
    with pytest.raises(DecryptionFailed):
        roles[AUTHORITY].step("decrypt")


@pytest.mark.parametrize("aggregator", [CKKS(), Paillier(key_bits=2048)])
def test_the_public_key_that_every_client_is_sent_is_counted(aggregator: CKKS | Paillier) -> None:
    domain = aggregator.domain(sum_bound=300, length=4, cohort=3)
    deployment = aggregator.deploy(Terms(length=4, input_bound=100, cohort=3, domain=domain))
    assert deployment.key_bytes == len(deployment._encryptor._key.to_bytes()) > 0
