"""A plan meets a federation: every check before round 1, and everything that follows from the two."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedpriv.aggregation.protocol import Terms
from fedpriv.encoding import Domain, Ring, check_sum_bound
from fedpriv.engine.plan import Plan
from fedpriv.errors import EncodingOverflow, PlanError
from fedpriv.learning.paths import Path, choose
from fedpriv.privacy.budget import check_delta
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.mechanism import RoundSpec, Setting
from fedpriv.randomness import NoiseSource
from fedpriv.threat import CLIENT, PUBLIC, SERVER, ThreatModel, View, parties_of

if TYPE_CHECKING:
    import torch

    from fedpriv.data import Federation
    from fedpriv.learning.vector import Vector


_SAID: set[str] = set()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Resolved:
    """A plan that was checked against a federation, with all that follows from the two."""

    plan: Plan
    federation: Federation
    parameters: int
    """Coordinates of the model's parameter vector."""
    entries: Mapping[str, int]
    """The payload's entries, in the order in which they are flattened into one vector."""
    threat: ThreatModel
    """The protocol's views plus what the plan broadcasts and releases."""
    setting: Setting
    terms: Terms
    mechanism_state: Any
    spec: RoundSpec
    """Of round 0."""
    batching: Path
    """The way in which clients are trained."""
    fallback: str
    """Why no faster way was taken; empty where none was looked for, or the fastest was found."""

    def __repr__(self) -> str:
        plan = self.plan
        return (
            f"Resolved({self.federation.name}, {len(self.federation)} clients, {type(plan.aggregation).__name__}, "
            f"{type(plan.mechanism).__name__}, {self.parameters:,} parameters; .explain() says the rest)"
        )

    def explain(self) -> str:
        """Integers, bytes, seconds, threshold, σ, ε per observer, and who learns what, as text."""
        from fedpriv.engine.explain import explain

        return explain(self)

    def new_ledger(self) -> Ledger:
        """A ledger of this plan, still empty."""
        records = int(self.federation.sizes.min()) if getattr(self.plan.client, "record_level", False) else None
        return Ledger(
            threat=self.threat,
            population=self.setting.population,
            adjacency=self.setting.adjacency,
            records=records,
        )

    def initial(self, seed: int) -> Vector:
        """``[parameters] float32``: the model before round 0."""
        import numpy as np

        if self.plan.model is None:
            return np.zeros(self.parameters, dtype=np.float32)
        from fedpriv.learning.vector import flatten

        return flatten(self.module(seed))

    def module(self, seed: int = 0) -> torch.nn.Module:
        """A module of the plan's architecture, initialised from this seed."""
        from fedpriv.learning import models
        from fedpriv.randomness import Streams

        if self.plan.model is None:
            raise PlanError("A plan without a model has no module.", remedy="Read the mean instead.")
        federation = self.federation
        return models.build(
            self.plan.model, federation.shape, federation.classes, seed=Streams(seed).integer("initialisation")
        )


def resolve(plan: Plan, federation: Federation) -> Resolved:
    """See :meth:`Plan.resolve`."""
    population = len(federation)
    least, largest = _cohorts(plan, population)
    parameters, batching, fallback = _model(plan, federation)
    entries = dict(plan.client.payload(parameters))
    if not entries or any(size < 1 for size in entries.values()):
        raise PlanError(
            "A client's payload has at least one entry, each of at least one coordinate.",
            value=entries,
            remedy='Return {"delta": parameters} from payload().',
        )
    threat = _views(plan)
    _check_privacy(plan, threat, population)
    _check_records(plan, federation)
    # A random cohort is checked at its expected size, and at its largest; a draw that is refused aborts its round.
    expected = min(largest, max(least, math.floor(plan.sampling.expected(population))))
    for cohort in (expected, largest):
        plan.aggregation.least_contributors(cohort)
    sums = _possible_sums(plan, range(least, largest + 1))
    assumed = getattr(plan.mechanism, "corrupt", None)
    corrupt = threat.corrupt if assumed is None else assumed
    setting = Setting(
        length=sum(entries.values()),
        population=population,
        rounds=plan.rounds,
        sampling=plan.sampling,
        adjacency=plan.adjacency,
        threat=threat,
        largest_client=int(federation.sizes.max()),
        least_contributors=min(sums.values()),
        least_honest=max(0, min(sums[n] - math.ceil(corrupt * n - 1e-9) for n in sums)),
        min_cohort=_min_cohort(sums, largest),
    )
    _check_starvation(plan, setting)
    state = plan.mechanism.init(setting)
    spec = plan.mechanism.begin(state, 0)
    return Resolved(
        plan=plan,
        federation=federation,
        parameters=parameters,
        entries=entries,
        threat=threat,
        setting=setting,
        terms=_terms(plan, spec, largest, population),
        mechanism_state=state,
        spec=spec,
        batching=batching,
        fallback=fallback,
    )


