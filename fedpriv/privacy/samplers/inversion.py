"""Exact draws of a unimodal law on the integers: a block by inversion, a place in it, and a coin.

The integers are cut into blocks of a power of two, from the mode outwards. Block k is drawn with probability
proportional to the largest value of the law in it, a place j in it uniformly, and x is kept with probability
p(x) / max p. With blocks of at most an eighth of a standard deviation 95 % and more are kept; with blocks of one
integer, for narrow laws, everything.

Both decisions compare a uniform real U with a real number v, and both are made as exact arithmetic makes them. Of U as
many bits are drawn as it takes, 64 to begin with; of v as many digits are computed as it takes. Floating point decides
only where it cannot err: where U and its v are further apart than a bound of all errors. Elsewhere (once in 2^40 draws
or so) intervals of integers decide, which shrink until they do. The law of what comes out is therefore the stated one,
with no distance to it, and floating point leaves no mark on it. Weights come as decimals and are fractions from there
on: arithmetic of decimals keeps 28 digits, or as many as the caller's context says.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.encoding import Integers, Reals

Words: TypeAlias = Callable[[int], npt.NDArray[np.uint64]]
"""``n`` → ``[n] uint64`` uniform words."""

_CHUNK = 1 << 14
_ROUNDING = 2.0**-46
"""Times (1 + |x - top|): bounds the error of a law's ``log_ratio`` and of exp, sixteenfold and more."""
_DIGITS = 40
"""Enough for 64-bit thresholds, nearly always."""


class Law(Protocol):
    """A unimodal, log-concave law on the integers."""

    def __hash__(self) -> int: ...
    @property
    def mode(self) -> int: ...
    @property
    def shift(self) -> int:
        """Blocks hold 2^shift integers."""
        ...

    def weight(self, x: int, digits: int) -> Decimal:
        """p(x) / p(mode), relative error below 10^-digits; 0 outside the support."""
        ...

    def log_ratio(self, x: Integers, top: Integers) -> Reals:
        """Log p(x) / p(top), to (1 + |x - top|) 2^-50; NaN where that cannot be had."""
        ...


def draw(law: Law, size: int, words: Words) -> Integers:
    """``[size] int64`` draws."""
    if size <= _CHUNK:
        return _draw(_table(law), size, words)
    out = np.empty(size, dtype=np.int64)
    for start in range(0, size, _CHUNK):
        part = out[start : start + _CHUNK]
        part[:] = _draw(_table(law), part.size, words)
    return out


def _draw(table: _Table, size: int, words: Words) -> Integers:
    kept: list[Integers] = []
    missing = size
    while missing:
        x = table.candidates(missing, words)
        kept.append(x)
        missing -= x.size
    return kept[0] if len(kept) == 1 else np.concatenate([np.empty(0, dtype=np.int64), *kept])


@dataclass(frozen=True, eq=False)
class _Table:
    law: Law
    first: int
    """The number of the block that entry 0 stands for."""
    thresholds: npt.NDArray[np.uint64]
    """The first 64 bits of the probability of this block or one before it; the first entry is 0, the last 2^64 - 1."""

    def candidates(self, size: int, words: Words) -> Integers:
        """Those of ``size`` candidates that are kept."""
        law = self.law
        block = self._blocks(words(size), words)
        bottom = law.mode + (block << law.shift)
        if not law.shift:
            return bottom
        word = words(size)
        place = (word >> np.uint64(64 - law.shift)).astype(np.int64)
        coin = word << np.uint64(law.shift)
        x = bottom + place
        top = np.where(block < 0, bottom + ((1 << law.shift) - 1), bottom)
        error = (1.0 + np.abs(x - top)) * _ROUNDING + 2.0 ** (law.shift - 63)
        ahead = np.exp(law.log_ratio(x, top)) - (coin >> np.uint64(11)).astype(np.float64) * 2.0**-53
        keep: npt.NDArray[np.bool_] = ahead > 0
        for i in np.flatnonzero(~(np.abs(ahead) > error)):  # a NaN is never decided here
            keep[i] = _kept(law, int(x[i]), int(top[i]), int(coin[i]) >> law.shift, 64 - law.shift, words)
        return x[keep]

    def _blocks(self, word: npt.NDArray[np.uint64], words: Words) -> Integers:
        """The block in whose range of probabilities the uniform real lies that begins with these 64 bits."""
        entry = np.searchsorted(self.thresholds, word)
        block = entry.astype(np.int64) + self.first
        for i in np.flatnonzero(self.thresholds[entry] == word):  # the bits that follow decide
            block[i] = _block(self.law, int(word[i]), words)
        return block


