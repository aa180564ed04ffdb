from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binom, chi2
from settings import NEVER, outcome, setting
from test_mechanisms import OwnSampling

import fedpriv as fp
from fedpriv.errors import CohortTooSmall, ConfigurationError, DataError, NonFiniteInput, PlanError
from fedpriv.privacy import Budget, Ledger, RandomizedResponse
from fedpriv.privacy.ledger.event import Response
from fedpriv.privacy.mechanisms.response import estimated_shares, exact_epsilon, truth_probability
from fedpriv.randomness import Noise, Streams, noises
from fedpriv.threat import Coalition


def asked(categories: int = 3, **more):
    return setting(**{"length": categories, "adjacency": "replace-one", **more})


def said(answers, categories: int, epsilon: float, seed: int = 0):
    mechanism = RandomizedResponse(categories=categories, epsilon=epsilon)
    spec = mechanism.init(asked(categories))
    drawn = noises("seeded", Streams(seed), "client-noise", 0, range(len(answers)))
    return mechanism.protect(np.eye(categories)[answers], [1] * len(answers), spec, drawn).values


def words(*given: int) -> Noise:
    left = list(given)
    return Noise(words=lambda size: np.array([left.pop(0) for _ in range(size)], dtype=np.uint64), normal=NEVER.normal)


@given(epsilon=st.floats(1e-6, 40), categories=st.integers(2, 2**20))
@example(epsilon=1e-6, categories=2**20)
@example(epsilon=40.0, categories=2)
def test_the_probabilities_are_exact_and_the_epsilon_is_theirs(epsilon, categories) -> None:
    response = Response(epsilon=epsilon, categories=categories)
    truth = truth_probability(response)
    lie = (1 - truth) / (categories - 1)
    assert truth.denominator <= 2**64
    assert lie > 0
    assert truth > lie  # an answer says something
    stated = exact_epsilon(response)
    assert stated <= epsilon
    # e^stated ≥ truth / lie, by a Taylor sum of e^stated from below in exact arithmetic.
    power, term = Fraction(0), Fraction(1)
    for n in range(1, 200):
        power += term
        term *= Fraction(stated) / n
    assert power >= truth / lie or epsilon > 35  # there the sum has not converged to the last digit
    if epsilon < 30 and categories < 1000:
        assert stated == pytest.approx(epsilon, rel=1e-6)


def test_the_coins_of_the_survey() -> None:
    """The truth on heads, else a second coin: 3/4 of true answers, and 60 % yes means 70 %."""
    coins = Response(epsilon=math.log(3), categories=2)
    assert float(truth_probability(coins)) == pytest.approx(0.75)
    assert estimated_shares([60, 40], coins) == pytest.approx([0.7, 0.3])


def test_each_word_decides_as_stated() -> None:
    mechanism = RandomizedResponse(categories=3, epsilon=1.0)
    spec = mechanism.init(asked())
    threshold = int(truth_probability(spec.response) * 2**64)
    last = 2**64 - 1

    def sent(answer: int, *given: int) -> int:
        row = np.eye(3)[[answer]]
        return int(mechanism.protect(row, [1], spec, [words(*given)]).values[0].argmax())

    for answer, others in ((0, (1, 2)), (1, (0, 2)), (2, (0, 1))):
        assert sent(answer, threshold - 1, 7) == answer
        assert [sent(answer, threshold, lie) for lie in (0, 1)] == list(others)
        assert [sent(answer, last, lie) for lie in (2**63, 2**63 + 1)] == list(others)
    # Of four categories a lie is one of three: the last word of 2^64 = 3 · n + 1 is drawn again.
    four = RandomizedResponse(categories=4, epsilon=1.0)
    spec = four.init(asked(4))
    assert four.protect(np.eye(4)[[0]], [1], spec, [words(last, last, last, 1)]).values[0].argmax() == 2


@pytest.mark.statistical
def test_answers_are_true_with_the_stated_probability() -> None:
    """n = 20,000 answers of 5 categories, α = 1e-6, chi-square over all outcomes; 2/3 and 3/2 of ε fail."""
    n, k, epsilon = 20_000, 5, 1.2
    counts = said([3] * n, k, epsilon, seed=4).sum(axis=0)
    assert counts.sum() == n
    for scale, passes in ((1, True), (2 / 3, False), (3 / 2, False)):
        p = float(truth_probability(Response(epsilon=epsilon * scale, categories=k)))
        expected = n * np.array([(1 - p) / (k - 1)] * 3 + [p] + [(1 - p) / (k - 1)])
        assert (chi2.sf(float(((counts - expected) ** 2 / expected).sum()), k - 1) > 1e-6) == passes


