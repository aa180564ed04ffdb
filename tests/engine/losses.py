"""Workers that die in the middle of things: what every kind of worker is put through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from algorithms import TIMINGS, execute

import fedpriv as fp
from fedpriv.aggregation import Session, Terms, perform
from fedpriv.aggregation.protocol import Deployment, Role, Sum
from fedpriv.encoding import ring_for
from fedpriv.engine.crews import WorkerCrew
from fedpriv.engine.executors import Executor
from fedpriv.network import Message, Stage, Wire
from fedpriv.threat import SERVER, Party, client, client_index

N, LENGTH = 9, 50
SESSION = Session(round=0, attempt=0, participants=tuple(range(N)), context=b"c")
GONE = (3, 4, 5)
"""In blocks of three over two workers, the second one has the second block."""
REST = (0, 1, 2, 6, 7, 8)


def deployed(aggregator: Any) -> Any:
    return aggregator.deploy(Terms(length=LENGTH, input_bound=N, cohort=N, domain=ring_for(N * N)))


def masked() -> Any:
    return deployed(fp.SecureAggregation(dropout=0.4, corrupt=0.0))


@dataclass(frozen=True)
class Once:
    """Kills the process that it is called in, the first time and outside the test's own process."""

    marker: Path
    parent: int = field(default_factory=os.getpid)
    always: bool = False

    def __call__(self) -> None:
        if os.getpid() != self.parent and (self.always or not self.marker.exists()):
            self.marker.touch()
            time.sleep(0.3)  # what it has answered so far is on its way
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Mortal(fp.LocalSGD):
    """The worker dies that trains client 4."""

    death: Once

    def train(self, model: Any, broadcast: Any, clients: Any, states: Any, rngs: Any, **how: Any) -> Any:
        if any(client.index == 4 for client in clients):
            self.death()
        return super().train(model, broadcast, clients, states, rngs, **how)


@dataclass(frozen=True)
class Counting:
    """Client i's vector is i + 1, everywhere; what it returns is who was asked. May die behind client 3's."""

    death: Once | None = None

    def __call__(self, present: Sequence[Party]) -> Any:
        for party in present:
            yield party, np.full(LENGTH, client_index(party) + 1, dtype=np.int64)
            if self.death and party == client(3):
                self.death()
        return list(present)


@dataclass(frozen=True)
class Outcome:
    contributors: tuple[int, ...]
    lost: tuple[int, ...]
    asked: list[int]
    """Whose work the parent was told of."""


def attempt(
    crew: WorkerCrew,
    deployment: Any,
    death: Once | None = None,
    at: tuple[str, str] | None = None,
    home: int = 1,
) -> Outcome:
    """One attempt whose sum is checked.

    Args:
        crew: where the clients live.
        deployment: the protocol.
        death: of a worker while it computes client 3's input.
        at: a stage, and "from" or "to": the worker of client 3 is killed as this message of its passes.
        home: or that of client 0: the first worker.
    """
    # Blocks find their homes in the workers' order.
    victim, struck = crew.workers[home], []

    def strike(message: Message) -> Message:
        party = message.sender if at and at[1] == "from" else message.recipient
        if at and message.stage == at[0] and party == client(3 * home) and not struck:
            struck.append(os.kill(victim.pid, signal.SIGKILL))
        return message

    asked: list[list[Party]] = []
    wire = Wire(fp.Network(), tamper=strike)
    total = perform(deployment, SESSION, wire, Counting(death), SERVER, hosts=crew.hosts(), collect=asked.append)
    assert not at or struck
    assert np.array_equal(total.total, np.full(LENGTH, sum(index + 1 for index in total.contributors)))
    return Outcome(
        total.contributors,
        tuple(sorted(map(client_index, wire.lost))),
        [client_index(p) for some in asked for p in some],
    )


# --- the runs -------------------------------------------------------------------------------------------------------


def ideal_run(federations: Any, planned: Any, executor: Executor, marker: Path) -> tuple[fp.Run, fp.Run]:
    """The same ideal run in this process, and where a worker dies on the way."""
    plan = planned(
        client=Mortal(steps=2, batch_size=4, learning_rate=0.3, death=Once(marker)),
        aggregation=fp.SecureAggregation(dropout=0.5, corrupt=0.0),
    )
    federation = federations(clients=N)
    here = execute(federation, plan, ideal=True)
    there = execute(federation, plan, ideal=True, executor=executor)
    assert marker.exists()
    return here, there


