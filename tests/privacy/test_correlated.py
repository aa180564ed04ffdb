"""Tree aggregation and banded matrix factorisation: their noise, and what they hold of it."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from settings import BAND, NEVER, TREE, outcome, setting, turns

from fedpriv.errors import PrivacyError
from fedpriv.privacy import (
    CentralGaussian,
    Mechanism,
    MinSeparation,
)
from fedpriv.randomness import Noise, Streams, noise


def released(mechanism: Any, here: Any, rows: np.ndarray, aborted: tuple[int, ...] = (), total: int = 0) -> np.ndarray:
    """``[rounds, length]``: the releases on the grid, undivided, for these standard normal draws; NaN where aborted."""
    state, found = mechanism.init(here), []
    for round, row in enumerate(rows):
        drawn = Noise(words=NEVER.words, normal=lambda size, row=row: row[:size].copy())
        spec = mechanism.begin(state, round)
        release = None
        if round not in aborted:
            release = mechanism.release(np.full(here.length, total), spec, outcome(), drawn, state)
        found.append(np.full(here.length, np.nan) if release is None else release.mean * spec.divisor / spec.codec.step)
        state = mechanism.advance(state, spec, release, drawn)
    return np.array(found)


# ---- the noise ----


@given(
    rounds=st.integers(1, 12), bands=st.integers(1, 4), seed=st.integers(0, 2**32), total=st.integers(-(10**6), 10**6)
)
def test_the_noise_of_the_rounds_is_the_inverse_matrix_times_independent_noise(rounds, bands, seed, total) -> None:
    rows = np.random.default_rng(seed).standard_normal((rounds, 4))
    here = turns(rounds, sampling=MinSeparation(bands))
    for mechanism in (replace(TREE, bits=14), replace(BAND, bands=bands, bits=14)):
        spec = mechanism.init(here).spec
        inverse = np.linalg.inv(spec.correlation.matrix())
        on_grid = rows * (spec.noise_multiplier * spec.codec.bound)
        found = np.rint(released(mechanism, here, rows, total=total)) - total
        if spec.correlation.kind == "tree":  # in integers throughout
            assert np.array_equal(found, np.rint(inverse) @ np.rint(on_grid))
        else:
            assert np.abs(found - inverse @ on_grid).max() <= 0.5 + 1e-6


@pytest.mark.statistical
@pytest.mark.parametrize("mechanism", [TREE, BAND], ids=["tree", "banded"])
def test_the_releases_have_the_stated_covariance(mechanism) -> None:
    """n = 20 000 coordinates, T = 6 rounds, through seeded streams. C times the noise is white with the stated σ: each
    of its 6 variances at α = 1e-6 / 6, 2/3 and 3/2 of σ fail, independent noise fails, and correlations are within
    5.5 standard errors. Prefix sums have the variances of B Bᵀ."""
    n, rounds = 20_000, 6
    rows = np.stack([noise("seeded", Streams(11), "central-noise", r).normal(n) for r in range(rounds)])
    here = turns(rounds, length=n)
    got = released(mechanism, here, rows)
    spec = mechanism.init(here).spec
    sigma = spec.noise_multiplier * spec.codec.bound

    def p_values(values: np.ndarray, variances: np.ndarray) -> np.ndarray:
        squares = (values**2).sum(axis=1) / variances
        return np.array([2 * min(chi2.cdf(s, n), chi2.sf(s, n)) for s in squares])

    white = spec.correlation.matrix() @ got
    flat = np.full(rounds, sigma**2)
    assert p_values(white, flat).min() > 1e-6 / rounds
    assert p_values(white, flat * 4 / 9).max() < 1e-6
    assert p_values(white, flat * 9 / 4).max() < 1e-6
    assert p_values(got, flat)[1:].min() < 1e-6, "as if the noise were independent"
    correlations = np.corrcoef(white)[np.triu_indices(rounds, 1)]
    assert np.abs(correlations).max() < 5.5 / math.sqrt(n)
    kept = spec.correlation.prefix_variance() * sigma**2
    assert p_values(np.cumsum(got, axis=0), kept).min() > 1e-6 / rounds


@given(totals=st.lists(st.integers(-(2**40), 2**40), min_size=7, max_size=7), seed=st.integers(0, 2**32))
def test_what_a_tree_releases_is_a_function_of_noisy_nodes(totals, seed) -> None:
    """All releases are C⁻¹ round(C x + Z), as exact numbers: of the sums they show nothing else."""
    rows, here = np.random.default_rng(seed).standard_normal((7, 1)), turns(7, length=1)
    mechanism = replace(TREE, bits=6, noise_multiplier=0.02)
    spec = mechanism.init(here).spec
    c = spec.correlation.matrix().astype(int).tolist()
    nodes = [
        round(sum(Fraction(x) for x, there in zip(totals, below, strict=True) if there) + Fraction(float(z)))
        for below, z in zip(c, rows[:, 0] * (spec.noise_multiplier * spec.codec.bound), strict=True)
    ]
    given_out: list[int] = []  # C⁻¹, by forward substitution
    for row, node in enumerate(nodes):
        given_out.append(node - sum(given_out[at] for at in range(row) if c[row][at]))
    assert np.rint(released(mechanism, here, rows)[:, 0] + totals).astype(int).tolist() == given_out


@given(total=st.integers(-(2**40), 2**40), seed=st.integers(0, 2**32))
def test_what_a_band_releases_is_a_function_of_noisy_sums(total, seed) -> None:
    """total + round(noise) = round(total + noise) in every round, as exact numbers."""
    rows, here = np.random.default_rng(seed).standard_normal((5, 1)), turns(5, length=1)
    mechanism = replace(BAND, bits=6, noise_multiplier=0.02)
    spec = mechanism.init(here).spec
    noised = np.linalg.inv(spec.correlation.matrix()) @ rows[:, 0] * (spec.noise_multiplier * spec.codec.bound)
    exact = [round(Fraction(total) + Fraction(float(w))) for w in noised]
    assert np.rint(released(mechanism, here, rows, total=total)[:, 0]).astype(int).tolist() == exact


@pytest.mark.parametrize("mechanism", [TREE, BAND], ids=["tree", "banded"])
def test_an_aborted_round_has_its_noise_as_well(mechanism) -> None:
    """The other rounds' releases are those of a run in which nothing was aborted."""
    rows = np.random.default_rng(0).standard_normal((6, 4))
    whole, parts = released(mechanism, turns(), rows), released(mechanism, turns(), rows, aborted=(0, 2, 3))
    assert np.array_equal(parts[[1, 4, 5]], whole[[1, 4, 5]])


