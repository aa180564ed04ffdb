"""Where a chunk of clients is trained. How it is trained is learning's affair."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

Result = TypeVar("Result")
CHUNK = 32
"""Clients trained together. Chunks are cut by the round, never by the number of workers."""


class Executor(Protocol):
    """Maps a task over chunks of client indices; results come back in the chunks' order."""

    def map(self, task: Callable[[Sequence[int]], Result], chunks: Iterable[Sequence[int]]) -> Iterator[Result]:
        """One result per chunk, in order, each made when it is asked for."""
        ...


@dataclass(frozen=True, kw_only=True)
class Inline:
    """Everything in this process, one chunk after another.

    Args:
        threads: torch's threads while clients train. One is the fastest for small models, and part of what makes a
            run bit-identical on another machine of the same kind.
    """

    threads: int = 1

    def map(self, task: Callable[[Sequence[int]], Result], chunks: Iterable[Sequence[int]]) -> Iterator[Result]:
        """See :class:`Executor`."""
        for chunk in chunks:
            with torch_threads(self.threads):
                result = task(chunk)
            yield result


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Torch with this many threads inside, as it was outside; without torch there is nothing to do."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def chunks_of(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    """Consecutive chunks of at most :data:`CHUNK` clients."""
    return (indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK))
