"""What the ledger charges, refuses, tells and keeps."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import DELTA, gaussian_epsilon, ledger_of

from fedpriv.errors import ConfigurationError, PrivacyError, UnsupportedAccounting
from fedpriv.privacy import Budget, Ledger, LedgerEvent, PoissonSampling
from fedpriv.privacy.correlation import Correlation
from fedpriv.privacy.ledger.event import Response
from fedpriv.privacy.mechanism import Share
from fedpriv.threat import PUBLIC, SERVER, ThreatModel, View


def test_different_noise_composes_exactly(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0,), 1.5), event((0,), 4.0, round=1, count=3))
    sigma = 1 / math.sqrt(1 / 1.5**2 + 3 / 4.0**2)
    assert ledger.epsilon(DELTA, observer="public") == pytest.approx(gaussian_epsilon(sigma), abs=1e-6)


def test_achieved_noise_counts_not_planned(keyed, event) -> None:
    starved = event((0,), 2.0, planned_noise_multiplier=4.0)
    assert ledger_of(keyed, starved).epsilon(DELTA, observer="public") == pytest.approx(gaussian_epsilon(2.0), abs=1e-6)


def test_dropped_clients_are_charged(keyed, event) -> None:
    assert ledger_of(keyed, event((0, 1), 2.0, contributors=1)).statement(DELTA, observer="server").participations == 1


def test_rounds_without_a_release(keyed, event) -> None:
    """They cost nothing to whom the cohort is open, and count as drawn to whom it is hidden."""
    sampling = PoissonSampling(0.1).accounting(10)
    released = event((0, 1), 2.0, sampling=sampling)
    aborted = event((1, 2), 2.0, sampling=sampling, contributors=0, round=1)
    both, one = ledger_of(keyed, released, aborted), ledger_of(keyed, released)
    assert both.epsilon(DELTA, observer="server") == one.epsilon(DELTA, observer="server")
    assert both.epsilon(DELTA, observer="public") > one.epsilon(DELTA, observer="public")
    exact = event((0,), 0.0, mechanism="non-private", trust="none", clip_norm=None, contributors=0)
    assert ledger_of(keyed, exact).epsilon(DELTA, observer="server") == 0.0


def test_an_empty_ledger_released_nothing(plain) -> None:
    ledger = ledger_of(plain)
    statement = ledger.statement(DELTA, observer="server")
    assert statement.epsilon == 0.0
    assert "nothing was released" in str(statement)
    assert ledger.delta(0.0, observer="server") == 0.0
    assert len(ledger) == 0
    assert "nothing released" in ledger._repr_html_()


def test_seeded_noise_is_labelled(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0,), 2.0), event((0,), 2.0, round=1, noise_source="seeded"))
    assert ledger.statement(DELTA, observer="public").simulated
    assert "of the mechanism, simulated" in str(ledger.statement(DELTA, observer="public"))
    assert not ledger_of(keyed, event((0,), 2.0)).statement(DELTA, observer="public").simulated


def test_a_delta_too_large_for_the_population_is_said(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0,), 2.0))
    assert "not below 1/10" in ledger.statement(0.1, observer="public").reason
    assert "not below" not in ledger.statement(0.09, observer="public").reason


def test_units_adjacencies_and_strangers_are_refused(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0,), 2.0))
    with pytest.raises(PrivacyError, match="one record"):
        ledger.append(event((0,), 2.0, unit="record"))
    with pytest.raises(PrivacyError, match="zero-out"):
        ledger.append(event((0,), 2.0, adjacency="add-remove"))
    with pytest.raises(ConfigurationError):
        ledger.append(event((10,), 2.0))
    assert len(ledger) == 1
    with pytest.raises(ConfigurationError):
        ledger_of(keyed, adjacency="swap")
    with pytest.raises(ConfigurationError):
        ledger_of(keyed, population=0)


def test_what_has_no_accountant_is_refused(keyed, event) -> None:
    share = Share(kind="skellam", variance=4.0, l2=1.0, l1=1.0, dimension=1, wrap=0.0)
    for odd in (
        {"mechanism": "laplace"},
        {"mechanism": "skellam"},
        {"mechanism": "skellam", "detail": share},  # central
        {"mechanism": "discrete-gaussian", "trust": "distributed", "detail": share},
        {"mechanism": "randomized-response", "trust": "local"},
        {"trust": "local", "detail": Correlation(kind="tree", rounds=4)},
        {"detail": Response(epsilon=1.0, categories=2)},
        {"trust": "distributed"},
    ):
        with pytest.raises(UnsupportedAccounting):
            ledger_of(keyed, event((0,), 2.0, **odd)).epsilon(DELTA, observer="public")


@pytest.mark.parametrize(
    "call",
    [
        lambda ledger: ledger.epsilon(0.0, observer="public"),
        lambda ledger: ledger.epsilon(DELTA, observer="nobody"),
        lambda ledger: ledger.epsilon(DELTA, observer="public", accountant="prv"),
        lambda ledger: ledger.delta(1.0, observer="public", conversion="best"),
        lambda ledger: ledger.delta(-1.0, observer="public"),
        lambda ledger: ledger.delta("1.0", observer="public"),
        lambda ledger: ledger.delta([1.0], observer="public"),
        lambda ledger: ledger.delta(-1.0, observer="authority"),  # to whom the sum is open: δ = 1 for every ε
        lambda ledger: ledger.epsilon("1e-5", observer="public"),
        lambda ledger: ledger.statement("1e-5", observer="public"),
        lambda ledger: ledger.statement(DELTA, observer=["server"]),
    ],
)
def test_bad_questions_are_refused(keyed, event, call) -> None:
    with pytest.raises(ConfigurationError):
        call(ledger_of(keyed, event((0,), 2.0)))


@pytest.mark.parametrize(
    "bad",
    [
        {"noise_multiplier": float("nan")},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": 0.0},
        {"planned_noise_multiplier": math.inf},
        {"count": 0},
        {"round": -1},
    ],
)
def test_impossible_events_are_refused(event, bad) -> None:
    with pytest.raises(ConfigurationError):
        event((0,), 2.0, **bad)


EVENTS = st.lists(
    st.tuples(
        st.sets(st.integers(0, 5), max_size=6), st.sampled_from([0.7, 1.1, 3.0]), st.booleans(), st.integers(1, 3)
    ),
    max_size=6,
)


@settings(max_examples=15)
@given(parts=EVENTS, data=st.data())
def test_order_and_grouping_do_not_matter_and_json_keeps_everything(parts, data) -> None:
    model = ThreatModel(
        adversary="honest-but-curious",
        corrupt=0.25,
        assumptions=("a",),
        reference="tests",
        learns={SERVER: frozenset({View.COHORT, View.NOISY_SUM}), PUBLIC: frozenset({View.FINAL_MODEL})},
        exposing=(frozenset({"server", "authority"}),),
        computational=frozenset({SERVER}),
    )
    sampling = PoissonSampling(0.2, 5).accounting(6)
    events = [
        LedgerEvent(
            round=r,
            mechanism="gaussian",
            unit="client",
            adjacency="zero-out",
            sampling=sampling if drawn else None,
            clip_norm=1.0,
            planned_noise_multiplier=sigma,
            noise_multiplier=sigma,
            planned_contributors=1,
            contributors=len(cohort),
            cohort=tuple(sorted(cohort)),
            trust="central",
            noise_source="seeded",
            count=count,
        )
        for r, (cohort, sigma, drawn, count) in enumerate(parts)
    ]

    def spent(ledger: Ledger) -> list[float]:
        return [
            ledger.epsilon(DELTA, observer="server"),
            ledger.epsilon(DELTA, observer="public", accountant="rdp"),
        ]

    ledger = ledger_of(model, *events, population=6)
    expected = spent(ledger)
    assert spent(ledger_of(model, *data.draw(st.permutations(events)), population=6)) == expected
    split = [replace(event, count=1) for event in events for _ in range(event.count)]
    assert spent(ledger_of(model, *split, population=6)) == expected
    back = Ledger.from_json(ledger.to_json())
    assert (back.events, back.threat, back.population, back.adjacency) == (
        ledger.events,
        ledger.threat,
        ledger.population,
        ledger.adjacency,
    )
    assert spent(back) == expected


def test_json_of_something_else_is_refused(plain) -> None:
    good = json.loads(ledger_of(plain).to_json())
    for bad in ("", "[]", "{}", json.dumps({**good, "format": "other"}), json.dumps({**good, "events": [{}]})):
        with pytest.raises(ConfigurationError):
            Ledger.from_json(bad)


def test_a_thousand_clients_and_two_hundred_rounds_are_fast(keyed, event) -> None:
    rng = np.random.default_rng(0)
    sampling = PoissonSampling(0.1)
    record = sampling.accounting(1000)
    events = [
        event(sampling.cohort(rng, 1000), 1 + r / 100, round=r, sampling=record) for r in range(200)
    ]  # noise of its own each round, so that nearly every client's history is unique
    ledger = ledger_of(keyed, *events, population=1000)
    started = time.process_time()
    statement = ledger.statement(DELTA, observer="server")
    assert time.process_time() - started < 2.0
    costs = np.zeros(1000)
    for made in events:
        costs[list(made.cohort)] += made.noise_multiplier**-2.0
    assert statement.epsilon == pytest.approx(gaussian_epsilon(1 / math.sqrt(costs.max())), abs=1e-6)


def test_would_exceed(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0,), 4.0, count=15))
    budget = Budget(epsilon=4.3772, delta=DELTA, observer="public")
    assert not ledger.would_exceed(budget)
    assert not ledger.would_exceed(budget, event((0,), 4.0, round=15))
    assert ledger.would_exceed(budget, event((0,), 4.0, round=15, count=2))
    assert len(ledger) == 1
    assert ledger.would_exceed(Budget(epsilon=100, delta=DELTA, observer="authority"))
    with pytest.raises(PrivacyError):
        ledger.would_exceed(replace(budget, unit="record"))


def test_the_events_cannot_be_changed_from_outside(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0,), 4.0))
    assert isinstance(ledger.events, tuple)
    with pytest.raises(AttributeError):
        ledger.events[0].count = 0  # type: ignore[misc]


def test_frame_and_words(keyed, event) -> None:
    ledger = ledger_of(keyed, event((0, 1), 4.0, sampling=PoissonSampling(0.2).accounting(10)), event((2,), 4.0))
    frame = ledger.frame
    assert list(frame["round"]) == [1, 1]  # counted as in every table; events are the engine's, from 0
    assert list(frame["cohort"]) == [2, 1]
    assert list(frame["sampling"]) == ["poisson", "unknown"]
    statement = ledger_of(keyed, event((0,), 1.0)).statement(DELTA, observer="server")
    assert "Against the server: ε = 4.378 at δ = 1e-05" in str(statement)  # rounded up, never down
    assert "RDP: 4.729" in str(statement)
    classic = ledger.statement(DELTA, observer="server", conversion="classic")
    assert "(PLD; RDP, classic conversion: " in str(classic)
    assert "ε by RDP, classic conversion" in classic._repr_html_()
    assert "<table>" in statement._repr_html_()
    assert "&lt;" in replace(statement, reason="<b>")._repr_html_()
    assert repr(ledger) == "Ledger(2 releases, 10 clients, zero-out)"


def test_rows_explain_themselves(masked, keyed, event) -> None:
    share = Share(kind="skellam", variance=4.0, l2=2.0, l1=2.0, dimension=1, wrap=1e-7)
    inside = event(range(10), math.sqrt(8), mechanism="skellam", trust="distributed", detail=share, contributors=8)
    exact = event((0,), 0.0, mechanism="non-private", trust="none", clip_norm=None, round=2)
    tree = event((0,), 2.0, detail=Correlation(kind="tree", rounds=4), round=3)
    aborted = replace(inside, contributors=0, round=4)
    drawn = event((1, 2), 2.0, sampling=PoissonSampling(0.2).accounting(10), round=5)
    frame = ledger_of(masked, inside, exact, tree, aborted, drawn).frame
    assert frame["wrap"].tolist()[0] == 1e-7
    assert math.isnan(frame["wrap"][1])
    for words, parts in zip(
        frame["words"],
        (("Skellam", "8 clients' shares"), ("without noise",), ("correlated", "tree"), ("yet charged",), ("drawn",)),
        strict=True,
    ):
        assert all(part in words for part in parts)
    assert {"planned_noise_multiplier", "noise_multiplier", "planned_contributors", "contributors"} <= set(frame)
    assert {"sampling", "adjacency", "trust", "wrap", "words"} <= set(frame)
    assert len(ledger_of(keyed).frame) == 0
    assert "correlated" in ledger_of(masked, tree)._repr_html_()


def test_explain_says_a_line_for_each_observer(masked, keyed, event) -> None:
    lines = ledger_of(keyed, event(range(10), 2.0)).explain(DELTA).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "Against the server",
        "Against the authority",
        "Against the participant",
        "Against the public",
    ]
    assert "∞" in lines[1]
    coalition = ledger_of(masked, event(range(10), 2.0)).explain(DELTA).splitlines()[-1]
    assert coalition.startswith("Against the server + 30% of clients: ε = ∞")
    odd = ledger_of(keyed, event((0,), 2.0, mechanism="laplace")).explain(DELTA)
    assert odd.count("no accountant for this") == 3  # the authority sees the bare sum
    assert "no accountant" in ledger_of(keyed, event((0,), 2.0)).explain(DELTA, unit="record")


def test_json_keeps_every_detail_and_reads_the_earlier_format(keyed, event) -> None:
    share = Share(kind="discrete-gaussian", variance=4.0, l2=2.0, l1=2.0, dimension=3, wrap=1e-7)
    events = (
        event((0, 1), 3.0, mechanism="discrete-gaussian", trust="distributed", detail=share, corrupt=0.1),
        event((0,), 2.0, detail=Correlation(kind="banded", rounds=4, coefficients=(1.0, 0.5))),
        event((0,), 0.0, mechanism="randomized-response", trust="local", detail=Response(epsilon=1.0, categories=3)),
        event((0,), 2.0, round=3),
    )
    text = ledger_of(keyed, *events).to_json()
    assert Ledger.from_json(text).events == events
    broken = text.replace('"type": "share"', '"type": "pickle"')
    with pytest.raises(ConfigurationError):
        Ledger.from_json(broken)
    earlier = json.loads(ledger_of(keyed, events[-1]).to_json())
    del earlier["events"][0]["detail"], earlier["events"][0]["corrupt"], earlier["private"]
    assert Ledger.from_json(json.dumps({**earlier, "format": "fedpriv-ledger/1"})).events == events[-1:]


def test_the_number_of_records_is_named_private_or_left_out(keyed, event) -> None:
    ledger = Ledger(threat=keyed, population=10, events=[event((0,), 2.0)], records=40)
    assert json.loads(ledger.to_json())["private"] == ["records"]
    assert Ledger.from_json(ledger.to_json()).records == 40
    public = ledger.to_json(private=False)
    assert json.loads(public)["private"] == []
    assert Ledger.from_json(public).records is None
    assert "40" not in ledger.frame.to_string()
    assert "40" not in repr(ledger)


def test_a_budget_whose_delta_means_nothing_is_refused(keyed, event) -> None:
    ledger = Ledger(threat=keyed, population=10, events=[event((0,), 2.0)], records=4)
    with pytest.raises(ConfigurationError, match="1/10"):
        ledger.would_exceed(Budget(epsilon=9.0, delta=0.1, observer="public"))
    with pytest.raises(ConfigurationError, match="1/4"):
        ledger.would_exceed(Budget(epsilon=9.0, delta=0.3, observer="public", unit="record"))


def test_planned_and_achieved_noise_are_in_the_statement(keyed, event) -> None:
    starved = ledger_of(keyed, event((0,), 4.0), event((0,), 3.0, planned_noise_multiplier=4.0, round=1))
    statement = starved.statement(DELTA, observer="public")
    assert (statement.planned, statement.achieved) == (4.0, 3.0)
    assert "NOISE SHORTFALL: in 1 of 2 releases" in str(statement)
    assert "that counts</th><td>3<" in statement._repr_html_()
    assert starved.statement(DELTA, observer="authority").achieved is None  # nothing counts
