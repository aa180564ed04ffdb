"""What a resolved plan will do, cost and reveal, said before it runs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from dataclasses import replace

from fedpriv.encoding import Ring
from fedpriv.engine.context import serialise
from fedpriv.engine.resolution import Resolved, settled
from fedpriv.errors import PrivacyError
from fedpriv.network import StageCost
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.mechanism import Outcome, RoundSpec, Trust, Unit
from fedpriv.randomness import Streams
from fedpriv.threat import AUTHORITY, CLIENT, PUBLIC, SERVER, Coalition, Observer, ThreatModel, View

WIDTH = 118
"""Columns of the text; longer lines go on under their own words."""
OBSERVERS: tuple[str, ...] = ("server", "participant", "public")


def observers_of(threat: ThreatModel) -> tuple[str, ...]:
    """The single observers that a plan has: an authority only where the protocol has one."""
    return (*OBSERVERS, "authority") if AUTHORITY in threat.learns else OBSERVERS


def planned_ledger(resolved: Resolved) -> Ledger:
    """The ledger of a run in which every client takes part whenever it can: an upper bound for every observer.

    As few contribute to each sum as can without an abort, so that noise made of their shares is no less than planned.
    Unless a round ends with too few survivors: then the run's own ledger claims no amplification.
    """
    setting, mechanism = resolved.setting, resolved.plan.mechanism
    ledger = resolved.new_ledger()
    state = resolved.mechanism_state
    for round in range(setting.rounds):
        spec = mechanism.begin(state, round)
        whoever = _whoever_can(resolved, round)
        outcome = Outcome(cohort=whoever, contributors=whoever[: setting.least_contributors], noise="os")
        for event in mechanism.events(spec, outcome):
            ledger.append(event)
    return ledger


def _whoever_can(resolved: Resolved, round: int) -> tuple[int, ...]:
    """Everybody; where participation has a public schedule, those whose turn it is."""
    record, population = resolved.setting.sampling_record(), resolved.setting.population
    if record is not None and record.kind == "min-separation":
        return resolved.plan.sampling.cohort(Streams(0).generator("sampling", round), population, round)
    return tuple(range(population))


def planned_record_ledger(resolved: Resolved) -> Ledger | None:
    """The records of a client that takes part in every round; None where the plan does not protect single records."""
    client = settled(resolved, "os").plan.client
    participation = getattr(client, "participation", None)
    if participation is None:
        return None
    ledger = resolved.new_ledger()
    for round in range(resolved.plan.rounds):
        ledger.append(replace(participation(0), round=round))
    return ledger


def planned_epsilon(resolved: Resolved, delta: float, observer: Observer) -> float:
    """ε that the plan amounts to at most, against one observer."""
    return planned_ledger(resolved).epsilon(delta, observer=observer)


def delta_of(resolved: Resolved, unit: Unit = "client") -> float:
    """The δ of the plan's budget; without one a tenth of 1 / population (of the smallest client), at most 1e-5."""
    part = resolved.plan.mechanism if unit == "client" else resolved.plan.client
    target = getattr(part, "target", None)
    units = resolved.setting.population if unit == "client" else int(resolved.federation.sizes.min())
    return float(target.delta) if target is not None else min(1e-5, 0.1 / units)


def explain(resolved: Resolved) -> str:
    """See :meth:`Resolved.explain`."""
    plan, federation, terms, spec = resolved.plan, resolved.federation, resolved.terms, resolved.spec
    sizes = federation.sizes
    name = "no model" if plan.model is None else getattr(plan.model, "__name__", type(plan.model).__name__)
    cohort = plan.sampling.expected(len(federation))
    lines = [
        f"Federation   {federation.name}: {len(federation)} clients with {sizes.min()} to {sizes.max()} examples, "
        f"{federation.classes} classes",
        f"Plan         {plan.rounds} rounds, {cohort:g} clients expected in each, at most {terms.cohort}; {name}, "
        f"{resolved.parameters:,} parameters",
        *_training(resolved),
        f"Integers     {terms.length:,} coordinates on a grid of {spec.codec.step:.3g}, |input| ≤ "
        f"{terms.input_bound:,}; sums: {_sums(resolved)}",
        f"Aggregation  {_name(plan.aggregation)}: {_threshold(resolved)}",
        *_costs(resolved),
        *_privacy(resolved),
        *_record_privacy(resolved),
        *(f"Unaccounted  {note}" for note in federation.notes),
        "Who learns what",
        *(f"  {party:<12} {views}" for party, views in learns(resolved.threat, plan.mechanism.trust).items()),
        *(f"Assumes      {assumption}" for assumption in resolved.threat.assumptions),
        f"Reference    {resolved.threat.reference}",
    ]
    return "\n".join(map(_wrapped, lines))


