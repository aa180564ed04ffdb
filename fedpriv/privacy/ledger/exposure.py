"""What an observer's view of a run amounts to, per client and per record, before any accountant is asked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fedpriv.errors import UnsupportedAccounting
from fedpriv.privacy.correlation import Correlation
from fedpriv.privacy.ledger.composition import Sampled
from fedpriv.privacy.ledger.curves import Shares
from fedpriv.privacy.ledger.event import GAUSSIAN, NON_PRIVATE, RANDOMIZED_RESPONSE, LedgerEvent, Response, fell_short
from fedpriv.privacy.ledger.exposed import BEFORE_NOISE, ITSELF, MEMBERSHIP, NOTHING, RELEASED, Exposure
from fedpriv.privacy.ledger.participation import Charge, Correlated, worst_placed
from fedpriv.privacy.ledger.records import of_records
from fedpriv.privacy.mechanism import Adjacency, Share, Unit
from fedpriv.privacy.sampling import SamplingRecord
from fedpriv.threat import CLIENT, Coalition, Observer, ThreatModel, View, parties_of


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
        return of_records(events, parties, threat.sees(observer))
    if events and all(event.unit == "record" for event in events):
        return Exposure(compositions=None, reason="noise hides single records here, not all that a client holds")
    events = [event for event in events if event.unit == "client"]
    if not events:
        return Exposure(compositions=NOTHING, reason="nothing was released", participations=(0,))
    seen = threat.sees(observer)
    if adjacency == "add-remove" and seen & MEMBERSHIP:
        return Exposure(
            compositions=None,
            reason="the observer sees who takes part, so a client that joins or leaves is seen to do so; "
            "state zero-out adjacency, or hide the cohort",
        )
    if not seen & RELEASED:
        hidden = "only ciphertexts or masked vectors" if parties & threat.computational else "nothing that was released"
        return Exposure(compositions=NOTHING, reason=f"the observer sees {hidden}", participations=(0,))
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
        _check(event, adjacency)
        if adjacency == "add-remove" and not event.contributors and len(event.cohort) >= _least(event):
            return Exposure(
                compositions=None,
                reason=f"in round {event.round + 1} too few clients were left for a release, which a client that joins "
                "or leaves may decide",
            )
    if View.GROUP_SUMS in seen and View.UPDATES not in seen and any(event.trust == "distributed" for event in events):
        raise UnsupportedAccounting(
            "How many shares of the noise are in a group's sum is not recorded.",
            value="noise in clients' shares, and an observer who sees the sums of groups",
            remedy="Name an observer who sees the sum of all, or sum in one group.",
        )
    honest = [_honest(event, observer, threat, View.UPDATES in seen) for event in events]
    for event, count in zip(events, honest, strict=True):
        if count is not None and count < 1:
            reason = f"in round {event.round + 1} the observer knows every share of the noise"
            return Exposure(compositions=None, reason=reason)
    return _compose(events, honest, seen, CLIENT in parties, population, adjacency)


def known_shares(observer: Observer, cohort: int) -> int:
    """How many clients' shares of the noise an observer knows: those of the clients that are part of it."""
    if isinstance(observer, Coalition):
        return max(math.ceil(observer.clients * cohort - 1e-9), int(observer.clients > 0))
    return int(CLIENT in parties_of(observer))


def _honest(event: LedgerEvent, observer: Observer, threat: ThreatModel, updates: bool) -> int | None:
    """How many clients' shares of the noise hide a client from the observer; None where noise is not in shares.

    A single update is under its own client's alone. Of a round that was aborted the planned shares count, which leave
    out the corrupt clients already.
    """
    if not isinstance(event.detail, Share) or not event.cohort:
        return None
    if updates or event.trust == "local":
        return 1
    known = known_shares(observer, len(event.cohort))
    if event.contributors:
        return event.contributors - known
    corrupt = threat.corrupt if event.corrupt is None else event.corrupt
    return event.planned_contributors - max(0, known - math.ceil(corrupt * len(event.cohort) - 1e-9))