@pytest.mark.statistical
def test_the_estimate_is_unbiased_with_the_known_variance() -> None:
    """300 surveys of 60 clients, α = 1e-6: the mean is the truth, and the variance p q-formula's; 2/3 and 3/2 of its
    root fail. A category's count is a sum of two binomials, of variance n π p (1 - p) + n (1 - π) q (1 - q).
    """
    surveys, n, k = 300, 60, 3
    answers = [0] * 30 + [1] * 20 + [2] * 10
    response = Response(epsilon=1.5, categories=k)
    estimates = np.array(
        [estimated_shares(said(answers, k, 1.5, seed=s).sum(axis=0), response) for s in range(surveys)]
    )
    assert np.allclose(estimates.sum(axis=1), 1.0)
    p = float(truth_probability(response))
    q = (1 - p) / (k - 1)
    for category, share in enumerate((1 / 2, 1 / 3, 1 / 6)):
        variance = (binom(1, p).var() * share + binom(1, q).var() * (1 - share)) / (n * (p - q) ** 2)
        found = estimates[:, category]
        assert abs(found.mean() - share) < 5 * math.sqrt(variance / surveys)
        squares = float(np.sum((found - share) ** 2))
        for scale, passes in ((1, True), (2 / 3, False), (3 / 2, False)):
            ratio = squares / (variance * scale**2)
            assert (2 * min(chi2.cdf(ratio, surveys), chi2.sf(ratio, surveys)) > 1e-6) == passes


def test_a_survey_from_end_to_end_through_secure_aggregation() -> None:
    """Of 200 clients 70 % would say yes; one in ten drops out, and n is who answered."""
    answers = np.array([0] * 140 + [1] * 60)
    released = fp.private_mean(
        np.eye(2)[answers],
        mechanism=RandomizedResponse(categories=2, epsilon=3.0),
        aggregation=fp.SecureAggregation(),
        network=fp.Network(dropout={"upload": 0.1}),
        adjacency="replace-one",
        seed=3,
        ideal=True,
    )
    assert 150 < len(released.contributors) < 200
    assert released.mean.sum() == pytest.approx(1.0)
    assert released.mean[0] == pytest.approx(0.7, abs=0.12)
    (event,) = released.ledger.events
    assert event.detail == Response(epsilon=exact_epsilon(Response(epsilon=3.0, categories=2)), categories=2)
    assert (event.mechanism, event.trust, event.noise_multiplier) == ("randomized-response", "local", 0.0)


def test_each_client_sends_exactly_one_answer() -> None:
    values = said([0, 1, 2, 0], 3, 0.5)
    assert values.dtype == np.int64
    assert values.sum(axis=1).tolist() == [1] * 4
    assert set(values.ravel().tolist()) == {0, 1}


def test_the_terms_are_public_and_state_is_explicit() -> None:
    mechanism = RandomizedResponse(categories=3, epsilon=1.0)
    spec = mechanism.begin(mechanism.init(asked()), 2)
    assert (spec.length, spec.input_bound, spec.divisor, spec.clip_norm) == (3, 1, None, None)
    assert pickle.loads(pickle.dumps(spec)) == spec == mechanism.advance(spec, spec, None, NEVER)
    assert mechanism.noise_contributors(asked()) is None
    assert (mechanism.trust, mechanism.weighting) == ("local", "equal")
    (event,) = mechanism.events(spec, outcome(10, 7))
    assert (event.round, event.contributors, event.clip_norm, event.adjacency) == (2, 7, None, "replace-one")
    assert mechanism.release(np.array([3, 3, 1]), spec, outcome(10, 7), NEVER, spec).mean.sum() == pytest.approx(1)
    with pytest.raises(CohortTooSmall):
        mechanism.release(np.zeros(3, dtype=np.int64), spec, outcome(10, 0), NEVER, spec)


