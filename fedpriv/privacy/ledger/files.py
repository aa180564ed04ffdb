"""A ledger as JSON, and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedpriv.errors import ConfigurationError, PrivacyError
from fedpriv.privacy.correlation import Correlation
from fedpriv.privacy.ledger.event import LedgerEvent, Response
from fedpriv.privacy.mechanism import Share
from fedpriv.privacy.sampling import SamplingRecord
from fedpriv.threat import CLIENT, PUBLIC, SERVER, ThreatModel, View

if TYPE_CHECKING:
    from fedpriv.privacy.ledger.book import Ledger

_FORMAT = "fedpriv-ledger/2"
_EARLIER = ("fedpriv-ledger/1",)
"""Events without details."""
_DETAILS = {"share": Share, "correlation": Correlation, "response": Response}


def dump(ledger: Ledger, *, private: bool) -> str:
    """See :meth:`Ledger.to_json`."""
    from importlib.metadata import version

    content = {
        "format": _FORMAT,
        "versions": {name: version(name) for name in ("dp-accounting", "numpy", "scipy")},
        "population": ledger.population,
        "adjacency": ledger.adjacency,
        "private": ["records"] if private and ledger.records is not None else [],
        "records": ledger.records if private else None,
        "threat": _threat_to(ledger.threat),
        "events": [_event_to(event) for event in ledger.events],
    }
    return json.dumps(content, ensure_ascii=False)


def load(kind: type[Ledger], text: str) -> Ledger:
    """See :meth:`Ledger.from_json`."""
    try:
        content = json.loads(text)
        if content["format"] not in (_FORMAT, *_EARLIER):
            raise ValueError(content["format"])
        return kind(
            threat=_threat_from(content["threat"]),
            population=content["population"],
            adjacency=content["adjacency"],
            records=content.get("records"),
            events=[_event_from(event) for event in content["events"]],
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigurationError | PrivacyError):
            raise
        raise ConfigurationError(
            f"A ledger is read from the JSON that to_json wrote ({_FORMAT}).",
            value=f"{type(error).__name__}: {error}",
            remedy="Check the file.",
        ) from error


def _event_to(event: LedgerEvent) -> dict[str, Any]:
    content = asdict(event)
    if event.detail is not None:
        content["detail"] = {"type": type(event.detail).__name__.lower(), **content["detail"]}
    return content


def _event_from(content: dict[str, Any]) -> LedgerEvent:
    sampling, detail = content["sampling"], content.get("detail")
    if detail is not None:
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in detail.items()}
        detail = _DETAILS[str(fields.pop("type"))](**fields)
    return LedgerEvent(
        **{
            **content,
            "sampling": None if sampling is None else SamplingRecord(**sampling),
            "cohort": tuple(content["cohort"]),
            "detail": detail,
        }
    )


def _threat_to(threat: ThreatModel) -> dict[str, Any]:
    return {
        "adversary": threat.adversary,
        "corrupt": threat.corrupt,
        "assumptions": list(threat.assumptions),
        "reference": threat.reference,
        "learns": {party: sorted(views) for party, views in sorted(threat.learns.items())},
        "releaser": threat.releaser,
        "informed": sorted(threat.informed),
        "exposing": [sorted(coalition) for coalition in threat.exposing],
        "computational": sorted(threat.computational),
    }


def _threat_from(content: dict[str, Any]) -> ThreatModel:
    return ThreatModel(
        adversary=content["adversary"],
        corrupt=content["corrupt"],
        assumptions=tuple(content["assumptions"]),
        reference=content["reference"],
        learns={party: frozenset(View(view) for view in views) for party, views in content["learns"].items()},
        releaser=content["releaser"],
        informed=frozenset(content.get("informed", (SERVER, CLIENT, PUBLIC))),  # ledgers of 0.1 do not say
        exposing=tuple(frozenset(coalition) for coalition in content["exposing"]),
        computational=frozenset(content["computational"]),
    )
