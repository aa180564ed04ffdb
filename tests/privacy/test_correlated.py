"""Tree aggregation and banded matrix factorisation: their noise, what it costs, what they refuse."""

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
from ledgers import DELTA, gaussian_epsilon
from scipy.stats import chi2
from settings import NEVER, QUIET, outcome, setting

from fedpriv.errors import BudgetUnreachable, ConfigurationError, PlanError, PrivacyError
from fedpriv.privacy import (
    AdaptiveClip,
    Budget,
    Capped,
    CentralGaussian,
    FixedSizeSampling,
    FullParticipation,
    Ledger,
    MatrixFactorization,
    Mechanism,
    MinSeparation,
    PoissonSampling,
    TreeMechanism,
)
from fedpriv.randomness import Noise, Streams, noise

TREE = TreeMechanism(clip_norm=1.0, noise_multiplier=2.0)
BAND = MatrixFactorization(clip_norm=1.0, noise_multiplier=2.0, bands=3)


def turns(rounds: int = 6, **more: Any) -> Any:
    """A setting in which either may be used."""
    return setting(
        **{"rounds": rounds, "sampling": MinSeparation(3), "least_contributors": 3, "least_honest": 3, **more}
    )


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


# ---- what it costs ----


def of_run(mechanism: Any, here: Any) -> Ledger:
    """A whole run in which every client takes part in its turns."""
    state = mechanism.init(here)
    ledger = Ledger(threat=here.threat, population=here.population, adjacency=here.adjacency)
    for round in range(here.rounds):
        cohort = here.sampling.cohort(np.random.default_rng(0), here.population, round)
        there = replace(outcome(), cohort=cohort, contributors=cohort)
        for event in mechanism.events(mechanism.begin(state, round), there):
            ledger.append(event)
    return ledger


@pytest.mark.parametrize(
    ("sampling", "adjacency", "observer"),
    [
        (MinSeparation(4), "zero-out", "server"),
        (MinSeparation(4, 3), "replace-one", "public"),
        (MinSeparation(4), "add-remove", "public"),
        (FullParticipation(), "zero-out", "public"),
    ],
)
@pytest.mark.parametrize("kind", ["tree", "banded"])
def test_a_target_is_met_by_the_run_and_used_up(keyed, kind, sampling, adjacency, observer) -> None:
    bands = 3 if isinstance(sampling, MinSeparation) else 1
    here = turns(12, threat=keyed, sampling=sampling, adjacency=adjacency)
    target = Budget(epsilon=3.0, delta=DELTA, observer=observer)
    made = {"clip_norm": 1.0, "target": target}
    mechanism = TreeMechanism(**made) if kind == "tree" else MatrixFactorization(bands=bands, **made)
    spent = of_run(mechanism, here).epsilon(DELTA, observer=observer)
    assert 2.99 < spent <= 3.0
    if adjacency == "zero-out" and isinstance(sampling, MinSeparation):  # by hand
        z = mechanism.init(here).spec.noise_multiplier
        if kind == "banded":
            assert spent == pytest.approx(gaussian_epsilon(z / math.sqrt(3)), abs=1e-6)
        else:  # the client of rounds 0, 4 and 8: nodes of 1, 2 rounds; 4 and 8 and the third: of 1, 2 and 4
            gram = mechanism.correlation(12).gram()
            worst = max(gram[np.ix_(range(r, 12, 4), range(r, 12, 4))].sum() for r in range(4))
            assert spent == pytest.approx(gaussian_epsilon(z / math.sqrt(worst)), abs=1e-6)


@pytest.mark.parametrize("sampling", [PoissonSampling(0.5), FixedSizeSampling(5)])
def test_where_clients_are_drawn_a_tree_is_planned_for_every_round(keyed, sampling) -> None:
    here = turns(7, threat=keyed, sampling=sampling)
    target = Budget(epsilon=3.0, delta=DELTA, observer="public")
    drawn = TreeMechanism(clip_norm=1.0, target=target).init(here).spec.noise_multiplier
    everybody = turns(7, threat=keyed, sampling=FullParticipation())
    assert drawn == pytest.approx(TreeMechanism(clip_norm=1.0, target=target).init(everybody).spec.noise_multiplier)


@pytest.mark.parametrize("rounds", [1, 2, 7, 8, 100])
def test_a_single_participation_is_dp_accountings_single_epoch(keyed, rounds) -> None:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    here = turns(rounds, threat=keyed, population=100, sampling=MinSeparation(100, 1))
    ledger = of_run(replace(TREE, noise_multiplier=3.0), here)
    theirs = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    theirs.compose(dp_accounting.SingleEpochTreeAggregationDpEvent(3.0, rounds))
    assert ledger.epsilon(DELTA, observer="server", accountant="rdp") == pytest.approx(theirs.get_epsilon(DELTA))
    exact = ledger.epsilon(DELTA, observer="server")
    assert exact == pytest.approx(gaussian_epsilon(3.0 / math.sqrt(math.ceil(math.log2(rounds + 1)))), abs=1e-6)


def test_turns_a_band_apart_are_as_many_gaussian_releases(keyed) -> None:
    here = turns(12, threat=keyed, sampling=MinSeparation(4))
    alone = CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)
    state = alone.init(here)
    ledger = Ledger(threat=keyed, population=10)
    for round in range(12):
        there = replace(outcome(), cohort=here.sampling.turn(10, round), contributors=here.sampling.turn(10, round))
        ledger.append(alone.events(alone.begin(state, round), there)[0])
    banded = of_run(replace(BAND, bands=4), here)
    for accountant in ("pld", "rdp"):
        assert banded.epsilon(DELTA, observer="server", accountant=accountant) == pytest.approx(
            ledger.epsilon(DELTA, observer="server", accountant=accountant), abs=1e-9
        )


