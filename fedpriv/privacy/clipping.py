"""Clip the whole payload to an L2 norm and round it to the grid so that the integers obey the same bound, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedpriv.encoding import FixedPoint, Integers, Reals, require_finite

_SHRINK = 1.0 - 2.0**-40
"""Takes back what float64 can have added to a norm (relative error far below 2^-40)."""


class Clipped(NamedTuple):
    """What :func:`clip_rows` returns."""

    values: Reals
    """``[n, d] float64``, each row's norm at most clip_norm up to float64 rounding."""
    clipped: npt.NDArray[np.bool_]
    """``[n]``: which rows were scaled down."""


def clip_rows(rows: Reals, clip_norm: float) -> Clipped:
    """Scale each row down to L2 norm clip_norm where it is longer: ``[n, d]`` → ``[n, d]``.

    Raises:
        NonFiniteInput: NaN or infinity.
    """
    rows = np.asarray(rows, dtype=np.float64)
    require_finite(rows)
    if rows.size == 0:
        return Clipped(rows.copy(), np.zeros(rows.shape[0], dtype=np.bool_))
    # Divided by the largest coordinate first, so that squares neither overflow nor vanish.
    largest = np.abs(rows).max(axis=1)
    safe = np.where(largest > 0, largest, 1.0)
    unit = rows / safe[:, None]
    length = np.sqrt(np.einsum("ij,ij->i", unit, unit))  # norm / largest, in [1, sqrt(d)]
    over = largest > clip_norm / np.maximum(length, 1.0)
    scale = np.where(over, clip_norm / np.maximum(length, 1.0), 1.0)
    return Clipped(np.where(over[:, None], unit, rows) * scale[:, None], over)


def round_within(rows: Reals, codec: FixedPoint) -> Integers:
    """Conditional rounding: ``[n, d]`` clipped rows → integers with Σ k² ≤ bound² in every row.

    Each row is rounded to the nearest grid point. Where that pushes the integer vector's norm over the bound, the row
    is truncated towards zero instead, which can only shorten it. The comparison is made in exact integers, so the
    integer sum has L2 sensitivity ``bound``, i.e. clip_norm on the grid of step clip_norm / bound: the rounding costs
    no extra noise. (Kairouz, Liu and Steinke 2021, section 4.1, condition a stochastic rounding in the same spirit,
    with a norm bound that is inflated.)
    """
    scaled = rows / codec.step
    integers = np.rint(scaled).astype(np.int64)
    over = _longer(integers, codec.bound**2)
    while over.size:
        integers[over] = np.trunc(scaled[over]).astype(np.int64)
        scaled[over] *= _SHRINK  # only matters where the clip itself overshot by a rounding error: next pass
        over = over[_longer(integers[over], codec.bound**2)]
    return integers


def rounded_norm(norm: float, dimension: int, beta: float) -> float:
    """L2 bound of a vector of L2 norm ``norm`` whose coordinates are rounded up or down at random, without bias.

    Without conditioning a rounded vector exceeds it with probability at most ``beta``, in [0, 1); with 0, never.

    Reference: Kairouz, Liu and Steinke 2021, section 4.1.
    """
    certain = norm + math.sqrt(dimension)
    if beta == 0.0:
        return certain
    spread = math.sqrt(2.0 * math.log(1.0 / beta)) * (norm + 0.5 * math.sqrt(dimension))
    return min(certain, math.sqrt(norm * norm + 0.25 * dimension + spread))


def round_conditionally(
    rows: Reals, largest_square: int, words: Sequence[Callable[[int], npt.NDArray[np.uint64]]], attempts: int
) -> Integers:
    """Unbiased random rounding, redrawn until Σ k² ≤ largest_square: ``[n, d]`` → ``[n, d] int64``.

    Each coordinate is rounded up with the probability of its fractional part (to 2^-53), else down. A row that is too
    long after every attempt is truncated towards zero instead, and shrunk until it is not. The comparison is made in
    exact integers, so the bound holds for every row and every draw; that the redraws bias the rounding costs accuracy
    only.

    Args:
        rows: in units of the grid.
        largest_square: of a rounded row's L2 norm.
        words: each row's source of uniform 64-bit words.
        attempts: at least one.

    Reference: Kairouz, Liu and Steinke 2021, algorithm 1.
    """
    down = np.floor(rows)
    part = rows - down
    integers = down.astype(np.int64)
    left = np.arange(len(rows))
    for _ in range(attempts):
        if not left.size:
            return integers
        drawn = np.stack([words[i](rows.shape[1]) for i in left.tolist()])
        up = (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53 < part[left]
        integers[left] = down[left].astype(np.int64) + up
        left = left[_longer(integers[left], largest_square)]
    less = 0.0
    while left.size:
        integers[left] = np.trunc(rows[left] * (1.0 - less)).astype(np.int64)
        left = left[_longer(integers[left], largest_square)]
        less = min(1.0, 2.0 * less + 2.0**-40)
    return integers


def squared_norms(integers: Integers) -> list[int]:
    """Σ k² of each row of ``[n, d] int64``, exact for rows of a norm below 2^40 and d < 2^30.

    In halves k = 2^16 h + l, because k² alone can exceed what int64 sums hold.
    """
    high, low = integers >> 16, integers & 0xFFFF
    hh = np.einsum("ij,ij->i", high, high).tolist()
    hl = np.einsum("ij,ij->i", high, low).tolist()
    ll = np.einsum("ij,ij->i", low, low).tolist()
    return [(a << 32) + (b << 17) + c for a, b, c in zip(hh, hl, ll, strict=True)]


def _longer(integers: Integers, largest_square: int) -> npt.NDArray[np.intp]:
    return np.flatnonzero([square > largest_square for square in squared_norms(integers)])