def _check(event: LedgerEvent, adjacency: Adjacency) -> None:
    detail, local = event.detail, event.trust == "local"
    known = {
        GAUSSIAN: (local and detail is None) or (event.trust == "central" and not isinstance(detail, Share | Response)),
        RANDOMIZED_RESPONSE: local and isinstance(detail, Response),
    }
    if isinstance(detail, Share):
        known[detail.kind] = local or event.trust == "distributed"
    if not known.get(event.mechanism):
        raise UnsupportedAccounting(
            "Per client this ledger accounts Gaussian noise (central, local), discrete Gaussian and Skellam noise in "
            "clients' shares (distributed, local; with the share as detail) and randomised response (local; likewise).",
            value=f"{event.mechanism}, {event.trust}, {type(detail).__name__ if detail else 'no detail'}",
            remedy="Record such a release in a ledger of its own, with an accountant that models it.",
        )
    if event.mechanism == RANDOMIZED_RESPONSE and adjacency != "replace-one":
        raise UnsupportedAccounting(
            "A randomised response hides which answer is true, so neighbours differ in one client's answer.",
            value=adjacency,
            remedy='Use adjacency="replace-one".',
        )
    if event.trust != "central" and adjacency == "add-remove":
        raise UnsupportedAccounting(
            "A client that joins or leaves brings or takes its noise with it, which no accountant models.",
            value=f"{event.trust} noise, {adjacency}",
            remedy='Use adjacency="zero-out" or "replace-one".',
        )


def _compose(
    events: Sequence[LedgerEvent],
    honest: Sequence[int | None],
    seen: frozenset[View],
    participant: bool,
    population: int,
    adjacency: Adjacency,
) -> Exposure:
    """The worst-placed client's composition.

    Central noise is amplified where a theorem says so. A client that is drawn brings its own noise with it, so for
    noise inside updates or their sum no such theorem holds: it is charged in full, in aborted rounds too.
    """
    cohort_seen = bool(seen & MEMBERSHIP)
    starved = any(_starved(event) for event in events)
    hidden = not cohort_seen and not starved
    sampled: Counter[Sampled] = Counter()
    anybody: Counter[float] = Counter()
    charges: list[Charge] = []
    drawn = False
    for event, shares in zip(events, honest, strict=True):
        record, central = event.sampling, event.trust == "central"
        noise = _noise(event, shares)
        if isinstance(noise, float) and central and hidden and record and _amplifies(record, adjacency, participant):
            sampled[Sampled.of(noise, record, adjacency, participant)] += event.count
        elif adjacency == "add-remove" and (record is None or record.drawn):
            # A client that joins was in no cohort that was drawn: it is charged for all. One that leaves a limited
            # cohort makes room for another: twice the sensitivity.
            factor = 2 if record is None or record.limited(adjacency) else 1
            if isinstance(noise, Correlated):
                noise = replace(noise, noise_multiplier=noise.noise_multiplier / factor)
                anyone = range(population if event.contributors else 0)
                charges.append(Charge(noise=noise, cohort=anyone, count=event.count))
                drawn = True
            elif isinstance(noise, float):
                anybody[noise / factor] += event.count if event.contributors else 0
        else:
            cohort = event.cohort if event.contributors or not central else ()
            charges.append(Charge(noise=noise, cohort=cohort, count=event.count))
            drawn |= record is None or record.drawn
    placed = worst_placed(charges, population, adjacency)
    common = [count * noise**-2.0 for noise, count in anybody.items()]
    compositions = tuple(
        replace(
            client.composition,
            gaussian=math.fsum((client.composition.gaussian, *common)),
            sampled=tuple(sorted(sampled.items())),
        )
        for client in placed
    )
    times = tuple(client.participations for client in placed)
    in_full = max(times) + sum(anybody.values())
    inside, noise_levels = _inside(events, honest, seen), _levels(events, honest)
    found = Exposure(
        compositions=compositions,
        reason="",
        local=bool(events) and all(event.trust == "local" for event in events),
        caveat=("" if View.UPDATES in seen else _shortfall(events, noise_levels))
        + ("" if not inside or not participant else ITSELF),
        noise=min(((planned, achieved) for planned, achieved, _ in noise_levels), key=_share_of_plan, default=None),
    )
    if sampled:
        reason = f"{inside}the cohort is hidden from the observer, so sampling amplifies, whichever cohorts were drawn"
        if charges or anybody:
            reason += f"; {in_full} releases count in full"
        return replace(found, reason=reason, amplified=True)
    if anybody:
        reason = (
            f"no amplification theorem applies here; a client that joins or leaves may be in all {in_full} releases, "
            "and takes another's place where the cohort's size is limited"
        )
        return replace(found, reason=reason)
    if cohort_seen:
        reason = f"{inside}the observer sees the cohort: no amplification"
        if drawn:
            reason += ", and the claim is conditional on the cohorts that were drawn"
    elif drawn:
        why = "a round ended with too few survivors, which depends on who was drawn: " if starved else ""
        reason = (
            f"{inside}{why}no amplification theorem applies here, so the claim is conditional on the cohorts that were "
            "drawn, as if the observer knew them"
        )
    elif any(event.sampling is not None and event.sampling.kind == "min-separation" for event in events):
        reason = f"{inside}clients take turns, which are public"
    else:
        reason = f"{inside}everybody takes part"
    return replace(found, reason=reason, participations=times)


