"""Build an environment inside the checkout, unless it is there and up to date: ``environment.py core|dev|peers``.

Python's standard library only: this runs before anything is installed. The stamp is written last, so an interrupted
set-up leaves an environment without one, which the next call builds anew.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ["flwr[simulation]==1.41.0", "pfl==0.6.0", "torch==2.13.0"]
"""What fedpriv is measured beside; their requirements and fedpriv's do not agree, hence an environment of their own."""


def main(kind: str) -> None:
    """Make ``.venv`` hold fedpriv (``core``) and its tools (``dev``), or ``.peers`` hold the peers."""
    folder = ROOT / (".peers" if kind == "peers" else ".venv")
    python, stamp = folder / "bin" / "python", folder / "fedpriv-stamp"
    built = stamp.read_text().split("\n") if stamp.exists() and python.exists() else []
    if kind == "core" and built[:1] == ["dev"]:
        kind = "dev"  # it holds the core as well: keep it so
    wanted = [kind, str(ROOT), _digest(kind)]
    if built == wanted:
        return
    print(f"Setting up {folder.name} ({kind}) with Python {sys.version.split()[0]}; this is done once.", flush=True)
    if built[1:2] == [str(ROOT)]:
        stamp.unlink()  # a whole environment of other requirements: bring it up to date
    else:
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    pip += [] if sys.stdout.isatty() else ["--quiet"]
    pip += ["--constraint", str(ROOT / "constraints.txt")] if kind != "peers" else []
    if index := os.environ.get("TORCH_INDEX"):
        _run(*pip, "--no-deps", "--index-url", index, PEERS[-1] if kind == "peers" else "torch")
    requirements = {"core": ["--editable", "."], "dev": ["--editable", ".[dev]"], "peers": PEERS}
    _run(*pip, *requirements[kind])
    stamp.write_text("\n".join(wanted))


def _digest(kind: str) -> str:
    if kind == "peers":
        return hashlib.sha256("\n".join(PEERS).encode()).hexdigest()
    files = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"\0".join(files)).hexdigest()


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        venv = "venv" in command
        remedy = "Install Python's venv module (on Debian: python3-venv)." if venv else "See the message above."
        sys.exit(f"Set-up failed in: {' '.join(command)}\n{remedy} Then run the same make command again.")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in {"core", "dev", "peers"}:
        sys.exit(__doc__)
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit("\nInterrupted: the set-up is not complete and starts anew the next time.")
