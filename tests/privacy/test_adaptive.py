from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2
from settings import NEVER, QUIET, outcome, setting

from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.privacy import AdaptiveClip, Budget, Capped, CentralGaussian, Ledger
from fedpriv.privacy.adaptive import augment, joint_norm
from fedpriv.randomness import Noise, Streams, noise


def central(noise_multiplier: float = 1.0, bits: int = 20, **more) -> CentralGaussian:
    return CentralGaussian(
        clip_norm=AdaptiveClip(**{"initial": 1.0, **more}), noise_multiplier=noise_multiplier, bits=bits
    )


def hundred(**more):
    return setting(population=100, least_contributors=90, least_honest=90, **more)


# ---- the trade-off ----


@given(noise_multiplier=st.floats(0.1, 20), over=st.floats(1, 1000))
def test_the_split_of_the_noise_is_andrew_et_als(noise_multiplier, over) -> None:
    """z_Δ = (z⁻² - (2σ_b)⁻²)^-1/2: the two sums noised apart cost what the joint vector costs."""
    count_noise = over * noise_multiplier
    beta = AdaptiveClip(initial=1.0, count_noise=count_noise).ratio(noise_multiplier, cohort=1.0)
    joint = noise_multiplier * joint_norm(1.0, beta)
    assert joint == pytest.approx((noise_multiplier**-2 - (2 * count_noise) ** -2) ** -0.5)
    assert joint / (2 * beta) == pytest.approx(count_noise)
    assert beta <= 1 / math.sqrt(3) + 1e-9


def test_noise_on_the_count_is_a_twentieth_of_the_cohort_or_the_multiplier() -> None:
    clip = AdaptiveClip(initial=1.0)
    assert clip.ratio(1.0, cohort=100) == AdaptiveClip(initial=1.0, count_noise=5.0).ratio(1.0, cohort=100)
    assert clip.ratio(2.0, cohort=10) == pytest.approx(1 / math.sqrt(3))
    with pytest.raises(PlanError, match="at least the noise multiplier"):
        AdaptiveClip(initial=1.0, count_noise=1.9).ratio(2.0, cohort=10)
    with pytest.raises(PlanError, match="at least the noise multiplier"):
        central(2.0, count_noise=1.0).init(setting())


def test_the_clip_moves_geometrically_and_stays_in_range() -> None:
    clip = AdaptiveClip(initial=0.5, quantile=0.7, learning_rate=0.2)
    assert clip.next_clip(2.0, 1.0) == pytest.approx(2.0 * math.exp(-0.2 * 0.3))
    assert clip.next_clip(2.0, 0.7) == pytest.approx(2.0)
    steep = AdaptiveClip(initial=0.5, learning_rate=1000.0)
    assert steep.next_clip(0.5, 1.0) == 0.5 / 2**40
    assert AdaptiveClip(initial=0.5, quantile=1.0, learning_rate=500.0).next_clip(0.5, 0.0) == 0.5 * 2**40
    assert AdaptiveClip(initial=0.5, learning_rate=1e6).next_clip(0.5, 0.0) == 0.5 * 2**40  # e^(5·10^5) is no double


def test_bits_are_appended_in_the_rows_units() -> None:
    rows, clipped = np.array([[1.5], [2.5]]), np.array([False, True])
    assert augment(rows, clipped, 0.25).tolist() == [[1.5, 0.25], [2.5, -0.25]]
    integers = augment(np.array([[7], [8]]), clipped, 3)
    assert integers.tolist() == [[7, 3], [8, -3]]
    assert integers.dtype == np.int64


# ---- in the central mechanism ----


@given(
    rows=arrays(np.float64, (3, 5), elements=st.floats(-1e300, 1e300) | st.floats(-2, 2)),
    bits=st.integers(2, 40),
    noise_multiplier=st.floats(0.05, 5),
    initial=st.floats(1e-6, 1e6),
)
@example(rows=np.full((3, 5), 1.0), bits=2, noise_multiplier=0.05, initial=1.0)
def test_the_joint_integer_norm_is_never_above_the_sensitivity(rows, bits, noise_multiplier, initial) -> None:
    mechanism = central(noise_multiplier, bits, initial=initial)
    spec = mechanism.begin(mechanism.init(hundred(length=5)), 0)
    assert spec.adapted is not None
    bit = round(spec.adapted.bit / spec.codec.step)
    values = mechanism.protect(rows, [1] * 3, spec, []).values
    assert values.shape == (3, spec.length) == (3, 6)
    for row in values.tolist():
        assert sum(k * k for k in row) <= spec.codec.bound**2 + bit**2
        assert max(map(abs, row)) <= spec.input_bound
    assert spec.clip_norm == pytest.approx(math.hypot(spec.codec.bound, bit) * spec.codec.step, rel=1e-12)
    assert set(np.abs(values[:, -1])) == {bit}


