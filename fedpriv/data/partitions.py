"""How records are dealt out to clients: evenly, by a Dirichlet draw, by sorted shards, or as they already lie.

Every partition here gives each record to exactly one client and leaves no client empty. :func:`federate` holds a
user's own partition to the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.data.federation import Labels
from fedpriv.errors import ConfigurationError, DataError

Indices: TypeAlias = npt.NDArray[np.intp]
"""``[k] intp``: positions of records."""

DIRICHLET_DRAWS = 1000
"""How often :class:`Dirichlet` draws before it gives up on ``min_size``."""


class Partition(Protocol):
    """Deals records to clients."""

    def split(
        self, y: Labels, clients: int, rng: np.random.Generator, groups: npt.NDArray[np.int64] | None
    ) -> list[Indices]:
        """The positions of each client's records; together they are each of 0 … m − 1 exactly once.

        Args:
            y: ``[m] int64``, the labels of all records.
            clients: how many clients there are.
            rng: the only randomness allowed.
            groups: ``[m] int64`` where each record already has an owner, 0 … clients − 1; otherwise None.

        Raises:
            DataError: the records cannot be dealt out so; the message names the remedy.
        """
        ...


@dataclass(frozen=True)
class IID:
    """Records at random, in shares whose sizes differ by one at most."""

    def split(
        self, y: Labels, clients: int, rng: np.random.Generator, groups: npt.NDArray[np.int64] | None
    ) -> list[Indices]:
        """See :meth:`Partition.split`."""
        _no_owners(self, groups)
        return list(np.array_split(rng.permutation(len(y)), clients))


@dataclass(frozen=True)
class Dirichlet:
    """Label skew and size skew: each class is dealt out in shares drawn from Dirichlet(α, …, α) over the clients.

    The draw is repeated, all classes at once, until every client has ``min_size`` records, and given up after
    ``DIRICHLET_DRAWS`` times; the shares therefore follow the Dirichlet law *given* that event. With m records of a
    class, shares are rounded to whole records by their running sum.

    Args:
        alpha: the concentration, above 0. Small: a client has few classes; 100 and more: nearly IID in labels and size.
        min_size: the fewest records a client may hold, at least 1.

    Reference:
        Yurochkin et al., Bayesian nonparametric federated learning of neural networks, ICML 2019, section 4.

    Raises:
        ConfigurationError: ``alpha`` or ``min_size`` is out of range.
    """

    alpha: float
    min_size: int = 1

    def __post_init__(self) -> None:
        if not (np.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigurationError("alpha is above 0 and finite.", value=self.alpha, remedy="Give alpha=0.3, say.")
        if self.min_size < 1:
            raise ConfigurationError("min_size is at least 1.", value=self.min_size, remedy="Leave it out, or give 1.")

    def split(
        self, y: Labels, clients: int, rng: np.random.Generator, groups: npt.NDArray[np.int64] | None
    ) -> list[Indices]:
        """See :meth:`Partition.split`."""
        _no_owners(self, groups)
        counts = np.unique(y, return_counts=True)[1]
        if len(y) < clients * self.min_size:
            raise DataError(
                f"{clients} clients with at least {self.min_size} records each need {clients * self.min_size} records.",
                value=len(y),
                remedy="Use fewer clients, a smaller min_size, or more data.",
            )
        for _ in range(DIRICHLET_DRAWS):
            shares = rng.dirichlet(np.full(clients, float(self.alpha)), size=len(counts))
            cuts = np.rint(np.cumsum(shares, axis=1)[:, :-1] * counts[:, None]).astype(np.int64)
            bounds = np.column_stack([np.zeros_like(counts), np.minimum(cuts, counts[:, None]), counts])
            if np.diff(bounds, axis=1).sum(axis=0).min() >= self.min_size:
                break
        else:
            raise DataError(
                f"No client has fewer than {self.min_size} records; {DIRICHLET_DRAWS} draws of Dirichlet({self.alpha}) "
                f"over {clients} clients and {len(y)} records all left one with less.",
                remedy="Use fewer clients, a larger alpha, a smaller min_size, or more data.",
            )
        parts: list[list[Indices]] = [[] for _ in range(clients)]
        of_class = np.split(_by_label(y, rng), np.cumsum(counts)[:-1])
        for owned, bound in zip(of_class, bounds, strict=True):
            for part, piece in zip(parts, np.split(owned, bound[1:-1]), strict=True):
                part.append(piece)
        return [np.concatenate(part) for part in parts]


@dataclass(frozen=True)
class Shards:
    """Few labels per client: records sorted by label, cut into equal shards, ``per_client`` shards to each client.

    Shard sizes differ by one record at most; records of one label are shuffled before the cut.

    Args:
        per_client: shards that each client gets, at least 1.

    Reference:
        McMahan et al., Communication-efficient learning of deep networks from decentralized data, AISTATS 2017,
        section 3 ("pathological non-IID": 200 shards of 300, two per client).

    Raises:
        ConfigurationError: ``per_client`` is below 1.
    """

    per_client: int = 2

    def __post_init__(self) -> None:
        if self.per_client < 1:
            raise ConfigurationError("per_client is at least 1.", value=self.per_client, remedy="Use Shards(2).")

    def split(
        self, y: Labels, clients: int, rng: np.random.Generator, groups: npt.NDArray[np.int64] | None
    ) -> list[Indices]:
        """See :meth:`Partition.split`."""
        _no_owners(self, groups)
        count = clients * self.per_client
        if len(y) < count:
            raise DataError(
                f"{clients} clients with {self.per_client} shards each need {count} records, one per shard.",
                value=len(y),
                remedy="Use fewer clients, fewer shards per client, or more data.",
            )
        shards = np.array_split(_by_label(y, rng), count)
        dealt = rng.permutation(count).reshape(clients, self.per_client)
        return [np.concatenate([shards[shard] for shard in row]) for row in dealt]


@dataclass(frozen=True)
class Natural:
    """Records stay with whom they came from: each record's owner is given, as with hospitals or speakers."""

    def split(
        self, y: Labels, clients: int, rng: np.random.Generator, groups: npt.NDArray[np.int64] | None
    ) -> list[Indices]:
        """See :meth:`Partition.split`."""
        if groups is None:
            raise DataError(
                "A natural partition needs each record's owner.",
                remedy="Give clients=[an owner's name for each record] instead of a number of clients.",
            )
        return [np.flatnonzero(groups == index) for index in range(clients)]


def _by_label(y: Labels, rng: np.random.Generator) -> Indices:
    """The positions of all records sorted by label, at random within a label."""
    shuffled = rng.permutation(len(y))
    return shuffled[np.argsort(y[shuffled], kind="stable")]


def _no_owners(partition: Partition, groups: npt.NDArray[np.int64] | None) -> None:
    if groups is not None:
        raise DataError(
            "Records that have owners are split by them.",
            value=partition,
            remedy="Leave partition out (or give Natural()), or give a number of clients to deal records out anew.",
        )
