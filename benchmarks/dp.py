"""What differential privacy costs: DP-SGD steps beside Opacus, exact samplers beside a float Gaussian, accountants.

``step``: one step of one client on a Poisson batch, on images of 28 × 28 and one thread, everything a step takes
included: drawing, per-example clipping, noise. ``to_plain`` is the cost beside torch's SGD without privacy,
``to_opacus`` beside Opacus' hooks and its optimiser as its manual has them. ``draw``: a number of integer noise, from
a keyed stream and from the operating system; ``to_float`` is the cost beside numpy's standard_normal. ``account``: ε at
δ = 1e-5 by RDP and by PLD, the time that each takes without its cache, and how much larger the first ε is; for noise
made of clients' shares, ε by RDP beside that of a central Gaussian of the same variance.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import fedpriv as fp
from benchmarks import Row
from fedpriv.data import Client
from fedpriv.engine.executors import torch_threads
from fedpriv.learning import Broadcast
from fedpriv.privacy import samplers
from fedpriv.privacy.ledger import accounting
from fedpriv.privacy.ledger.composition import Composition, Sampled
from fedpriv.privacy.ledger.curves import Shares
from fedpriv.privacy.mechanism import Share, ShareKind
from fedpriv.randomness import NoiseSource, Streams, noise

DELTA = 1e-5
RECORDS, CLIP_NORM, NOISE_MULTIPLIER, RATE = 2048, 1.0, 1.1, 0.1
MODELS: dict[str, Callable[..., Any]] = {
    "logistic": fp.models.logistic,
    "mlp": partial(fp.models.mlp, hidden=(128,)),
    "cnn": fp.models.cnn,
}
DENSE = ("logistic", "mlp")
GAUSSIANS = ((0.01, 1.1, 1000), (256 / 60000, 1.1, 3510), (0.001, 0.6, 10_000), (0.1, 1.0, 100), (1.0, 4.0, 16))
"""Sampling rate, noise multiplier, steps."""
SHARES = ((100, 1.0), (100, 2.0), (1000, 1.0))
"""Clients, σ of one client's share on the grid."""


def rows(*, quick: bool) -> Iterator[Row]:
    """Steps, draws, accountants."""
    for model in MODELS:
        for batch in (64,) if quick else (64, 256):
            yield from _steps(model, batch, 3 if quick else 20, 2 if quick else 5)
    yield from _draws(100_000 if quick else 1_000_000)
    yield from _accounts(GAUSSIANS[:2] if quick else GAUSSIANS)
    yield from _shares(SHARES[:1] if quick else SHARES)


def _row(study: str, method: str, problem: str, seconds: float, **other: float | None) -> Row:
    """Every row has these columns."""
    columns = ("to_plain", "to_opacus", "to_float", "epsilon", "to_tightest")
    return {
        "study": study,
        "method": method,
        "problem": problem,
        "microseconds": 1e6 * seconds,
        **{column: other.get(column) for column in columns},
    }


def _least(action: Callable[[], object], repeats: int) -> float:
    """Seconds, the best of some."""
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        spent.append(time.perf_counter() - started)
    return min(spent)


# --- steps ------------------------------------------------------------------------------------------------------------


def _steps(model: str, batch: int, steps: int, repeats: int) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    x = rng.random((RECORDS, 1, 28, 28), dtype=np.float32)
    client = Client(index=0, name="0", x=x, y=rng.integers(0, 10, RECORDS))
    ways = {
        "torch, no privacy": _by_torch(model, client, batch, steps),
        "Opacus": _by_opacus(model, client, batch, steps),
    }
    for batching in ("loop", "stacked") if model in DENSE else ("loop",):
        ways[f"fedpriv, {batching}"] = _by_fedpriv(model, client, batch, steps, batching)
    with torch_threads(1):
        seconds = {name: _least(way, repeats) / steps for name, way in ways.items()}
    for name, spent in seconds.items():
        yield _row(
            *("step", name, f"{model}, batch {batch}", spent),
            to_plain=spent / seconds["torch, no privacy"],
            to_opacus=spent / seconds["Opacus"],
        )


def _built(model: str) -> Any:
    return fp.models.build(MODELS[model], (1, 28, 28), 10, seed=0)


def _batches(batch: int, steps: int) -> list[Any]:
    import torch

    drawn = np.random.default_rng(1).random((steps, RECORDS)) < batch / RECORDS
    return [torch.from_numpy(np.flatnonzero(row)) for row in drawn]


def _tensors(client: Client) -> tuple[Any, Any]:
    import torch

    return torch.tensor(client.x), torch.tensor(client.y)


