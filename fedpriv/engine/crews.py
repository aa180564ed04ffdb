"""A crew of workers: a map over items, and homes for clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from fedpriv.engine.spread import Spread
from fedpriv.engine.staff import TOKENS, Staff
from fedpriv.engine.workers import DONE, Failed, Worker, apply, dumps
from fedpriv.errors import WorkerLost

Item = TypeVar("Item")
Result = TypeVar("Result")

TRIES = 2
"""Workers that one piece of work may lose; what loses more is what kills them."""


class WorkerCrew(Staff):
    """See :class:`fedpriv.engine.executors.Crew`."""

    threads = 1

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See :class:`fedpriv.engine.executors.Crew`. A worker has one item at a time; a lost one's is done again.

        Raises:
            WorkerLost: the same item lost one worker after the other.
        """
        parcel, token = self.parcel(dumps(task)), next(TOKENS)
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
