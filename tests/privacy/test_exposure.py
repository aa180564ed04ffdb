"""Noise inside updates, answers that lie, and noise that later rounds take back."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from ledgers import DELTA, gaussian_epsilon, ledger_of
from scipy.optimize import brentq

from fedpriv.errors import ConfigurationError, UnsupportedAccounting
from fedpriv.privacy import FullParticipation, Ledger, PoissonSampling
from fedpriv.privacy.correlation import Correlation
from fedpriv.privacy.ledger import accounting
from fedpriv.privacy.ledger.composition import Composition
from fedpriv.privacy.ledger.event import Response
from fedpriv.threat import Coalition

EVERYBODY = ("server", "participant", "public", Coalition(server=True, clients=0.2))
ANSWER = Response(epsilon=1.0, categories=2)


@pytest.fixture
def answer(event):
    def make(cohort=(0,), detail=ANSWER, **more):
        fields = {"mechanism": "randomized-response", "trust": "local", "adjacency": "replace-one", **more}
        return event(cohort, 0.0, clip_norm=None, detail=detail, **fields)

    return make


@pytest.fixture
def correlated(event):
    def make(correlation, cohort, round, sigma=2.0, **more):
        return event(cohort, sigma, round=round, detail=correlation, **more)

    return make


@pytest.mark.parametrize("hidden", [False, True])
def test_local_noise_protects_against_everybody_and_is_never_amplified(plain, keyed, event, hidden) -> None:
    """Three of five rounds; the cohort's rate is in no figure, for a client that stays away brings no noise either."""
    sampling = PoissonSampling(0.3).accounting(10) if hidden else None
    cohorts = [(0, 1), (0,), (1, 2), (), (0, 3)]
    for threat in (plain, keyed):
        ledger = ledger_of(
            threat, *(event(c, 4.0, round=r, trust="local", sampling=sampling) for r, c in enumerate(cohorts))
        )
        for observer in EVERYBODY:
            statement = ledger.statement(DELTA, observer=observer)
            assert statement.epsilon == pytest.approx(gaussian_epsilon(4.0 / math.sqrt(3)), abs=1e-6)
            assert (statement.participations, statement.computational, statement.amplified) == (3, False, False)
            assert "inside each update" in statement.reason
    assert "not protected from itself" in ledger.statement(DELTA, observer="participant").reason


def test_an_aborted_round_of_local_noise_counts(plain, event) -> None:
    """The updates were sent before it was aborted."""
    ledger = ledger_of(plain, event((0,), 4.0, trust="local", contributors=0))
    assert ledger.epsilon(DELTA, observer="server") == pytest.approx(gaussian_epsilon(4.0), abs=1e-6)
    with pytest.raises(UnsupportedAccounting, match="its noise"):
        ledger_of(plain, event((0,), 4.0, trust="local", adjacency="add-remove"), adjacency="add-remove").epsilon(
            DELTA, observer="public"
        )


def test_local_and_central_noise_in_one_ledger(keyed, plain, event) -> None:
    ledger = ledger_of(keyed, event((0,), 3.0), event((0,), 4.0, round=1, trust="local"))
    both = 1 / math.sqrt(1 / 9 + 1 / 16)
    assert ledger.epsilon(DELTA, observer="public") == pytest.approx(gaussian_epsilon(both), abs=1e-6)
    seen = ledger_of(plain, *ledger.events).statement(DELTA, observer="server")
    assert seen.epsilon == math.inf


def response_epsilon(times: int, epsilon: float, delta: float) -> float:
    """k coin tosses against k of the other coin, exact: the privacy loss is (2 Bin - k)·ε."""
    from scipy.optimize import brentq
    from scipy.stats import binom

    p = math.exp(epsilon) / (1 + math.exp(epsilon))
    there = np.arange(times + 1)
    one, two = binom.pmf(there, times, p), binom.pmf(there, times, 1 - p)
    return brentq(lambda e: np.clip(one - math.exp(e) * two, 0, None).sum() - delta, 0, times * epsilon)


@pytest.mark.parametrize("times", [1, 5, 12])
def test_randomised_responses_compose_exactly(plain, answer, times) -> None:
    """dp-accounting 0.6 composes one response in PLD, whatever count it is given."""
    ledger = ledger_of(plain, answer(count=times), adjacency="replace-one")
    for observer in EVERYBODY:
        statement = ledger.statement(DELTA, observer=observer)
        assert statement.accountant == "pld"
        assert statement.epsilon == pytest.approx(response_epsilon(times, 1.0, DELTA), abs=2e-4 * times)
        assert statement.epsilon <= statement.rdp_epsilon
        assert f"needs no δ: ε = {times} at δ = 0" in statement.reason
    assert ledger.delta(statement.epsilon, observer="public") <= DELTA * (1 + 1e-6)


