"""Integer noise against exact sums: no published bound is taken on trust."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from fedpriv.privacy.ledger.curves import INTEGERS, Shares, curve, discrete_gaussians, gap, orders, response, skellam
from fedpriv.privacy.ledger.event import Response
from fedpriv.privacy.mechanism import Share

ALPHAS = np.array([2.0, 3.0, 8.0, 16.0])
EDGE = 200
"""Points at either end of a window at which truncation shows in sums of many draws."""


def log_discrete_gaussian(variance: float, width: int = 500) -> np.ndarray:
    x = np.arange(-width, width + 1, dtype=float)
    weights = -(x**2) / (2 * variance)
    return weights - np.logaddexp.reduce(weights)


def log_skellam(variance: float, width: int = 400, terms: int = 600) -> np.ndarray:
    """Difference of two Poisson variables of mean μ/2 each, summed in logarithms."""
    rate = variance / 2
    x = np.arange(width + 1)[:, None]
    y = np.arange(terms)[None, :]
    factorials = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, width + terms + 1)))))
    half = np.logaddexp.reduce((x + 2 * y) * math.log(rate) - factorials[x + y] - factorials[y], axis=1) - variance
    return np.concatenate((half[:0:-1], half))


def log_sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The logarithm of a convolution, exact in the tails too."""
    size = one.size
    index = np.arange(size)[:, None] - np.arange(size)[None, :] + size // 2
    terms = np.where((index >= 0) & (index < size), one[None, :] + other[np.clip(index, 0, size - 1)], -np.inf)
    most = terms.max(axis=1)
    return most + np.log(np.exp(terms - most[:, None]).sum(axis=1))


def exact(log_pmf: np.ndarray, shift: int, edge: int = EDGE) -> np.ndarray:
    """D_α between noise and shifted noise, in the worse direction."""
    there, here = log_pmf[shift:][edge:-edge], log_pmf[:-shift][edge:-edge]
    both = [
        [np.logaddexp.reduce(a * one + (1 - a) * two) / (a - 1) for a in ALPHAS]
        for one, two in ((there, here), (here, there))
    ]
    return np.max(both, axis=0)


def bound(variance: float, count: int, shift: int) -> np.ndarray:
    return discrete_gaussians(ALPHAS, l2=shift, l1=shift, dimension=1, variance=variance, count=count)


def test_the_discrete_gaussian_itself() -> None:
    pmf = np.exp(log_discrete_gaussian(1.0))
    x = np.arange(-500, 501)
    assert pmf[500] == pytest.approx(0.398942278, abs=1e-9)
    assert (pmf * x**2).sum() == pytest.approx(0.999999789, abs=1e-9)
    half = np.exp(log_discrete_gaussian(0.25))
    assert half[500] == pytest.approx(0.786570707, abs=1e-9)
    assert (half * x**2).sum() == pytest.approx(0.215012675, abs=1e-9)
    for sigma, expected in ((1, 0.1413513), (2, 7.248777e-3), (4, 3.055455e-6)):
        noise = np.exp(log_discrete_gaussian(sigma**2))
        assert np.clip(noise[1:] - math.e * noise[:-1], 0, None).sum() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_one_discrete_gaussian_costs_what_a_gaussian_does_exactly(sigma) -> None:
    assert exact(log_discrete_gaussian(sigma**2), 1) == pytest.approx(ALPHAS / (2 * sigma**2), rel=1e-9)
    assert bound(sigma**2, 1, 1) == pytest.approx(ALPHAS / (2 * sigma**2), rel=1e-12)


@pytest.mark.parametrize("variance", [0.25, 0.5, 1.0])
def test_sums_of_discrete_gaussians_stay_below_the_bound(variance) -> None:
    """And the gap is needed: without τ the bound would be a false claim."""
    one = log_discrete_gaussian(variance)
    total, count, above = one, 1, False
    for summands in (2, 4, 8):
        while count < summands:
            total, count = log_sum(total, one), count + 1
        for shift in (1, 2, 3):
            spent = exact(total, shift)
            assert (spent <= bound(variance, count, shift) * (1 + 1e-9)).all()
            above |= bool((spent > ALPHAS * shift**2 / (2 * count * variance) * (1 + 1e-7)).any())
    assert above


def test_the_gap() -> None:
    for summands, sigma, expected in ((64, 0.25, 198), (16, 0.5, 2.97), (16, 1.0, 5.4e-4)):
        assert gap(sigma**2, np.array([float(summands)]))[0] == pytest.approx(expected, rel=1e-2)
    # With many little summands the noise collapses; then a few of them are the better bound.
    crowd = bound(0.25, 64, 1)
    assert (crowd <= bound(0.25, 3, 1)).all()
    # Below σ = 1/2 the theorem says nothing: one summand alone counts.
    assert bound(0.0625, 64, 1) == pytest.approx(ALPHAS / (2 * 0.0625))


