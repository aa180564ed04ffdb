"""An adaptive clip and capped weights inside the vectors that are rotated, rounded and noised by clients."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2
from settings import NEVER, QUIET, outcome, setting

from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.privacy import (
    AdaptiveClip,
    Budget,
    Capped,
    CentralGaussian,
    DistributedDiscreteGaussian,
    DistributedSkellam,
    Ledger,
    PoissonSampling,
)
from fedpriv.privacy.clipping import rounded_norm
from fedpriv.privacy.mechanism import Release
from fedpriv.privacy.samplers import Sampler
from fedpriv.randomness import Noise, Streams, noises
from fedpriv.threat import Coalition

both = pytest.mark.parametrize("kind", [DistributedDiscreteGaussian, DistributedSkellam])


class Quiet(DistributedSkellam):
    """Rounding as ever, noise of zero."""

    @property
    def sampler(self) -> Sampler:
        return lambda variance, size, words: np.zeros(size, dtype=np.int64)


def drawn(n: int, round: int = 0) -> list[Noise]:
    return list(noises("seeded", Streams(1), "noise", round, range(n)))


def lengths(n: int, longest: float) -> np.ndarray:
    """``[n, 4]`` of evenly spaced norms up to ``longest``."""
    rows = np.random.default_rng(3).standard_normal((n, 4))
    return rows * (np.linspace(longest / n, longest, n) / np.linalg.norm(rows, axis=1))[:, None]


# ---- One vector ----


@given(
    rows=arrays(np.float64, (3, 5), elements=st.floats(-1e300, 1e300) | st.floats(-2, 2)),
    examples=st.lists(st.integers(1, 10**9), min_size=3, max_size=3),
    bits=st.integers(10, 26),
    noise_multiplier=st.floats(0.05, 5),
    initial=st.floats(1e-6, 1e6),
    moved=st.floats(0, 1),
    public=st.integers(0, 2**63 - 1),
)
def test_the_joint_integer_norm_is_never_above_the_sensitivity(
    rows, examples, bits, noise_multiplier, initial, moved, public
) -> None:
    clip = AdaptiveClip(initial=initial, learning_rate=3.0)
    mechanism = Quiet(
        clip_norm=clip, noise_multiplier=noise_multiplier, bits=bits, weighting=Capped(100, expected=50.0)
    )
    state = mechanism.init(setting(length=5))
    state = mechanism.advance(state, state.spec, Release(mean=np.zeros(5), within_clip=moved), NEVER)
    spec = mechanism.begin(state, 1, public)
    values = mechanism.protect(rows, examples, spec, drawn(3)).values
    assert values.shape == (3, spec.length) == (3, 8)
    for row in values.tolist():
        assert sum(k * k for k in row) <= Fraction(spec.share.l2) ** 2
        assert max(map(abs, row)) <= spec.input_bound
    # What that bound is made of: update and bit together, and nothing shorter.
    assert spec.clip_norm == pytest.approx(math.hypot(spec.adapted.norm, spec.adapted.bit), rel=1e-12)
    steps = spec.clip_norm / spec.codec.step
    assert spec.share.l2 == pytest.approx(rounded_norm(steps, 8, mechanism.beta), rel=1e-12)
    ratio = clip.ratio(noise_multiplier, 10.0)
    assert spec.adapted.bit / spec.adapted.norm == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("weighting", ["equal", Capped(8, expected=5.0)])
@pytest.mark.parametrize("clip_norm", [1.5, AdaptiveClip(initial=1.5)])
def test_without_noise_it_releases_what_a_central_mechanism_does(clip_norm, weighting) -> None:
    updates, examples = lengths(10, 4.0), [1, 2, 3, 4, 5, 6, 7, 8, 9, 50]
    found = []
    for make, source in ((Quiet, NEVER), (CentralGaussian, QUIET)):
        mechanism = make(clip_norm=clip_norm, noise_multiplier=1.0, bits=26, weighting=weighting)
        state = mechanism.init(setting(sampling=PoissonSampling(0.5, 10)))
        spec = mechanism.begin(state, 2, 77)
        encoded = mechanism.protect(updates, examples, spec, drawn(10))
        assert encoded.clipped_norms == 7
        there = encoded.values[:9].sum(axis=0)
        found.append((mechanism.release(there, spec, outcome(10, 9), source, state), spec))
        released = mechanism.release(encoded.values.sum(axis=0), spec, outcome(), source, state).mean
        clipped = updates * np.minimum(1, 1.5 / np.linalg.norm(updates, axis=1))[:, None]
        weights = np.ones(10) if weighting == "equal" else np.minimum(examples, 8) / 8
        assert released * spec.divisor - weights @ clipped == pytest.approx(encoded.residual[:4], abs=1e-9)
        assert not encoded.residual[4:].any()
    (own, spec), (central, there) = found
    assert spec.divisor == there.divisor == (5.0 if weighting == "equal" else 5.0 * 5 / 8)
    assert own.mean.shape == (4,)
    assert own.mean == pytest.approx(central.mean, abs=20 * spec.codec.step)
    if isinstance(clip_norm, AdaptiveClip):
        assert own.within_clip == pytest.approx(0.5 + (3 - 6) / 2 / 5, abs=1e-4)  # nine of an expected five are there
        assert central.within_clip == pytest.approx(own.within_clip, abs=1e-4)
        assert spec.clip_norm == pytest.approx(there.clip_norm, rel=1e-5)
        assert spec.update_norm == there.update_norm == 1.5
    else:
        assert (own.within_clip, spec.adapted, spec.clip_norm) == (None, None, 1.5)


@pytest.mark.statistical
@both
def test_update_and_count_share_the_noise_of_those_who_contribute(kind) -> None:
    """n = 200 counts and 6,200 coordinates, α = 1e-6: the stated σ of each passes, 2/3 and 3/2 of it fail.

    Two contribute of whom one is relied on: the noise is √2 times the planned.
    """
    z, rounds, clip = 1.3, 200, 0.7
    mechanism = kind(clip_norm=AdaptiveClip(initial=clip, count_noise=4.0), noise_multiplier=z, bits=20)
    state = mechanism.init(setting(population=100, length=31, least_contributors=1, least_honest=1))
    bits, updates = [], []
    for round in range(rounds):
        spec = mechanism.begin(state, round, public=9)
        values = mechanism.protect(np.zeros((2, 31)), [1, 1], spec, drawn(2, round)).values
        released = mechanism.release(values.sum(axis=0), spec, outcome(), NEVER, state)
        bits.append((released.within_clip - 0.5) * 100 - 2 / 2)
        updates.append(released.mean * 100)

    def p_value(values, sigma: float) -> float:
        squares, size = float(np.sum(np.square(values))) / sigma**2, np.size(values)
        return 2 * min(chi2.cdf(squares, size), chi2.sf(squares, size))

    for values, sigma in ((bits, 4.0), (updates, clip * (z**-2 - 8.0**-2) ** -0.5)):
        assert p_value(values, math.sqrt(2) * sigma) > 1e-6
        assert p_value(values, math.sqrt(2) * sigma * 2 / 3) < 1e-6
        assert p_value(values, math.sqrt(2) * sigma * 3 / 2) < 1e-6


# ---- Round by round ----


@both
def test_the_step_moves_with_the_clip_and_on_the_grid_nothing_does(kind) -> None:
    mechanism = kind(clip_norm=AdaptiveClip(initial=2.0), noise_multiplier=1.0)
    first = state = mechanism.init(setting())
    assert mechanism.advance(state, state.spec, None, NEVER) is state  # an aborted round moves nothing
    expected = 2.0
    for within in (1.0, 0.0, 0.75, 0.5, 1.0, 1.0):
        state = mechanism.advance(state, state.spec, Release(mean=np.zeros(4), within_clip=within), NEVER)
        expected *= math.exp(-0.2 * (within - 0.5))
    before, after = first.spec, state.spec
    factor = expected / 2.0
    assert after.update_norm == pytest.approx(expected)
    assert after.codec.step == pytest.approx(before.codec.step * factor)
    assert after.clip_norm == pytest.approx(before.clip_norm * factor)
    assert after.adapted.bit == pytest.approx(before.adapted.bit * factor)
    unmoved = {"codec": before.codec, "clip_norm": before.clip_norm, "adapted": before.adapted}
    assert replace(after, **unmoved) == before
    assert after.codec.bound == before.codec.bound
    assert pickle.loads(pickle.dumps(state)) == state
    fixed = kind(clip_norm=2.0, noise_multiplier=1.0)
    there = fixed.init(setting())
    assert fixed.advance(there, there.spec, Release(mean=np.zeros(4)), NEVER) is there


def test_updates_are_clipped_to_the_norm_that_has_moved() -> None:
    mechanism = Quiet(clip_norm=AdaptiveClip(initial=1.0, learning_rate=2.0), noise_multiplier=1.0, bits=26)
    state = mechanism.init(setting())
    state = mechanism.advance(state, state.spec, Release(mean=np.zeros(4), within_clip=0.0), NEVER)
    spec, updates = mechanism.begin(state, 1, 5), lengths(10, 4.0)
    encoded = mechanism.protect(updates, [1] * 10, spec, drawn(10))
    assert encoded.clipped_norms == 4  # of norms 0.4, 0.8, … those above e
    released = mechanism.release(encoded.values.sum(axis=0), spec, outcome(), NEVER, state)
    clipped = updates * np.minimum(1, math.e / np.linalg.norm(updates, axis=1))[:, None]
    assert released.mean == pytest.approx(clipped.mean(axis=0), abs=2 * spec.codec.step)
    assert released.within_clip == pytest.approx(0.6, abs=1e-4)


@both
def test_the_ledger_is_charged_as_for_a_fixed_clip(kind, masked) -> None:
    """Four coordinates and a bit are padded to eight, as five coordinates are."""
    budget = Budget(epsilon=3.0, delta=1e-5, observer="server")
    here = setting(population=50, least_contributors=40, least_honest=35, threat=masked)
    fixed = kind(clip_norm=1.0, target=budget).init(replace(here, length=5)).spec
    mechanism = kind(clip_norm=AdaptiveClip(initial=0.3), target=budget, weighting=Capped(10, expected=4.0))
    state = mechanism.init(here)
    assert (state.spec.noise_multiplier, state.spec.share) == (fixed.noise_multiplier, fixed.share)
    ledger = Ledger(threat=masked, population=50)
    for round in range(here.rounds):
        spec = mechanism.begin(state, round)
        (event,) = mechanism.events(spec, replace(outcome(50, 35), noise="os"))
        (same,) = kind(clip_norm=1.0, target=budget).events(fixed, replace(outcome(50, 35), noise="os"))
        assert event.noise_multiplier == pytest.approx(same.noise_multiplier, rel=1e-12)
        assert replace(event, clip_norm=1.0, noise_multiplier=same.noise_multiplier, round=0) == same
        ledger.append(event)
        state = mechanism.advance(state, spec, Release(mean=np.zeros(4), within_clip=round / 10), NEVER)
    assert len({event.clip_norm for event in ledger.events}) == here.rounds
    assert 3.0 * (1 - 2e-3) < ledger.epsilon(1e-5, observer="server") <= 3.0 + 1e-9


@both
def test_an_aborted_round_is_judged_by_the_mechanisms_own_share_of_the_corrupt(kind, masked) -> None:
    """Seven of ten are planned to be honest under corrupt=0.3, and the protocol itself would permit nine."""
    permissive = replace(masked, corrupt=0.9)
    spent = {}
    for corrupt in (0.3, None):
        mechanism = kind(clip_norm=1.0, noise_multiplier=1.0, corrupt=corrupt)
        spec = mechanism.init(setting(threat=permissive)).spec
        (event,) = mechanism.events(spec, replace(outcome(10, 0), noise="os"))
        assert event.corrupt == (0.9 if corrupt is None else corrupt)
        ledger = Ledger(threat=permissive, population=10, events=(event,))
        spent[corrupt] = [
            ledger.epsilon(1e-5, observer=Coalition(server=True, clients=share)) for share in (0.3, 0.5, 0.7)
        ]
    assert spent[None][0] == spent[None][2] == spent[0.3][0]
    assert spent[0.3] == sorted(set(spent[0.3]))  # each client beyond the three takes a share of the noise away


# ---- Refusals ----


@both
def test_what_cannot_be_is_refused(kind) -> None:
    with pytest.raises(PlanError, match="at least the noise multiplier"):
        kind(clip_norm=AdaptiveClip(initial=1.0, count_noise=1.9), noise_multiplier=2.0).init(setting())
    with pytest.raises(PlanError, match="Capped"):
        kind(clip_norm=1.0, noise_multiplier=1.0, weighting="examples")
    with pytest.raises(ConfigurationError, match="Exactly one"):
        kind(clip_norm=AdaptiveClip(initial=1.0))
    with pytest.raises(ConfigurationError, match="clip norm"):
        kind(clip_norm="adaptive", noise_multiplier=1.0)
