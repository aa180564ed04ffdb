"""Who may be told which ε: every rule by hand."""

from __future__ import annotations

import math

import pytest
from ledgers import DELTA, gaussian_epsilon, ledger_of

from fedpriv.aggregation import SecureAggregation
from fedpriv.privacy import FullParticipation, PoissonSampling
from fedpriv.threat import PUBLIC, SERVER, Coalition, ThreatModel, View


def test_central_noise_protects_the_public_but_not_the_server(plain, event) -> None:
    ledger = ledger_of(plain, *(event(range(10), 4.0, round=r) for r in range(16)))
    assert ledger.epsilon(DELTA, observer="server") == math.inf
    assert ledger.delta(1.0, observer="server") == 1.0
    statement = ledger.statement(DELTA, observer="server")
    assert "single updates" in statement.reason
    assert "not the server" in statement.reason
    assert "∞" in str(statement)
    for observer in ("public", "participant", "authority"):
        assert ledger.epsilon(DELTA, observer=observer) == pytest.approx(gaussian_epsilon(4 / math.sqrt(16)), abs=1e-6)
        assert ledger.epsilon(DELTA, observer=observer) == pytest.approx(4.377178, abs=1e-6)
    assert ledger.epsilon(DELTA, observer=Coalition(server=True)) == math.inf


def test_secure_aggregation_does_not_hide_the_sum_from_the_server(masked, event) -> None:
    ledger = ledger_of(masked, event(range(10)))
    statement = ledger.statement(DELTA, observer="server")
    assert statement.epsilon == math.inf
    assert "the sum before the noise" in statement.reason
    assert not statement.computational  # nothing is hidden, so nothing is hidden computationally


def test_with_a_key_authority_the_server_is_finite_and_the_authority_is_not(keyed, event) -> None:
    ledger = ledger_of(keyed, event(range(10), 2.0))
    server = ledger.statement(DELTA, observer="server")
    assert server.epsilon == pytest.approx(gaussian_epsilon(2.0), abs=1e-6)
    assert server.computational
    assert "if the cryptography holds" in str(server)
    authority = ledger.statement(DELTA, observer="authority")
    assert authority.epsilon == math.inf
    assert "not the authority" in authority.reason
    together = ledger.statement(DELTA, observer=Coalition(server=True, authority=True))
    assert together.epsilon == math.inf
    assert "single updates" in together.reason


def test_an_authority_that_is_not_there_is_said_not_to_be(plain, keyed, event) -> None:
    for observer in ("authority", Coalition(authority=True)):
        statement = ledger_of(plain, event(range(10))).statement(DELTA, observer=observer)
        assert statement.epsilon == ledger_of(plain, event(range(10))).epsilon(DELTA, observer="public")
        assert "no authority" in statement.reason
    assert "no authority" not in ledger_of(plain, event(range(10))).statement(DELTA, observer="public").reason
    assert "no authority" not in ledger_of(keyed, event(range(10))).statement(DELTA, observer="authority").reason


def test_who_sees_the_cohort_gets_realised_participations_and_no_amplification(keyed, event) -> None:
    sampling = PoissonSampling(0.3).accounting(10)
    cohorts = [(0, 1, 2), (2, 3), (2, 4, 5), (), (1, 2)]  # client 2 takes part in 4, client 1 in 2
    ledger = ledger_of(keyed, *(event(c, 3.0, round=r, sampling=sampling) for r, c in enumerate(cohorts)))
    server = ledger.statement(DELTA, observer="server")
    assert server.participations == 4
    assert not server.amplified
    assert server.epsilon == pytest.approx(gaussian_epsilon(3.0 / math.sqrt(4)), abs=1e-6)
    public = ledger.statement(DELTA, observer="public")
    assert public.amplified
    assert public.participations is None
    assert 0 < public.epsilon < server.epsilon
    # The public's ε does not depend on who was drawn; the server's does.
    others = ledger_of(keyed, *(event((r,), 3.0, round=r, sampling=sampling) for r in range(5)))
    assert others.epsilon(DELTA, observer="public") == public.epsilon
    assert others.epsilon(DELTA, observer="server") == pytest.approx(gaussian_epsilon(3.0), abs=1e-6)


