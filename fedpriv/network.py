"""The in-memory network: it carries bytes, counts them, loses clients, delays, tampers and models the wall-clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from fedpriv.errors import ConfigurationError
from fedpriv.randomness import Streams
from fedpriv.threat import CLIENT, Party, client, client_index

Phase: TypeAlias = Literal["setup", "upload", "recovery"]
"""Where a stage stands: before the input is sent, sending it, after it. A client lost at or before ``upload`` is not in
the sum of any protocol; one lost at ``recovery`` is in the sum of every protocol."""
PHASES: tuple[Phase, ...] = ("setup", "upload", "recovery")


@dataclass(frozen=True)
class Stage:
    """One stage of a protocol: who acts in it.

    Args:
        name: as in the paper.
        actor: ``"client"`` (all that are left) or one party.
        phase: for a client stage, where it stands.
    """

    name: str
    actor: Party
    phase: Phase = "upload"


@dataclass(frozen=True)
class Message:
    """Bytes from one party to another. ``repr`` shows the length only."""

    sender: Party
    recipient: Party
    stage: str
    body: bytes = field(repr=False)


Schedule: TypeAlias = Mapping[Party, str]
"""Client → the stage at which it falls silent. It neither acts in that stage nor later."""

Tamper: TypeAlias = Callable[[Message], Message | None]
"""What an adversary does to a message under way: pass, change, or swallow (None)."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """How the simulated network behaves.

    Args:
        dropout: the probability that a client is lost in a round. It is then lost in one of the phases *setup*,
            *upload*, *recovery* with equal probability; or a mapping phase → probability says where. One schedule
            means the same contributors under every protocol.
        upload: a client's upstream bandwidth, bytes per second.
        download: a client's downstream bandwidth, bytes per second.
        latency: seconds for one message, one way.
        stragglers: σ of a lognormal factor (median 1) on each client's transfer and compute time; 0: none.
    """

    dropout: float | Mapping[Phase, float] = 0.0
    upload: float = 1.25e6
    download: float = 5e6
    latency: float = 0.05
    stragglers: float = 0.0

    def __post_init__(self) -> None:
        rates = self.phase_rates
        unknown = set(rates) - set(PHASES)
        if unknown:
            raise ConfigurationError(
                f"Dropout phases are {', '.join(PHASES)}.", value=sorted(unknown), remedy="Use these names."
            )
        if any(not 0.0 <= rate <= 1.0 for rate in rates.values()) or sum(rates.values()) > 1.0 + 1e-9:
            raise ConfigurationError(
                "Dropout probabilities lie in [0, 1] and sum to at most 1.", value=self.dropout, remedy="Lower them."
            )
        if not (self.upload > 0 and self.download > 0 and self.latency >= 0 and self.stragglers >= 0):  # NaN as well
            raise ConfigurationError(
                "Bandwidths are > 0; latency and stragglers are ≥ 0.",
                value=(self.upload, self.download, self.latency, self.stragglers),
                remedy="Give bytes per second and seconds.",
            )

    @property
    def phase_rates(self) -> dict[str, float]:
        """Probability of being lost, per phase."""
        if isinstance(self.dropout, Mapping):
            return {str(phase): float(rate) for phase, rate in self.dropout.items()}
        return {phase: float(self.dropout) / len(PHASES) for phase in PHASES}

    def schedule(self, streams: Streams, round: int, cohort: Sequence[int], stages: Sequence[Stage]) -> Schedule:
        """Who is lost at which stage of this protocol, from the run's seed.

        The phase is drawn first and from the client's own stream, so that one seed loses the same clients in the same
        phase under every protocol; the stage within the phase is drawn after it.
        """
        rates = self.phase_rates
        if not any(rates.values()):
            return {}
        lost: dict[Party, str] = {}
        edges = np.cumsum([rates.get(phase, 0.0) for phase in PHASES])
        for index, rng in zip(cohort, streams.generators("dropout", round, cohort), strict=True):
            where, which = rng.random(2)
            position = int(np.searchsorted(edges, where, side="right"))
            if position < len(PHASES):
                names = _client_stages(stages, PHASES[position])
                if names:
                    lost[client(index)] = names[int(which * len(names))]
        return lost

    def seconds(self, role: str, *, cpu: float, sent: float, received: float, slowness: float = 1.0) -> float:
        """One party's wall-clock for a stage: compute, then transfer.

        Only clients' links are modelled: those of the server and of an authority are no limit, and what they are sent
        is on its way while the clients' links are counted.

        Args:
            role: ``"client"``, or another party.
            cpu: seconds of its processor.
            sent: bytes.
            received: bytes.
            slowness: its factor, see :meth:`slowness`.
        """
        if role != CLIENT:
            return cpu
        hops = (sent > 0) + (received > 0)
        return slowness * (cpu + sent / self.upload + received / self.download) + hops * self.latency

    def slowness(self, streams: Streams, round: int, cohort: Sequence[int]) -> dict[Party, float]:
        """Each client's factor on transfer and compute time."""
        if self.stragglers == 0:
            return {client(index): 1.0 for index in cohort}
        rngs = streams.generators("stragglers", round, cohort)
        return {
            client(i): float(np.exp(self.stragglers * rng.standard_normal()))
            for i, rng in zip(cohort, rngs, strict=True)
        }


