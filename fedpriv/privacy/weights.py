"""Weights under differential privacy: examples up to a cap, inside the vector whose norm is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fedpriv.encoding import Reals
from fedpriv.errors import ConfigurationError
from fedpriv.privacy.numbers import is_real


@dataclass(frozen=True)
class Capped:
    """Client i's clipped update is scaled by min(n_i, w_max) / w_max, n_i its number of examples.

    The scale is at most 1, so the clip norm stays the sensitivity; and it is applied before anything leaves the client.
    The sum is divided by a public constant, expected cohort · expected / w_max.

    Args:
        w_max: examples that count at most, ≥ 1.
        expected: w̄, the mean of min(n_i, w_max) over clients: a public guess, in (0, w_max].

    Raises:
        ConfigurationError: a number out of range.

    Guarantees: what the mechanism guarantees with equal weights, at the same noise multiplier. Nothing about n_i is
        released but inside the noised sum.
    Assumes: w_max and expected are chosen without these clients' numbers; a value computed from them is a release.
    Does not hide: anything that equal weights do not. What is released is the weighted mean times
        Σ min(n_i, w_max) / (expected cohort · expected), the sum over contributors: clients that drop out draw it
        towards zero, and a wrong w̄ scales it, as a server's learning rate would.
    Reference: McMahan et al. 2018, section 2 (weights capped, fixed-denominator estimator).
    """

    w_max: int
    expected: float = field(kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.w_max, bool) or not isinstance(self.w_max, int) or self.w_max < 1:
            raise ConfigurationError(
                "A cap on weights is an integer ≥ 1.", value=self.w_max, remedy="Give e.g. 100: examples that count."
            )
        if not (is_real(self.expected) and 0 < self.expected <= self.w_max):
            raise ConfigurationError(
                f"The expected capped weight is in (0, {self.w_max}].",
                value=self.expected,
                remedy="Give a public guess of the mean of min(examples, w_max).",
            )

    def scales(self, examples: Sequence[int]) -> Reals:
        """``[n]``: min(n_i, w_max) / w_max of each client, in [0, 1]."""
        return np.minimum(np.asarray(examples, dtype=np.float64), self.w_max) / self.w_max

    def divisor(self, cohort: float) -> float:
        """The public constant that turns the sum over an expected cohort of this size into a mean."""
        return cohort * self.expected / self.w_max
