"""Secure aggregation played by hand, stage by stage, so that an adversary can stand at any place.

Messages are changed *and framed anew*, as by an adversary who knows the public transcript, so that the checksum is no
help against it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedpriv.aggregation import SecureAggregation, Session, Terms
from fedpriv.aggregation.secagg import Client, Server, SignedClient, SignedServer
from fedpriv.aggregation.secagg import messages as m
from fedpriv.aggregation.secagg.client import lifted
from fedpriv.crypto import agreement, prg, shamir, signing, wire
from fedpriv.encoding import Integers
from fedpriv.errors import FedprivError
from fedpriv.network import Message
from fedpriv.threat import SERVER, client

Payload = Callable[[bytes], bytes]
Carry = Callable[[Message], Iterable[Message]]
Make = Callable[[m.Agreed, int], Client]

N, LENGTH, BOUND = 6, 16, 1000
EVERYBODY = range(N)
BITMAP = wire.packed_size(N, 1)
SIGNED = {"adversary": "malicious"}
IDENTITIES = tuple(signing.SigningKey() for _ in range(100))


def agreed_on(
    n: int = N,
    *,
    length: int = LENGTH,
    bound: int = BOUND,
    number: tuple[int, int] = (0, 0),
    context: bytes = b"model",
    identities: Sequence[signing.SigningKey] = IDENTITIES,
    forced: Mapping[str, Any] | None = None,
    **description: Any,
) -> m.Agreed:
    """What an attempt is about. ``number`` is the round's and the attempt's; ``forced`` parameters are a weakness: they
    are not the ones that the description gives.
    """
    described = SecureAggregation(**description)
    domain = described.domain(sum_bound=n * bound, length=length, cohort=n)
    terms = Terms(length=length, input_bound=bound, cohort=n, domain=domain)
    session = Session(round=number[0], attempt=number[1], participants=tuple(range(n)), context=context)
    parameters = replace(described.parameters(n), **(forced or {}))
    public = tuple(key.public for key in identities[:n]) if described.adversary == "malicious" else ()
    return m.Agreed.on(terms, domain, parameters, session, public)  # type: ignore[arg-type]


class Attempt:
    """An attempt: ``carry`` is the adversary's network, ``lost`` says who is silent from which stage on."""

    def __init__(
        self,
        agreed: m.Agreed | None = None,
        *,
        make: Make | None = None,
        server: Callable[[m.Agreed], Server] | None = None,
        carry: Carry = lambda message: [message],
        lost: Mapping[int, str] | None = None,
    ) -> None:
        self.agreed = agreed = agreed or agreed_on()
        signed = bool(agreed.identities)
        self.left = list(m.SIGNED_STAGES if signed else m.STAGES)
        make = make or ((lambda agreed, i: SignedClient(agreed, i, IDENTITIES[i])) if signed else Client)
        self.clients: list[Any] = [make(agreed, i) for i in range(agreed.invited)]
        self.server: Any = (server or (SignedServer if signed else Server))(agreed)
        self.carry, self.lost = carry, dict(lost or {})
        self.silent: set[str] = set()
        self.sent: dict[tuple[str, str, str], Message] = {}
        rng, bound = np.random.default_rng(list(agreed.transcript)), agreed.terms.input_bound
        self.inputs = rng.integers(-bound, bound + 1, (agreed.invited, agreed.terms.length))

    def play(self) -> Integers:
        """The sum that the server accepts."""
        self.through(m.RECONSTRUCT)
        total: Integers = self.server.result().total
        return total

    def upload(self) -> None:
        """Everything up to the masked inputs."""
        self.through(m.MASKED)

    def through(self, last: str) -> None:
        """The stages that are left, to this one."""
        roles = dict(zip(self.agreed.parties, self.clients, strict=True)) | {SERVER: self.server}
        count = 1 + [stage.name for stage in self.left].index(last)
        stages, self.left = self.left[:count], self.left[count:]
        for stage in stages:
            self.silent |= {client(i) for i, name in self.lost.items() if name == stage.name}
            for party in [SERVER] if stage.actor == SERVER else self.agreed.parties:
                if party in self.silent:
                    continue
                if stage.name == m.MASKED:
                    roles[party].submit(self.inputs[self.agreed.parties.index(party)])
                for message in roles[party].step(stage.name):
                    self.sent[message.stage, message.sender, message.recipient] = message
                    for delivered in self.carry(message):
                        if delivered.recipient not in self.silent:
                            roles[delivered.recipient].receive(delivered)

    def say(self, position: int, stage: str, payload: bytes) -> None:
        """The server's word to one client."""
        self.clients[position].receive(self.server.send(client(position), stage, payload))

    def refused(self, error: type[FedprivError], *, match: str | None = None, silent: Iterable[int] = ()) -> None:
        """Ends so, before any client that is to be ``silent`` has sent its masked vector."""
        with pytest.raises(error, match=match):
            self.play()
        uploaded = {sender for stage, sender, _ in self.sent if stage == m.MASKED}
        assert uploaded.isdisjoint(map(client, silent))

    def masked(self, position: int) -> Any:
        """What the server gets from a client."""
        payload = inside(self.sent[m.MASKED, client(position), SERVER])
        return wire.unpack_bits(payload, self.agreed.terms.length, self.agreed.ring.bits, self.agreed.word)

    def unmasked(
        self,
        targets: Collection[int],
        keys: Mapping[int, bytes],
        seeds: Mapping[int, bytes],
        among: Iterable[int] | None = None,
    ) -> list[int] | None:
        """The sum of these clients' vectors alone, masked with those ``among``, where these mask keys and self-mask
        seeds give it.
        """
        roster, total = self.server._roster, np.zeros(self.agreed.terms.length, dtype=self.agreed.word)
        others = set(range(self.agreed.invited) if among is None else among) - set(targets)
        for target in targets:
            if target not in seeds:
                return None
            total += self.masked(target)
            prg.mask(total, subtract=[roster.self_mask(self.agreed, target, seeds[target])])
            for other in others:
                if target in keys:
                    shared = agreement.KeyPair(keys[target]).agree(roster.mask_key(other))
                elif other in keys:
                    shared = agreement.KeyPair(keys[other]).agree(roster.mask_key(target))
                else:
                    return None
                key = roster.pairwise_mask(self.agreed, target, other, shared)
                prg.mask(total, **{"subtract" if target < other else "add": [key]})
        return self.lifted(total)

    def lifted(self, values: Any) -> list[int]:
        """Modulo 2^b, as signed integers."""
        values = np.asarray(values).astype(self.agreed.word)
        signed: list[int] = lifted(values, self.agreed.ring.bits).tolist()
        return signed

    def truth(self, members: Iterable[int]) -> list[int]:
        total: list[int] = self.inputs[list(members)].sum(axis=0).tolist()
        return total


def opened(holders: Iterable[int], shares: Any) -> bytes:
    """A secret, from shares ``[t, limbs]`` at the holders' points."""
    return shamir.from_limbs(shamir.combine([i + 1 for i in holders], shares))


def inside(message: Message) -> bytes:
    return message.body[wire.TAG : -wire.DIGEST]


def reframed(message: Message, payload: bytes) -> Message:
    return replace(message, body=wire.frame(message.body[: wire.TAG], payload))


def changing(stage: str, position: int, change: Payload) -> Carry:
    """A network that changes what one client sends in a stage, or is sent."""

    def carry(message: Message) -> Iterable[Message]:
        meant = message.stage == stage and client(position) in (message.sender, message.recipient)
        return [reframed(message, change(inside(message))) if meant else message]

    return carry


def flipped(place: int) -> Payload:
    return lambda payload: payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]


def replaced(start: int, new: bytes) -> Payload:
    return lambda payload: payload[:start] + new + payload[start + len(new) :]
