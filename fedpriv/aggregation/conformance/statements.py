"""What an aggregator states of itself is true."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import combinations
from operator import eq

import numpy as np

from fedpriv.aggregation.conformance.bench import Bench, ConformanceFailure, upload_stage
from fedpriv.aggregation.protocol import Releaser
from fedpriv.network import Message, Network, StageCost, Wire
from fedpriv.threat import CLIENT, View


def check_threat_model(bench: Bench) -> None:
    """The threat model names assumptions, a reference, and a releaser that holds the sum."""
    model = bench.aggregator.threat_model
    deployment, _ = bench.deployment()
    session = bench.session()
    roles = deployment.round(session)
    if not model.assumptions or not model.reference:
        raise ConformanceFailure("A threat model states its assumptions and a reference.")
    holders = session.parties if model.releaser == CLIENT else (model.releaser,)
    if not all(isinstance(roles.get(holder), Releaser) for holder in holders):
        raise ConformanceFailure(f"The releaser {model.releaser!r} has a role with a result.")
    if View.EXACT_SUM not in model.learns.get(model.releaser, frozenset()):
        raise ConformanceFailure(f"The releaser {model.releaser!r} sees the exact sum; the threat model must say so.")


def check_stages(bench: Bench) -> None:
    """Stage names differ, phases go forward, and clients upload in exactly one stage."""
    stages = bench.deployment()[0].stages
    order = ["setup", "upload", "recovery"]
    if len({stage.name for stage in stages}) != len(stages):
        raise ConformanceFailure("Two stages have the same name.")
    positions = [order.index(stage.phase) for stage in stages]
    if positions != sorted(positions):
        raise ConformanceFailure("Phases go setup, upload, recovery.")
    if len([stage for stage in stages if stage.actor == CLIENT and stage.phase == "upload"]) != 1:
        raise ConformanceFailure("Clients upload in exactly one stage.")


def check_uploads_look_hidden(bench: Bench) -> None:
    """Unless the server is said to see updates: uploads of zeros have little in common and do not compress."""
    model = bench.aggregator.threat_model
    if View.UPDATES in model.sees("server"):
        return
    length = max(bench.lengths)
    uploads: list[Message] = []
    for _ in range(2):
        session = bench.session()
        sent: list[Message] = []
        stage = upload_stage(bench)
        bench.run(
            session,
            {index: np.zeros(length, dtype=np.int64) for index in session.participants},
            length=length,
            tamper=lambda message, sent=sent, stage=stage: (  # type: ignore[misc]
                sent.append(message) if message.stage == stage else None,
                message,
            )[1],
        )
        uploads += [message for message in sent if message.sender.startswith(CLIENT)]
    for one, other in combinations(uploads, 2):
        comparable = one.recipient == other.recipient and len(one.body) == len(other.body)
        if comparable and sum(map(eq, one.body, other.body)) > len(one.body) / 2:
            raise ConformanceFailure("Two uploads of the same vector have most bytes in common: is a mask used again?")
    for message in uploads:
        if len(zlib.compress(message.body)) < 0.5 * len(message.body):
            raise ConformanceFailure("An upload of zeros compresses to less than half: it is not hidden.")


def check_bytes_match_estimate(bench: Bench) -> None:
    """The estimate's messages and bytes of every stage and kind of party are those of a real attempt."""
    for length in bench.lengths:
        _, terms = bench.deployment(length)
        for cohort in (min(bench.cohorts), max(bench.cohorts)):
            session = bench.session(cohort)
            wire = Wire(Network())
            bench.run(session, bench.vectors(session, length), length=length, wire=wire)
            counted = by_party(wire.costs)
            estimated = by_party(bench.aggregator.estimate(terms, cohort))
            if set(counted) != set(estimated):
                raise ConformanceFailure(
                    f"Estimated rows {sorted(estimated)} are not the counted rows {sorted(counted)}."
                )
            for row, real in counted.items():
                for name, was, said in zip(("messages", "sent", "received"), real, estimated[row], strict=True):
                    if abs(was - said) > bench.bytes_tolerance * was:
                        raise ConformanceFailure(f"{row}, {name}: {said} estimated, {was} counted (n = {cohort}).")


def check_descriptions_are_values(bench: Bench) -> None:
    """An aggregator is a frozen description: hashable, and unchanged by its deployments."""
    before = (hash(bench.aggregator), repr(bench.aggregator))
    session = bench.session()
    bench.run(session, bench.vectors(session))
    if (hash(bench.aggregator), repr(bench.aggregator)) != before:
        raise ConformanceFailure("An aggregator changed when it was used.")


def by_party(costs: Sequence[StageCost]) -> dict[tuple[str, str], tuple[int, int, int]]:
    """(stage, role) → messages, bytes sent, bytes received; rows in which nothing travelled are left out."""
    return {
        (cost.stage, cost.role): (cost.messages, cost.bytes_sent, cost.bytes_received)
        for cost in costs
        if cost.messages or cost.bytes_received
    }
