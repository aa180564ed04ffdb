"""What the engine stands beside: the machine's arithmetic limit, and rounds written by hand in torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import fedpriv as fp
from benchmarks.engine_ground import BATCH, MODELS, RATE, Point, cohorts_of, seconds_of
from fedpriv.data import Federation
from fedpriv.engine.executors import torch_threads

if TYPE_CHECKING:
    import torch


def limit(point: Point, federation: Federation, threads: int) -> float:
    """Seconds of a mean cohort's arithmetic at the speed of a large matrix product."""
    import torch

    per_record = operations(point.model, federation)
    with torch_threads(threads):
        a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
        spent = _least(lambda: a @ b, 15)
    return per_record * float(federation.sizes.mean()) * point.cohort * spent / (2 * 1024**3)


def operations(model: str, federation: Federation) -> float:
    """Floating-point operations of one record's step, forward and backward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    module = MODELS[model](federation.shape, federation.classes)
    x, y = torch.zeros(BATCH, *federation.shape), torch.zeros(BATCH, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops()) / BATCH


def _least(action: Callable[[], object], repeats: int) -> float:
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        spent.append(time.perf_counter() - started)
    return min(spent)


def by_hand_loop(point: Point, federation: Federation, turn: int) -> list[float]:
    """Seconds of rounds of the loop that everybody writes first."""
    import torch

    module = fp.models.build(MODELS[point.model], federation.shape, federation.classes, seed=0)
    data = [(torch.tensor(c.x), torch.tensor(c.y)) for c in federation.clients]
    weights = list(module.parameters())

    def one_round(cohort: npt.NDArray[np.int64]) -> None:
        start = [w.detach().clone() for w in weights]
        mean = [torch.zeros_like(w) for w in start]
        total = sum(len(data[i][1]) for i in cohort)
        for i in cohort:
            x, y = data[i]
            with torch.no_grad():
                for w, w0 in zip(weights, start, strict=True):
                    w.copy_(w0)
            for batch in torch.split(torch.randperm(len(y)), BATCH):
                loss = torch.nn.functional.cross_entropy(module(x[batch]), y[batch])
                for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                    w.data.sub_(g, alpha=RATE)
            for m, w in zip(mean, weights, strict=True):
                m.add_(w.detach(), alpha=len(y) / total)
        with torch.no_grad():
            for w, m in zip(weights, mean, strict=True):
                w.copy_(m)

    with torch_threads(1):
        return seconds_of([partial(one_round, cohort) for cohort in cohorts_of(point, point.slow, turn)])


def by_hand_bmm(point: Point, federation: Federation, turn: int) -> list[float]:
    """Seconds of rounds of dense layers written out for this one task: all clients at once, padded to the longest."""
    import torch

    module = fp.models.build(MODELS[point.model], federation.shape, federation.classes, seed=0)
    start = [w.detach() for w in module.parameters()]
    data = [(c.x.reshape(len(c), -1), c.y) for c in federation.clients]
    rng = np.random.default_rng(0)

    def one_round(cohort: npt.NDArray[np.int64]) -> None:
        sizes = np.array([len(data[i][1]) for i in cohort])
        steps = -(-int(sizes.max()) // BATCH)
        x = np.zeros((len(cohort), steps * BATCH, data[0][0].shape[1]), dtype=np.float32)
        hot = np.zeros((len(cohort), steps * BATCH, federation.classes), dtype=np.float32)
        for k, i in enumerate(cohort):
            order = rng.permutation(sizes[k])
            x[k, : sizes[k]] = data[i][0][order]
            hot[k, np.arange(sizes[k]), data[i][1][order]] = 1
        ws = [w.repeat(len(cohort), *(1,) * w.ndim) for w in start]
        x_all, hot_all = torch.from_numpy(x), torch.from_numpy(hot)
        for step in range(steps):
            rows = slice(step * BATCH, (step + 1) * BATCH)
            dense_step(ws, x_all[:, rows], hot_all[:, rows])
        shares = torch.from_numpy(sizes / sizes.sum()).float()
        for w0, w in zip(start, ws, strict=True):
            w0.copy_(torch.tensordot(shares, w, 1))

    with torch_threads(1):
        return seconds_of([partial(one_round, cohort) for cohort in cohorts_of(point, point.rounds, turn)])


def dense_step(ws: Sequence[torch.Tensor], x: torch.Tensor, hot: torch.Tensor) -> None:
    """One step of every client: weights ``ws[0::2]``, biases ``ws[1::2]``, ReLU between."""
    import torch

    passed = [x]
    for k, (w, b) in enumerate(zip(ws[0::2], ws[1::2], strict=True)):
        z = torch.baddbmm(b.unsqueeze(1), passed[-1], w.transpose(1, 2))
        passed.append(z.relu_() if 2 * k + 2 < len(ws) else z)
    inside = hot.sum(2, keepdim=True)
    error = (passed.pop().softmax(2) - hot) * inside / inside.sum(1, keepdim=True).clamp_min(1)
    for w, b, a in zip(reversed(ws[0::2]), reversed(ws[1::2]), reversed(passed), strict=True):
        back = torch.bmm(error, w) * (a > 0) if a is not x else error
        w.baddbmm_(error.transpose(1, 2), a, alpha=-RATE)
        b.sub_(error.sum(1), alpha=RATE)
        error = back
