"""A clip norm that follows a quantile of the updates' norms, learnt inside the same noised sum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fedpriv.errors import ConfigurationError, PlanError
from fedpriv.privacy.mechanism import Adapted
from fedpriv.privacy.numbers import is_real

_RANGE = 2.0**40
"""The clip stays within this factor of where it began: a norm of 0 or ∞ is never reached."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveClip:
    """After each round C ← C · exp(-learning_rate · (b̄ - quantile)), b̄ the noised share of updates of norm ≤ C.

    Each client's bit, ±1/2, times 2βC is one more coordinate of its vector, of joint norm at most C √(1 + β²). Noise of
    multiplier z to that norm covers update and bit as one release. The update's noise grows to z √(1 + β²) C, and the
    count's has standard deviation σ_b = z √(1 + β²) / 2β clients. So β = ((2σ_b / z)² - 1)^-1/2, and the update's
    multiplier is (z⁻² - (2σ_b)⁻²)^-1/2: Andrew et al.'s, who noise the two sums apart.

    Args:
        initial: the clip norm of the first round.
        quantile: γ, the share of updates that shall be within the clip, in [0, 1].
        learning_rate: η of the geometric update, > 0.
        count_noise: σ_b, in clients, at least the noise multiplier; None: a twentieth of the expected cohort, as Andrew
            et al. advise, or the noise multiplier where that is larger (the update's noise then grows by 15 %).

    Raises:
        ConfigurationError: a number out of range.

    Guarantees: those of the mechanism that it is given to, at the same noise multiplier: bits cost no event.
    Assumes: what the mechanism does.
    Does not hide: the clip of every round, and b̄, which are functions of noised sums. A client that drops out counts
        as half within: b̄ is drawn towards 1/2.
    Reference: Andrew, Thakkar, McMahan and Ramaswamy 2021, algorithm 1 and theorem 1.
    """

    initial: float
    quantile: float = 0.5
    learning_rate: float = 0.2
    count_noise: float | None = None

    def __post_init__(self) -> None:
        _check("An initial clip norm", self.initial, "Give e.g. 0.1.")
        if not 2.0**-900 <= self.initial <= 2.0**900:
            raise ConfigurationError(
                "A clip that adapts begins where doubles reach far to both sides.",
                value=self.initial,
                remedy="Give e.g. 0.1, or scale the updates.",
            )
        _check("A clip's learning rate", self.learning_rate, "Give e.g. 0.2.")
        if self.count_noise is not None:
            _check("Noise on a count", self.count_noise, "Leave it out, or give a twentieth of the cohort.")
        if not (is_real(self.quantile) and 0.0 <= self.quantile <= 1.0):
            raise ConfigurationError("A quantile is in [0, 1].", value=self.quantile, remedy="Give 0.5, the median.")

    def ratio(self, noise_multiplier: float, cohort: float) -> float:
        """β: the bit's length over the update's clip norm, at most 1 / √3.

        Args:
            noise_multiplier: z, of the joint vector.
            cohort: its expected size.

        Raises:
            PlanError: count_noise is below z.
        """
        count_noise = max(cohort / 20.0, noise_multiplier) if self.count_noise is None else self.count_noise
        if count_noise < noise_multiplier:
            raise PlanError(
                f"Noise on the count is at least the noise multiplier, {noise_multiplier:.4g}.",
                value=count_noise,
                remedy="Raise count_noise or leave it out, or lower the noise multiplier.",
            )
        return 1.0 / math.sqrt((2.0 * count_noise / noise_multiplier) ** 2 - 1.0)

    def next_clip(self, clip: float, within: float) -> float:
        """The clip norm after a round whose noised share of updates within ``clip`` was ``within``."""
        step = self.learning_rate * (self.quantile - within)
        reach = 2.0 * math.log(_RANGE)  # from one end of the range to the other
        moved = clip * math.exp(min(max(step, -reach), reach))
        return min(max(moved, self.initial / _RANGE), self.initial * _RANGE)


def joint_norm(clip: float, bit: float) -> float:
    """The L2 bound of an update clipped to ``clip`` with its coordinate ±bit."""
    return math.hypot(clip, bit)


_Number = TypeVar("_Number", np.int64, np.float64)


def augment(rows: npt.NDArray[_Number], clipped: npt.NDArray[np.bool_], bit: float) -> npt.NDArray[_Number]:
    """Append each client's bit: ``[n, d]`` → ``[n, d + 1]``, of the rows' type; ``bit`` is in the rows' units."""
    return np.column_stack([rows, np.where(clipped, -bit, bit).astype(rows.dtype)])


def share_within(noised: float, adapted: Adapted) -> float:
    """b̄ in [0, 1] from the noised last coordinate of the sum, in the units of ``adapted.bit``."""
    return min(max(0.5 + noised / (2.0 * adapted.bit * adapted.cohort), 0.0), 1.0)


def _check(what: str, value: float, remedy: str) -> None:
    if not (is_real(value) and value > 0):
        raise ConfigurationError(f"{what} is finite and > 0.", value=value, remedy=remedy)
