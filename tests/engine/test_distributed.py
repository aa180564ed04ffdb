"""Noise inside the sum, in whole rounds: one seed, one mean, whoever adds; and as much noise as the ledger says."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

import fedpriv as fp
from fedpriv import randomness
from fedpriv.engine.processes import Processes
from fedpriv.errors import PlanError
from fedpriv.network import Network
from fedpriv.privacy import DistributedDiscreteGaussian, DistributedSkellam
from fedpriv.study import mean

BOTH = [DistributedDiscreteGaussian, DistributedSkellam]
both = pytest.mark.parametrize("kind", BOTH)


def rows(n: int, d: int, norm: float = 1.0) -> np.ndarray:
    """On a sphere."""
    drawn = np.random.default_rng(5).standard_normal((n, d))
    return drawn * (norm / np.linalg.norm(drawn, axis=1)[:, None])


@pytest.mark.conformance
@pytest.mark.parametrize(
    ("kind", "network"),
    [
        (DistributedSkellam, Network()),
        (DistributedDiscreteGaussian, Network(dropout={"setup": 0.15, "upload": 0.15})),
    ],
)
def test_the_mean_is_the_same_under_every_protocol(kind: Any, network: Network) -> None:
    """A ring counts modulo 2^m by itself, the others' exact sums are reduced afterwards."""
    protocols: dict[str, Any] = {
        "plain": fp.PlainSum(),
        "masks": fp.SecureAggregation(corrupt=0.0, dropout=0.6, min_cohort=3),
        "bfv": fp.BFV(),
    }
    if network.phase_rates["upload"]:  # the slow one in the harder case only
        protocols["paillier"] = fp.Paillier(key_bits=2048)
    found = {}
    for name, aggregation in protocols.items():
        # Of the three that are left at least one is counted on; a plain sum has no minimum but one.
        corrupt = 0.0 if name == "plain" else 0.25
        mechanism = kind(clip_norm=1.0, noise_multiplier=0.5, bits=12, corrupt=corrupt)
        for ideal in (False, True):
            made = fp.private_mean(
                rows(8, 12), mechanism=mechanism, aggregation=aggregation, network=network, seed=3, ideal=ideal
            )
            assert made.run.resolved.spec.planned_contributors == 1
            found[name, ideal] = (made.run.records[0].sha256, made.contributors, made.mean.tolist())
    assert all(each == found["plain", False] for each in found.values())
    assert (len(found["plain", False][1]) < 8) == (network.phase_rates["upload"] > 0)


def test_a_homomorphic_sum_needs_an_assumption_on_whose_noise_counts() -> None:
    """These protocols keep updates from any number of clients, so all may be corrupted as far as they go."""
    mechanism = DistributedSkellam(clip_norm=1.0, noise_multiplier=0.5)
    with pytest.raises(PlanError, match="corrupt="):
        fp.private_mean(rows(8, 12), mechanism=mechanism, aggregation=fp.BFV(), seed=1, ideal=True)


def test_the_minimum_that_a_refusal_names_is_enough() -> None:
    mechanism = DistributedSkellam(clip_norm=1.0, noise_multiplier=0.5, corrupt=0.3)

    def made(least: int) -> Any:
        keys = fp.KeyAuthority(min_contributors=least)
        return fp.private_mean(rows(10, 12), mechanism=mechanism, aggregation=fp.BFV(keys=keys), seed=1, ideal=True)

    with pytest.raises(PlanError) as caught:
        made(3)
    named = re.search(r"KeyAuthority\(min_contributors=(\d+)\)", str(caught.value))
    assert named is not None
    assert made(int(named[1])).run.resolved.spec.planned_contributors == 1


@pytest.fixture(scope="module")
def told() -> str:
    """A plan in words: a budget of 8 against the server, under masks, on one line for each thing said."""
    target = fp.Budget(epsilon=8.0, delta=1e-5, observer="server")
    plan = fp.Plan(
        model=None,
        client=mean._Vectors(),
        mechanism=DistributedSkellam(clip_norm=1.0, target=target, bits=16),
        aggregation=fp.SecureAggregation(corrupt=0.1, dropout=0.2),
        server=mean._KeepMean(),
        rounds=1,
    )
    return plan.resolve(mean._federation(rows(30, 20))).explain()


def test_a_plan_says_once_that_sums_count_modulo(told: str) -> None:
    assert told.count("2^16") == 1


def test_nobody_is_said_to_learn_a_sum_without_noise_where_clients_add_it(told: str) -> None:
    who = told[told.index("Who learns what") :]
    assert "exact sum" not in who
    assert "noisy sum" in who


def test_a_plan_says_what_the_slack_of_its_budget_is_for(told: str) -> None:
    """The server alone reads less than 8; with the share of clients that may collude it reads 8."""
    plain = " ".join(told.split())
    assert "the budget ε = 8 at δ = 1e-05 against the server is met by the noise of the fewest honest" in plain
    epsilons = []
    for party in ("server", "coalition"):
        found = re.search(rf" {party} Against the [^:]*: [^=]*ε = ([\d.]+)", plain)
        assert found is not None, plain
        epsilons.append(float(found[1]))
    server, coalition = epsilons
    assert server < 7.9 < coalition <= 8.0


