"""Running workers: how their answers come, what all of them have, and what happens to a lost one."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator
from itertools import count
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from fedpriv.engine.workers import Office, Worker, dumps, keep, kept
from fedpriv.errors import ConfigurationError, WorkerLost

Value = TypeVar("Value")

TOKENS = count()
"""Names of what workers have."""


class Sent(Generic[Value]):
    """A value that every worker has; pickled, it is only a name."""

    def __init__(self, value: Value) -> None:
        self.value, self.token = value, next(TOKENS)

    def __reduce__(self) -> tuple[object, ...]:
        return kept, (self.token,)


class Staff:
    """Workers, each with one command at a time. A lost one is replaced, with a RuntimeWarning.

    Args:
        office: makes the workers; closed with them.
        workers: how many.
    """

    def __init__(self, office: Office, workers: int) -> None:
        self._office = office
        self._kept: list[Sent[Any]] = []
        self.workers: list[Worker] = []
        try:
            self.workers += office.hire(workers)
        except BaseException:
            office.close()
            raise

    def share(self, value: Value) -> Sent[Value]:
        """See :class:`fedpriv.engine.executors.Crew`."""
        sent = Sent(value)
        self._supply(list(self.workers), sent)
        self._kept.append(sent)
        return sent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.end()
        self._office.close()

    def parcel(self, data: bytes) -> Any:
        """What several workers are given with a command."""
        return self._office.parcel(data)

    def answers(self, workers: Collection[Worker]) -> Iterator[tuple[Worker, Any]]:
        """What workers that have a command have answered; waits until one of them has. What a worker raised comes as a
        :class:`fedpriv.engine.workers.Failed`, and a lost worker's answer is the :class:`WorkerLost`.
        """
        for worker in self._office.ready(workers):
            try:
                answers = worker.answers()
            except WorkerLost as lost:
                answers = [lost]
            yield from ((worker, answer) for answer in answers)

    def cancel(self, workers: Iterable[Worker]) -> None:
        """What these have still to answer is not wanted."""
        for worker in workers:
            worker.cancel()

    def replace(self, worker: Worker, lost: WorkerLost) -> list[Worker]:
        """Another worker takes a lost one's place; where there is no room for another, the rest go on.

        Returns:
            The new worker, if there is one.

        Raises:
            WorkerLost: there is no worker left.
        """
        warnings.warn(f"{lost} The run goes on without it.", RuntimeWarning, stacklevel=2)
        self.workers.remove(worker)
        worker.end()
        try:
            new = self._office.hire(1)
        except ConfigurationError:
            if not self.workers:
                raise lost from None
            return []
        self.workers += new
        for sent in self._kept:
            self._supply(new, sent, replacing=lost)
        return new

    def _supply(self, workers: Collection[Worker], sent: Sent[Any], replacing: WorkerLost | None = None) -> None:
        """Send a value, and wait until it has arrived."""
        parcel, doing = self.parcel(dumps(sent.value)), set(workers)
        for worker in doing:
            worker.ask(keep, sent.token, parcel=parcel)
        while doing:
            for worker, answer in self.answers(doing):
                doing.discard(worker)
                if isinstance(answer, WorkerLost):
                    if replacing is not None:
                        raise answer from replacing
                    self._supply(self.replace(worker, answer), sent, replacing=answer)
