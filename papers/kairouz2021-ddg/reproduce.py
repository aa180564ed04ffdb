"""Mean estimation with noise inside the sum: ``python papers/kairouz2021-ddg/reproduce.py [--quick]``."""

from __future__ import annotations

import math
import statistics
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

import fedpriv as fp
from fedpriv.errors import BudgetUnreachable, PlanError, RoundAborted
from fedpriv.privacy.mechanism import Share
from fedpriv.privacy.mechanisms import DistributedDiscreteGaussian, DistributedSkellam
from fedpriv.report import reproduction

HERE = Path(__file__).resolve().parent
DIMENSION, PADDED = 250, 256
NORM = 10.0
DELTA = 1e-5
BETA = math.exp(-0.5)
EPSILONS = (0.75, 1.0, 2.0, 4.0, 6.0)
BITS = (10, 12, 14, 16)
REPEATS = 5
PERMITTED = {100: 0.2, 1000: 0.13}
"""The share of lost clients that the plan bears where 10 % are expected: one round in a thousand loses more."""
Kind: TypeAlias = Literal["discrete Gaussian", "Skellam"]
Vectors: TypeAlias = Literal["sphere", "equal"]
KINDS: tuple[Kind, ...] = ("discrete Gaussian", "Skellam")


@dataclass(frozen=True)
class Cell:
    """What is measured."""

    n: int
    epsilon: float
    bits: int
    kind: Kind
    tails: float = 2.0
    """Standard deviations of the largest possible sum that fit into the ring: the paper's k."""
    dropout: float = 0.0
    vectors: Vectors = "sphere"
    """The paper's; or all clients' the same, the largest sum there is."""
    real: int = field(default=0, repr=False)  # no part of the seed: the sum is the same
    """How many of the repeats are the real protocol, every message of it; the others compute the same sum."""

    @property
    def aggregation(self) -> fp.SecureAggregation:
        """Without dropout a sum is of all n clients, or the round aborts: the plan counts on n shares."""
        permitted = PERMITTED[self.n] if self.dropout else 0.0
        return fp.SecureAggregation(corrupt=0.0, dropout=permitted, min_cohort=round(self.n * (1 - permitted)))

    @property
    def network(self) -> fp.Network:
        """Half of the lost are lost after they shared their keys, so that masks must be taken back."""
        return fp.Network(dropout={"setup": self.dropout / 2, "upload": self.dropout / 2})

    def mechanism(self, noise_multiplier: float | None = None) -> DistributedDiscreteGaussian | DistributedSkellam:
        """Solved for the budget, or at what was solved before."""
        chosen = DistributedDiscreteGaussian if self.kind == "discrete Gaussian" else DistributedSkellam
        target = fp.Budget(epsilon=self.epsilon, delta=DELTA, observer="server")
        return chosen(
            clip_norm=NORM,
            noise_multiplier=noise_multiplier,
            target=None if noise_multiplier else target,
            bits=self.bits,
            beta=BETA,
            tails=self.tails,
        )


@dataclass(frozen=True, kw_only=True)
class Round:
    """One private mean."""

    error: float
    """Mean squared error of a coordinate, against the mean of all n vectors."""
    predicted: float
    """What noise, rounding and lost vectors amount to, without any wrap."""
    contributors: int
    planned: float
    achieved: float
    epsilon: float
    """Against the server, by the ledger, of this round."""
    wrap: float
    aborted: int
    """Rounds before it that too few clients survived; nothing was released."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cell's figures. A blank is an empty string."""

    n: int
    d: int
    epsilon: float
    bits: int
    mechanism: str
    tails: float
    dropout: float
    vectors: str
    protocol: str
    repeats: int
    contributors: float | str = ""
    mse: float | str = ""
    standard_error: float | str = ""
    central_gaussian: float
    """The closed form: (c s / n)², s of the analytic Gaussian mechanism."""
    ratio: float | str = ""
    predicted_ratio: float | str = ""
    """The same of what noise, rounding and lost vectors amount to; without wraps."""
    wrap_bound: float | str = ""
    """Of the probability that a coordinate of the largest possible sum wraps, whatever the vectors are."""
    planned_noise_multiplier: float | str = ""
    published_noise_multiplier: float | str = ""
    """By the formulas of the authors' accounting_utils.py, for all n clients; blank where none meets ε."""
    achieved_noise_multiplier: float | str = ""
    """The least of the repeats."""
    stated_epsilon: float | str = ""
    """The largest of the repeats."""
    aborted: int | str = ""
    seconds: float | str = ""
    """CPU of one round, the median of the real ones, or of all."""
    refused: str = ""


