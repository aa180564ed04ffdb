"""Processes that are killed, interrupted or left behind: nothing is lost silently, and nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from algorithms import Make, Ready, execute
from losses import (
    GONE,
    REST,
    N,
    Once,
    ServerFirst,
    alive,
    attempt,
    compared,
    deployed,
    gone,
    ideal_run,
    interrupted,
    masked,
    masked_run,
)

import fedpriv as fp
from fedpriv.aggregation import hosting
from fedpriv.engine.crews import WorkerCrew
from fedpriv.engine.processes import Processes
from fedpriv.errors import ConfigurationError, TooFewSurvivors, WorkerLost

ALL = tuple(range(N))
REPLACED = pytest.mark.filterwarnings("always:A worker lives:RuntimeWarning")


@pytest.fixture(scope="module")
def crew() -> Iterator[WorkerCrew]:
    with Processes(2).start() as crew:
        yield crew


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "BLOCK", 3)


def once(path: Path, **how: Any) -> Once:
    return Once(path / "died", **how)


# --- an attempt -----------------------------------------------------------------------------------------------------


def test_clients_that_had_not_begun_begin_again(crew: WorkerCrew) -> None:
    """Before the first message there is no secret to lose."""
    os.kill(crew.workers[1].pid, signal.SIGKILL)
    with pytest.warns(RuntimeWarning, match=r"process \d+ ended with code -9"):
        seen = attempt(crew, masked())
    assert (seen.contributors, seen.lost, seen.asked) == (ALL, (), list(ALL))


def test_lost_while_keys_are_advertised(crew: WorkerCrew) -> None:
    """Those that had advertised are dropouts, the others begin again; together they are all."""
    with pytest.warns(RuntimeWarning, match="-9"):
        seen = attempt(crew, masked(), at=("advertise-keys", "from"))
    assert 3 in seen.lost
    assert set(seen.lost) <= set(GONE)
    assert set(seen.contributors) == set(ALL) - set(seen.lost)
    assert seen.asked == list(seen.contributors)


@pytest.mark.parametrize("at", [("roster", "to"), ("share-keys", "from"), ("route-shares", "to")])
def test_lost_after_advertisement(crew: WorkerCrew, at: tuple[str, str]) -> None:
    with pytest.warns(RuntimeWarning, match="-9"):
        seen = attempt(crew, masked(), at=at)
    assert (seen.contributors, seen.lost, seen.asked) == (REST, GONE, list(REST))


def test_lost_in_the_middle_of_an_upload(crew: WorkerCrew, tmp_path: Path) -> None:
    """Client 3's vector is in the sum, so the parent learns what training it gave; 4 and 5 sent nothing."""
    with pytest.warns(RuntimeWarning, match="-9"):
        seen = attempt(crew, masked(), once(tmp_path))
    assert (seen.contributors, seen.lost, seen.asked) == ((0, 1, 2, 3, 6, 7, 8), GONE, [0, 1, 2, 3, 6, 7, 8])


def test_lost_before_the_unmasking(crew: WorkerCrew) -> None:
    with pytest.warns(RuntimeWarning, match="-9"):
        seen = attempt(crew, masked(), at=("survivors", "to"))
    assert (seen.contributors, seen.lost, seen.asked) == (ALL, GONE, list(ALL))


def test_too_many_lost_abort_as_dropouts_do(crew: WorkerCrew) -> None:
    with pytest.warns(RuntimeWarning, match="-9"), pytest.raises(TooFewSurvivors):
        attempt(crew, masked(), at=("roster", "to"), home=0)  # six of nine
    assert attempt(crew, masked()).contributors == ALL


def test_a_protocol_of_one_message_loses_nobody(crew: WorkerCrew, tmp_path: Path) -> None:
    """Client 3 had sent its vector; 4 and 5 compute theirs again, in the same block."""
    with pytest.warns(RuntimeWarning, match="-9"):
        seen = attempt(crew, deployed(fp.PlainSum()), once(tmp_path))
    assert (seen.contributors, seen.lost, seen.asked) == (ALL, (3,), list(ALL))


def test_what_a_client_had_heard_it_hears_again(crew: WorkerCrew, tmp_path: Path) -> None:
    """And once only: while it is told, and after it was."""
    with pytest.warns(RuntimeWarning, match="-9"):
        assert attempt(crew, ServerFirst(), at=("hello", "to")).contributors == ALL
    with pytest.warns(RuntimeWarning, match="-9"):
        seen = attempt(crew, ServerFirst(), once(tmp_path))
    assert (seen.contributors, seen.asked) == (ALL, list(ALL))


