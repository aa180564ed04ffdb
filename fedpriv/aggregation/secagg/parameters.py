"""The threshold, from what the description permits. Every client derives it by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from fedpriv.errors import PlanError


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What holds in one attempt. It depends on the number of *invited* clients and never shrinks with survivor sets."""

    participants: int
    """n: the clients invited."""
    corrupt: int
    """c = ⌈corrupt · n⌉: the clients that may collude with the server."""
    dropouts: int
    """f = ⌈dropout · n⌉: the losses that the attempt is sure to survive."""
    threshold: int
    """t: shares that open a secret, and the least number of clients that must answer in the last stage."""
    least: int
    """The least number of clients in a sum: the larger of t and the smallest cohort."""
    min_cohort: int
    """The smallest cohort, as described."""


def parameters(participants: int, *, corrupt: float, dropout: float, min_cohort: int) -> Parameters:
    """The threshold t = min(⌊(n + c) / 2⌋ + 1, n − f), with t > c, t − c ≥ 2 and t ≥ 2.

    Raises:
        PlanError: no threshold keeps c corrupt clients out and bears f losses.
    """
    n = participants
    c, f = _ceil(corrupt, n), _ceil(dropout, n)
    t = min((n + c) // 2 + 1, n - f)
    least = max(t, min_cohort)
    if n < min_cohort:
        raise PlanError(
            f"A cohort has at least min_cohort = {min_cohort} clients.",
            value=n,
            remedy="Invite more clients, or lower min_cohort.",
        )
    if t < 2 or t - c < 2:
        raise PlanError(
            "A threshold leaves at least 2 honest clients among those who open a secret: t ≥ 2 and t − c ≥ 2, "
            f"where t = min(⌊(n + c) / 2⌋ + 1, n − f), n = {n}, c = ⌈corrupt · n⌉ = {c}, f = ⌈dropout · n⌉ = {f}.",
            value=f"t = {t}",
            remedy="Invite more clients, or lower corrupt or dropout.",
        )
    if least > n - f:
        raise PlanError(
            f"A sum covers at least min_cohort = {min_cohort} clients, also after the permitted losses: "
            f"min_cohort ≤ n − f, where n = {n}, f = ⌈dropout · n⌉ = {f}.",
            value=min_cohort,
            remedy="Invite more clients, or lower dropout or min_cohort.",
        )
    return Parameters(participants=n, corrupt=c, dropouts=f, threshold=t, least=least, min_cohort=min_cohort)


def _ceil(share: float, of: int) -> int:
    """⌈share · of⌉ of the decimal that was written: 0.1 · 30 is 3, not 3.0000000000000004."""
    return math.ceil(Fraction(repr(float(share))) * of)
