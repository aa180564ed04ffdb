"""The seam of privacy: what happens to an update before it is summed, and to the sum before it is released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from fedpriv.encoding import FixedPoint, Integers, Reals
from fedpriv.privacy.correlation import Correlation
from fedpriv.randomness import Noise, NoiseSource
from fedpriv.threat import ThreatModel

if TYPE_CHECKING:
    from fedpriv.privacy.ledger.event import LedgerEvent, Response
    from fedpriv.privacy.sampling import Sampling, SamplingRecord
    from fedpriv.privacy.weights import Capped

Adjacency: TypeAlias = Literal["zero-out", "add-remove", "replace-one"]
"""Which federations are neighbours: one client's contribution becomes zero (membership stays visible), one client joins
or leaves, one client's data are exchanged for any other."""

Unit: TypeAlias = Literal["client", "record"]
"""Whose contribution is hidden: all data of a client, or one example of a client."""

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
    least_contributors: int
    """The fewest contributors that a sum can have without an abort."""
    least_honest: int
    """The fewest of them that are honest, at the share of corrupted clients that the protocol permits, or that the
    mechanism itself assumes."""
    min_cohort: int = 0
    """A drawn cohort smaller than this ends its round without a release."""

    def sampling_record(self) -> SamplingRecord | None:
        """How cohorts are drawn, for the ledger; None where no accountant models it."""
        record = self.sampling.accounting(self.population)
        return record and replace(record, min_cohort=self.min_cohort)


ShareKind: TypeAlias = Literal["discrete-gaussian", "skellam"]


@dataclass(frozen=True, kw_only=True, order=True)
class Share:
    """The noise that each client adds to its encoded vector before the sum, in units of the integer grid; public.

    Sums count mod a power of two, which is computed from the sum alone: a sum that wraps costs accuracy, and never ε.
    (A single vector that does is no function of the sum: see :attr:`RoundSpec.limit`.)
    """

    kind: ShareKind
    variance: float
    """Of one client's noise in every coordinate: the parameter σ² of a discrete Gaussian, 2μ of a Skellam draw."""
    l2: float
    """L2 bound of one client's encoded vector, rounding included."""
    l1: float
    """Its L1 bound."""
    dimension: int
    """Coordinates that get noise, padding included."""
    wrap: float
    """Bounds the probability that some coordinate of the planned largest sum wraps."""


@dataclass(frozen=True, kw_only=True, order=True)
class Adapted:
    """The clip of updates where it changes by round, and the last coordinate, which steers it; public."""

    norm: float
    """L2 norm to which an update is clipped in this round."""
    bit: float
    """The last coordinate: +bit where an update was within the norm, -bit where it was longer."""
    cohort: float
    """The expected cohort: the public constant by which the noised count is divided."""


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
    """L2 bound of what one client adds to the sum: the norm to which its payload is clipped, or under an adaptive clip
    the joint norm of payload and bit; None: only coordinates are bounded."""
    noise_multiplier: float
    """σ / clip_norm of the noise on the sum; 0: none."""
    divisor: float | None
    """The public constant that turns the sum into a mean; None: the summed weight."""
    sampling: SamplingRecord | None
    """How the cohort is drawn, for the ledger; None where no accountant models it."""
    adjacency: Adjacency
    planned_contributors: int
    """The fewest honest contributors that the plan relies on."""
    corrupt: float | None = None
    """The share of the cohort whose noise planned_contributors leaves out; None: the threat model's."""
    public: int = 0
    """The round's public randomness (of a rotation), announced by the server: 63 bits of a keyed stream."""
    modulus_bits: int | None = None
    """Sums count mod 2^modulus_bits, and every client reduces its vector; None: sums are exact integers."""
    limit: int | None = None
    """Before distributed noise no coordinate of a client's vector exceeds it, so that, but for a probability of 2^-60 a
    round, none wraps by itself; None: some may, and whoever saw an exact sum of them would learn how many did."""
    share: Share | None = None
    """What every client adds before the sum; None: nothing."""
    correlation: Correlation | None = None
    """How central noise is correlated over rounds; None: it is not."""
    adapted: Adapted | None = None
    """The round's clip where it adapts; None: it does not."""
    response: Response | None = None
    """What a client answers by randomised response, and at which ε; None: it does not."""

    @property
    def update_norm(self) -> float | None:
        """The L2 norm to which a client's payload is clipped in this round; None: only coordinates are bounded."""
        return self.clip_norm if self.adapted is None else self.adapted.norm

    @property
    def input_bound(self) -> int:
        """No coordinate of one client's encoded vector, noise included, exceeds it."""
        return self.codec.bound * self.max_weight if self.modulus_bits is None else 1 << (self.modulus_bits - 1)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A chunk of protected updates, as they are sent."""

    values: Integers
    """``[n, spec.length] int64``."""
    residual: Reals
    """``[spec.length]``: decoded minus exact (after clipping and local noise, before distributed noise), summed over
    the chunk. Simulator only."""
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
    within_clip: float | None = None
    """The noised share of contributors whose update was within the clip norm, where the mechanism releases it."""
    carried: Any = field(default=None, repr=False)
    """What stays with the releaser: noise that later rounds take back. It is as secret as the sum."""


class Mechanism(Protocol):
    """A frozen description of clipping, weighting, encoding and noise. State is explicit: ``init`` makes it.

    A mechanism whose noise is made of clients' shares may have ``corrupt``, the share of clients whose noise is not
    counted on; without it, or where it is None, the protocol's bound holds.

    A mechanism may have ``protect_sum``: as ``protect``, but ``values`` is ``[1, spec.length]``, the exact sum. Ideal
    rounds ask for no more.
    """

    @property
    def trust(self) -> Trust: ...

    @property
    def weighting(self) -> Literal["equal", "examples"] | Capped:
        """``"examples"``: weights that depend on private data; refused under DP. Capped: inside the clipped vector."""
        ...

    def init(self, setting: Setting) -> Any:
        """The state before round 0, noise level solved where a budget is the target.

        Raises:
            PlanError, PrivacyError: it does not fit the setting, with the remedy.
        """
        ...

    def begin(self, state: Any, round: int, public: int = 0) -> RoundSpec:
        """The terms of a round; ``public`` is its public randomness."""
        ...

    def protect(self, updates: Reals, examples: Sequence[int], spec: RoundSpec, noises: Sequence[Noise]) -> Encoded:
        """Clip, weight, encode, noise a chunk: ``[n, setting.length] float64`` → ``[n, spec.length] int64``.

        Args:
            noises: each client's own randomness.

        Raises:
            NonFiniteInput: NaN or infinity in an update.
        """
        ...

    def release(self, total: Integers, spec: RoundSpec, outcome: Outcome, noise: Noise, state: Any) -> Release:
        """Decode the sum, add central noise, divide. ``state`` is the one that ``begin`` was given."""
        ...

    def advance(self, state: Any, spec: RoundSpec, release: Release | None, noise: Noise) -> Any:
        """The state after a round; ``release`` is None where it was aborted, and ``noise`` what it would have used."""
        ...

    def noise_contributors(self, setting: Setting) -> int | None:
        """For distributed noise: the number of honest contributors whose shares the stated σ relies on; else None.

        A plan in which fewer can be left without an abort is refused.
        """
        ...

    def events(self, spec: RoundSpec, outcome: Outcome) -> tuple[LedgerEvent, ...]:
        """What the ledger must record, now that the survivors are known."""
        ...