def _training(resolved: Resolved) -> Iterable[str]:
    if resolved.plan.model is None:
        return
    how = {"loop": "one client after the other", "vmap": "many at once, by vmap", "stacked": "many at once, stacked"}
    yield f"Training     {how[resolved.batching]}" + (f": {resolved.fallback}" if resolved.fallback else "")


_NOISY = {View.UPDATES: "noisy updates", View.GROUP_SUMS: "noisy group sums", View.EXACT_SUM: "noisy sum"}
"""Views where clients' own noise is in all that they send."""


def learns(threat: ThreatModel, trust: Trust = "none") -> dict[str, str]:
    """Party → its views as text; ``(computational)`` where something is hidden from it by computation only.

    Args:
        threat: whose views.
        trust: where noise is added; a sum or an update that has it from its clients already is called noisy.
    """
    named = {view: view.value.replace("_", " ") for view in View}
    if trust in ("distributed", "local"):
        named |= _NOISY
    order = [SERVER, CLIENT, AUTHORITY, *sorted(set(threat.learns) - {SERVER, CLIENT, AUTHORITY, PUBLIC}), PUBLIC]
    return {
        party: (", ".join(sorted({named[view] for view in threat.learns[party]})) or "nothing")
        + (" (computational)" if party in threat.computational else "")
        for party in order
        if party in threat.learns
    }


def _wrapped(line: str) -> str:
    indent = 15 if line.startswith("  ") else 13  # where the words of a line begin
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def _name(part: object) -> str:
    return type(part).__name__


def _threshold(resolved: Resolved) -> str:
    threat, cohort = resolved.threat, resolved.terms.cohort
    least = resolved.plan.aggregation.least_contributors(cohort)
    colluding = "any clients may collude"
    if threat.corrupt < 1:
        share = f"{100 * threat.corrupt:.3g}% of the clients"
        colluding = f"up to {share} may collude" if threat.corrupt else "nobody colludes"
    holder = "each client" if threat.releaser == CLIENT else threat.releaser
    return (
        f"{threat.adversary}, {colluding}; a cohort of {cohort} gives a sum of at least {least} or none; "
        f"{holder} holds the sum"
    )


def _costs(resolved: Resolved) -> Iterable[str]:
    cohort = resolved.terms.cohort
    rows = resolved.plan.aggregation.estimate(resolved.terms, cohort)
    clients = [row for row in rows if row.role == CLIENT]
    besides = f"besides the model of {_bytes(_broadcast_bytes(resolved))}"
    if SERVER not in resolved.threat.informed:
        besides = f"after the first model of {_bytes(_broadcast_bytes(resolved))}, and later what it missed"
    yield (
        f"Cost         a client sends {_bytes(sum(row.bytes_sent for row in clients) / cohort)} and receives "
        f"{_bytes(sum(row.bytes_received for row in clients) / cohort)} a round, {besides}; "
        f"{_seconds(clients, cohort)} of its processor"
    )
    for role in sorted({row.role for row in rows} - {CLIENT}):
        yield f"             {role}: {_seconds([row for row in rows if row.role == role], 1)} a round, modelled"


def _sums(resolved: Resolved) -> str:
    """The domain of the sums, and the modulus unless it says that already."""
    domain, bits = resolved.terms.domain, resolved.spec.modulus_bits
    if bits is None:
        return f"{domain.name}, none wraps"
    return domain.name if domain == Ring(bits) else f"{domain.name}, counted modulo 2^{bits}"


