from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ive
from scipy.stats import chi2

from fedpriv import randomness
from fedpriv.errors import ConfigurationError
from fedpriv.privacy.samplers import discrete_gaussian, inversion, laws, skellam
from fedpriv.randomness import Streams, noise, os_words

ALPHA = 1e-6
DRAWS = 200_000
FEW = 20_000
"""Enough to tell a wrong law from the right one."""


def words(seed: int):
    return np.random.PCG64DXSM(seed).random_raw


def gaussian_pmf(variance: float, reach: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
    return weights / weights.sum()


def skellam_pmf(variance: float, reach: int) -> np.ndarray:
    return ive(np.abs(np.arange(-reach, reach + 1)), variance)


def p_value(draws: np.ndarray, pmf: np.ndarray) -> float:
    """Pearson's test on the integers -reach … reach, neighbours with few expected draws put together."""
    reach = len(pmf) // 2
    observed = np.bincount(np.clip(draws, -reach, reach) + reach, minlength=len(pmf)).astype(float)
    expected = pmf * len(draws)
    bins = np.floor(np.cumsum(expected) / max(20.0, len(draws) / 200)).astype(int)
    _, bins = np.unique(bins, return_inverse=True)
    seen, due = np.bincount(bins, observed), np.bincount(bins, expected)
    seen, due = seen[due > 5], due[due > 5]
    return float(chi2.sf(((seen - due) ** 2 / due).sum(), len(due) - 1))


# ---- The laws ----


def test_published_numbers_of_the_discrete_gaussian() -> None:
    for variance, expected, at_zero in ((0.25, 0.215012675, 0.786570707), (1.0, 0.999999789, 0.398942278)):
        law = laws.DiscreteGaussian(variance)
        weights = {x: law.weight(x, 30) for x in range(-40, 41)}
        total = sum(weights.values())
        assert float(sum(x * x * w for x, w in weights.items()) / total) == pytest.approx(expected, abs=1e-9)
        assert float(weights[0] / total) == pytest.approx(at_zero, abs=1e-9)


@given(mean=st.fractions(Fraction(1, 1024), 3000), away=st.integers(-300, 300))
def test_a_poisson_weight_is_the_exact_ratio_to_any_number_of_digits(mean, away) -> None:
    mean = Fraction(float(mean))
    law = laws.Poisson(float(mean))
    x = law.mode + away
    exact = mean**away * Fraction(math.factorial(law.mode), math.factorial(x)) if x >= 0 else Fraction(0)
    for digits in (20, 60):
        assert abs(Fraction(law.weight(x, digits)) - exact) <= exact * Fraction(1, 10**digits)


@pytest.mark.parametrize("mean", [256.0, 300.7, 1e5, 2.0**51])
def test_the_float_ratio_is_as_near_to_the_exact_one_as_it_says(mean) -> None:
    for law in (laws.Poisson(mean), laws.DiscreteGaussian(mean)):
        rng = np.random.default_rng(1)
        block = rng.integers(-70, 70, 60)
        place = rng.integers(0, 1 << law.shift, 60)
        bottom = law.mode + (block << law.shift)
        top = np.where(block < 0, bottom + (1 << law.shift) - 1, bottom)
        x = bottom + place
        for at, peak, ratio in zip(x.tolist(), top.tolist(), law.log_ratio(x, top).tolist(), strict=True):
            exact = (law.weight(at, 40) / law.weight(peak, 40)).ln()
            assert exact <= 0
            assert abs(Decimal(ratio) - exact) <= (1 + abs(at - peak)) * Decimal(2) ** -50


def test_the_float_ratio_ends_where_its_series_does() -> None:
    assert np.isnan(laws.Poisson(300.0).log_ratio(np.array([63, 0, -5]), np.array([64, 3, 1]))).all()


# ---- Comparisons are exact ----


class Script:
    """Gives these words and then zeros, and counts."""

    def __init__(self, *given: int) -> None:
        self.left = list(given)
        self.drawn = 0

    def __call__(self, size: int) -> np.ndarray:
        self.drawn += size
        return np.array([self.left.pop(0) if self.left else 0 for _ in range(size)], dtype=np.uint64)


@pytest.mark.parametrize("law", [laws.DiscreteGaussian(2.0), laws.Poisson(0.5), laws.Poisson(7.0)])
def test_a_word_that_ties_with_a_threshold_is_decided_by_the_bits_that_follow(law, monkeypatch) -> None:
    sums = cache(inversion._Cumulative.of)  # the same for every entry
    monkeypatch.setattr(inversion._Cumulative, "of", staticmethod(sums))
    table = inversion._table(law)
    thresholds = [int(t) for t in table.thresholds]
    assert thresholds[0] == 0
    assert thresholds[-1] == 2**64 - 1
    for entry in range(1, len(thresholds) - 1):
        if thresholds[entry] in (thresholds[entry - 1], thresholds[entry + 1]):
            continue
        block = table.first + entry
        below, above = Script(thresholds[entry], 0), Script(thresholds[entry], 2**64 - 1)
        assert inversion.draw(law, 1, below)[0] == law.mode + block
        assert inversion.draw(law, 1, above)[0] == law.mode + block + 1
        assert (below.drawn, above.drawn) == (2, 2)


def test_the_ends_of_the_table_are_not_the_ends_of_the_law() -> None:
    for variance in (1.0, 400.0):
        law = laws.DiscreteGaussian(variance)
        sigma = math.sqrt(variance)
        far = [inversion._block(law, 0, Script(*follow)) << law.shift for follow in ([2**63], [2**20], [0, 2**20])]
        assert -10 * sigma < far[0] < -8.9 * sigma  # P(X ≤ x) about 2^-65
        assert far[2] < far[1] < far[0]
        assert inversion._block(law, 2**64 - 1, Script(2**63)) << law.shift > 8 * sigma
    bounded = laws.Poisson(0.5)
    assert [inversion.draw(bounded, 1, Script(0, follow))[0] for follow in (0, 2**63)] == [0, 0]


@pytest.mark.parametrize("law", [laws.DiscreteGaussian(640.0**2), laws.Poisson(300.0)])
def test_a_coin_that_ties_with_its_probability_is_decided_by_the_bits_that_follow(law) -> None:
    shift = law.shift
    assert shift > 0
    table = inversion._table(law)
    entry = len(table.thresholds) // 2 + 5
    inside = (int(table.thresholds[entry - 1]) + int(table.thresholds[entry])) // 2
    top = law.mode + ((table.first + entry) << shift)
    place = (1 << shift) - 1
    bits = 64 - shift
    ratio = Fraction(law.weight(top + place, 60)) / Fraction(law.weight(top, 60))
    coin = math.floor(ratio * 2**bits)
    word = (place << bits) | coin
    assert inversion.draw(law, 1, Script(inside, word, 0))[0] == top + place
    refused = Script(inside, word, 2**64 - 1, inside, 0)  # redrawn: place 0, which is always kept
    assert inversion.draw(law, 1, refused)[0] == top
    assert refused.drawn == 5
    # One step of the coin's 64 bits to either side is decided without another draw of anything but what it took.
    assert inversion.draw(law, 1, Script(inside, word - 2**20))[0] == top + place


@pytest.mark.parametrize("precision", [6, 28, 60])
@pytest.mark.parametrize("law", [laws.DiscreteGaussian(300.0), laws.DiscreteGaussian(2.0), laws.Poisson(300.0)])
def test_the_128th_bit_decides_whatever_decimals_the_caller_keeps(law, precision) -> None:
    blocks = range(-220, 220)  # 25 standard deviations
    upto = dict(zip(blocks, accumulate(Fraction(law.weight(inversion._top(law, k), 90)) for k in blocks), strict=True))
    inversion._table.cache_clear()
    with localcontext() as context:
        context.prec = precision
        table = inversion._table(law)
        for entry in range(2, len(table.thresholds) - 2):
            probability = upto[table.first + entry] / upto[219]
            assert math.floor(probability * 2**64) == table.thresholds[entry]
        for entry in range(2, len(table.thresholds) - 2, len(table.thresholds) // 5):
            block = table.first + entry
            word, rest = divmod(math.floor(upto[block] / upto[219] * 2**128), 2**64)
            assert inversion._block(law, word, Script(rest - 1)) == block
            assert inversion._block(law, word, Script(rest + 1)) == block + 1
            top, bits = inversion._top(law, block), 64 - law.shift
            x = top + ((1 << law.shift) - 1) * (1 if block >= 0 else -1)
            if x == top:
                continue
            ratio = Fraction(law.weight(x, 90)) / Fraction(law.weight(top, 90))
            coin, rest = divmod(math.floor(ratio * 2 ** (bits + 64)), 2**64)
            assert inversion._kept(law, x, top, coin, bits, Script(rest - 1))
            assert not inversion._kept(law, x, top, coin, bits, Script(rest + 1, 2**64 - 1))
    inversion._table.cache_clear()


def test_a_block_that_reaches_below_the_support_is_not_kept_there() -> None:
    assert not inversion._kept(laws.Poisson(300.0), -1, 1, 0, 60, Script())
    assert inversion._kept(laws.Poisson(300.0), 5, 5, 2**60 - 1, 60, Script())


def test_floating_point_marks_nothing(monkeypatch) -> None:
    """With a float ratio that says nothing every coin is exact arithmetic's, and no draw changes."""
    law = laws.DiscreteGaussian(300.0)
    expected = inversion.draw(law, 400, words(5))
    monkeypatch.setattr(laws.DiscreteGaussian, "log_ratio", lambda self, x, top: np.full(x.shape, np.nan))
    assert np.array_equal(inversion.draw(law, 400, words(5)), expected)


# ---- Draws ----


@pytest.mark.statistical
@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 15.9, 16.0, 41.3, 300.0])
@pytest.mark.parametrize(("sampler", "pmf"), [(discrete_gaussian, gaussian_pmf), (skellam, skellam_pmf)])
def test_draws_are_of_the_stated_law_and_of_no_other(sampler, pmf, sigma) -> None:
    """n = 200,000, Pearson's χ², α = 1e-6; power: of 20,000 draws 2/3 σ and 3/2 σ are told apart."""
    reach = math.ceil(12 * sigma) + 8
    law = pmf(sigma**2, reach)
    assert law.sum() == pytest.approx(1.0)
    assert p_value(sampler(sigma**2, DRAWS, words(7)), law) > ALPHA
    for wrong in (2 / 3, 3 / 2):
        assert p_value(sampler((wrong * sigma) ** 2, FEW, words(8)), law) < ALPHA