# ---- refusals ----


def test_no_noise_helps_against_who_sees_sums_before_it(plain, masked) -> None:
    target = Budget(epsilon=3.0, delta=DELTA, observer="server")
    for threat in (plain, masked):
        for mechanism in (
            TreeMechanism(clip_norm=1.0, target=target),
            replace(BAND, noise_multiplier=None, target=target),
        ):
            with pytest.raises(BudgetUnreachable, match="public"):
                mechanism.init(turns(threat=threat))
        assert of_run(TREE, turns(threat=threat)).epsilon(DELTA, observer="server") == math.inf
        assert of_run(TREE, turns(threat=threat)).epsilon(DELTA, observer="public") < math.inf


@pytest.mark.parametrize("mechanism", [TREE, BAND], ids=["tree", "banded"])
def test_clients_do_not_keep_the_noise(keyed, mechanism: Any) -> None:
    with pytest.raises(PlanError, match="kept by one party"):
        mechanism.init(turns(threat=replace(keyed, releaser="client")))


@pytest.mark.parametrize("mechanism", [TREE, BAND], ids=["tree", "banded"])
def test_a_run_does_not_outlast_its_participations(mechanism: Any) -> None:
    mechanism.init(turns(6, sampling=MinSeparation(3, 2)))
    with pytest.raises(PlanError, match="last for 6 rounds"):
        mechanism.init(turns(7, sampling=MinSeparation(3, 2)))


@pytest.mark.parametrize(
    "sampling", [FullParticipation(), PoissonSampling(0.1), FixedSizeSampling(2), MinSeparation(2)]
)
def test_bands_need_turns_so_far_apart(sampling) -> None:
    with pytest.raises(PlanError, match=r"MinSeparation\(3\)"):
        BAND.init(turns(sampling=sampling))
    if not isinstance(sampling, PoissonSampling | FixedSizeSampling):
        replace(BAND, bands=1).init(turns(sampling=sampling))


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (FullParticipation(), r"MinSeparation\(3\), bands=1, or TreeMechanism"),
        (MinSeparation(2), r"MinSeparation\(3\), bands=2, or TreeMechanism"),
        (PoissonSampling(0.1), r"MinSeparation\(3\), or TreeMechanism"),
    ],
)
def test_fewer_bands_are_named_where_they_help(sampling, words) -> None:
    with pytest.raises(PlanError, match=words):
        BAND.init(turns(sampling=sampling))


@pytest.mark.parametrize("made", [TREE, BAND])
def test_weights_with_a_cap_scale_what_is_clipped_already(made) -> None:
    """A longer vector of weight 1/10 has a tenth of the norm, and the divisor is that of the weights."""
    mechanism = replace(made, weighting=Capped(10, expected=5.0))
    here = turns()
    state = mechanism.init(here)
    spec = mechanism.begin(state, 0)
    values = mechanism.protect(np.array([[3.0, 0, 0, 0], [0.5, 0, 0, 0]]), [1, 25], spec, []).values
    assert spec.codec.decode(values[:, 0]) == pytest.approx([0.1, 0.5], abs=1e-5)
    assert np.linalg.norm(values, axis=1).max() <= spec.codec.bound
    assert spec.divisor == here.sampling.expected(here.population) * 5.0 / 10
    mean = mechanism.release(values.sum(axis=0), spec, outcome(), QUIET, state).mean
    assert mean[0] == pytest.approx(0.6 / spec.divisor, abs=1e-5)
    (event,), (equal,) = mechanism.events(spec, outcome()), made.events(made.begin(made.init(here), 0), outcome())
    assert event == equal


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: TreeMechanism(clip_norm=1.0), ConfigurationError, "Exactly one"),
        (lambda: TreeMechanism(clip_norm=-1.0, noise_multiplier=1.0), ConfigurationError, "clip norm"),
        (lambda: TreeMechanism(clip_norm=1.0, noise_multiplier=0.0), ConfigurationError, "NoDP"),
        (lambda: replace(TREE, weighting="examples"), PlanError, "same public weight"),
        (lambda: replace(BAND, bands=0), ConfigurationError, "bands"),
        (lambda: replace(BAND, bands=1.5), ConfigurationError, "bands"),
        (lambda: replace(BAND, clip_norm=math.nan), ConfigurationError, "clip norm"),
        (lambda: replace(BAND, clip_norm=True), ConfigurationError, "clip norm"),
        (lambda: replace(BAND, noise_multiplier="1"), ConfigurationError, "NoDP"),
        (lambda: replace(TREE, noise_multiplier=None, target=2.0), ConfigurationError, r"target=Budget\("),
        *(
            (lambda made=made: replace(made, clip_norm=AdaptiveClip(initial=1.0)), ConfigurationError, words)
            for made in (TREE, BAND)
            for words in ("fixed clip norm", "AdaptiveClip", r"Give clip_norm=1.0.*CentralGaussian")
        ),
        (lambda: replace(TREE, noise_multiplier=4e5, bits=40).init(turns(2**12)), PlanError, "62 bits"),
    ],
)
def test_what_cannot_be_is_refused(make, error, words) -> None:
    with pytest.raises(error, match=words):
        make()


def test_the_noise_of_all_the_nodes_that_a_round_gives_back_fits() -> None:
    """Where one node's would: at 40 bits and this noise a round of CentralGaussian is accepted."""
    CentralGaussian(clip_norm=1.0, noise_multiplier=4e5, bits=40).init(turns(2**12))
