"""Results on disk: a folder is written whole, or not at all."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv import __version__
from fedpriv.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MARK = "fedpriv-results.json"
"""Stands in every folder that fedpriv wrote; only such a folder is ever replaced."""
_PACKAGES = ("numpy", "torch", "cryptography", "tenseal", "phe", "gmpy2", "opacus", "dp-accounting", "scikit-learn")


def provenance() -> dict[str, Any]:
    """Versions of what computed a result."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {"fedpriv": __version__, "python": platform.python_version(), "packages": versions}


def processor() -> str:
    """The processor's name, where the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def save(
    folder: str | Path,
    *,
    tables: Mapping[str, pd.DataFrame],
    documents: Mapping[str, Any],
    figures: Mapping[str, Figure],
    texts: Mapping[str, str],
) -> Path:
    """Write tables as CSV, documents as JSON, figures as PNG and PDF, and texts, into a folder.

    Everything is written beside the folder first and moved into place in one step, so that an interrupted run leaves
    nothing that looks whole. An existing folder of results is replaced.

    Raises:
        ConfigurationError: the folder exists and was not written by fedpriv.
    """
    target = Path(folder)
    check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.unfinished-", dir=target.parent))
    try:
        for name, table in tables.items():
            table.to_csv(scratch / f"{name}.csv", index=False)
        for name, document in documents.items():
            _write_json(scratch / f"{name}.json", document)
        for name, figure in figures.items():
            figure.savefig(scratch / f"{name}.png", dpi=200)
            figure.savefig(scratch / f"{name}.pdf")
        for name, text in texts.items():
            (scratch / name).write_text(text, encoding="utf-8")
        _write_json(scratch / MARK, {"fedpriv": __version__, "files": sorted(path.name for path in scratch.iterdir())})
        scratch.chmod(0o755)
        _move_into_place(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def check_replaceable(folder: str | Path) -> None:
    """Refuse a folder that :func:`save` would refuse: to be asked before hours of work.

    Raises:
        ConfigurationError: the folder exists and holds what fedpriv did not write.
    """
    target = Path(folder)
    if not target.exists():
        return
    if not target.is_dir() or {path.name for path in target.iterdir()} - _written(target):
        raise ConfigurationError(
            "Results are written to a new folder, or over one that holds nothing but what fedpriv wrote.",
            value=str(target),
            remedy="Choose another folder, or move this one away.",
        )


def _written(folder: Path) -> set[str]:
    """The names of what fedpriv says it wrote into a folder; nothing where it says nothing."""
    try:
        files = json.loads((folder / MARK).read_text(encoding="utf-8"))["files"]
        return {MARK, *files}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _move_into_place(scratch: Path, target: Path) -> None:
    """A rename, which is atomic; what stood there is moved aside first and put back if the rename fails."""
    if not target.exists():
        os.replace(scratch, target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.replaced-", dir=target.parent))
    try:
        os.replace(target, aside / "old")
        os.replace(scratch, target)
    finally:
        if not target.exists() and (aside / "old").exists():
            os.replace(aside / "old", target)
        shutil.rmtree(aside, ignore_errors=True)


def _write_json(path: Path, document: Any) -> None:
    if isinstance(document, str):  # JSON already
        document = json.loads(document)
    path.write_text(
        json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )


def _plain(value: Any) -> Any:
    """JSON has neither numpy scalars nor infinity: infinity becomes the string that a reader expects."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    return value
