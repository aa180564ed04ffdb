"""What an observer's view of a run amounts to, per client and per record, before any accountant is asked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedpriv.errors import ConfigurationError, UnsupportedAccounting
from fedpriv.privacy.ledger.accounting import Composition, Sampled
from fedpriv.privacy.ledger.event import GAUSSIAN, NON_PRIVATE, LedgerEvent, Unit
from fedpriv.privacy.mechanism import Adjacency
from fedpriv.privacy.sampling import SamplingRecord
from fedpriv.threat import CLIENT, Coalition, Observer, ThreatModel, View, parties_of

BEFORE_NOISE = frozenset({View.UPDATES, View.EXACT_SUM, View.GROUP_SUMS})
"""What central noise does not cover."""
RELEASED = BEFORE_NOISE | {View.NOISY_SUM, View.ROUND_MODELS, View.FINAL_MODEL}
"""What depends on clients' data. A final model is charged for every round that it was made from."""
MEMBERSHIP = frozenset({View.COHORT, View.SURVIVORS})
"""What tells who took part."""


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What the worst-placed client is exposed to.

    Args:
        compositions: for the accountant: the worst-placed client is among these; None where no bound exists (ε = ∞).
        participations: of the worst-placed client; None where the observer cannot tell.
        amplified: whether amplification by sampling is counted on.
        local: whether the noise is inside each update, so that no protocol is relied on.
        reason: why, in words.
    """

    compositions: tuple[Composition, ...] | None
    reason: str
    participations: int | None = None
    amplified: bool = False
    local: bool = False


def exposure(
    events: Sequence[LedgerEvent],
    *,
    threat: ThreatModel,
    observer: Observer,
    population: int,
    adjacency: Adjacency,
    unit: Unit = "client",
) -> Exposure:
    """Apply the rules, strongest first.

    Raises:
        ConfigurationError: an unknown observer, or a client outside the population.
        UnsupportedAccounting: an event that these rules and the accountants do not cover.
    """
    parties = parties_of(observer)
    if unit == "record":
        return _of_records(events, parties, threat.sees(observer))
    if events and all(event.unit == "record" for event in events):
        return Exposure(compositions=None, reason="noise hides single records here, not all that a client holds")
    events = [event for event in events if event.unit == "client"]
    if not events:
        return Exposure(compositions=(Composition(),), reason="nothing was released", participations=0)
    seen = threat.sees(observer)
    if adjacency == "add-remove" and seen & MEMBERSHIP:
        return Exposure(
            compositions=None,
            reason="the observer sees who takes part, so a client that joins or leaves is seen to do so; "
            "state zero-out adjacency, or hide the cohort",
        )
    if not seen & RELEASED:
        hidden = "only ciphertexts or masked vectors" if parties & threat.computational else "nothing that was released"
        return Exposure(compositions=(Composition(),), reason=f"the observer sees {hidden}", participations=0)
    exact = [event for event in events if event.mechanism == NON_PRIVATE or event.trust == "none"]
    if exact and seen & BEFORE_NOISE:
        # Also of a round that ended without a release: by then updates may have arrived, or a sum been opened, which
        # those who withheld their answers can do on their own.
        what = "single updates" if View.UPDATES in seen else "sums"
        return Exposure(compositions=None, reason=f"the observer sees {what}, and no noise was added")
    if any(event.contributors for event in exact):
        return Exposure(compositions=None, reason="a sum was released without noise")
    if seen & BEFORE_NOISE and any(event.trust == "central" for event in events):
        what = "single updates" if View.UPDATES in seen else "the sum before the noise"
        whoever_adds = "clients, who draw it" if threat.releaser == CLIENT else threat.releaser
        return Exposure(
            compositions=None,
            reason=f"the observer sees {what}; noise added after the sum protects the public, not the {whoever_adds}",
        )
    events = [event for event in events if event.mechanism != NON_PRIVATE]  # what is left of these released nothing
    for event in events:
        _check(event)
    return _compose(events, bool(seen & MEMBERSHIP), CLIENT in parties, population, adjacency)


def known_shares(observer: Observer, cohort: int) -> int:
    """How many clients' shares of the noise an observer knows: those of the clients that are part of it."""
    if isinstance(observer, Coalition):
        return math.ceil(observer.clients * cohort - 1e-9)
    return int(CLIENT in parties_of(observer))


