"""Rounds that end without a result: everything stays as it was, and the ledger is told."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from algorithms import Constant, Make, execute

import fedpriv as fp
from fedpriv.errors import CohortTooSmall, TooFewSurvivors
from fedpriv.privacy import Encoded, NoDP

ABORTING = fp.SecureAggregation(corrupt=0.0, dropout=0.1, min_cohort=6)


class TestAborts:
    @pytest.mark.parametrize("ideal", [False, True])
    def test_too_few_survivors_leave_everything_as_it_was(self, ideal: bool, federation: Any, planned: Make) -> None:
        network = fp.Network(dropout={"upload": 0.35})
        plan = planned(client=Constant(), aggregation=ABORTING, network=network, rounds=8)
        run = execute(federation, plan, ideal=ideal)
        before = hashlib.sha256(run.resolved.initial(7).tobytes()).hexdigest()
        aborted = [record for record in run.records if record.aborted is not None]
        assert 0 < len(aborted) < 8  # the study goes on, before and after
        assert run.ledger.rounds == 8 - len(aborted)
        assert len(run.ledger) == 8  # that nothing came is recorded: it may show who was drawn
        for record in run.records:
            if record.aborted is not None:
                assert type(record.aborted) is TooFewSurvivors
                assert record.contributors == ()
                assert np.isnan(record.rounding_error)
                assert record.sha256 == before
            before = record.sha256
        assert run.frame["aborted"].tolist() == [
            "TooFewSurvivors" if record.aborted is not None else "" for record in run.records
        ]
        assert run.summary()["aborted_rounds"] == len(aborted)

    def test_raise_ends_the_run_with_the_rounds_error(self, federation: Any, planned: Make) -> None:
        plan = planned(client=Constant(), aggregation=ABORTING, network=fp.Network(dropout={"upload": 1.0}))
        with pytest.raises(TooFewSurvivors):
            execute(federation, plan, on_abort="raise")

    def test_a_run_of_aborts_only(self, federation: Any, planned: Make) -> None:
        run = execute(federation, planned(network=fp.Network(dropout={"upload": 1.0})))
        assert run.mean is None
        assert run.ledger.rounds == 0
        assert np.array_equal(run.parameters, run.resolved.initial(7))
        assert run.ledger.epsilon(1e-5, observer="public") == 0.0
        # What an aborted round showed to who sees single updates the ledger cannot know: it charges for them.
        assert run.ledger.epsilon(1e-5, observer="server") == np.inf
        assert "2 aborted" in repr(run)

    @pytest.mark.parametrize("mechanism", [NoDP(), fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0)])
    def test_empty_poisson_cohort(self, mechanism: Any, federation: Any, planned: Make) -> None:
        plan = planned(client=Constant(), sampling=fp.PoissonSampling(0.1), mechanism=mechanism, rounds=12)
        real, ideal = execute(federation, plan), execute(federation, plan, ideal=True)
        empty = [record for record in real.records if not record.cohort]
        assert 0 < len(empty) < 12
        assert {type(record.aborted) for record in empty} == {CohortTooSmall}
        assert real.ledger.rounds == 12 - len(empty)
        assert real.frame["sha256"].tolist() == ideal.frame["sha256"].tolist()
        assert real.frame["aborted"].tolist() == ideal.frame["aborted"].tolist()

    def test_a_release_that_finds_nobody_is_an_abort_too(self, federation: Any, planned: Make) -> None:
        @dataclass(frozen=True, kw_only=True)
        class Nobody(NoDP):
            """A mechanism that sends no weight at all."""

            def protect(self, updates: Any, examples: Any, spec: Any, rngs: Any) -> Encoded:
                encoded = super().protect(updates, examples, spec, rngs)
                return replace(encoded, values=np.zeros_like(encoded.values))

        run = execute(federation, planned(mechanism=Nobody()))
        assert run.frame["aborted"].tolist() == ["CohortTooSmall"] * 2
        assert [record.contributors for record in run.records] == [(), ()]
        assert run.frame["rounding_error"].isna().all()
        assert run.ledger.rounds == 0


class TestAbortsAndAmplification:
    """A round that ends without a release shows something of who was drawn; the ledger must be told of both."""

    def test_the_smallest_accepted_cohort_reaches_the_accountant(self, federation: Any, planned: Make) -> None:
        mechanism = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)
        sampling = fp.PoissonSampling(0.9, max_cohort=7)
        resolved = planned(
            mechanism=mechanism, sampling=sampling, aggregation=fp.SecureAggregation(min_cohort=4)
        ).resolve(federation)
        assert resolved.setting.min_cohort == 5  # of four, one may be lost
        assert resolved.spec.sampling is not None
        assert resolved.spec.sampling.min_cohort == 5

    def test_aborts_cost_amplified_epsilon(self, federation: Any, planned: Make) -> None:
        mechanism = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)
        plan = planned(mechanism=mechanism, sampling=fp.PoissonSampling(0.1), rounds=12)
        run = execute(federation, plan)
        ended = [record for record in run.records if record.aborted is not None]
        assert ended
        assert len(run.ledger) == 12
        without = fp.Ledger(
            threat=run.ledger.threat,
            population=run.ledger.population,
            events=[event for event in run.ledger.events if event.contributors],
        )
        assert run.ledger.epsilon(1e-3, observer="public") > without.epsilon(1e-3, observer="public")
