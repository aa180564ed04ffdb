"""The round: sample, broadcast, train, protect, sum, release, step. Every computation of fedpriv goes through here."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from fedpriv.aggregation.protocol import Sum
from fedpriv.encoding import Reals
from fedpriv.engine.attempt import Attempt
from fedpriv.engine.delivery import Delivery
from fedpriv.engine.executors import Crew, Executor, Inline
from fedpriv.engine.resolution import Resolved, settled
from fedpriv.engine.training import Device, device_of
from fedpriv.errors import (
    CohortTooSmall,
    DecryptionFailed,
    FedprivError,
    PlanError,
    RoundAborted,
    without_frames,
)
from fedpriv.learning.server import RoundInfo
from fedpriv.learning.vector import Vector
from fedpriv.network import StageCost, cohort_of
from fedpriv.privacy.ledger import Ledger, LedgerEvent
from fedpriv.privacy.mechanism import Outcome, Release
from fedpriv.randomness import NoiseSource, Streams
from fedpriv.randomness import noise as noise_of
from fedpriv.threat import SERVER


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that a run carries from round to round. Every round makes another; the ledger alone is one and grows:
    an interruption finds the last round's state whole.
    """

    server: Any
    mechanism: Any
    clients: dict[int, Any] = field(default_factory=dict)
    ledger: Ledger
    key_bytes: int
    """What every client was sent once, before its first round."""
    delivery: Delivery
    """Which models or aggregates clients were sent."""
    round: int = 0
    """How many rounds are done."""


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What is kept of a round. Metrics and counts of clients are the simulator's, in no party's view."""

    round: int
    cohort: tuple[int, ...]
    contributors: tuple[int, ...]
    """Whose updates are in the sum; empty where the round was aborted."""
    aborted: RoundAborted | None
    """Why the round ended without a sum."""
    lost: tuple[int, ...]
    """Clients that fell silent because the worker in which they lived was lost, wherever in the round: dropouts that no
    schedule drew."""
    sha256: str
    """Of the model's parameters after the round, as little-endian float32."""
    costs: tuple[StageCost, ...]
    modelled: bool
    """Whether the protocol's ``costs`` come from its formulas (an ideal run) instead of real messages."""
    rounding_error: float
    """The largest error of the released mean's coordinates that is due to encoding, without noise; NaN if aborted."""
    clipped_norms: int
    clipped_coordinates: int
    train_loss: float
    """Mean of the losses that the clients' algorithm reports; NaN where it reports none."""
    seconds: float
    """Wall-clock of simulating this round."""
    clip_norm: float | None = None
    """The L2 norm to which updates were clipped; None where only coordinates are bounded."""
    within_clip: float | None = None
    """The noised share of updates within it, where the mechanism releases it."""


@dataclass(frozen=True, kw_only=True)
class RoundState:
    """A round as it ends: its record and its vectors."""

    record: RoundRecord
    parameters: Vector
    """``[d] float32``: the model after the round."""
    mean: Reals | None
    """``[payload] float64``: the released mean; None where the round was aborted."""


def run_rounds(
    resolved: Resolved,
    *,
    seed: int,
    noise: NoiseSource = "seeded",
    ideal: bool = False,
    executor: Executor | None = None,
    device: Device = "auto",
    state: State | None = None,
) -> Generator[tuple[RoundState, State], None, None]:
    """Round by round.

    Args:
        resolved: the plan and its federation.
        seed: of everything that is simulated.
        noise: its source.
        ideal: the same sums and aborts without the cryptography, costs modelled.
        executor: where clients live and train.
        device: what they train on.
        state: go on from here; the deployment is a new one, with keys of its own.
    """
    noise_of(noise, Streams(seed), "central-noise", 0)  # an unknown source is refused before the first round
    trained_on = device_of(resolved, device)
    with (executor or Inline()).start() as crew:
        yield from _run(settled(resolved, noise), seed, noise, ideal, crew, trained_on, state)


def first_state(resolved: Resolved, seed: int, key_bytes: int) -> State:
    """Before the first round."""
    return State(
        server=resolved.plan.server.init(resolved.initial(seed)),
        mechanism=resolved.mechanism_state,
        ledger=resolved.new_ledger(),
        key_bytes=key_bytes,
        delivery=Delivery(server_knows_model=SERVER in resolved.threat.informed),
    )


def planned_events(
    resolved: Resolved, state: State, seed: int, noise: NoiseSource, round: int
) -> tuple[LedgerEvent, ...]:
    """What a round will amount to at most, before it begins: everybody who is drawn for it contributes.

    The cohort is the one that will be drawn: no client's data influence it. Where the noise is made of clients' shares,
    those who drop out take theirs along: the round is charged as one that was aborted, with the shares of the plan.
    After the last round there is nothing.

    Raises:
        PlanError: the clients' algorithm is record-level and does not say what taking part amounts to.
    """
    resolved = settled(resolved, noise)
    plan = resolved.plan
    if round >= plan.rounds:
        return ()
    cohort = _cohort(resolved, Streams(seed), round)
    spec = plan.mechanism.begin(state.mechanism, round)
    there = () if plan.mechanism.trust == "distributed" else cohort
    events = list(plan.mechanism.events(spec, Outcome(cohort=cohort, contributors=there, noise=noise)))
    if getattr(plan.client, "record_level", False):
        participation = getattr(plan.client, "participation", None)
        if participation is None:
            raise PlanError(
                "A record-level algorithm says beforehand what taking part amounts to.",
                value=type(plan.client).__name__,
                remedy="Give it participation(client), which returns a LedgerEvent.",
            )
        events += [replace(participation(index), round=round) for index in cohort]
    return tuple(events)


