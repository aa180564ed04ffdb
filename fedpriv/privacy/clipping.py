"""Clip the whole payload to an L2 norm and round it to the grid so that the integers obey the same bound, exactly."""

from __future__ import annotations

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
    over = _exceeds(integers, codec.bound)
    while over.size:
        integers[over] = np.trunc(scaled[over]).astype(np.int64)
        scaled[over] *= _SHRINK  # only matters where the clip itself overshot by a rounding error: next pass
        over = over[_exceeds(integers[over], codec.bound)]
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


def _exceeds(integers: Integers, bound: int) -> npt.NDArray[np.intp]:
    limit = bound * bound
    return np.flatnonzero([square > limit for square in squared_norms(integers)])
