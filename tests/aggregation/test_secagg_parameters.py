"""The threshold: worked by hand, and its promises for every accepted description."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.aggregation import SecureAggregation, Session, Terms
from fedpriv.encoding import Bounded
from fedpriv.errors import CohortTooSmall, ConfigurationError, PlanError
from fedpriv.threat import Coalition, View


@pytest.mark.parametrize(
    ("n", "corrupt", "dropout", "c", "f", "t"),
    [
        (4, 0.1, 0.1, 1, 1, 3),  # min(⌊5/2⌋ + 1, 3)
        (5, 0.1, 0.1, 1, 1, 4),  # min(⌊6/2⌋ + 1, 4)
        (10, 0.1, 0.1, 1, 1, 6),  # min(⌊11/2⌋ + 1, 9)
        (30, 0.1, 0.1, 3, 3, 17),
        (100, 0.07, 0.07, 7, 7, 54),  # 0.07 · 100 is 7, though 0.07 * 100 > 7 in floats
        (100, 0.1, 0.1, 10, 10, 56),
        (100, 0.1, 0.6, 10, 60, 40),  # losses lower it: n − f
        (100, 0.0, 0.0, 0, 0, 51),
        (3, 0.0, 0.0, 0, 0, 2),
        (200, 0.33, 0.3, 66, 60, 134),
    ],
)
def test_thresholds_worked_by_hand(n: int, corrupt: float, dropout: float, c: int, f: int, t: int) -> None:
    found = SecureAggregation(corrupt=corrupt, dropout=dropout, graph="complete").parameters(n)
    assert (found.corrupt, found.dropouts, found.threshold) == (c, f, t)


@given(
    st.integers(1, 2000),
    st.floats(0, 0.99),
    st.floats(0, 0.99),
    st.integers(2, 20),
    st.sampled_from(
        [("honest-but-curious", graph) for graph in ("auto", "complete", "regular")] + [("malicious", "auto")]
    ),
)
def test_what_holds_for_every_accepted_cohort(
    n: int, corrupt: float, dropout: float, min_cohort: int, mode: tuple[Any, Any]
) -> None:
    adversary, graph = mode
    description = SecureAggregation(
        adversary=adversary, corrupt=corrupt, dropout=dropout, min_cohort=min_cohort, graph=graph
    )
    try:
        found = description.parameters(n)
    except PlanError:
        return
    assert found.corrupt >= corrupt * n - 1e-6
    assert found.dropouts >= dropout * n - 1e-6
    assert 2 <= found.threshold <= found.least <= n - found.dropouts
    assert found.least >= min_cohort
    assert found.least - found.corrupt >= 2
    if found.graph == "complete":
        assert found.degree == n - 1
        assert found.threshold - found.corrupt >= 2
        assert found.privacy_failure == found.correctness_failure == 0.0
    else:
        assert found.degree < n - 1
        assert found.least == max(n - found.dropouts, min_cohort)
        assert found.privacy_failure <= 2.0**-40
        assert found.correctness_failure <= 2.0**-20
    if adversary == "malicious":
        assert found.graph == "complete"
        assert 2 * found.threshold > n + found.corrupt


def test_which_graph_is_taken() -> None:
    """Regular from 200 invited clients on, where its degree is below n / 2; never against a malicious server."""
    assert SecureAggregation().parameters(199).graph == "complete"
    found = SecureAggregation().parameters(200)
    assert (found.graph, found.degree, found.threshold, found.least) == ("regular", 34, 19, 180)  # facts of the finder
    assert SecureAggregation(graph="complete").parameters(200).graph == "complete"
    assert SecureAggregation(graph="regular").parameters(100).graph == "regular"
    assert SecureAggregation(corrupt=0.33, dropout=0.33).parameters(200).graph == "complete"  # k = 122
    assert SecureAggregation(adversary="malicious").parameters(1000).graph == "complete"
    with pytest.raises(PlanError):
        SecureAggregation(graph="regular", corrupt=0.5, dropout=0.45).parameters(200)


@pytest.mark.parametrize(("n", "corrupt", "dropout"), [(10, 0.3, 0.4), (100, 0.33, 0.34), (4, 0.0, 0.5)])
def test_a_malicious_server_leaves_room_for_fewer_losses(n: int, corrupt: float, dropout: float) -> None:
    """2t > n + c and t ≤ n − f: refused with the remedy, where an honest-but-curious server is not."""
    assert SecureAggregation(corrupt=corrupt, dropout=dropout, min_cohort=2).parameters(n).threshold == round(
        n - dropout * n
    )
    with pytest.raises(PlanError, match=r"until c \+ 2f ≤ n − 2"):
        SecureAggregation(adversary="malicious", corrupt=corrupt, dropout=dropout, min_cohort=2).parameters(n)


@pytest.mark.parametrize(
    "arguments", [{"graph": "complete"}, {"graph": "regular"}, {"adversary": "malicious"}], ids=str
)
def test_costs_before_a_run(arguments: dict[str, Any]) -> None:
    description = SecureAggregation(corrupt=0.05, dropout=0.05, **arguments)
    found = description.parameters(100, length=1000, input_bound=300)
    assert found == description.parameters(100)  # costs are a forecast, no part of what is agreed on
    up, down = found.client_bytes
    vector = 1000 * 16 // 8  # 100 · 300 < 2^15
    assert vector + 96 * found.degree < up < vector + 200 * found.degree + 400
    assert 96 * found.degree < down < 500 * found.degree + 600
    assert 0 < found.seconds("client") < 10
    assert 0 < found.seconds("server") < 100


@pytest.mark.parametrize(
    ("n", "arguments"),
    [
        (3, {}),  # c = f = 1, t = 2: one honest client
        (10, {"corrupt": 0.5, "dropout": 0.5}),  # t = c
        (10, {"corrupt": 0.9}),
        (2, {"min_cohort": 3}),
        (5, {"min_cohort": 5, "dropout": 0.2}),  # a permitted loss would always abort
        (1, {"corrupt": 0.0, "dropout": 0.0, "min_cohort": 2}),
    ],
)
def test_refused_in_a_plan(n: int, arguments: dict[str, float]) -> None:
    description = SecureAggregation(**arguments)  # type: ignore[arg-type]
    with pytest.raises(PlanError):
        description.least_contributors(n)
    with pytest.raises(PlanError):
        description.deploy(terms(description, n))


def test_a_cohort_that_was_sampled_too_small_is_an_abort() -> None:
    """Poisson sampling may draw one: the run goes on, the attempt does not."""
    description = SecureAggregation()
    deployment = description.deploy(terms(description, 50))
    session = Session(round=0, attempt=0, participants=(0, 1, 2), context=b"")
    with pytest.raises(CohortTooSmall):
        deployment.contributors(session, {})
    with pytest.raises(CohortTooSmall):
        deployment.round(session)


def terms(description: SecureAggregation, cohort: int) -> Terms:
    domain = description.domain(sum_bound=10 * cohort, length=3, cohort=cohort)
    return Terms(length=3, input_bound=10, cohort=cohort, domain=domain)


@pytest.mark.parametrize(
    "arguments",
    [
        {"adversary": "malicious", "graph": "regular"},
        {"graph": "star"},
        {"adversary": "semi-malicious"},
        {"adversary": "benign"},
        {"corrupt": 1.0},
        {"corrupt": -0.1},
        {"dropout": 1.5},
        {"dropout": float("nan")},
        {"dropout": "0.1"},
        {"masks": "rc4"},
        {"min_cohort": 1},
        {"min_cohort": 2.5},
        {"min_cohort": True},
    ],
)
def test_arguments_outside_their_range(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        SecureAggregation(**arguments)  # type: ignore[arg-type]


def test_sums_live_in_a_ring() -> None:
    description = SecureAggregation()
    with pytest.raises(PlanError):
        description.deploy(Terms(length=3, input_bound=10, cohort=10, domain=Bounded(100)))


def test_the_ring_is_the_smallest() -> None:
    ring = SecureAggregation().domain(sum_bound=2**19, length=1, cohort=10)
    assert ring.largest >= 2**19
    assert ring == type(ring)(21)
    assert SecureAggregation().domain(sum_bound=2**19 - 1, length=1, cohort=10) == type(ring)(20)


def test_eavesdroppers_are_assumed_away() -> None:
    """Whoever reads all channels sees what the server sees, and the claim on clients would not hold."""
    assert any("confidential" in assumption for assumption in SecureAggregation().threat_model.assumptions)


@pytest.mark.parametrize("adversary", ["honest-but-curious", "malicious"])
def test_the_masks_cipher_is_assumed(adversary: Literal["honest-but-curious", "malicious"]) -> None:
    model = SecureAggregation(adversary=adversary, masks="chacha20").threat_model
    assert any("ChaCha20" in assumption for assumption in model.assumptions)
    assert not any("AES-256-CTR" in assumption for assumption in model.assumptions)


def test_a_malicious_server_is_assumed_not_to_invite_its_own() -> None:
    """What is proved is about the invited; a cohort of the adversary's choosing is one honest client and itself."""
    malicious = SecureAggregation(adversary="malicious").threat_model
    assert any("invites" in assumption for assumption in malicious.assumptions)


def test_who_learns_what() -> None:
    model = SecureAggregation(corrupt=0.1).threat_model
    assert View.UPDATES not in model.sees("server")
    assert View.EXACT_SUM in model.sees("server")
    assert View.EXACT_SUM not in model.sees("participant")
    assert View.UPDATES not in model.sees(Coalition(server=True, clients=0.1))
    assert View.UPDATES in model.sees(Coalition(server=True, clients=0.2))