@pytest.mark.parametrize("dimension", [1, 100_000])
def test_more_shares_never_cost_more(dimension) -> None:
    figures = np.array(
        [
            discrete_gaussians(ALPHAS, l2=40.0, l1=900.0, dimension=dimension, variance=1.0, count=n)
            for n in range(1, 200)
        ]
    )
    assert (np.diff(figures, axis=0) <= 1e-12 * figures[1:]).all()


def test_the_gap_is_charged_in_every_coordinate_and_the_better_bound_taken() -> None:
    """By hand, n = 16 of σ = 1, Δ₂ = 3, Δ₁ = 5: the additive bound at many orders, the other at few dimensions."""
    tau = 10 * sum(math.exp(-2 * math.pi**2 * k / (k + 1)) for k in range(1, 16))
    for dimension in (1, 50, 10_000):
        first = ALPHAS * 9 / 32 + tau * dimension
        second = ALPHAS / 2 * (9 / 16 + 2 * 5 / 4 * tau + tau**2 * dimension)
        found = discrete_gaussians(ALPHAS, l2=3, l1=5, dimension=dimension, variance=1.0, count=16)
        assert (found <= np.minimum(first, second) * (1 + 1e-12)).all()
        if dimension == 1:
            assert found == pytest.approx(np.minimum(first, second), rel=1e-12)


def test_skellam_is_below_its_bound() -> None:
    alphas = np.array([2.0, 8.0, 32.0])
    assert skellam(alphas, l2=1, l1=1, variance=4.0) == pytest.approx([0.390625, 1.328125, 4.375], rel=1e-12)
    noise = log_skellam(4.0)
    assert np.exp(noise).sum() == pytest.approx(1, abs=1e-12)
    exactly = [np.logaddexp.reduce(a * noise[1:-100] + (1 - a) * noise[:-101]) / (a - 1) for a in (2, 8, 32)]
    assert exactly == pytest.approx([0.245721, 0.736920, 1.467383], abs=1e-6)
    for variance in (0.25, 1.0, 4.0, 50.0):
        noise = log_skellam(variance)
        for shift in (1, 2, 5):
            assert (exact(noise, shift, 20) <= skellam(ALPHAS, l2=shift, l1=shift, variance=variance)).all()


def test_randomised_response_is_exact() -> None:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    for epsilon, categories in ((1.0, 2), (3.0, 5), (0.1, 100)):
        theirs = RdpAccountant(INTEGERS, dp_accounting.NeighboringRelation.REPLACE_ONE)
        noise = categories / (math.exp(epsilon) + categories - 1)
        theirs.compose(dp_accounting.dp_event.RandomizedResponseDpEvent(noise, categories))
        ours = response(Response(epsilon=epsilon, categories=categories), INTEGERS)
        assert ours == pytest.approx(theirs.rdp, rel=1e-9)
        assert (ours < epsilon).all()


@pytest.mark.parametrize("kind", ["discrete-gaussian", "skellam"])
def test_replacing_doubles_both_lengths(kind) -> None:
    share = Share(kind=kind, variance=2.0, l2=3.0, l1=7.0, dimension=50, wrap=0.1)
    twice = Share(kind=kind, variance=2.0, l2=6.0, l1=14.0, dimension=50, wrap=0.3)
    at = orders([Shares.of(share, 5)])
    assert (curve(Shares.of(share, 5), at, "replace-one") == curve(Shares.of(twice, 5), at, "zero-out")).all()
    assert Shares.of(twice, 5).share.wrap == 0.0  # a wrap costs no ε
    # An L1 bound that says less than Cauchy and Schwarz do is not used.
    loose = Share(kind=kind, variance=2.0, l2=3.0, l1=1e9, dimension=50, wrap=0.0)
    assert np.isfinite(curve(Shares.of(loose, 5), at, "zero-out")).all()
    assert curve(Shares.of(loose, 5), at, "zero-out").max() < 1e4


def test_orders_are_integers_where_a_skellam_is() -> None:
    gaussian = Share(kind="discrete-gaussian", variance=2.0, l2=3.0, l1=7.0, dimension=5, wrap=0.0)
    poisson = Share(kind="skellam", variance=2.0, l2=3.0, l1=7.0, dimension=5, wrap=0.0)
    assert any(order % 1 for order in orders([Shares.of(gaussian, 2)]))
    assert not any(order % 1 for order in orders([Shares.of(gaussian, 2), Shares.of(poisson, 2)]))


def test_the_continuous_gaussian_is_no_stand_in() -> None:
    """δ(1) at σ = 1 and shift 1: continuous noise would be .1269367, so it is no stand-in for discrete noise."""
    assert norm.cdf(0.5 - 1) - math.e * norm.cdf(-0.5 - 1) == pytest.approx(0.1269367, abs=1e-6)
