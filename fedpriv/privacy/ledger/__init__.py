"""What was released, and the ε it amounts to: events, whom they expose, accountants, statements."""

from fedpriv.privacy.ledger.book import Ledger
from fedpriv.privacy.ledger.event import LedgerEvent, Response, record_event
from fedpriv.privacy.ledger.statement import Statement

__all__ = ["Ledger", "LedgerEvent", "Response", "Statement", "record_event"]
