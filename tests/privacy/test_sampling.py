from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.privacy import FixedSizeSampling, FullParticipation, PoissonSampling, SamplingRecord

SAMPLINGS = st.one_of(
    st.just(FullParticipation()),
    st.builds(PoissonSampling, st.floats(0.01, 1.0), st.none() | st.integers(1, 40)),
    st.builds(FixedSizeSampling, st.integers(1, 30)),
)


@given(sampling=SAMPLINGS, population=st.integers(30, 60), seed=st.integers(0, 2**32))
def test_a_cohort_is_a_sorted_subset_within_the_stated_sizes(sampling, population, seed) -> None:
    cohort = sampling.cohort(np.random.default_rng(seed), population)
    assert list(cohort) == sorted(set(cohort))
    assert set(cohort) <= set(range(population))
    assert all(type(index) is int for index in cohort)
    assert sampling.least(population) <= len(cohort) <= sampling.largest(population)
    assert sampling.least(population) <= sampling.expected(population) <= sampling.largest(population)


def test_full_participation() -> None:
    assert FullParticipation().cohort(np.random.default_rng(0), 3) == (0, 1, 2)
    assert FullParticipation().accounting(3) == SamplingRecord(kind="none", rate=1.0, population=3)


def test_the_expected_size_of_a_cut_poisson_cohort_is_exact() -> None:
    population, rate, most = 50, 0.2, 11
    sizes = np.arange(population + 1)
    exact = float(np.sum(np.minimum(sizes, most) * binom.pmf(sizes, population, rate)))
    assert PoissonSampling(rate, most).expected(population) == pytest.approx(exact, rel=1e-12)
    assert PoissonSampling(rate).expected(population) == pytest.approx(10.0)


@pytest.mark.statistical
def test_poisson_cohorts_have_the_stated_rate_and_independent_clients() -> None:
    # n = 4000 cohorts of 100; the total is Bin(400_000, rate). Right rate passes, 2/3 and 3/2 of it fail.
    rng, draws, population, rate = np.random.default_rng(1), 4000, 100, 0.1
    sizes = [len(PoissonSampling(rate).cohort(rng, population)) for _ in range(draws)]
    total = sum(sizes)

    def p_value(of: float) -> float:
        return 2 * min(binom.cdf(total, draws * population, of), binom.sf(total - 1, draws * population, of))

    assert p_value(rate) > 1e-6
    assert p_value(rate * 2 / 3) < 1e-6
    assert p_value(rate * 3 / 2) < 1e-6
    # Binomial, not fixed-size: variance 9, standard error 9 sqrt(2/4000) = 0.2; five of them.
    assert np.var(sizes) == pytest.approx(9.0, abs=1.0)


@pytest.mark.statistical
def test_a_cut_cohort_is_a_uniform_subset() -> None:
    # n = 6000 cohorts of exactly 3 of 6 (rate 1, cut to 3): each client in half of them, sd sqrt(1500) = 38.7.
    rng = np.random.default_rng(2)
    counts = np.zeros(6)
    for _ in range(6000):
        counts[list(PoissonSampling(1.0, 3).cohort(rng, 6))] += 1
    assert np.abs(counts - 3000).max() < 5 * 38.7


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: PoissonSampling(0.0), ConfigurationError),
        (lambda: PoissonSampling(1.1), ConfigurationError),
        (lambda: PoissonSampling(float("nan")), ConfigurationError),
        (lambda: PoissonSampling("0.1"), ConfigurationError),  # type: ignore[arg-type]
        (lambda: PoissonSampling(True), ConfigurationError),
        (lambda: PoissonSampling(0.1, 0), ConfigurationError),
        (lambda: FixedSizeSampling(0), ConfigurationError),
        (lambda: FixedSizeSampling(2.0), ConfigurationError),  # type: ignore[arg-type]
        (lambda: FixedSizeSampling(5).cohort(np.random.default_rng(0), 4), PlanError),
        (lambda: FixedSizeSampling(5).accounting(4), PlanError),
        (lambda: FullParticipation().largest(0), ConfigurationError),
    ],
)
def test_bad_descriptions_are_refused(make, error) -> None:
    with pytest.raises(error):
        make()


def test_records_say_how_the_cohort_was_drawn() -> None:
    assert PoissonSampling(0.1, 30).accounting(100) == SamplingRecord(
        kind="poisson", rate=0.1, population=100, max_cohort=30
    )
    assert FixedSizeSampling(25).accounting(100) == SamplingRecord(
        kind="fixed-size", rate=0.25, population=100, size=25
    )
