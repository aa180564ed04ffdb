"""Every plan that is refused before round 1, each with the remedy in the message (design, section 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import fedpriv as fp
from fedpriv.encoding import Bounded, Ring
from fedpriv.errors import BudgetUnreachable, ConfigurationError, FedprivError, PlanError
from fedpriv.learning.update import per_client
from fedpriv.privacy import RoundSpec, SamplingRecord, Setting

Make = Callable[..., fp.Plan]


class TrainingBegan(Exception):
    """Raised by a client that must never be reached."""


@dataclass(frozen=True)
class Untouchable:
    """A client's algorithm that betrays that a round began."""

    record_level: bool = False

    def payload(self, parameters: int) -> dict[str, int]:
        return {"delta": parameters}

    def init(self, client: Any) -> None:
        raise TrainingBegan

    def train(self, *_: Any) -> list[Any]:
        raise TrainingBegan


@dataclass(frozen=True, kw_only=True)
class Noised(fp.NoDP):
    """A toy of distributed noise: what it claims about its noise is a field."""

    needs: int | None = None
    bits_of_modulus: int | None = None
    trust: Any = field(default="distributed", init=False, repr=False)
    weighting: Any = "equal"

    def noise_contributors(self, setting: Setting) -> int | None:
        return self.needs

    def begin(self, state: RoundSpec, round: int, public: int = 0) -> RoundSpec:
        return replace(super().begin(state, round, public), modulus_bits=self.bits_of_modulus)


@dataclass(frozen=True, kw_only=True)
class Within(fp.PlainSum):
    """A plain sum whose domain is what it was told, wide enough or not."""

    size: Any

    def domain(self, *, sum_bound: int, length: int, cohort: int) -> Any:
        return self.size


@dataclass(frozen=True)
class Unmodelled(fp.FullParticipation):
    """A sampling of the user's own that no accountant knows."""

    def accounting(self, population: int) -> SamplingRecord | None:
        return None


def refused(error: type[FedprivError], federation: Any, plan: fp.Plan, *words: str) -> None:
    """The plan is refused by resolve and by run, in those words, before a client is asked for anything."""
    plan = replace(plan, client=Untouchable(record_level=getattr(plan.client, "record_level", False)))
    for call in (lambda: plan.resolve(federation), lambda: fp.run(federation, plan, seed=0, progress=False)):
        with pytest.raises(error) as caught:
            call()
        assert caught.value.remedy in str(caught.value)
        for word in words:
            assert word in str(caught.value)


def test_the_untouchable_client_would_be_noticed(federation: Any, planned: Make) -> None:
    with pytest.raises(TrainingBegan):
        fp.run(federation, planned(client=Untouchable()), seed=0, progress=False)


class TestWrapping:
    def test_domain_of_an_aggregator_that_is_too_small(self, federation: Any, planned: Make) -> None:
        plan = planned(aggregation=Within(size=Bounded(1000)))
        refused(PlanError, federation, plan, "encoded vectors", "fewer bits")

    def test_domain_that_is_exactly_wide_enough(self, federation: Any, planned: Make) -> None:
        mechanism = fp.NoDP(bits=8, weighting="equal")
        exact = 127 * len(federation)  # eight clients, each coordinate at most 2^7 - 1
        planned(mechanism=mechanism, aggregation=Within(size=Bounded(exact))).resolve(federation)
        refused(PlanError, federation, planned(mechanism=mechanism, aggregation=Within(size=Bounded(exact - 1))), "±")

    def test_ring_that_is_one_bit_too_narrow(self, federation: Any, planned: Make) -> None:
        mechanism = fp.NoDP(bits=8, weighting="equal")  # sums reach 1016: eleven bits with the sign
        planned(mechanism=mechanism, aggregation=Within(size=Ring(11))).resolve(federation)
        refused(PlanError, federation, planned(mechanism=mechanism, aggregation=Within(size=Ring(10))), "ℤ mod 2^10")

    def test_bits_and_weights_beyond_the_62_bits_of_a_sum(self, planned: Make) -> None:
        clients = tuple(
            fp.data.Client(index=i, name=str(i), x=np.ones((n, 1)), y=np.zeros(n)) for i, n in enumerate([2**16, 1])
        )
        wide = fp.data.Federation(name="wide", clients=clients, test_x=[[1.0]], test_y=[1], classes=2)
        planned(mechanism=fp.NoDP(bits=40, weighting="equal")).resolve(wide)
        for aggregation in (fp.PlainSum(), fp.SecureAggregation(corrupt=0.0, dropout=0.0, min_cohort=2)):
            plan = planned(mechanism=fp.NoDP(bits=40), aggregation=aggregation)
            refused(PlanError, wide, replace(plan, mechanism=_Heavier()), "62 bits", "smaller")

    def test_sums_that_ckks_cannot_round_exactly(self, federation: Any, planned: Make) -> None:
        plan = planned(mechanism=fp.NoDP(bits=40), aggregation=fp.CKKS())
        refused(PlanError, federation, plan, "exact", "fewer bits")


