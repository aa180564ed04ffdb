"""What secure aggregation sends, and what lost clients cost the server, beside the published numbers.

``python papers/bonawitz2017/reproduce.py [--quick]``
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import fedpriv as fp
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Session, Terms
from fedpriv.aggregation.secagg import messages as m
from fedpriv.crypto import agreement, envelope, wire
from fedpriv.encoding import Integers, Ring
from fedpriv.network import Network, StageCost, Wire
from fedpriv.report import reproduction
from fedpriv.threat import CLIENT, SERVER, Party, client, client_index

HERE = Path(__file__).resolve().parent
PROTOCOL = fp.SecureAggregation(corrupt=0.1, dropout=0.3, graph="complete")
BITS = 16
"""Of one entry of a client's vector, sign included."""
KEY = SHARE = 32
"""Bytes of a public key and of a secret share in the paper's formula."""
CHECKED = ((8, 100), (24, 1001))
"""Clients and entries of the rounds that the sizes are checked against."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number: the paper's, that of the paper's formula, and fedpriv's. A blank is an empty string."""

    item: str
    participants: int
    entries: int
    dropout: float = 0.0
    published: float | str = ""
    formula: float | str = ""
    fedpriv: float | str = ""


def client_bytes(n: int, entries: int, bits: int) -> dict[str, tuple[float, float]]:
    """What one client sends and receives in an attempt without losses: for each field, the formula's and fedpriv's."""
    shares = 5 * n - 4  # 2(n − 1) sent, 2(n − 1) received, n sent to unmask
    limbs = m.SHARE_BYTES - SHARE
    return {
        "masked vector": (entries * bits / 8, wire.packed_size(entries, bits)),
        "public keys": (2 * n * KEY, 2 * n * agreement.KEY),
        "own keys, returned in the roster": (0, m.KEYS),
        "shares": (shares * SHARE, shares * SHARE),
        "shares: limbs of 17 bits for 16": (0, shares * limbs),
        "nonce and tag of each envelope": (0, 2 * (n - 1) * envelope.OVERHEAD),
        "commitment to the self-mask seed": (0, agreement.KEY),
        "who takes part, three bit maps": (0, 3 * wire.packed_size(n, 1)),
        "frames of seven messages": (0, 7 * wire.FRAME),
    }


def terms(n: int, entries: int) -> Terms:
    bound = 2 ** (BITS - 1) - 1
    domain = PROTOCOL.domain(sum_bound=n * bound, length=entries, cohort=n)
    return Terms(length=entries, input_bound=bound, cohort=n, domain=domain)


def ring_bits(n: int) -> int:
    domain = terms(n, 1).domain
    assert isinstance(domain, Ring)
    return domain.bits


def vector(party: Party, entries: int) -> Integers:
    bound = 2 ** (BITS - 1) - 1
    return np.random.default_rng(client_index(party)).integers(-bound, bound + 1, entries, dtype=np.int64)


def attempt(n: int, entries: int, *, lost: int = 0) -> list[StageCost]:
    """The costs of a real attempt, every message of it; ``lost`` clients fall silent after they shared their keys."""
    schedule = {client(i): m.MASKED for i in np.random.default_rng(n).permutation(n)[:lost].tolist()}
    carrier = Wire(Network(), schedule=schedule)
    deployment = PROTOCOL.deploy(terms(n, entries))
    session = Session(round=0, attempt=0, participants=tuple(range(n)), context=b"bonawitz2017")
    result = perform(
        deployment, session, carrier, lambda parties: ((party, vector(party, entries)) for party in parties), SERVER
    )
    assert np.array_equal(result.total, sum(vector(client(i), entries) for i in result.contributors))
    assert len(result.contributors) == n - lost
    return carrier.costs