BUDGET = Budget(epsilon=1.0, delta=1e-3, observer="public")


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: RandomizedResponse(categories=1, epsilon=1.0), ConfigurationError, "categories"),
        (lambda: RandomizedResponse(categories=2.0, epsilon=1.0), ConfigurationError, "integer"),  # type: ignore[arg-type]
        (lambda: RandomizedResponse(categories=2**20 + 1, epsilon=1.0), ConfigurationError, "categories"),
        (lambda: RandomizedResponse(categories=2), ConfigurationError, "Exactly one"),
        (lambda: RandomizedResponse(categories=2, epsilon=1.0, target=BUDGET), ConfigurationError, "Exactly one"),
        (lambda: RandomizedResponse(categories=2, epsilon=0.0), ConfigurationError, "ε of an answer"),
        (lambda: RandomizedResponse(categories=2, epsilon=math.nan), ConfigurationError, "ε of an answer"),
        (lambda: RandomizedResponse(categories=2, epsilon=True), ConfigurationError, "ε of an answer"),
        (lambda: RandomizedResponse(categories=2, epsilon=41.0), ConfigurationError, "ε of an answer"),
        (lambda: RandomizedResponse(categories=2, epsilon="1"), ConfigurationError, "ε of an answer"),  # type: ignore[arg-type]
        (lambda: RandomizedResponse(categories=2, target=2.0), ConfigurationError, r"target=Budget\("),  # type: ignore[arg-type]
        (
            lambda: RandomizedResponse(categories=3, epsilon=1.0).init(asked(adjacency="zero-out")),
            PlanError,
            'adjacency="replace-one"',
        ),
        (lambda: RandomizedResponse(categories=3, epsilon=1.0).init(asked(length=4)), PlanError, "one-hot"),
        (
            lambda: RandomizedResponse(categories=3, epsilon=1.0).init(asked(sampling=OwnSampling())),
            PlanError,
            "accounted",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    "row", [[0, 0, 0], [1, 1, 0], [0.5, 0.5, 0], [2, -1, 0], [1, 1e-300, 0]], ids=["none", "two", "half", "sum", "tiny"]
)
def test_what_is_no_answer_is_refused_without_showing_it(row) -> None:
    mechanism = RandomizedResponse(categories=3, epsilon=1.0)
    with pytest.raises(DataError, match="one-hot") as caught:
        mechanism.protect(np.array([row], dtype=float), [1], mechanism.init(asked()), [NEVER])
    assert caught.value.value is None


def test_an_answer_that_is_not_finite_is_refused() -> None:
    mechanism = RandomizedResponse(categories=3, epsilon=1.0)
    with pytest.raises(NonFiniteInput):
        mechanism.protect(np.array([[np.nan, 1, 0]]), [1], mechanism.init(asked()), [NEVER])


# ---- budgets ----


@pytest.mark.parametrize("observer", ["server", "public", Coalition(server=True, clients=0.5)])
@pytest.mark.parametrize(("target", "rounds"), [(0.5, 20), (8.0, 20), (2.0, 1)])
def test_what_was_solved_is_what_is_stated(observer, target, rounds, plain) -> None:
    """Calibrate, answer in every round, ask the ledger: the noise is each client's own, whoever looks."""
    here = asked(4, population=100, rounds=rounds, threat=plain)
    mechanism = RandomizedResponse(categories=4, target=Budget(epsilon=target, delta=1e-5, observer=observer))
    spec = mechanism.init(here)
    assert spec.response is not None
    ledger = Ledger(threat=plain, population=100, adjacency="replace-one")
    for round in range(rounds):
        for event in mechanism.events(mechanism.begin(spec, round), outcome(100)):
            ledger.append(event)
    assert target * (1 - 2e-3) < ledger.epsilon(1e-5, observer=observer) <= target
    assert spec.response.epsilon >= target / rounds * (1 - 1e-3)  # basic composition is never better


def test_a_budget_beyond_all_answers_gives_the_largest_epsilon(plain) -> None:
    budget = Budget(epsilon=5000.0, delta=1e-5, observer="server")
    spec = RandomizedResponse(categories=4, target=budget).init(asked(4, population=100, threat=plain))
    assert spec.response is not None
    assert spec.response.epsilon == pytest.approx(40.0, rel=1e-3)
    tiny = Budget(epsilon=1e-7, delta=1e-12, observer="server")
    with pytest.raises(PlanError, match="the smallest"):
        RandomizedResponse(categories=4, target=tiny).init(asked(4, population=100, threat=plain))
