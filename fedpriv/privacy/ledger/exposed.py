"""What an observer may see, and what that exposes of a client, as far as an accountant must know."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedpriv.privacy.ledger.composition import Composition
from fedpriv.threat import View

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
        reason: why, in words.
        participations: of the client of each composition; None where the observer cannot tell.
        amplified: whether amplification by sampling is counted on.
        local: whether the noise is inside each update, so that no protocol is relied on.
        each: what participations count.
        caveat: what else must be said.
        noise: noise multipliers, the planned one and the one that counts against the observer, where the second falls
            furthest behind the first; None where there is none.
    """

    compositions: tuple[Composition, ...] | None
    reason: str
    participations: tuple[int, ...] | None = None
    amplified: bool = False
    local: bool = False
    each: str = "release"
    caveat: str = ""
    noise: tuple[float, float] | None = None

    def why(self, worst: int) -> str:
        """The reason, for the client of one composition."""
        text = self.reason
        if self.participations is not None and self.participations[worst]:
            times = self.participations[worst]
            text += f"; the worst-placed client took part in {times} {self.each}{'s' if times > 1 else ''}"
        return text + self.caveat


def spoilt(tails: tuple[float, float], epsilon: float, delta: float) -> str:
    """Words on cohorts outside their bounds that are too likely for sampling to amplify at this δ, or at ε = ∞ for any
    bound, and on what helps.

    At ε they cost (1 + e^ε) τ of δ.
    """
    nothing = "amplification nothing" if math.isfinite(epsilon) else "nothing"
    worth = 0.1 * delta / (1.0 + math.exp(min(epsilon, 700.0) if math.isfinite(epsilon) else 0.0))
    sides = zip(tails, ("below min_cohort", "above max_cohort"), _REMEDIES, strict=True)
    there = [(min(1.0, tail), where, remedy) for tail, where, remedy in sides if tail >= worth and tail > 0.0]
    if not there:
        return ""
    chances = " and ".join(f"{where} with probability {tail:.2g}" for tail, where, _ in there)
    return (
        f"; some cohort is {chances}, which at δ = {delta:g} leaves {nothing}: "
        f"{' and '.join(remedy for _, _, remedy in there)} would help"
    )


_REMEDIES = ("a higher rate or more clients", "a larger max_cohort")

NOTHING = (Composition(),)

ITSELF = "; a client that is part of the observer is not protected from itself"
"""Said to observers with clients inside, of noise inside updates or their sum."""
