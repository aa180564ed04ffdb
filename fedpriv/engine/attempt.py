"""An attempt at a round's sum, real or ideal, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from fedpriv.aggregation.hosting import blocks
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Deployment, Session, Sum, perform_ideal
from fedpriv.encoding import Integers
from fedpriv.engine import context
from fedpriv.engine.delivery import Sent
from fedpriv.engine.executors import Crew, Shared
from fedpriv.engine.resolution import Resolved
from fedpriv.engine.training import Chunk, ClientWork, Trained
from fedpriv.errors import PlanError
from fedpriv.learning.update import Broadcast
from fedpriv.network import StageCost, Wire
from fedpriv.privacy.mechanism import RoundSpec
from fedpriv.randomness import NoiseSource, Streams
from fedpriv.threat import CLIENT, SERVER, Party, client_index


class Attempt:
    """The session, its network, and the clients' inputs as they become ready."""

    def __init__(
        self,
        shared: Shared[Resolved],
        deployment: Deployment,
        streams: Streams,
        noise: NoiseSource,
        spec: RoundSpec,
        broadcast: Broadcast,
        cohort: tuple[int, ...],
        states: Mapping[int, Any],
        crew: Crew,
        device: Literal["cpu", "cuda"],
    ) -> None:
        sent = context.serialise(broadcast)
        resolved = shared.value
        plan = resolved.plan
        self.resolved, self.deployment, self.spec, self.cohort = resolved, deployment, spec, cohort
        self.session = Session(
            round=spec.round,
            attempt=0,
            participants=cohort,
            context=context.digest(sent, spec, plan.client, plan.rounds, plan.mechanism.weighting),
        )
        self.schedule = plan.network.schedule(streams, spec.round, cohort, deployment.stages)
        slowness = plan.network.slowness(streams, spec.round, cohort)
        self.wire = Wire(plan.network, schedule=self.schedule, slowness=slowness)
        self.slowest = max(slowness.values(), default=1.0)
        self.broadcast_bytes = len(sent)
        self.brought: Sequence[Sent] = ()
        self.trained: list[Trained] = []
        self.residual = np.zeros(spec.length)
        self.clipped_norms = self.clipped_coordinates = 0
        self.train_seconds = 0.0
        self._work = ClientWork(
            resolved=shared,
            broadcast=broadcast,
            spec=spec,
            streams=streams,
            noise=noise,
            states={index: states[index] for index in cohort if index in states},
            threads=crew.threads,
            device=device,
        )
        self._crew = crew

    def real_sum(self) -> Sum:
        """The protocol, every message real."""
        releaser, hosts = self.resolved.threat.releaser, self._crew.hosts()
        return perform(
            self.deployment, self.session, self.wire, self._work, releaser, hosts=hosts, collect=self._collect
        )

    def ideal_sum(self) -> Sum:
        """The ideal functionality: same sum, same abort."""
        return perform_ideal(self.deployment, self.session, self.schedule, self._totals, self.spec.length)

    def _totals(self, present: Sequence[Party]) -> Iterator[tuple[int, Integers]]:
        left = set(present)
        here = [[client_index(p) for p in block if p in left] for block in blocks(self.session.parties)]
        for number, chunk in enumerate(self._crew.map(self._work.total, filter(None, here))):
            self._collect(chunk)
            yield number, chunk.values[0]

    def _collect(self, chunk: Chunk) -> None:
        self.trained += chunk.trained
        self.residual += chunk.residual
        self.clipped_norms += chunk.clipped_norms
        self.clipped_coordinates += chunk.clipped_coordinates
        self.train_seconds += chunk.cpu_seconds

    def costs(self, ideal: bool, released: bool) -> tuple[StageCost, ...]:
        """Broadcast, training, the protocol's stages and, where another releaser tells the server, the release."""
        releaser = self.resolved.threat.releaser
        rows = [
            *self._broadcast(self.brought),
            self._cost("train", CLIENT, len(self.trained), cpu=self.train_seconds),
            *self._protocol(ideal),
        ]
        if released and releaser != SERVER and SERVER in self.resolved.threat.informed:
            size = 8 * self.spec.length
            rows.append(self._cost("release", releaser, 1, messages=1, sent=size))
            rows.append(self._cost("release", SERVER, 1, received=size))
        return tuple(rows)

    def received_by_each(self, ideal: bool, contributors: Sequence[int]) -> int:
        """Bytes that the protocol sent each client that was there to the end of its upload."""
        received = sum(row.bytes_received for row in self._protocol(ideal) if row.role == CLIENT)
        return received // max(1, len(self.cohort if ideal else contributors))

    def _protocol(self, ideal: bool) -> Sequence[StageCost]:
        return self._modelled(len(self.cohort)) if ideal else self.wire.costs

    def _broadcast(self, brought: Sequence[Sent]) -> list[StageCost]:
        """What the server sends before the round. The slowest client is taken to be the one that is sent most."""
        messages, size = sum(sent.messages for sent in brought), sum(sent.size for sent in brought)
        most = max((sent.size for sent in brought), default=0)
        seconds = self.resolved.plan.network.seconds(CLIENT, cpu=0.0, sent=0, received=most, slowness=self.slowest)
        received = self._cost("broadcast", CLIENT, len(brought), received=size)
        return [
            self._cost("broadcast", SERVER, 1, messages=messages, sent=size),
            replace(received, modelled_seconds=seconds),
        ]

    def _modelled(self, cohort: int) -> list[StageCost]:
        """The protocol's own figures for a cohort of this size, its messages over this network."""
        rows: Sequence[StageCost] = ()
        with suppress(PlanError):  # a cohort that the protocol refuses sends nothing
            rows = self.resolved.plan.aggregation.estimate(self.resolved.terms, cohort) if cohort else ()
        return [
            self._cost(
                row.stage,
                row.role,
                row.parties,
                messages=row.messages,
                sent=row.bytes_sent,
                received=row.bytes_received,
                cpu=row.cpu_seconds,
            )
            for row in rows
        ]

    def _cost(
        self,
        stage: str,
        role: str,
        parties: int,
        *,
        messages: int = 0,
        sent: int = 0,
        received: int = 0,
        cpu: float = 0.0,
    ) -> StageCost:
        """A row whose parties are all alike; the wall-clock is that of the slowest."""
        each = max(1, parties)
        return StageCost(
            stage=stage,
            role=role,
            parties=parties,
            messages=messages,
            bytes_sent=sent,
            bytes_received=received,
            cpu_seconds=cpu,
            modelled_seconds=self.resolved.plan.network.seconds(
                role, cpu=cpu / each, sent=sent / each, received=received / each, slowness=self.slowest
            ),
        )
