"""Noise in clients' shares: which of them count, against whom, and what a round that fell short says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import DELTA, gaussian_epsilon, ledger_of

from fedpriv.errors import ConfigurationError, UnsupportedAccounting
from fedpriv.privacy import Ledger, PoissonSampling
from fedpriv.privacy.ledger import accounting
from fedpriv.privacy.ledger.composition import Composition
from fedpriv.privacy.ledger.curves import Shares
from fedpriv.privacy.ledger.event import Response
from fedpriv.privacy.mechanism import Share
from fedpriv.threat import PUBLIC, SERVER, Coalition, ThreatModel, View

SHARE = Share(kind="discrete-gaussian", variance=100.0, l2=50.0, l1=500.0, dimension=1000, wrap=1e-9)
SKELLAM = replace(SHARE, kind="skellam")


@pytest.fixture
def summed(event):
    """A round of 15 clients, each with a share; the plan counts on ten of them."""

    def make(contributors=15, share=SHARE, cohort=range(15), planned=10, **more):
        return event(
            cohort,
            math.sqrt(max(contributors, planned * (contributors == 0)) * share.variance) / share.l2,
            mechanism=share.kind,
            trust="distributed",
            detail=share,
            contributors=contributors,
            planned_contributors=planned,
            planned_noise_multiplier=math.sqrt(planned * share.variance) / share.l2,
            **more,
        )

    return make


def by_hand(count: int, share=SHARE, rounds=1, adjacency="zero-out") -> float:
    return accounting.epsilon(Composition(shares=((Shares.of(share, count), rounds),)), DELTA, adjacency, "rdp")


def test_a_sum_of_wide_discrete_gaussians_costs_what_one_gaussian_does(masked, summed) -> None:
    spent = ledger_of(masked, summed(), population=15).epsilon(DELTA, observer="server")
    gaussian = accounting.epsilon(Composition(gaussian=SHARE.l2**2 / (15 * SHARE.variance)), DELTA, "zero-out", "rdp")
    assert spent == pytest.approx(gaussian, rel=1e-9)
    skellam = ledger_of(masked, summed(share=SKELLAM), population=15).epsilon(DELTA, observer="server")
    assert gaussian <= skellam < 1.05 * gaussian


@pytest.mark.parametrize("share", [SHARE, SKELLAM])
def test_shares_that_the_observer_knows_do_not_count(masked, summed, share) -> None:
    """Server and 5 of 15 clients: ten shares are left; a participant knows its own, the server and the public none."""
    masked = replace(masked, corrupt=0.4)
    ledger = ledger_of(masked, summed(share=share), summed(share=share, round=1), population=15)
    for observer, honest in (
        ("server", 15),
        ("public", 15),
        ("participant", 14),
        (Coalition(clients=0.2), 12),
        (Coalition(server=True, clients=5 / 15), 10),
        (Coalition(server=True, clients=0.4), 9),
        (Coalition(server=True, clients=0.5), 1),  # more than the protocol permits: updates are open
    ):
        assert ledger.epsilon(DELTA, observer=observer) == by_hand(honest, share, 2)
    told = ledger.statement(DELTA, observer=Coalition(server=True, clients=5 / 15))
    assert "10 or more clients' shares" in told.reason
    assert told.achieved == pytest.approx(told.planned)
    assert "SHORTFALL" not in told.reason
    beyond = ledger.statement(DELTA, observer=Coalition(server=True, clients=0.5))
    assert "single updates" in beyond.reason
    assert beyond.accountant == "rdp"
    with pytest.raises(UnsupportedAccounting, match="accounted by RDP"):
        ledger.epsilon(DELTA, observer="server", accountant="pld")


def test_who_sees_updates_sees_one_share(plain, summed) -> None:
    ledger = ledger_of(plain, summed(), population=15)
    assert ledger.epsilon(DELTA, observer="server") == by_hand(1)
    assert ledger.epsilon(DELTA, observer="public") == by_hand(15)
    # Where each client's own noise is all that is claimed, it is all that counts, against everybody.
    local = replace(summed(), trust="local")
    for observer in ("server", "public", "participant"):
        assert ledger_of(plain, local, population=15).epsilon(DELTA, observer=observer) == by_hand(1)


def test_who_knows_every_share_is_told_infinity(masked, summed) -> None:
    masked = replace(masked, corrupt=0.9)
    alone = ledger_of(masked, summed(contributors=1, planned=1), population=15)
    statement = alone.statement(DELTA, observer="participant")
    assert statement.epsilon == math.inf
    assert "round 1 the observer knows every share" in statement.reason
    assert alone.epsilon(DELTA, observer="server") < math.inf
    many = ledger_of(masked, summed(contributors=12), population=15)
    assert many.epsilon(DELTA, observer=Coalition(server=True, clients=0.8)) == math.inf
    assert many.epsilon(DELTA, observer=Coalition(server=True, clients=0.7)) < math.inf


def test_sums_of_groups_are_refused(summed) -> None:
    grouped = ThreatModel(
        adversary="honest-but-curious",
        corrupt=0.0,
        assumptions=(),
        reference="tests",
        learns={SERVER: frozenset({View.GROUP_SUMS, View.COHORT}), PUBLIC: frozenset({View.FINAL_MODEL})},
    )
    ledger = ledger_of(grouped, summed(), population=15)
    with pytest.raises(UnsupportedAccounting, match="group"):
        ledger.epsilon(DELTA, observer="server")
    assert ledger.epsilon(DELTA, observer="public") == by_hand(15)


def test_adjacencies_of_shares(masked, summed) -> None:
    def ledger(adjacency, threat=masked):
        return ledger_of(threat, summed(adjacency=adjacency), population=15, adjacency=adjacency)

    replaced = ledger("replace-one").epsilon(DELTA, observer="server")
    assert replaced == by_hand(15, replace(SHARE, l2=100.0, l1=1000.0))
    with pytest.raises(UnsupportedAccounting, match="takes its noise with it"):
        ledger("add-remove").epsilon(DELTA, observer="public")


def test_sampling_amplifies_no_noise_that_clients_bring(masked, summed) -> None:
    """A client that is not drawn brings no share either: hidden or seen, it is charged for what it took part in."""
    sampling = PoissonSampling(0.5).accounting(15)
    rounds = [summed(8, cohort=range(r, r + 8), round=r, sampling=sampling) for r in range(4)]
    ledger = ledger_of(masked, *rounds, population=15)
    public = ledger.statement(DELTA, observer="public")
    assert not public.amplified
    assert "conditional" in public.reason
    assert public.epsilon == ledger.epsilon(DELTA, observer="server") == by_hand(8, rounds=4)
    assert public.participations == 4


def test_aborted_rounds_are_charged_as_planned(masked, summed) -> None:
    masked = replace(masked, corrupt=0.2)
    released, aborted = summed(), summed(contributors=0, round=1)
    both = ledger_of(masked, released, aborted, population=15)
    charged = accounting.epsilon(
        Composition(shares=((Shares.of(SHARE, 10), 1), (Shares.of(SHARE, 15), 1))), DELTA, "zero-out", "rdp"
    )
    assert both.epsilon(DELTA, observer="server") == charged
    assert both.rounds == 1
    # The plan left 3 of 15 corrupt clients out of its ten already; where it assumed nobody, they know three of them.
    coalition = Coalition(server=True, clients=0.2)
    assert ledger_of(masked, aborted, population=15).epsilon(DELTA, observer=coalition) == by_hand(10)
    trusting = replace(aborted, corrupt=0.0)
    assert ledger_of(masked, trusting, population=15).epsilon(DELTA, observer=coalition) == by_hand(7)
    nobody = summed(contributors=0, cohort=(), round=2)
    assert ledger_of(masked, nobody, population=15).epsilon(DELTA, observer="server") == 0.0


def test_a_shortfall_is_said_aloud(masked, summed) -> None:
    short = ledger_of(masked, summed(), summed(contributors=6, round=1), population=15)
    statement = short.statement(DELTA, observer="server")
    assert "NOISE SHORTFALL: in 1 of 2 releases" in str(statement)
    assert (statement.planned, statement.achieved) == pytest.approx((math.sqrt(1000) / 50, math.sqrt(600) / 50))
    assert "σ is 77% of the planned one" in short.frame["words"][1]
    assert "SHORTFALL" not in short.frame["words"][0]
    assert "SHORTFALL" in short._repr_html_()
    fine = ledger_of(masked, summed(), population=15).statement(DELTA, observer="server")
    assert "SHORTFALL" not in str(fine)
    assert fine.achieved > fine.planned


def test_shares_that_an_observer_knows_are_no_shortfall(masked, summed) -> None:
    """Everybody came, as planned for nobody corrupt: a participant's own share is missing against it alone."""
    trusting = replace(masked, corrupt=0.0)
    ledger = ledger_of(trusting, summed(planned=15), population=15)
    statement = ledger.statement(DELTA, observer="participant")
    assert statement.achieved == pytest.approx(statement.planned * math.sqrt(14 / 15))
    assert "SHORTFALL" not in statement.reason
    assert "the plan counts on shares that this observer knows" in statement.reason
    assert f"{statement.achieved:.4g} instead of {statement.planned:.4g}" in statement.reason
    assert "the plan counts on" not in ledger.statement(DELTA, observer="server").reason
    lost = ledger_of(trusting, summed(planned=15), summed(planned=15, contributors=12, round=1), population=15)
    assert "NOISE SHORTFALL: in 1 of 2 releases" in lost.statement(DELTA, observer="participant").reason


