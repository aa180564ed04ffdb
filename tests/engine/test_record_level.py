"""Runs of DP-SGD: what the ledger is told, of whom, and when a round ends without a sum."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from algorithms import Make, execute
from torch import nn

import fedpriv as fp
from fedpriv.errors import CohortTooSmall, ConfigurationError, PlanError, TooFewSurvivors
from fedpriv.privacy import CentralGaussian, NoDP

DELTA = 1e-3
CLIENT = fp.DPSGD(
    learning_rate=0.1, clip_norm=1.0, sampling_rate=0.1, expected_batch=1.0, steps=10, noise_multiplier=1.0
)
EQUAL = NoDP(weighting="equal")


def charged(run: fp.Run) -> list[tuple[int, str]]:
    return [(event.round, event.scope) for event in run.ledger.events if event.unit == "record"]


def test_every_participation_is_an_event(federation: Any, planned: Make) -> None:
    """Sampled clients: the ledger charges the rounds that each really took part in, at the batches' rate alone."""
    plan = planned(client=CLIENT, mechanism=EQUAL, sampling=fp.FixedSizeSampling(3), rounds=6)
    run = execute(federation, plan)
    taken = [(record.round, f"client/{i}") for record in run.records for i in record.cohort]
    assert charged(run) == taken
    most = max(Counter(scope for _, scope in taken).values())
    assert 1 < most < 6
    statement = run.ledger.statement(DELTA, observer="server", unit="record", accountant="rdp")
    assert statement.participations == most
    assert statement.simulated
    alone = run.ledger.__class__(
        threat=run.ledger.threat,
        population=8,
        events=[replace(CLIENT.participation(0), round=r) for r in range(most)],
    )
    assert statement.epsilon == alone.epsilon(DELTA, observer="server", unit="record", accountant="rdp")
    assert run.ledger.records == 4
    assert "not below 1/4" in run.ledger.statement(0.3, observer="public", unit="record").reason


def test_the_runs_noise_source_is_followed(federation: Any, planned: Make) -> None:
    plan = planned(client=CLIENT, mechanism=EQUAL)
    first, again = (execute(federation, plan, noise="os") for _ in range(2))
    assert first.sha256 != again.sha256
    assert not first.ledger.statement(DELTA, observer="server", unit="record").simulated
    assert execute(federation, plan).sha256 == execute(federation, plan).sha256
    assert first.plan is plan


def test_protocols_and_ideal_runs_agree(federation: Any, planned: Make) -> None:
    runs = [
        execute(federation, planned(client=CLIENT, mechanism=EQUAL, aggregation=aggregation), ideal=ideal)
        for aggregation in (fp.PlainSum(), fp.SecureAggregation())
        for ideal in (False, True)
    ]
    assert len({run.sha256 for run in runs}) == 1
    assert len({run.ledger.epsilon(DELTA, observer="server", unit="record") for run in runs}) == 1


@pytest.mark.parametrize("ideal", [False, True])
def test_an_aborted_round_is_charged_to_its_whole_cohort(ideal: bool, federation: Any, planned: Make) -> None:
    """Real and ideal runs alike, though an ideal one trains nobody then. Who dropped out of a sum is not charged."""
    plan = planned(
        client=CLIENT,
        mechanism=EQUAL,
        aggregation=fp.SecureAggregation(corrupt=0.0, dropout=0.1, min_cohort=6),
        network=fp.Network(dropout={"upload": 0.35}),
        rounds=8,
    )
    run = execute(federation, plan, ideal=ideal)
    aborted = [record for record in run.records if record.aborted is not None]
    assert 0 < len(aborted) < 8
    assert {type(record.aborted) for record in aborted} == {TooFewSurvivors}
    assert charged(run) == [
        (record.round, f"client/{i}")
        for record in run.records
        for i in (record.cohort if record.aborted is not None else record.contributors)
    ]
    assert any(len(record.contributors) < 8 for record in run.records if record.aborted is None)


def test_a_cohort_refused_for_its_size_is_not_charged(federation: Any, planned: Make) -> None:
    plan = planned(
        client=CLIENT,
        mechanism=EQUAL,
        sampling=fp.PoissonSampling(0.75, max_cohort=8),
        aggregation=fp.SecureAggregation(corrupt=0.0, dropout=0.1, min_cohort=5),
        rounds=12,
    )
    run = execute(federation, plan)
    refused = {r.round for r in run.records if r.cohort and isinstance(r.aborted, CohortTooSmall)}
    assert 0 < len(refused) < 12
    assert not refused & {round for round, _ in charged(run)}


def test_records_and_clients_are_stated_apart(federation: Any, planned: Make) -> None:
    mechanism = CentralGaussian(clip_norm=0.5, noise_multiplier=3.0)
    run = execute(federation, planned(client=CLIENT, mechanism=mechanism))
    row = run.summary(DELTA)
    assert row["epsilon_server"] == float("inf")
    assert 0 < row["epsilon_public"] < float("inf")
    assert 0 < row["epsilon_record_server"] == row["epsilon_record_public"]
    assert row["delta_record"] == 1e-5
    assert fp.Ledger.from_json(run.ledger.to_json()).units == ("client", "record")


def test_the_plan_says_what_a_record_is_exposed_to(federation: Any, planned: Make) -> None:
    target = fp.Budget(epsilon=2.0, delta=1e-3, observer="server", unit="record")
    client = replace(CLIENT, noise_multiplier=None, target=target)
    resolved = planned(client=client, mechanism=EQUAL, rounds=3).resolve(federation)
    text = resolved.explain()
    assert "Per record   DPSGD" in text
    assert "ε = 2 at δ = 0.001 for adding or removing one record" in text or "ε = 1.99" in text
    run = execute(federation, resolved)
    assert 1.99 < run.ledger.epsilon(1e-3, observer="server", unit="record") <= 2.0


def test_what_would_tell_of_a_clients_records_is_refused(federation: Any, planned: Make) -> None:
    with pytest.raises(PlanError, match="weight"):
        planned(client=CLIENT, mechanism=NoDP()).resolve(federation)
    target = fp.Budget(epsilon=2.0, delta=0.25, observer="server", unit="record")
    with pytest.raises(ConfigurationError, match="records of the smallest client, 1/4"):
        planned(client=replace(CLIENT, noise_multiplier=None, target=target), mechanism=EQUAL).resolve(federation)

    def batch_norm() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    with pytest.raises(PlanError, match="GroupNorm"):
        planned(client=CLIENT, mechanism=EQUAL, model=batch_norm).resolve(federation)
