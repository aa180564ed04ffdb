"""How long a primitive takes on this machine; the base of modelled costs."""

from __future__ import annotations

import time
from collections.abc import Callable


def cpu_seconds(action: Callable[[], object], repeat: int = 3) -> float:
    """CPU seconds of one call, the best of ``repeat`` batches of a millisecond or one call, whichever is longer."""
    begun = time.process_time()
    action()
    once = max(time.process_time() - begun, 1e-7)
    calls = max(1, int(1e-3 / once))
    best = once
    for _ in range(repeat):
        begun = time.process_time()
        for _ in range(calls):
            action()
        best = min(best, (time.process_time() - begun) / calls)
    return best