def cells(*, quick: bool) -> Iterator[Cell]:
    """n = 100 is all real; n = 1000 has one real round for each mechanism and number of bits."""
    if quick:
        yield from (Cell(100, 4.0, 16, kind, real=1) for kind in KINDS)
        yield Cell(100, 4.0, 12, "Skellam", dropout=0.1, real=1)
        yield from (Cell(1000, 4.0, bits, kind) for bits, kind in product((10, 14), KINDS))
        return
    for epsilon, bits, kind in product(EPSILONS, BITS, KINDS):
        yield Cell(100, epsilon, bits, kind, real=REPEATS)
    for epsilon, bits, kind in product(EPSILONS, BITS, KINDS):
        yield Cell(1000, epsilon, bits, kind, real=1 if epsilon == 1.0 else 0)
    for epsilon, bits, kind in product((1.0, 4.0), BITS, KINDS):
        yield Cell(100, epsilon, bits, kind, dropout=0.1, real=REPEATS)
    for epsilon, bits, kind in product((1.0, 4.0), BITS, KINDS):
        yield Cell(1000, epsilon, bits, kind, dropout=0.1, real=1 if epsilon == 1.0 else 0)
    for n, epsilon, bits, kind in product((100, 1000), (1.0, 4.0), BITS, KINDS):
        yield Cell(n, epsilon, bits, kind, tails=6.0)
    for tails, kind in product((2.0, 6.0), KINDS):
        yield Cell(100, 4.0, 16, kind, tails=tails, vectors="equal")