@dataclass(frozen=True, kw_only=True)
class _Heavier(fp.NoDP):
    """Weights up to 2^24, more than any federation of a test can have examples."""

    bits: int = 40

    def init(self, setting: Setting) -> Any:
        return replace(super().init(setting), max_weight=2**24)


class TestNoiseRoom:
    """What clients send, noise included, is reduced to the modulus: it fits into a ring of that size exactly."""

    def test_a_ring_of_the_modulus_is_taken(self, federation: Any, planned: Make) -> None:
        for aggregation, domain in ((fp.SecureAggregation(), Ring(12)), (fp.PlainSum(), Bounded(8 * 2048))):
            resolved = planned(mechanism=Noised(bits_of_modulus=12), aggregation=aggregation).resolve(federation)
            assert (resolved.terms.domain, resolved.terms.input_bound) == (domain, 2048)

    def test_a_bounded_domain_holds_the_sum_of_all_clients(self, federation: Any, planned: Make) -> None:
        mechanism = Noised(bits_of_modulus=12)
        planned(mechanism=mechanism, aggregation=Within(size=Bounded(8 * 2048))).resolve(federation)
        plan = planned(mechanism=mechanism, aggregation=Within(size=Bounded(8 * 2048 - 1)))
        refused(PlanError, federation, plan, "fits into", "±16384", "fewer bits")

    def test_a_wider_ring_loses_nothing_and_a_narrower_one_does(self, federation: Any, planned: Make) -> None:
        mechanism = Noised(bits_of_modulus=12)
        planned(mechanism=mechanism, aggregation=Within(size=Ring(13))).resolve(federation)
        plan = planned(mechanism=mechanism, aggregation=Within(size=Ring(11)))
        refused(PlanError, federation, plan, "fits into", "±16384")

    def test_sums_beyond_62_bits(self, federation: Any, planned: Make) -> None:
        refused(PlanError, federation, planned(mechanism=Noised(bits_of_modulus=60)), "62 bits")


class TestCollusion:
    def test_threshold_under_the_collusion_bound(self, federation: Any, planned: Make) -> None:
        plan = planned(aggregation=fp.SecureAggregation(corrupt=0.6, dropout=0.3))
        refused(PlanError, federation, plan, "honest", "lower corrupt or dropout")

    def test_turns_that_run_out_before_the_rounds_do(self, federation: Any, planned: Make) -> None:
        """Whatever the mechanism: later cohorts would be empty, and their rounds aborted."""
        turns = fp.MinSeparation(2, max_participations=2)
        planned(sampling=turns, rounds=4).resolve(federation)
        refused(PlanError, federation, planned(sampling=turns, rounds=5), "5 rounds", "max_participations=3")

    def test_cohort_below_min_cohort(self, federation: Any, planned: Make) -> None:
        plan = planned(aggregation=fp.SecureAggregation(min_cohort=9))
        refused(PlanError, federation, plan, "min_cohort = 9", "Got 8", "Invite more clients")

    def test_sampled_cohort_below_min_cohort(self, federation: Any, planned: Make) -> None:
        plan = planned(aggregation=fp.SecureAggregation(min_cohort=5), sampling=fp.FixedSizeSampling(4))
        refused(PlanError, federation, plan, "min_cohort = 5", "Got 4")

    def test_cohort_below_the_authoritys_minimum(self, federation: Any, planned: Make) -> None:
        plan = planned(aggregation=fp.CKKS(keys=fp.KeyAuthority(min_contributors=9)))
        refused(PlanError, federation, plan, "9 clients", "lower min_contributors")

    def test_the_largest_cohort_is_checked_as_well_as_the_expected_one(self, federations: Any, planned: Make) -> None:
        # ⌈0.25·4⌉ = 1 corrupt client and one loss leave a threshold for four clients, but not for five.
        aggregation = fp.SecureAggregation(corrupt=0.25, dropout=0.25)
        assert aggregation.least_contributors(4) == 3
        plan = planned(aggregation=aggregation, sampling=fp.PoissonSampling(0.45, max_cohort=5))
        federation = federations(clients=10)
        assert int(plan.sampling.expected(10)) == 4
        refused(PlanError, federation, plan, "lower corrupt or dropout")