def test_one_band_is_independent_noise() -> None:
    rows = np.random.default_rng(0).standard_normal((6, 4))
    here = setting(rounds=6)
    alone = CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)
    spec = alone.init(here)
    for got, row in zip(released(replace(BAND, bands=1), here, rows), rows, strict=True):
        drawn = Noise(words=NEVER.words, normal=lambda size, row=row: row)
        mean = alone.release(np.zeros(4, dtype=np.int64), spec, outcome(), drawn, spec).mean
        assert got == pytest.approx(mean * spec.divisor / spec.codec.step)


def test_a_tree_holds_as_many_vectors_as_its_height_and_a_band_one_fewer_than_bands() -> None:
    for mechanism, most in ((TREE, 6), (BAND, 2)):
        state, held = mechanism.init(turns(63)), []
        for round in range(63):
            drawn = Noise(words=NEVER.words, normal=np.ones)
            state = mechanism.advance(state, mechanism.begin(state, round), None, drawn)
            held.append(len(state.held))
        assert max(held) == most
        if mechanism is TREE:
            assert held == [(round + 1).bit_count() for round in range(63)]


# ---- state ----


@pytest.mark.parametrize("mechanism", [TREE, BAND], ids=["tree", "banded"])
def test_held_noise_is_never_shown(mechanism: Any) -> None:
    here, secret = turns(), 0.123456789
    drawn = Noise(words=NEVER.words, normal=lambda size: np.full(size, secret))
    state = mechanism.init(here)
    spec = mechanism.begin(state, 0)
    release = mechanism.release(np.zeros(4, dtype=np.int64), spec, outcome(), drawn, state)
    after = mechanism.advance(state, spec, release, drawn)
    assert len(after.held) == 1
    shown = str(round(float(after.held[0][0])))
    assert "held" not in repr(after)
    assert "carried" not in repr(release)
    assert shown not in repr(after)
    assert shown not in repr(replace(release, mean=np.zeros(4)))
    assert "array" not in repr(mechanism.begin(after, 1)), "the terms of a round are public"


@pytest.mark.parametrize("mechanism", [TREE, BAND], ids=["tree", "banded"])
def test_rounds_follow_one_another(mechanism: Any) -> None:
    """A round that is skipped, repeated or beyond the matrix would take back other noise than was given out."""
    here = turns(2)
    state, drawn, total = mechanism.init(here), Noise(words=NEVER.words, normal=np.ones), np.zeros(4, dtype=np.int64)
    for act in (
        lambda state, spec: mechanism.release(total, spec, outcome(), drawn, state),
        lambda state, spec: mechanism.advance(state, spec, None, drawn),
    ):
        with pytest.raises(PrivacyError, match="round 2 after 0"):
            act(state, mechanism.begin(state, 1))
        done = state
        for round in range(2):
            done = mechanism.advance(done, mechanism.begin(done, round), None, drawn)
        with pytest.raises(PrivacyError, match="round 2 after 2"):
            act(done, mechanism.begin(done, 1))
        with pytest.raises(PrivacyError, match="the last of 2"):
            act(done, mechanism.begin(done, 2))


@pytest.mark.parametrize("mechanism", [TREE, BAND], ids=["tree", "banded"])
def test_what_a_plan_needs_of_a_mechanism(mechanism: Mechanism) -> None:
    here = turns()
    state = mechanism.init(here)
    assert pickle.loads(pickle.dumps(state)) == state
    assert (mechanism.trust, mechanism.weighting, mechanism.noise_contributors(here)) == ("central", "equal", None)
    spec = mechanism.begin(state, 4)
    (event,) = mechanism.events(spec, outcome(10, 6))
    assert (event.round, event.mechanism, event.trust, event.noise_multiplier) == (4, "gaussian", "central", 2.0)
    assert (event.detail, event.contributors) == (spec.correlation, 6)
    assert event.sampling == MinSeparation(3).accounting(10)
    updates = np.random.default_rng(0).standard_normal((3, 4))
    alone = CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)
    assert np.array_equal(
        mechanism.protect(updates, [1, 2, 3], spec, []).values, alone.protect(updates, [1] * 3, spec, []).values
    )
    assert spec.divisor == 10 / 3
