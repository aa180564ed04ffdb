"""Who holds what: clients with their records, one public test set, and the way from there to the baselines."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Examples: TypeAlias = npt.NDArray[np.float32]
"""``[m, …] float32``: one example per row."""
Labels: TypeAlias = npt.NDArray[np.int64]
"""``[m] int64``: class labels, 0 … classes − 1."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Client:
    """One data holder and its records, read-only.

    Args:
        index: its place in the federation, 0 … n − 1.
        name: ``"17"``, or ``"cleveland"``.
        x: ``[m, …]``; kept as float32, m ≥ 1.
        y: ``[m]``; kept as int64 class labels.

    Raises:
        DataError: no records, x and y of different lengths, a number that is not finite, a label that is no class.
    """

    index: int
    name: str
    x: Examples
    y: Labels

    def __post_init__(self) -> None:
        x, y = check_records(self.x, self.y, f"client {self.name!r}")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Client(index={self.index}, name={self.name!r}, records={len(self)})"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Federation:
    """Clients and the test set on which the model is measured; immutable.

    The simulator holds it whole. What a party of a protocol sees of it is said by the plan's threat model.

    Args:
        name: of the data set; goes into tables.
        clients: at least one, with indices 0 … n − 1 in order and names of their own.
        test_x: ``[t, …] float32``, t ≥ 1; nobody trains on it.
        test_y: ``[t] int64``.
        classes: how many classes there are, at least 2.
        notes: what the preparation leaks between clients, a sentence each.
        test_groups: ``[t] int64`` where the test set has parts (one per hospital): indices into ``test_names``.
        test_names: the names of those parts.

    Raises:
        DataError: the parts do not go together.
    """

    name: str
    clients: tuple[Client, ...]
    test_x: Examples
    test_y: Labels
    classes: int
    notes: tuple[str, ...] = ()
    test_groups: Labels | None = None
    test_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "clients", tuple(self.clients))
        object.__setattr__(self, "notes", tuple(self.notes))
        object.__setattr__(self, "test_names", tuple(self.test_names))
        x, y = check_records(self.test_x, self.test_y, "the test set")
        object.__setattr__(self, "test_x", x)
        object.__setattr__(self, "test_y", y)
        if not self.clients:
            raise DataError("A federation has at least one client.", value=0, remedy="Give clients=[Client(...), ...].")
        if self.classes < 2:
            raise DataError(
                "A federation has at least two classes.",
                value=self.classes,
                remedy="With one class there is nothing to learn; give data with two or more.",
            )
        if [client.index for client in self.clients] != list(range(len(self.clients))):
            raise DataError("Clients have the indices 0 … n − 1, in order.", remedy="Number them by their position.")
        if len({client.name for client in self.clients}) != len(self.clients):
            raise DataError("Each client has a name of its own.", remedy="Rename the clients that share one.")
        for holder, examples, labels in [(c.name, c.x, c.y) for c in self.clients] + [("the test set", x, y)]:
            if examples.shape[1:] != self.shape:
                raise DataError(
                    f"All examples have one shape, here {self.shape}.",
                    value=(holder, examples.shape[1:]),
                    remedy="Bring all parts to the same features.",
                )
            if labels.max() >= self.classes:
                raise DataError(
                    f"Labels are 0 … {self.classes - 1} where classes={self.classes}.",
                    value=(holder, int(labels.max())),
                    remedy="Number the classes from 0, or give a larger classes=.",
                )
        self._check_groups()

    def _check_groups(self) -> None:
        if self.test_groups is None:
            if self.test_names:
                raise DataError("test_names name the parts in test_groups.", remedy="Give both, or neither.")
            return
        groups = frozen_array(self.test_groups, np.int64)
        object.__setattr__(self, "test_groups", groups)
        if groups.shape != self.test_y.shape or groups.min() < 0 or groups.max() >= len(self.test_names):
            raise DataError(
                "test_groups holds one index into test_names for each test record.",
                value=(groups.shape, len(self.test_names)),
                remedy="Give test_groups of the length of test_y, and a name for each part.",
            )

    def __len__(self) -> int:
        """The number of clients."""
        return len(self.clients)

    def __repr__(self) -> str:
        return (
            f"Federation(name={self.name!r}, clients={len(self)}, records={int(self.sizes.sum())}, "
            f"test={len(self.test_y)}, shape={self.shape}, classes={self.classes})"
        )

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """``[n] int64``: records per client."""
        return np.array([len(client) for client in self.clients], dtype=np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example, e.g. ``(64,)`` or ``(1, 28, 28)``."""
        return self.clients[0].x.shape[1:]

    @property
    def label_counts(self) -> npt.NDArray[np.int64]:
        """``[n, classes] int64``: records of each class at each client."""
        return np.stack([np.bincount(client.y, minlength=self.classes) for client in self.clients]).astype(np.int64)

    @property
    def skew(self) -> npt.NDArray[np.float64]:
        """``[n] float64`` in [0, 1): total variation distance of each client's label shares from those of all data."""
        counts = self.label_counts
        shares = counts / counts.sum(axis=1, keepdims=True)
        pooled = counts.sum(axis=0) / counts.sum()
        distance: npt.NDArray[np.float64] = 0.5 * np.abs(shares - pooled).sum(axis=1)
        return distance

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the data and of who holds it: sizes, records, labels and test set; not of names.

        Saved with results, so that two runs can be known to be over the same data.
        """
        digest = hashlib.sha256(f"fedpriv/federation/v1|{self.classes}|{self.shape}|{len(self)}".encode())
        groups = np.zeros(0, dtype=np.int64) if self.test_groups is None else self.test_groups
        parts = [(client.x, client.y) for client in self.clients] + [(self.test_x, self.test_y)]
        for x, y in parts:
            digest.update(f"|{len(y)}|".encode())
            digest.update(np.ascontiguousarray(x, dtype="<f4").tobytes())
            digest.update(np.ascontiguousarray(y, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(groups, dtype="<i8").tobytes())
        return digest.hexdigest()

    def pooled(self) -> Federation:
        """All clients' records at one client: the centralised baseline, over the same test set."""
        everything = Client(
            index=0,
            name="pooled",
            x=np.concatenate([client.x for client in self.clients]),
            y=np.concatenate([client.y for client in self.clients]),
        )
        return replace(self, name=f"{self.name} (pooled)", clients=(everything,))

    def only(self, client: int | str) -> Federation:
        """One client by itself, over the same test set: what it could learn alone.

        Args:
            client: its index, or its name.

        Raises:
            DataError: no such client.
        """
        for candidate in self.clients:
            if client in (candidate.name, candidate.index) and not isinstance(client, bool):
                alone = replace(candidate, index=0)
                return replace(self, name=f"{self.name} ({candidate.name} alone)", clients=(alone,))
        names = ", ".join(candidate.name for candidate in self.clients[:5]) + (", …" if len(self) > 5 else "")
        raise DataError(
            "No client has this index or name.",
            value=client,
            remedy=f"Use an index from 0 to {len(self) - 1}, or one of the names {names}.",
        )

    def test_of(self, part: str) -> tuple[Examples, Labels]:
        """The examples and labels of one part of the test set, e.g. of one hospital.

        Raises:
            DataError: the test set has no such part.
        """
        if self.test_groups is None or part not in self.test_names:
            raise DataError(
                "The test set has no part of this name.",
                value=part,
                remedy=f"Parts are {', '.join(self.test_names) or 'not recorded for this federation'}.",
            )
        inside = self.test_groups == self.test_names.index(part)
        return self.test_x[inside], self.test_y[inside]

    def summary(self) -> pd.DataFrame:
        """One row per client: its number of records, the share of each class, and its label skew (see :attr:`skew`).

        A researcher's view, from outside the protocol: in a real federation nobody holds this table.
        """
        from fedpriv.data.describe import summary

        return summary(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw each client's records as a stack of classes: heights show sizes, colours show label skew.

        Args:
            ax: where to draw; a figure of its own where it is left out.
        """
        from fedpriv.data.describe import plot

        return plot(self, ax)


def frozen_array(values: npt.ArrayLike, dtype: type[np.generic]) -> npt.NDArray[np.generic]:
    """These values as a contiguous read-only array of this type; copied unless they are one already."""
    given = np.asarray(values)
    if given.dtype == dtype and given.flags.c_contiguous and not given.flags.writeable:
        return given
    copy = np.array(given, dtype=dtype, order="C")
    copy.flags.writeable = False
    return copy


def check_records(x: npt.ArrayLike, y: npt.ArrayLike, holder: str) -> tuple[Examples, Labels]:
    """Examples and labels as read-only ``[m, …] float32`` and ``[m] int64``.

    Args:
        x: numbers, one example per row.
        y: one class label for each.
        holder: who holds them, for the message.

    Raises:
        DataError: no records, different lengths, a number that is not finite, a label that is no class.
    """
    labels = check_labels(y, holder)
    examples = np.asarray(x)
    if examples.dtype.kind not in "fiub":
        raise DataError(
            f"Examples are real numbers ({holder}).",
            value=str(examples.dtype),
            remedy="Encode text and categories as numbers first.",
        )
    if examples.ndim < 2 or len(examples) != len(labels):
        raise DataError(
            f"x is [m, …] and y is [m], with the same m ({holder}).",
            value=(examples.shape, labels.shape),
            remedy="Give one label per example; write a single feature as [m, 1].",
        )
    with np.errstate(over="ignore"):
        frozen = frozen_array(examples, np.float32)
    if not np.isfinite(frozen).all():
        bad = int((~np.isfinite(frozen)).reshape(len(frozen), -1).any(axis=1).sum())
        raise DataError(
            f"Every number in x is finite in float32 ({holder}).",
            value=f"{bad} of {len(frozen)} records with NaN or infinity",
            remedy="Impute or drop missing values before the split.",
        )
    return frozen, labels  # type: ignore[return-value]


def check_labels(y: npt.ArrayLike, holder: str) -> Labels:
    """Labels as a read-only ``[m] int64``, m ≥ 1.

    Raises:
        DataError: empty, not one-dimensional, missing, not whole, or negative.
    """
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise DataError(f"y is [m] ({holder}).", value=labels.shape, remedy="Give one class label per example.")
    if len(labels) == 0:
        raise DataError(
            f"There is at least one record ({holder}).", value=0, remedy="Leave empty clients out, or give them data."
        )
    if labels.dtype.kind not in "fiub":
        raise DataError(
            f"Labels are integers ({holder}).",
            value=str(labels.dtype),
            remedy="Number the classes 0, 1, …, e.g. with np.unique(y, return_inverse=True)[1].",
        )
    if not np.isfinite(labels).all():
        raise DataError(f"No label is missing ({holder}).", value="NaN", remedy="Drop the records without a label.")
    bad = (labels != np.floor(labels)) | (labels < 0) | (labels >= 2**31)
    if bad.any():
        raise DataError(
            f"Labels are integers from 0 to 2^31 − 1 ({holder}).",
            value=labels[bad][0].item(),
            remedy="Number the classes 0, 1, …, e.g. with np.unique(y, return_inverse=True)[1].",
        )
    return frozen_array(labels, np.int64)  # type: ignore[return-value]
