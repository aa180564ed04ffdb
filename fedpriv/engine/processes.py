"""Workers that are processes of this machine: each keeps some of the clients, and trains them where they live.

The processes are spawned, so that neither TenSEAL's nor torch's threads meet a fork. A worker does what it is told, one
command at a time, and its answers stream back. The server's role stays in the parent; the clients' secrets are made in
the workers and stay there.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

import cloudpickle  # type: ignore[import-untyped]

from fedpriv.aggregation.hosting import Acted, Block, Collect, blocks
from fedpriv.aggregation.protocol import Inputs, Role, Sum
from fedpriv.engine.executors import Local
from fedpriv.engine.workers import DONE, Home, Worker, answers
from fedpriv.errors import ConfigurationError, DecryptionFailed
from fedpriv.network import Message
from fedpriv.threat import Party

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """Work spread over processes of this machine.

    Args:
        workers: how many; by default one for each core that this process may use.

    Raises:
        ConfigurationError: not a positive integer.
    """

    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and (
            isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 1
        ):
            raise ConfigurationError(
                "The number of workers is a positive integer.", value=self.workers, remedy="Use Processes(2)."
            )

    def start(self) -> ProcessCrew:
        """See :class:`fedpriv.engine.executors.Executor`."""
        return ProcessCrew(self.workers or cores())


def _dumps(value: object) -> bytes:
    """By value where a module has no name for it: what is defined in a notebook reaches the workers."""
    try:
        return bytes(cloudpickle.dumps(value))
    except (TypeError, pickle.PicklingError, AttributeError) as error:
        raise ConfigurationError(
            "What workers work on can be pickled.",
            value=f"{type(value).__name__}: {error}",
            remedy="Give the part that cannot a __reduce__, or run with executor=Inline().",
        ) from error


def _loads(data: bytes) -> Any:
    return pickle.loads(data)  # noqa: S301 -- from the parent process, over a pipe that nobody else has


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ProcessCrew:
    """Running workers; see :class:`fedpriv.engine.executors.Crew`."""

    threads = 1

    def __init__(self, workers: int) -> None:
        context = get_context("spawn")
        self._cancel = context.Event()
        share = max(1, cores() // workers)
        self._workers = [Worker(context, share, self._cancel) for _ in range(workers)]

    def share(self, value: Value) -> Sent[Value]:
        """See :class:`fedpriv.engine.executors.Crew`."""
        sent = Sent(value)
        data = _dumps(value)
        for worker in self._workers:
            worker.ask(_keep, sent.token, data)
        self._quiet(self._workers, cancel=False)
        return sent

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See :class:`fedpriv.engine.executors.Crew`. A worker has one item at a time."""
        shared = self.share(task)
        waiting = enumerate(items)
        ready: dict[int, Result] = {}
        busy: dict[Worker, int] = {}
        turn = 0
        try:
            while True:
                for worker in self._workers:
                    if worker not in busy and len(ready) <= len(self._workers):
                        following = next(waiting, None)
                        if following is not None:
                            busy[worker], item = following
                            worker.ask(_apply, shared.token, item)
                while turn in ready:
                    yield ready.pop(turn)
                    turn += 1
                if not busy:
                    break
                for worker, answer in answers(busy):
                    if answer is DONE:
                        del busy[worker]
                    else:
                        ready[busy[worker]] = answer
        finally:
            self._quiet(busy)
            for worker in self._workers:
                worker.ask(_forget, shared.token)
            self._quiet(self._workers, cancel=False)

    def hosts(self) -> Spread:
        """See :class:`fedpriv.engine.executors.Crew`."""
        return Spread(self._workers, self._quiet)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.end()

    def _quiet(self, busy: Iterable[Worker], *, cancel: bool = True) -> None:
        """Wait until these have come to the end of what they were told; by default what is left of it is not wanted.

        Raises:
            DecryptionFailed: one of them says so: it ends the run, whatever else went wrong.
        """
        left, failed = set(busy), list[DecryptionFailed]()
        if left and cancel:
            self._cancel.set()
        while left:
            for worker, answer in answers(left, failing=False):
                if answer is DONE:
                    left.discard(worker)
                elif isinstance(answer, DecryptionFailed):
                    failed.append(answer)
        self._cancel.clear()
        if failed:
            raise failed[0]


class Sent(Generic[Value]):
    """A value that every worker has; pickled, it is only a name."""

    def __init__(self, value: Value) -> None:
        self.value, self.token = value, next(_TOKENS)

    def __reduce__(self) -> tuple[object, ...]:
        return _kept, (self.token,)


