"""ε per record: what each client's own noise amounts to, whoever looks, over its rounds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from ledgers import DELTA, gaussian_epsilon, ledger_of

from fedpriv.errors import ConfigurationError, PlanError, PrivacyError, UnsupportedAccounting
from fedpriv.privacy import Budget, Ledger, PoissonSampling, record_event, solve_record_noise_multiplier
from fedpriv.threat import PUBLIC, SERVER, Coalition, ThreatModel, View

OBSERVERS = ("server", "participant", "public", Coalition(server=True, clients=0.2))


def a_turn(client: int = 0, round: int = 0, **more):
    """Ten steps at rate 0.1 with noise multiplier 1: the reference of the carry-over."""
    settings = {"rate": 0.1, "steps": 10, "noise_multiplier": 1.0, "clip_norm": 1.0, "noise_source": "os", **more}
    return replace(record_event(client=client, **settings), round=round)


def spent(ledger: Ledger, accountant="rdp", **more) -> float:
    return ledger.epsilon(DELTA, **{"observer": "server", "unit": "record", "accountant": accountant, **more})


def test_rounds_carry_on(plain) -> None:
    """One Opacus accountant for all rounds of one client; a fresh one in each round says 3.441 every time.

    dp-accounting leaves out orders at which its series does not converge: 3.4416 for 3.4413, both upper bounds.
    """
    turns = [a_turn(round=r) for r in range(3)]
    for rounds, expected in ((1, 3.441), (2, 4.224), (3, 4.848)):
        assert spent(ledger_of(plain, *turns[:rounds])) == pytest.approx(expected, abs=1e-3)


def test_opacus_accountants_agree(plain) -> None:
    """Only as a cross-check; no ε is ever read from Opacus."""
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))
    for rate, sigma, steps, rounds in ((0.1, 1.0, 10, 3), (0.01, 1.1, 100, 10), (0.2, 2.0, 25, 2)):
        ledger = ledger_of(
            plain, *(a_turn(round=r, rate=rate, noise_multiplier=sigma, steps=steps) for r in range(rounds))
        )
        rdp = compute_rdp(q=rate, noise_multiplier=sigma, steps=steps * rounds, orders=orders)
        theirs, _ = get_privacy_spent(orders=orders, rdp=rdp, delta=DELTA)
        assert spent(ledger) == pytest.approx(theirs, rel=2e-3)
        assert spent(ledger, "pld") < spent(ledger)


def test_steps_times_rounds(plain) -> None:
    """Two rounds of ten steps are one round of twenty, and the grouping of events changes no bit."""
    twice = ledger_of(plain, a_turn(), a_turn(round=1))
    assert spent(twice) == spent(ledger_of(plain, a_turn(steps=20)))
    singly = ledger_of(plain, *(replace(a_turn(steps=1), step=i % 10, round=i // 10) for i in range(20)))
    assert spent(singly) == spent(twice)
    assert twice.statement(DELTA, observer="server", unit="record").participations == 2


def test_full_batches_are_the_gaussian_mechanism(plain) -> None:
    ledger = ledger_of(plain, a_turn(rate=1.0, steps=16, noise_multiplier=4.0))
    assert spent(ledger, None) == pytest.approx(gaussian_epsilon(1.0), abs=1e-6)
    assert not ledger.statement(DELTA, observer="server", unit="record").amplified


def test_only_realised_participations_count_and_client_sampling_amplifies_nothing(plain, event) -> None:
    """The worst-placed client took part in three of five rounds; the cohort's own rate is in no figure."""
    sampling = PoissonSampling(0.3).accounting(10)
    cohorts = [(0, 1), (1, 2), (1,), (), (2, 3)]
    events = [
        made
        for r, cohort in enumerate(cohorts)
        for made in (
            event(cohort, round=r, sampling=sampling, mechanism="non-private", trust="none", clip_norm=None, sigma=0.0),
            *(a_turn(client, r) for client in cohort),
        )
    ]
    ledger = ledger_of(plain, *events)
    statement = ledger.statement(DELTA, observer="public", unit="record", accountant="rdp")
    assert statement.participations == 3
    assert statement.rounds == 4
    assert statement.epsilon == spent(ledger_of(plain, *(a_turn(round=r) for r in range(3))))
    assert ledger.units == ("client", "record")
    assert ledger.rounds == 4


def test_the_clients_own_noise_protects_against_everybody_else(plain, masked, keyed) -> None:
    for threat in (plain, masked, keyed):
        ledger = ledger_of(threat, a_turn())
        figures = {ledger.epsilon(DELTA, observer=observer, unit="record") for observer in OBSERVERS}
        assert len(figures) == 1
        statement = ledger.statement(DELTA, observer="server", unit="record")
        assert not statement.computational  # no protocol is relied on
        assert statement.adjacency == "add-remove"
        assert "adding or removing one record" in str(statement)
        assert "seed" not in str(statement)
        assert "not protected from itself" in ledger.statement(DELTA, observer="participant", unit="record").reason


def test_who_sees_nothing_released_learns_nothing(plain) -> None:
    blind = ThreatModel(
        adversary="honest-but-curious",
        corrupt=0.0,
        assumptions=(),
        reference="tests",
        learns={SERVER: frozenset({View.CIPHERTEXTS, View.COHORT}), PUBLIC: frozenset()},
        computational=frozenset({SERVER}),
    )
    statement = ledger_of(blind, a_turn()).statement(DELTA, observer="server", unit="record")
    assert (statement.epsilon, statement.computational) == (0.0, True)
    assert ledger_of(plain).epsilon(DELTA, observer="server", unit="record") == 0.0