def _broadcast_bytes(resolved: Resolved) -> int:
    server = resolved.plan.server
    return len(serialise(server.broadcast(server.init(resolved.initial(0)))))


def _privacy(resolved: Resolved) -> Iterable[str]:
    plan, spec = resolved.plan, resolved.spec
    if plan.mechanism.trust == "none":
        yield f"Privacy      {_name(plan.mechanism)}: no noise; ε = ∞ against every observer of a sum or a model"
        return
    yield f"Privacy      {_name(plan.mechanism)}: {_noise(spec, plan.mechanism.trust)}"
    if spec.share is not None:
        honest = spec.planned_contributors
        yield (
            f"             made of clients' shares: {spec.share.kind.replace('-', ' ')} noise of σ = "
            f"{math.sqrt(spec.share.variance):.4g} grid steps on each of {spec.share.dimension:,} coordinates, enough "
            f"with {honest} honest contributor{'s' if honest > 1 else ''}; a sum wraps with probability ≤ "
            f"{spec.share.wrap:.2g}"
        )
        yield from _slack(resolved)
    ledger, delta = planned_ledger(resolved), delta_of(resolved)
    observers: list[Observer] = [*observers_of(resolved.threat), *_coalitions(resolved)]
    for observer in observers:
        name = "coalition" if isinstance(observer, Coalition) else observer
        try:
            yield f"  {name:<12} {ledger.statement(delta, observer=observer)}"
        except PrivacyError as error:
            yield f"  {name:<12} no statement: {error}"


def _slack(resolved: Resolved) -> Iterable[str]:
    """Why an observer can read less than the budget that was made for it."""
    target = getattr(resolved.plan.mechanism, "target", None)
    honest, least = resolved.spec.planned_contributors, resolved.setting.least_contributors
    if target is not None and honest < least:
        yield (
            f"             the budget ε = {target.epsilon:g} at δ = {target.delta:g} against the {target.observer} is "
            f"met by the noise of the fewest honest contributors, {honest}; the smallest "
            f"sum has {least}, and an observer that knows none of their shares reads less"
        )


def _coalitions(resolved: Resolved) -> tuple[Coalition, ...]:
    """The server with as many clients as the plan counts on to be dishonest, where noise is made of their shares."""
    spec, threat = resolved.spec, resolved.threat
    clients = threat.corrupt if spec.corrupt is None else min(spec.corrupt, threat.corrupt)
    return (Coalition(server=True, clients=clients),) if spec.share is not None and 0.0 < clients < 1.0 else ()


def _noise(spec: RoundSpec, trust: Trust) -> str:
    """What hides a client, and where it is added."""
    if spec.response is not None:
        kinds = spec.response.categories
        return (
            f"each client's answer, one of {kinds}, is the truth or another at ε = {spec.response.epsilon:.4g}, local"
        )
    clip = spec.update_norm or 0.0
    adapts = ", which adapts by a bit inside the same noise" if spec.adapted is not None else ""
    where = "on each update" if trust == "local" else "on the sum"
    over = ", taken back in part by later rounds" if spec.correlation is not None else ""
    return (
        f"clip norm {clip:g}{adapts}, noise multiplier {spec.noise_multiplier:.4g}, "
        f"σ = {spec.noise_multiplier * (spec.clip_norm or 0.0):.4g} {where}{over}, {trust}"
    )


def _record_privacy(resolved: Resolved) -> Iterable[str]:
    ledger = planned_record_ledger(resolved)
    if ledger is None:
        return
    event = ledger.events[0]
    rate = event.sampling.rate if event.sampling else 1.0
    yield (
        f"Per record   {_name(resolved.plan.client)}: clip norm {event.clip_norm:g}, noise multiplier "
        f"{event.noise_multiplier:.4g}, {event.count} steps a round on batches drawn at rate {rate:g}, local; for a "
        "client that takes part in every round"
    )
    delta = delta_of(resolved, "record")
    for observer in observers_of(resolved.threat):
        yield f"  {observer:<12} {ledger.statement(delta, observer=observer, unit='record')}"


def _seconds(rows: Iterable[StageCost], parties: int) -> str:
    return f"{sum(row.cpu_seconds for row in rows) / parties:.3g} s"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
