"""Values as JSON and arrays, and back: what a checkpoint is made of. Reading one runs no code that it names.

Numbers come back bit for bit. A dataclass is written as the name of its type and its fields; its type is looked up
among what is imported already, and its fields are set without calling anything of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedpriv.errors import CheckpointError, FedprivError

if TYPE_CHECKING:
    from fedpriv.engine.plan import Plan

_KEPT = "Numbers, text, arrays, tensors, containers and dataclasses of these can be kept in a checkpoint."


class Shown(str):
    """What is left of a value that only an error message shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Writer:
    """Collects the arrays of what it writes."""

    def __init__(self) -> None:
        self.arrays: list[npt.NDArray[Any]] = []

    def write(self, value: Any, where: str) -> Any:
        """A value as JSON.

        Args:
            value: what a run carries.
            where: its place, for the error.

        Raises:
            CheckpointError: something in it cannot be kept.
        """
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is list:
            return self._all(value, where)
        if kind is tuple:
            return {"tuple": self._all(value, where)}
        if kind in (set, frozenset):
            return {kind.__name__: [self.write(item, where) for item in value]}
        if isinstance(value, dict) and (kind is dict or kind.__name__ == "OrderedDict"):
            return {
                "dict": [[self.write(key, where), self.write(item, f"{where}[{key!r}]")] for key, item in value.items()]
            }
        if kind is bytes:
            return {"bytes": value.hex()}
        if isinstance(value, np.generic):
            if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:  # Python's number is the same one
                return {"number": value.dtype.str, "value": value.item()}
            return {"scalar": self._array(np.asarray(value), where)}
        if kind is np.ndarray:
            return {"array": self._array(value, where), "writeable": bool(value.flags.writeable)}
        if isinstance(value, Enum):
            return {"enum": _name(kind, where), "member": value.name}
        if isinstance(value, FedprivError):
            return self._error(value, where)
        if is_dataclass(kind):
            content = {
                item.name: self.write(getattr(value, item.name), f"{where}.{item.name}") for item in fields(kind)
            }
            return {"type": _name(kind, where), "fields": content}
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return {"named": _name(kind, where), "items": self._all(tuple(value), where)}
        torch = sys.modules.get("torch")
        if torch is not None and kind is torch.Tensor:
            return self._tensor(value, where, torch)
        raise CheckpointError(
            _KEPT, value=f"{where}: {kind.__name__}", remedy="Make it a dataclass, or run without a checkpoint."
        )

    def _all(self, items: list[Any] | tuple[Any, ...], where: str) -> list[Any]:
        if {type(item) for item in items} <= {int, float, str}:
            return list(items)
        return [self.write(item, f"{where}[{number}]") for number, item in enumerate(items)]

    def _array(self, array: npt.NDArray[Any], where: str) -> int:
        if array.dtype.hasobject:
            raise CheckpointError(_KEPT, value=f"{where}: an array of objects", remedy="Use a list.")
        self.arrays.append(array)
        return len(self.arrays) - 1

    def _tensor(self, tensor: Any, where: str, torch: Any) -> Any:
        plain = tensor.detach().cpu()
        if plain.dtype == torch.bfloat16:  # numpy has none: its bits
            plain = plain.view(torch.int16)
        content = {"tensor": self._array(plain.numpy(), where), "dtype": str(tensor.dtype).removeprefix("torch.")}
        return content | {"device": str(tensor.device), "gradient": bool(tensor.requires_grad)}

    def _error(self, error: FedprivError, where: str) -> Any:
        try:
            value = self.write(error.value, where)
        except CheckpointError:
            value = {"shown": repr(error.value)}
        content = {"rule": error.rule, "value": value, "remedy": error.remedy, "notes": getattr(error, "__notes__", [])}
        return {"error": _name(type(error), where), **content}


