"""Who holds the keys of homomorphic aggregation."""

from __future__ import annotations

from dataclasses import dataclass

from fedpriv.errors import CohortTooSmall, ConfigurationError, PlanError, TooFewSurvivors, UnexpectedMessage
from fedpriv.threat import AUTHORITY, SERVER, ThreatModel, View


@dataclass(frozen=True, kw_only=True)
class KeyAuthority:
    """A party apart holds the secret key: clients encrypt, the server adds, the authority decrypts the aggregate.

    The authority holds the exact sum, adds central noise where the mechanism has any, and releases only the result to
    the server. So the server's view is ciphertexts and that release.

    **Guarantees** The server, with any number of clients, learns nothing about the others' vectors beyond what is
    released (computationally). The authority, alone, learns the sum over at least ``min_contributors`` clients and who
    they are (under CKKS see also there what its key would open); it decrypts once in an attempt.

    **Assumes** Server and authority do not collude. The server is honest but curious: the authority cannot tell an
    aggregate from a single ciphertext that a dishonest server hands it. Channels are authenticated. The clients hold
    the authority's true public key.

    **Does not hide** Any update from server and authority together. The sum from the authority.

    **Reference** Phong et al. 2018 (additively homomorphic aggregation, there with one key shared by all clients);
    Zhang et al. 2020, BatchCrypt (section 3).

    Args:
        min_contributors: the fewest clients in a sum that the authority decrypts, ≥ 1. With 1 or 2 a sum can show a
            single update.

    Raises:
        ConfigurationError: min_contributors is not a positive integer.
    """

    min_contributors: int = 3

    def __post_init__(self) -> None:
        least = self.min_contributors
        if isinstance(least, bool) or not isinstance(least, int) or least < 1:
            raise ConfigurationError(
                "min_contributors is a positive integer.", value=least, remedy="Use at least 3 outside of tests."
            )

    def threat_model(self, *, assumptions: tuple[str, ...], reference: str) -> ThreatModel:
        """The model of a scheme under this key model."""
        return ThreatModel(
            adversary="honest-but-curious",
            corrupt=1.0,  # clients hold the public key alone: however many join the server, it sees no more
            assumptions=(
                "Server and key authority do not collude.",
                "The server adds honestly: the authority cannot tell an aggregate from a single ciphertext.",
                "Channels are authenticated, and every client holds the authority's true public key.",
                *assumptions,
            ),
            reference=reference,
            learns={
                SERVER: frozenset({View.COHORT, View.SURVIVORS, View.CIPHERTEXTS}),
                AUTHORITY: frozenset({View.COHORT, View.SURVIVORS, View.EXACT_SUM}),
            },
            releaser=AUTHORITY,
            exposing=(frozenset({SERVER, AUTHORITY}),),
            computational=frozenset({SERVER}),
        )

    def least_contributors(self, cohort: int) -> int:
        """The minimum.

        Raises:
            PlanError: the cohort is smaller.
        """
        if cohort < self.min_contributors:
            raise PlanError(
                f"The key authority decrypts sums of at least {self.min_contributors} clients.",
                value=f"a cohort of {cohort}",
                remedy="Sample more clients, or lower min_contributors and accept that a sum shows more of each.",
            )
        return self.min_contributors

    def check_cohort(self, participants: int) -> None:
        """Raises CohortTooSmall where a round can never reach the minimum."""
        if participants < self.min_contributors:
            raise CohortTooSmall(
                f"The key authority decrypts sums of at least {self.min_contributors} clients.",
                value=participants,
                remedy="Sample more clients.",
            )

    def check_contributors(self, contributors: int) -> None:
        """Raises TooFewSurvivors below the minimum."""
        if contributors < self.min_contributors:
            raise TooFewSurvivors(
                f"The key authority decrypts sums of at least {self.min_contributors} clients.",
                value=contributors,
                remedy="Sample more clients, or permit less dropout; start a new attempt.",
            )


class Decryptions:
    """The authority's record of one secret key's use: one decryption in an attempt, none in a round that failed."""

    def __init__(self) -> None:
        self._used: set[tuple[int, int]] = set()
        self._failed: set[int] = set()

    @property
    def count(self) -> int:
        """Aggregates that this key has decrypted, failed ones included."""
        return len(self._used)

    def begin(self, round: int, attempt: int) -> None:
        """Claim the attempt's one decryption.

        Raises:
            UnexpectedMessage: it was claimed before, or a decryption of this round failed.
        """
        if (round, attempt) in self._used or round in self._failed:
            raise UnexpectedMessage(
                "The authority decrypts once in an attempt, and never again in a round whose decryption failed.",
                value=(round, attempt),
                remedy="Go on with the next round; after a failure find its cause first.",
            )
        self._used.add((round, attempt))

    def failed(self, round: int) -> None:
        """A decryption of this round did not give a sum."""
        self._failed.add(round)


def check_keys(keys: object) -> None:
    """Raises ConfigurationError unless this says who holds the secret key."""
    if not isinstance(keys, KeyAuthority):
        raise ConfigurationError(
            "keys says who holds the secret key.",
            value=keys.__name__ if isinstance(keys, type) else type(keys).__name__,
            remedy="Give an instance: keys=KeyAuthority().",
        )
