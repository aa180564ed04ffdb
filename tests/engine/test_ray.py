"""Clients in Ray's actors: the same bits as in one process, and the same losses as with processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from algorithms import Constant, Make, Ready, execute, same_bits
from losses import (
    GONE,
    REST,
    SESSION,
    Counting,
    N,
    Once,
    alive,
    attempt,
    compared,
    deployed,
    descendants,
    gone,
    ideal_run,
    masked,
    masked_run,
)

import fedpriv as fp
from fedpriv.aggregation import Terms, hosting, perform
from fedpriv.encoding import ring_for
from fedpriv.engine import cluster
from fedpriv.engine.crews import WorkerCrew
from fedpriv.errors import ConfigurationError, MalformedMessage, NonFiniteInput, RoundAborted, WorkerLost
from fedpriv.network import Message, Wire
from fedpriv.threat import SERVER, client

ALL = tuple(range(N))
LOST = r"Ray's process \d+"


@pytest.fixture(scope="module")
def crew() -> Iterator[WorkerCrew]:
    """One Ray for all tests here, of three workers."""
    os.environ.setdefault("RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES", str(80 << 20))  # read when Ray is imported
    import ray

    before = set(descendants())
    with fp.Ray(workers=3).start() as crew:
        yield crew
        pids = [pid for pid in descendants() if pid not in before]
    assert not ray.is_initialized()  # what the crew has started it has ended
    assert gone(pids, within=30)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "BLOCK", 3)


# --- attempts and maps, by one crew ---------------------------------------------------------------------------------


def test_map_and_share(crew: WorkerCrew) -> None:
    assert list(crew.map(lambda n: n * n, range(20))) == [n * n for n in range(20)]
    shared = crew.share(np.arange(5))
    large = crew.share(bytes(4 << 20))
    assert list(crew.map(lambda n: int(shared.value.sum()) + len(large.value) + n, range(3))) == [
        10 + (4 << 20) + n for n in range(3)
    ]


def test_what_arrives_can_be_written_to(crew: WorkerCrew) -> None:
    """As in one process: Ray's own arrays would be read-only."""
    (there,) = crew.map(lambda array: np.add(array, 1, out=array), [np.zeros(1 << 16)])
    there += 1
    assert there.sum() == 2 << 16


def test_map_ends_early(crew: WorkerCrew) -> None:
    results = crew.map(lambda n: n, range(1000))
    assert [next(results), next(results)] == [0, 1]
    results.close()  # type: ignore[attr-defined]
    assert list(crew.map(lambda n: n + 1, [1])) == [2]


def test_errors_arrive_as_they_were_raised(crew: WorkerCrew) -> None:
    def refuse(_: int) -> None:
        try:
            raise KeyError("the reason")
        except KeyError as error:
            refused = NonFiniteInput("Numbers are finite.", value=3, remedy="Look.")
            refused.add_note("In round 2.")
            raise refused from error

    with pytest.raises(NonFiniteInput, match="Numbers are finite") as caught:
        list(crew.map(refuse, [0]))
    assert caught.value.__notes__[0] == "In round 2."
    assert "the reason" in caught.value.__notes__[1]
    with pytest.raises(ConfigurationError, match=r"can be pickled.*lock.*Inline"):
        crew.share(threading.Lock())


def test_large_messages_arrive_in_parts_and_an_abort_stops_them(crew: WorkerCrew) -> None:
    """Each message is larger than what travels together."""
    length = 1_500_000
    terms = Terms(length=length, input_bound=N, cohort=N, domain=ring_for(N * N))

    def inputs(present: Any) -> Any:
        yield from ((party, np.ones(length, dtype=np.int64)) for party in present)

    def damage(message: Message) -> Message:
        body = message.body[:-4] if message.sender == client(0) else message.body
        return Message(message.sender, message.recipient, message.stage, body)

    def total(**wire: Any) -> Any:
        deployment = fp.PlainSum().deploy(terms)
        return perform(deployment, SESSION, Wire(fp.Network(), **wire), inputs, SERVER, hosts=crew.hosts())

    with pytest.raises(RoundAborted) as aborted:
        total(tamper=damage)
    assert isinstance(aborted.value, MalformedMessage | RoundAborted)
    found = total()
    assert found.contributors == ALL
    assert np.array_equal(found.total, np.full(length, N))


def test_costs_are_those_of_one_process(crew: WorkerCrew) -> None:
    wires = [Wire(fp.Network()), Wire(fp.Network())]
    for wire, hosts in zip(wires, (crew.hosts(), None), strict=True):
        perform(masked(), SESSION, wire, Counting(), SERVER, hosts=hosts)
    spread, here = ([(r.stage, r.role, r.messages, r.bytes_sent, r.bytes_received) for r in w.costs] for w in wires)
    assert spread == here


def test_clients_that_had_not_begun_begin_again(crew: WorkerCrew) -> None:
    os.kill(crew.workers[1].pid, signal.SIGKILL)
    with pytest.warns(RuntimeWarning, match=LOST):
        seen = attempt(crew, masked())
    assert (seen.contributors, seen.lost, seen.asked) == (ALL, (), list(ALL))


def test_lost_after_advertisement(crew: WorkerCrew) -> None:
    """Each point of an attempt is in test_losses.py: who is lost is found by the same code."""
    with pytest.warns(RuntimeWarning, match=LOST):
        seen = attempt(crew, masked(), at=("roster", "to"))
    assert (seen.contributors, seen.lost, seen.asked) == (REST, GONE, list(REST))