def _check(event: LedgerEvent) -> None:
    if event.mechanism != GAUSSIAN or event.trust != "central":
        raise UnsupportedAccounting(
            "This ledger accounts Gaussian noise added centrally, per client.",
            value=f"{event.mechanism}, {event.trust}, per {event.unit}",
            remedy="Record such a release in a ledger of its own, with an accountant that models it.",
        )


def _compose(
    events: Sequence[LedgerEvent], cohort_seen: bool, participant: bool, population: int, adjacency: Adjacency
) -> Exposure:
    starved = any(_starved(event) for event in events)
    hidden = not cohort_seen and not starved
    sampled: Counter[Sampled] = Counter()
    anybody: Counter[float] = Counter()
    per_client: list[LedgerEvent] = []
    sizes_conditioned = False
    for event in events:
        record = event.sampling
        if hidden and record is not None and _amplifies(record, adjacency, participant):
            sampled[Sampled.of(event.noise_multiplier, record, adjacency, participant)] += event.count
        elif adjacency == "add-remove" and (record is None or record.kind != "none"):
            # A client that joins was in no cohort that was drawn: it is charged for all. One that leaves a limited
            # cohort makes room for another: twice the sensitivity.
            doubled = record is None or record.limited(adjacency)
            anybody[event.noise_multiplier / (2 if doubled else 1)] += event.count if event.contributors else 0
        else:
            per_client.append(event)
            sizes_conditioned |= record is None or record.kind != "none"
    counts, noises = _participations(per_client, population)
    cost = counts @ np.array([noise**-2.0 for noise in noises])
    worst = int(np.argmax(cost))
    in_full = math.fsum((float(cost[worst]), *(count * noise**-2.0 for noise, count in anybody.items())))
    composition = Composition(gaussian=in_full, sampled=tuple(sorted(sampled.items())))
    took_part = int(counts[worst].sum()) + sum(anybody.values())
    if sampled:
        reason = "the cohort is hidden from the observer, so sampling amplifies"
        if per_client or anybody:
            reason += f"; {took_part} releases count in full"
        return Exposure(compositions=(composition,), reason=reason, amplified=True)
    if anybody:
        reason = (
            f"no amplification theorem applies here; a client that joins or leaves may be in all {took_part} releases, "
            "and takes another's place where the cohort's size is limited"
        )
        return Exposure(compositions=(composition,), reason=reason)
    if cohort_seen:
        reason = f"the observer sees the cohort: no amplification; the worst-placed client took part in {took_part}"
    elif sizes_conditioned:
        why = "a round ended with too few survivors, which depends on who was drawn: " if starved else ""
        reason = (
            f"{why}no amplification theorem applies here, so the claim is conditional on the cohorts that were drawn, "
            f"as if the observer knew them; the worst-placed client took part in {took_part}"
        )
    else:
        reason = f"everybody takes part; the worst-placed client took part in {took_part}"
    reason += " release" if took_part == 1 else " releases"
    return Exposure(compositions=(composition,), reason=reason, participations=took_part)


def _starved(event: LedgerEvent) -> bool:
    """Whether a large enough cohort ended without a release: among whom it was too many dropped out."""
    record = event.sampling
    drawn = record is not None and record.rate < 1.0
    return drawn and not event.contributors and len(event.cohort) >= max(1, record.min_cohort if record else 0)


def _amplifies(record: SamplingRecord, adjacency: Adjacency, participant: bool) -> bool:
    """Poisson sampling: every adjacency. Without replacement: replace-one only (Wang et al. 2019, theorem 27).

    A participant knows whether it was drawn itself. Where the cohort's size is fixed, that tells of the others: given
    that it was not, each of them was drawn with a higher probability than the rate. (Cut Poisson: the accountant's.)
    """
    if record.rate == 1.0:
        return False
    return record.kind == "poisson" or (record.kind == "fixed-size" and adjacency == "replace-one" and not participant)


