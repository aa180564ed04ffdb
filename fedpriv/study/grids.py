"""Plans that differ in some of their parts, with labels that say how."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

from fedpriv.engine.plan import Plan
from fedpriv.errors import ConfigurationError


def grid(plan: Plan, **axes: Sequence[Any]) -> dict[str, Plan]:
    """Every combination of the given parts: label → plan.

    Args:
        plan: what all share.
        **axes: a part of the plan → its values, e.g. ``aggregation=[fp.PlainSum(), fp.SecureAggregation()]``.

    Raises:
        ConfigurationError: not a plan, a name that is no part of one, an axis without values, or two equal values.
    """
    if not isinstance(plan, Plan):
        raise ConfigurationError(
            "A grid starts from one plan.", value=type(plan).__name__, remedy="Call fp.grid(plan, rounds=[10, 20])."
        )
    known = [item.name for item in fields(Plan)]
    for name, values in axes.items():
        if name not in known:
            raise ConfigurationError(f"A plan has the parts {', '.join(known)}.", value=name, remedy="Use one of them.")
        if isinstance(values, str | Mapping) or not isinstance(values, Sequence) or not values:
            raise ConfigurationError(
                f"The axis {name} is a list of at least one value.", value=values, remedy=f"Give {name}=[…]."
            )
    labels = {name: label_values(values) for name, values in axes.items()}
    plans: dict[str, Plan] = {}
    for chosen in itertools.product(*(range(len(values)) for values in axes.values())):
        parts = {name: axes[name][index] for name, index in zip(axes, chosen, strict=True)}
        words = [labels[name][index] for name, index in zip(axes, chosen, strict=True)]
        plans[" · ".join(words) or "plan"] = replace(plan, **parts)
    return plans


def label_values(values: Sequence[Any]) -> list[str]:
    """A short label for each value: its type, and of its fields those in which values of that type differ.

    Raises:
        ConfigurationError: two values are equal.
    """
    flat = [_flatten(value) for value in values]
    names = [_type_name(value) for value in values]
    labels = []
    for i, name in enumerate(names):
        peers = [flat[j] for j in range(len(values)) if names[j] == name]
        differing = {key for peer in peers for key in peer if any(other.get(key) != peer[key] for other in peers)}
        shown = ", ".join(f"{key.split('.')[-1]}={_short(flat[i][key])}" for key in flat[i] if key in differing)
        labels.append(f"{name}({shown})" if shown else name)
    if len(set(labels)) < len(labels):
        raise ConfigurationError("The values of an axis differ.", value=labels, remedy="Leave out the repeated one.")
    return labels


def _type_name(value: Any) -> str:
    if isinstance(value, partial):
        return _type_name(value.func)
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    nameless = str(value) == object.__repr__(value)  # an address, which differs from one session to the next
    return type(value).__name__ if is_dataclass(value) or nameless else str(value)


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """A dataclass's fields, nested ones by dotted names."""
    if isinstance(value, partial):
        return {f"{prefix}{key}": item for key, item in value.keywords.items()}
    if not is_dataclass(value):
        return {}
    leaves: dict[str, Any] = {}
    for item in fields(value):
        child = getattr(value, item.name)
        nested = _flatten(child, f"{prefix}{item.name}.")
        leaves |= nested or {f"{prefix}{item.name}": child}
    return leaves


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
