"""Where randomness comes from: keyed streams for simulation, the operating system for secrets.

Two kinds that never mix. :class:`Streams` makes a run reproducible: partition, initialisation, sampling, batches,
dropouts and, with ``noise="seeded"``, the noise of a simulated mechanism. :func:`secret_bytes` is the only door to
secrets: it reads the operating system's generator and nothing seeds it.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISeedSequence

from fedpriv.errors import ConfigurationError

NoiseSource: TypeAlias = Literal["seeded", "os"]
"""``"seeded"``: reproducible, its ε is of the simulated mechanism. ``"os"``: the operating system's generator."""


@dataclass(frozen=True)
class Streams:
    """Independent generators, one for each (purpose, round, client), all derived from one seed.

    A stream depends on nothing else: not on the order of calls, the cohort, or which worker asks. Its generator
    (PCG64 DXSM) starts from the 256 bits of SHA-256 over (seed, purpose, round, client), its increment included, so
    two streams that meet would be a collision of the hash.

    Args:
        seed: the run's seed, any non-negative integer. There is no default.
    """

    seed: int

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise ConfigurationError(
                "A seed is a non-negative integer.", value=self.seed, remedy="Pass seed=0, or any other."
            )

    def generator(self, purpose: str, round: int = 0, client: int = 0) -> np.random.Generator:
        """The generator of this purpose, round and client; equal arguments give equal streams."""
        return self.generators(purpose, round, [client])[0]

    def generators(self, purpose: str, round: int, clients: Sequence[int]) -> Sequence[np.random.Generator]:
        """One generator for each client, in their order; each is made when it is first asked for."""
        return _Generators(f"fedpriv/stream/v2|{int(self.seed)}|{purpose}|{round}|".encode(), clients)

    def integer(self, purpose: str, round: int = 0, client: int = 0) -> int:
        """A 63-bit integer, to seed a generator that is not numpy's (torch's)."""
        return int(self.generator(purpose, round, client).integers(0, 2**63))


class _Generators(Sequence[np.random.Generator]):
    """Generators that cost nothing until they are used: most mechanisms draw nothing for most clients."""

    def __init__(self, prefix: bytes, clients: Sequence[int]) -> None:
        self._common = hashlib.sha256(prefix)  # hashed once for all clients
        self._clients = clients
        self._made: list[np.random.Generator | None] = [None] * len(clients)

    def __len__(self) -> int:
        return len(self._made)

    @overload
    def __getitem__(self, index: int) -> np.random.Generator: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[np.random.Generator]: ...
    def __getitem__(self, index: int | slice) -> np.random.Generator | Sequence[np.random.Generator]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        made = self._made[index]
        if made is None:
            state = self._common.copy()
            state.update(str(int(self._clients[index])).encode())
            start = _Start(np.frombuffer(state.digest(), dtype="<u8"))
            made = np.random.Generator(np.random.PCG64DXSM(start))  # type: ignore[arg-type]  # numpy's stubs lack it
            self._made[index] = made
        return made


class _Start(ISeedSequence):
    """Starts a generator in a given state, where numpy's own seed sequences hash once more."""

    def __init__(self, words: npt.NDArray[np.uint64]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: npt.DTypeLike = np.uint32) -> npt.NDArray[np.uint64]:
        return self._words[:n_words]


def secret_bytes(length: int) -> bytes:
    """``length`` bytes from the operating system's generator."""
    return os.urandom(length)


def os_gaussian(size: int) -> npt.NDArray[np.float64]:
    """``[size] float64`` standard normal draws from the operating system's generator (Box and Muller 1958).

    Does not hide: the low-order bits of floating-point noise (Mironov 2012). Callers round the noise to the codec's
    grid before they add it.
    """
    pairs = -(-size // 2)
    words = np.frombuffer(secret_bytes(16 * pairs), dtype="<u8").reshape(2, pairs)
    uniform = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # exact, in (0, 1): never 0
    radius = np.sqrt(-2.0 * np.log(uniform[0]))
    angle = 2.0 * math.pi * uniform[1]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]


def os_words(size: int) -> npt.NDArray[np.uint64]:
    """``[size] uint64`` uniform words from the operating system's generator."""
    return np.frombuffer(secret_bytes(8 * size), dtype="<u8").astype(np.uint64, copy=False)


@dataclass(frozen=True, repr=False)
class Noise:
    """One party's randomness for the noise of one round. What it gave is never given again."""

    words: Callable[[int], npt.NDArray[np.uint64]]
    """``n`` → ``[n] uint64`` uniform words: exact samplers draw from these."""
    normal: Callable[[int], npt.NDArray[np.float64]]
    """``n`` → ``[n] float64`` standard normal draws."""


def noise(source: NoiseSource, streams: Streams, purpose: str, round: int, client: int = 0) -> Noise:
    """The randomness of a noise source for one purpose, round and client."""
    return noises(source, streams, purpose, round, [client])[0]


def noises(source: NoiseSource, streams: Streams, purpose: str, round: int, clients: Sequence[int]) -> Sequence[Noise]:
    """One source for each client, in their order; a client that draws nothing costs nothing.

    Raises:
        ConfigurationError: an unknown source.
    """
    if source == "os":
        return [_OS_NOISE] * len(clients)
    if source == "seeded":
        return _Seeded(streams.generators(purpose, round, clients))
    raise ConfigurationError(
        'noise is "seeded" or "os".', value=source, remedy='Use noise="seeded" for studies, noise="os" for a claim.'
    )


_OS_NOISE = Noise(words=os_words, normal=os_gaussian)


class _Seeded(Sequence[Noise]):
    """Of keyed streams, each of which is started when it is first drawn from."""

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = generators

    def __len__(self) -> int:
        return len(self._generators)

    @overload
    def __getitem__(self, index: int) -> Noise: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Noise]: ...
    def __getitem__(self, index: int | slice) -> Noise | Sequence[Noise]:
        if isinstance(index, slice):
            return _Seeded(self._generators[index])
        held, place = self._generators, range(len(self))[index]  # past the end: IndexError now, where iteration ends
        return Noise(
            words=lambda size: held[place].bit_generator.random_raw(size),
            normal=lambda size: held[place].standard_normal(size),
        )