@lru_cache(maxsize=64)
def _table(law: Law) -> _Table:
    digits = _DIGITS
    while (table := _tabulated(law, _Cumulative.of(law, digits))) is None:
        digits *= 2
    return table


def _tabulated(law: Law, cumulative: _Cumulative) -> _Table | None:
    """None where some threshold's 64 bits are not settled at these digits."""
    bounds = [cumulative.bounds(k, 64) for k in range(len(cumulative.sums))]
    bounds.insert(0, (0, 0))  # nothing is below the support; below a table cut short less than 2^-64 is
    first = max(i for i, (_, high) in enumerate(bounds) if high == 0)
    last = next((i for i, (low, _) in enumerate(bounds) if low == 2**64 - 1), None)
    if last is None or any(low != high for low, high in bounds[first : last + 1]):
        return None
    thresholds = np.array([low for low, _ in bounds[first : last + 1]], dtype=np.uint64)
    return _Table(law, cumulative.first + first - 1, thresholds)


@dataclass(frozen=True)
class _Cumulative:
    """Sums of the blocks' weights, from below, in units of 10^-digits."""

    first: int
    sums: list[int]
    error: int
    """Each is short of the true sum by at most this."""

    @classmethod
    def of(cls, law: Law, digits: int) -> _Cumulative:
        """Until less than 10^-digits is left on either side."""
        up, down = _side(law, 0, 1, digits), _side(law, -1, -1, digits)
        sums = list(accumulate([*reversed(down), *up]))
        return cls(-len(down), sums, 2 * len(sums) + 2)

    def bounds(self, k: int, bits: int) -> tuple[int, int]:
        """⌊2^bits · P(block ≤ first + k)⌋ lies between these two."""
        low = (self.sums[k] << bits) // (self.sums[-1] + self.error)
        return low, ((self.sums[k] + self.error) << bits) // self.sums[-1]


def _side(law: Law, block: int, step: int, digits: int) -> list[int]:
    """Weights of the blocks on one side, each at most 2 units too small, until the rest sums to less than 1.

    The law is log-concave: weights fall at least geometrically from any block on, at the ratio that it has there.
    """
    weights: list[int] = []
    before = Fraction(1)  # of the mode, at whose side the first block lies
    while (weight := Fraction(law.weight(_top(law, block), digits + 5))) > 0:
        ratio = float(weight / before) * (1.0 + 1e-9)
        if ratio < 1.0 and weight * 10**digits < 0.99 * (1.0 - ratio):
            break
        weights.append(max(0, int(weight * 10**digits) - 1))
        before, block = weight, block + step
    return weights


def _top(law: Law, block: int) -> int:
    """Where the law is largest in this block: at the end that faces the mode."""
    bottom = law.mode + (block << law.shift)
    return bottom if block >= 0 else bottom + (1 << law.shift) - 1


def _block(law: Law, prefix: int, words: Words) -> int:
    """The block in which U lies, of which 64 bits are known: more of them until it is certain."""
    bits, digits = 64, _DIGITS
    while True:
        prefix, bits, digits = (prefix << 64) | int(words(1)[0]), bits + 64, digits + 20
        cumulative = _Cumulative.of(law, digits)
        k = bisect_left(range(len(cumulative.sums)), prefix, key=lambda k: cumulative.bounds(k, bits)[1])
        # U is in [prefix, prefix + 1) 2^-bits: not below the one before, and below this one.
        if k < len(cumulative.sums) and prefix < cumulative.bounds(k, bits)[0]:
            support_ends = law.weight(_top(law, cumulative.first - 1), 5) == 0
            if k > 0 or support_ends:
                return cumulative.first + k


def _kept(law: Law, x: int, top: int, prefix: int, bits: int, words: Words) -> bool:
    """Whether U < p(x) / p(top), where ``bits`` bits of U are known."""
    if x == top:
        return True
    digits = 20
    while True:
        at_x, at_top = Fraction(law.weight(x, digits + 5)), Fraction(law.weight(top, digits + 5))
        ratio = int(at_x / at_top * 10**digits) if at_x else -1
        # The ratio times 10^digits is in [ratio - 1, ratio + 2].
        if (prefix + 1) * 10**digits <= (ratio - 1) << bits:
            return True
        if prefix * 10**digits >= (ratio + 2) << bits or not at_x:
            return False
        prefix, bits, digits = (prefix << 64) | int(words(1)[0]), bits + 64, digits + 20
