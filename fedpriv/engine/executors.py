"""Where a round's clients are trained and their roles live. How they are trained is learning's affair.

An executor is a description; :meth:`Executor.start` makes the crew that does a run's work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from fedpriv.aggregation.hosting import Here, Hosts
from fedpriv.errors import ConfigurationError

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")


class Shared(Protocol[Value]):  # type: ignore[misc]
    """Something that every worker has: it is sent once, and is cheap to name from then on."""

    @property
    def value(self) -> Value: ...


class Crew(Protocol):
    """Does the work of one run. A context manager: leaving it ends the workers."""

    @property
    def threads(self) -> int:
        """Torch's threads while clients train."""
        ...

    def share(self, value: Value) -> Shared[Value]:
        """Give a value to every worker; a task that holds the result finds it there."""
        ...

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """One result for each item, in the items' order."""
        ...

    def hosts(self) -> Hosts:
        """A home for the clients of one attempt after the other."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Executor(Protocol):
    """Says where the work is done; a frozen description."""

    def start(self) -> Crew:
        """Make the workers."""
        ...


@dataclass(frozen=True, kw_only=True)
class Inline:
    """Everything in this process, one block of clients after another.

    Args:
        threads: torch's threads while clients train. One is the fastest for small models, and part of what makes a
            run bit-identical on another machine of the same kind.
    """

    threads: int = 1

    def start(self) -> InlineCrew:
        """See :class:`Executor`."""
        return InlineCrew(self.threads)


@dataclass(frozen=True)
class Local(Generic[Value]):
    """A shared value that never left this process."""

    value: Value


class InlineCrew:
    """This process."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def share(self, value: Value) -> Local[Value]:
        """See :class:`Crew`."""
        return Local(value)

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See :class:`Crew`."""
        for item in items:
            yield task(item)

    def hosts(self) -> Hosts:
        """See :class:`Crew`."""
        return Here()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def check(executor: Any) -> Executor:
    """An executor as it was given; None: this process.

    Raises:
        ConfigurationError: it is none.
    """
    if executor is None:
        return Inline()
    if isinstance(executor, type) or not callable(getattr(executor, "start", None)):
        raise ConfigurationError(
            "An executor says where the work is done.",
            value=executor.__name__ if isinstance(executor, type) else executor,
            remedy="Give executor=fp.Processes(2) or fp.Ray(); without one it is done in this process.",
        )
    return executor  # type: ignore[no-any-return]


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Torch with this many threads inside, as it was outside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
