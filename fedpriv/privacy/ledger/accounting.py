"""From a composition to (ε, δ): the only module that calls dp-accounting's accountants, which own the mathematics."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np

from fedpriv.errors import ConfigurationError, UnsupportedAccounting
from fedpriv.privacy.ledger import curves
from fedpriv.privacy.ledger.composition import Composition, Sampled
from fedpriv.privacy.ledger.event import Response
from fedpriv.privacy.mechanism import Adjacency

Accountant: TypeAlias = Literal["pld", "rdp"]
Conversion: TypeAlias = Literal["improved", "classic"]
"""From RDP to (ε, δ). ``"improved"``: Canonne, Kamath and Steinke 2020, proposition 12. ``"classic"``: Mironov 2017,
proposition 3, ε = min_α rdp(α) + log(1/δ)/(α - 1), which papers before about 2020 used."""

_PLD_STEP = 1e-4
_PLD_WIDTH = 50.0
"""Up to this ε privacy losses are kept on a grid of 1e-4; beyond, the grid widens with ε (still an upper bound)."""


def headline(composition: Composition) -> Accountant:
    """PLD (for plain Gaussians its closed form), except where there is none: sampling without replacement, shares."""
    fixed = any(release.kind == "fixed-size" for release, _ in composition.sampled)
    return "rdp" if fixed or composition.shares else "pld"


@lru_cache(maxsize=4096)
def epsilon(
    composition: Composition,
    delta: float,
    adjacency: Adjacency,
    accountant: Accountant,
    conversion: Conversion = "improved",
) -> float:
    """The ε at δ, an upper bound; never more than without amplification.

    Cut Poisson cohorts (``max_cohort``) have their own PLD (arXiv 2508.15089), against an observer who knows nothing of
    the cohort. RDP has none, and a participant knows of itself, which where cohorts are cut tells of the others: there
    the tail is added to δ. Proof: a round with and without the cut is the same unless the uncut cohort is larger than
    max_cohort, so all rounds differ in total variation by at most τ = Σ P[Bin(n, q) > max_cohort], under either
    neighbour. With P, Q the cut and P', Q' the uncut outputs, P(S) ≤ P'(S) + τ ≤ e^ε Q'(S) + δ' + τ ≤ e^ε (Q(S) + τ) +
    δ' + τ. So δ = δ'(ε) + (1 + e^ε) τ, which is solved for ε. A round that ends without a release when its cohort is
    below ``min_cohort`` is not Poisson-sampled given that it was released; by the same proof, with both accountants, τ
    = Σ P[Bin(n, q) < min_cohort] against the mechanism that always releases. Aborted rounds must be counted too.

    Raises:
        UnsupportedAccounting: the accountant has no theorem for this sampling, noise and adjacency.
        ConfigurationError: δ outside (0, 1).
    """
    if not 0.0 < delta < 1.0:
        raise ConfigurationError("δ is in (0, 1).", value=delta, remedy="Give less than one over the population.")
    if composition.empty:
        return 0.0
    bound = math.inf
    if composition.sampled:
        bound = in_full(composition, delta, adjacency, accountant, conversion)
    if accountant == "rdp":
        orders, curve = _rdp(composition, adjacency)
        tail = sum(tails(composition, adjacency, accountant))
        return min(bound, _with_tail(lambda left: _rdp_epsilon(orders, curve, left, conversion), delta, tail))
    if _plain(composition):
        from dp_accounting.gaussian_mechanism import get_epsilon_gaussian  # type: ignore[import-untyped]

        return float(get_epsilon_gaussian(_sigma(composition, adjacency), delta))
    losses = _pld(composition, adjacency)
    tail = sum(tails(composition, adjacency, accountant))
    return min(bound, _with_tail(lambda left: float(losses.get_epsilon(left)), delta, tail))


@lru_cache(maxsize=4096)
def delta(
    composition: Composition,
    epsilon: float,
    adjacency: Adjacency,
    accountant: Accountant,
    conversion: Conversion = "improved",
) -> float:
    """The δ at ε, an upper bound.

    Raises:
        UnsupportedAccounting: the accountant has no theorem for this sampling, noise and adjacency.
        ConfigurationError: ε negative or not finite.
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ConfigurationError("ε is finite and ≥ 0.", value=epsilon, remedy="Give e.g. epsilon=1.0.")
    if composition.empty:
        return 0.0
    if accountant == "rdp":
        orders, curve = _rdp(composition, adjacency)
        bound = _rdp_delta(orders, curve, epsilon, conversion)
        bound += (1.0 + math.exp(min(epsilon, 700.0))) * sum(tails(composition, adjacency, accountant))
    elif _plain(composition):
        bound = _gaussian_delta(_sigma(composition, adjacency), epsilon)
    else:
        bound = float(_pld(composition, adjacency).get_delta(epsilon))
        bound += (1.0 + math.exp(min(epsilon, 700.0))) * sum(tails(composition, adjacency, accountant))
    if composition.sampled:
        plain = delta(composition.unamplified(adjacency), epsilon, adjacency, accountant, conversion)
        bound = min(bound, plain + (1.0 + math.exp(min(epsilon, 700.0))) * _decided(composition, adjacency))
    return min(1.0, max(0.0, bound))