def expansion() -> Iterator[Row]:
    """Bytes that a client sends and receives, over those of its vector."""
    for n, entries in CHECKED:
        counted = sum(row.bytes_sent + row.bytes_received for row in attempt(n, entries) if row.role == CLIENT)
        stated = n * sum(ours for _, ours in client_bytes(n, entries, ring_bits(n)).values())
        if counted != stated:
            raise SystemExit(f"A round of {n} clients and {entries} entries is {counted} bytes, not {stated:.0f}.")
        yield Row(item="bytes of a real round", participants=n, entries=entries, fedpriv=counted)
    for case in published("expansion"):
        n, entries = int(case["participants"]), int(case["entries"])
        fields = client_bytes(n, entries, ring_bits(n))
        assert ring_bits(n) == math.ceil(math.log2(n * (2**BITS - 1) + 1))
        plain = entries * BITS / 8
        for field, (formula, ours) in fields.items():
            yield Row(item=f"client bytes: {field}", participants=n, entries=entries, formula=formula, fedpriv=ours)
        formula, ours = (round(sum(side) / plain, 4) for side in zip(*fields.values(), strict=True))
        yield Row(
            item="expansion",
            participants=n,
            entries=entries,
            published=float(case["value"]),
            formula=formula,
            fedpriv=ours,
        )


def server(n: int, entries: int) -> Iterator[Row]:
    """The server's CPU seconds without losses and with 10 and 30 % of the clients lost, and how they grow."""
    stated = {float(case["dropout"]): float(case["value"]) for case in published("server_seconds", n)}
    masks, measured = {}, {}
    for dropout in (0.0, 0.1, 0.3):
        row = partial(Row, participants=n, entries=entries, dropout=dropout)
        lost = round(dropout * n)
        costs = attempt(n, entries, lost=lost)
        masks[dropout] = (n - lost) * (1 + lost)  # each survivor's own mask, and those between it and the lost
        measured[dropout] = sum(cost.cpu_seconds for cost in costs if cost.role == SERVER)
        if not lost:
            spent = sum(cost.cpu_seconds for cost in costs if cost.role == CLIENT) / n
            yield row(item="client CPU seconds", fedpriv=round(spent, 4))
        yield row(item="server seconds", published=stated.get(dropout, ""), fedpriv=round(measured[dropout], 4))
    grown = [_growth(at) if at else "" for at in (stated, masks, measured)]
    ratio = partial(Row, participants=n, entries=entries)
    for dropout in (0.1, 0.3):
        over = [round(at[dropout] / at[0.0], 1) if at else "" for at in (stated, masks, measured)]
        yield ratio(
            item="server, of that without losses", dropout=dropout, published=over[0], formula=over[1], fedpriv=over[2]
        )
    yield ratio(
        item="server, growth at 30 % over growth at 10 %",
        dropout=0.3,
        published=grown[0],
        formula=grown[1],
        fedpriv=grown[2],
    )


def _growth(at: Mapping[float, float]) -> float:
    """What 30 % of losses add to the cost, over what 10 % add: free of what the server does in any case."""
    return round((at[0.3] - at[0.0]) / (at[0.1] - at[0.0]), 2)


def published(item: str, n: int | None = None) -> list[dict[str, str]]:
    rows = reproduction.read(HERE / "published.csv", item=item)
    return [row for row in rows if n is None or int(row["participants"]) == n]


def main(arguments: list[str] | None = None) -> int:
    chosen = reproduction.parser(__doc__, quick="small rounds for the server; written nowhere by itself").parse_args(
        arguments
    )
    sizes = [(40, 10_000)] if chosen.quick else [(100, 100_000), (500, 100_000)]
    table = []
    for row in (*expansion(), *(row for size in sizes for row in server(*size))):
        print(
            f"{row.item:48} n {row.participants:>5}  m {row.entries:>8}  lost {row.dropout:.0%}  "
            f"published {row.published or '–':>5}  formula {row.formula or '–':>10}  fedpriv {row.fedpriv:>10}",
            flush=True,
        )
        table.append(vars(row))
    target = reproduction.target(chosen, HERE)
    if target:
        reproduction.write(target, table, environment=reproduction.environment("numpy", "cryptography", machine=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