@pytest.mark.statistical
def test_update_and_count_share_one_noise() -> None:
    """n = 20,000 coordinates and 400 counts, α = 1e-6: the stated σ of each passes, 2/3 and 3/2 of it fail."""
    z, rounds, n = 1.3, 400, 50
    mechanism = central(z, bits=16, initial=0.7, count_noise=4.0)
    state = mechanism.init(hundred(length=n))
    bits, updates = [], []
    for round in range(rounds):
        spec = mechanism.begin(state, round)
        drawn = noise("seeded", Streams(5), "noise", round)
        released = mechanism.release(np.zeros(n + 1, dtype=np.int64), spec, outcome(), drawn, state)
        bits.append((released.within_clip - 0.5) * 100)
        updates.append(released.mean * 100)

    def p_value(values, sigma: float) -> float:
        squares, size = float(np.sum(np.square(values))) / sigma**2, np.size(values)
        return 2 * min(chi2.cdf(squares, size), chi2.sf(squares, size))

    for values, sigma in ((bits, 4.0), (updates, 0.7 * (z**-2 - 8.0**-2) ** -0.5)):
        assert p_value(values, sigma) > 1e-6
        assert p_value(values, sigma * 2 / 3) < 1e-6
        assert p_value(values, sigma * 3 / 2) < 1e-6


def test_the_noise_is_the_multiplier_times_the_joint_integer_norm() -> None:
    mechanism = central(2.0, bits=8, count_noise=2.0)  # β = 1 / √3: 15 % more than for the update alone
    state = mechanism.init(hundred(length=2))
    ones = Noise(words=NEVER.words, normal=np.ones)
    released = mechanism.release(np.zeros(3, dtype=np.int64), state, outcome(), ones, state)
    sigma = round(2.0 * math.hypot(127, 73))
    assert released.mean == pytest.approx([sigma * state.codec.step / 100] * 2)
    assert released.within_clip == pytest.approx(0.5 + sigma / (2 * 73) / 100)


def test_without_noise_the_share_within_is_exact() -> None:
    mechanism = central()
    state = mechanism.init(hundred())
    updates = np.zeros((100, 4))
    updates[:, 0] = np.linspace(0.505, 1.495, 100)  # 50 within
    encoded = mechanism.protect(updates, [1] * 100, mechanism.begin(state, 0), [])
    assert encoded.clipped_norms == 50
    total = encoded.values.sum(axis=0)
    released = mechanism.release(total, state, outcome(), QUIET, state)
    assert released.within_clip == pytest.approx(0.5)
    assert released.mean[0] == pytest.approx(np.minimum(updates[:, 0], 1).mean(), abs=1e-5)
    # Eighty of these are there, 40 of them within: those that are not count as half.
    some = encoded.values[10:90].sum(axis=0)
    assert mechanism.release(some, state, outcome(), QUIET, state).within_clip == pytest.approx(0.5)
    longer = encoded.values[50:].sum(axis=0)
    assert mechanism.release(longer, state, outcome(), QUIET, state).within_clip == pytest.approx(0.25)
    nobody = np.zeros(5, dtype=np.int64)
    nobody[-1] = -(2**40)
    assert mechanism.release(nobody, state, outcome(), QUIET, state).within_clip == 0.0


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_the_clip_tracks_the_quantile_of_the_norms(quantile) -> None:
    """100 clients of log-normal norms around 10, from a clip of 1; the count's noise is five clients."""
    rng = np.random.default_rng(8)
    mechanism = central(1.0, bits=16, initial=1.0, quantile=quantile)
    state = mechanism.init(hundred(length=3))
    clips = []
    for round in range(200):
        norms = 10 * np.exp(0.5 * rng.standard_normal(100))
        updates = rng.standard_normal((100, 3))
        updates *= (norms / np.linalg.norm(updates, axis=1))[:, None]
        spec = mechanism.begin(state, round)
        total = mechanism.protect(updates, [1] * 100, spec, []).values.sum(axis=0)
        drawn = noise("seeded", Streams(1), "noise", round)
        state = mechanism.advance(state, spec, mechanism.release(total, spec, outcome(), drawn, state), drawn)
        clips.append(spec.update_norm)
    true = 10 * math.exp(0.5 * {0.2: -0.8416, 0.5: 0.0, 0.8: 0.8416}[quantile])
    assert np.mean(clips[100:]) == pytest.approx(true, rel=0.05)
    assert all(clip == pytest.approx(true, rel=0.25) for clip in clips[100:])


def test_one_event_with_the_joint_noise() -> None:
    mechanism = central(1.1, initial=2.0, count_noise=3.0)
    state = mechanism.init(setting())
    (event,) = mechanism.events(mechanism.begin(state, 4), outcome())
    assert (event.mechanism, event.count, event.noise_multiplier, event.planned_noise_multiplier) == (
        "gaussian",
        1,
        1.1,
        1.1,
    )
    beta = ((2 * 3.0 / 1.1) ** 2 - 1) ** -0.5
    assert event.clip_norm == pytest.approx(2.0 * math.hypot(1, beta), rel=1e-5)
    (fixed,) = CentralGaussian(clip_norm=2.0, noise_multiplier=1.1).events(
        CentralGaussian(clip_norm=2.0, noise_multiplier=1.1).init(setting()), outcome()
    )
    assert fixed.noise_multiplier == event.noise_multiplier  # the ledger is charged no more than for a fixed clip