def test_lost_in_the_middle_of_an_upload(crew: WorkerCrew, tmp_path: Path) -> None:
    """What the worker had not handed over is lost with it; a protocol of one message does it again."""
    with pytest.warns(RuntimeWarning, match=LOST):
        seen = attempt(crew, masked(), Once(tmp_path / "masked"))
    assert (seen.contributors, seen.lost, seen.asked) == (REST, GONE, list(REST))
    with pytest.warns(RuntimeWarning, match=LOST):
        seen = attempt(crew, deployed(fp.PlainSum()), Once(tmp_path / "plain"))
    assert (seen.contributors, seen.asked) == (ALL, list(ALL))


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_client_that_diverges_in_a_worker(crew: WorkerCrew, federation: Any, planned: Make) -> None:
    plan = planned(client=Constant(broken=3, poison=np.nan), rounds=3)
    with pytest.raises(NonFiniteInput, match="client/3") as caught:
        execute(federation, plan, executor=Ready(crew))
    assert "In round 2." in caught.value.__notes__


def test_an_ideal_run_loses_a_worker_and_not_a_bit(
    crew: WorkerCrew, federations: Any, planned: Make, tmp_path: Path
) -> None:
    with pytest.warns(RuntimeWarning, match=LOST):
        here, there = ideal_run(federations, planned, Ready(crew), tmp_path / "died")
    assert [record.sha256 for record in there.records] == [record.sha256 for record in here.records]
    assert all(record.lost == () and record.contributors == ALL for record in there.records)


def test_a_masked_run_goes_on_without_those_who_were_lost(
    crew: WorkerCrew, federations: Any, planned: Make, tmp_path: Path
) -> None:
    with pytest.warns(RuntimeWarning, match=LOST):
        run = masked_run(federations, planned, Ready(crew), tmp_path / "died")
    assert [record.lost for record in run.records] == [GONE, ()]
    assert [record.contributors for record in run.records] == [REST, ALL]


def test_a_comparison_loses_a_worker_and_not_a_cell(
    crew: WorkerCrew, federations: Any, planned: Make, tmp_path: Path
) -> None:
    with pytest.warns(RuntimeWarning, match=LOST):
        compared(federations, planned, Ready(crew), tmp_path)


def test_an_interruption_ends_a_run_with_what_it_has(crew: WorkerCrew, federation: Any, planned: Make) -> None:
    """Ctrl-C on a terminal reaches this process and all of Ray's, and only this one decides what it means."""

    def press() -> None:
        for pid in [*pids, os.getpid()]:
            os.kill(pid, signal.SIGINT)

    pids, timer = descendants(), threading.Timer(0.1, press)
    assert {worker.pid for worker in crew.workers} < set(pids)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    plan = planned(rounds=1_000_000, aggregation=fp.SecureAggregation())
    try:
        run = execute(
            federation, plan, executor=Ready(crew), callbacks=[lambda p: timer.start() if p.rounds == 2 else None]
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.partial
    assert len(run.frame) == len(run.ledger) >= 2
    assert all(map(alive, pids))
    assert list(crew.map(abs, [-1, -2, -3])) == [1, 2, 3]


def test_any_number_of_workers_gives_the_same_bits(crew: WorkerCrew, federation: Any, planned: Make) -> None:
    """Three, two and one; the last test by this crew: it ends them."""
    same_bits(crew, federation, planned)
    assert not crew.workers
    with pytest.raises(WorkerLost, match="has a worker"):
        list(crew.map(abs, [1]))


# --- crews of their own, in a Ray that is there ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def there(crew: WorkerCrew) -> str:
    """The address of a Ray that this process has initialised, with room: the crew's tests stand above."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


@pytest.mark.usefixtures("there")
def test_a_worker_for_each_core() -> None:
    import ray

    assert cluster._Cluster(ray, own=False).cores() == 3


def test_more_workers_than_cores(there: str) -> None:
    with pytest.raises(ConfigurationError, match=r"4 workers, 3 cores.*fewer"):
        fp.Ray(address=there, workers=4).start()


@pytest.mark.usefixtures("there")
def test_another_version_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(cluster, "_versions", lambda: {"fedpriv": "9.9", "numpy": "1", "torch": "1"})
    office = cluster._Cluster(ray, own=False)
    office._make = ray.remote(num_cpus=0)(cluster._Actor)  # whether there is a free core or not
    with pytest.raises(ConfigurationError, match=r"fedpriv .* instead of 9\.9"):
        office.hire(1)


@pytest.mark.usefixtures("there")
def test_another_cluster_than_the_one_in_use() -> None:
    with pytest.raises(ConfigurationError, match=r"initialised Ray at.*ray\.shutdown"):
        fp.Ray(address="127.0.0.1:1").start()


def test_a_ray_that_answers_is_reached(there: str) -> None:
    cluster._reach(there)


# --- before there is a worker ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["first", "ray://first:10001", "first:port", ":6379", 6379])
def test_what_is_no_address(address: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"address of a Ray cluster.*auto"):
        fp.Ray(address=address)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_a_number_of_workers(workers: Any) -> None:
    with pytest.raises(ConfigurationError, match="workers"):
        fp.Ray(workers=workers)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not initialised Ray."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("listening", [False, True])
def test_an_address_where_no_ray_is(listening: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody, or somebody else; Ray itself would try for minutes and then end the process."""
    monkeypatch.setattr(cluster, "_REACH", 1.0)
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        if listening:
            line.listen()
        started = time.monotonic()
        with pytest.raises(ConfigurationError, match=r"answers at its address.*127\.0\.0\.1.*ray start --head"):
            fp.Ray(address=f"127.0.0.1:{line.getsockname()[1]}").start()
        assert time.monotonic() - started < 3


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r'pip install "fedpriv\[ray\]"'):
        fp.Ray().start()


def test_naming_the_executor_loads_nothing() -> None:
    script = "import sys, fedpriv as fp; fp.Ray(workers=2); print([m for m in ('ray', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
