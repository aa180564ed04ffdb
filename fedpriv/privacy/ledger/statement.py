"""One honest sentence about ε."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

from fedpriv.privacy.ledger.accounting import Accountant, Conversion
from fedpriv.privacy.mechanism import Adjacency, Unit

_NEIGHBOURS = {
    "zero-out": "zeroing one {unit}'s contribution",
    "add-remove": "adding or removing one {unit}",  # per record: of one client
    "replace-one": "replacing one {unit}'s data",
}


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What a ledger says against one observer, for one unit and one adjacency.

    Args:
        epsilon: ε at ``delta``; ``inf`` where nothing is guaranteed.
        delta: δ, in (0, 1).
        observer: against whom.
        unit: whose contribution is hidden.
        adjacency: what neighbouring federations differ in.
        accountant: which accountant gave ``epsilon``.
        conversion: from RDP to (ε, δ), where that was used.
        rdp_epsilon: ε by RDP, always beside; None where RDP has no theorem.
        rounds: how many releases the ledger holds; per record the rounds in which somebody trained.
        participations: releases (per record: rounds) the worst-placed client took part in; None where amplification
            hides that.
        amplified: whether the secrecy of the cohort was counted on, hence of the seed that drew it; per record that of
            the batches, which where noise is no simulation come from the operating system's generator too.
        reason: why it is this number, in words.
        computational: the observer holds ciphertexts or masked vectors: the claim rests on their security too.
        planned: the noise multiplier that the plan promised, where ``achieved`` is furthest behind; None: no noise.
        achieved: the noise multiplier there that counts against this observer.
        simulated: the noise came from a seeded stream: ε is of the mechanism, simulated, and no claim about this run.
    """

    epsilon: float
    delta: float
    observer: str
    unit: Unit
    adjacency: Adjacency
    accountant: Accountant
    conversion: Conversion
    rdp_epsilon: float | None
    rounds: int
    participations: int | None
    amplified: bool
    reason: str
    computational: bool
    simulated: bool
    planned: float | None = None
    achieved: float | None = None

    def __str__(self) -> str:
        neighbours = _NEIGHBOURS[self.adjacency].format(unit=self.unit)
        if math.isinf(self.epsilon):
            return f"Against the {self.observer}: ε = ∞, no {self.unit}-level guarantee ({neighbours}): {self.reason}."
        how = {"pld": "PLD", "rdp": f"RDP, {self.conversion} conversion"}[self.accountant]
        beside = ""
        if self.accountant == "pld" and self.rdp_epsilon is not None and self.epsilon > 0:
            beside = f"; RDP{self._classic}: {format_epsilon(self.rdp_epsilon)}"
        marks = ""
        if self.computational:
            marks += ", if the cryptography holds"
        if self.simulated:
            marks += ", of the mechanism, simulated (seeded noise)"
        elif self.amplified and self.unit == "client":
            marks += ", if the seed that drew the cohorts stays secret"
        return (
            f"Against the {self.observer}: ε = {format_epsilon(self.epsilon)} at δ = {self.delta:g} for {neighbours} "
            f"({how}{beside}){marks}: {self.reason}."
        )

    @property
    def _classic(self) -> str:
        return ", classic conversion" if self.conversion == "classic" else ""

    def _repr_html_(self) -> str:
        rows = {
            "ε": format_epsilon(self.epsilon),
            "δ": f"{self.delta:g}",
            "observer": self.observer,
            "unit": self.unit,
            "adjacency": self.adjacency,
            "accountant": self.accountant.upper(),
            f"ε by RDP{self._classic}": "not available"
            if self.rdp_epsilon is None
            else format_epsilon(self.rdp_epsilon),
            "participations": "hidden" if self.participations is None else str(self.participations),
            "noise multiplier, planned": "none" if self.planned is None else f"{self.planned:.4g}",
            "noise multiplier that counts": "none" if self.achieved is None else f"{self.achieved:.4g}",
            "computational": "yes" if self.computational else "no",
            "simulated": "yes" if self.simulated else "no",
            "why": self.reason,
        }
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
        return f"<table>{cells}</table>"


def format_epsilon(value: float) -> str:
    """Four significant digits, rounded up so that the text never understates."""
    if not math.isfinite(value):
        return "∞"
    if value == 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return f"{math.ceil(value / unit - 1e-9) * unit:.4g}"
