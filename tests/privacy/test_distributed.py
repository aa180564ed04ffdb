from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from settings import NEVER, QUIET, THREAT, outcome, setting

from fedpriv.errors import BudgetUnreachable, ConfigurationError, NonFiniteInput, PlanError
from fedpriv.privacy import (
    Budget,
    DistributedDiscreteGaussian,
    DistributedSkellam,
    Ledger,
    Mechanism,
    PoissonSampling,
)
from fedpriv.privacy.mechanisms import grid
from fedpriv.privacy.mechanisms.grid import Ring, reduced
from fedpriv.privacy.mechanisms.shares import Distributed
from fedpriv.privacy.samplers import discrete_gaussian, skellam
from fedpriv.randomness import Noise, Streams, noises
from fedpriv.threat import Coalition

BOTH = [DistributedDiscreteGaussian, DistributedSkellam]
both = pytest.mark.parametrize("kind", BOTH)


def drawn(n: int, seed: int = 1) -> list[Noise]:
    return list(noises("seeded", Streams(seed), "noise", 0, range(n)))


def quiet(monkeypatch: pytest.MonkeyPatch, kind: type[Distributed]) -> None:
    """Rounding as ever, noise of zero."""
    monkeypatch.setattr(kind, "sampler", property(lambda self: lambda variance, size, words: np.zeros(size, np.int64)))


@both
def test_without_noise_it_is_the_clipped_sum_over_the_public_constant(kind, monkeypatch) -> None:
    quiet(monkeypatch, kind)
    updates = np.random.default_rng(1).standard_normal((10, 5)) * np.linspace(0.1, 3, 10)[:, None]
    mechanism: Mechanism = kind(clip_norm=1.5, noise_multiplier=1.0, bits=30)
    state = mechanism.init(setting(length=5, sampling=PoissonSampling(0.4, 10)))
    spec = mechanism.begin(state, 3, public=77)
    assert (spec.round, spec.public, spec.length, spec.modulus_bits, spec.divisor) == (3, 77, 8, 30, 4.0)
    encoded = mechanism.protect(updates, [1] * 10, spec, drawn(10))
    assert encoded.values.dtype == np.int64
    assert (encoded.values.shape, encoded.residual.shape) == ((10, 8), (8,))
    norms = np.linalg.norm(updates, axis=1)
    assert encoded.clipped_norms == np.count_nonzero(norms > 1.5) > 0
    clipped = updates * np.minimum(1, 1.5 / norms)[:, None]
    released = mechanism.release(encoded.values.sum(axis=0), spec, outcome(), NEVER, state).mean
    assert released.shape == (5,)
    assert released == pytest.approx(clipped.sum(axis=0) / 4.0, abs=10 * spec.codec.step)
    # The residual is what rounding added, in the coordinates of the payload.
    assert released * 4.0 - clipped.sum(axis=0) == pytest.approx(encoded.residual[:5], abs=1e-9)
    assert np.abs(encoded.residual).max() > 0


@both
def test_the_weights_are_equal_whatever_the_examples(kind) -> None:
    mechanism = kind(clip_norm=1.0, noise_multiplier=1.0)
    spec = mechanism.init(setting()).spec
    updates = np.random.default_rng(2).standard_normal((3, 4))
    first = mechanism.protect(updates, [1, 1, 1], spec, drawn(3)).values
    assert np.array_equal(first, mechanism.protect(updates, [50, 2, 999], spec, drawn(3)).values)
    with pytest.raises(NonFiniteInput):
        mechanism.protect(np.full((1, 4), np.nan), [1], spec, drawn(1))


@both
def test_every_client_adds_its_own_share_in_the_ring(kind) -> None:
    """The same update of two clients: they differ by noise of the stated law alone, whoever else is in the chunk."""
    mechanism = kind(clip_norm=1.0, noise_multiplier=0.5, bits=12)
    spec = mechanism.init(setting(length=300)).spec
    updates = np.tile(np.random.default_rng(2).standard_normal(300), (3, 1))
    values = mechanism.protect(updates, [1] * 3, spec, drawn(3)).values
    assert values.min() >= -(2**11)
    assert values.max() < 2**11
    assert np.abs(values).max() <= spec.input_bound
    apart = values[0] - values[1]
    assert apart.var() == pytest.approx(2 * spec.share.variance, rel=0.5)
    alone = mechanism.protect(updates[1:2], [1], spec, drawn(3)[1:2]).values
    assert np.array_equal(alone[0], values[1])


