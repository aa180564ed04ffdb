"""A run, and all that it says but for timings."""

from __future__ import annotations

import json
from typing import Any

import fedpriv as fp

TIMINGS = ["client_seconds", "train_seconds", "server_seconds", "wall_seconds", "seconds", "evaluate_seconds"]


def execute(federation: Any, plan: fp.Plan, **options: Any) -> fp.Run:
    return fp.run(federation, plan, seed=7, progress=False, **options)


def untimed(run: fp.Run) -> tuple[Any, ...]:
    """All that a run says, but for timings and for what TenSEAL's compression makes of fresh ciphertexts."""
    costs = run.costs.drop(columns=["cpu_seconds", "modelled_seconds"])
    if isinstance(run.plan.aggregation, fp.BFV):
        frame = run.frame.drop(columns=[*TIMINGS, "client_bytes_up", "client_bytes_down"])
        return frame.to_csv(), costs["messages"].tolist(), run.parameters.tobytes(), run.ledger.to_json()
    return (
        run.frame.drop(columns=TIMINGS).to_csv(),
        costs.to_csv(),
        run.parameters.tobytes(),
        None if run.mean is None else run.mean.tobytes(),
        json.loads(run.ledger.to_json()),
        run.key_bytes,
        {k: v for k, v in run.summary().items() if k not in TIMINGS}.__repr__(),
    )
