"""Degrees and thresholds of SecAgg+ beside the published ones: ``python papers/bell2020/reproduce.py [--quick]``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from fedpriv.aggregation.secagg.graph import regular_graph
from fedpriv.report import reproduction

HERE = Path(__file__).resolve().parent
QUICK = 10**4
"""With --quick, the most participants."""


def rows(*, quick: bool) -> Iterator[dict[str, object]]:
    """A row for each published case."""
    for case in reproduction.read(HERE / "published.csv"):
        if quick and int(case["participants"]) > QUICK:
            continue
        found = regular_graph(
            int(case["participants"]),
            corrupt=float(case["corrupt"]),
            dropout=float(case["dropout"]),
            semi_malicious=case["adversary"] == "semi-malicious",
        )
        published = (int(case["degree"]), int(case["threshold"]))
        yield {
            **{name: case[name] for name in ("corrupt", "dropout", "adversary", "participants")},
            "published_degree": published[0],
            "published_threshold": published[1],
            "degree": found.degree,
            "threshold": found.threshold,
            "agrees": "yes" if (found.degree, found.threshold) == published else "no",
            "privacy_failure_bits": f"{found.privacy_failure_bits:.2f}",
            "correctness_failure_bits": f"{found.correctness_failure_bits:.2f}",
        }


def main(arguments: list[str] | None = None) -> int:
    chosen = reproduction.parser(__doc__, quick=f"at most {QUICK} participants; written nowhere by itself").parse_args(
        arguments
    )
    table = list(rows(quick=chosen.quick))
    for row in table:
        pair, published = (f"{row[f'{kind}degree']},{row[f'{kind}threshold']}" for kind in ("", "published_"))
        print(
            f"γ {row['corrupt']:4}  δ {row['dropout']:4}  {row['adversary']:18}  n {row['participants']:>7}  "
            f"(k,t) {pair:>10}  published {published:>10}  {'' if row['agrees'] == 'yes' else 'DIFFERS'}".rstrip()
        )
    print(f"{sum(row['agrees'] == 'yes' for row in table)} of {len(table)} agree.")
    target = reproduction.target(chosen, HERE)
    if target:
        reproduction.write(target, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
