"""What CKKS and BFV share as aggregators: everything but the scheme's arithmetic.

A vector is cut into chunks of n − 1 coordinates, one ciphertext each. The last slot of each counts: every client
encrypts a 1 there, and whoever decrypts checks that the sum is the number of contributors that the server names. It
finds slips (a ciphertext added twice or not at all), not lies. The last chunk is padded with zeros, and padding that
decrypts to anything else is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import ClassVar

import numpy as np

from fedpriv.aggregation.homomorphic.costs import PROBES, Rates, Volume, measure, probe, rows
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.homomorphic.fitting import Demand, chunks, code_for, data_slots
from fedpriv.aggregation.homomorphic.keys import KeyAuthority, KeyModel, check_keys
from fedpriv.aggregation.homomorphic.parts import bounded
from fedpriv.aggregation.homomorphic.presets import LatticePreset, Scheme, for_scheme, smallest
from fedpriv.aggregation.protocol import Terms
from fedpriv.crypto import lattice
from fedpriv.encoding import Bounded, Domain, Integers
from fedpriv.errors import DecryptionFailed
from fedpriv.network import StageCost
from fedpriv.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class LatticeAggregator:
    """An aggregator over a lattice scheme; see :class:`CKKS` and :class:`BFV`.

    Args:
        keys: who holds the secret key.
        preset: ``"auto"`` for the smallest that fits the plan, a name, or parameters.
    """

    scheme: ClassVar[Scheme]
    reference: ClassVar[str]

    keys: KeyModel = field(default_factory=KeyAuthority)
    preset: str | lattice.Parameters = "auto"

    def __post_init__(self) -> None:
        check_keys(self.keys)
        for_scheme(self.preset, self.scheme)

    @property
    def threat_model(self) -> ThreatModel:
        rings = " or ".join(preset.text for preset in for_scheme(self.preset, self.scheme))
        level = f"{lattice.SECURITY_BITS}-bit security by the HomomorphicEncryption.org table"
        return self.keys.threat_model(
            assumptions=(f"Ring-LWE is hard at {rings} ({level}).",), reference=self.reference
        )

    def domain(self, *, sum_bound: int, length: int, cohort: int) -> Domain:
        """Integers within ±sum_bound.

        Raises:
            PlanError: under no permitted preset are such sums proved to be exact; names what fits.
        """
        domain = bounded(sum_bound)
        self.preset_for(Demand.of(sum_bound=sum_bound, length=length, cohort=cohort, keys=self.keys))
        return domain

    def least_contributors(self, cohort: int) -> int:
        """The key model's minimum."""
        return self.keys.least_contributors(cohort)

    def deploy(self, terms: Terms) -> HomomorphicDeployment:
        """Make the key: every client gets the public half, or the whole where the key model says so.

        Raises:
            PlanError: the terms do not fit, see :meth:`domain`.
        """
        code = self._code(terms)
        if self.keys.clients_hold_secret:
            shared = lattice.SharedSecretKey(code)
            return self._deployment(terms, shared, shared, shared.key_bytes)
        secret = lattice.SecretKey(code)
        return self._deployment(terms, secret, secret.public, len(secret.public.to_bytes()))

    def estimate(self, terms: Terms, cohort: int) -> tuple[StageCost, ...]:
        """From a real round with three clients and one ciphertext each; ciphertext sizes vary by a few bytes."""
        code = self._code(terms)
        count = chunks(code.parameters, terms.length)
        rates = _rates(replace(self, keys=probe(self.keys), preset=code.parameters))
        return rows(rates, Volume(ciphertexts=count, chunks=count), cohort, self.keys)

    def preset_for(self, demand: Demand) -> LatticePreset:
        """The preset that a plan gets. Raises PlanError: none fits."""
        return smallest(for_scheme(self.preset, self.scheme), demand)

    def _code(self, terms: Terms) -> lattice.Code:
        demand = Demand.of_terms(terms, self.keys)
        return code_for(self.preset_for(demand).parameters, demand)

    def _deployment(
        self,
        terms: Terms,
        secret: lattice.SecretKey,
        held: lattice.PublicKey | lattice.SharedSecretKey,
        key_bytes: int,
    ) -> HomomorphicDeployment:
        """The parts, dealt out; clients encrypt with the key that they hold."""
        code = held.code
        return HomomorphicDeployment(
            scheme=self.scheme,
            keys=self.keys,
            terms=terms,
            parameters=code.digest(),
            key_id=held.key_id,
            key_bytes=key_bytes,
            chunks=chunks(code.parameters, terms.length),
            encryptor=LatticeEncryptor(held),
            adder=LatticeAdder(code),
            decryptor=LatticeDecryptor(secret, terms.length),
        )


class LatticeEncryptor:
    """The key that a client encrypts with: the public one, or the one that all clients share."""

    def __init__(self, key: lattice.PublicKey | lattice.SharedSecretKey) -> None:
        self._key = key

    def encrypt(self, vector: Integers) -> Iterator[bytes]:
        width = data_slots(self._key.code.parameters)
        for start in range(0, len(vector), width):
            piece = vector[start : start + width]
            slots = np.zeros(width + 1, dtype=np.int64)
            slots[: len(piece)] = piece
            slots[-1] = 1
            yield self._key.encrypt(slots)


class LatticeAdder:
    """Adds in place. Holds parameters only."""

    def __init__(self, code: lattice.Code) -> None:
        self._adder = lattice.Adder(code)
        self._opened: tuple[bytes, lattice.Ciphertext] | None = None

    def load(self, payload: bytes) -> lattice.Ciphertext:
        opened, self._opened = self._opened, None
        return opened[1] if opened is not None and opened[0] is payload else self._adder.load(payload)

    def add(self, total: lattice.Ciphertext, other: lattice.Ciphertext) -> lattice.Ciphertext:
        self._adder.add(total, other)
        return total

    def dump(self, total: lattice.Ciphertext) -> bytes:
        return total.to_bytes()

    def seed_of(self, payload: bytes) -> bytes | None:
        """Known once the ciphertext is open, which is kept for :meth:`load`."""
        opened = self._adder.load(payload)
        self._opened = (payload, opened)
        return opened.seed


class LatticeDecryptor:
    """The secret key. ``repr`` shows the key's name."""

    def __init__(self, key: lattice.SecretKey, length: int) -> None:
        self._key, self._length = key, length

    def __repr__(self) -> str:
        return f"<LatticeDecryptor with {self._key!r}>"

    def decrypt(self, payloads: Sequence[bytes], contributors: int) -> Integers:
        pieces = []
        for payload in payloads:
            slots = self._key.decrypt(payload, additions=contributors, ciphertexts=len(payloads))
            if slots[-1] != contributors:
                raise DecryptionFailed(
                    "The counting slot equals the number of contributors.",
                    value=f"{contributors} named",
                    remedy="A ciphertext was added twice, not at all, or under another key; discard the attempt.",
                )
            pieces.append(slots[:-1])
        total = np.concatenate(pieces)
        if total[self._length :].any():
            raise DecryptionFailed(
                "Padding decrypts to zeros.", remedy="The key or the additions are wrong; discard the attempt."
            )
        return total[: self._length]


@cache
def _rates(aggregator: LatticeAggregator) -> Rates:
    (preset,) = for_scheme(aggregator.preset, aggregator.scheme)
    length = data_slots(preset.parameters)
    terms = Terms(length=length, input_bound=1, cohort=PROBES, domain=Bounded(PROBES))
    return measure(aggregator.deploy(terms), aggregator.keys, length)
