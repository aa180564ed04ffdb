"""How good a model is on held-out data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedpriv.errors import DataError

if TYPE_CHECKING:
    import torch


def evaluate(
    module: torch.nn.Module, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64], batch: int = 4096
) -> dict[str, float]:
    """Accuracy in [0, 1] and mean cross entropy in nats of a classifier.

    Args:
        module: maps ``[b, …]`` to logits ``[b, classes]``; used in evaluation mode, left in the mode it came in.
        x: ``[m, …] float32``.
        y: ``[m] int64``.
        batch: examples at a time; bounds the memory.

    Raises:
        DataError: no examples, or not as many labels.
    """
    import torch

    if len(x) != len(y) or len(y) == 0:
        raise DataError(
            "A model is evaluated on at least one example, with one label each.",
            value={"examples": len(x), "labels": len(y)},
            remedy="Give the federation a test set.",
        )
    mode = {part: part.training for part in module.modules()}
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    module.eval()
    correct, loss = 0, 0.0
    try:
        with torch.inference_mode():
            for start in range(0, len(y), batch):
                labels = torch.tensor(y[start : start + batch], device=device)
                logits = module(torch.tensor(x[start : start + batch], device=device))
                loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
                correct += int((logits.argmax(dim=1) == labels).sum())
    finally:
        for part, training in mode.items():
            part.training = training
    return {"accuracy": correct / len(y), "loss": loss / len(y)}
