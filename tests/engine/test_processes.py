"""Clients in other processes: the same bits, the same errors, and their secrets stay where they were made."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from algorithms import Constant, Make, Ready, execute, same_bits
from losses import LENGTH, SESSION, Counting, N, deployed

import fedpriv as fp
from fedpriv.aggregation import hosting, perform
from fedpriv.aggregation.protocol import Inputs
from fedpriv.engine.crews import WorkerCrew
from fedpriv.engine.processes import Processes
from fedpriv.errors import ConfigurationError, DecryptionFailed, NonFiniteInput, RoundAborted, UnexpectedMessage
from fedpriv.network import Message, Network, Wire
from fedpriv.threat import SERVER, client


@pytest.fixture(scope="module")
def crew() -> Iterator[WorkerCrew]:
    with Processes(3).start() as crew:
        yield crew


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "BLOCK", 3)


def attempt(crew: WorkerCrew, wire: Wire, inputs: Inputs | None = None, **description: Any) -> tuple[Any, list[Any]]:
    collected: list[Any] = []
    deployment = deployed(fp.SecureAggregation(**description))
    inputs = inputs or Counting()
    total = perform(deployment, SESSION, wire, inputs, SERVER, hosts=crew.hosts(), collect=collected.append)
    return total, collected


@pytest.mark.parametrize("adversary", ["honest-but-curious", "malicious"])
@pytest.mark.parametrize("stage", [None, "advertise", "share", "upload", "unmask"])
def test_a_sum_over_workers(crew: WorkerCrew, adversary: Any, stage: str | None) -> None:
    """Every dropout point; what inputs return arrives block by block, in order."""
    names = [s.name for s in deployed(fp.SecureAggregation(adversary=adversary)).stages if s.actor == "client"]
    at = {None: None, "advertise": names[0], "share": names[1], "upload": names[2], "unmask": names[-1]}[stage]
    lost = {} if at is None else {client(4): at}
    wire = Wire(Network(), schedule=lost)
    total, collected = attempt(crew, wire, adversary=adversary, dropout=0.2, corrupt=0.1)
    left = [index for index in range(N) if not lost or index != 4 or stage == "unmask"]
    assert total.contributors == tuple(left)
    assert np.array_equal(total.total, np.full(LENGTH, sum(index + 1 for index in left)))
    blocks = [[client(i) for i in block if i in left] for block in ([0, 1, 2], [3, 4, 5], [6, 7, 8])]
    assert collected == blocks
    assert all(row.cpu_seconds > 0 for row in wire.costs if row.role == "client" and row.messages)


def test_costs_are_those_of_one_process(crew: WorkerCrew) -> None:
    wires = [Wire(Network()), Wire(Network())]
    attempt(crew, wires[0])
    perform(deployed(fp.SecureAggregation()), SESSION, wires[1], Counting(), SERVER)
    spread, here = ([(r.stage, r.role, r.messages, r.bytes_sent, r.bytes_received) for r in w.costs] for w in wires)
    assert spread == here


def test_a_workers_refusal_is_the_errors_of_the_role(crew: WorkerCrew) -> None:
    def flip(message: Message) -> Message:
        if message.sender != SERVER:
            return message
        return Message(message.sender, message.recipient, message.stage, message.body[:-1] + b"\x00\x01")

    with pytest.raises(RoundAborted) as there:
        attempt(crew, Wire(Network(), tamper=flip))
    with pytest.raises(type(there.value)):
        perform(deployed(fp.SecureAggregation()), SESSION, Wire(Network(), tamper=flip), Counting(), SERVER)
    assert attempt(crew, Wire(Network()))[0].contributors == tuple(range(N))  # the workers are fit for the next attempt


class Failing:
    """A role whose step fails after a while."""

    def __init__(self, error: type[RoundAborted], seconds: float) -> None:
        self.error, self.seconds = error, seconds

    def step(self, stage: str) -> Any:
        time.sleep(self.seconds)
        raise self.error("No rule.", remedy="None.")


def test_a_failed_decryption_is_not_hidden_by_what_another_client_refused(crew: WorkerCrew) -> None:
    """An aborted round is followed by the next one; after a decryption that failed there must be none."""
    hosts = crew.hosts()
    roles = {client(index): Failing(UnexpectedMessage, 0.0) for index in range(3)}
    roles |= {client(index): Failing(DecryptionFailed, 0.5) for index in range(3, 6)}  # in the other worker
    hosts.open(roles)  # type: ignore[arg-type]
    with pytest.raises(DecryptionFailed):
        list(hosts.act("decrypt", list(roles)))
    hosts.close()
    assert list(crew.map(abs, [-1, -2])) == [1, 2], "the workers are fit"


def test_an_abort_in_the_middle_of_the_upload_leaves_workers_fit(crew: WorkerCrew) -> None:
    def damage(message: Message) -> Message:
        if message.stage != "masked-input" or message.sender != client(0):
            return message
        return Message(message.sender, message.recipient, message.stage, message.body[:-4])

    with pytest.raises(RoundAborted):
        attempt(crew, Wire(Network(), tamper=damage))
    assert attempt(crew, Wire(Network()))[0].contributors == tuple(range(N))


def test_secrets_stay_where_they_were_made() -> None:
    """A fresh role travels as the arguments that it was made of; one that has begun does not travel at all."""
    for adversary in ("honest-but-curious", "malicious"):
        fresh = deployed(fp.SecureAggregation(adversary=adversary)).round(SESSION)[client(0)]  # type: ignore[arg-type]
        moved = pickle.loads(pickle.dumps(fresh))
        assert type(moved) is type(fresh)
        given = pickle.loads(pickle.dumps(fresh))
        given.submit(np.zeros(LENGTH, dtype=np.int64))
        fresh.step("advertise-keys")
        for begun in (fresh, given):
            with pytest.raises(TypeError, match="begun"):
                pickle.dumps(begun)


def test_map_keeps_the_order(crew: WorkerCrew) -> None:
    assert list(crew.map(lambda n: n * n, range(20))) == [n * n for n in range(20)]
    shared = crew.share(np.arange(5))
    assert list(crew.map(lambda n: int(shared.value.sum()) + n, range(3))) == [10, 11, 12]


def test_a_script_without_a_guard(tmp_path: Path) -> None:
    """Workers do not import the script; its own classes come back as what they are there."""
    script = tmp_path / "script.py"
    script.write_text(
        "from fedpriv.engine.processes import Processes\n"
        "class Own:\n    pass\n"
        "with Processes(1).start() as crew:\n"
        "    print([isinstance(own, Own) for own in crew.map(lambda _: Own(), [0])])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "[True]\n"


def test_map_ends_early(crew: WorkerCrew) -> None:
    results = crew.map(lambda n: n, range(1000))
    assert [next(results), next(results)] == [0, 1]
    results.close()  # type: ignore[attr-defined]
    assert list(crew.map(lambda n: n + 1, [1])) == [2]


def test_large_answers_that_nobody_wants_do_not_stand_in_the_way(crew: WorkerCrew) -> None:
    """Neither end waits for the other to read."""
    results = crew.map(lambda _: bytes(4 << 20), range(8))
    next(results)
    results.close()  # type: ignore[attr-defined]
    large = crew.share(bytes(4 << 20))
    assert list(crew.map(lambda _: len(large.value), [0, 1])) == [4 << 20] * 2


def test_a_task_that_raises(crew: WorkerCrew) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(crew.map(lambda n: 1 // n, [1, 0, 1]))
    assert any("In a worker" in note for note in caught.value.__notes__)
    assert list(crew.map(lambda n: n, [5])) == [5]


def test_what_cannot_be_pickled_is_refused_by_name(crew: WorkerCrew) -> None:
    with pytest.raises(ConfigurationError, match=r"can be pickled.*lock.*Inline"):
        crew.share(threading.Lock())


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_a_number_of_workers(workers: Any) -> None:
    with pytest.raises(ConfigurationError, match="workers"):
        Processes(workers)


def test_a_client_that_diverges_in_a_worker(crew: WorkerCrew, federation: Any, planned: Make) -> None:
    plan = planned(client=Constant(broken=3, poison=np.nan), rounds=3)
    with pytest.raises(NonFiniteInput, match="client/3") as caught:
        execute(federation, plan, executor=Ready(crew))
    assert "In round 2." in caught.value.__notes__


@dataclass(frozen=True)
class Spreading:
    """A worker whose work is spread over workers."""

    def __call__(self, _: int) -> None:
        Processes(1).start()


def test_a_worker_has_no_workers(crew: WorkerCrew) -> None:
    with pytest.raises(ConfigurationError, match=r"no workers of its own.*leave out one executor"):
        list(crew.map(Spreading(), [0]))


def test_any_number_of_workers_gives_the_same_bits(crew: WorkerCrew, federation: Any, planned: Make) -> None:
    """Three, two and one; the last test here: it ends them. A lambda for a model, as a notebook has it."""
    same_bits(crew, federation, lambda **parts: planned(model=lambda: fp.models.logistic((4,), 3), **parts))
