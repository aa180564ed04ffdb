"""A ledger's events as rows that explain themselves."""

from __future__ import annotations

import math
from typing import Any

from fedpriv.privacy.correlation import Correlation
from fedpriv.privacy.ledger.event import NON_PRIVATE, LedgerEvent, Response, fell_short
from fedpriv.privacy.mechanism import Share

COLUMNS = (
    "round",
    "step",
    "mechanism",
    "unit",
    "scope",
    "adjacency",
    "trust",
    "sampling",
    "rate",
    "clip_norm",
    "planned_noise_multiplier",
    "noise_multiplier",
    "planned_contributors",
    "contributors",
    "cohort",
    "noise_source",
    "count",
    "wrap",
    "words",
)
"""The columns of :attr:`Ledger.frame`: what an event says, rounds counted from 1 as in every table, the cohort as its
size, the bound of the probability that a planned sum wraps (NaN: it cannot), and a sentence."""


def row(event: LedgerEvent) -> dict[str, Any]:
    """One event, by column."""
    own = {name: getattr(event, name) for name in COLUMNS if hasattr(event, name)}
    return {
        **own,
        "round": event.round + 1,
        "sampling": event.sampling.kind if event.sampling else "unknown",
        "rate": event.sampling.rate if event.sampling else math.nan,
        "cohort": len(event.cohort),
        "wrap": event.detail.wrap if isinstance(event.detail, Share) else math.nan,
        "words": words(event),
    }


def words(event: LedgerEvent) -> str:
    """What happened, in a sentence."""
    if event.unit == "record":
        return (
            f"{event.scope} trained: {event.count} noisy step{'s' if event.count > 1 else ''}, its batches known to it "
            "alone"
        )
    text = f"{_noise(event)}, {_cohort(event)}"
    if not event.contributors:
        return text + ": nothing was released" + ("" if event.trust != "distributed" else ", yet charged as planned")
    if fell_short(event):
        text += (
            f"; NOISE SHORTFALL: σ is {event.noise_multiplier / event.planned_noise_multiplier:.0%} of the planned one"
        )
    return text


def _noise(event: LedgerEvent) -> str:
    detail = event.detail
    if event.mechanism == NON_PRIVATE or event.trust == "none":
        return "a sum without noise"
    if isinstance(detail, Response):
        return f"randomised answers, ε = {detail.epsilon:g} each, {detail.categories} categories"
    if isinstance(detail, Share):
        kind = "discrete Gaussian" if detail.kind == "discrete-gaussian" else "Skellam"
        if event.trust == "local" or not event.contributors:
            return f"{kind} noise of each client"
        return f"{kind} noise in the sum, {event.contributors} clients' shares for {event.planned_contributors} planned"
    if isinstance(detail, Correlation):
        return f"Gaussian noise after the sum, correlated over {detail.rounds} rounds ({detail.kind})"
    where = {"central": "after the sum", "local": "in each update"}.get(event.trust, event.trust)
    return f"{event.mechanism} noise {where}".capitalize()


def _cohort(event: LedgerEvent) -> str:
    size = len(event.cohort)
    if event.sampling is None:
        return f"a cohort of {size}"
    if event.sampling.kind == "min-separation":
        return f"the {size} clients whose turn it is"
    return f"all {size} clients" if event.sampling.kind == "none" else f"a drawn cohort of {size}"
