"""What a plan's parts are, as plain values: for files, and for what a round's clients must agree on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from fedpriv.learning import models


def describe(value: Any) -> Any:
    """A JSON-able description of a part of a plan: objects by type and public fields, callables by name.

    Does not hide: two lambdas of one module share a name.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if is_dataclass(value) and not isinstance(value, type):
        named: dict[str, Any] = {"type": type(value).__name__}
        named.update({item.name: describe(getattr(value, item.name)) for item in fields(value)})
        return named
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((describe(item) for item in value), key=repr)
    if isinstance(value, np.ndarray):
        content = np.ascontiguousarray(value).tobytes() if value.dtype != object else repr(value.tolist()).encode()
        return {"array": f"{value.dtype}{list(value.shape)}", "sha256": hashlib.sha256(content).hexdigest()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value):
        return models.describe(value)
    shown = {name: item for name, item in vars(value).items() if name[0] != "_"} if hasattr(value, "__dict__") else {}
    return {"type": type(value).__name__} | {
        name: describe(item) if _is_plain(item) else type(item).__name__ for name, item in sorted(shown.items())
    }


def _is_plain(value: Any) -> bool:
    """Whether a field of a user's own class is described by value: nothing that could lead back to its owner."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | np.generic | np.ndarray)