class TestStarvation:
    def test_noise_that_permitted_dropout_and_collusion_starve(self, federation: Any, planned: Make) -> None:
        aggregation = fp.SecureAggregation(corrupt=0.1, dropout=0.2)
        honest = aggregation.least_contributors(8) - 1  # ⌈0.1 · 8⌉ corrupt
        planned(mechanism=Noised(needs=honest), aggregation=aggregation).resolve(federation)
        plan = planned(mechanism=Noised(needs=honest + 1), aggregation=aggregation)
        refused(
            PlanError,
            federation,
            plan,
            f"{honest + 1} honest",
            f"end with {honest}",
            "fewer contributors",
            "min_cohort=",
            "min_contributors=",
        )

    def test_random_cohorts_count_at_their_smallest(self, federation: Any, planned: Make) -> None:
        """Poisson cohorts smaller than expected go through, so their sums must carry enough noise as well."""
        aggregation = fp.SecureAggregation(corrupt=0.0, dropout=0.0, min_cohort=3)
        sampling = fp.PoissonSampling(0.9, max_cohort=8)
        assert aggregation.least_contributors(7) == 4
        plan = planned(mechanism=Noised(needs=4), aggregation=aggregation, sampling=sampling)
        refused(PlanError, federation, plan, "end with 3")
        planned(mechanism=Noised(needs=3), aggregation=aggregation, sampling=sampling).resolve(federation)


class TestPrivacy:
    def test_weights_that_depend_on_data_under_dp(self, federation: Any, planned: Make) -> None:
        refused(PlanError, federation, planned(mechanism=Noised(weighting="examples")), 'weighting="equal"')

    def test_central_gaussian_refuses_such_weights_itself(self) -> None:
        with pytest.raises(PlanError, match='weighting="equal"'):
            fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, weighting="examples")  # type: ignore[arg-type]

    @pytest.mark.parametrize("mechanism", [Noised(), fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0)])
    def test_sampling_that_no_accountant_models(self, mechanism: Any, federation: Any, planned: Make) -> None:
        plan = planned(mechanism=mechanism, sampling=Unmodelled())
        refused(PlanError, federation, plan, "accountant", "Unmodelled", "PoissonSampling")

    def test_such_a_sampling_is_free_without_dp(self, federation: Any, planned: Make) -> None:
        planned(sampling=Unmodelled()).resolve(federation)

    @pytest.mark.parametrize("aggregation", [fp.PlainSum(), fp.SecureAggregation()])
    def test_budget_against_a_server_that_sees_the_sum_before_the_noise(
        self, aggregation: Any, federation: Any, planned: Make
    ) -> None:
        budget = fp.Budget(epsilon=2.0, delta=1e-5, observer="server")
        plan = planned(mechanism=fp.CentralGaussian(clip_norm=1.0, target=budget), aggregation=aggregation)
        refused(BudgetUnreachable, federation, plan, "server", 'observer "public"')

    def test_budget_for_central_noise_when_the_authority_adds_it(self, federation: Any, planned: Make) -> None:
        budget = fp.Budget(epsilon=2.0, delta=1e-5, observer="server")
        mechanism = fp.CentralGaussian(clip_norm=1.0, target=budget, bits=16)
        resolved = planned(mechanism=mechanism, aggregation=fp.CKKS()).resolve(federation)
        assert resolved.spec.noise_multiplier > 0

    def test_delta_above_one_over_the_population(self, federation: Any, planned: Make) -> None:
        budget = fp.Budget(epsilon=2.0, delta=0.2, observer="public")
        refused(ConfigurationError, federation, planned(mechanism=fp.CentralGaussian(clip_norm=1.0, target=budget)))


