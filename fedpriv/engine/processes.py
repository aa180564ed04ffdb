"""Workers that are processes of this machine.

They are spawned, so that neither TenSEAL's nor torch's threads meet a fork.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, Final

from fedpriv.crypto import prg
from fedpriv.engine.crews import WorkerCrew
from fedpriv.engine.workers import DONE, Command, Home, Worker, loads, ordered, pack, performed
from fedpriv.errors import ConfigurationError, WorkerLost


@dataclass(frozen=True)
class Processes:
    """Work spread over processes of this machine.

    A process that is lost is replaced, with a RuntimeWarning. What it did is done again where that is possible: an
    ideal run's clients are trained again, bit for bit. In a protocol, clients that had sent something are then
    dropouts, as they would be in the field.

    Args:
        workers: how many; by default one for each core that this process may use.

    Raises:
        ConfigurationError: not a positive integer.
    """

    workers: int | None = None

    def __post_init__(self) -> None:
        check_workers(self.workers)

    def start(self) -> WorkerCrew:
        """See :class:`fedpriv.engine.executors.Executor`.

        Raises:
            ConfigurationError: this process is a worker itself.
        """
        if current_process().daemon:
            raise ConfigurationError(
                "A worker has no workers of its own.",
                value=current_process().name,
                remedy="Spread either the comparison or the runs in it: leave out one executor.",
            )
        workers = self.workers or cores()
        return WorkerCrew(_Machine(max(1, cores() // workers)), workers)


def check_workers(workers: object) -> None:
    """Refuse what is no number of workers.

    Raises:
        ConfigurationError: not a positive integer, and not None.
    """
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ConfigurationError("The number of workers is a positive integer.", value=workers, remedy="Use workers=2.")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Machine:
    """Spawns processes; see :class:`fedpriv.engine.workers.Office`."""

    def __init__(self, share: int) -> None:
        self._context = get_context("spawn")
        self._share = share

    def hire(self, count: int) -> list[Worker]:
        return [_Process(self._context, self._share) for _ in range(count)]

    def parcel(self, data: bytes) -> bytes:
        return data

    def ready(self, workers: Collection[Any]) -> list[Any]:
        lines = {worker.line: worker for worker in workers}
        return [lines[line] for line in wait(list(lines))]

    def close(self) -> None:
        pass


_STOP: Final = b"stop"


class _Process:
    """A spawned process; see :class:`fedpriv.engine.workers.Worker`.

    Args:
        context: multiprocessing's, for ``spawn``.
        share: cores that its masks may use.
    """

    def __init__(self, context: Any, share: int) -> None:
        self.line, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, share), daemon=True)
        with _nameless_main():
            self._process.start()
        theirs.close()  # so that its end shows as the end of the line
        self.pid: int = self._process.pid
        self._asked = self._cancelled = False

    def ask(self, command: Command, *arguments: Any, parcel: Any = None) -> None:
        self.cancel()
        with suppress(WorkerLost):
            while self._asked:  # both ends may be writing: it reads again when it is read
                self.answers()
        self._asked, self._cancelled = True, False
        self._send((True, ordered(command, arguments), parcel))

    def tell(self, command: Command) -> None:
        self._send((False, ordered(command, ()), None))

    def cancel(self) -> None:
        if self._asked and not self._cancelled:
            self._cancelled = True
            self._send(_STOP)

    def answers(self) -> list[Any]:
        try:
            answer = loads(self.line.recv_bytes())
        except (EOFError, OSError) as error:  # at the end of the line, or in the middle of an answer
            self._asked = False
            raise self._lost() from error
        self._asked = answer is not DONE
        return [answer]

    def end(self) -> None:
        """A process that is at rest ends by itself."""
        self.line.close()
        if self._asked:
            self._process.kill()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self, order: object) -> None:
        with suppress(OSError):  # it shows where the answers are awaited
            self.line.send(order)

    def _lost(self) -> WorkerLost:
        self._process.join(1)
        return WorkerLost(
            "A worker lives as long as the run.",
            value=f"process {self.pid} ended with code {self._process.exitcode}",
            remedy="Look for what killed it (memory, above all), or run with fewer workers.",
        )


@contextmanager
def _nameless_main() -> Iterator[None]:
    """A worker does not run the user's script again: what the script defines reaches it by value."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _work(line: Connection, share: int) -> None:
    """The process: ends with the line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    prg.use_cores(share)
    home, later = Home(), deque[Any]()
    with suppress(EOFError, OSError):
        while True:
            order = later.popleft() if later else line.recv()
            if order == _STOP:
                continue  # it came after the end of what it was to stop
            answered, command, parcel = order
            for answer in performed(home, command, parcel):
                if answered:
                    line.send_bytes(answer)
                if _stopped(line, later):
                    break
            if answered:
                line.send_bytes(pack(DONE))


def _stopped(line: Connection, later: deque[Any]) -> bool:
    """Whether the rest of the answers is not wanted; other orders wait."""
    while line.poll():
        order = line.recv()
        if order == _STOP:
            return True
        later.append(order)
    return False
