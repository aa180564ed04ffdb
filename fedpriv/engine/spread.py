"""An attempt's clients over the workers of a crew, block by block."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fedpriv.aggregation.hosting import Acted, Acting, Collect, blocks
from fedpriv.aggregation.protocol import Inputs, Role, Sum
from fedpriv.engine.staff import Staff
from fedpriv.engine.workers import DONE, Command, Failed, Fresh, Worker, act, dumps, leave, receive, results, upload
from fedpriv.errors import DecryptionFailed, RoundAborted, WorkerLost
from fedpriv.network import Message
from fedpriv.threat import Party

TRIES = 3
"""Homes that a block may have in an attempt; one that loses more is what kills the workers."""


class Spread:
    """See :class:`fedpriv.aggregation.hosting.Hosts`.

    A lost worker takes its clients' secrets with it. A client that had not acted yet had none: its role is made anew in
    another worker, and hears again what it had heard. One that had acted falls silent for the rest of the attempt.
    """

    def __init__(self, staff: Staff) -> None:
        self._staff = staff
        self.open({})

    def open(self, roles: Mapping[Party, Role]) -> None:
        self._blocks = blocks(list(roles))
        self._number = {party: number for number, block in enumerate(self._blocks) for party in block}
        self._home: dict[int, Worker] = {}
        self._absent: set[int] = set()  # blocks that travel to their home with the next command
        self._moved: Counter[int] = Counter()
        # Of a client that has not acted: its role, and what it has heard.
        self._fresh: dict[Party, tuple[Role, list[Message]]] = {party: (role, []) for party, role in roles.items()}
        self._outbox: list[Message] = []
        self.lost: set[Party] = set()
        self._settle(range(len(self._blocks)))

    def act(self, stage: str, present: Sequence[Party]) -> Acting:
        for acted in self._gather(act, self._shares(present), stage, again=self._only_fresh):
            self._fresh.pop(acted.party, None)
            yield acted

    def upload(self, stage: str, present: Sequence[Party], inputs: Inputs, collect: Collect) -> Acting:
        """A block of a lost worker is computed again for the clients that have sent their vector or still can: what the
        inputs return must know of everything that is in the sum, and of nothing else.
        """
        shares = self._shares(present)
        order = deque(sorted(shares))
        returned: dict[int, Any] = {}
        sent: set[Party] = set()

        def again(number: int, parties: Sequence[Party]) -> list[Party]:
            if number not in order or number in returned:
                return []
            left = [party for party in parties if party in sent or party in self._fresh]
            if not left:
                order.remove(number)
            return left

        for answer in self._gather(upload, shares, stage, parcel=self._staff.parcel(dumps(inputs)), again=again):
            if isinstance(answer, Acted):
                sent.add(answer.party)
                self._fresh.pop(answer.party, None)
                yield answer
                continue
            returned.update([answer])
            while order and order[0] in returned:
                collect(returned.pop(order.popleft()))
        for number in order:  # those that waited for one that never came
            collect(returned.pop(number))

    def deliver(self, message: Message) -> None:
        self._outbox.append(message)

    def settle(self) -> Iterator[tuple[Party, float]]:
        told: dict[Party, deque[Message]] = {}
        shares: dict[int, list[Message]] = {}
        for message in self._outbox:
            if message.recipient not in self.lost:
                told.setdefault(message.recipient, deque()).append(message)
                shares.setdefault(self._number[message.recipient], []).append(message)
        self._outbox = []

        def again(_: int, messages: Sequence[Message]) -> list[Message]:
            return [m for m in messages if m.recipient in self._fresh and m in told[m.recipient]]

        for party, seconds in self._gather(receive, shares, again=again):
            message = told[party].popleft()
            if party in self._fresh:
                self._fresh[party][1].append(message)
            yield party, seconds

    def results(self, parties: Sequence[Party]) -> list[Sum]:
        held: dict[Party, Sum] = dict(self._gather(results, self._shares(parties), again=lambda *_: []))
        return [held[party] for party in parties if party in held]

    def close(self) -> None:
        for worker in self._staff.workers:
            worker.cancel()
            worker.tell(leave)
        self._fresh, self._outbox = {}, []

    def _shares(self, present: Sequence[Party]) -> dict[int, list[Party]]:
        """Of these clients, those of each block."""
        shares: dict[int, list[Party]] = {}
        for party in present:
            if party not in self.lost:
                shares.setdefault(self._number[party], []).append(party)
        return shares

    def _only_fresh(self, _: int, parties: Sequence[Party]) -> list[Party]:
        return [party for party in parties if party in self._fresh]

    def _gather(
        self,
        command: Command,
        shares: Mapping[int, Sequence[Any]],
        *arguments: Any,
        parcel: Any = None,
        again: Callable[[int, Sequence[Any]], Sequence[Any]],
    ) -> Iterator[Any]:
        """Have a command done for these blocks at their homes, one command a worker; yields the answers as they come.

        Args:
            command: what the workers do.
            shares: block → the part of it that the command is about.
            arguments: the command's others.
            parcel: the command's, if any.
            again: of the part of a lost block, what is to be done anew, at its next home.

        Raises:
            Exception: what a worker raised; a DecryptionFailed before all else, since it ends the run.
        """
        todo = dict(shares)
        doing: dict[Worker, dict[int, Sequence[Any]]] = {}
        failed: list[RoundAborted] = []
        try:
            while todo or doing:
                idle = (home for home in dict.fromkeys(map(self._home.__getitem__, todo)) if home not in doing)
                for worker in list(idle):
                    share = {number: todo.pop(number) for number in sorted(todo) if self._home[number] is worker}
                    doing[worker] = share
                    worker.ask(command, self._travelling(share), share, *arguments, parcel=parcel)
                for worker, answer in self._staff.answers(doing):
                    if answer is DONE:
                        del doing[worker]
                    elif isinstance(answer, Failed):
                        if not isinstance(answer.error, RoundAborted):  # the run is over whatever others say
                            raise answer.error
                        failed.append(answer.error)
                        todo.clear()
                    elif failed:  # the attempt is over; only what else goes wrong by the end is of interest
                        if isinstance(answer, WorkerLost):
                            del doing[worker]
                            self._staff.replace(worker, answer)
                    elif isinstance(answer, WorkerLost):
                        self._lose(worker, answer)
                        parts = ((number, again(number, part)) for number, part in doing.pop(worker).items())
                        todo.update({number: part for number, part in parts if part})
                    else:
                        yield answer
        finally:
            self._staff.cancel(doing)
        if failed:
            raise next((error for error in failed if isinstance(error, DecryptionFailed)), failed[0])

    def _travelling(self, numbers: Mapping[int, Any]) -> bytes:
        """Those of these blocks that are not yet at their home, as they travel."""
        fresh: dict[int, tuple[Mapping[Party, Role], Sequence[Message]]] = {}
        for number in self._absent & set(numbers):
            there = {party: self._fresh[party] for party in self._blocks[number] if party in self._fresh}
            heard = [message for _, messages in there.values() for message in messages]
            fresh[number] = ({party: role for party, (role, _) in there.items()}, heard)
        self._absent -= set(fresh)
        travelling: Fresh = fresh
        return dumps(travelling)

    def _lose(self, worker: Worker, lost: WorkerLost) -> None:
        """Its clients that had acted are silent from now on; the others find another home."""
        gone = [number for number, home in self._home.items() if home is worker]
        self.lost.update(party for number in gone for party in self._blocks[number] if party not in self._fresh)
        self._moved.update(gone)
        if any(self._moved[number] == TRIES for number in gone):
            raise lost
        self._staff.replace(worker, lost)
        self._settle(gone)

    def _settle(self, numbers: Sequence[int]) -> None:
        """Give blocks a home."""
        workers = self._staff.workers
        self._home |= {number: workers[number % len(workers)] for number in numbers}
        self._absent.update(numbers)