@pytest.mark.statistical
def test_draws_from_the_operating_system_are_too(monkeypatch) -> None:
    """n = 200,000, α = 1e-6; its bytes come from a fixed seed here."""
    monkeypatch.setattr(randomness, "secret_bytes", np.random.default_rng(6).bytes)
    assert p_value(discrete_gaussian(400.0, DRAWS, os_words), gaussian_pmf(400.0, 300)) > ALPHA
    assert p_value(skellam(400.0, DRAWS, os_words), skellam_pmf(400.0, 300)) > ALPHA


@pytest.mark.statistical
def test_a_sum_of_skellam_draws_is_one_and_a_sum_of_narrow_discrete_gaussians_is_not() -> None:
    """n = 200,000, α = 1e-6. Sixteen of σ² = 1/16 make a Skellam of 1, but not a discrete Gaussian."""
    drawn = skellam(1 / 16, 16 * DRAWS, words(1)).reshape(16, -1).sum(axis=0)
    assert p_value(drawn, skellam_pmf(1.0, 20)) > ALPHA
    narrow = discrete_gaussian(1 / 16, 16 * DRAWS, words(1)).reshape(16, -1).sum(axis=0)
    assert p_value(narrow, gaussian_pmf(1.0, 20)) < ALPHA
    assert narrow.var() == pytest.approx(16 * 0.0429 / 64, rel=0.1)