class Spread:
    """Clients over workers, block by block; see :class:`fedpriv.aggregation.hosting.Hosts`."""

    def __init__(self, workers: Sequence[Worker], quiet: Callable[[Iterable[Worker]], None]) -> None:
        self._workers, self._quiet = workers, quiet
        self._blocks: list[Sequence[Party]] = []
        self._number: dict[Party, int] = {}
        self._outbox: dict[Worker, list[tuple[int, Message]]] = {}

    def open(self, roles: Mapping[Party, Role]) -> None:
        self._blocks = blocks(list(roles))
        self._number = {party: number for number, block in enumerate(self._blocks) for party in block}
        shares: dict[Worker, dict[int, dict[Party, Role]]] = {}
        for number, block in enumerate(self._blocks):
            shares.setdefault(self._home(number), {})[number] = {party: roles[party] for party in block}
        self._all(_open, {worker: _dumps(share) for worker, share in shares.items()})

    def act(self, stage: str, present: Sequence[Party]) -> Iterator[Acted]:
        yield from self._gather({worker: (_act, stage, share) for worker, share in self._shares(present).items()})

    def upload(self, stage: str, present: Sequence[Party], inputs: Inputs, collect: Collect) -> Iterator[Acted]:
        data, shares = _dumps(inputs), self._shares(present)
        order = sorted(number for share in shares.values() for number, _ in share)
        returned: dict[int, Any] = {}
        for answer in self._gather({worker: (_upload, stage, data, share) for worker, share in shares.items()}):
            if isinstance(answer, Acted):
                yield answer
                continue
            returned.update([answer])
            while order and order[0] in returned:
                collect(returned.pop(order.pop(0)))

    def deliver(self, message: Message) -> None:
        number = self._number[message.recipient]
        self._outbox.setdefault(self._home(number), []).append((number, message))

    def settle(self) -> list[tuple[Party, float]]:
        outbox, self._outbox = self._outbox, {}
        return self._all(_receive, outbox)

    def results(self, parties: Sequence[Party]) -> list[Sum]:
        held: dict[Party, Sum] = dict(self._all(_results, self._shares(parties)))
        return [held[party] for party in parties]

    def close(self) -> None:
        self._outbox = {}
        self._all(_close, dict.fromkeys(self._workers))

    def _home(self, number: int) -> Worker:
        return self._workers[number % len(self._workers)]

    def _shares(self, present: Sequence[Party]) -> dict[Worker, list[tuple[int, list[Party]]]]:
        """Which of these clients each worker has, block by block."""
        left = set(present)
        shares: dict[Worker, list[tuple[int, list[Party]]]] = {}
        for number, block in enumerate(self._blocks):
            here = [party for party in block if party in left]
            if here:
                shares.setdefault(self._home(number), []).append((number, here))
        return shares

    def _all(self, command: Command, arguments: Mapping[Worker, Any]) -> list[Any]:
        return list(self._gather({worker: (command, argument) for worker, argument in arguments.items()}))

    def _gather(self, commands: Mapping[Worker, tuple[Any, ...]]) -> Iterator[Any]:
        """Tell the workers, and yield what they answer as it comes."""
        busy: set[Worker] = set()
        try:
            for worker, command in commands.items():
                worker.ask(*command)
                busy.add(worker)
            while busy:
                for worker, answer in answers(busy):
                    if answer is DONE:
                        busy.discard(worker)
                    else:
                        yield answer
        finally:
            self._quiet(busy)


# --- what a worker does: each command yields its answers ------------------------------------------------------------


Command: TypeAlias = Callable[..., Iterator[Any]]
_KEPT: dict[int, Any] = {}
_TOKENS = count()


def _kept(token: int) -> Any:
    return Local(_KEPT[token])


def _keep(_: Home, token: int, data: bytes) -> Iterator[Any]:
    _KEPT[token] = _loads(data)
    yield from ()


def _forget(_: Home, token: int) -> Iterator[Any]:
    _KEPT.pop(token, None)
    yield from ()


def _apply(_: Home, token: int, item: Any) -> Iterator[Any]:
    yield _KEPT[token](item)


def _open(home: Home, data: bytes) -> Iterator[Any]:
    home.blocks = {number: Block(roles) for number, roles in _loads(data).items()}
    yield from ()


def _act(home: Home, stage: str, share: Sequence[tuple[int, list[Party]]]) -> Iterator[Any]:
    for number, present in share:
        yield from home.blocks[number].act(stage, present)


def _upload(home: Home, stage: str, data: bytes, share: Sequence[tuple[int, list[Party]]]) -> Iterator[Any]:
    inputs = _loads(data)
    for number, present in share:
        yield number, (yield from home.blocks[number].upload(stage, present, inputs))


def _receive(home: Home, messages: Sequence[tuple[int, Message]]) -> Iterator[Any]:
    for number, message in messages:
        yield message.recipient, home.blocks[number].receive(message)


def _results(home: Home, share: Sequence[tuple[int, list[Party]]]) -> Iterator[Any]:
    for number, parties in share:
        for party in parties:
            yield party, home.blocks[number].result(party)


def _close(home: Home, _: None) -> Iterator[Any]:
    home.blocks = {}
    yield from ()
