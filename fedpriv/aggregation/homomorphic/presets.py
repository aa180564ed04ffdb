"""Named parameters of homomorphic aggregation, what each can carry and costs, and the choice of the smallest that fits.

A preset's figures are computed, not quoted: capacity from the noise bounds of :mod:`fedpriv.crypto.lattice`, bytes from
:mod:`fedpriv.aggregation.homomorphic.sizes`, security from the tables of the HomomorphicEncryption.org standard and of
NIST. A user's own parameters, as a
:class:`LatticePreset`, are held to the same proofs.

**Reference** Albrecht et al. 2018 (table 1); NIST SP 800-57 part 1 (table 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, Protocol, TypeAlias, TypeVar

from fedpriv.aggregation.homomorphic.fitting import Demand, chunks, code_for
from fedpriv.aggregation.homomorphic.keys import KeyAuthority, KeyModel, SharedClientKey
from fedpriv.aggregation.homomorphic.paillier import Lanes
from fedpriv.aggregation.homomorphic.parts import bounded
from fedpriv.aggregation.homomorphic.sizes import ciphertext_bytes
from fedpriv.crypto import lattice, paillier
from fedpriv.errors import ConfigurationError, PlanError

Scheme: TypeAlias = Literal["CKKS", "BFV", "Paillier"]

MAX_COHORT = 2**32 - 1
"""Clients are numbered in 32 bits."""
LONG = 10**6
"""Coordinates for which capacities are stated where no length is given."""
LIMIT = 10**12
"""Coordinates of a vector so long that its padding is nothing."""


class Preset(Protocol):
    """Named parameters of one scheme, and what follows from them."""

    @property
    def name(self) -> str: ...

    @property
    def scheme(self) -> Scheme: ...

    @property
    def security_bits(self) -> int:
        """The level by the scheme's table."""
        ...

    @property
    def text(self) -> str:
        """The parameters in words."""
        ...

    def check(self, demand: Demand) -> None:
        """Raises PlanError unless every such sum is proved to be exact."""
        ...

    def upload_bytes(self, demand: Demand) -> int:
        """Ciphertexts of one client's vector, without envelopes."""
        ...

    def aggregate_bytes(self, demand: Demand) -> int:
        """Ciphertexts of the sum, without envelopes."""
        ...


class Capacity:
    """What any preset can carry, and its bytes for each coordinate of a long vector."""

    def value_bits(self: Preset, *, cohort: int, length: int = LONG, keys: KeyModel | None = None) -> int:
        """The most bits, sign included, that the values of so many clients may have; 0 where none fit."""
        return _last(lambda bits: _fits(self, bits, cohort, length, keys), 2, 63)

    def largest_cohort(self: Preset, *, bits: int = 16, length: int = LONG, keys: KeyModel | None = None) -> int:
        """The most clients whose values of so many bits, sign included, sum exactly; 0 where none do."""
        return _last(lambda cohort: _fits(self, bits, cohort, length, keys), 1, MAX_COHORT)

    def bytes_per_parameter(self: Preset, *, keys: KeyModel | None = None, bits: int = 16, cohort: int = 10) -> float:
        """Of an upload; bits and cohort matter to Paillier only."""
        return self.upload_bytes(_values(bits, cohort, LIMIT, keys)) / LIMIT

    def aggregate_bytes_per_parameter(self: Preset, *, bits: int = 16, cohort: int = 10) -> float:
        """Of a sum, which is never seeded."""
        return self.aggregate_bytes(_values(bits, cohort, LIMIT, None)) / LIMIT


