"""Checks of arguments that the descriptions of this package share."""

from __future__ import annotations

import math

from fedpriv.errors import ConfigurationError


def positive(name: str, value: float) -> None:
    """A finite number above zero."""
    if not _is_number(value) or not value > 0:
        raise ConfigurationError(f"{name} is a positive number.", value=value, remedy=f"Pass {name} above 0.")


def not_negative(name: str, value: float) -> None:
    """A finite number, zero or above."""
    if not _is_number(value) or value < 0:
        raise ConfigurationError(f"{name} is zero or positive.", value=value, remedy=f"Pass {name} of at least 0.")


def decay(name: str, value: float) -> None:
    """The factor of an exponential average."""
    if not _is_number(value) or not 0 <= value < 1:
        raise ConfigurationError(f"{name} is in [0, 1).", value=value, remedy=f"Pass {name} below 1, e.g. 0.9.")


def count(name: str, value: int) -> None:
    """A whole number, one or above."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} is a positive integer.", value=value, remedy=f"Pass {name} of at least 1.")


def _is_number(value: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