def test_the_survivors_give_the_cohort_away(keyed, event) -> None:
    sampling = PoissonSampling(0.1).accounting(10)
    told = keyed.with_views({PUBLIC: frozenset({View.SURVIVORS})})
    ledger = ledger_of(told, event((1,), 2.0, sampling=sampling))
    assert not ledger.statement(DELTA, observer="public").amplified


def test_the_worst_client_is_the_most_exposed_not_the_most_frequent(keyed, event) -> None:
    noisy = [event((0,), 10.0, round=r) for r in range(5)]
    ledger = ledger_of(keyed, *noisy, event((1,), 1.0, round=5))
    statement = ledger.statement(DELTA, observer="server")
    assert statement.epsilon == pytest.approx(gaussian_epsilon(1.0), abs=1e-6)
    assert statement.participations == 1


@pytest.mark.parametrize("observer", ["public", "server", "participant", "authority"])
def test_a_release_without_noise_is_infinite_for_whoever_sees_it(keyed, event, observer) -> None:
    exact = event((0,), 0.0, mechanism="non-private", trust="none", clip_norm=None)
    statement = ledger_of(keyed, event((0,), 5.0), exact).statement(DELTA, observer=observer)
    assert statement.epsilon == math.inf
    assert statement.rdp_epsilon is None
    assert not statement.simulated


def test_who_sees_nothing_learns_nothing(event) -> None:
    blind = ThreatModel(
        adversary="honest-but-curious",
        corrupt=0.5,
        assumptions=(),
        reference="tests",
        learns={SERVER: frozenset({View.CIPHERTEXTS, View.COHORT}), PUBLIC: frozenset()},
        computational=frozenset({SERVER}),
    )
    exact = event((0,), 0.0, mechanism="non-private", trust="none", clip_norm=None)
    ledger = ledger_of(blind, exact)
    server = ledger.statement(DELTA, observer="server")
    assert (server.epsilon, server.computational) == (0.0, True)
    public = ledger.statement(DELTA, observer="public")
    assert (public.epsilon, public.computational) == (0.0, False)
    # One client too many in the coalition, and updates are open.
    assert ledger.epsilon(DELTA, observer=Coalition(server=True, clients=0.6)) == math.inf


def test_adjacencies(keyed, event) -> None:
    """σ = 4, 16 rounds, everybody: 4.3772 for zeroing a client, 9.9973 for replacing one, ∞ for adding one in sight."""
    full = FullParticipation().accounting(10)

    def stated(adjacency: str, observer: str) -> float:
        events = [event(range(10), 4.0, round=r, adjacency=adjacency, sampling=full) for r in range(16)]
        return ledger_of(keyed, *events, adjacency=adjacency).epsilon(DELTA, observer=observer)

    for observer in ("server", "public"):
        assert stated("zero-out", observer) == pytest.approx(4.37718, abs=1e-4)
        assert stated("replace-one", observer) == pytest.approx(9.9973, abs=1e-4)
    assert stated("add-remove", "public") == pytest.approx(4.37718, abs=1e-4)
    assert stated("add-remove", "server") == math.inf
    event_ = event(range(10), 4.0, adjacency="add-remove")
    why = ledger_of(keyed, event_, adjacency="add-remove").statement(DELTA, observer="server").reason
    assert "sees who takes part" in why
    assert "zero-out" in why


def test_an_aborted_sum_is_no_secret_to_whoever_sees_updates(keyed, event) -> None:
    """Two ciphertexts reached the server before the authority refused; together they decrypt them."""
    aborted = event((0, 1), 0.0, mechanism="non-private", trust="none", clip_norm=None, contributors=0)
    ledger = ledger_of(keyed, aborted)
    assert ledger.epsilon(DELTA, observer="server") == 0.0
    assert ledger.epsilon(DELTA, observer=Coalition(server=True, authority=True)) == math.inf


def test_an_aborted_sum_is_no_secret_to_whoever_can_open_it(event) -> None:
    """Honest clients had answered before the last was lost; corrupt ones hold the shares that were still wanting."""
    aborted = event((0, 1), 0.0, mechanism="non-private", trust="none", clip_norm=None, contributors=0)
    ledger = ledger_of(SecureAggregation(corrupt=0.2).threat_model, aborted)
    assert ledger.epsilon(DELTA, observer=Coalition(server=True, clients=0.2)) == math.inf
    assert ledger.epsilon(DELTA, observer="participant") == 0.0
