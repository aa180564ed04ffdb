"""One run: a plan, a federation, a seed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from fedpriv.data import Federation
from fedpriv.engine import executors
from fedpriv.engine.checkpoint import Checkpoint, Done
from fedpriv.engine.executors import Executor
from fedpriv.engine.explain import delta_of, learns, observers_of
from fedpriv.engine.plan import Plan
from fedpriv.engine.resolution import Resolved
from fedpriv.engine.rounds import RoundRecord, RoundState, run_rounds
from fedpriv.engine.training import Device, device_of
from fedpriv.errors import ConfigurationError, PlanError, UnsupportedAccounting
from fedpriv.learning.vector import Vector
from fedpriv.privacy.ledger import Ledger
from fedpriv.randomness import NoiseSource, Streams
from fedpriv.study import callbacks as between
from fedpriv.study.callbacks import Callback
from fedpriv.study.course import Course
from fedpriv.study.progress import bar
from fedpriv.study.rows import COSTS, row_of
from fedpriv.threat import SERVER, Observer

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
    device: Device = "auto",
) -> Iterator[RoundState]:
    """Round by round, for those who want the wheel: each round's record, model and released mean, as it ends.

    Arguments as for :func:`run`.
    """
    resolved = _resolved(plan, federation)
    executor = executors.check(executor)
    for state, _ in run_rounds(resolved, seed=seed, noise=noise, ideal=ideal, executor=executor, device=device):
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
    device: Device = "auto",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    every: int = 10,
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
        device: ``"cuda"``: models and data of the clients that train are on a GPU for the length of the run;
            ``"cpu"``; ``"auto"``: a GPU where torch finds one. Bits are those of the kind of device.
        callbacks: called after every round; one that returns ``"stop"`` ends the run. See
            :mod:`fedpriv.study.callbacks`.
        checkpoint: a folder of its own for the run. Where it holds a checkpoint of the same plan, federation, seed,
            noise, kind of device and callbacks (logs, and what a callback counts by itself, apart), the run goes on
            from there as if it had never stopped; see
            :class:`fedpriv.engine.checkpoint.Checkpoint` for what holds under ``noise="os"``. A run that has ended is
            read back.
        every: rounds between two checkpoints; one is also written at the end, and when the run is interrupted.

    An interruption (Ctrl-C, SIGINT) ends the run with the rounds that it has, marked :attr:`Run.partial`; before the
    end of the first one it is raised. Of the round under way nothing was given out, and this run's ledger leaves it
    out; whoever resumes under ``noise="os"`` begins it again, and is charged for both.

    Raises:
        PlanError: the plan does not fit the federation; nothing has run.
        ConfigurationError: an argument is none of its values, no GPU for ``"cuda"``, no cluster at Ray's address.
        TrainingFailed, NonFiniteInput: a client's training raised, or diverged: which client, in which round.
        CheckpointError: the folder's checkpoint is of another run (it names the fields that differ) or none can be
            read; a state cannot be kept; the folder cannot be written to, or another run is using it.
        RoundAborted: with ``on_abort="raise"``; its ``ledger`` is the run's.
        DecryptionFailed: a homomorphic aggregate did not decrypt to a sum; always ends the run.
    """
    resolved = _resolved(plan, federation)
    if isinstance(evaluate_every, bool) or not isinstance(evaluate_every, int) or evaluate_every < 1:
        raise ConfigurationError("evaluate_every is an integer ≥ 1.", value=evaluate_every, remedy="Use 1.")
    if on_abort not in ("record", "raise"):
        raise ConfigurationError('on_abort is "record" or "raise".', value=on_abort, remedy='Use "record".')
    callbacks, executor = between.check(callbacks), executors.check(executor)
    kept: AbstractContextManager[Checkpoint | None] = nullcontext()
    if checkpoint is not None:
        about: dict[str, Any] = {
            "seed": int(Streams(seed).seed),
            "noise": noise,
            "ideal": ideal,
            "evaluate_every": evaluate_every,
        }
        about |= {"device": device_of(resolved, device), "callbacks": between.settings(callbacks)}
        kept = closing(Checkpoint(checkpoint, resolved, about, noise=noise, every=every))
    with kept as keeper:
        saved = keeper.load() if keeper is not None else None
        course = Course(resolved, seed, noise, evaluate_every, callbacks, keeper, saved)
        partial = False
        try:
            course.start()
            if not course.ended:
                steps = run_rounds(
                    resolved,
                    seed=seed,
                    noise=noise,
                    ideal=ideal,
                    executor=executor,
                    device=device,
                    state=saved.state if saved is not None else None,
                )
                course.begin()
                with closing(steps):
                    for state, carried in bar(steps, resolved.plan.rounds - len(course.done), "rounds", progress):
                        if state.record.aborted is not None and on_abort == "raise":
                            state.record.aborted.ledger = carried.ledger
                            raise state.record.aborted
                        if course.take(state, carried):
                            break
        except KeyboardInterrupt:
            if not course.reached:
                raise
            partial = True
            logging.getLogger("fedpriv").warning(
                "Interrupted after %d of %d rounds.", course.reached.rounds, resolved.plan.rounds
            )
            course.interrupted()
            if course.ended:  # it was over, and kept: whoever called is to end as well
                raise
    assert course.reached is not None
    return Run(
        resolved=resolved,
        seed=seed,
        noise=noise,
        ideal=ideal,
        done=tuple(course.done),
        parameters=course.reached.parameters,
        mean=course.reached.mean,
        ledger=course.reached.state.ledger,
        key_bytes=course.reached.state.key_bytes,
        stopped=course.stopped,
        partial=partial,
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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Run:
    """What one run left: records of its rounds, the model, the ledger, the costs."""

    resolved: Resolved
    seed: int
    noise: NoiseSource
    ideal: bool
    done: tuple[Done, ...]
    """Its rounds: what is kept of each, and what was measured after it."""
    parameters: Vector
    """``[d] float32``: the final model."""
    mean: Any
    """``[payload] float64``: the mean that the last round released; None where it was aborted."""
    ledger: Ledger
    key_bytes: int
    """What every client was sent once, before its first round: a public key, or nothing. In no round's figures."""
    stopped: str = ""
    """The callbacks that ended the run before its plan's last round; empty where none did."""
    partial: bool = False
    """Whether an interruption ended the run."""

    def __repr__(self) -> str:
        ended = "".join(f", {name} {value:.3f}" for name, value in self.metrics[-1].items())
        kind = "ideal" if self.ideal else "real"
        aborted = sum(record.aborted is not None for record in self.records)
        if self.partial or self.stopped:
            ended += ", interrupted" if self.partial else f", stopped by {self.stopped}"
        return (
            f"Run({self.resolved.federation.name}, {type(self.resolved.plan.aggregation).__name__} {kind}, seed "
            f"{self.seed}, {len(self.records)} rounds, {aborted} aborted{ended})"
        )

    def _repr_html_(self) -> str:
        return self.frame.to_html(max_rows=20, float_format="{:.4g}".format)

    @cached_property
    def records(self) -> tuple[RoundRecord, ...]:
        """What is kept of each round."""
        return tuple(done.record for done in self.done)

    @cached_property
    def metrics(self) -> tuple[Mapping[str, float], ...]:
        """Accuracy and loss on the test set after each round in which they were measured."""
        return tuple(done.metrics for done in self.done)

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
          the modelled network; ``seconds``: what the simulation of the round took, without
          ``evaluate_seconds``, of measuring the model after it (NaN where it was not).
        - ``rounding_error``: the largest difference of a coordinate to the mean of unrounded updates.
        - ``clipped_norms``: clients whose update was clipped; ``clipped_coordinates``: coordinates cut to the limit.
        - ``clip_norm``: to which updates were clipped; ``within_clip``: the noised share of those within it; else NaN.
        - ``train_loss``: the clients' own, the simulator's: no party sees it.
        - ``sha256``: of the model after the round.
        """
        import pandas as pd

        return pd.DataFrame([row_of(done) for done in self.done])

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
        return learns(self.resolved.threat, self.resolved.plan.mechanism.trust)

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
            "rounds": len(self.done),
            "stopped": self.stopped,
            "partial": self.partial,
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
