"""A round as a row of a table."""

from __future__ import annotations

import math
from typing import Any

from fedpriv.engine.checkpoint import Done
from fedpriv.engine.rounds import RoundRecord
from fedpriv.network import StageCost
from fedpriv.threat import CLIENT

COSTS = (
    "client_bytes_up",
    "client_bytes_down",
    "client_seconds",
    "server_seconds",
    "train_seconds",
    "wall_seconds",
)


def row_of(done: Done) -> dict[str, Any]:
    """The columns of :attr:`fedpriv.Run.frame`."""
    record = done.record
    return {
        "round": record.round + 1,
        "accuracy": done.metrics.get("accuracy", math.nan),
        "loss": done.metrics.get("loss", math.nan),
        "cohort": len(record.cohort),
        "contributors": len(record.contributors),
        "aborted": type(record.aborted).__name__ if record.aborted is not None else "",
        **per_round(record),
        "rounding_error": record.rounding_error,
        "clipped_norms": record.clipped_norms,
        "clipped_coordinates": record.clipped_coordinates,
        "clip_norm": math.nan if record.clip_norm is None else record.clip_norm,
        "within_clip": math.nan if record.within_clip is None else record.within_clip,
        "train_loss": record.train_loss,
        "seconds": record.seconds,
        "evaluate_seconds": done.evaluate_seconds,
        "sha256": record.sha256,
    }


def per_round(record: RoundRecord) -> dict[str, float]:
    """A round's costs: per client of the cohort, and for the other parties together.

    ``client_bytes_*`` count the model's broadcast too; ``client_seconds`` is the protocol's share of a client's
    processor, ``train_seconds`` its training; ``wall_seconds`` is the network model's wall-clock of the whole round.
    """
    cohort = max(1, len(record.cohort))
    clients = [cost for cost in record.costs if cost.role == CLIENT]
    protocol = [cost for cost in clients if cost.stage != "train"]
    training = [cost for cost in clients if cost.stage == "train"]
    others = [cost for cost in record.costs if cost.role != CLIENT]
    return {
        "client_bytes_up": sum(cost.bytes_sent for cost in clients) / cohort,
        "client_bytes_down": sum(cost.bytes_received for cost in clients) / cohort,
        "client_seconds": sum(cost.cpu_seconds for cost in protocol) / cohort,
        "server_seconds": sum(cost.cpu_seconds for cost in others),
        "train_seconds": sum(cost.cpu_seconds for cost in training) / cohort,
        "wall_seconds": _wall(record.costs),
    }


def _wall(costs: tuple[StageCost, ...]) -> float:
    """Stages follow one another; inside a stage the roles follow one another too."""
    return sum(cost.modelled_seconds for cost in costs)