def settled(resolved: Resolved, noise: NoiseSource) -> Resolved:
    """With nothing left open in the clients' algorithm: DP-SGD's target solved, its noise from the run's source."""
    plan = resolved.plan
    settle = getattr(plan.client, "settled", None)
    if settle is None:
        return resolved
    return replace(resolved, plan=replace(plan, client=settle(rounds=plan.rounds, noise=noise)))


def _cohorts(plan: Plan, population: int) -> tuple[int, int]:
    """The smallest cohort that can be drawn, but for nobody, and the largest."""
    check = getattr(plan.sampling, "check", None)
    if check is not None:  # turns may run out before the rounds do
        check(plan.rounds)
    largest = plan.sampling.largest(population)
    if not 1 <= largest <= population:
        raise PlanError(
            f"A cohort has between 1 and {population} clients.",
            value=largest,
            remedy="Sample fewer clients, or federate the data over more of them.",
        )
    return min(max(1, plan.sampling.least(population)), largest), largest


def _possible_sums(plan: Plan, cohorts: range) -> dict[int, int]:
    """Cohort → the fewest contributors of its sum, for every cohort that can be drawn and is not refused."""
    sums = {}
    for cohort in cohorts:
        with suppress(PlanError):
            sums[cohort] = plan.aggregation.least_contributors(cohort)
    return sums


def _min_cohort(sums: Mapping[int, int], largest: int) -> int:
    """From this size on no cohort is refused. Smaller draws may abort, which the accountant charges for."""
    smallest = largest
    while smallest - 1 in sums:
        smallest -= 1
    return smallest


def _model(plan: Plan, federation: Federation) -> tuple[int, Path, str]:
    """Coordinates of the model's vector, and what :func:`_path` says."""
    if plan.model is None:
        return math.prod(federation.shape), *_path(plan, None)
    from fedpriv.learning import models
    from fedpriv.learning.vector import flatten

    module = models.build(plan.model, federation.shape, federation.classes, seed=0)
    mixing = models.mixes_examples(module)
    if getattr(plan.client, "record_level", False) and mixing:
        raise PlanError(
            "Per-example clipping needs a model in which examples do not meet.",
            value=mixing,
            remedy=models.MIXING_REMEDY,
        )
    return int(flatten(module).size), *_path(plan, module)


def _path(plan: Plan, module: torch.nn.Module | None) -> tuple[Path, str]:
    """How clients are trained, and why not faster; a model that only the loop can train is said so once."""
    ask = getattr(plan.client, "path", None)
    if module is None or ask is None:
        if plan.batching in ("auto", "loop"):
            return "loop", ""
        raise PlanError(
            f'Under batching="{plan.batching}" the client\'s algorithm trains many clients at once.',
            value=type(plan.client).__name__,
            remedy='Use batching="auto", or give the algorithm a path() and a train() that takes batching.',
        )
    path: Path = ask(module, plan.batching)
    reason = choose(module, "auto").reason if plan.batching == "auto" and path != "stacked" else ""
    if reason and path == "loop" and reason not in _SAID:
        _SAID.add(reason)
        logging.getLogger("fedpriv").warning("Clients are trained one after the other: %s.", reason)
    return path, reason


def _views(plan: Plan) -> ThreatModel:
    """The protocol's views plus what the plan releases: to whom the sum goes, and whether it is noised by then."""
    protocol = plan.aggregation.threat_model
    released = View.EXACT_SUM if plan.mechanism.trust == "none" else View.NOISY_SUM
    told = {
        SERVER: frozenset({View.ROUND_MODELS, View.FINAL_MODEL, released}),
        CLIENT: frozenset({View.ROUND_MODELS, View.FINAL_MODEL}),
        PUBLIC: frozenset({View.FINAL_MODEL}),
    }
    invited = {SERVER: frozenset({View.COHORT, View.SURVIVORS})}  # whoever learns what, the server calls the cohort
    return protocol.with_views(
        {
            party: invited.get(party, frozenset()) | (views if party in protocol.informed else frozenset())
            for party, views in told.items()
        }
    )


