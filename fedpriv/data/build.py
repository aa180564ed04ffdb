"""From a user's own arrays to a federation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.data.federation import Client, Federation, Labels, check_records
from fedpriv.data.partitions import IID, Indices, Natural, Partition
from fedpriv.errors import ConfigurationError, DataError
from fedpriv.randomness import Streams

Test: TypeAlias = float | tuple[npt.ArrayLike, npt.ArrayLike]
"""The share of records held out, or a test set of its own, ``(x, y)``."""


def federate(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    clients: int | npt.ArrayLike,
    partition: Partition | None = None,
    test: Test = 0.2,
    seed: int,
    classes: int | None = None,
    name: str = "custom",
    notes: Sequence[str] = (),
) -> Federation:
    """Deal records out to clients.

    The held-out records depend on the data, ``test`` and ``seed`` alone, so they are the same for every partition and
    number of clients. Each client keeps its records in their original order.

    Args:
        x: ``[m, …]`` numbers; kept as float32.
        y: ``[m]`` class labels from 0; kept as int64.
        clients: how many clients, or ``[m]`` owners (names or integers), one for each record. Owners become clients
            in sorted order.
        partition: how records are dealt out; ``IID()`` for a number of clients, ``Natural()`` for owners.
        test: the share of records held out, in (0, 1), rounded up; with owners, of each owner's records. Or a test
            set of its own, ``(x, y)``.
        seed: derives the held-out records and the partition.
        classes: how many classes there are; the largest label + 1 where it is left out.
        name: goes into tables.
        notes: what the preparation of x leaks between clients, a sentence each.

    Returns:
        A federation in which every record is at exactly one client or in the test set. With owners and a share held
        out, ``test_groups`` tells whose each test record was.

    Raises:
        DataError: NaN or infinity, lengths that differ, labels that are no classes, one class only (unless ``classes``
            says that there are more), more clients than records, a client without records.
        ConfigurationError: the seed is not a non-negative integer.
    """
    streams = Streams(seed)
    examples, labels = check_records(x, y, "x and y")
    count, owners, names = _owners(clients, len(labels))

    held_out = np.zeros(0, dtype=np.intp)
    if isinstance(test, tuple):
        test_x, test_y = check_records(*test, "the test set")
    else:
        held_out = _held_out(test, owners, len(labels), streams.generator("test split"))
        test_x, test_y = examples[held_out], labels[held_out]
    kept = np.setdiff1d(np.arange(len(labels)), held_out)

    if not len(kept):
        raise DataError(
            "Some records remain for training.",
            value=f"test={test!r} of {len(labels)} records with these owners",
            remedy="Give more records, a smaller share, or a test set of its own, test=(test_x, test_y).",
        )
    if classes is None:
        if len(np.unique(labels[kept])) < 2:
            raise DataError(
                "The clients' records have at least two classes.",
                value=f"only class {labels[kept][0]}",
                remedy="Give data with two classes or more; if others exist elsewhere, say so with classes=.",
            )
        classes = int(max(labels.max(), test_y.max())) + 1
    if count > len(kept):
        raise DataError(
            f"There are at least as many records as clients; {len(kept)} remain beside the test set.",
            value=count,
            remedy="Use fewer clients, a smaller test share, or more data.",
        )

    partition = partition or (IID() if owners is None else Natural())
    if isinstance(partition, type | str) or not hasattr(partition, "split"):
        raise ConfigurationError(
            "A partition is an object that splits records.",
            value=partition.__name__ if isinstance(partition, type) else partition,
            remedy="Give an instance: fp.data.IID(), Dirichlet(0.3), Shards(2) or Natural().",
        )
    groups = None if owners is None else owners[kept]
    parts = partition.split(labels[kept], count, streams.generator("partition"), groups)
    _check_parts(parts, count, len(kept), names)
    members = [kept[np.sort(part)] for part in parts]
    return Federation(
        name=name,
        clients=tuple(
            Client(index=index, name=names[index], x=examples[mine], y=labels[mine])
            for index, mine in enumerate(members)
        ),
        test_x=test_x,
        test_y=test_y,
        classes=classes,
        notes=tuple(notes),
        test_groups=owners[held_out] if owners is not None and len(held_out) else None,
        test_names=names if owners is not None and len(held_out) else (),
    )


def _owners(clients: int | npt.ArrayLike, records: int) -> tuple[int, Labels | None, tuple[str, ...]]:
    """The number of clients, each record's owner where it has one, and the clients' names."""
    if isinstance(clients, int | np.integer) and not isinstance(clients, bool):
        if clients < 1:
            raise DataError("There is at least one client.", value=clients, remedy="Give clients=10, say.")
        return int(clients), None, tuple(str(index) for index in range(clients))
    owners = np.asarray(clients)
    if owners.shape != (records,):
        raise DataError(
            "clients is a whole number, or one owner for each record.",
            value=clients if owners.ndim == 0 else owners.shape,
            remedy=f"Give clients=10, say, or a list of {records} owners.",
        )
    kinds = {type(owner) for owner in owners.tolist()}
    if kinds not in ({int}, {str}):
        raise DataError(
            "Owners are all integers or all strings.",
            value=sorted(kind.__name__ for kind in kinds),
            remedy="Name every record's owner; drop the records without one.",
        )
    found, inverse = np.unique(owners.astype(str) if kinds == {str} else owners, return_inverse=True)
    return len(found), inverse.astype(np.int64), tuple(str(owner) for owner in found)


def _held_out(test: object, owners: Labels | None, records: int, rng: np.random.Generator) -> Indices:
    """The positions of the test records, sorted."""
    if not isinstance(test, float | np.floating) or not 0 < test < 1:
        raise DataError(
            "test is a share of the records in (0, 1), or a pair of arrays (x, y).",
            value=type(test).__name__ if isinstance(test, list | np.ndarray) else test,
            remedy="Give test=0.2, say, or test=(test_x, test_y).",
        )
    pools = (
        [np.arange(records)]
        if owners is None
        else [np.flatnonzero(owners == owner) for owner in range(int(owners.max()) + 1)]
    )
    return np.sort(np.concatenate([rng.permutation(pool)[: math.ceil(float(test) * len(pool))] for pool in pools]))


def _check_parts(parts: Sequence[Indices], clients: int, records: int, names: Sequence[str]) -> None:
    """Hold a partition, maybe a user's own, to its word."""
    if len(parts) != clients:
        raise DataError(
            "A partition gives one array of positions per client.",
            value=len(parts),
            remedy=f"Return {clients} arrays from split().",
        )
    for name, part in zip(names, parts, strict=True):
        if len(part) == 0:
            raise DataError(
                "Every client holds at least one record beside the test set.",
                value=f"client {name!r} has none",
                remedy="Use fewer clients or a smaller test share, or leave that client out.",
            )
    dealt = np.concatenate([np.asarray(part) for part in parts])
    if dealt.dtype.kind not in "iu" or not np.array_equal(np.sort(dealt), np.arange(records)):
        raise DataError(
            f"A partition gives each of the positions 0 … {records - 1} to exactly one client.",
            remedy="Return every position once from split().",
        )
