"""A worker process and the line to it: commands go out, answers stream back, errors arise where they are awaited."""

from __future__ import annotations

import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, Final

import cloudpickle  # type: ignore[import-untyped]

from fedpriv.aggregation.hosting import Acted, Block
from fedpriv.crypto import prg
from fedpriv.errors import FedprivError, WorkerLost


class _End(Enum):
    DONE = "done"


DONE: Final = _End.DONE
"""The last answer to every command."""


@dataclass
class Home:
    """What a worker has at hand in an attempt."""

    blocks: dict[int, Block] = field(default_factory=dict)


@dataclass(frozen=True)
class _Failed:
    error: BaseException


class Worker:
    """A spawned process that does one command after another.

    Args:
        context: multiprocessing's, for ``spawn``.
        cores: how many its masks may use.
        cancel: set by the parent while what is still to be answered is not wanted.
    """

    def __init__(self, context: Any, cores: int, cancel: Any) -> None:
        self.connection, theirs = context.Pipe()
        self._kept: list[Any] = []
        self._process = context.Process(target=_work, args=(theirs, cores, cancel), daemon=True)
        with _nameless_main():
            self._process.start()
        theirs.close()  # so that its end shows as the end of the line

    def ask(self, command: Callable[..., Iterator[Any]], *arguments: Any) -> None:
        """Begin a command; a worker has one at a time.

        Raises:
            WorkerLost: the process has ended.
        """
        try:
            self.connection.send((command, arguments))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._lost() from error

    def answer(self) -> Any:
        """The next answer; waits for it."""
        if self._kept:
            return self._kept.pop()
        try:
            return pickle.loads(self.connection.recv_bytes())  # noqa: S301 -- over a pipe that nobody else has
        except (EOFError, ConnectionResetError) as error:
            raise self._lost() from error

    def keep(self, answer: Any) -> None:
        """The next answer is this one again."""
        self._kept.append(answer)

    def end(self) -> None:
        """Let the process finish what it does, and end; after five seconds by force."""
        self.connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _lost(self) -> WorkerLost:
        self._process.join(1)
        return WorkerLost(
            "A worker lives as long as the run.",
            value=f"process {self._process.pid} ended with code {self._process.exitcode}",
            remedy="Look for what killed it (memory, above all); run with fewer workers.",
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


def answers(workers: Collection[Worker], *, failing: bool = True) -> list[tuple[Worker, Any]]:
    """One answer from each worker that has one; waits until some worker has.

    Args:
        workers: those that have a command.
        failing: raise the errors of the workers; else an error is an answer, and a lost worker is done.
    """
    by_line = {worker.connection: worker for worker in workers}
    found: list[tuple[Worker, Any]] = []
    for line in wait(list(by_line)):
        worker = by_line[line]
        try:
            answer = worker.answer()
        except WorkerLost:
            if failing and found:
                continue  # the end of its line stays, and is met again
            if failing:
                raise
            answer = DONE
        if isinstance(answer, _Failed):
            if failing and found:
                worker.keep(answer)  # what was read of the others must not be lost
                continue
            if failing:
                raise answer.error
            answer = answer.error
        found.append((worker, answer))
    return found


def _work(line: Connection, cores: int, cancel: Any) -> None:
    """The process: ends with the line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    prg.use_cores(cores)
    home = Home()
    while True:
        try:
            command, arguments = line.recv()
        except EOFError:
            return
        except Exception as error:
            _answer(line, _failed(error))
            _answer(line, DONE)
            continue
        try:
            for answer in command(home, *arguments):
                _answer(line, answer)
                if cancel.is_set():
                    break
        except Exception as error:
            _answer(line, _failed(error))
        _answer(line, DONE)


def _answer(line: Connection, answer: object) -> None:
    """Protocol messages by the fast pickle; all else by value where a class came from the user's script."""
    line.send_bytes(pickle.dumps(answer) if isinstance(answer, Acted) else cloudpickle.dumps(answer))


def _failed(error: Exception) -> _Failed:
    """An error fit to travel: what Python does not pickle of it (where, and why) goes into a note."""
    trace = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 -- its own
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, FedprivError) or error.__cause__ is not None:
        error.add_note(f"In a worker:\n{trace}")
    return _Failed(error)
