"""What CKKS and Paillier share: the conformance suite, the exact sum, who learns what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schemes import BOUND, COHORT, SCHEMES, Protected, both, per_ciphertext, run, session_of, terms_of

from fedpriv.aggregation import conformance
from fedpriv.aggregation.homomorphic.ckks import CKKS
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.homomorphic.keys import KeyAuthority
from fedpriv.aggregation.homomorphic.paillier import Paillier
from fedpriv.aggregation.protocol import Terms, perform_ideal
from fedpriv.errors import (
    EncodingOverflow,
)
from fedpriv.threat import AUTHORITY, SERVER, Coalition, View, client

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
        length = full * per_ciphertext(aggregator, terms_of(aggregator, 1)) + tail
        terms = terms_of(aggregator, length)
        DEPLOYED[key] = (aggregator.deploy(terms), terms, 0)
    deployment, terms, done = DEPLOYED[key]
    DEPLOYED[key] = (deployment, terms, done + 2)
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
    total = run(deployment, session_of(clients, round=done), vectors).total
    assert np.array_equal(total, vectors.sum(0))
    assert np.array_equal(run(deployment, session_of(clients, round=done + 1), rng.permutation(vectors)).total, total)


@both
def test_inputs_at_their_bound_are_summed_exactly_and_none_beyond_is_taken(aggregator: Protected) -> None:
    terms = terms_of(aggregator, 5, bound=1100)
    vectors = np.zeros((COHORT, 5), dtype=np.int64)
    vectors[0], vectors[1] = 1100, -1100
    deployment = aggregator.deploy(terms)
    assert np.array_equal(run(deployment, session_of(COHORT), vectors).total, np.zeros(5))
    roles = deployment.round(session_of(COHORT, attempt=1))
    with pytest.raises(EncodingOverflow):
        roles[client(0)].submit(np.full(5, 1101))  # type: ignore[attr-defined]


@both
def test_ideal_gives_the_same(aggregator: Protected) -> None:
    vectors = np.random.default_rng(0).integers(-BOUND, BOUND + 1, (COHORT, 9))
    deployment, session = aggregator.deploy(terms_of(aggregator, 9)), session_of(COHORT)
    real = run(deployment, session, vectors)
    ideal = perform_ideal(deployment, session, {}, lambda present: zip(present, vectors, strict=True), 9)
    assert np.array_equal(real.total, ideal.total)
    assert real.contributors == ideal.contributors


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
    deployment = aggregator.deploy(terms_of(aggregator, 3))
    roles = deployment.round(session_of(3))
    secret = deployment._decryptor._key  # type: ignore[attr-defined]

    hidden = {id(secret)} | {id(part) for name, part in vars(secret).items() if name not in ("public", "code")}

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
    deployment = aggregator.deploy(terms_of(aggregator, 3))
    roles = deployment.round(session_of(3))
    roles[client(0)].submit(np.full(3, 12345))  # type: ignore[attr-defined]
    for thing in (deployment, deployment._decryptor, *roles.values()):
        text = repr(thing)
        assert len(text) < 120
        assert "12345" not in text


@pytest.mark.parametrize("aggregator", [CKKS(), Paillier(key_bits=2048)])
def test_the_public_key_that_every_client_is_sent_is_counted(aggregator: CKKS | Paillier) -> None:
    domain = aggregator.domain(sum_bound=300, length=4, cohort=3)
    deployment = aggregator.deploy(Terms(length=4, input_bound=100, cohort=3, domain=domain))
    assert deployment.key_bytes == len(deployment._encryptor._key.to_bytes()) > 0
