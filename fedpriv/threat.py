"""Parties, observers and what each of them gets to see.

An observer is a set of parties whose views are pooled. A protocol states what each party sees of one round
(:class:`ThreatModel`); the resolved plan adds broadcasts and roster; the ledger and the attacks read the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from numbers import Real
from typing import Literal, TypeAlias

from fedpriv.errors import ConfigurationError

Party: TypeAlias = str
"""An open string: ``client/17``, ``server``, ``authority``, ``combiner/2``."""

SERVER: Party = "server"
AUTHORITY: Party = "authority"
CLIENT: Party = "client"
"""Stands for any one client in :attr:`ThreatModel.learns`."""
PUBLIC: Party = "public"
"""Everybody: what it sees, every observer sees."""


def client(index: int) -> Party:
    """The party name of the client with this index."""
    return f"{CLIENT}/{index}"


def client_index(party: Party) -> int:
    """The index in ``client/17``.

    Raises:
        ConfigurationError: the party is not a client, or not written as :func:`client` writes it.
    """
    _, _, index = party.partition("/")
    if not index.isdecimal() or party != client(int(index)):  # one name for one client: no "client/007"
        raise ConfigurationError(
            "A client party is written client/<index>.", value=party, remedy="Use fedpriv.threat.client(index)."
        )
    return int(index)


class View(StrEnum):
    """A thing that can be seen."""

    COHORT = "cohort"
    SURVIVORS = "survivors"
    CIPHERTEXTS = "ciphertexts"
    EXACT_SUM = "exact_sum"
    NOISY_SUM = "noisy_sum"
    GROUP_SUMS = "group_sums"
    UPDATES = "updates"
    ROUND_MODELS = "round_models"
    FINAL_MODEL = "final_model"


@dataclass(frozen=True, kw_only=True)
class Coalition:
    """Parties that pool what they see.

    Args:
        server: the server takes part.
        clients: the share of the cohort that takes part, in [0, 1).
        authority: the key authority takes part.

    Raises:
        ConfigurationError: a share outside [0, 1), or a party that is neither inside nor outside.
    """

    server: bool = False
    clients: float = 0.0
    authority: bool = False

    def __post_init__(self) -> None:
        for name in ("server", "authority"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(
                    f"{name} is True or False: inside the coalition, or not.",
                    value=getattr(self, name),
                    remedy=f"Use Coalition({name}=True).",
                )
        share: object = self.clients
        if isinstance(share, bool) or not isinstance(share, Real) or not 0.0 <= self.clients < 1.0:
            raise ConfigurationError(
                "The share of colluding clients is in [0, 1).", value=self.clients, remedy="Give a fraction, e.g. 0.1."
            )

    @property
    def parties(self) -> frozenset[Party]:
        """The kinds of parties inside."""
        inside = {PUBLIC}
        if self.server:
            inside.add(SERVER)
        if self.authority:
            inside.add(AUTHORITY)
        if self.clients > 0:
            inside.add(CLIENT)
        return frozenset(inside)

    def __str__(self) -> str:
        names = [name for name, inside in (("server", self.server), ("authority", self.authority)) if inside]
        if self.clients:
            names.append(f"{100 * self.clients:g}% of clients")
        return " + ".join(names) or "public"


Observer: TypeAlias = str | Coalition
"""``"server"``, ``"authority"``, ``"participant"`` (one client), ``"public"``, or a :class:`Coalition`."""

_NAMED = {
    "server": frozenset({SERVER, PUBLIC}),
    "authority": frozenset({AUTHORITY, PUBLIC}),
    "participant": frozenset({CLIENT, PUBLIC}),
    "public": frozenset({PUBLIC}),
}


def parties_of(observer: Observer) -> frozenset[Party]:
    """The kinds of parties that an observer pools.

    Raises:
        ConfigurationError: an unknown name.
    """
    if isinstance(observer, Coalition):
        return observer.parties
    if not isinstance(observer, str) or observer not in _NAMED:
        raise ConfigurationError(
            "An observer is 'server', 'authority', 'participant', 'public' or a Coalition.",
            value=observer,
            remedy="Use one of these names, or fp.Coalition(server=True, clients=0.1).",
        )
    return _NAMED[observer]


Adversary: TypeAlias = Literal["honest-but-curious", "semi-malicious", "malicious"]


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """What a protocol claims, against whom, and what each party sees of a round.

    Args:
        adversary: how corrupted parties behave.
        corrupt: the largest share of clients that may collude with the server; beyond it no claim is made.
        assumptions: what the claim rests on, a sentence each.
        reference: paper and section.
        learns: the views of each kind of party (``server``, ``client``, ``authority``, ``public``).
        releaser: the party that holds the exact sum, adds central noise and releases the result; ``client`` stands for
            each of them, all with the same noise.
        informed: the kinds of parties that the result is released to, and that see the models made from it.
        exposing: coalitions (as sets of kinds of parties) to whom single updates are open.
        computational: parties whose view is hidden only computationally (they hold ciphertexts or masked vectors).
    """

    adversary: Adversary
    corrupt: float
    assumptions: tuple[str, ...]
    reference: str
    learns: Mapping[Party, frozenset[View]]
    releaser: Party = SERVER
    informed: frozenset[Party] = frozenset({SERVER, CLIENT, PUBLIC})
    exposing: tuple[frozenset[Party], ...] = ()
    computational: frozenset[Party] = field(default_factory=frozenset)

    def sees(self, observer: Observer) -> frozenset[View]:
        """The pooled view of an observer; ``UPDATES`` where the coalition is beyond what the protocol claims."""
        parties = parties_of(observer)
        seen: frozenset[View] = frozenset().union(*(self.learns.get(party, frozenset()) for party in parties))
        # The share may be the sum of others: 0.1 + 0.2 is not beyond 0.3.
        beyond = isinstance(observer, Coalition) and observer.clients > self.corrupt + 1e-9 and SERVER in parties
        if beyond or any(coalition <= parties for coalition in self.exposing):
            seen |= {View.UPDATES, View.EXACT_SUM}
        return seen

    def with_views(self, extra: Mapping[Party, frozenset[View]]) -> ThreatModel:
        """This model with further views for some parties (what the plan broadcasts and releases)."""
        kinds = set(self.learns) | set(extra)
        merged = {kind: self.learns.get(kind, frozenset()) | extra.get(kind, frozenset()) for kind in sorted(kinds)}
        return replace(self, learns=merged)