def _noise(event: LedgerEvent, shares: int | None) -> float | Shares | Response | Correlated:
    """What a client of the cohort is under."""
    if isinstance(event.detail, Response):
        return event.detail
    if isinstance(event.detail, Share):
        return Shares.of(event.detail, shares or 1)  # none: nobody was in the cohort
    if isinstance(event.detail, Correlation):
        return Correlated(correlation=event.detail, noise_multiplier=float(event.noise_multiplier), round=event.round)
    return float(event.noise_multiplier)


def _inside(events: Sequence[LedgerEvent], honest: Sequence[int | None], seen: frozenset[View]) -> str:
    """Words on noise that is in the sum, or in the updates, before anybody sees them."""
    shares = [count for event, count in zip(events, honest, strict=True) if count and event.trust == "distributed"]
    words = ""
    if shares and View.UPDATES in seen:
        words += "the observer sees single updates, each under its own client's share of the noise; "
    elif shares:
        words += f"the noise is inside the sum, {min(shares)} or more clients' shares of it unknown to the observer; "
    if any(event.trust == "local" for event in events):
        words += "the noise is inside each update, and only its own client's counts; "
    return words


def _levels(events: Sequence[LedgerEvent], honest: Sequence[int | None]) -> list[tuple[float, float, int]]:
    """Noise multipliers of what was released: planned, achieved against the observer, and how often."""
    levels = []
    for event, shares in zip(events, honest, strict=True):
        if event.contributors and event.planned_noise_multiplier:
            share = 1.0 if shares is None else math.sqrt(shares / event.contributors)
            levels.append((event.planned_noise_multiplier, event.noise_multiplier * share, event.count))
    return levels


def _share_of_plan(level: tuple[float, float]) -> float:
    return level[1] / level[0]


def _shortfall(events: Sequence[LedgerEvent], levels: Sequence[tuple[float, float, int]]) -> str:
    """Words on noise below the planned one: less of it came, or the observer knows shares that the plan counts on."""
    short = [level for level in levels if level[1] < level[0] * (1.0 - 1e-9)]
    if not short:
        return ""
    planned, achieved = min(((planned, achieved) for planned, achieved, _ in short), key=_share_of_plan)
    down = f"σ = {achieved:.4g} instead of {planned:.4g} times the clip norm"
    lost = sum(event.count for event in events if fell_short(event))
    if not lost:
        return f"; the plan counts on shares that this observer knows, which leaves {down}"
    return (
        f"; NOISE SHORTFALL: in {lost} of {sum(level[2] for level in levels)} releases the noise fell below the "
        f"planned one, and what counts against this observer down to {down}"
    )


def _starved(event: LedgerEvent) -> bool:
    """Whether a large enough cohort ended without a release: among whom it was too many dropped out."""
    drawn = event.sampling is not None and event.sampling.rate < 1.0
    return drawn and not event.contributors and len(event.cohort) >= _least(event)


def _least(event: LedgerEvent) -> int:
    """From this size on a cohort is not too small by itself."""
    return max(1, event.sampling.min_cohort if event.sampling else 0)


def _amplifies(record: SamplingRecord, adjacency: Adjacency, participant: bool) -> bool:
    """Poisson sampling: every adjacency. Without replacement: replace-one only (Wang et al. 2019, theorem 27).

    A participant knows whether it was drawn itself. Where the cohort's size is fixed, that tells of the others: given
    that it was not, each of them was drawn with a higher probability than the rate. (Cut Poisson: the accountant's.)
    """
    if record.rate == 1.0:
        return False
    return record.kind == "poisson" or (record.kind == "fixed-size" and adjacency == "replace-one" and not participant)
