"""What a federation looks like: a table and a picture of sizes and label skew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from fedpriv.data.federation import Federation

FEW = 30
"""Up to this many clients are drawn as bars with their names; more as one field, ordered by their main class."""


def summary(federation: Federation) -> pd.DataFrame:
    """One row per client: ``records``, ``share of class k`` in [0, 1] for each class, ``skew`` in [0, 1)."""
    import pandas as pd

    counts, sizes = federation.label_counts, federation.sizes
    table = pd.DataFrame({"records": sizes}, index=pd.Index([c.name for c in federation.clients], name="client"))
    shares = pd.DataFrame(
        counts / sizes[:, None],
        index=table.index,
        columns=[f"share of class {label}" for label in range(federation.classes)],
    )
    return pd.concat([table, shares, pd.Series(federation.skew, index=table.index, name="skew")], axis=1)


def plot(federation: Federation, ax: Axes | None = None) -> Axes:
    """Each client's records as a stack of classes."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    n, counts, sizes = len(federation), federation.label_counts, federation.sizes
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 3.4), layout="constrained")
    palette = plt.get_cmap("tab10" if federation.classes <= 10 else "viridis")
    spread = federation.classes - 1
    colours = [palette(label if federation.classes <= 10 else label / spread) for label in range(federation.classes)]

    if n <= FEW:
        floor = np.zeros(n, dtype=np.int64)
        for label, colour in enumerate(colours):
            ax.bar(range(n), counts[:, label], bottom=floor, width=0.8, color=colour, label=str(label))
            floor += counts[:, label]
        names = [client.name for client in federation.clients]
        crowded = max(map(len, names)) * n > 60
        ax.set_xticks(range(n), names, rotation=45 if crowded else 0, ha="right" if crowded else "center")
        ax.set_xlabel("client")
    else:
        # Clients of one main class lie side by side, the largest first: skew shows as blocks, its absence as bands.
        main, purity = counts.argmax(axis=1), counts.max(axis=1) / sizes
        order = np.lexsort((-purity, -sizes, main))
        edges = np.arange(n + 1)
        tops = np.cumsum(counts[order], axis=1)
        floor = np.zeros(n, dtype=np.int64)
        for label, colour in enumerate(colours):
            ax.stairs(tops[:, label], edges, baseline=floor, fill=True, color=colour, label=str(label))
            floor = tops[:, label]
        ax.set_xlim(0, n)
        ax.set_xlabel("clients, by main class, then size")
    ax.set_ylim(0, sizes.max() * 1.05)
    ax.set_ylabel("records")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    span = f"{sizes.min():,} to {sizes.max():,}" if sizes.min() < sizes.max() else f"{sizes[0]:,}"
    ax.set_title(
        f"{federation.name}: {n:,} client{'s' if n > 1 else ''}, {span} records each, "
        f"mean label skew {federation.skew.mean():.2f}",
        fontsize="medium",
        loc="left",
    )
    if federation.classes <= 20:
        ax.legend(
            title="class",
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            reverse=True,
            ncols=1 + (federation.classes > 10),
        )
    return ax