@pytest.mark.parametrize(
    ("missing", "expected"), [(0, 7.047), (0.1, 7.793), (0.2, 8.747), (0.3, 10.007), (0.5, 14.275)]
)
def test_the_price_of_a_shortfall(keyed, event, missing, expected) -> None:
    """σ·√(1 - f) at the rate 0.1, σ = 1, 100 rounds, by PLD: what an unreported dropout would hide."""
    sampling = PoissonSampling(0.1).accounting(10_000)
    round = event((0,), math.sqrt(1 - missing), planned_noise_multiplier=1.0, sampling=sampling, count=100)
    statement = ledger_of(keyed, round, population=10_000).statement(DELTA, observer="public", beside=False)
    assert statement.epsilon == pytest.approx(expected, abs=2e-3)
    assert ("SHORTFALL" in statement.reason) == (missing > 0)


@pytest.mark.parametrize("share", [SHARE, SKELLAM])
def test_monotone_in_rounds_noise_and_dropout(masked, summed, share) -> None:
    def spent(rounds=5, contributors=15, share=share) -> float:
        made = (summed(contributors, share, round=r) for r in range(rounds))
        return ledger_of(masked, *made, population=15).epsilon(DELTA, observer="server")

    assert spent() < spent(rounds=6)
    assert spent() < spent(contributors=14) < spent(contributors=13)
    assert spent() < spent(share=replace(share, variance=99.0))
    assert spent() < spent(share=replace(share, l2=51.0))


