"""A checkpoint on the disk: a folder that one run holds, and files that are whole or not there.

A file is written beside its place, flushed to the disk and moved there in one step; it carries a hash over all of it.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.errors import CheckpointError

_FORMAT = b"fedpriv-checkpoint/1"
_PATIENCE = 5.0
"""Seconds in which another run leaves the folder: that of a worker that is being ended, say."""


def hold(folder: Path) -> int | None:
    """Hold a folder, by an open file that lets go of it when the process ends, however it does. What a write that was
    killed had left is removed.

    Raises:
        CheckpointError: another run holds it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return None
    held = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            os.close(held)
            raise CheckpointError(
                "A folder of checkpoints is used by one run at a time.",
                value=str(folder),
                remedy="Wait until the other one has ended, or name another folder.",
            ) from error
        except OSError:  # nor on some file systems
            os.close(held)
            return None
        for left in folder.glob(".*.checkpoint.*"):
            left.unlink(missing_ok=True)
        return held


def pack(lines: Sequence[str], arrays: Sequence[Any]) -> bytes:
    """A file of these lines of text and these arrays."""
    text = "\n".join(lines).encode()
    archive = io.BytesIO()
    np.savez(archive, *arrays)
    body = len(text).to_bytes(8, "little") + text + archive.getvalue()
    return _FORMAT + b" " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def read(file: Path) -> tuple[list[str], list[Any]]:
    """The lines and arrays of a file.

    Raises:
        OSError, ValueError, KeyError: it is damaged.
    """
    first, _, body = file.read_bytes().partition(b"\n")
    name, _, digest = first.partition(b" ")
    if name != _FORMAT:
        raise ValueError("it does not begin as one")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its hash is another")
    size = int.from_bytes(body[:8], "little")
    lines = body[8 : 8 + size].decode().split("\n")
    with np.load(io.BytesIO(body[8 + size :]), allow_pickle=False) as archive:
        arrays = [archive[f"arr_{number}"] for number in range(len(archive.files))]
    return lines, arrays


def write(path: Path, data: bytes) -> None:
    """The whole file, or what was there before.

    Raises:
        CheckpointError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(
            "A checkpoint can be written down.",
            value=f"{path}: {error.strerror or error}",
            remedy="Make room, and run again: it goes on from the checkpoint before.",
        ) from error
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