def in_full(
    composition: Composition,
    delta: float,
    adjacency: Adjacency,
    accountant: Accountant,
    conversion: Conversion = "improved",
) -> float:
    """The ε at δ without amplification, an upper bound too.

    A client that joins or leaves may decide whether its cohort reaches ``min_cohort``, which no noise hides: under
    add/remove τ is added to δ as in :func:`epsilon`. Where it is more than δ bears, ε = ∞.
    """
    certain = composition.unamplified(adjacency)
    return _with_tail(
        lambda left: epsilon(certain, left, adjacency, accountant, conversion), delta, _decided(composition, adjacency)
    )


def headline_epsilon(
    composition: Composition, delta: float, adjacency: Adjacency, conversion: Conversion = "improved"
) -> tuple[float, Accountant]:
    """The ε at δ of the headline accountant, and which one gave it.

    RDP's amplified bound of cohorts of a fixed size may be above what PLD makes of the same releases without
    amplification: both hold, the smaller counts.
    """
    by = headline(composition)
    found = epsilon(composition, delta, adjacency, by, conversion)
    if by == "rdp" and not composition.shares:
        plain = in_full(composition, delta, adjacency, "pld")
        if plain < found:
            return plain, "pld"
    return found, by


def headline_delta(
    composition: Composition, epsilon: float, adjacency: Adjacency, conversion: Conversion = "improved"
) -> float:
    """The δ at ε of the headline accountant; see :func:`headline_epsilon`."""
    by = headline(composition)
    found = delta(composition, epsilon, adjacency, by, conversion)
    if by == "rdp" and not composition.shares:
        found = min(found, delta(composition.unamplified(adjacency), epsilon, adjacency, "pld"))
    return found


def pure_epsilon(composition: Composition) -> float:
    """The ε at δ = 0; ∞ where there is anything but randomised responses."""
    if composition.gaussian or composition.sampled or composition.shares:
        return math.inf
    return math.fsum(count * answer.epsilon for answer, count in composition.responses)


def rdp_curve(composition: Composition, adjacency: Adjacency) -> dict[float, float]:
    """Order α → Rényi divergence bound, on dp-accounting's orders; with Skellam noise on integers.

    Raises:
        UnsupportedAccounting: see :func:`epsilon`.
    """
    return dict(zip(*_rdp(composition, adjacency), strict=True))


def _plain(composition: Composition) -> bool:
    """One Gaussian and nothing else."""
    return not (composition.sampled or composition.shares or composition.responses)


def _sigma(composition: Composition, adjacency: Adjacency) -> float:
    """The one Gaussian that equals the unamplified part. Replacing moves the sum by up to twice the clip norm."""
    return (0.5 if adjacency == "replace-one" else 1.0) / math.sqrt(composition.gaussian)


def _gaussian_delta(sigma: float, epsilon: float) -> float:
    """Balle and Wang 2018, theorem 8: Φ(1/2σ - εσ) - e^ε Φ(-1/2σ - εσ), in logarithms."""
    from scipy.stats import norm  # type: ignore[import-untyped]

    first = float(norm.logcdf(0.5 / sigma - epsilon * sigma))
    second = epsilon + float(norm.logcdf(-0.5 / sigma - epsilon * sigma))
    return math.exp(first) * -math.expm1(min(0.0, second - first))