def _client_stages(stages: Sequence[Stage], phase: Phase) -> list[str]:
    own = [stage for stage in stages if stage.actor == CLIENT]
    names = [stage.name for stage in own if stage.phase == phase]
    if not names and phase == "setup":  # a protocol without set-up: the client is simply not there to upload
        names = [stage.name for stage in own if stage.phase == "upload"][:1]
    return names


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What one stage cost one kind of party. Bytes are those of the serialised messages."""

    stage: str
    role: str
    parties: int
    messages: int
    bytes_sent: int
    bytes_received: int
    cpu_seconds: float
    """Summed over the parties of this kind, measured."""
    modelled_seconds: float
    """Wall-clock of this stage under the network's model: the slowest client, or the one server."""


class Wire:
    """The live network of one protocol attempt: queues of bytes, and what they cost.

    Args:
        network: the description.
        schedule: who falls silent when.
        slowness: factors from :meth:`Network.slowness`; 1 where absent.
        tamper: an adversary on the wire, for tests and attacks.
    """

    def __init__(
        self,
        network: Network,
        *,
        schedule: Schedule | None = None,
        slowness: Mapping[Party, float] | None = None,
        tamper: Tamper | None = None,
    ) -> None:
        self._network = network
        self._schedule = dict(schedule or {})
        self._slowness = dict(slowness or {})
        self._tamper = tamper
        self._silent: set[Party] = set()
        self.lost: set[Party] = set()
        """Clients that were lost in earnest: not by the schedule, but with the worker in which they lived."""
        self._sent: dict[Party, tuple[int, int]] = {}
        self._received: dict[Party, int] = {}
        self._cpu: dict[Party, float] = {}
        self.costs: list[StageCost] = []

    def enter(self, stage: Stage) -> None:
        """A stage begins: the clients whose time has come fall silent."""
        self._silent |= {party for party, name in self._schedule.items() if name == stage.name}

    def lose(self, parties: Iterable[Party]) -> None:
        """These clients were lost in earnest: they are silent from now on."""
        self.lost.update(parties)
        self._silent |= self.lost

    def silent(self, party: Party) -> bool:
        """Whether this party has been lost."""
        return party in self._silent

    def carry(self, messages: Iterable[Message]) -> list[Message]:
        """Count and pass on what is sent; what goes to a lost party, or what an adversary swallows, is gone."""
        delivered = []
        for message in messages:
            count, size = self._sent.get(message.sender, (0, 0))
            self._sent[message.sender] = (count + 1, size + len(message.body))
            passed: Message | None = self._tamper(message) if self._tamper else message
            if passed is None or self.silent(passed.recipient):
                continue
            self._received[passed.recipient] = self._received.get(passed.recipient, 0) + len(passed.body)
            delivered.append(passed)
        return delivered

    def spent(self, party: Party, cpu_seconds: float) -> None:
        """A party used the processor."""
        self._cpu[party] = self._cpu.get(party, 0.0) + cpu_seconds

    def leave(self, stage: Stage) -> None:
        """A stage ends: its costs become rows, one for each kind of party that sent, received or computed."""
        parties = set(self._sent) | set(self._received) | set(self._cpu)
        for role in sorted({_kind(party) for party in parties}):
            members = [party for party in parties if _kind(party) == role]
            self.costs.append(
                StageCost(
                    stage=stage.name,
                    role=role,
                    parties=len(members),
                    messages=sum(self._sent.get(party, (0, 0))[0] for party in members),
                    bytes_sent=sum(self._sent.get(party, (0, 0))[1] for party in members),
                    bytes_received=sum(self._received.get(party, 0) for party in members),
                    cpu_seconds=sum(self._cpu.get(party, 0.0) for party in members),
                    modelled_seconds=max(self._seconds(party) for party in members),
                )
            )
        self._sent, self._received, self._cpu = {}, {}, {}

    def _seconds(self, party: Party) -> float:
        return self._network.seconds(
            _kind(party),
            cpu=self._cpu.get(party, 0.0),
            sent=self._sent.get(party, (0, 0))[1],
            received=self._received.get(party, 0),
            slowness=self._slowness.get(party, 1.0),
        )


def _kind(party: Party) -> str:
    return CLIENT if party.startswith(f"{CLIENT}/") else party


def cohort_of(parties: Iterable[Party]) -> tuple[int, ...]:
    """The sorted indices of the clients among these parties."""
    return tuple(sorted(client_index(party) for party in parties if _kind(party) == CLIENT))
