"""What the roles of homomorphic protocols have in common: stages in order, messages in their turn, chunks in order."""

from __future__ import annotations

from fedpriv.aggregation.homomorphic.envelope import Label, Part
from fedpriv.errors import UnexpectedMessage
from fedpriv.network import Message
from fedpriv.threat import Party

ENCRYPT, ADD, FORWARD, DECRYPT = "encrypt", "add", "forward", "decrypt"


class Turns:
    """A role that acts in its stages in order, and hears others before its last. Whatever is refused ends it."""

    def __init__(self, party: Party, label: Label, *stages: str) -> None:
        self.party = party
        self._label, self._left = label, list(stages)
        self._acted = self._over = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.party}>"

    def _hear(self, message: Message, stage: str, senders: frozenset[Party]) -> None:
        """A message is due now; the caller clears ``_over`` once it has proved sound."""
        over, self._acted, self._over = self._over or len(self._left) != 1, True, True
        if over or message.stage != stage or message.recipient != self.party or message.sender not in senders:
            raise self._refused("A message arrives in its stage, from its sender, at its recipient.", message)

    def _begin(self, stage: str) -> None:
        over, self._acted, self._over = self._over, True, True
        if over or self._left[:1] != [stage]:
            raise UnexpectedMessage(
                "A role acts once in each of its stages, in order.",
                value=(self.party, stage),
                remedy="Start a new attempt; one is never resumed.",
            )
        self._left.pop(0)

    def _refused(self, rule: str, message: Message) -> UnexpectedMessage:
        found = (message.sender, message.recipient, message.stage)
        return UnexpectedMessage(rule, value=found, remedy="Start a new attempt; one is never resumed.")

    def _next(self, message: Message, part: Part, received: int) -> None:
        """Raises UnexpectedMessage unless the part is the next of its sender's vector."""
        if part.chunk != received:
            raise self._refused("The chunks of a vector come once each and in order.", message)
