"""What counts as a number where a mechanism is described."""

from __future__ import annotations

import math
from typing import TypeGuard

import numpy as np


def is_real(value: object) -> TypeGuard[float]:
    """Whether it is a finite number: Python's or NumPy's, and no bool, which would pass for 0 or 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return math.isfinite(value)