class Reader:
    """Makes values of what a :class:`Writer` wrote.

    Args:
        arrays: the writer's.
        plan: what a script that is no module defines is found by way of the plan's parts.
    """

    def __init__(self, arrays: list[npt.NDArray[Any]], plan: Plan) -> None:
        self._arrays = arrays
        self._scripts = dict(_scripts(plan))

    def read(self, content: Any) -> Any:
        """The value.

        Raises:
            CheckpointError: its type is not there.
            KeyError, ValueError, TypeError, IndexError: it was not written by a :class:`Writer`.
        """
        if isinstance(content, list):
            return [self.read(item) for item in content]
        if not isinstance(content, dict):
            return content
        tag = next(iter(content))
        return _READ[tag](self, content)

    def tuple(self, content: Any) -> Any:
        return tuple(self.read(content["tuple"]))

    def set(self, content: Any) -> Any:
        return set(self.read(content["set"]))

    def frozenset(self, content: Any) -> Any:
        return frozenset(self.read(content["frozenset"]))

    def dict(self, content: Any) -> Any:
        return {self.read(key): self.read(item) for key, item in content["dict"]}

    def bytes(self, content: Any) -> Any:
        return bytes.fromhex(content["bytes"])

    def scalar(self, content: Any) -> Any:
        return self._arrays[content["scalar"]][()]

    def number(self, content: Any) -> Any:
        return np.dtype(content["number"]).type(content["value"])

    def array(self, content: Any) -> Any:
        array = self._arrays[content["array"]]
        array.flags.writeable = content["writeable"]
        return array

    def tensor(self, content: Any) -> Any:
        import torch

        tensor = torch.from_numpy(self._arrays[content["tensor"]])
        if content["dtype"] == "bfloat16":
            tensor = tensor.view(torch.bfloat16)
        return tensor.to(content["device"]).requires_grad_(content["gradient"])

    def enum(self, content: Any) -> Any:
        return self._type(content["enum"], lambda kind: issubclass(kind, Enum))[content["member"]]

    def error(self, content: Any) -> Any:
        kind = self._type(content["error"], lambda kind: issubclass(kind, FedprivError))
        error = kind.__new__(kind)
        FedprivError.__init__(error, content["rule"], value=self.read(content["value"]), remedy=content["remedy"])
        for note in content["notes"]:
            error.add_note(note)
        return error

    def shown(self, content: Any) -> Any:
        return Shown(content["shown"])

    def named(self, content: Any) -> Any:
        kind = self._type(content["named"], lambda kind: issubclass(kind, tuple) and hasattr(kind, "_fields"))
        return tuple.__new__(kind, self.read(content["items"]))

    def type(self, content: Any) -> Any:
        kind = self._type(content["type"], is_dataclass)
        value = object.__new__(kind)
        if {item.name for item in fields(kind)} != set(content["fields"]):
            raise CheckpointError(
                "A type that a checkpoint holds has the fields that it had.",
                value=content["type"],
                remedy="Go on with the version of the code that wrote it, or start anew in another folder.",
            )
        for name, item in content["fields"].items():
            object.__setattr__(value, name, self.read(item))
        return value

    def _type(self, name: str, fits: Callable[[Any], bool]) -> Any:
        module, _, path = name.partition(":")
        home: Any = sys.modules.get(module)
        places = [] if home is None else [vars(home)]
        if module in self._scripts:
            places.append(self._scripts[module])
        for place in places:
            found: Any = place
            for part in path.split("."):
                found = found.get(part) if isinstance(found, Mapping) else getattr(found, part, None)
            if isinstance(found, type) and fits(found):
                return found
        raise CheckpointError(
            "A type that a checkpoint holds is defined, on the top level of a module, when the run goes on.",
            value=name,
            remedy="Import what defines it, or start anew in another folder.",
        )


_READ: dict[str, Callable[[Reader, Any], Any]] = {
    name: method for name, method in vars(Reader).items() if name[0] != "_" and name != "read"
}


def _name(kind: type, where: str) -> str:
    if "<locals>" in kind.__qualname__:  # it could be written, and never be read
        raise CheckpointError(
            _KEPT,
            value=f"{where}: {kind.__name__}, which a function defines",
            remedy="Define it on the top level of a module, or run without a checkpoint.",
        )
    return f"{kind.__module__}:{kind.__qualname__}"


def _scripts(plan: Plan) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The namespaces of scripts that are no module (``fedpriv run study.py``), as the plan's own functions see them."""
    for part in (getattr(plan, item.name) for item in fields(plan)):
        for function in (part, *vars(type(part)).values()):
            namespace = getattr(function, "__globals__", None)
            if namespace is not None:
                yield function.__module__, namespace