def test_a_budget_buys_the_same_noise_as_for_a_fixed_clip(keyed) -> None:
    budget = Budget(epsilon=2.0, delta=1e-5, observer="server")
    here = hundred(threat=keyed)
    mechanism = CentralGaussian(clip_norm=AdaptiveClip(initial=0.3), target=budget)
    state = mechanism.init(here)
    assert state.noise_multiplier == CentralGaussian(clip_norm=1.0, target=budget).init(here).noise_multiplier
    ledger = Ledger(threat=keyed, population=100)
    for round in range(here.rounds):
        spec = mechanism.begin(state, round)
        for event in mechanism.events(spec, outcome(100)):
            ledger.append(event)
        drawn = noise("seeded", Streams(2), "noise", round)
        released = mechanism.release(np.zeros(5, dtype=np.int64), spec, outcome(100), drawn, state)
        state = mechanism.advance(state, spec, released, drawn)
    assert len({event.clip_norm for event in ledger.events}) == here.rounds
    assert 2.0 * (1 - 1e-3) < ledger.epsilon(1e-5, observer="server") <= 2.0


def test_state_is_the_public_terms_and_an_aborted_round_moves_nothing() -> None:
    mechanism = central()
    state = mechanism.init(hundred())
    spec = mechanism.begin(state, 0)
    assert mechanism.advance(state, spec, None, NEVER) == state
    released = mechanism.release(np.zeros(5, dtype=np.int64), spec, outcome(), QUIET, state)
    assert released.within_clip == 0.5
    assert mechanism.advance(state, spec, released, NEVER).update_norm == 1.0
    total = np.zeros(5, dtype=np.int64)
    total[-1] = 100 * round(spec.adapted.bit / spec.codec.step)
    after = mechanism.advance(state, spec, mechanism.release(total, spec, outcome(), QUIET, state), NEVER)
    assert pickle.loads(pickle.dumps(after)) == after
    assert after.update_norm == after.codec.limit == pytest.approx(math.exp(-0.1))
    assert (after.length, after.divisor, after.noise_multiplier) == (5, 100.0, 1.0)
    assert after.adapted.bit / after.codec.step == pytest.approx(spec.adapted.bit / spec.codec.step)  # σ stays in step
    assert after.clip_norm / spec.clip_norm == pytest.approx(math.exp(-0.1))


def test_with_capped_weights_the_bit_is_of_the_update_itself() -> None:
    mechanism = CentralGaussian(
        clip_norm=AdaptiveClip(initial=1.0), noise_multiplier=1.0, weighting=Capped(10, expected=5.0)
    )
    spec = mechanism.begin(mechanism.init(hundred()), 0)
    values = mechanism.protect(np.array([[3.0, 0, 0, 0], [0.5, 0, 0, 0]]), [1, 10], spec, []).values
    assert np.sign(values[:, -1]).tolist() == [-1, 1]
    assert spec.codec.decode(values[:, 0]) == pytest.approx([0.1, 0.5], abs=1e-5)
    assert spec.divisor == 50.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AdaptiveClip(initial=0.0), "initial clip norm"),
        (lambda: AdaptiveClip(initial=math.nan), "initial clip norm"),
        (lambda: AdaptiveClip(initial="1"), "initial clip norm"),  # type: ignore[arg-type]
        (lambda: AdaptiveClip(initial=1.0, quantile=1.1), "quantile"),
        (lambda: AdaptiveClip(initial=1.0, quantile=math.nan), "quantile"),
        (lambda: AdaptiveClip(initial=1.0, quantile="half"), "quantile"),  # type: ignore[arg-type]
        (lambda: AdaptiveClip(initial=1.0, quantile=True), "quantile"),
        (lambda: AdaptiveClip(initial=True), "initial clip norm"),
        (lambda: AdaptiveClip(initial=1.0, learning_rate="x"), "learning rate"),  # type: ignore[arg-type]
        (lambda: AdaptiveClip(initial=1.0, count_noise="x"), "count"),  # type: ignore[arg-type]
        (lambda: AdaptiveClip(initial=1.0, learning_rate=-0.1), "learning rate"),
        (lambda: AdaptiveClip(initial=1e300), "reach far"),
        (lambda: AdaptiveClip(initial=1e-300), "reach far"),
        (lambda: AdaptiveClip(initial=1.0, count_noise=0.0), "count"),
        (lambda: CentralGaussian(clip_norm=AdaptiveClip(initial=1.0)), "Exactly one"),
        (lambda: central(bits=41), "bits"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()
