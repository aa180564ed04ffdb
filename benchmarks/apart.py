"""Measurements in a fork of the process: what may happen once can be timed several times, and memory starts anew."""

from __future__ import annotations

import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def apart(action: Callable[[], T]) -> T:
    """Call it in a fork of this process, which stays as it was.

    Raises:
        RuntimeError: it failed there.
    """
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Python warns of forks of processes with threads; those here are the BLAS's, which stops them for a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            result = pickle.dumps(action())
            with os.fdopen(write, "wb") as pipe:
                pipe.write(result)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        result = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("A measurement failed; see above.")
    answer: T = pickle.loads(result)
    return answer
