"""Client and server against an adversary that controls the server: Bonawitz et al. 2017, Figure 4, underlined parts.

Advertisements are signed under identities registered before the session, so that the server cannot exchange keys. After
the masked inputs each client signs the survivor set it was shown; nobody reveals a share before t clients have signed
the same one. With 2t > n + |corrupt| no two sets find t signers, since an honest client signs once.
"""

from __future__ import annotations

from fedpriv.aggregation.roles import Act, Hear, Script
from fedpriv.aggregation.secagg import messages as m
from fedpriv.aggregation.secagg.client import Client
from fedpriv.aggregation.secagg.server import Server
from fedpriv.crypto import signing, wire
from fedpriv.network import Message
from fedpriv.threat import SERVER, Party


class SignedClient(Client):
    """Signs what it advertises and whom it takes to be alive.

    Args:
        agreed: what the attempt is about.
        position: this client's, among the invited.
        identity: its registered key.
    """

    def __init__(self, agreed: m.Agreed, position: int, identity: signing.SigningKey) -> None:
        super().__init__(agreed, position)
        self._identity = identity

    def _advertisement(self, keys: bytes) -> bytes:
        return keys + self._identity.sign(m.advertisement(self._agreed, self._position, keys))

    def _meet(self, payload: memoryview) -> None:
        """Every member's keys are its own: signed under its registered key, for this very session."""
        super()._meet(payload)
        for member, advertised in self._roster.advertised.items():
            if member != self._position:
                verify_advertisement(self._agreed, member, advertised)

    def _confirmation(self) -> Script:
        return (
            Act(m.CONSISTENCY, self._vouch),
            Hear(m.SIGNATURES, frozenset({SERVER}), lambda _, payload: self._confirm(payload)),
        )

    def _statement(self) -> bytes:
        alive = [member for member in self._sharers if member not in self._dead]
        return m.survivor_statement(self._roster, self._sharers, alive, self._agreed.invited)

    def _vouch(self) -> list[Message]:
        self._required(m.SURVIVORS)
        return [self.send(SERVER, m.CONSISTENCY, self._identity.sign(self._statement()))]

    def _confirm(self, payload: memoryview) -> None:
        """At least t distinct living clients signed exactly what this client was told."""
        reader = wire.Reader(payload, m.SIGNATURES)
        alive = [member for member in self._sharers if member not in self._dead]
        seats = self._roster.reach.seats(self._position)
        signers = m.decode_subset(seats, reader, within=alive, name=m.SIGNATURES)
        self._agreed.require_threshold(signers)
        statement = self._statement()
        for signer in signers:
            signing.verify(self._agreed.identities[signer], reader.take(signing.SIGNATURE), statement)
        reader.end()


class SignedServer(Server):
    """Collects the signatures and passes on those of the first t clients."""

    def __init__(self, agreed: m.Agreed) -> None:
        super().__init__(agreed)
        self._signatures: dict[int, bytes] = {}

    def _register(self, sender: Party, payload: memoryview) -> None:
        super()._register(sender, payload)
        position = self._positions[sender]
        verify_advertisement(self._agreed, position, self._keys[position])

    def _confirmation(self) -> Script:
        return (Hear(m.CONSISTENCY, self._everybody, self._take_signature), Act(m.SIGNATURES, self._pass_on))

    def _take_signature(self, sender: Party, payload: memoryview) -> None:
        position = self._member(sender, self._alive)
        signature = bytes(m.exactly(payload, signing.SIGNATURE, m.CONSISTENCY))
        statement = m.survivor_statement(self._roster, self._sharers, self._alive, self._agreed.invited)
        signing.verify(self._agreed.identities[position], signature, statement)
        self._signatures[position] = signature

    def _pass_on(self) -> list[Message]:
        self._agreed.require_threshold(self._signatures)
        signers = sorted(self._signatures)[: self._agreed.parameters.threshold]
        told = wire.members(signers, self._agreed.invited) + b"".join(self._signatures[signer] for signer in signers)
        return self._to_each(sorted(self._signatures), m.SIGNATURES, lambda _: told)


def verify_advertisement(agreed: m.Agreed, position: int, advertised: bytes) -> None:
    """Raises AuthenticationFailed unless the client at this position signed these keys for this session."""
    keys, signature = advertised[: m.KEYS], advertised[m.KEYS :]
    signing.verify(agreed.identities[position], signature, m.advertisement(agreed, position, keys))