def _check_privacy(plan: Plan, threat: ThreatModel, population: int) -> None:
    if plan.mechanism.trust == "none":
        return
    target = getattr(plan.mechanism, "target", None)
    if target is not None and not parties_of(target.observer) <= set(threat.learns):
        raise PlanError(
            "A budget names an observer that the protocol has.",
            value=str(target.observer),
            remedy=f"{type(plan.aggregation).__name__} has the parties {', '.join(sorted(threat.learns))}.",
        )
    if plan.mechanism.weighting == "examples":
        raise PlanError(
            "Under differential privacy weights are public constants, or capped inside the clipped vector.",
            value=plan.mechanism.weighting,
            remedy='Use weighting="equal", or Capped(...): an example count is private data.',
        )
    if plan.sampling.accounting(population) is None:
        raise PlanError(
            "Under differential privacy the accountant must model the sampling.",
            value=type(plan.sampling).__name__,
            remedy="Use FullParticipation, PoissonSampling or FixedSizeSampling, or return a SamplingRecord.",
        )


def _check_records(plan: Plan, federation: Federation) -> None:
    """Where records are protected one by one, nothing else may tell how many a client holds."""
    if not getattr(plan.client, "record_level", False):
        return
    if plan.mechanism.weighting != "equal":
        raise PlanError(
            "Where each record is protected, no client's weight is its number of records.",
            value=plan.mechanism.weighting,
            remedy='Give the mechanism weighting="equal", e.g. fp.NoDP(weighting="equal").',
        )
    target = getattr(plan.client, "target", None)
    if target is not None:
        check_delta(target.delta, int(federation.sizes.min()), "record")


def _check_starvation(plan: Plan, setting: Setting) -> None:
    """Noise shares that a permitted dropout or coalition can remove do not count."""
    needed = plan.mechanism.noise_contributors(setting)
    if needed is not None and needed > setting.least_honest:
        raise PlanError(
            f"The stated noise needs the shares of {needed} honest contributors.",
            value=f"a round can end with {setting.least_honest}",
            remedy="Plan the noise for fewer contributors, let a sum have more of them "
            "(SecureAggregation(min_cohort=...), KeyAuthority(min_contributors=...)), or permit less dropout and "
            "collusion.",
        )


def _terms(plan: Plan, spec: RoundSpec, cohort: int, population: int) -> Terms:
    """The domain of the sums: they fit, or count modulo what a ring divides."""
    record = plan.sampling.accounting(population)
    domain = _domain(plan, spec, cohort)
    if isinstance(domain, Ring) and record is not None and record.kind == "poisson" and record.max_cohort is None:
        raise PlanError(
            "Over a ring the largest cohort is fixed before the run.",
            value=plan.sampling,
            remedy="Give PoissonSampling a max_cohort; the accountant charges for the cut.",
        )
    return Terms(length=spec.length, input_bound=spec.input_bound, cohort=cohort, domain=domain)


def _domain(plan: Plan, spec: RoundSpec, cohort: int) -> Domain:
    """A ring that the modulus divides where the protocol has one; else integers that hold every sum.

    Whoever sees a sum beyond the modulus must not see in it which vectors wrapped by themselves.

    Raises:
        PlanError: a sum of what clients may send exceeds the domain.
    """
    sum_bound = spec.input_bound * cohort
    try:
        check_sum_bound(sum_bound)
    except EncodingOverflow as error:
        raise PlanError(error.rule, value=error.value, remedy=error.remedy) from error
    if spec.modulus_bits is not None:
        ring = plan.aggregation.domain(sum_bound=spec.input_bound - 1, length=spec.length, cohort=cohort)
        if ring == Ring(spec.modulus_bits):
            return ring
        _check_alone(plan, spec)
        if isinstance(ring, Ring) and ring.bits > spec.modulus_bits:
            return ring
    domain = plan.aggregation.domain(sum_bound=sum_bound, length=spec.length, cohort=cohort)
    if sum_bound > domain.largest:
        raise PlanError(
            f"Every sum of clients' encoded vectors fits into {domain.name}.",
            value=f"a sum can reach ±{sum_bound}",
            remedy="Use fewer bits, smaller weights or a smaller cohort.",
        )
    return domain


def _check_alone(plan: Plan, spec: RoundSpec) -> None:
    seen = plan.aggregation.threat_model.learns.values()
    sums_alone = any(View.EXACT_SUM in views and View.UPDATES not in views for views in seen)
    if plan.mechanism.trust == "distributed" and spec.limit is None and sums_alone:
        raise PlanError(
            "Where an exact sum is seen, no client's noisy vector wraps by itself: the sum would tell how many did.",
            value=f"a modulus of {spec.modulus_bits} bits",
            remedy="Use more tails (more room for the noise), or SecureAggregation, whose sums are of the modulus.",
        )
