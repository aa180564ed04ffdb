"""Ledgers of ten clients, and the exact ε of one Gaussian release."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import norm

from fedpriv.privacy import Ledger

DELTA = 1e-5


def gaussian_epsilon(sigma: float) -> float:
    """Balle and Wang 2018, theorem 8, by hand."""

    def excess(eps: float) -> float:
        second = math.exp(eps + norm.logcdf(-1 / (2 * sigma) - eps * sigma))
        return norm.cdf(1 / (2 * sigma) - eps * sigma) - second - DELTA

    return brentq(excess, 0, 300, xtol=1e-12)


def ledger_of(threat, *events, population=10, adjacency="zero-out") -> Ledger:
    return Ledger(threat=threat, population=population, adjacency=adjacency, events=events)