PARTS = st.lists(
    st.tuples(
        st.sampled_from(["central", "skellam", "discrete-gaussian", "local", "response"]),
        st.sets(st.integers(0, 5), max_size=6),
        st.integers(1, 2),
        st.integers(0, 1),
    ),
    max_size=7,
)
ANSWER = Response(epsilon=0.5, categories=4)


@settings(max_examples=15)
@given(parts=PARTS, data=st.data())
def test_the_worst_placed_client_of_a_mixture_is_exact_in_any_order(parts, data) -> None:
    model = ThreatModel(
        adversary="honest-but-curious",
        corrupt=0.25,
        assumptions=(),
        reference="tests",
        learns={SERVER: frozenset({View.COHORT, View.NOISY_SUM})},
    )
    from fedpriv.privacy import LedgerEvent

    events, compositions = [], [Composition() for _ in range(6)]
    for r, (kind, cohort, count, extra) in enumerate(parts):
        share = replace(SKELLAM if kind == "skellam" else SHARE, l2=60.0 + 20 * extra)
        noise = {"central": 1.0 + extra, "local": 3.0 + extra}.get(kind, math.sqrt(len(cohort)) * 10 / share.l2)
        mechanism = {"central": "gaussian", "local": "gaussian", "response": "randomized-response"}.get(kind, kind)
        detail = {"skellam": share, "discrete-gaussian": share, "response": ANSWER}.get(kind)
        events.append(
            LedgerEvent(
                round=r,
                mechanism=mechanism,
                unit="client",
                adjacency="replace-one",
                sampling=None,
                clip_norm=None,
                planned_noise_multiplier=noise,
                noise_multiplier=noise,
                planned_contributors=len(cohort),
                contributors=len(cohort),
                cohort=tuple(sorted(cohort)),
                trust={"central": "central", "local": "local", "response": "local"}.get(kind, "distributed"),
                noise_source="os",
                count=count,
                detail=detail,
            )
        )
        for client in cohort:
            before = compositions[client]
            if isinstance(detail, Share):
                shares = dict(before.shares)
                shares[Shares.of(share, len(cohort))] = shares.get(Shares.of(share, len(cohort)), 0) + count
                compositions[client] = replace(before, shares=tuple(sorted(shares.items())))
            elif detail is None:
                compositions[client] = replace(before, gaussian=before.gaussian + count / noise**2)
            else:
                answered = dict(before.responses).get(ANSWER, 0) + count
                compositions[client] = replace(before, responses=((ANSWER, answered),))

    def spent(ledger: Ledger) -> float:
        return ledger.epsilon(DELTA, observer="server", accountant="rdp")

    ledger = ledger_of(model, *events, population=6, adjacency="replace-one")
    expected = spent(ledger)
    worst = max(accounting.epsilon(one, DELTA, "replace-one", "rdp") for one in compositions)
    assert expected == pytest.approx(worst, rel=1e-12)
    shuffled = data.draw(st.permutations(events))
    assert spent(ledger_of(model, *shuffled, population=6, adjacency="replace-one")) == expected
    split = [replace(event, count=1) for event in events for _ in range(event.count)]
    assert spent(ledger_of(model, *split, population=6, adjacency="replace-one")) == expected
    back = Ledger.from_json(ledger.to_json())
    assert back.events == ledger.events
    assert spent(back) == expected