def _relation(adjacency: Adjacency) -> Any:
    from dp_accounting import NeighboringRelation  # type: ignore[import-untyped]

    return {
        "zero-out": NeighboringRelation.REPLACE_SPECIAL,
        "add-remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace-one": NeighboringRelation.REPLACE_ONE,
    }[adjacency]


def _largest(release: Sampled, adjacency: Adjacency) -> int:
    """The larger of two neighbouring populations."""
    return release.population + (adjacency == "add-remove")


def _smallest(release: Sampled, adjacency: Adjacency) -> int:
    """The smaller of two neighbouring populations."""
    return release.population - (adjacency == "add-remove")


@lru_cache(maxsize=256)
def _rdp(composition: Composition, adjacency: Adjacency) -> tuple[tuple[float, ...], tuple[float, ...]]:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant  # type: ignore[import-untyped]

    # dp-accounting 0.6 does not double the sensitivity for replace-one in RDP (its PLD does): google/
    # differential-privacy #378. So the noise is halved here; a test pins PLD and RDP to each other.
    half = 0.5 if adjacency == "replace-one" else 1.0
    accountant = RdpAccountant(curves.orders(shares for shares, _ in composition.shares), _relation(adjacency))
    if composition.gaussian:
        accountant.compose(dp_accounting.GaussianDpEvent(half / math.sqrt(composition.gaussian)))
    for release, count in composition.sampled:
        event: Any = dp_accounting.GaussianDpEvent(half * release.noise_multiplier)
        if release.kind == "poisson":
            event = dp_accounting.PoissonSampledDpEvent(release.rate, event)
        else:
            event = dp_accounting.SampledWithoutReplacementDpEvent(release.population, release.size, event)
        _compose(accountant, event, count, release, adjacency)
    grid = tuple(float(order) for order in accountant.orders)
    parts = [accountant.rdp]
    parts += [count * curves.curve(shares, grid, adjacency) for shares, count in composition.shares]
    parts += [count * curves.response(answer, grid) for answer, count in _responses(composition, adjacency)]
    return grid, tuple(np.sum(parts, axis=0).tolist())


@lru_cache(maxsize=16)
def _pld(composition: Composition, adjacency: Adjacency) -> Any:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant  # type: ignore[import-untyped]

    if composition.shares:
        raise UnsupportedAccounting(
            "Sums of clients' shares of integer noise are accounted by RDP.",
            value="accountant pld",
            remedy='Use accountant="rdp", or leave accountant=None.',
        )
    accountant = PLDAccountant(_relation(adjacency), _pld_step(composition))
    if composition.gaussian:
        accountant.compose(dp_accounting.GaussianDpEvent(1.0 / math.sqrt(composition.gaussian)))
    for release, count in composition.sampled:
        noise = dp_accounting.GaussianDpEvent(release.noise_multiplier)
        event: Any
        if release.kind == "fixed-size":
            event = dp_accounting.SampledWithoutReplacementDpEvent(release.population, release.size, noise)
        elif release.max_cohort and not release.participant:
            # Stated there for add/remove; it covers zero-out too. Where the other clients alone fill the cohort, client
            # i takes another's place: given the others, both sums are one mixture of shifts v and w against the same
            # N(0, σ²), with |v|, |w| ≤ 2, which replace-one at twice the sensitivity dominates. Else nothing is cut.
            event = dp_accounting.dp_event.TruncatedSubsampledGaussianDpEvent(
                _largest(release, adjacency), release.rate, release.max_cohort, release.noise_multiplier
            )
        else:
            event = dp_accounting.PoissonSampledDpEvent(release.rate, noise)
        _compose(accountant, event, count, release, adjacency)
    for answer, count in _responses(composition, adjacency):
        # With probability 1 - p the truth, else any answer: p = k / (e^ε + k - 1). dp-accounting 0.6 composes one
        # response whatever the count says; a test pins it.
        noise = answer.categories / (math.exp(answer.epsilon) + answer.categories - 1)
        for _ in range(count):
            accountant.compose(dp_accounting.dp_event.RandomizedResponseDpEvent(noise, answer.categories))
    return accountant


