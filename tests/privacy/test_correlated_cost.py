"""Tree aggregation and banded matrix factorisation: what they cost, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ledgers import DELTA, gaussian_epsilon
from settings import BAND, QUIET, TREE, outcome, turns

from fedpriv.errors import BudgetUnreachable, ConfigurationError, PlanError
from fedpriv.privacy import (
    AdaptiveClip,
    Budget,
    Capped,
    CentralGaussian,
    FixedSizeSampling,
    FullParticipation,
    Ledger,
    MatrixFactorization,
    MinSeparation,
    PoissonSampling,
    TreeMechanism,
)

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