def test_neither_of_two_clients_need_be_worse_at_every_delta(masked, summed, event) -> None:
    """One under wide discrete noise, one under Skellam noise or none in shares: both are kept, the worse is stated."""
    share = summed(15, cohort=(0,))
    central = replace(event((1,), 2.0), trust="local")
    ledger = ledger_of(masked, share, central, population=15)
    each = [ledger_of(masked, one, population=15).epsilon(DELTA, observer="server") for one in (share, central)]
    assert ledger.epsilon(DELTA, observer="server") == max(each)
    assert each[1] == pytest.approx(gaussian_epsilon(2.0), abs=1e-6)
    assert ledger.statement(DELTA, observer="server").accountant == ("rdp" if each[0] > each[1] else "pld")


def test_whose_curve_is_larger_at_most_orders_need_not_be_worse_placed(plain, summed, event) -> None:
    """An answer's curve is flat, noise's grows with the order: at one δ either client can be the worse-placed one."""

    def wide(cohort, z, **more):
        return replace(summed(share=replace(SHARE, variance=(50 * z) ** 2 / 15), cohort=cohort, **more), trust="local")

    def answers(cohort, epsilon, count=1):
        detail = Response(epsilon=epsilon, categories=2)
        more = {"clip_norm": None, "detail": detail, "count": count, "adjacency": "replace-one"}
        return event(cohort, 0.0, mechanism="randomized-response", trust="local", **more)

    def noise(cohort, sigma):
        return event(cohort, sigma, trust="local", adjacency="replace-one")

    one = {"adjacency": "replace-one"}
    for first, second in (
        ((answers((0,), 0.1, 3),), (noise((1,), 1.0),)),
        ((answers((0,), 8.0), wide((0,), 400.0, **one)), (wide((1,), 9.0, **one),)),
        ((noise((0,), 1.0), wide((0,), 400.0, **one)), (wide((1,), 90.0, **one),)),
    ):

        def spent(*events) -> float:
            return ledger_of(plain, *events, population=15, adjacency="replace-one").epsilon(DELTA, observer="server")

        assert spent(*first, *second) == max(spent(*first), spent(*second))
        assert spent(*first) != pytest.approx(spent(*second), rel=0.1)


def test_a_thousand_clients_under_two_hundred_kinds_of_sums_are_fast(masked, summed) -> None:
    import time

    rng = np.random.default_rng(0)
    rounds = [
        summed(int(rng.integers(600, 900)), cohort=np.flatnonzero(rng.random(1000) < 0.9).tolist(), round=r)
        for r in range(200)
    ]
    ledger = ledger_of(masked, *rounds, population=1000)
    started = time.process_time()
    ledger.epsilon(DELTA, observer="server")
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize(
    "bad",
    [
        {"variance": 0.0},
        {"variance": -1.0},
        {"variance": math.nan},
        {"variance": math.inf},
        {"l2": math.nan},
        {"l2": -1.0},
        {"l1": math.nan},
        {"l1": -1.0},
        {"dimension": 0},
    ],
)
@pytest.mark.parametrize("kind", ["discrete-gaussian", "skellam"])
def test_a_share_that_no_client_can_add_is_refused(summed, kind, bad) -> None:
    """An accountant that is given NaN, or a negative divergence, answers ε = 0."""
    with pytest.raises(ConfigurationError, match="share"):
        replace(summed(), mechanism=kind, detail=replace(SHARE, kind=kind, **bad))


@pytest.mark.parametrize("corrupt", [-0.1, 1.1, math.nan])
def test_a_share_of_corrupt_clients_is_one(summed, corrupt) -> None:
    with pytest.raises(ConfigurationError, match="corrupt"):
        summed(corrupt=corrupt)


@pytest.mark.parametrize("clients", [1e-12, 1e-3, 1 / 15])
def test_a_coalition_with_clients_knows_a_share_at_least(masked, summed, clients) -> None:
    ledger = ledger_of(masked, summed(), population=15)
    assert ledger.epsilon(DELTA, observer=Coalition(clients=clients)) == by_hand(14)