def _cohort(resolved: Resolved, streams: Streams, round: int) -> tuple[int, ...]:
    """No client's data influence it."""
    return resolved.plan.sampling.cohort(streams.generator("sampling", round), resolved.setting.population, round)


def _run(
    resolved: Resolved,
    seed: int,
    noise: NoiseSource,
    ideal: bool,
    crew: Crew,
    device: Literal["cpu", "cuda"],
    state: State | None,
) -> Iterator[tuple[RoundState, State]]:
    plan, streams, shared = resolved.plan, Streams(seed), crew.share(resolved)
    deployment = plan.aggregation.deploy(resolved.terms)
    state = state or first_state(resolved, seed, deployment.key_bytes)
    for round in range(state.round, plan.rounds):
        started = time.perf_counter()
        cohort = _cohort(resolved, streams, round)
        broadcast = plan.server.broadcast(state.server)
        spec = plan.mechanism.begin(state.mechanism, round, streams.integer("public", round))
        attempt = Attempt(shared, deployment, streams, noise, spec, broadcast, cohort, state.clients, crew, device)
        delivery = state.delivery.copy()
        attempt.brought = delivery.bring(cohort, attempt.broadcast_bytes)
        release: Release | None = None
        aborted: RoundAborted | None = None
        total: Sum | None = None
        try:
            total = attempt.ideal_sum() if ideal else attempt.real_sum()
            outcome = Outcome(cohort=cohort, contributors=total.contributors, noise=noise)
            drawn = noise_of(noise, streams, "central-noise", round)
            release = plan.mechanism.release(total.total, spec, outcome, drawn, state.mechanism)
        except DecryptionFailed as error:
            error.add_note(f"In round {round + 1}. It is never retried, and neither is the run: its key may be known.")
            raise
        except RoundAborted as error:
            # That nothing came shows something of who was drawn: the ledger must know, for amplification's sake.
            outcome = Outcome(cohort=cohort, contributors=(), noise=noise)
            aborted, total = without_frames(error), None
        except FedprivError as error:
            error.add_note(f"In round {round + 1}.")
            raise
        events = [*plan.mechanism.events(spec, outcome), *_of_records(attempt, aborted)]
        drawn = noise_of(noise, streams, "central-noise", round)
        mechanism = plan.mechanism.advance(state.mechanism, spec, release, drawn)
        server, clients = state.server, state.clients
        if release is not None:
            population = resolved.setting.population
            info = RoundInfo(round=round, cohort=plan.sampling.expected(population), population=population)
            server = plan.server.step(server, _entries(release.mean, resolved), info)
            kept = {u.client: u.state for u in attempt.trained if u.state is not None or u.client in clients}
            clients = clients | kept if kept else clients  # not a copy a round where nobody keeps anything
            if not delivery.server_knows_model:
                delivery.publish(outcome.contributors, attempt.received_by_each(ideal, outcome.contributors))
        for event in events:
            state.ledger.append(event)
        state = replace(state, server=server, mechanism=mechanism, clients=clients, delivery=delivery, round=round + 1)
        parameters = plan.server.broadcast(server).parameters
        yield _conclude(attempt, parameters, release, total, aborted, ideal, started), state


def _of_records(attempt: Attempt, aborted: RoundAborted | None) -> list[LedgerEvent]:
    """What each client's own noise amounts to, per record, in this round.

    Whether updates were computed and seen before a round was aborted depends on the protocol and on when it was. So an
    algorithm that says what taking part amounts to (``participation(client)``) is charged for the whole cohort, in
    ideal and real runs alike; other algorithms for the clients that have trained. A cohort refused for its size
    computed nothing.
    """
    events = [event for update in attempt.trained for event in update.events]
    participation = getattr(attempt.resolved.plan.client, "participation", None)
    refused = isinstance(aborted, CohortTooSmall) and not attempt.trained
    if aborted is not None and not refused and participation is not None:
        events = [participation(index) for index in attempt.cohort]
    return [replace(event, round=attempt.spec.round) for event in events]


def _entries(mean: Reals, resolved: Resolved) -> dict[str, Vector]:
    """The released mean, entry by entry."""
    edges = np.cumsum(list(resolved.entries.values()))[:-1]
    parts = np.split(mean.astype(np.float32), edges)
    return dict(zip(resolved.entries, parts, strict=True))


def _conclude(
    attempt: Attempt,
    parameters: Vector,
    release: Release | None,
    total: Sum | None,
    aborted: RoundAborted | None,
    ideal: bool,
    started: float,
) -> RoundState:
    divisor = attempt.spec.divisor or float(max(1, sum(update.weight for update in attempt.trained)))
    losses = [update.metrics["loss"] for update in attempt.trained if "loss" in update.metrics]
    record = RoundRecord(
        round=attempt.spec.round,
        cohort=attempt.cohort,
        contributors=total.contributors if total is not None else (),
        aborted=aborted,
        lost=cohort_of(attempt.wire.lost),
        sha256=hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f4").tobytes()).hexdigest(),
        costs=attempt.costs(ideal, released=release is not None),
        modelled=ideal,
        rounding_error=float(np.abs(attempt.residual).max() / divisor) if total is not None else float("nan"),
        clipped_norms=attempt.clipped_norms,
        clipped_coordinates=attempt.clipped_coordinates,
        train_loss=float(np.mean(losses)) if losses else float("nan"),
        seconds=time.perf_counter() - started,
        clip_norm=attempt.spec.update_norm,
        within_clip=release.within_clip if release is not None else None,
    )
    return RoundState(record=record, parameters=parameters, mean=release.mean if release is not None else None)
