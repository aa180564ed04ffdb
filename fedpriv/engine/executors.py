"""Where a chunk of clients is trained. How it is trained is learning's affair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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


@dataclass(frozen=True)
class Inline:
    """Everything in this process, one chunk after another."""

    def map(self, task: Callable[[Sequence[int]], Result], chunks: Iterable[Sequence[int]]) -> Iterator[Result]:
        """See :class:`Executor`."""
        return (task(chunk) for chunk in chunks)


def chunks_of(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    """Consecutive chunks of at most :data:`CHUNK` clients."""
    return (indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK))