@both
def test_noise_beyond_the_ring_wraps_and_is_never_cut(kind, monkeypatch) -> None:
    mechanism = kind(clip_norm=1.0, noise_multiplier=0.5, bits=10)
    spec = mechanism.init(setting()).spec
    expected = []
    for far in (0, 3 * 2**10, -5 * 2**10 + 7, 2**9):
        monkeypatch.setattr(kind, "sampler", property(lambda self, far=far: lambda v, size, w: np.full(size, far)))
        expected.append(mechanism.protect(np.ones((1, 4)), [1], spec, drawn(1)).values - far)
        assert np.abs(expected[-1] + far).max() <= spec.input_bound
    assert all(np.array_equal(each % 2**10, expected[0] % 2**10) for each in expected)


@given(total=st.integers(-(2**60), 2**60), bits=st.integers(8, 30))
def test_a_total_is_reduced_to_the_signed_interval(total, bits) -> None:
    value = int(reduced(np.array([total]), bits)[0])
    assert (value - total) % 2**bits == 0
    assert -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)


@both
def test_a_wrap_of_the_sum_is_the_same_in_the_ring_and_in_integers(kind) -> None:
    mechanism = kind(clip_norm=1.0, noise_multiplier=1.0, bits=10)
    state = mechanism.init(setting(length=8))
    total = np.arange(8) * 200 - 700
    plain = mechanism.release(total, state.spec, outcome(), NEVER, state).mean
    wrapped = mechanism.release(total % 2**10, state.spec, outcome(), NEVER, state).mean
    assert np.array_equal(plain, wrapped)


# ---- The plan ----


@both
def test_the_fewest_honest_shares_make_up_the_noise_multiplier(kind) -> None:
    mechanism = kind(clip_norm=2.0, noise_multiplier=0.7)
    here = setting(least_contributors=8, least_honest=7)
    state = mechanism.init(here)
    spec = mechanism.begin(state, 4)
    assert math.sqrt(7 * spec.share.variance) * spec.codec.step / 2.0 == pytest.approx(0.7)
    assert mechanism.noise_contributors(here) == spec.planned_contributors == 7
    for contributors in (7, 10):
        (event,) = mechanism.events(spec, outcome(10, contributors))
        assert event.noise_multiplier == pytest.approx(0.7 * math.sqrt(contributors / 7))
        assert (event.planned_noise_multiplier, event.planned_contributors) == (0.7, 7)
        assert (event.mechanism, event.trust, event.detail) == (mechanism.kind, "distributed", spec.share)
        assert (event.round, event.contributors) == (4, contributors)
    (aborted,) = mechanism.events(spec, outcome(10, 0))
    assert (aborted.noise_multiplier, aborted.contributors) == (0.7, 0)


@given(
    bits=st.integers(10, 26),
    clients=st.integers(1, 2000),
    length=st.integers(1, 2**20),
    z=st.floats(0.01, 100),
    tails=st.floats(1, 10),
    share=st.floats(0.1, 1),
)
def test_the_grid_is_the_finest_at_which_the_sum_fits(bits, clients, length, z, tails, share) -> None:
    from fedpriv.privacy.rotation import padded

    honest = max(1, int(share * clients))
    ring = Ring(
        bits=bits,
        tails=tails,
        beta=math.exp(-0.5),
        dimension=padded(length),
        clients=clients,
        honest=honest,
    )
    try:
        steps = ring.clip_in_steps(z)
    except PlanError:
        assert ring.room <= 0 or bits > 12
        return
    held = ring.share("skellam", z)
    variance = (clients * steps) ** 2 / ring.dimension + clients * held.variance + clients / 4
    assert tails * math.sqrt(variance) == pytest.approx(2 ** (bits - 1))
    assert held.l2 >= steps
    assert held.l1 <= min(held.l2**2, math.sqrt(ring.dimension) * held.l2) * (1 + 1e-9)
    assert ring.codec(z, 3.0).step == pytest.approx(3.0 / steps)
    assert ring.codec(z, 3.0).bound >= held.l2
    assert 0 < held.wrap <= 1


def test_more_bits_make_a_finer_grid_and_a_norm_that_is_hardly_inflated() -> None:
    inflation = []
    for bits in (8, 10, 12, 16):
        spec = DistributedSkellam(clip_norm=1.0, noise_multiplier=1.0, bits=bits).init(setting(length=1000)).spec
        inflation.append(spec.share.l2 * spec.codec.step)
    assert inflation == sorted(inflation, reverse=True)
    assert inflation[0] > 1.2
    assert 1 < inflation[-1] < 1.001