def _participations(events: Sequence[LedgerEvent], population: int) -> tuple[npt.NDArray[np.int64], tuple[float, ...]]:
    """``[population, k]``: how often each client took part at each of the k noise multipliers, which are sorted.

    Counted in integers and by sorted kind, so that neither the order of events nor their grouping changes a bit of ε.
    """
    noises = tuple(sorted({event.noise_multiplier for event in events}))
    column = {noise: index for index, noise in enumerate(noises)}
    counts = np.zeros((population, len(noises)), dtype=np.int64)
    for event in events:
        cohort = np.asarray(event.cohort if event.contributors else (), dtype=np.int64)
        if cohort.size and not 0 <= int(cohort.min()) <= int(cohort.max()) < population:
            raise ConfigurationError(
                f"A cohort's clients are 0 … {population - 1}.", value=int(cohort.max()), remedy="Check the population."
            )
        counts[cohort, column[event.noise_multiplier]] += event.count
    return counts, noises


def _of_records(events: Sequence[LedgerEvent], parties: frozenset[str], seen: frozenset[View]) -> Exposure:
    """What each record is exposed to: noise that its own client added to every step, before anything left it.

    It protects against everybody but that client, and nobody learns the batches, so every observer of anything that was
    released is charged alike: for the client's participations, each with all its steps at the batches' rate. How the
    cohort was drawn changes nothing. Other clients' noise in the same sum is not counted.
    """
    if not events:
        return Exposure(compositions=(Composition(),), reason="nothing was released", participations=0)
    if not seen & RELEASED:
        reason = "the observer sees nothing that was released"
        return Exposure(compositions=(Composition(),), reason=reason, participations=0)
    noised: dict[int, set[str]] = {}
    spent: dict[str, Counter[tuple[float, float]]] = {}
    took_part: Counter[str] = Counter()
    for event in events:
        if event.unit == "record":
            _check_record(event)
            noised.setdefault(event.round, set()).add(event.scope)
            assert event.sampling is not None  # _check_record
            rate = event.sampling.rate
            spent.setdefault(event.scope, Counter())[event.noise_multiplier, rate] += event.count
            took_part[event.scope] += 1
    if not spent:
        raise UnsupportedAccounting(
            "A statement per record needs events per record.",
            value="events per client only",
            remedy='Ask with unit="client", or clip and noise per example with DPSGD.',
        )
    bare = [e.round for e in events if e.unit == "client" and e.contributors > len(noised.get(e.round, ()))]
    if bare:
        reason = f"in round {bare[0] + 1} clients contributed whose records were not clipped and noised one by one"
        return Exposure(compositions=None, reason=reason)
    most = max(took_part.values())
    reason = (
        f"the noise is inside each update, and batches are known to their client only; the worst-placed client took "
        f"part in {most} round{'s' if most > 1 else ''}"
    )
    if CLIENT in parties:
        reason += "; a client that is part of the observer is not protected from itself"
    return Exposure(
        compositions=_undominated(spent.values()),
        reason=reason,
        participations=most,
        amplified=any(rate < 1.0 for counts in spent.values() for _, rate in counts),
        local=True,
    )


def _check_record(event: LedgerEvent) -> None:
    record = event.sampling
    plain = record is not None and record.kind == "poisson" and not record.max_cohort and not record.min_cohort
    if event.mechanism != GAUSSIAN or event.trust != "local" or not plain:
        raise UnsupportedAccounting(
            "Per record this ledger accounts Gaussian noise added by the client to every step, on Poisson batches.",
            value=f"{event.mechanism}, {event.trust}, {record.kind if record else 'no sampling'}",
            remedy="Record such steps in a ledger of its own, with an accountant that models them.",
        )


def _undominated(spent: Iterable[Counter[tuple[float, float]]]) -> tuple[Composition, ...]:
    """One composition for each client's history, without those that another client's contains."""
    kept: list[Counter[tuple[float, float]]] = []
    for counts in sorted({tuple(sorted(c.items())) for c in spent}, key=lambda c: -sum(n for _, n in c)):
        if not any(all(other[kind] >= n for kind, n in counts) for other in kept):
            kept.append(Counter(dict(counts)))
    return tuple(
        Composition(
            gaussian=math.fsum(n * noise**-2.0 for (noise, rate), n in sorted(counts.items()) if rate == 1.0),
            sampled=tuple(
                sorted(
                    (Sampled(noise_multiplier=noise, kind="poisson", rate=rate, population=0), n)
                    for (noise, rate), n in counts.items()
                    if rate < 1.0
                )
            ),
        )
        for counts in kept
    )
