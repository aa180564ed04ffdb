"""The append-only record of every release, and the ε it amounts to, per observer."""

from __future__ import annotations

from fedpriv.privacy.event import LedgerEvent

__all__ = ["LedgerEvent"]