def _by_torch(model: str, client: Client, batch: int, steps: int) -> Callable[[], object]:
    import torch

    module, (x, y) = _built(model), _tensors(client)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)

    def train() -> None:
        for rows in _batches(batch, steps):
            optimizer.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(module(x[rows]), y[rows]))
            optimizer.step()

    return train


def _by_opacus(model: str, client: Client, batch: int, steps: int) -> Callable[[], object]:
    import torch
    from opacus import GradSampleModule  # type: ignore[import-untyped]
    from opacus.optimizers import DPOptimizer  # type: ignore[import-untyped]

    # Opacus' hooks are on the first layer, too, whose input needs no gradient: torch says so each time.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    module, (x, y) = GradSampleModule(_built(model)), _tensors(client)
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=RATE),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=batch,
    )

    def train() -> None:
        for rows in _batches(batch, steps):
            optimizer.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(module(x[rows]), y[rows]))
            optimizer.step()

    return train


def _by_fedpriv(model: str, client: Client, batch: int, steps: int, batching: str) -> Callable[[], object]:
    module = _built(model)
    algorithm: Any = fp.DPSGD(
        learning_rate=RATE,
        clip_norm=CLIP_NORM,
        noise_multiplier=NOISE_MULTIPLIER,
        sampling_rate=batch / RECORDS,
        expected_batch=float(batch),
        steps=steps,
        noise="seeded",
    )
    broadcast = Broadcast(parameters=fp.models.flatten(module))

    def train() -> None:
        algorithm.train(module, broadcast, [client], [None], [np.random.default_rng(1)], batching=batching)

    return train


# --- draws ------------------------------------------------------------------------------------------------------------


def _draws(count: int) -> Iterator[Row]:
    sources: tuple[NoiseSource, ...] = ("seeded", "os")
    floats = _least(lambda: np.random.default_rng(0).standard_normal(count), 3) / count
    yield _row("draw", "numpy's standard_normal", "float64", floats, to_float=1.0)
    for name, sample in (("discrete Gaussian", samplers.discrete_gaussian), ("Skellam", samplers.skellam)):
        for sigma in (2.0, 100.0):
            for source in sources:
                drawn = noise(source, Streams(0), "draw", 0).words
                spent = _least(partial(sample, sigma**2, count, drawn), 3) / count
                yield _row("draw", f"{name}, {source}", f"σ = {sigma:g}", spent, to_float=spent / floats)


# --- accountants ------------------------------------------------------------------------------------------------------


def _accounts(cases: tuple[tuple[float, float, int], ...]) -> Iterator[Row]:
    for rate, noise_multiplier, steps in cases:
        once = Sampled(noise_multiplier=noise_multiplier, kind="poisson", rate=rate, population=0)
        composition = (
            Composition(sampled=((once, steps),)) if rate < 1 else Composition(gaussian=steps / noise_multiplier**2)
        )
        found = {by: _epsilon(composition, by) for by in ("rdp", "pld")}
        for by, (seconds, epsilon) in found.items():
            problem = f"q = {rate:.4g}, σ = {noise_multiplier:g}, {steps} steps"
            yield _row("account", by.upper(), problem, seconds, epsilon=epsilon, to_tightest=epsilon / found["pld"][1])


def _shares(cases: tuple[tuple[int, float], ...]) -> Iterator[Row]:
    """One sum of 256 coordinates whose noise is as large as the norm of a client's vector."""
    kinds: tuple[ShareKind, ...] = ("discrete-gaussian", "skellam")
    central = accounting.epsilon(Composition(gaussian=1.0), DELTA, "zero-out", "rdp")
    for clients, sigma in cases:
        norm = sigma * math.sqrt(clients)
        for kind in kinds:
            share = Share(kind=kind, variance=sigma**2, l2=norm, l1=min(16.0 * norm, norm**2), dimension=256, wrap=0.0)
            seconds, epsilon = _epsilon(Composition(shares=((Shares.of(share, clients), 1),)), "rdp")
            problem = f"{clients} shares of σ = {sigma:g}, {kind}"
            yield _row("account", "RDP", problem, seconds, epsilon=epsilon, to_tightest=epsilon / central)


def _epsilon(composition: Composition, by: Any) -> tuple[float, float]:
    """Seconds without the cache, and ε."""
    accounting.epsilon.cache_clear()
    accounting._rdp.cache_clear()
    accounting._pld.cache_clear()
    started = time.perf_counter()
    epsilon = accounting.epsilon(composition, DELTA, "zero-out", by)
    return time.perf_counter() - started, epsilon
