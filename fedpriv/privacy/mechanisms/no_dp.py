"""No differential privacy: bounded coordinates, exact weighted mean. The baseline of every comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fedpriv.encoding import FixedPoint, Integers, Reals
from fedpriv.errors import CohortTooSmall, ConfigurationError, DataError
from fedpriv.privacy.ledger.event import NON_PRIVATE, LedgerEvent, event_of
from fedpriv.privacy.mechanism import Encoded, Outcome, Release, RoundSpec, Setting, Trust
from fedpriv.privacy.numbers import is_real
from fedpriv.randomness import Noise

EXACT = 2**53
"""Up to it float64 holds every whole number."""


@dataclass(frozen=True, kw_only=True)
class NoDP:
    """The exact mean of the contributors' updates, weighted by their numbers of examples or equally.

    One coordinate is appended to every vector: the client's weight. The protected sum therefore carries the summed
    weight of exactly those clients who are in it, and dropouts need no correction.

    Args:
        limit: coordinates are cut to ±limit (and counted) before they are encoded.
        bits: of an encoded coordinate, sign included, 2 … 40.
        weighting: ``"examples"`` (FedAvg's weights) or ``"equal"``.

    Raises:
        ConfigurationError: a limit that is not finite and positive, bits out of range, an unknown weighting.

    Guarantees: nothing. The ledger states ε = ∞ for everybody who sees a release.
    Assumes: nothing.
    Does not hide: the released mean and, with ``"examples"``, the exact total number of examples of the contributors;
        the plan's public bound on weights is the largest client's number.
        Whoever sees single updates sees each client's number of examples; whoever sees two sums that differ by one
        client (a dropout, a change of cohort) can subtract them and obtain that client's update and number.
    Reference: McMahan et al. 2017, algorithm 1.
    """

    limit: float = 4.0
    bits: int = 20
    weighting: Literal["examples", "equal"] = "examples"

    def __post_init__(self) -> None:
        if not is_real(self.limit):
            raise ConfigurationError("A limit is finite and > 0.", value=self.limit, remedy="Give the largest |x|.")
        self._codec()
        if self.weighting not in ("examples", "equal"):
            raise ConfigurationError(
                'weighting is "examples" or "equal".', value=self.weighting, remedy='Use "examples" for FedAvg.'
            )

    def _codec(self) -> FixedPoint:
        return FixedPoint.for_limit(self.limit, self.bits)

    @property
    def trust(self) -> Trust:
        return "none"

    def init(self, setting: Setting) -> RoundSpec:
        """The terms of round 0; they change in their number only."""
        return RoundSpec(
            round=0,
            length=setting.length + 1,
            codec=self._codec(),
            max_weight=setting.largest_client if self.weighting == "examples" else 1,
            clip_norm=None,
            noise_multiplier=0.0,
            divisor=None,
            sampling=setting.sampling_record(),
            adjacency=setting.adjacency,
            planned_contributors=setting.least_honest,
        )

    def begin(self, state: RoundSpec, round: int, public: int = 0) -> RoundSpec:
        return replace(state, round=round)

    def protect(self, updates: Reals, examples: Sequence[int], spec: RoundSpec, noises: Sequence[Noise]) -> Encoded:
        """Cut, encode, multiply by the weight, append the weight: ``[n, d]`` → ``[n, d + 1]``.

        Raises:
            NonFiniteInput: NaN or infinity in an update.
            DataError: a client without examples, or with more than the plan's public bound.
        """
        weights = self._weights(examples, spec)
        grid, encoded = self._encode(updates, weights, spec)
        values = np.empty((len(grid), spec.length), dtype=np.int64)
        np.multiply(grid.astype(np.int64), weights[:, None], out=values[:, :-1])
        values[:, -1] = weights
        return replace(encoded, values=values)

    def protect_sum(self, updates: Reals, examples: Sequence[int], spec: RoundSpec, noises: Sequence[Noise]) -> Encoded:
        """As :meth:`protect`, and ``values`` is ``[1, d + 1]``, their exact sum: as a product of whole numbers in
        float64, in half the time, where it holds every one of them.
        """
        weights = self._weights(examples, spec)
        whole = int(weights.sum())
        if whole * spec.codec.bound > EXACT:
            encoded = self.protect(updates, examples, spec, noises)
            return replace(encoded, values=encoded.values.sum(axis=0, keepdims=True))
        grid, encoded = self._encode(updates, weights, spec)
        total = (weights.astype(np.float64) @ grid).astype(np.int64)
        return replace(encoded, values=np.append(total, whole)[None])

    def _encode(self, updates: Reals, weights: Integers, spec: RoundSpec) -> tuple[Reals, Encoded]:
        """Each update's grid points, not weighted yet, and what is known besides the values."""
        updates = np.asarray(updates, dtype=np.float64)
        grid, clipped = spec.codec.nearest(updates)
        error = grid * spec.codec.step
        error -= np.clip(updates, -spec.codec.limit, spec.codec.limit) if clipped else updates
        residual = np.append(weights.astype(np.float64) @ error, 0.0)
        none = np.empty((0, spec.length), dtype=np.int64)
        return grid, Encoded(values=none, residual=residual, clipped_norms=0, clipped_coordinates=clipped)

    def _weights(self, examples: Sequence[int], spec: RoundSpec) -> Integers:
        if self.weighting == "equal":
            return np.ones(len(examples), dtype=np.int64)
        for count in examples:
            if not 1 <= count <= spec.max_weight:
                raise DataError(
                    f"A weighted client has 1 to {spec.max_weight} examples, the public bound of the plan.",
                    value=int(count),
                    remedy='Raise the bound on a client\'s examples, or use weighting="equal".',
                )
        return np.asarray(examples, dtype=np.int64)

    def release(self, total: Integers, spec: RoundSpec, outcome: Outcome, noise: Noise, state: RoundSpec) -> Release:
        """The weighted mean.

        Raises:
            CohortTooSmall: nobody contributed.
        """
        weight = int(total[-1])
        if weight < 1:
            raise CohortTooSmall(
                "A mean without noise has at least one contributor.",
                value=len(outcome.contributors),
                remedy="Use a larger cohort or a higher sampling rate.",
            )
        return Release(mean=spec.codec.decode(total[:-1]) / weight)

    def advance(self, state: RoundSpec, spec: RoundSpec, release: Release | None, noise: Noise) -> RoundSpec:
        return state

    def noise_contributors(self, setting: Setting) -> None:
        return None

    def events(self, spec: RoundSpec, outcome: Outcome) -> tuple[LedgerEvent, ...]:
        return (event_of(spec, outcome, mechanism=NON_PRIVATE, trust=self.trust),)
