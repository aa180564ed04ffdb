"""Who holds the keys of homomorphic aggregation, who adds, who decrypts: the key models and what each assumes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

from fedpriv.errors import CohortTooSmall, ConfigurationError, PlanError, TooFewSurvivors, UnexpectedMessage
from fedpriv.threat import AUTHORITY, CLIENT, PUBLIC, SERVER, Party, ThreatModel, View

Additions = Literal["trusted-server", "trusted-authority"]


@runtime_checkable
class KeyModel(Protocol):
    """Who holds the secret key, who adds and who decrypts.

    A model in which several parties decrypt together (threshold keys) would be another one: its ``decryptor`` names
    who ends up with the sum.
    """

    @property
    def min_contributors(self) -> int:
        """The fewest clients in a sum that is decrypted."""
        ...

    @property
    def clients_hold_secret(self) -> bool:
        """Whether clients encrypt with the secret key, and hold it; else they hold the public one."""
        ...

    @property
    def adder(self) -> Party:
        """Who adds the ciphertexts up."""
        ...

    @property
    def decryptor(self) -> Party:
        """Who decrypts the aggregate: a party, or ``client`` for each of them."""
        ...

    @property
    def signed(self) -> bool:
        """Whether clients sign what they upload."""
        ...

    def threat_model(self, *, assumptions: tuple[str, ...], reference: str) -> ThreatModel:
        """The model of a scheme under this key model."""
        ...

    def least_contributors(self, cohort: int) -> int:
        """The minimum. Raises PlanError where the cohort is smaller."""
        ...

    def check_cohort(self, participants: int) -> None:
        """Raises CohortTooSmall where a round can never reach the minimum."""
        ...

    def check_contributors(self, contributors: int) -> None:
        """Raises TooFewSurvivors below the minimum."""
        ...


@dataclass(frozen=True, kw_only=True)
class _WithMinimum:
    """A key model that decrypts no sum of too few clients."""

    min_contributors: int = 3

    def __post_init__(self) -> None:
        least = self.min_contributors
        if isinstance(least, bool) or not isinstance(least, int) or least < 1:
            raise ConfigurationError(
                "min_contributors is a positive integer.", value=least, remedy="Use at least 3 outside of tests."
            )

    @property
    def _rule(self) -> str:
        return f"Sums of at least {self.min_contributors} clients are decrypted."

    def least_contributors(self, cohort: int) -> int:
        """The minimum. Raises PlanError where the cohort is smaller."""
        if cohort < self.min_contributors:
            raise PlanError(
                self._rule,
                value=f"a cohort of {cohort}",
                remedy="Sample more clients, or lower min_contributors and accept that a sum shows more of each.",
            )
        return self.min_contributors

    def check_cohort(self, participants: int) -> None:
        """Raises CohortTooSmall where a round can never reach the minimum."""
        if participants < self.min_contributors:
            raise CohortTooSmall(self._rule, value=participants, remedy="Sample more clients.")

    def check_contributors(self, contributors: int) -> None:
        """Raises TooFewSurvivors below the minimum."""
        if contributors < self.min_contributors:
            raise TooFewSurvivors(
                self._rule,
                value=contributors,
                remedy="Sample more clients, or permit less dropout; start a new attempt.",
            )


@dataclass(frozen=True, kw_only=True)
class KeyAuthority(_WithMinimum):
    """A party apart holds the secret key: clients encrypt under the public one, the authority decrypts the aggregate.

    The authority holds the exact sum, adds central noise where the mechanism has any, and releases only the result to
    the server. So the server's view is ciphertexts and that release. Who adds the ciphertexts up decides what the two
    must be trusted with:

    - ``"trusted-server"``: the server adds. The authority sees one aggregate, which it cannot tell from a single
      client's ciphertext: the server is trusted to add honestly.
    - ``"trusted-authority"``: every client signs its upload (Ed25519, identities registered at deployment), the server
      forwards the uploads, the authority verifies and adds them itself: it is trusted with each of them. The server
      can drop uploads, and change none. It holds a cohort's uploads until it forwards them; the authority holds one
      encrypted sum and the upload that is arriving.

    **Guarantees** The server learns nothing about clients' vectors beyond what is released (computationally):
    under ``"trusted-server"`` with any number of clients, while all follow the protocol; under ``"trusted-authority"``
    whatever the server does by itself: a duplicate, a stranger's, an earlier, an exchanged or a changed upload is
    refused. The authority learns the sum over at least ``min_contributors`` clients and who they are; under
    ``"trusted-server"`` no more (under CKKS see also there what its key would open). One aggregate is decrypted in a
    round, and none after a decryption that failed.

    **Assumes** Server and authority do not collude. Clients encrypt honestly. The clients hold the authority's true
    public key, and channels are authenticated; under ``"trusted-authority"`` the authority holds the clients' true
    verification keys, and need not trust the channel from the server.

    **Does not hide** Any update from server and authority together. The sum from the authority; under
    ``"trusted-authority"`` each update, if it looks. Who contributed, from both. The server chooses who is invited,
    whose uploads it passes on, and which model the clients are sent: a lying one can have two sums released that differ
    in one client's update. Only noise, for which every release is charged, protects against that.

    **Reference** Phong et al. 2018 (additively homomorphic aggregation, there with one key shared by all clients);
    Zhang et al. 2020, BatchCrypt; RFC 8032 (signatures).

    Args:
        min_contributors: the fewest clients in a sum that the authority decrypts, ≥ 1. With 1 or 2 a sum can show a
            single update.
        additions: ``"trusted-server"`` or ``"trusted-authority"``: who adds, and is trusted for it.

    Raises:
        ConfigurationError: min_contributors is not a positive integer, or additions is neither.
    """

    additions: Additions = "trusted-server"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.additions not in get_args(Additions):
            raise ConfigurationError(
                'additions is "trusted-server" or "trusted-authority".',
                value=self.additions,
                remedy="Name whoever may be trusted: the server with adding, or the authority with the uploads.",
            )

    @property
    def clients_hold_secret(self) -> bool:
        return False

    @property
    def adder(self) -> Party:
        return AUTHORITY if self.signed else SERVER

    @property
    def decryptor(self) -> Party:
        return AUTHORITY

    @property
    def signed(self) -> bool:
        return self.additions == "trusted-authority"

    def threat_model(self, *, assumptions: tuple[str, ...], reference: str) -> ThreatModel:
        """The model of a scheme under this key model."""
        at_authority = {View.COHORT, View.SURVIVORS, View.EXACT_SUM}
        who_adds: tuple[str, ...] = (
            "The server adds honestly: the authority cannot tell an aggregate from a single ciphertext.",
        )
        if self.signed:
            at_authority |= {View.CIPHERTEXTS, View.UPDATES}
            who_adds = (
                "The authority is trusted with each update: it holds uploads and key, and opens nothing but their sum.",
                "Clients encrypt honestly; the authority holds their true verification keys.",
                "Ed25519 signatures are not forged.",
            )
        return ThreatModel(
            adversary="malicious" if self.signed else "honest-but-curious",
            # Clients hold the public key alone: however many join a server that follows the protocol, it sees no more.
            # Of one that lies, in company with clients who craft ciphertexts (they are malleable), nothing is claimed.
            corrupt=0.0 if self.signed else 1.0,
            assumptions=(
                "Server and key authority do not collude.",
                *who_adds,
                "Channels are authenticated, and every client holds the authority's true public key.",
                *assumptions,
            ),
            reference=reference,
            learns={
                SERVER: frozenset({View.COHORT, View.SURVIVORS, View.CIPHERTEXTS}),
                AUTHORITY: frozenset(at_authority),
            },
            releaser=AUTHORITY,
            exposing=(frozenset({SERVER, AUTHORITY}),),
            computational=frozenset({SERVER}),
        )


@dataclass(frozen=True, kw_only=True)
class SharedClientKey(_WithMinimum):
    """Every client holds the one secret key: the server adds ciphertexts, each client decrypts the aggregate.

    The server step runs at the clients, on the mean that they decrypted; central noise, where the mechanism has any, is
    drawn by the clients from a seed that they share. The server is sent no model and no mean, unless ``tell_server``.

    Clients encrypt with the secret key, so that lattice ciphertexts travel with a seed in the place of their uniform
    half. The server refuses a seed that it has seen under this key.

    **Guarantees** The server, by itself, learns nothing about vectors, sums and models (computationally); with
    ``tell_server``, the released means alone. No client's device opens an aggregate that names fewer than
    ``min_contributors`` clients, nor two in a round, nor any after a decryption that failed.

    **Assumes** The server colludes with no client, and adds honestly: a client cannot tell an aggregate from another
    client's ciphertext. No client gives the key away, or opens ciphertexts that were not meant for it. Channels are
    authenticated and confidential: a client that listens to another's upload can open it. The key reaches the clients
    by a channel that the server cannot read.

    **Does not hide** Anything from server and one client together: every update, from the start of the run to its end.
    The exact sums and the models, and who was invited and took part, from every client, whatever noise was planned:
    clients know its seed. From the server: the first model, which it sends, and how far each client's model is behind.
    A model that clients publish tells the server too.

    **Reference** Phong et al. 2018 (section 4); Roth et al. 2022, NVFlare (homomorphic encryption: the same trust).

    Args:
        min_contributors: the fewest clients in a sum that a client decrypts, ≥ 1.
        tell_server: one client tells the server each released mean; the server then makes and broadcasts the models.

    Raises:
        ConfigurationError: min_contributors is not a positive integer, or tell_server no truth value.
    """

    tell_server: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.tell_server, bool):
            raise ConfigurationError(
                "tell_server is True or False.", value=self.tell_server, remedy="Say whether the server gets the means."
            )

    @property
    def clients_hold_secret(self) -> bool:
        return True

    @property
    def adder(self) -> Party:
        return SERVER

    @property
    def decryptor(self) -> Party:
        return CLIENT

    @property
    def signed(self) -> bool:
        return False

    def threat_model(self, *, assumptions: tuple[str, ...], reference: str) -> ThreatModel:
        """The model of a scheme under this key model."""
        told = "One client tells the server each released mean."
        silent = "The clients keep the models: who publishes one shows it to the server as well."
        return ThreatModel(
            adversary="honest-but-curious",
            corrupt=0.0,
            assumptions=(
                "The server colludes with no client: together they hold every update.",
                "The server adds honestly: a client cannot tell an aggregate from a single ciphertext.",
                "Channels are authenticated, and clients' uploads are hidden from other clients.",
                "The server has no part in giving the clients their key.",
                told if self.tell_server else silent,
                *assumptions,
            ),
            reference=reference,
            learns={
                SERVER: frozenset({View.COHORT, View.SURVIVORS, View.CIPHERTEXTS}),
                CLIENT: frozenset({View.COHORT, View.SURVIVORS, View.EXACT_SUM}),
            },
            releaser=CLIENT,
            informed=frozenset({SERVER, CLIENT, PUBLIC} if self.tell_server else {CLIENT}),
            exposing=(frozenset({SERVER, CLIENT}),),
            computational=frozenset({SERVER}),
        )


class Decryptions:
    """A holder's record of what it opened under one secret key: one aggregate in a round, none after a failure."""

    def __init__(self) -> None:
        self._rounds: set[int] = set()
        self._failed = False

    @property
    def rounds(self) -> frozenset[int]:
        """Rounds whose aggregate was opened; a failed decryption counts."""
        return frozenset(self._rounds)

    @contextmanager
    def once(self, round: int) -> Iterator[None]:
        """The round's one decryption happens inside. Whatever is raised there spends the key.

        A decryption that fails tells whoever made the ciphertext something about the key; another would tell more.

        Raises:
            UnexpectedMessage: the round had its decryption, or one under this key has failed.
        """
        if self._failed or round in self._rounds:
            raise UnexpectedMessage(
                "One aggregate is decrypted in a round, and none after a decryption that failed.",
                value=f"round {round}" + (", after a failure" if self._failed else ""),
                remedy="Find the cause of the failure, then start a run with a new key."
                if self._failed
                else "Go on with the next round.",
            )
        self._rounds.add(round)
        try:
            yield
        except BaseException:
            self._failed = True
            raise


def check_keys(keys: object) -> None:
    """Raises ConfigurationError unless this says who holds the secret key."""
    if isinstance(keys, type) or not isinstance(keys, KeyModel):
        raise ConfigurationError(
            "keys says who holds the secret key.",
            value=keys.__name__ if isinstance(keys, type) else type(keys).__name__,
            remedy="Give an instance: keys=KeyAuthority(), or keys=SharedClientKey().",
        )