def test_work_that_kills_its_workers_ends_the_run(crew: WorkerCrew, tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="-9"), pytest.raises(WorkerLost, match="-9"):
        attempt(crew, deployed(fp.PlainSum()), once(tmp_path, always=True))
    with pytest.warns(RuntimeWarning, match="-9"), pytest.raises(WorkerLost, match="-9"):
        list(crew.map(lambda death: death(), [once(tmp_path, always=True)] * 3))


@REPLACED
def test_where_there_is_no_room_the_rest_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(count: int) -> Any:
        raise ConfigurationError("There is room.", remedy="Wait.")

    with Processes(2).start() as crew:
        shared = crew.share(5)
        monkeypatch.setattr(crew._office, "hire", full)
        assert attempt(crew, deployed(fp.PlainSum()), once(tmp_path)).contributors == ALL
        assert len(crew.workers) == 1
        assert list(crew.map(lambda n: n + shared.value, range(4))) == [5, 6, 7, 8]
        os.kill(crew.workers[0].pid, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            list(crew.map(lambda n: n, range(4)))


# --- maps and runs --------------------------------------------------------------------------------------------------


@REPLACED
def test_a_lost_item_is_done_again(crew: WorkerCrew, tmp_path: Path) -> None:
    """A new worker has what the others have."""
    shared, death = crew.share(10), once(tmp_path)

    def work(n: int) -> int:
        if n == 3:
            death()
        return n + int(shared.value)

    assert list(crew.map(work, range(9))) == list(range(10, 19))
    os.kill(crew.workers[0].pid, signal.SIGKILL)
    later = crew.share(20)
    assert list(crew.map(lambda n: n + shared.value + later.value, range(4))) == [30, 31, 32, 33]


def test_an_ideal_run_loses_a_worker_and_not_a_bit(
    crew: WorkerCrew, federations: Any, planned: Make, tmp_path: Path
) -> None:
    with pytest.warns(RuntimeWarning, match="-9"):
        here, there = ideal_run(federations, planned, Ready(crew), tmp_path / "died")
    assert there.sha256 == here.sha256
    assert [record.sha256 for record in there.records] == [record.sha256 for record in here.records]
    assert all(record.lost == () and record.contributors == ALL for record in there.records)


def test_a_masked_run_goes_on_without_those_who_were_lost(
    crew: WorkerCrew, federations: Any, planned: Make, tmp_path: Path
) -> None:
    with pytest.warns(RuntimeWarning, match="-9"):
        run = masked_run(federations, planned, Ready(crew), tmp_path / "died")
    assert [record.lost for record in run.records] == [GONE, ()]
    assert [record.contributors for record in run.records] == [REST, ALL]
    expected = execute(federations(clients=N), run.plan)
    assert run.sha256 != expected.sha256  # three clients of the first round are missing


def test_a_comparison_loses_a_worker_and_not_a_cell(
    crew: WorkerCrew, federations: Any, planned: Make, tmp_path: Path
) -> None:
    with pytest.warns(RuntimeWarning, match="-9"):
        compared(federations, planned, Ready(crew), tmp_path)


# --- the end --------------------------------------------------------------------------------------------------------

SCRIPT = """
import time
from fedpriv.engine.processes import Processes

with Processes(2).start() as crew:
    print(*(worker.pid for worker in crew.workers), flush=True)
    for _ in crew.map(lambda seconds: time.sleep(seconds), [0.2] * 100000):
        print("one", flush=True)
"""


def test_an_interruption_ends_a_run_with_what_it_has_and_leaves_nobody_behind() -> None:
    interrupted("fp.Processes(2)")


def test_workers_end_with_a_parent_that_was_killed() -> None:
    """Those that are at rest at once; one that works, with its next answer."""
    script = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    with script:
        assert script.stdout is not None
        workers = [int(pid) for pid in script.stdout.readline().split()]
        script.stdout.readline()
        script.kill()
    assert gone(workers, within=5)


def test_closing_does_not_wait_for_what_is_not_wanted() -> None:
    with Processes(2).start() as crew:
        results = crew.map(time.sleep, [0, 60, 60])
        next(results)
        pids = [worker.pid for worker in crew.workers]
        started = time.monotonic()
    assert time.monotonic() - started < 2
    assert not any(map(alive, pids))
