"""Secure aggregation by pairwise masks: the server learns the sum of the clients' vectors and nothing else of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedpriv.aggregation.protocol import Role, Session, Terms, survivors
from fedpriv.aggregation.roles import Attempts, checked_participants
from fedpriv.aggregation.secagg import messages as m
from fedpriv.aggregation.secagg.client import Client
from fedpriv.aggregation.secagg.costs import estimate
from fedpriv.aggregation.secagg.parameters import Parameters, parameters
from fedpriv.aggregation.secagg.server import Server
from fedpriv.encoding import Domain, Ring, ring_for
from fedpriv.errors import CohortTooSmall, ConfigurationError, PlanError
from fedpriv.network import Schedule, Stage, StageCost
from fedpriv.threat import CLIENT, SERVER, Adversary, Party, ThreatModel, View

__all__ = ["Client", "Parameters", "SecureAggregation", "SecureAggregationDeployment", "Server"]


@dataclass(frozen=True, kw_only=True)
class SecureAggregation:
    """Bonawitz et al. 2017, Figure 4, on the complete graph.

    Each client adds to its vector one mask shared with each other client, which cancel in the sum, and one of its own.
    The keys of both are shared t-of-n among all, so that the masks of those who are lost can be removed: for each
    client the others open either its mask key (lost) or its own mask (in the sum), never both.

    Ideal functionality: from the vectors of the clients that reach the stage *masked-input* (U3), the server gets their
    sum mod 2^b, U3 and the sets of clients of every other stage; the clients get U1, U2 and U3. It aborts where fewer
    than ``min_cohort`` clients advertise, where fewer than max(t, min_cohort) advertise, share keys or upload, or where
    fewer than t answer at the end.

    Beyond the figure, clients send a commitment to the seed of their own mask (a key that HKDF derives from it), all
    keys are bound to the transcript, and the server checks what it reconstructs: a wrong share is an error, not a wrong
    sum.

    Guarantees: the server and up to c = ⌈corrupt · n⌉ clients that pool all they see learn no more than the sum of the
        other clients in U3 (section 6 of the paper, honest-but-curious server; computational). At least
        max(t, min_cohort) clients are in a sum, t − c ≥ 2 of them honest. t is derived by each client from the number
        of *invited* clients. Messages of another session, and envelopes made for another roster, context or
        configuration, are refused before a masked vector is sent.
    Assumes: every party follows the protocol (honest-but-curious). Channels between each client and the server are
        authenticated and confidential: whoever reads all of them sees what the server sees, the sum included. X25519
        with HKDF-SHA256 is a secure key agreement, HKDF-SHA256 a pseudorandom function, AES-256-GCM a secure
        authenticated encryption, AES-256-CTR a pseudorandom generator. The operating system's generator is good.
    Does not hide: who takes part, who is lost and when; the sum itself, from which much can follow (add differential
        privacy). A server that lies about the survivors, or substitutes its own keys for the clients', is outside this
        adversary model. No client is kept from sending a wrong vector.
    Reference: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS,
        Figure 4 and section 6.

    Args:
        adversary: ``"honest-but-curious"``.
        corrupt: the share of the invited clients that may collude with the server, in [0, 1).
        dropout: the share of the invited clients whose loss an attempt is sure to survive, in [0, 1).
        min_cohort: the fewest clients that a sum may cover, ≥ 2.

    Raises:
        ConfigurationError: an argument outside its range, or an adversary that is not supported.
    """

    adversary: Adversary = "honest-but-curious"
    corrupt: float = 0.1
    dropout: float = 0.1
    min_cohort: int = 3

    def __post_init__(self) -> None:
        if self.adversary != "honest-but-curious":
            raise ConfigurationError(
                "SecureAggregation is secure against an honest-but-curious server.",
                value=self.adversary,
                remedy='Use adversary="honest-but-curious", and state that assumption.',
            )
        for name in ("corrupt", "dropout"):
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 <= share < 1.0:
                raise ConfigurationError(
                    f"{name} is a share of the clients, in [0, 1).", value=share, remedy="Give a fraction, e.g. 0.1."
                )
        if isinstance(self.min_cohort, bool) or not isinstance(self.min_cohort, int) or self.min_cohort < 2:
            raise ConfigurationError(
                "min_cohort is an integer of at least 2: a sum of one is an update.",
                value=self.min_cohort,
                remedy="Use 3 or more.",
            )

    @property
    def threat_model(self) -> ThreatModel:
        """The server sees masked vectors and their sum; clients see who takes part."""
        return ThreatModel(
            adversary=self.adversary,
            corrupt=self.corrupt,
            assumptions=(
                "Server and clients follow the protocol.",
                "Channels between each client and the server are authenticated and confidential.",
                "X25519 with HKDF-SHA256, AES-256-GCM and AES-256-CTR are secure.",
            ),
            reference="Bonawitz et al. 2017, Figure 4 and section 6",
            learns={
                SERVER: frozenset({View.COHORT, View.SURVIVORS, View.CIPHERTEXTS, View.EXACT_SUM}),
                CLIENT: frozenset({View.COHORT, View.SURVIVORS}),
            },
            computational=frozenset({SERVER}),
        )

    def parameters(self, participants: int) -> Parameters:
        """The threshold and what it rests on, for this number of invited clients.

        Raises:
            PlanError: too few clients for the collusion and dropout that the description permits.
        """
        return parameters(participants, corrupt=self.corrupt, dropout=self.dropout, min_cohort=self.min_cohort)

    def domain(self, *, sum_bound: int, length: int, cohort: int) -> Domain:
        """The smallest ring ℤ mod 2^b that holds the sums.

        Raises:
            EncodingOverflow: the sum does not fit into 62 bits.
        """
        return ring_for(sum_bound)

    def least_contributors(self, cohort: int) -> int:
        """max(t, min_cohort).

        Raises:
            PlanError: see :meth:`parameters`.
        """
        return self.parameters(cohort).least

    def deploy(self, terms: Terms) -> SecureAggregationDeployment:
        """Nothing outlives an attempt but the list of used attempt numbers: keys are fresh each time.

        Raises:
            PlanError: terms that are not over a ring, or see :meth:`parameters`.
        """
        return SecureAggregationDeployment(self, terms)

    def estimate(self, terms: Terms, cohort: int) -> tuple[StageCost, ...]:
        """Bytes are exact; CPU seconds from timing the primitives on this machine.

        ``modelled_seconds`` is the computation of one client or of the server; transfer is the network's to add.
        """
        return estimate(terms, _ring(terms), self.parameters(cohort))


class SecureAggregationDeployment:
    """Secure aggregation set up for a run."""

    def __init__(self, description: SecureAggregation, terms: Terms) -> None:
        description.parameters(terms.cohort)
        self._description = description
        self._terms = terms
        self._ring = _ring(terms)
        self._attempts = Attempts(terms.cohort)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return m.STAGES

    @property
    def key_bytes(self) -> int:
        """None: every key is made for one attempt, and counted there."""
        return 0

    def round(self, session: Session) -> Mapping[Party, Role]:
        """Fresh roles for one attempt.

        Raises:
            UnexpectedMessage: the attempt was used before.
            CohortTooSmall: too few participants for the collusion and dropout that the description permits.
        """
        self._attempts.open(session)
        agreed = m.Agreed.on(self._terms, self._ring, self._parameters(session), session)
        roles: dict[Party, Role] = {party: Client(agreed, i) for i, party in enumerate(session.parties)}
        roles[SERVER] = Server(agreed)
        return roles

    def contributors(self, session: Session, schedule: Schedule) -> tuple[int, ...]:
        """U3, or the abort of the first stage that too few reach."""
        checked_participants(session, self._terms.cohort)
        agreed = m.Agreed.on(self._terms, self._ring, self._parameters(session), session)
        advertised, shared, uploaded, answered = (
            survivors(session, schedule, self.stages, stage) for stage in (m.ADVERTISE, m.SHARE, m.MASKED, m.UNMASK)
        )
        agreed.require_cohort(advertised)
        agreed.require_survivors(shared, agreed.parameters.least)
        agreed.require_survivors(uploaded, agreed.parameters.least)
        agreed.require_survivors(answered, agreed.parameters.threshold)
        return uploaded

    def _parameters(self, session: Session) -> Parameters:
        try:
            return self._description.parameters(len(session.participants))
        except PlanError as error:
            raise CohortTooSmall(error.rule, value=error.value, remedy=error.remedy) from None


def _ring(terms: Terms) -> Ring:
    if not isinstance(terms.domain, Ring) or not 1 <= terms.domain.bits <= 64:
        raise PlanError(
            "Secure aggregation sums over ℤ mod 2^b, b ≤ 64.",
            value=terms.domain,
            remedy="Take the domain from SecureAggregation.domain.",
        )
    return terms.domain