def test_executors_do_not_change_a_bit() -> None:
    plan = fp.Plan(
        model=None,
        client=mean._Vectors(),
        mechanism=DistributedSkellam(clip_norm=fp.AdaptiveClip(initial=0.5), noise_multiplier=1.0, bits=14),
        aggregation=fp.PlainSum(),
        server=mean._KeepMean(),
        rounds=2,
    )
    federation = mean._federation(rows(9, 20))
    runs = [fp.run(federation, plan, seed=2, progress=False, **where) for where in ({}, {"executor": Processes(2)})]
    first, again = ([record.sha256 for record in run.records] for run in runs)
    assert first == again
    assert len(set(first)) == 2  # rotation and noise are the round's own
    assert first[0] != fp.run(federation, plan, seed=3, progress=False).records[0].sha256


@both
@pytest.mark.statistical
@pytest.mark.parametrize(("noise", "dropout"), [("seeded", 0.1), ("os", 0.0)])
def test_the_noise_that_is_released_is_the_one_that_the_event_states(
    kind: Any, noise: Any, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """d = 4,096 coordinates of the mean of 40 clients; α = 1e-6; the noise of 2/3 and 3/2 the size is told apart."""
    monkeypatch.setattr(randomness, "secret_bytes", np.random.default_rng(6).bytes)  # a fixed seed
    n, d = 40, 4096
    aggregation = fp.SecureAggregation(corrupt=0.0, dropout=0.3)
    made = fp.private_mean(
        rows(n, d),
        mechanism=kind(clip_norm=1.0, noise_multiplier=4.0, bits=18),
        aggregation=aggregation,
        network=Network(dropout=dropout),
        seed=11,
        noise=noise,
        ideal=True,
    )
    (event,) = made.ledger.events
    there = len(made.contributors)
    assert (there < n) == (dropout > 0)
    assert there > event.planned_contributors
    assert event.noise_multiplier == pytest.approx(4.0 * math.sqrt(there / event.planned_contributors))
    added = made.mean * n - rows(n, d)[list(made.contributors)].sum(axis=0)
    squares = float((added**2).sum())

    def p_value(sigma: float) -> float:
        return 2 * min(chi2.cdf(squares / sigma**2, d), chi2.sf(squares / sigma**2, d))

    assert p_value(event.noise_multiplier) > 1e-6
    assert p_value(event.noise_multiplier * 2 / 3) < 1e-6
    assert p_value(event.noise_multiplier * 3 / 2) < 1e-6
    assert np.abs(np.mean(added)) < 6 * event.noise_multiplier / math.sqrt(d)
    if dropout:
        assert p_value(4.0 * math.sqrt(n / event.planned_contributors) * 1.2) < 1e-6


@pytest.mark.statistical
@both
@pytest.mark.parametrize("bits", [16, 20])
def test_means_are_as_accurate_as_with_central_noise(kind: Any, bits: int) -> None:
    """n = 100, d = 1000, c = 10 on the sphere (as Kairouz et al. 2021, section 5): MSE = (c z / n)², within 6 %.

    2 runs of 1000 coordinates: the standard error of their mean square is 3.2 %, so this is a bound of two of them; the
    seeds are fixed.
    """
    n, d, clip, z = 100, 1000, 10.0, 3.0
    vectors = rows(n, d, clip)
    everybody = fp.SecureAggregation(corrupt=0.0, dropout=0.0)
    errors = []
    for seed in range(2):
        mechanism = kind(clip_norm=clip, noise_multiplier=z, bits=bits)
        made = fp.private_mean(vectors, mechanism=mechanism, aggregation=everybody, seed=seed, ideal=True)
        planned = made.run.resolved.spec.planned_contributors
        errors.append(np.mean((made.mean - vectors.mean(axis=0)) ** 2) * planned / n)
    assert np.mean(errors) == pytest.approx((clip * z / n) ** 2, rel=0.06)


@both
def test_the_server_sees_the_sum_and_epsilon_is_finite(kind: Any) -> None:
    target = fp.Budget(epsilon=2.0, delta=1e-5, observer="server")
    made = fp.private_mean(
        rows(30, 20),
        mechanism=kind(clip_norm=1.0, target=target, bits=16),
        aggregation=fp.SecureAggregation(corrupt=0.1, dropout=0.2),
        seed=1,
        noise="os",
        ideal=True,
    )
    assert 0.5 < made.ledger.epsilon(delta=1e-5, observer="server") <= 2.0
    assert "mod" in made.run.resolved.explain() or "2^" in made.run.resolved.explain()


def test_the_clip_tracks_the_median_through_real_masks() -> None:
    """Seven clients of norms 0.2 … 1.4, from a clip of 0.1: the count is opened as part of the masked sum only."""
    vectors = rows(7, 6) * np.linspace(0.2, 1.4, 7)[:, None]
    plan = fp.Plan(
        model=None,
        client=mean._Vectors(),
        mechanism=DistributedSkellam(
            clip_norm=fp.AdaptiveClip(initial=0.1, learning_rate=1.0), noise_multiplier=0.2, bits=20
        ),
        aggregation=fp.SecureAggregation(corrupt=0.0, dropout=0.0),
        server=mean._KeepMean(),
        rounds=12,
    )
    made = fp.run(mean._federation(vectors), plan, seed=4, progress=False)
    clips = [record.clip_norm for record in made.records]
    assert clips[0] == 0.1
    assert clips[1] == pytest.approx(0.1 * math.exp(0.5), rel=0.05)  # everybody was longer
    assert np.mean(clips[7:]) == pytest.approx(0.8, rel=0.15)
    assert len({event.noise_multiplier for event in made.ledger.events}) <= 3  # one, but for its last bits
    assert len({event.detail for event in made.ledger.events}) == 1