class TestSampling:
    def test_poisson_over_a_ring_without_max_cohort(self, federation: Any, planned: Make) -> None:
        plan = planned(sampling=fp.PoissonSampling(0.7), aggregation=fp.SecureAggregation())
        refused(PlanError, federation, plan, "largest cohort", "max_cohort")
        planned(sampling=fp.PoissonSampling(0.7), aggregation=fp.PlainSum()).resolve(federation)
        planned(sampling=fp.PoissonSampling(0.7, max_cohort=7), aggregation=fp.SecureAggregation()).resolve(federation)

    def test_fixed_size_beyond_the_population(self, federation: Any, planned: Make) -> None:
        plan = planned(sampling=fp.FixedSizeSampling(9))
        refused(PlanError, federation, plan, "size 9 of 8", "FullParticipation")

    def test_largest_cohort_of_a_users_sampling_beyond_the_population(self, federation: Any, planned: Make) -> None:
        @dataclass(frozen=True)
        class Everyone(fp.FullParticipation):
            def largest(self, population: int) -> int:
                return population + 1

        refused(PlanError, federation, planned(sampling=Everyone()), "between 1 and 8", "Sample fewer")


class TestModel:
    def test_batchnorm_where_clipping_is_per_example(self, federation: Any, planned: Make) -> None:
        import torch

        def normed() -> torch.nn.Module:
            return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))

        plan = planned(model=normed, client=Untouchable(record_level=True))
        refused(PlanError, federation, plan, "BatchNorm1d", "GroupNorm")
        planned(model=normed).resolve(federation)  # per-client clipping does not mind

    def test_a_model_that_is_a_module_already(self, federation: Any, planned: Make) -> None:
        import torch

        refused(ConfigurationError, federation, planned(model=torch.nn.Linear(4, 3)), "callable")

    def test_an_empty_payload(self, federation: Any, planned: Make) -> None:
        @per_client
        class Silent:
            def payload(self, parameters: int) -> dict[str, int]:
                return {}

            def train_one(self, *_: Any) -> Any:
                raise TrainingBegan

        with pytest.raises(PlanError, match="at least one entry"):
            planned(client=Silent()).resolve(federation)


class TestRun:
    def test_a_resolved_plan_over_another_federation(self, federation: Any, federations: Any, planned: Make) -> None:
        resolved = planned().resolve(federation)
        with pytest.raises(PlanError, match="resolved for"):
            fp.run(federations(clients=8, seed=1), resolved, seed=0, progress=False)

    @pytest.mark.parametrize(
        "arguments", [{"seed": -1}, {"seed": 1.5}, {"seed": 0, "noise": "sedeed"}, {"seed": 0, "on_abort": "ignore"}]
    )
    def test_arguments_of_run(self, arguments: dict[str, Any], federation: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError):
            fp.run(federation, planned(client=Untouchable()), progress=False, **arguments)

    @pytest.mark.parametrize("every", [0, True, 1.5])
    def test_evaluate_every(self, every: Any, federation: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match="evaluate_every"):
            fp.run(federation, planned(client=Untouchable()), seed=0, evaluate_every=every)


def test_a_budget_against_a_party_that_the_protocol_does_not_have(federation: Any, planned: Any) -> None:
    target = fp.Budget(epsilon=2, delta=1e-3, observer="authority")
    plan = planned(mechanism=fp.CentralGaussian(clip_norm=1.0, target=target), aggregation=fp.SecureAggregation())
    with pytest.raises(PlanError, match=r"observer that the protocol has.*authority.*client, public, server"):
        plan.resolve(federation)