@dataclass(frozen=True, kw_only=True)
class LatticePreset(Capacity):
    """A ring and its moduli."""

    name: str = "own"
    parameters: lattice.Parameters

    @property
    def scheme(self) -> Scheme:
        return "CKKS" if isinstance(self.parameters, lattice.CKKSParameters) else "BFV"

    @property
    def security_bits(self) -> int:
        """By the HomomorphicEncryption.org table; parameters below it cannot be made."""
        return lattice.SECURITY_BITS

    @property
    def text(self) -> str:
        moduli = " + ".join(str(bits) for bits in self.parameters.moduli)
        plain = f", t of {self.parameters.plain_bits}" if isinstance(self.parameters, lattice.BFVParameters) else ""
        return f"degree {self.parameters.degree}, moduli of {moduli} bits{plain}"

    @property
    def call(self) -> str:
        """How a preset of this module is named in a plan."""
        return f'{self.scheme}(preset="{self.name}")'

    def check(self, demand: Demand) -> None:
        code_for(self.parameters, demand)

    def upload_bytes(self, demand: Demand) -> int:
        return self._bytes(demand.length, seeded=demand.encryption == "secret")

    def aggregate_bytes(self, demand: Demand) -> int:
        return self._bytes(demand.length, seeded=False)

    def _bytes(self, length: int, *, seeded: bool) -> int:
        one = ciphertext_bytes(self.parameters.degree, self.parameters.wire_bits, seeded=seeded)
        return chunks(self.parameters, length) * one


