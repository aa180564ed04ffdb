"""A crew of workers: what all of them have, a map over items, homes for clients; and what happens to a lost one."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import count
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from fedpriv.engine.spread import Spread
from fedpriv.engine.workers import DONE, Failed, Office, Worker, apply, dumps, keep, kept
from fedpriv.errors import ConfigurationError, WorkerLost

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")

TRIES = 2
"""Workers that one piece of work may lose; what loses more is what kills them."""
_TOKENS = count()


class Sent(Generic[Value]):
    """A value that every worker has; pickled, it is only a name."""

    def __init__(self, value: Value) -> None:
        self.value, self.token = value, next(_TOKENS)

    def __reduce__(self) -> tuple[object, ...]:
        return kept, (self.token,)


class WorkerCrew:
    """Running workers; see :class:`fedpriv.engine.executors.Crew`. A lost one is replaced, with a RuntimeWarning.

    Args:
        office: makes the workers; closed by the crew.
        workers: how many.
    """

    threads = 1

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

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See :class:`fedpriv.engine.executors.Crew`. A worker has one item at a time; a lost one's is done again.

        Raises:
            WorkerLost: the same item lost one worker after the other.
        """
        parcel, token = self.parcel(dumps(task)), next(_TOKENS)
        waiting = ((turn, dumps(item)) for turn, item in enumerate(items))
        again: list[tuple[int, bytes]] = []
        lost: Counter[int] = Counter()
        informed: set[Worker] = set()
        doing: dict[Worker, tuple[int, bytes]] = {}
        ready: dict[int, Result] = {}
        turn, left = 0, True
        try:
            while left or again or doing or ready:
                if not self.workers:
                    raise WorkerLost("A crew has a worker.", value=0, remedy="Start another: its workers were lost.")
                for worker in (worker for worker in self.workers if worker not in doing):
                    following: tuple[int, bytes] | None = None
                    if again:
                        following = again.pop()
                    elif len(ready) <= len(self.workers):  # what waits for its turn takes memory
                        following = next(waiting, None)
                        left = following is not None
                    if following is not None:
                        doing[worker] = following
                        worker.ask(apply, token, following[1], parcel=None if worker in informed else parcel)
                        informed.add(worker)
                while turn in ready:
                    yield ready.pop(turn)
                    turn += 1
                if not doing:
                    continue
                for worker, answer in self.answers(doing):
                    if answer is DONE:
                        del doing[worker]
                    elif isinstance(answer, Failed):
                        raise answer.error
                    elif isinstance(answer, WorkerLost):
                        number, item = doing.pop(worker)
                        lost[number] += 1
                        if lost[number] == TRIES:
                            raise answer
                        if number >= turn and number not in ready:  # else it had answered before it was lost
                            again.append((number, item))
                        self.replace(worker, answer)
                    else:
                        ready[doing[worker][0]] = answer
        finally:
            self.cancel(doing)

    def hosts(self) -> Spread:
        """See :class:`fedpriv.engine.executors.Crew`."""
        return Spread(self)

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
        :class:`Failed`, and a lost worker's answer is the :class:`WorkerLost`.
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
