"""Workers, whatever they are made of: what they do when told, and the line over which they are told.

A worker does one command at a time, and its answers stream back. It keeps the clients of some blocks; their secrets are
made there and stay there.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol, TypeAlias

import cloudpickle  # type: ignore[import-untyped]

from fedpriv.aggregation.hosting import Acted, Block
from fedpriv.aggregation.protocol import Role
from fedpriv.engine.executors import Local
from fedpriv.errors import ConfigurationError, FedprivError
from fedpriv.network import Message
from fedpriv.threat import Party


class _End(Enum):
    DONE = "done"


DONE: Final = _End.DONE
"""The last answer to every command."""


@dataclass(frozen=True)
class Failed:
    """The answer of a command that raised; the last but :data:`DONE`."""

    error: BaseException


class Worker(Protocol):
    """The line to a worker. That the worker is lost shows where its answers are awaited, nowhere else."""

    pid: int
    """Its process, on whichever machine."""

    def ask(self, command: Command, *arguments: Any, parcel: Any = None) -> None:
        """Begin a command. What was left of the one before is not wanted any more.

        Args:
            command: called with the worker's :class:`Home`, the parcel and the arguments.
            arguments: what can be pickled.
            parcel: from :meth:`Office.parcel`.
        """
        ...

    def tell(self, command: Command) -> None:
        """Have a command done after the present one; it has no answer. Never waits."""
        ...

    def answers(self) -> list[Any]:
        """The next answers; waits for them.

        Raises:
            WorkerLost: the worker has ended.
        """
        ...

    def cancel(self) -> None:
        """What the present command has still to answer is not wanted. Never waits."""
        ...

    def end(self) -> None:
        """End the worker: at once, whatever it does."""
        ...


class Office(Protocol):
    """Makes workers of one kind."""

    def hire(self, count: int) -> list[Worker]:
        """New workers, ready for commands.

        Raises:
            ConfigurationError: there is no room for them.
        """
        ...

    def parcel(self, data: bytes) -> Any:
        """Bytes in the form in which they go to several workers."""
        ...

    def ready(self, workers: Collection[Any]) -> Sequence[Any]:
        """Those that have answers, or are lost; waits until there is one."""
        ...

    def close(self) -> None:
        """Nobody is hired any more, and all workers have ended."""
        ...


# --- pickling -------------------------------------------------------------------------------------------------------


def dumps(value: object) -> bytes:
    """By value where a module has no name for it: what is defined in a notebook reaches the workers.

    Raises:
        ConfigurationError: it cannot be pickled.
    """
    try:
        return bytes(cloudpickle.dumps(value))
    except (TypeError, pickle.PicklingError, AttributeError) as error:
        raise ConfigurationError(
            "What workers work on can be pickled.",
            value=f"{type(value).__name__}: {error}",
            remedy="Give the part that cannot a __reduce__, or run with executor=Inline().",
        ) from error


def loads(data: bytes) -> Any:
    """From the process that made this worker, or from the worker; nobody else has the line."""
    return pickle.loads(data)  # noqa: S301


def pack(answer: object) -> bytes:
    """An answer as it travels: messages by the fast pickle; all else by value where a class came from the script."""
    return pickle.dumps(answer) if isinstance(answer, Acted) else bytes(cloudpickle.dumps(answer))


def _failed(error: Exception) -> Failed:
    """An error fit to travel: what Python does not pickle of it (where, and why) goes into a note."""
    trace = "".join(traceback.format_exception(error))
    try:
        loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, FedprivError) or error.__cause__ is not None:
        error.add_note(f"In a worker:\n{trace}")
    return Failed(error)


# --- in the worker --------------------------------------------------------------------------------------------------


@dataclass
class Home:
    """What a worker has at hand."""

    blocks: dict[int, Block] = field(default_factory=dict)
    """The clients of the present attempt that live here."""
    task: tuple[int, Any] = (-1, None)
    """What is mapped at present, and its token."""


Command: TypeAlias = Callable[..., Iterator[Any]]
Fresh: TypeAlias = Mapping[int, tuple[Mapping[Party, Role], Sequence[Message]]]
"""Blocks that begin to live in a worker: the roles, none of which has acted, and what they have been sent so far."""

_KEPT: dict[int, Any] = {}


def performed(home: Home, order: bytes, parcel: bytes | None) -> Iterator[bytes]:
    """Do a command; its answers, packed, without the :data:`DONE` at the end."""
    try:
        command, arguments = loads(order)
        for answer in command(home, parcel, *arguments):
            yield pack(answer)
    except Exception as error:
        yield pack(_failed(error))


def ordered(command: Command, arguments: tuple[Any, ...]) -> bytes:
    """A command as it travels."""
    return pickle.dumps((command, arguments))


def kept(token: int) -> Any:
    """A value that every worker has."""
    return Local(_KEPT[token])


def keep(_: Home, data: bytes, token: int) -> Iterator[Any]:
    """Have a value from now on."""
    _KEPT[token] = loads(data)
    yield from ()


def apply(home: Home, task: bytes | None, token: int, item: bytes) -> Iterator[Any]:
    """One item of a map; its task travels with the first."""
    if task is not None:
        home.task = (token, loads(task))
    yield home.task[1](loads(item))


def act(home: Home, _: None, fresh: bytes, share: Mapping[int, Sequence[Party]], stage: str) -> Iterator[Any]:
    """A stage of some clients."""
    _settle(home, fresh)
    for number, present in share.items():
        yield from home.blocks[number].act(stage, present)


def upload(home: Home, inputs: bytes, fresh: bytes, share: Mapping[int, Sequence[Party]], stage: str) -> Iterator[Any]:
    """The stage in which some clients send what they compute; then, for each block, what the inputs return."""
    _settle(home, fresh)
    compute = loads(inputs)
    for number, present in share.items():
        yield number, (yield from home.blocks[number].upload(stage, present, compute))


def receive(home: Home, _: None, fresh: bytes, share: Mapping[int, Sequence[Message]]) -> Iterator[Any]:
    """Messages for some clients."""
    _settle(home, fresh)
    for number, messages in share.items():
        for message in messages:
            yield message.recipient, home.blocks[number].receive(message)


def results(home: Home, _: None, fresh: bytes, share: Mapping[int, Sequence[Party]]) -> Iterator[Any]:
    """The sums that some clients hold."""
    _settle(home, fresh)
    for number, parties in share.items():
        for party in parties:
            yield party, home.blocks[number].result(party)


def leave(home: Home, _: None) -> Iterator[Any]:
    """The attempt is over: drop the roles."""
    home.blocks = {}
    yield from ()


def _settle(home: Home, data: bytes) -> None:
    fresh: Fresh = loads(data)
    for number, (roles, heard) in fresh.items():
        block = home.blocks[number] = Block(roles)
        for message in heard:
            block.receive(message)
