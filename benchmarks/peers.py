"""Other libraries, in an environment of their own (``make peers``): their requirements and fedpriv's do not agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import Row

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".peers" / "bin" / "python"


def measure(peer: str, script: Path, *arguments: str, python: Path = PYTHON) -> Iterator[Row]:
    """The rows of a peer: what ``script`` prints there, as JSON lines. Without the environment, none, and it says so.

    Args:
        peer: its name.
        script: a file that imports the peer and nothing of fedpriv.
        arguments: for the script.
        python: the interpreter of the peers' environment.

    Raises:
        RuntimeError: the script failed.
    """
    if not python.exists():
        print(f"SKIPPED: {peer} is not measured, for want of its environment. Run `make peers`.", file=sys.stderr)
        return
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    command = [str(python), str(script), *arguments]
    done = subprocess.run(command, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{peer} failed in {script.name}:\n{done.stderr[-2000:]}")
    for line in done.stdout.splitlines():
        yield json.loads(line)