def test_noise_on_records_is_no_guarantee_for_a_client(plain) -> None:
    ledger = ledger_of(plain, a_turn())
    assert ledger.epsilon(DELTA, observer="public") == math.inf
    assert ledger.delta(1.0, observer="public") == 1.0
    assert "all that a client holds" in str(ledger.statement(DELTA, observer="public"))


def test_a_contributor_without_noise_of_its_own_ends_the_claim(plain, event) -> None:
    bare = event((0, 1), sigma=0.0, mechanism="non-private", trust="none", clip_norm=None)
    covered = ledger_of(plain, bare, a_turn(0), a_turn(1))
    assert covered.epsilon(DELTA, observer="server", unit="record") < math.inf
    for events in ((bare, a_turn(0)), (bare, a_turn(0), a_turn(1, round=1))):
        statement = ledger_of(plain, *events).statement(DELTA, observer="server", unit="record")
        assert statement.epsilon == math.inf
        assert "round 1" in statement.reason


def test_the_units_are_stated_apart(keyed, event) -> None:
    """Central noise for clients, local noise for records: neither changes the other's figure."""
    both = ledger_of(keyed, event((0,), 2.0), a_turn())
    assert both.epsilon(DELTA, observer="public") == pytest.approx(gaussian_epsilon(2.0), abs=1e-6)
    assert spent(both, observer="public") == spent(ledger_of(keyed, a_turn()))
    with pytest.raises(UnsupportedAccounting, match="per record"):
        ledger_of(keyed, event((0,), 2.0)).epsilon(DELTA, observer="public", unit="record")
    with pytest.raises(ConfigurationError):
        both.epsilon(DELTA, observer="public", unit="hospital")


def test_the_worst_of_different_histories_is_reported(plain) -> None:
    """Few steps at little noise against many at much: each alone, never both together."""
    loud, long = a_turn(0, steps=2, noise_multiplier=0.7), a_turn(1, steps=300, noise_multiplier=3.0)
    alone = [spent(ledger_of(plain, one)) for one in (loud, long)]
    assert spent(ledger_of(plain, loud, long)) == max(alone)
    often = [a_turn(2, round=r, steps=1, noise_multiplier=9.0) for r in range(4)]
    assert ledger_of(plain, loud, long, *often).statement(DELTA, observer="server", unit="record").participations == 1
    assert ledger_of(plain, loud, long).delta(1.0, observer="public", unit="record") == max(
        ledger_of(plain, one).delta(1.0, observer="public", unit="record") for one in (loud, long)
    )


def test_seeded_noise_is_of_the_mechanism(plain) -> None:
    assert ledger_of(plain, a_turn(noise_source="seeded")).statement(DELTA, observer="public", unit="record").simulated
    assert not ledger_of(plain, a_turn()).statement(DELTA, observer="public", unit="record").simulated


def test_delta_against_the_smallest_client(plain) -> None:
    ledger = Ledger(threat=plain, population=10, events=[a_turn()], records=40)
    assert "not below 1/40" in ledger.statement(0.03, observer="public", unit="record").reason
    assert "not below" not in ledger.statement(0.02, observer="public", unit="record").reason
    with pytest.raises(ConfigurationError):
        Ledger(threat=plain, population=10, records=0)


def test_events_that_are_not_one_clients_steps_are_refused(plain) -> None:
    ledger = ledger_of(plain)
    for odd in ({"adjacency": "zero-out"}, {"scope": "population"}, {"cohort": (0, 1)}, {"scope": "client/1"}):
        with pytest.raises(PrivacyError):
            ledger.append(replace(a_turn(), **odd))
    with pytest.raises(ConfigurationError):
        ledger.append(a_turn(10))
    assert len(ledger) == 0
    sampling = a_turn().sampling
    for odd in ({"sampling": None}, {"trust": "central"}, {"sampling": replace(sampling, kind="fixed-size", size=3)}):
        with pytest.raises(UnsupportedAccounting):
            spent(ledger_of(plain, replace(a_turn(), **odd)))


def test_json_and_budgets(plain) -> None:
    ledger = Ledger(threat=plain, population=10, events=[a_turn(round=r) for r in range(3)], records=40)
    back = Ledger.from_json(ledger.to_json())
    assert (back.events, back.records) == (ledger.events, 40)
    assert spent(back) == spent(ledger)
    budget = Budget(epsilon=spent(ledger, "pld") + 1e-6, delta=DELTA, observer="server", unit="record")
    assert not ledger.would_exceed(budget)
    assert ledger.would_exceed(budget, a_turn(round=3))
    assert len(ledger) == 3


def test_a_target_is_spent_and_not_exceeded(plain) -> None:
    budget = Budget(epsilon=2.0, delta=DELTA, observer="server", unit="record")
    noise = solve_record_noise_multiplier(budget, rate=0.1, steps=10, participations=5)
    ledger = ledger_of(plain, *(a_turn(round=r, noise_multiplier=noise) for r in range(5)))
    assert 0.999 * 2.0 < ledger.epsilon(DELTA, observer="server", unit="record") <= 2.0
    with pytest.raises(PlanError, match="per record"):
        solve_record_noise_multiplier(replace(budget, unit="client"), rate=0.1, steps=10, participations=5)