@dataclass(frozen=True, kw_only=True)
class PaillierPreset(Capacity):
    """A size of modulus."""

    name: str
    key_bits: int
    scheme: ClassVar[Scheme] = "Paillier"

    @property
    def security_bits(self) -> int:
        """By NIST SP 800-57."""
        return paillier.SECURITY_BITS[self.key_bits]

    @property
    def text(self) -> str:
        return f"modulus of {self.key_bits} bits"

    @property
    def call(self) -> str:
        """How it is named in a plan."""
        return f"Paillier(key_bits={self.key_bits})"

    def check(self, demand: Demand) -> None:
        bounded(demand.largest)

    def upload_bytes(self, demand: Demand) -> int:
        return self.aggregate_bytes(demand)

    def aggregate_bytes(self, demand: Demand) -> int:
        offset = -(-demand.spread // demand.cohort)
        lanes = Lanes.for_sums(offset=offset, cohort=demand.cohort, plaintext_bits=self.key_bits - 1)
        return -(-demand.length // lanes.count) * self.key_bits // 4


AnyPreset = TypeVar("AnyPreset", bound=Preset)


def _named(*presets: LatticePreset | PaillierPreset) -> Mapping[str, LatticePreset | PaillierPreset]:
    return MappingProxyType({preset.name: preset for preset in presets})


PRESETS = _named(
    LatticePreset(name="ckks-lean", parameters=lattice.CKKSParameters(degree=4096, moduli=(40, 60))),
    LatticePreset(name="ckks-precise", parameters=lattice.CKKSParameters(degree=4096, moduli=(60, 49))),
    LatticePreset(name="bfv-exact", parameters=lattice.BFVParameters(degree=2048, moduli=(40,), plain_bits=23)),
    LatticePreset(name="bfv-wide", parameters=lattice.BFVParameters(degree=4096, moduli=(54, 55), plain_bits=38)),
    PaillierPreset(name="paillier-2048", key_bits=2048),
    PaillierPreset(name="paillier-3072", key_bits=3072),
)
"""The presets by name."""


def choose(
    *,
    length: int,
    sum_bound: int,
    cohort: int,
    keys: KeyModel | None = None,
    schemes: Iterable[Scheme] = ("CKKS", "BFV"),
    security_bits: int = 128,
) -> LatticePreset | PaillierPreset:
    """The preset that fits with the smallest upload.

    Args:
        length: coordinates of a vector.
        sum_bound: no coordinate of a sum exceeds it, noise included.
        cohort: the most clients in a sum.
        keys: the key model; :class:`KeyAuthority` unless given.
        schemes: which to choose from. Paillier packs more tightly than the others under public keys and takes hundreds
            of times as long, so that it is chosen only where it is named.
        security_bits: the least level.

    Raises:
        PlanError: none fits; says of each why not.
    """
    demand = Demand.of(sum_bound=sum_bound, length=length, cohort=cohort, keys=keys or KeyAuthority())
    named = set(schemes)
    candidates = [one for one in PRESETS.values() if one.scheme in named and one.security_bits >= security_bits]
    return smallest(candidates, demand)


def smallest(candidates: Sequence[AnyPreset], demand: Demand) -> AnyPreset:
    """The one that fits with the smallest upload. Raises PlanError: none fits."""
    reasons, fitting = [], []
    for preset in candidates:
        try:
            preset.check(demand)
        except PlanError as error:
            reasons.append((preset.name, error))
        else:
            fitting.append(preset)
    if fitting:
        return min(fitting, key=lambda preset: preset.upload_bytes(demand))
    if len(reasons) == 1:
        raise reasons[0][1]
    raise PlanError(
        "Every sum of a plan fits into a preset.",
        value=f"sums of {demand.cohort} vectors of {demand.length} coordinates within ±{demand.largest}",
        remedy=" ".join(f"{name}: {error}" for name, error in reasons)
        or "Name a scheme, or a lower level of security.",
    )


def for_scheme(preset: str | lattice.Parameters, scheme: Scheme) -> tuple[LatticePreset, ...]:
    """The presets that a description permits: one, or with "auto" each of its scheme.

    Raises:
        ConfigurationError: no preset or parameters of this scheme.
    """
    own = {one.name: one for one in PRESETS.values() if isinstance(one, LatticePreset) and one.scheme == scheme}
    other = PRESETS.get(preset) if isinstance(preset, str) else None
    if preset == "auto":
        return tuple(own.values())
    if isinstance(preset, str) and preset in own:
        return (own[preset],)
    if isinstance(preset, lattice.CKKSParameters | lattice.BFVParameters):
        made = LatticePreset(parameters=preset)
        if made.scheme == scheme:
            return (made,)
    raise ConfigurationError(
        f"A preset of {scheme} is a name or {scheme}Parameters.",
        value=preset,
        remedy=(f"That one is {other.call}; here use" if other else "Use")
        + f" one of {['auto', *own]}, or parameters of your own.",
    )


def table(presets: Iterable[LatticePreset | PaillierPreset] | None = None) -> list[dict[str, str | int | float]]:
    """One row for each preset, ready for ``pandas.DataFrame``: security, capacity, bytes for each coordinate.

    Capacities are those of a million coordinates under a public key, whose ciphertexts are noisier than seeded ones.
    """
    authority, shared = KeyAuthority(), SharedClientKey()
    return [
        {
            "preset": one.name,
            "scheme": one.scheme,
            "security_bits": one.security_bits,
            "parameters": one.text,
            "value_bits_10": one.value_bits(cohort=10),
            "value_bits_100": one.value_bits(cohort=100),
            "largest_cohort_16": one.largest_cohort(bits=16),
            "bytes_public": one.bytes_per_parameter(keys=authority),
            "bytes_shared": one.bytes_per_parameter(keys=shared),
            "bytes_aggregate": one.aggregate_bytes_per_parameter(),
        }
        for one in (PRESETS.values() if presets is None else presets)
    ]


def _values(bits: int, cohort: int, length: int, keys: KeyModel | None) -> Demand:
    """So many clients' values of so many bits, sign included."""
    sum_bound = cohort * (2 ** (bits - 1) - 1)
    return Demand.of(sum_bound=sum_bound, length=length, cohort=cohort, keys=keys or KeyAuthority())


def _fits(preset: Preset, bits: int, cohort: int, length: int, keys: KeyModel | None) -> bool:
    demand = _values(bits, cohort, length, keys)
    try:
        bounded(demand.largest)
        preset.check(demand)
    except PlanError:
        return False
    return True


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number in low … high for which a falling condition holds; 0 where it never does."""
    if not holds(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