@pytest.mark.statistical
@both
@pytest.mark.parametrize("noise_multiplier", [2.0, 20.0])
def test_sums_wrap_no_more_often_than_the_bound_says(kind, noise_multiplier) -> None:
    """600 sums of four clients, each a spike, in a ring of two standard deviations: measured about 0.05 and 0.09.

    A bound that forgot the signal would be below the first, one that forgot the noise below the second.
    """
    n, trials = 4, 600
    mechanism = kind(clip_norm=1.0, noise_multiplier=noise_multiplier, bits=8, tails=2.0)
    spec = mechanism.init(setting(length=2, population=n, least_contributors=n, least_honest=n)).spec
    updates = np.tile([1.0, 0.0], (n * trials, 1))
    shared = [Noise(words=np.random.PCG64DXSM(3).random_raw, normal=NEVER.normal)] * len(updates)
    values = mechanism.protect(updates, [1] * len(updates), spec, shared).values.reshape(trials, n, 2)
    total = values.sum(axis=1)
    rate = np.mean(((total >= 128) | (total < -128)).any(axis=1))
    assert rate + 6 * math.sqrt(rate / trials) <= spec.share.wrap < 0.8
    ring = Ring(bits=8, tails=2.0, beta=math.exp(-0.5), dimension=2, clients=n, honest=n)
    if noise_multiplier == 2.0:
        assert rate > 1.5 * ring.wrap(spec.share.kind, 0.0, spec.share.variance)
    else:
        assert rate > 3 * ring.wrap(spec.share.kind, 1.0 / spec.codec.step, 0.0)


def test_the_wrap_bound_falls_with_the_tails_and_knows_the_law() -> None:
    ring = Ring(bits=16, tails=4.0, beta=math.exp(-0.5), dimension=256, clients=100, honest=100)
    bounds = [replace(ring, tails=k).share("discrete-gaussian", 1.0).wrap for k in (4.0, 5.0, 6.0, 7.0)]
    by_hand = [512 * math.exp(-k * k / 2) for k in (4.0, 5.0, 6.0, 7.0)]
    for bound, expected in zip(bounds, by_hand, strict=True):
        assert expected * 0.9 < bound < expected * 1.3
    heavier = ring.wrap("skellam", 10.0, 1e5)
    assert heavier > ring.wrap("discrete-gaussian", 10.0, 1e5)
    assert replace(ring, clients=10**6, bits=10).wrap("skellam", 1.0, 1.0) == 1.0


# ---- Budgets ----


def spent(mechanism: Distributed, here, contributors: int, cohort: int, observer) -> float:
    """ε of the whole run as the ledger states it afterwards."""
    spec = mechanism.init(here).spec
    events = [
        event
        for round in range(here.rounds)
        for event in mechanism.events(replace(spec, round=round), replace(outcome(cohort, contributors), noise="os"))
    ]
    ledger = Ledger(threat=here.threat, population=here.population, adjacency=here.adjacency, events=events)
    return ledger.epsilon(1e-5, observer=observer)


@both
@pytest.mark.parametrize("observer", ["server", "participant", Coalition(server=True, clients=0.2)])
@pytest.mark.parametrize(("adjacency", "bits"), [("zero-out", 11), ("replace-one", 18)])
def test_a_budget_is_met_by_the_fewest_contributors_and_not_missed_by_much(
    kind, observer, adjacency, bits, masked
) -> None:
    here = setting(
        length=60,
        population=50,
        rounds=3,
        least_contributors=40,
        least_honest=35,
        threat=masked,
        adjacency=adjacency,
    )
    mechanism = kind(clip_norm=1.0, target=Budget(epsilon=4.0, delta=1e-5, observer=observer), bits=bits)
    # A coalition of ten knows ten shares of forty: thirty are left, fewer than the honest ones of the plan.
    fewest = {"server": 35, "participant": 36}.get(str(observer), 40)
    assert mechanism.noise_contributors(here) == (35 if isinstance(observer, str) else 30)
    epsilon = spent(mechanism, here, fewest, 50, observer)
    assert 4.0 * (1 - 2e-3) < epsilon <= 4.0 + 1e-9
    assert spent(mechanism, here, 50, 50, observer) < epsilon


@both
def test_a_ring_too_small_for_the_target_is_refused_with_the_bits_that_do(kind, masked) -> None:
    here = setting(length=500, population=100, least_contributors=90, least_honest=90, threat=masked, rounds=20)
    target = Budget(epsilon=0.5, delta=1e-5, observer="server")
    with pytest.raises(BudgetUnreachable, match=r"Use 1[0-9] bits or more") as caught:
        kind(clip_norm=1.0, target=target, bits=9).init(here)
    enough = int(str(caught.value).split("Use ")[1].split()[0])
    assert enough > 9
    kind(clip_norm=1.0, target=target, bits=enough).init(here)
    with pytest.raises(BudgetUnreachable):
        kind(clip_norm=1.0, target=target, bits=enough - 1).init(here)


# ---- Refusals ----