def _responses(composition: Composition, adjacency: Adjacency) -> tuple[tuple[Response, int], ...]:
    if composition.responses and adjacency != "replace-one":
        raise UnsupportedAccounting(
            "A randomised response hides which answer is true, so neighbours differ in one client's answer.",
            value=adjacency,
            remedy='Use adjacency="replace-one".',
        )
    return composition.responses


def _pld_step(composition: Composition) -> float:
    """The grid of privacy losses: any step gives an upper bound, a coarse one keeps a huge ε affordable."""
    if headline(composition) != "pld":
        return _PLD_STEP
    relation: Adjacency = "zero-out"  # in RDP Poisson sampling has no replace-one
    if composition.responses:
        relation, composition = "replace-one", replace(composition, sampled=())
    orders, curve = _rdp(composition, relation)
    return _PLD_STEP * max(1.0, _rdp_epsilon(orders, curve, 1e-6, "improved") / _PLD_WIDTH)


def _compose(accountant: Any, event: Any, count: int, release: Sampled, adjacency: Adjacency) -> None:
    import dp_accounting

    try:
        with _quiet():
            accountant.compose(event, count)
    except dp_accounting.UnsupportedEventError as error:
        raise UnsupportedAccounting(
            f"dp-accounting has a theorem in {type(accountant).__name__} for the sampling and the adjacency.",
            value=f"{release.kind} sampling, {adjacency}",
            remedy="Use the other accountant, or leave accountant=None.",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep dp-accounting from logging each RDP order that it leaves out: fewer orders mean a larger ε, no false one."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def tails(composition: Composition, adjacency: Adjacency, accountant: Accountant) -> tuple[float, float]:
    """τ, in two: bounds of how likely some cohort is below its minimum and, where no theorem covers the cut, above its
    maximum.
    """
    if not any(release.min_cohort or release.max_cohort for release, _ in composition.sampled):
        return 0.0, 0.0
    from scipy.stats import binom

    below = math.fsum(
        count * float(binom.cdf(release.min_cohort - 1, _smallest(release, adjacency), release.rate))
        for release, count in composition.sampled
        if release.min_cohort
    )
    above = math.fsum(
        count * float(binom.sf(release.max_cohort, _largest(release, adjacency), release.rate))
        for release, count in composition.sampled
        if release.max_cohort and (accountant == "rdp" or release.participant)
    )
    return below, above


def _decided(composition: Composition, adjacency: Adjacency) -> float:
    """τ where one client may decide whether a round is released."""
    return tails(composition, adjacency, "pld")[0] if adjacency == "add-remove" else 0.0


def _with_tail(solve: Callable[[float], float], delta: float, tail: float) -> float:
    """The smallest ε, up to 1e-9, with solve(δ - (1 + e^ε) tail) ≤ ε; ∞ where there is none.

    The iteration only grows: solve falls with its argument, the argument falls with ε. It stops at an ε that satisfies
    the inequality, or when the tail has eaten δ.
    """
    epsilon = solve(delta)
    if tail == 0.0:
        return epsilon
    while epsilon < 700.0:
        left = delta - (1.0 + math.exp(epsilon)) * tail
        if left <= 0.0:
            break
        following = solve(left)
        if following <= epsilon:
            return epsilon
        epsilon = following + 1e-9
    return math.inf


def _rdp_epsilon(orders: tuple[float, ...], curve: tuple[float, ...], delta: float, conversion: Conversion) -> float:
    if conversion == "classic":
        return min(rdp + math.log(1.0 / delta) / (order - 1.0) for order, rdp in zip(orders, curve, strict=True))
    from dp_accounting.rdp import compute_epsilon

    return float(compute_epsilon(orders, curve, delta)[0])


def _rdp_delta(orders: tuple[float, ...], curve: tuple[float, ...], epsilon: float, conversion: Conversion) -> float:
    if conversion == "classic":
        return min(math.exp(min(0.0, (a - 1.0) * (rdp - epsilon))) for a, rdp in zip(orders, curve, strict=True))
    from dp_accounting.rdp.rdp_privacy_accountant import compute_delta  # type: ignore[import-untyped]

    return float(compute_delta(orders, curve, epsilon)[0])
