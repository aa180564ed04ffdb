"""A privacy budget: ε at δ, against an observer, for a unit."""

from __future__ import annotations

from dataclasses import dataclass

from fedpriv.errors import ConfigurationError
from fedpriv.privacy.mechanism import Unit
from fedpriv.privacy.numbers import is_real
from fedpriv.threat import Observer, parties_of


@dataclass(frozen=True, kw_only=True)
class Budget:
    """ε at δ, against an observer, for a unit: the target of a plan.

    Args:
        epsilon: > 0.
        delta: in (0, 1); for unit "client" below one over the population.
        observer: against whom: ``"server"``, ``"public"``, ``"participant"``, ``"authority"`` or a Coalition.
        unit: ``"client"`` or ``"record"``.

    Raises:
        ConfigurationError: a number out of range, an unknown observer or unit.
    """

    epsilon: float
    delta: float
    observer: Observer
    unit: Unit = "client"

    def __post_init__(self) -> None:
        if not (is_real(self.epsilon) and self.epsilon > 0):
            raise ConfigurationError("A budget's ε is finite and > 0.", value=self.epsilon, remedy="Give e.g. 2.0.")
        if not (is_real(self.delta) and 0.0 < self.delta < 1.0):
            raise ConfigurationError("A budget's δ is in (0, 1).", value=self.delta, remedy="Give e.g. 1e-5.")
        if self.unit not in ("client", "record"):
            raise ConfigurationError(
                'A budget\'s unit is "client" or "record".', value=self.unit, remedy='Use unit="client".'
            )
        parties_of(self.observer)


def check_delta(delta: float, units: int, unit: Unit = "client") -> None:
    """Raises ConfigurationError unless δ < 1 / units: clients, or the records of the smallest client.

    At δ = 1/n a mechanism that publishes one unit's data in full meets (0, δ).
    """
    if not delta < 1.0 / units:
        of = "clients" if unit == "client" else "records of the smallest client"
        raise ConfigurationError(
            f"δ is below one over the number of {of}, 1/{units}.",
            value=delta,
            remedy=f"Give delta ≤ {0.1 / units:.1g}, or more {unit}s.",
        )
