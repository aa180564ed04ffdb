"""What an observer's view amounts to per record: noise that each client added to its own steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from fedpriv.errors import UnsupportedAccounting
from fedpriv.privacy.ledger.composition import Composition, Sampled
from fedpriv.privacy.ledger.event import GAUSSIAN, LedgerEvent
from fedpriv.privacy.ledger.exposed import ITSELF, NOTHING, RELEASED, Exposure
from fedpriv.threat import CLIENT, View


def of_records(events: Sequence[LedgerEvent], parties: frozenset[str], seen: frozenset[View]) -> Exposure:
    """What each record is exposed to: noise that its own client added to every step, before anything left it.

    It protects against everybody but that client, and nobody learns the batches, so every observer of anything that was
    released is charged alike: for the client's participations, each with all its steps at the batches' rate. How the
    cohort was drawn changes nothing. Other clients' noise in the same sum is not counted.
    """
    if not events:
        return Exposure(compositions=NOTHING, reason="nothing was released", participations=(0,))
    if not seen & RELEASED:
        reason = "the observer sees nothing that was released"
        return Exposure(compositions=NOTHING, reason=reason, participations=(0,))
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
    histories = _undominated({scope: (counts, took_part[scope]) for scope, counts in spent.items()}.values())
    return Exposure(
        compositions=tuple(composition for composition, _ in histories),
        reason="the noise is inside each update, and batches are known to their client only",
        participations=tuple(rounds for _, rounds in histories),
        amplified=any(rate < 1.0 for counts in spent.values() for _, rate in counts),
        local=True,
        each="round",
        caveat=ITSELF if CLIENT in parties else "",
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


def _undominated(
    spent: Iterable[tuple[Counter[tuple[float, float]], int]],
) -> tuple[tuple[Composition, int], ...]:
    """Each client's history and its rounds, without the histories that another client's contains."""
    rounds: dict[tuple[tuple[tuple[float, float], int], ...], int] = {}
    for counts, times in spent:
        history = tuple(sorted(counts.items()))
        rounds[history] = max(times, rounds.get(history, 0))
    kept: list[Counter[tuple[float, float]]] = []
    found = []
    for history in sorted(rounds, key=lambda c: -sum(n for _, n in c)):
        if any(all(other[kind] >= n for kind, n in history) for other in kept):
            continue
        kept.append(Counter(dict(history)))
        full = math.fsum(n * noise**-2.0 for (noise, rate), n in history if rate == 1.0)
        drawn = sorted(
            (Sampled(noise_multiplier=noise, kind="poisson", rate=rate, population=0), n)
            for (noise, rate), n in history
            if rate < 1.0
        )
        found.append((Composition(gaussian=full, sampled=tuple(drawn)), rounds[history]))
    return tuple(found)