@pytest.mark.statistical
def test_draws_that_are_too_wide_for_a_table_of_integers() -> None:
    """n = 200,000: first moments and tails of σ = 2^26, within six standard errors."""
    sigma = 2.0**26
    for sampler in (discrete_gaussian, skellam):
        scaled = sampler(sigma**2, DRAWS, words(2)) / sigma
        assert abs(scaled.mean()) < 6 / math.sqrt(DRAWS)
        assert abs(scaled.var() - 1) < 6 * math.sqrt(2 / DRAWS)
        assert abs((scaled**4).mean() - 3) < 6 * math.sqrt(96 / DRAWS)
        assert np.mean(np.abs(scaled) > 2) == pytest.approx(0.0455, abs=0.003)
        drawn = sampler(sigma**2, 1000, words(3))
        assert len(np.unique(drawn & 15)) == 16  # every low bit varies


def test_draws_are_a_function_of_the_words() -> None:
    for sampler in (discrete_gaussian, skellam):
        for variance in (3.0, 1e6):
            first = sampler(variance, 300, noise("seeded", Streams(1), "test", 0, 4).words)
            assert np.array_equal(first, sampler(variance, 300, noise("seeded", Streams(1), "test", 0, 4).words))
            assert not np.array_equal(first, sampler(variance, 300, noise("seeded", Streams(1), "test", 0, 5).words))
            assert first.dtype == np.int64
        assert sampler(5.0, 0, words(0)).shape == (0,)
        assert sampler(1e4, 40_000, words(0)).shape == (40_000,)


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf, 2.0**53, 1e-9])
def test_a_variance_that_cannot_be_drawn_is_refused(variance) -> None:
    for sampler in (discrete_gaussian, skellam):
        with pytest.raises(ConfigurationError, match="variance"):
            sampler(variance, 1, words(0))