@lru_cache(maxsize=16)
def vectors(n: int, repeat: int, kind: Vectors) -> npt.NDArray[np.float64]:
    """``[n, 250]``, uniform on the sphere of radius 10; or n times the same."""
    drawn = np.random.default_rng((n, repeat)).normal(size=(n if kind == "sphere" else 1, DIMENSION))
    scaled = NORM * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return np.repeat(scaled, n // len(scaled), axis=0).astype(np.float32).astype(np.float64)  # as they are held


@lru_cache(maxsize=64)
def central_gaussian(n: int, epsilon: float) -> float:
    """The mean squared error of a coordinate; s solves Balle and Wang 2018, theorem 8, exactly."""
    from scipy.optimize import brentq  # type: ignore[import-untyped]
    from scipy.stats import norm  # type: ignore[import-untyped]

    def excess(s: float) -> float:
        spent = norm.cdf(0.5 / s - epsilon * s) - math.exp(epsilon) * norm.cdf(-0.5 / s - epsilon * s)
        return float(spent - DELTA)

    return (NORM * float(brentq(excess, 0.05, 100.0)) / n) ** 2


@lru_cache(maxsize=256)
def published_noise_multiplier(n: int, epsilon: float, bits: int, kind: Kind, tails: float) -> float | None:
    """By the formulas of the authors' program, written anew; None where no noise meets ε.

    The grid: 2^b γ = 2k √(c²n²/d + n (γ²/4 + σ²)). Lengths here are in steps of it. The Rényi curves: Kairouz et al.,
    proposition 14 with theorem 1's τ; Agarwal et al., theorem 3.5; at the program's orders.
    """
    from dp_accounting.rdp import rdp_privacy_accountant as rdp  # type: ignore[import-untyped]
    from scipy.optimize import brentq

    orders = np.array([*range(2, 129), 256], dtype=float)

    def spent(log_multiplier: float) -> float:
        z = math.exp(log_multiplier)
        clip = math.sqrt(((2**bits / (2 * tails)) ** 2 - n / 4) / (n**2 / PADDED + z**2))
        spread = math.sqrt(2 * math.log(1 / BETA)) * (clip + math.sqrt(PADDED) / 2)
        l2 = min(clip + math.sqrt(PADDED), math.sqrt(clip**2 + PADDED / 4 + spread))
        l1, variance = l2 * min(math.sqrt(PADDED), l2), (z * clip) ** 2
        if kind == "Skellam":
            near = ((2 * orders - 1) * l2**2 + 6 * l1) / (4 * variance**2)
            curve = orders * l2**2 / (2 * variance) + np.minimum(near, 3 * l1 / (2 * variance))
        else:
            k = np.arange(1, n)
            tau = 10 * float(np.exp(-2 * math.pi**2 * variance / n * k / (k + 1)).sum())
            first = orders / 2 * l2**2 / variance + tau * PADDED
            second = orders / 2 * (l2**2 / variance + 2 * l1 / math.sqrt(variance) * tau + tau**2 * PADDED)
            third = orders / 2 * (l2 / math.sqrt(variance) + math.sqrt(PADDED) * tau) ** 2
            curve = np.minimum(np.minimum(first, second), third)
        return float(rdp.compute_epsilon(orders, curve, DELTA)[0]) - epsilon

    grid = np.linspace(math.log(0.05), math.log(1000.0), 400)
    within = [point for point in grid if spent(point) <= 0]
    if not within or within[0] == grid[0]:
        return None
    return math.exp(float(brentq(spent, within[0] - (grid[1] - grid[0]), within[0])))


def rounding_variance(deviation: float) -> float:
    """Of rounding x ~ N(0, deviation²) up or down at random: the mean of f (1 - f), f the fractional part of x."""
    waves = np.arange(1, 200)
    return 1 / 6 - float(np.sum(np.exp(-2 * (math.pi * waves * deviation) ** 2) / (math.pi * waves) ** 2))


def measure_round(cell: Cell, repeat: int, noise_multiplier: float | None) -> Round:
    """One round; where too few clients survive it releases nothing, and is tried again with other losses."""
    data = vectors(cell.n, repeat, cell.vectors)
    for aborted in range(20):
        started = time.process_time()
        try:
            released = fp.private_mean(
                data,
                mechanism=cell.mechanism(noise_multiplier),
                aggregation=cell.aggregation,
                network=cell.network,
                seed=zlib.crc32(f"{cell} {repeat} {aborted}".encode()),  # no two cells share noise
                ideal=repeat >= cell.real,
            )
        except RoundAborted:
            continue
        seconds = time.process_time() - started
        (event,) = released.ledger.events
        share = event.detail
        assert isinstance(share, Share)
        statement = released.ledger.statement(DELTA, observer="server")
        steps = math.sqrt(share.variance * event.planned_contributors) / event.planned_noise_multiplier  # of the clip
        count = len(released.contributors)
        noise = count * (share.variance + rounding_variance(steps / math.sqrt(PADDED))) * (NORM / steps) ** 2
        lost = (cell.n - count) * NORM**2 / DIMENSION
        return Round(
            error=float(np.mean((released.mean - data.mean(axis=0)) ** 2)),
            predicted=(noise + lost) / cell.n**2,
            contributors=count,
            planned=event.planned_noise_multiplier,
            achieved=event.noise_multiplier,
            epsilon=statement.epsilon,
            wrap=share.wrap,
            aborted=aborted,
            seconds=seconds,
        )
    raise SystemExit(f"{cell}: every round was aborted.")


def measure(cell: Cell, repeats: int) -> Row:
    central = central_gaussian(cell.n, cell.epsilon)
    real = min(cell.real, repeats)
    ideal = repeats - real
    published = published_noise_multiplier(cell.n, cell.epsilon, cell.bits, cell.kind, cell.tails)
    row: dict[str, Any] = {
        "n": cell.n,
        "d": DIMENSION,
        "epsilon": cell.epsilon,
        "bits": cell.bits,
        "mechanism": cell.kind,
        "tails": cell.tails,
        "dropout": cell.dropout,
        "vectors": cell.vectors,
        "repeats": repeats,
        "central_gaussian": digits(central),
        "published_noise_multiplier": "" if published is None else digits(published),
    }
    rounds: list[Round] = []
    try:
        for repeat in range(repeats):  # the first solves for the budget; its solution holds for all
            rounds.append(measure_round(cell, repeat, rounds[0].planned if rounds else None))
    except (BudgetUnreachable, PlanError) as refusal:
        return Row(**row, protocol="refused", refused=refusal.rule)
    error = statistics.mean(one.error for one in rounds)
    return Row(
        **row,
        protocol=", ".join(f"{count} {kind}" for count, kind in ((real, "real"), (ideal, "ideal")) if count),
        contributors=round(statistics.mean(one.contributors for one in rounds), 1),
        mse=digits(error),
        standard_error=digits(statistics.stdev(one.error for one in rounds) / math.sqrt(repeats))
        if repeats > 1
        else "",
        ratio=digits(error / central),
        predicted_ratio=digits(statistics.mean(one.predicted for one in rounds) / central),
        wrap_bound=digits(rounds[0].wrap),
        planned_noise_multiplier=digits(rounds[0].planned),
        achieved_noise_multiplier=digits(min(one.achieved for one in rounds)),
        stated_epsilon=round(max(one.epsilon for one in rounds), 5),
        aborted=sum(one.aborted for one in rounds),
        seconds=round(statistics.median(one.seconds for one in rounds[: real or None]), 2),
    )


def digits(value: float) -> float:
    return float(f"{value:.4g}")


def main(arguments: list[str] | None = None) -> int:
    chosen = reproduction.parser(__doc__, quick="seven cells, once each; written nowhere by itself").parse_args(
        arguments
    )
    table = []
    for cell in cells(quick=chosen.quick):
        row = measure(cell, 1 if chosen.quick else REPEATS)
        figures = row.refused or (
            f"MSE {row.mse:<9} ± {row.standard_error!s:<9} central {row.central_gaussian:<9} ratio {row.ratio:<6} "
            f"predicted {row.predicted_ratio:<6} z {row.achieved_noise_multiplier:<6} ε {row.stated_epsilon:<7} "
            f"{row.protocol}, {row.seconds} s"
        )
        print(
            f"n {row.n:>4}  ε {row.epsilon:<4}  {row.bits} bits  {row.mechanism:17}  k {row.tails:g}  "
            f"dropout {row.dropout:<3g}  {row.vectors}  {figures}",
            flush=True,
        )
        table.append(vars(row))
    target = reproduction.target(chosen, HERE)
    if target:
        reproduction.write(
            target, table, environment=reproduction.environment("numpy", "cryptography", "dp-accounting")
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