def masked_run(federations: Any, planned: Any, executor: Executor, marker: Path) -> fp.Run:
    """A masked run, whose worker with clients 3 to 5 dies in the first round while it trains them."""
    plan = planned(
        client=Mortal(steps=2, batch_size=4, learning_rate=0.3, death=Once(marker)),
        aggregation=fp.SecureAggregation(dropout=0.4, corrupt=0.0),
    )
    run = execute(federations(clients=N), plan, executor=executor)
    assert marker.exists()
    return run


def compared(federations: Any, planned: Any, executor: Executor, folder: Path) -> None:
    """The same comparison in this process, and where a worker dies in one of the cells: that one is done again."""
    client = Mortal(steps=2, batch_size=4, learning_rate=0.3, death=Once(folder / "died"))
    plans = {
        "mortal": planned(client=client),
        "noised": planned(mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)),
    }
    options: dict[str, Any] = {"seeds": [0, 1], "progress": False}
    here = fp.compare(federations(), plans, **options)
    there = fp.compare(federations(), plans, executor=executor, checkpoint=folder / "kept", every=1, **options)
    assert (folder / "died").exists()
    for name in ("frame", "rounds"):
        one, other = (getattr(study, name).drop(columns=TIMINGS, errors="ignore") for study in (here, there))
        assert other.equals(one)
    assert len(list((folder / "kept").glob("*/round-000002.checkpoint"))) == 4


INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background of a shell
import numpy as np
import fedpriv as fp
from fedpriv.learning.update import Update, per_client

@per_client
class Ones:
    def train_one(self, model, broadcast, client, state, rng):
        return Update(payload={"delta": np.ones(1, dtype=np.float32)})

x, y = np.zeros((60, 1)), np.zeros(60, dtype=np.int64)
clients = tuple(fp.data.Client(index=i, name=str(i), x=x[:1], y=y[:1]) for i in range(60))
federation = fp.data.Federation(name="f", clients=clients, test_x=x, test_y=y, classes=2)
plan = fp.Plan(model=None, client=Ones(), rounds=1_000_000)
run = fp.run(federation, plan, seed=1, progress=False, executor=EXECUTOR, callbacks=[lambda p: print(1, flush=True)])
assert run.partial and len(run.records) == len(run.frame) == len(run.ledger) >= 2
print("whole")
"""


def interrupted(executor: str) -> None:
    """Ctrl-C on a terminal reaches the run and all of its workers."""
    command = [sys.executable, "-c", INTERRUPTED.replace("EXECUTOR", executor)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout is not None
        begun = [run.stdout.readline() for _ in range(2)]
        pids = of_session(run.pid)
        os.killpg(run.pid, signal.SIGINT)
        told, errors = run.communicate(timeout=60)
    assert begun == ["1\n"] * 2, errors
    assert len(pids) >= 3
    assert (run.returncode, told.splitlines()[-1:]) == (0, ["whole"]), errors
    assert gone(pids, within=30)
    assert not of_session(run.pid)


def descendants() -> list[int]:
    """The processes that this one has started, and those that they have."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def of_session(leader: int) -> list[int]:
    """The processes that a script has started, and itself."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(entry.name))
    return found


# --- a protocol in which the server speaks first --------------------------------------------------------------------

HELLO, ANSWER = "hello", "answer"


@dataclass
class Asked:
    """A client that answers with its input and with what it has heard; a protocol for tests, without secrets."""

    party: Party
    heard: list[bytes] = field(default_factory=list)
    value: int = 0

    def receive(self, message: Message) -> None:
        self.heard.append(message.body)

    def submit(self, vector: Any) -> None:
        self.value = int(vector[0])

    def step(self, stage: str) -> list[Message]:
        (number,) = self.heard  # exactly once
        return [Message(self.party, SERVER, stage, bytes([self.value, number[0]]))]


@dataclass
class Asking:
    """Sends each client its number, and adds up what comes back."""

    session: Session
    got: dict[int, int] = field(default_factory=dict)

    def receive(self, message: Message) -> None:
        value, number = message.body
        assert number == client_index(message.sender)
        self.got[number] = value

    def step(self, stage: str) -> list[Message]:
        return [Message(SERVER, party, HELLO, bytes([client_index(party)])) for party in self.session.parties]

    def result(self) -> Sum:
        return Sum(total=np.full(LENGTH, sum(self.got.values())), contributors=tuple(sorted(self.got)))


class ServerFirst(Deployment):
    stages = (Stage(HELLO, SERVER, "setup"), Stage(ANSWER, "client", "upload"))
    key_bytes = 0

    def round(self, session: Session) -> Mapping[Party, Role]:
        return {party: Asked(party) for party in session.parties} | {SERVER: Asking(session)}

    def contributors(self, session: Session, schedule: Any) -> tuple[int, ...]:
        return session.participants


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def gone(pids: Sequence[int], within: float) -> bool:
    """Whether these processes end in time."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False
