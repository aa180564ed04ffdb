"""Homomorphic aggregation under Paillier: exact integers, many lanes in one plaintext.

**Lanes.** A client's coordinate v, |v| ≤ A (its noise included), becomes the non-negative lane value
v + A ≤ 2A; anything else is refused before packing. Lanes are the digits of one plaintext, lane i times Bⁱ. They do not
wrap, they carry: a sum of B would damage the neighbour. With at most K contributors a lane's sum is at most 2AK, so
that with B = 2AK + 1 no lane ever carries, and the sum of L lanes is below Bᴸ. After decryption the holder of the key
takes the digits apart and subtracts A once for each *included* contributor. A is the terms' bound on a client's input.

**Counting.** Above the lanes stands a field of 64 bits to which every client adds 1. The plaintext stays below
Bᴸ · 2^64 ≤ 2^(bits − 1) ≤ n, so nothing wraps mod n. Who decrypts checks that the field equals the number of
contributors that the server names: under a wrong key it does so with probability below 2^-62, and a slip in the
additions shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from fedpriv.aggregation.homomorphic.costs import PROBES, Rates, Volume, measure, probe, rows
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.homomorphic.keys import KeyAuthority, KeyModel, check_keys
from fedpriv.aggregation.homomorphic.parts import bounded, check_terms
from fedpriv.aggregation.protocol import Terms
from fedpriv.crypto import paillier
from fedpriv.encoding import Bounded, Domain, Integers
from fedpriv.errors import DecryptionFailed, EncodingOverflow, MalformedMessage
from fedpriv.network import StageCost
from fedpriv.threat import ThreatModel

COUNTER_BITS = 64
MESSAGE_BYTES = 2**16
"""A message holds as many ciphertexts as fit into it, at least one."""


@dataclass(frozen=True, kw_only=True)
class Paillier:
    """Clients encrypt under Paillier, the server multiplies ciphertexts, whoever holds the secret key decrypts the sum.

    A coordinate takes about 2·(bits + log₂ cohort) bits, up and across, under every key model: there is no seed to send
    in a ciphertext's place. Slow: tens of milliseconds for a ciphertext of about a hundred coordinates.

    **Guarantees** The exact integer sum, or an error; lanes are proved not to carry. Every ciphertext is freshly
    randomised. Ciphertexts are computationally hidden, at 128 bits with a 3072-bit key, 112 bits with 2048.

    **Assumes** Decisional composite residuosity; honest encryptions and additions (IND-CPA plus correctness, nothing
    more). See the key model for the parties.

    **Does not hide** Vectors from the parties that together hold ciphertexts and key. Ciphertexts are malleable:
    nothing is claimed where someone crafts them and sees decryptions.

    **Reference** Paillier 1999 (scheme 1); Zhang et al. 2020, BatchCrypt (packing).

    Args:
        keys: who holds the secret key.
        key_bits: 3072 (128-bit security by NIST SP 800-57; the preset ``paillier-3072``), 4096, or 2048 (112-bit;
            ``paillier-2048``).

    Raises:
        ConfigurationError: not a key model; another key size.
    """

    keys: KeyModel = field(default_factory=KeyAuthority)
    key_bits: int = 3072

    def __post_init__(self) -> None:
        check_keys(self.keys)
        paillier.check_key_bits(self.key_bits)

    @property
    def security_bits(self) -> int:
        """The level by NIST SP 800-57 part 1, table 2."""
        return paillier.SECURITY_BITS[self.key_bits]

    @property
    def threat_model(self) -> ThreatModel:
        return self.keys.threat_model(
            assumptions=(f"Composite residuosity is hard: {self.key_bits} bits, {self.security_bits}-bit security.",),
            reference="Paillier 1999, scheme 1",
        )

    def domain(self, *, sum_bound: int, length: int, cohort: int) -> Domain:
        """Integers within ±sum_bound.

        Raises:
            PlanError: sums beyond 62 bits.
        """
        return bounded(sum_bound)

    def least_contributors(self, cohort: int) -> int:
        """The key model's minimum."""
        return self.keys.least_contributors(cohort)

    def deploy(self, terms: Terms) -> HomomorphicDeployment:
        """Make the key: every client gets the public half, or the whole where the key model says so.

        Raises:
            PlanError: the terms do not fit their domain.
        """
        check_terms(terms)
        shared = self.keys.clients_hold_secret
        secret = paillier.SharedSecretKey(self.key_bits) if shared else paillier.SecretKey(self.key_bits)
        lanes = Lanes.of(terms, secret.public.plaintext_bits)
        return HomomorphicDeployment(
            scheme="Paillier",
            keys=self.keys,
            terms=terms,
            parameters=repr((self.key_bits, lanes)).encode(),
            key_id=secret.public.key_id,
            key_bytes=len(secret.public.to_bytes()),  # two primes are as long as their product
            chunks=self._volume(lanes, terms.length).chunks,
            encryptor=PaillierEncryptor(secret.public, lanes),
            adder=PaillierAdder(secret.public),
            decryptor=PaillierDecryptor(secret, lanes, terms.length),
        )

    def estimate(self, terms: Terms, cohort: int) -> tuple[StageCost, ...]:
        """Bytes are exact; CPU seconds from a real round with three clients and one ciphertext each."""
        lanes = Lanes.of(terms, self.key_bits - 1)
        rates = _rates(replace(self, keys=probe(self.keys)))
        return rows(rates, self._volume(lanes, terms.length), cohort, self.keys)

    def _volume(self, lanes: Lanes, length: int) -> Volume:
        ciphertexts = -(-length // lanes.count)
        return Volume(ciphertexts=ciphertexts, chunks=-(-ciphertexts // _in_a_message(self.key_bits // 4)))


@dataclass(frozen=True)
class Lanes:
    """How coordinates share a plaintext."""

    offset: int
    """A: added to each coordinate, so that none is negative."""
    base: int
    """B: one more than the largest sum of a lane."""
    count: int
    """L: lanes in a plaintext."""

    @classmethod
    def of(cls, terms: Terms, plaintext_bits: int) -> Lanes:
        """The narrowest lanes that hold any sum of a cohort."""
        return cls.for_sums(offset=terms.input_bound, cohort=terms.cohort, plaintext_bits=plaintext_bits)

    @classmethod
    def for_sums(cls, *, offset: int, cohort: int, plaintext_bits: int) -> Lanes:
        """The narrowest lanes for so many coordinates within ±offset, noise included."""
        base, room = 2 * offset * cohort + 1, 1 << plaintext_bits - COUNTER_BITS
        count, power = 0, base
        while power <= room:
            count, power = count + 1, power * base
        return cls(offset=offset, base=base, count=count)

    def pack(self, vector: Integers) -> Iterator[int]:
        """``[length] int64`` → plaintexts, the last padded with zeros, the counter of each at 1.

        Raises:
            EncodingOverflow: a coordinate beyond ±offset would borrow from the next lane, or carry into it.
        """
        if np.abs(vector).max(initial=0) > self.offset:
            raise EncodingOverflow(
                f"A lane holds values within ±{self.offset}.", remedy="Clip and encode with the plan's codec."
            )
        padded = np.concatenate([vector, np.zeros(-len(vector) % self.count, dtype=np.int64)])
        for block in padded.reshape(-1, self.count).tolist():
            packed = 1
            for value in reversed(block):
                packed = packed * self.base + value + self.offset
            yield packed

    def unpack(self, plaintext: int, contributors: int) -> list[int]:
        """The sums of all lanes.

        Raises:
            DecryptionFailed: the counter is not the number of contributors.
        """
        counter, lanes = divmod(plaintext, self.base**self.count)
        if counter != contributors:
            raise DecryptionFailed(
                "The counter of a plaintext equals the number of contributors.",
                value=f"{contributors} named",
                remedy="A ciphertext was added twice, not at all, or under another key; discard the attempt.",
            )
        sums = []
        for _ in range(self.count):
            lanes, digit = divmod(lanes, self.base)
            sums.append(digit - contributors * self.offset)
        return sums


class PaillierEncryptor:
    """The public key, and how lanes are cut."""

    def __init__(self, key: paillier.PublicKey, lanes: Lanes) -> None:
        self._key, self._lanes = key, lanes

    def encrypt(self, vector: Integers) -> Iterator[bytes]:
        plaintexts = list(self._lanes.pack(vector))
        step = _in_a_message(self._key.ciphertext_bytes)
        for start in range(0, len(plaintexts), step):
            yield b"".join(map(self._key.encrypt, plaintexts[start : start + step]))


class PaillierAdder:
    """Multiplies ciphertexts mod n². Holds the public key only."""

    def __init__(self, key: paillier.PublicKey) -> None:
        self._key = key

    def seed_of(self, payload: bytes) -> None:
        """Paillier ciphertexts have no seed: they travel whole."""

    def load(self, payload: bytes) -> list[int]:
        return [self._key.load(part) for part in _cut(payload, self._key.ciphertext_bytes)]

    def add(self, total: list[int], other: list[int]) -> list[int]:
        if len(total) != len(other):
            raise _malformed(len(other))
        return [self._key.add(left, right) for left, right in zip(total, other, strict=True)]

    def dump(self, total: list[int]) -> bytes:
        return b"".join(map(self._key.dump, total))


class PaillierDecryptor:
    """The secret key, and how lanes are cut. ``repr`` shows the key's name."""

    def __init__(self, key: paillier.SecretKey, lanes: Lanes, length: int) -> None:
        self._key, self._lanes, self._length = key, lanes, length

    def __repr__(self) -> str:
        return f"<PaillierDecryptor with {self._key!r}>"

    def decrypt(self, payloads: Sequence[bytes], contributors: int) -> Integers:
        sums: list[int] = []
        for payload in payloads:
            for ciphertext in _cut(payload, self._key.public.ciphertext_bytes):
                sums += self._lanes.unpack(self._key.decrypt(ciphertext), contributors)
        if len(sums) != self._length + -self._length % self._lanes.count or any(sums[self._length :]):
            raise DecryptionFailed(
                "An aggregate holds every coordinate once, and its padding decrypts to zeros.",
                remedy="The key or the additions are wrong; discard the attempt.",
            )
        return np.array(sums[: self._length], dtype=np.int64)


def _in_a_message(ciphertext_bytes: int) -> int:
    return max(1, MESSAGE_BYTES // ciphertext_bytes)


def _cut(payload: bytes, size: int) -> list[bytes]:
    """The ciphertexts of a message; a broken last one is refused where it is loaded."""
    return [payload[start : start + size] for start in range(0, len(payload), size)]


def _malformed(found: int) -> MalformedMessage:
    return MalformedMessage(
        "A message holds whole ciphertexts, as many as the others of its chunk.",
        value=found,
        remedy="Drop the sender or the attempt.",
    )


@cache
def _rates(aggregator: Paillier) -> Rates:
    bound = 2**15
    terms = Terms(length=1, input_bound=bound, cohort=PROBES, domain=Bounded(PROBES * bound))
    length = Lanes.of(terms, aggregator.key_bits - 1).count
    return measure(aggregator.deploy(replace(terms, length=length)), aggregator.keys, length)
