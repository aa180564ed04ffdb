"""Graph and threshold, from what the description permits. Every client derives them by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Literal, TypeAlias

from fedpriv.aggregation.secagg.graph import regular_graph
from fedpriv.errors import PlanError
from fedpriv.network import StageCost
from fedpriv.threat import CLIENT, Adversary

GraphKind: TypeAlias = Literal["complete", "regular"]

WORTHWHILE = 200
"""From this many invited clients on, ``graph="auto"`` takes the regular graph, if its degree is below n / 2. Below, the
masks that it would save cost less than the openings, the certain threshold and the losses that it would give up."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What holds in one attempt. It depends on the number of *invited* clients and never shrinks with survivor sets."""

    participants: int
    """n: the clients invited."""
    corrupt: int
    """c = ⌈corrupt · n⌉: the clients that may collude with the server."""
    dropouts: int
    """f = ⌈dropout · n⌉: the losses that the attempt survives; surely on the complete graph."""
    graph: GraphKind
    """Who shares masks and keys with whom."""
    degree: int
    """k: the neighbours of each client; n − 1 on the complete graph."""
    threshold: int
    """t: shares that open a secret; of all clients on the complete graph, of k neighbours on a regular one."""
    least: int
    """The least number of clients in a sum: the larger of min_cohort and t (complete) or n − f (regular)."""
    min_cohort: int
    """The smallest cohort, as described."""
    privacy_failure: float = field(default=0.0, compare=False)
    """A bound on the probability, over the graph, that c corrupt clients and f losses expose a client."""
    correctness_failure: float = field(default=0.0, compare=False)
    """A bound on the probability, over the graph, that f losses end the attempt."""
    costs: tuple[StageCost, ...] = field(default=(), compare=False, repr=False)
    """Messages, bytes and modelled seconds of each stage, where a length was given."""

    def canonical(self) -> bytes:
        """What the transcript covers."""
        settled = (self.participants, self.corrupt, self.dropouts, self.graph, self.degree, self.threshold)
        return repr((*settled, self.least, self.min_cohort)).encode()

    @property
    def client_bytes(self) -> tuple[float, float]:
        """Bytes that one client sends and receives in an attempt without losses; from :attr:`costs`."""
        rows = [row for row in self.costs if row.role == CLIENT]
        return sum(row.bytes_sent / row.parties for row in rows), sum(row.bytes_received / row.parties for row in rows)

    def seconds(self, role: str) -> float:
        """CPU seconds of one client, or of the server, in an attempt without losses; from :attr:`costs`."""
        return sum(row.cpu_seconds / row.parties for row in self.costs if row.role == role)


@lru_cache(maxsize=256)
def parameters(
    participants: int,
    *,
    corrupt: float,
    dropout: float,
    min_cohort: int,
    adversary: Adversary = "honest-but-curious",
    graph: Literal["auto", "complete", "regular"] = "auto",
) -> Parameters:
    """Graph, degree and threshold for this number of invited clients.

    Complete: t = min(⌊(n + c) / 2⌋ + 1, n − f), with t > c, t − c ≥ 2 and t ≥ 2; against a malicious server
    2t > n + c without exception. Regular: k and t of :func:`fedpriv.aggregation.secagg.graph.regular_graph`.

    Raises:
        PlanError: no threshold keeps c corrupt clients out and bears f losses.
    """
    n = participants
    if n < min_cohort:
        raise PlanError(
            f"A cohort has at least min_cohort = {min_cohort} clients.",
            value=n,
            remedy="Invite more clients, or lower min_cohort.",
        )
    c, f = _ceil(corrupt, n), _ceil(dropout, n)
    if graph == "regular":
        return _regular(n, c, f, min_cohort)
    if graph == "auto" and adversary == "honest-but-curious" and n >= WORTHWHILE:
        try:
            found = _regular(n, c, f, min_cohort)
        except PlanError:
            return _complete(n, c, f, min_cohort, adversary)
        if 2 * found.degree < n:
            return found
    return _complete(n, c, f, min_cohort, adversary)


def _complete(n: int, c: int, f: int, min_cohort: int, adversary: Adversary) -> Parameters:
    consistent = (n + c) // 2 + 1
    if adversary == "malicious" and consistent > n - f:
        raise PlanError(
            "Against a malicious server a threshold t has 2t > n + c, so that no two survivor sets find t signatures "
            f"each, and t ≤ n − f, where n = {n}, c = ⌈corrupt · n⌉ = {c}, f = ⌈dropout · n⌉ = {f}.",
            value=f"t = {consistent}",
            remedy="Lower corrupt or dropout until c + 2f ≤ n − 2, or invite more clients.",
        )
    t = min(consistent, n - f)
    if t < 2 or t - c < 2:
        raise PlanError(
            "A threshold leaves at least 2 honest clients among those who open a secret: t ≥ 2 and t − c ≥ 2, "
            f"where t = min(⌊(n + c) / 2⌋ + 1, n − f), n = {n}, c = ⌈corrupt · n⌉ = {c}, f = ⌈dropout · n⌉ = {f}.",
            value=f"t = {t}",
            remedy="Invite more clients, or lower corrupt or dropout.",
        )
    return Parameters(
        participants=n,
        corrupt=c,
        dropouts=f,
        graph="complete",
        degree=n - 1,
        threshold=t,
        least=_least(n, f, max(t, min_cohort), min_cohort),
        min_cohort=min_cohort,
    )


def _regular(n: int, c: int, f: int, min_cohort: int) -> Parameters:
    if n - f - c < 2:
        raise PlanError(
            "A sum covers at least 2 honest clients after the permitted losses: n − f − c ≥ 2, "
            f"where n = {n}, c = ⌈corrupt · n⌉ = {c}, f = ⌈dropout · n⌉ = {f}.",
            value=n - f - c,
            remedy="Invite more clients, or lower corrupt or dropout.",
        )
    found = regular_graph(n, corrupt=Fraction(c, n), dropout=Fraction(f, n))
    return Parameters(
        participants=n,
        corrupt=c,
        dropouts=f,
        graph="regular",
        degree=found.degree,
        threshold=found.threshold,
        least=_least(n, f, max(n - f, min_cohort), min_cohort),
        min_cohort=min_cohort,
        privacy_failure=2.0**-found.privacy_failure_bits,
        correctness_failure=2.0**-found.correctness_failure_bits,
    )


def _least(n: int, f: int, least: int, min_cohort: int) -> int:
    if least > n - f:
        raise PlanError(
            f"A sum covers at least min_cohort = {min_cohort} clients, also after the permitted losses: "
            f"min_cohort ≤ n − f, where n = {n}, f = ⌈dropout · n⌉ = {f}.",
            value=min_cohort,
            remedy="Invite more clients, or lower dropout or min_cohort.",
        )
    return least


def _ceil(share: float, of: int) -> int:
    """⌈share · of⌉ of the decimal that was written: 0.1 · 30 is 3, not 3.0000000000000004."""
    return math.ceil(Fraction(repr(float(share))) * of)