def test_the_count_that_dp_accounting_forgets() -> None:
    """So that an upstream fix is noticed: then responses need not be composed one by one."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_ONE)
    accountant.compose(dp_accounting.dp_event.RandomizedResponseDpEvent(2 / (math.e + 1), 2), 5)
    assert accountant.get_epsilon(DELTA) == pytest.approx(1.0, abs=1e-4)


def test_responses_beside_gaussians(plain, answer, event) -> None:
    noise = event((0, 1), 4.0, trust="local", adjacency="replace-one", round=1)
    both = ledger_of(plain, answer((1,)), noise, adjacency="replace-one").statement(DELTA, observer="server")
    alone = ledger_of(plain, noise, adjacency="replace-one").epsilon(DELTA, observer="server")
    assert alone == pytest.approx(gaussian_epsilon(2.0), abs=1e-6)
    assert both.accountant == "pld"
    assert alone + 0.2 < both.epsilon < alone + 1.0 + 1e-3
    assert both.epsilon < both.rdp_epsilon
    assert both.participations == 2


def test_a_response_is_for_replaced_answers(plain, answer) -> None:
    for adjacency in ("zero-out", "add-remove"):
        with pytest.raises(UnsupportedAccounting, match="replace-one"):
            ledger_of(plain, answer(adjacency=adjacency), adjacency=adjacency).epsilon(DELTA, observer="public")
    with pytest.raises(UnsupportedAccounting, match="replace-one"):
        accounting.epsilon(Composition(responses=((ANSWER, 1),)), DELTA, "zero-out", "rdp")
    for bad in (
        {"epsilon": 0.0, "categories": 2},
        {"epsilon": 1.0, "categories": 1},
        {"epsilon": 1e4, "categories": 2},
    ):
        with pytest.raises(ConfigurationError):
            Response(**bad)


TREE = Correlation(kind="tree", rounds=8)
BAND = Correlation(kind="banded", rounds=6, coefficients=(1.0, 0.5, -0.25))


def matrix(correlation: Correlation) -> np.ndarray:
    """C itself, by its definition."""
    n = correlation.rounds
    if correlation.kind == "banded":
        return np.array(
            [[correlation.coefficients[t - s] if 0 <= t - s < 3 else 0.0 for s in range(n)] for t in range(n)]
        )
    nodes = [(0, 1), (0, 2), (2, 3), (0, 4), (4, 5), (4, 6), (6, 7), (0, 8)]  # those that prefixes are made of
    return np.array([[float(start <= t < end) for t in range(n)] for start, end in nodes])


@pytest.mark.parametrize("correlation", [TREE, BAND])
def test_correlated_noise_charges_each_client_for_its_own_rounds(keyed, correlated, correlation) -> None:
    """‖C x‖ of the worst signs by hand, for ten clients with rounds of their own."""
    rng = np.random.default_rng(3)
    took = rng.random((10, correlation.rounds)) < 0.4
    rounds = [correlated(correlation, np.flatnonzero(took[:, r]).tolist(), r) for r in range(correlation.rounds)]
    columns = np.abs(matrix(correlation).T @ matrix(correlation))
    worst = max(float(row @ columns @ row) for row in took.astype(float))
    statement = ledger_of(keyed, *rounds).statement(DELTA, observer="server")
    assert statement.epsilon == pytest.approx(gaussian_epsilon(2.0 / math.sqrt(worst)), abs=1e-6)
    assert statement.accountant == "pld"
    assert Ledger.from_json(ledger_of(keyed, *rounds).to_json()).events == tuple(rounds)


def test_in_a_tree_the_same_number_of_rounds_costs_more_close_together(keyed, correlated) -> None:
    """Rounds 0 and 1 share nodes of 2, 4 and 8 rounds; 0 and 7 the last alone: 4 + 3 + 2·3 against 4 + 1 + 2·1."""
    for rounds, cost in (((0, 1), 13.0), ((0, 7), 7.0), ((3,), 2.0)):
        ledger = ledger_of(keyed, *(correlated(TREE, (0,), r) for r in rounds))
        assert ledger.epsilon(DELTA, observer="public") == pytest.approx(
            gaussian_epsilon(2.0 / math.sqrt(cost)), abs=1e-6
        )


def test_rounds_of_correlated_noise_are_counted_once(keyed, correlated) -> None:
    together = ledger_of(keyed, replace(correlated(TREE, (0,), 0), count=8))
    single = ledger_of(keyed, *(correlated(TREE, (0,), r) for r in range(8)))
    assert together.epsilon(DELTA, observer="public") == single.epsilon(DELTA, observer="public")
    assert together.statement(DELTA, observer="public").participations == 8
    with pytest.raises(UnsupportedAccounting, match="round 9"):
        ledger_of(keyed, correlated(TREE, (0,), 8)).epsilon(DELTA, observer="public")
    # Nothing of a client is in a round that was aborted; its noise is only fresh.
    aborted = replace(correlated(TREE, (0,), 1), contributors=0)
    assert ledger_of(keyed, correlated(TREE, (0,), 0), aborted).epsilon(DELTA, observer="public") == pytest.approx(
        gaussian_epsilon(1.0), abs=1e-6
    )


@pytest.mark.parametrize("correlation", [TREE, BAND])
def test_a_round_that_was_released_again_is_one_more_row(keyed, correlated, correlation) -> None:
    """Attempts that were lost, each under noise of its own: rounds 3, twice, and 5 once more."""
    places = (0, 3, 5), (1, 2, 4)
    c = np.vstack([matrix(correlation), matrix(correlation)[[3, 3, 5]]])
    rounds = [correlated(correlation, (0,) if r in places[0] else (1,), r) for r in range(6)]
    again = [rounds[3], rounds[3], rounds[5]]
    statement = ledger_of(keyed, *rounds, *again).statement(DELTA, observer="public")

    def cost(epsilon: float) -> float:
        return brentq(lambda squared: gaussian_epsilon(2 / math.sqrt(squared)) - epsilon, 1e-3, 1e3)

    signs = list(product((1.0, -1.0), repeat=3))
    reached = max(float(np.linalg.norm(c[:, list(took)] @ s) ** 2) for took in places for s in signs)
    apart = max(float((np.abs(c[:, list(took)]).sum(axis=1) ** 2).sum()) for took in places)
    assert reached - 1e-6 <= cost(statement.epsilon) <= apart + 1e-6
    assert correlation is BAND or reached == pytest.approx(apart)  # nothing cancels in a tree
    assert statement.epsilon > ledger_of(keyed, *rounds).epsilon(DELTA, observer="public")


def test_correlated_noise_is_central(keyed, plain, correlated) -> None:
    assert ledger_of(plain, correlated(TREE, (0,), 0)).epsilon(DELTA, observer="server") == math.inf
    quieter = ledger_of(keyed, correlated(TREE, (0,), 0, 4.0), correlated(TREE, (0,), 1, 2.0))
    assert quieter.epsilon(DELTA, observer="public") == pytest.approx(gaussian_epsilon(2 / math.sqrt(13)), abs=1e-6)


def test_correlated_noise_amplifies_nothing_and_a_client_that_joins_may_be_in_every_round(keyed, correlated) -> None:
    sampling = PoissonSampling(0.5).accounting(10)
    hidden = ledger_of(keyed, *(correlated(TREE, (r,), r, sampling=sampling) for r in range(8)))
    statement = hidden.statement(DELTA, observer="public")
    assert statement.epsilon == pytest.approx(gaussian_epsilon(1.0), abs=1e-6)
    assert not statement.amplified
    assert "conditional" in statement.reason
    for record, factor in ((sampling, 1), (None, 2)):
        rounds = (correlated(TREE, (r,), r, adjacency="add-remove", sampling=record) for r in range(8))
        joined = ledger_of(keyed, *rounds, adjacency="add-remove").epsilon(DELTA, observer="public")
        whole = float(TREE.gram().sum())
        assert joined == pytest.approx(gaussian_epsilon(2.0 / factor / math.sqrt(whole)), abs=1e-6)
    full = FullParticipation().accounting(10)
    one = ledger_of(keyed, correlated(TREE, (0,), 0, adjacency="add-remove", sampling=full), adjacency="add-remove")
    assert one.epsilon(DELTA, observer="public") == pytest.approx(gaussian_epsilon(1.0), abs=1e-6)


def test_correlated_and_plain_noise_find_the_worst_client_together(keyed, correlated, event) -> None:
    ledger = ledger_of(keyed, correlated(TREE, (0, 1), 0), event((1, 2), 1.0), event((2,), 1.5, round=1))
    costs = [4 / 4, 4 / 4 + 1, 1 + 1 / 1.5**2]
    assert ledger.epsilon(DELTA, observer="server") == pytest.approx(
        gaussian_epsilon(1 / math.sqrt(max(costs))), abs=1e-6
    )