@both
def test_where_nobodys_noise_counts_the_minimum_that_helps_is_named(kind) -> None:
    """Of ten clients corrupt=0.3 leaves out three, so four must contribute; of all clients nothing is left."""
    mechanism = kind(clip_norm=1.0, noise_multiplier=1.0, corrupt=0.3)
    with pytest.raises(PlanError, match=r"at least 4.*min_contributors=4.*min_cohort=4"):
        mechanism.init(setting(least_contributors=3, least_honest=0))
    mechanism.init(setting(least_contributors=4, least_honest=1))
    everybody = setting(threat=replace(THREAT, corrupt=1.0), least_honest=0)
    with pytest.raises(PlanError, match=r"corrupt=") as caught:
        kind(clip_norm=1.0, noise_multiplier=1.0).init(everybody)
    assert "11" not in str(caught.value)


@both
def test_what_cannot_be_planned_is_refused(kind) -> None:
    mechanism = kind(clip_norm=1.0, noise_multiplier=1.0)
    with pytest.raises(PlanError, match="takes its share of the noise"):
        mechanism.init(setting(adjacency="add-remove"))
    with pytest.raises(PlanError, match="honest contributor"):
        mechanism.init(setting(least_honest=0))
    target = Budget(epsilon=1.0, delta=1e-5, observer=Coalition(server=True, clients=0.8))
    with pytest.raises(PlanError, match="honest contributor"):
        kind(clip_norm=1.0, target=target).init(setting())

    class Unaccounted(PoissonSampling):
        def accounting(self, population: int) -> None:
            return None

    with pytest.raises(PlanError, match="accounted"):
        mechanism.init(setting(sampling=Unaccounted(0.5, 10)))
    crowd = setting(population=20_000, least_contributors=9000, least_honest=9000)
    with pytest.raises(PlanError, match=r"rounding errors of 20000 clients.*at least 10 bits"):
        replace(mechanism, bits=8).init(crowd)
    lonely = setting(population=1, least_contributors=1, least_honest=1, length=2**24)
    with pytest.raises(PlanError, match=r"2\^26 steps.*bits less"):
        replace(mechanism, bits=30, noise_multiplier=0.001, tails=1.0).init(lonely)


def test_narrow_discrete_gaussians_are_refused_and_skellams_are_not() -> None:
    here = setting(population=100, least_contributors=90, least_honest=90, length=100)
    narrow = DistributedDiscreteGaussian(clip_norm=1.0, noise_multiplier=0.05, bits=12)
    with pytest.raises(PlanError, match=r"σ = 0\.\d+ at 12 bits") as caught:
        narrow.init(here)
    enough = int(str(caught.value).split("Use ")[1].split()[0])
    assert replace(narrow, bits=enough).init(here).spec.share.variance >= 1
    with pytest.raises(PlanError):
        replace(narrow, bits=enough - 1).init(here)
    skellam_spec = DistributedSkellam(clip_norm=1.0, noise_multiplier=0.05, bits=12).init(here).spec
    assert skellam_spec.share.variance < 1


@both
@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_norm": 0.0},
        {"clip_norm": math.inf},
        {"noise_multiplier": None},
        {"target": Budget(epsilon=1.0, delta=1e-5, observer="server")},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": "1"},
        {"noise_multiplier": None, "target": 2.0},
        {"clip_norm": True},
        {"clip_norm": "1"},
        {"beta": "x"},
        {"beta": False},
        {"tails": "6"},
        {"tails": True},
        {"corrupt": "x"},
        {"corrupt": False},
        {"corrupt": (0.1,)},
        {"bits": 7},
        {"bits": 31},
        {"bits": True},
        {"beta": 1.0},
        {"beta": -0.1},
        {"tails": 0.5},
        {"tails": math.inf},
        {"corrupt": 1.0},
        {"corrupt": -0.1},
        {"weighting": "examples"},
    ],
)
def test_a_number_out_of_range_is_refused(kind, wrong) -> None:
    with pytest.raises(ConfigurationError):
        kind(**({"clip_norm": 1.0, "noise_multiplier": 1.0} | wrong))


def test_each_kind_draws_from_its_own_law() -> None:
    assert DistributedDiscreteGaussian(clip_norm=1.0, noise_multiplier=1.0).sampler is discrete_gaussian
    assert DistributedSkellam(clip_norm=1.0, noise_multiplier=1.0).sampler is skellam
    assert DistributedSkellam(clip_norm=1.0, noise_multiplier=1.0).trust == "distributed"
    assert grid.MOST_BITS == 30
    state = DistributedSkellam(clip_norm=1.0, noise_multiplier=1.0).init(setting())
    assert DistributedSkellam(clip_norm=1.0, noise_multiplier=1.0).advance(state, state.spec, None, QUIET) is state
