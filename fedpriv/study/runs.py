"""One run: a plan, a federation, a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedpriv.data import Federation
from fedpriv.engine.executors import Executor
from fedpriv.engine.explain import delta_of, learns, observers_of
from fedpriv.engine.plan import Plan
from fedpriv.engine.resolution import Resolved
from fedpriv.engine.rounds import RoundRecord, RoundState, State, run_rounds
from fedpriv.errors import ConfigurationError, PlanError, UnsupportedAccounting
from fedpriv.learning.update import Vector
from fedpriv.network import StageCost
from fedpriv.privacy.ledger import Ledger
from fedpriv.randomness import NoiseSource
from fedpriv.study.progress import bar
from fedpriv.threat import CLIENT, SERVER, Observer

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import torch
    from matplotlib.figure import Figure


def rounds(
    federation: Federation,
    plan: Plan | Resolved,
    *,
    seed: int,
    noise: NoiseSource = "seeded",
    ideal: bool = False,
    executor: Executor | None = None,
) -> Iterator[RoundState]:
    """Round by round, for those who want the wheel; arguments as for :func:`run`."""
    for state, _ in run_rounds(_resolved(plan, federation), seed=seed, noise=noise, ideal=ideal, executor=executor):
        yield state


def run(
    federation: Federation,
    plan: Plan | Resolved,
    *,
    seed: int,
    noise: NoiseSource = "seeded",
    ideal: bool = False,
    on_abort: Literal["record", "raise"] = "record",
    evaluate_every: int = 1,
    progress: bool = True,
    executor: Executor | None = None,
) -> Run:
    """Run a plan over a federation.

    Args:
        federation: who holds what.
        plan: checked against the federation before round 1.
        seed: of everything that is simulated; there is no default.
        noise: ``"seeded"`` noise is reproducible and its ε is of the mechanism, simulated; ``"os"`` noise makes it a
            claim; where sampling amplifies, as long as the seed is secret (``save`` writes it down).
        ideal: the same sums and aborts without the cryptography; the protocol's costs are then modelled.
        on_abort: ``"record"``: a round without a sum leaves the model as it was and is recorded; ``"raise"``: it ends
            the run with its error.
        evaluate_every: measure the model on the test set after every k-th round, and after the last.
        progress: show a progress bar on a terminal.
        executor: where clients live and train: in this process by default, or over ``fp.Processes(2)``.

    Raises:
        PlanError: the plan does not fit the federation; nothing has run.
        RoundAborted: with ``on_abort="raise"``.
        DecryptionFailed: a homomorphic aggregate did not decrypt to a sum; always ends the run.
    """
    resolved = _resolved(plan, federation)
    if isinstance(evaluate_every, bool) or not isinstance(evaluate_every, int) or evaluate_every < 1:
        raise ConfigurationError("evaluate_every is an integer ≥ 1.", value=evaluate_every, remedy="Use 1.")
    if on_abort not in ("record", "raise"):
        raise ConfigurationError('on_abort is "record" or "raise".', value=on_abort, remedy='Use "record".')
    records: list[RoundRecord] = []
    metrics: list[Mapping[str, float]] = []
    total = resolved.plan.rounds
    steps = run_rounds(resolved, seed=seed, noise=noise, ideal=ideal, executor=executor)
    last: tuple[RoundState, State] | None = None
    for last in bar(steps, total, "rounds", progress):
        state = last[0]
        if state.record.aborted is not None and on_abort == "raise":
            raise state.record.aborted
        records.append(state.record)
        due = len(records) == total or len(records) % evaluate_every == 0
        metrics.append(_evaluate(resolved, state.parameters) if due else {})
    if last is None:
        raise PlanError("A plan has at least one round.", value=total, remedy="Give rounds=20.")
    return Run(
        resolved=resolved,
        seed=seed,
        noise=noise,
        ideal=ideal,
        records=tuple(records),
        metrics=tuple(metrics),
        parameters=last[0].parameters,
        mean=last[0].mean,
        ledger=last[1].ledger,
        key_bytes=last[1].key_bytes,
    )


def _resolved(plan: Plan | Resolved, federation: Federation) -> Resolved:
    if not isinstance(plan, Plan | Resolved):
        raise ConfigurationError(
            "A run takes a federation first, then a plan.",
            value=type(plan).__name__,
            remedy="Call fp.run(federation, plan, seed=0); several plans go to fp.compare.",
        )
    resolved = plan if isinstance(plan, Resolved) else plan.resolve(federation)
    if resolved.federation is not federation:
        raise PlanError(
            "A resolved plan runs over the federation that it was resolved for.",
            value=federation,
            remedy="Call plan.resolve(federation) with this one.",
        )
    return resolved


def _evaluate(resolved: Resolved, parameters: Vector) -> Mapping[str, float]:
    if resolved.plan.model is None:
        return {}
    from fedpriv.learning.evaluation import evaluate
    from fedpriv.learning.vector import load

    module = resolved.module()
    load(module, parameters)
    return evaluate(module, resolved.federation.test_x, resolved.federation.test_y)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Run:
    """What one run left: records of its rounds, the model, the ledger, the costs."""

    resolved: Resolved
    seed: int
    noise: NoiseSource
    ideal: bool
    records: tuple[RoundRecord, ...]
    metrics: tuple[Mapping[str, float], ...]
    """Accuracy and loss on the test set after each round in which they were measured."""
    parameters: Vector
    """``[d] float32``: the final model."""
    mean: Any
    """``[payload] float64``: the mean that the last round released; None where it was aborted."""
    ledger: Ledger
    key_bytes: int
    """What every client was sent once, before its first round: a public key, or nothing. In no round's figures."""

    def __repr__(self) -> str:
        ended = "".join(f", {name} {value:.3f}" for name, value in self.metrics[-1].items())
        kind = "ideal" if self.ideal else "real"
        aborted = sum(record.aborted is not None for record in self.records)
        return (
            f"Run({self.resolved.federation.name}, {type(self.resolved.plan.aggregation).__name__} {kind}, seed "
            f"{self.seed}, {len(self.records)} rounds, {aborted} aborted{ended})"
        )

    def _repr_html_(self) -> str:
        return self.frame.to_html(max_rows=20, float_format="{:.4g}".format)

    @property
    def plan(self) -> Plan:
        """The plan that was run."""
        return self.resolved.plan

    @property
    def batching(self) -> str:
        """How clients were trained: ``"stacked"``, ``"vmap"`` or ``"loop"``; see :mod:`fedpriv.learning.paths`."""
        return self.resolved.batching

    @property
    def sha256(self) -> str:
        """Of the final model's parameters."""
        return self.records[-1].sha256

    @cached_property
    def model(self) -> torch.nn.Module:
        """The final model, ready to predict."""
        from fedpriv.learning.vector import load

        module = self.resolved.module(self.seed)
        load(module, self.parameters)
        return module.eval()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per round.

        - ``round`` from 1; ``accuracy`` in [0, 1] and ``loss`` (mean cross entropy, nats) on the test set, NaN where
          they were not measured.
        - ``cohort``: clients invited; ``contributors``: clients in the sum; ``aborted``: the error's name, or empty.
        - ``client_bytes_up``, ``client_bytes_down``: bytes that a client of the cohort sent and received on average,
          the broadcast of the model included.
        - ``client_seconds``, ``train_seconds``: of a client's processor, for the protocol and for training;
          ``server_seconds``: of the other parties' processors together; ``wall_seconds``: the round's wall-clock over
          the modelled network; ``seconds``: what the simulation of the round took.
        - ``rounding_error``: the largest difference of a coordinate to the mean of unrounded updates.
        - ``clipped_norms``: clients whose update was clipped; ``clipped_coordinates``: coordinates cut to the limit.
        - ``train_loss``: the clients' own, the simulator's: no party sees it.
        - ``sha256``: of the model after the round.
        """
        import pandas as pd

        return pd.DataFrame([self._row(record, i) for i, record in enumerate(self.records)])

    def _row(self, record: RoundRecord, index: int) -> dict[str, Any]:
        return {
            "round": record.round + 1,
            "accuracy": self.metrics[index].get("accuracy", np.nan),
            "loss": self.metrics[index].get("loss", np.nan),
            "cohort": len(record.cohort),
            "contributors": len(record.contributors),
            "aborted": type(record.aborted).__name__ if record.aborted is not None else "",
            **per_round(record),
            "rounding_error": record.rounding_error,
            "clipped_norms": record.clipped_norms,
            "clipped_coordinates": record.clipped_coordinates,
            "train_loss": record.train_loss,
            "seconds": record.seconds,
            "sha256": record.sha256,
        }

    @cached_property
    def costs(self) -> pd.DataFrame:
        """One row per round, stage and role: parties, messages, bytes, CPU seconds, modelled seconds."""
        import pandas as pd

        real = _ALWAYS_REAL if SERVER in self.resolved.threat.informed else ("train",)  # aggregates that were missed
        rows = [
            {"round": record.round + 1, **vars(cost), "modelled": record.modelled and cost.stage not in real}
            for record in self.records
            for cost in record.costs
        ]
        return pd.DataFrame(rows)

    @property
    def learns(self) -> Mapping[str, str]:
        """Party → what it got to see, as text."""
        return learns(self.resolved.threat)

    def summary(self, delta: float | None = None) -> dict[str, Any]:
        """The run as one row: final metrics, ε per observer, bytes and seconds per client and round."""
        delta = delta_of(self.resolved) if delta is None else delta
        frame = self.frame
        row: dict[str, Any] = {
            "accuracy": frame["accuracy"].iloc[-1],
            "loss": frame["loss"].iloc[-1],
            "delta": delta,
        }
        for observer in observers_of(self.resolved.threat):
            row[f"epsilon_{observer}"] = epsilon_of(self.ledger, delta, observer)
        if "record" in self.ledger.units:
            row["delta_record"] = delta_of(self.resolved, "record")
            for observer in observers_of(self.resolved.threat):
                row[f"epsilon_record_{observer}"] = self.ledger.epsilon(
                    row["delta_record"], observer=observer, unit="record"
                )
        row |= {name: frame[name].mean() for name in COSTS}
        row |= {
            "rounding_error": frame["rounding_error"].max(),
            "client_key_bytes": self.key_bytes,
            "aborted_rounds": int((frame["aborted"] != "").sum()),
            "costs": "modelled" if self.ideal else "measured",
            "sha256": self.sha256,
        }
        return row

    def plot(self, y: str = "accuracy") -> Figure:
        """A column of :attr:`frame` over the rounds."""
        from fedpriv.report.figures import over_rounds

        return over_rounds({f"seed {self.seed}": self.frame}, y)

    def to_latex(self) -> str:
        """:attr:`frame` as a LaTeX table."""
        from fedpriv.report.tables import latex

        return latex(self.frame.drop(columns="sha256"), caption=repr(self))

    def save(self, folder: str | Path) -> Path:
        """Write rounds, costs, ledger, plan, versions and figure into a folder: whole, or not at all.

        An existing folder of results is replaced; one that holds anything else is refused.
        """
        from fedpriv.report.saving import provenance, save

        about = {
            "plan": self.plan.describe(),
            "federation": {"name": self.resolved.federation.name, "sha256": self.resolved.federation.fingerprint},
            "unaccounted": list(self.resolved.federation.notes),
            "seed": self.seed,
            "noise": self.noise,
            "ideal": self.ideal,
            "batching": self.batching,
            "sha256": self.sha256,
            "learns": dict(self.learns),
            "summary": self.summary(),
            **provenance(),
        }
        return save(
            folder,
            tables={"rounds": self.frame, "costs": self.costs},
            documents={"run": about, "ledger": self.ledger.to_json()},
            figures={"rounds": self.plot()},
            texts={"rounds.tex": self.to_latex(), "plan.txt": self.resolved.explain() + "\n"},
        )


def epsilon_of(ledger: Ledger, delta: float, observer: Observer) -> float:
    """ε for a table; NaN where no accountant has a theorem for what happened."""
    try:
        return ledger.epsilon(delta, observer=observer)
    except UnsupportedAccounting:
        return math.nan


_ALWAYS_REAL = ("broadcast", "train", "release")
COSTS = (
    "client_bytes_up",
    "client_bytes_down",
    "client_seconds",
    "server_seconds",
    "train_seconds",
    "wall_seconds",
)


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
