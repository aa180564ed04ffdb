"""The seam of privacy: what happens to an update before it is summed, and to the sum before it is released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.encoding import FixedPoint, Integers, Reals
from fedpriv.randomness import Gaussian, NoiseSource
from fedpriv.threat import ThreatModel

if TYPE_CHECKING:
    from fedpriv.privacy.ledger import LedgerEvent
    from fedpriv.privacy.sampling import Sampling, SamplingRecord

Adjacency: TypeAlias = Literal["zero-out", "add-remove", "replace-one"]
"""Which federations are neighbours: one client's contribution becomes zero (membership stays visible), one client joins
or leaves, one client's data are exchanged for any other."""

Trust: TypeAlias = Literal["none", "central", "distributed", "local"]
"""Where noise is added: nowhere, to the sum by its releaser, as shares by the clients before the sum, to each
update."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the plan has settled and a mechanism may rely on; every field is public."""

    length: int
    """Coordinates of the flattened payload, before anything the mechanism appends."""
    population: int
    rounds: int
    sampling: Sampling
    adjacency: Adjacency
    threat: ThreatModel
    """Resolved: the protocol's views plus broadcasts and releases."""
    largest_client: int
    """A public bound on a client's number of examples; weights never exceed it."""
    least_honest: int
    """The fewest honest contributors that a sum can have without an abort."""
    min_cohort: int = 0
    """A drawn cohort smaller than this ends its round without a release."""

    def sampling_record(self) -> SamplingRecord | None:
        """How cohorts are drawn, for the ledger; None where no accountant models it."""
        record = self.sampling.accounting(self.population)
        return record and replace(record, min_cohort=self.min_cohort)


@dataclass(frozen=True, kw_only=True)
class RoundSpec:
    """What holds in one round; public, and part of the context that every client checks."""

    round: int
    length: int
    """Coordinates of an encoded vector (the payload's, plus what the mechanism appends)."""
    codec: FixedPoint
    max_weight: int
    """The largest integer that multiplies an encoded coordinate."""
    clip_norm: float | None
    """L2 norm to which the whole payload is clipped; None: only coordinates are bounded."""
    noise_multiplier: float
    """σ / clip_norm of the noise on the sum; 0: none."""
    divisor: float | None
    """The public constant that turns the sum into a mean; None: the summed weight."""
    sampling: SamplingRecord | None
    """How the cohort is drawn, for the ledger; None where no accountant models it."""
    adjacency: Adjacency
    planned_contributors: int
    """The fewest honest contributors that the plan relies on."""

    @property
    def input_bound(self) -> int:
        """No coordinate of one client's encoded vector exceeds it (before distributed noise)."""
        return self.codec.bound * self.max_weight


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A chunk of protected updates."""

    values: Integers
    """``[n, spec.length] int64``."""
    residual: Reals
    """``[spec.length]``: decoded minus exact (after clipping, before noise), summed over the chunk. Simulator only."""
    clipped_norms: int
    """How many updates were scaled down to the clip norm."""
    clipped_coordinates: int
    """How many coordinates were cut to the codec's limit."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is known once the sum is there."""

    cohort: tuple[int, ...]
    contributors: tuple[int, ...]
    noise: NoiseSource


@dataclass(frozen=True, kw_only=True)
class Release:
    """What leaves the releaser."""

    mean: Reals
    """``[setting.length] float64``."""


class Mechanism(Protocol):
    """A frozen description of clipping, weighting, encoding and noise. State is explicit: ``init`` makes it."""

    @property
    def trust(self) -> Trust: ...

    @property
    def weighting(self) -> Literal["equal", "examples"]:
        """``"examples"``: weights that depend on private data; refused under DP."""
        ...

    def init(self, setting: Setting) -> Any:
        """The state before round 0, noise level solved where a budget is the target.

        Raises:
            PlanError, PrivacyError: it does not fit the setting, with the remedy.
        """
        ...

    def begin(self, state: Any, round: int) -> RoundSpec: ...

    def protect(
        self, updates: Reals, examples: Sequence[int], spec: RoundSpec, rngs: Sequence[np.random.Generator]
    ) -> Encoded:
        """Clip, weight, encode a chunk: ``[n, setting.length] float64`` → ``[n, spec.length] int64``.

        Raises:
            NonFiniteInput: NaN or infinity in an update.
        """
        ...

    def release(self, total: Integers, spec: RoundSpec, outcome: Outcome, gaussian: Gaussian) -> Release:
        """Decode the exact sum, add central noise, divide."""
        ...

    def advance(self, state: Any, release: Release) -> Any: ...

    def noise_contributors(self, setting: Setting) -> int | None:
        """For distributed noise: the number of honest contributors whose shares the stated σ relies on; else None.

        A plan in which fewer can be left without an abort is refused.
        """
        ...

    def noise_headroom(self, spec: RoundSpec, cohort: int) -> int:
        """How far noise added *before* the sum can push a coordinate of it, except with probability 2^-40; else 0."""
        ...

    def events(self, spec: RoundSpec, outcome: Outcome) -> tuple[LedgerEvent, ...]:
        """What the ledger must record, now that the survivors are known."""
        ...


Floats: TypeAlias = npt.NDArray[np.floating]
