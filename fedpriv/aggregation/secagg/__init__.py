"""Secure aggregation by pairwise masks: the server learns the sum of the clients' vectors and nothing else of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from fedpriv.aggregation.protocol import Role, Session, Terms, survivors
from fedpriv.aggregation.roles import Attempts, checked_participants
from fedpriv.aggregation.secagg import messages as m
from fedpriv.aggregation.secagg.client import Client
from fedpriv.aggregation.secagg.costs import estimate
from fedpriv.aggregation.secagg.parameters import Parameters, parameters
from fedpriv.aggregation.secagg.server import Server
from fedpriv.aggregation.secagg.signed import SignedClient, SignedServer
from fedpriv.crypto import signing, wire
from fedpriv.crypto.prg import MASK_CIPHERS, MaskCipher
from fedpriv.encoding import Domain, Ring, ring_for
from fedpriv.errors import CohortTooSmall, ConfigurationError, PlanError
from fedpriv.network import Schedule, Stage, StageCost
from fedpriv.threat import CLIENT, SERVER, Adversary, Party, ThreatModel, View

__all__ = [
    "Client",
    "Parameters",
    "SecureAggregation",
    "SecureAggregationDeployment",
    "Server",
    "SignedClient",
    "SignedServer",
]


@dataclass(frozen=True, kw_only=True)
class SecureAggregation:
    """Pairwise masking after Bonawitz et al. 2017, on the complete graph or (Bell et al. 2020, SecAgg+) a regular one.

    Each client adds to its vector one mask shared with each neighbour, which cancel in the sum, and one of its own. The
    keys of both are shared t-of-n among all clients, or t-of-k among its k neighbours, so that the masks of those who
    are lost can be removed: for each client the others open either its mask key (lost) or its own mask (in the sum),
    never both.

    Ideal functionality: from the vectors of the clients that reach the stage *masked-input* (U3), the server gets their
    sum mod 2^b, U3 and the sets of clients of every other stage; clients get U1, U2 and U3, on a regular graph their
    neighbours' part of U2 and U3. It aborts where fewer than ``min_cohort`` clients advertise; where fewer than
    ``parameters(n).least`` advertise, share keys or upload; where fewer than t, of all or of one client's neighbours,
    are left at any stage; and wherever a corrupt party departs from the protocol in a way that is noticed. It is secure
    with abort: once honest clients have begun to answer *unmask*, an attempt that ends without a sum may have given it
    to the adversary, whose clients hold shares whether they answer or not, and whose server need not say what it has.

    Beyond the papers, clients send a commitment to the seed of their own mask (a key that HKDF derives from it), all
    keys are bound to the transcript, and the server checks what it reconstructs: a wrong share is an error, not a wrong
    sum.

    Three modes:

    *Honest-but-curious, complete graph.* Server and clients follow the protocol; the server and up to c = ⌈corrupt · n⌉
    clients pool what they see. Bonawitz et al., section 6, honest-but-curious server, for t > c. The adversary may
    choose who is lost.

    *Malicious, complete graph.* The server and up to c clients do anything. Every client's Ed25519 identity is
    registered before the session; advertisements are signed over T0; no share is revealed before t clients have signed
    T1, U2 and U3; 2t > n + c. Bonawitz et al., Figure 4 with the parts that it underlines and section 6, active
    adversaries, in the random oracle model, where HKDF-SHA256 with the masks' cipher stands for the oracle. The
    adversary can end any attempt, and choose U3 among the sets of at least max(t, min_cohort) clients.

    *Honest-but-curious, regular graph.* As the first, with masks and shares among k neighbours in a randomly relabelled
    Harary graph: Bell et al., Section 3, with the criteria of
    :func:`fedpriv.aggregation.secagg.graph.regular_graph`. At most c corrupt and f = ⌈dropout · n⌉ lost clients, both
    independent of the graph, expose nobody but with the probability ``parameters(n).privacy_failure`` ≤ 2^-40; the
    losses end an attempt with ``correctness_failure`` ≤ 2^-20. The graph is drawn from a hash of T0 and U1, once the
    roster is fixed: random to parties that follow the protocol, and no defence against a server that does not.

    Guarantees: that adversary learns no more than the sum of the other clients in U3 (computational). At least
        ``parameters(n).least`` clients are in a sum, 2 of them honest at the least. Each client derives graph and
        threshold from the number of *invited* clients; they never shrink with survivor sets. Messages of another
        session, and envelopes made for another roster, context or configuration, are refused before a masked vector is
        sent.
    Assumes: at most c of the invited are corrupt, fixed before the session; a server that chooses whom to invite, or
        registers clients of its own, must not get past that. Stages are synchronous: who is late is
        lost. Channels between each client and the server are authenticated and confidential: whoever reads all of them
        sees what the server sees, the sum included. X25519 with HKDF-SHA256 is a secure key agreement, HKDF-SHA256 a
        pseudorandom function, AES-256-GCM a secure authenticated encryption, AES-256-CTR (or ChaCha20, where
        ``masks`` says so) a pseudorandom generator; the operating system's generator is good.
        Honest-but-curious: every party follows the protocol. Malicious: identities are registered by a party that is
        not the adversary, and Ed25519 is unforgeable.
    Does not hide: who takes part, who is lost and when; the sum itself, from which much can follow (add differential
        privacy). Attempts are sums of their own: the same vectors, put into two that differ in who survives, give their
        difference. No client is kept from sending a wrong vector: a corrupt client's input changes the sum by any
        vector mod 2^b of its choice, once, and nobody else's share of it. An honest-but-curious mode claims nothing
        against a server that lies about the survivors or substitutes keys.
    Reference: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS,
        Figure 4 and section 6; Bell et al. 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead",
        CCS, Section 3.

    Args:
        adversary: ``"honest-but-curious"`` or ``"malicious"``.
        corrupt: the share of the invited clients that may collude with the server, in [0, 1).
        dropout: the share of the invited clients whose loss an attempt is sure (on a regular graph: almost sure) to
            survive, in [0, 1). On a regular graph no attempt survives more before the upload.
        min_cohort: the fewest clients that a sum may cover, ≥ 2.
        graph: ``"complete"``, ``"regular"`` (honest-but-curious only), or ``"auto"``: regular from 200 invited clients
            on, where its degree is below n / 2; complete otherwise, and always against a malicious server.
        masks: ``"aes-256-ctr"``, or ``"chacha20"`` (RFC 8439) for machines without instructions for AES. All parties
            of a session take the same.

    Raises:
        ConfigurationError: an argument outside its range, or a combination that is not supported.
    """

    adversary: Adversary = "honest-but-curious"
    corrupt: float = 0.1
    dropout: float = 0.1
    min_cohort: int = 3
    graph: Literal["auto", "complete", "regular"] = "auto"
    masks: MaskCipher = "aes-256-ctr"

    def __post_init__(self) -> None:
        if self.adversary == "semi-malicious":
            raise ConfigurationError(
                "The semi-malicious mode of Bell et al. 2020 rests on its step of acknowledged neighbours, "
                "which is not built.",
                value=self.adversary,
                remedy='Use adversary="malicious", which is stronger, or "honest-but-curious".',
            )
        if self.adversary not in ("honest-but-curious", "malicious"):
            raise ConfigurationError(
                "SecureAggregation is secure against an honest-but-curious or a malicious server.",
                value=self.adversary,
                remedy='Use adversary="honest-but-curious" or "malicious".',
            )
        if self.graph not in ("auto", "complete", "regular"):
            raise ConfigurationError(
                'graph is "auto", "complete" or "regular".', value=self.graph, remedy='Use graph="auto".'
            )
        if self.masks not in MASK_CIPHERS:
            raise ConfigurationError(
                'masks is "aes-256-ctr" or "chacha20".', value=self.masks, remedy='Use masks="aes-256-ctr".'
            )
        if self.graph == "regular" and self.adversary == "malicious":
            raise ConfigurationError(
                "On a regular graph the server is honest-but-curious: it could choose a client's neighbours.",
                value=(self.adversary, self.graph),
                remedy='Use graph="complete" against a malicious server.',
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
        masks = "ChaCha20" if self.masks == "chacha20" else "AES-256-CTR"
        trust: tuple[str, ...]
        if self.adversary == "malicious":
            trust = (
                "Clients' Ed25519 identities are registered by a party that is not the adversary.",
                "Whoever invites, no more than the share `corrupt` of a cohort is on the adversary's side.",
                "Channels between each client and the server are authenticated and confidential.",
                f"HKDF-SHA256 with {masks} behaves as a random oracle; X25519, AES-256-GCM and Ed25519 are secure.",
            )
            reference = "Bonawitz et al. 2017, Figure 4 (active adversaries) and section 6"
        else:
            trust = (
                "Server and clients follow the protocol.",
                "Channels between each client and the server are authenticated and confidential.",
                f"X25519 with HKDF-SHA256, AES-256-GCM and {masks} are secure.",
            )
            reference = "Bonawitz et al. 2017, Figure 4 and section 6"
            if self.graph != "complete":
                large = "" if self.graph == "regular" else "With 200 clients or more, by default: "
                trust += (f"{large}Corruption and losses do not depend on the graph of neighbours.",)
                reference += "; regular graph: Bell et al. 2020, Section 3"
        return ThreatModel(
            adversary=self.adversary,
            corrupt=self.corrupt,
            assumptions=trust,
            reference=reference,
            learns={
                SERVER: frozenset({View.COHORT, View.SURVIVORS, View.CIPHERTEXTS, View.EXACT_SUM}),
                CLIENT: frozenset({View.COHORT, View.SURVIVORS}),
            },
            computational=frozenset({SERVER}),
        )

    def parameters(self, participants: int, *, length: int | None = None, input_bound: int = 1) -> Parameters:
        """Graph, degree k, threshold t and what they rest on, for this number of invited clients.

        Args:
            participants: n.
            length: coordinates of a vector; with it, ``costs`` holds bytes and modelled seconds of each stage.
            input_bound: of one coordinate of one vector.

        Raises:
            PlanError: too few clients for the collusion and dropout that the description permits.
        """
        found = parameters(
            participants,
            corrupt=self.corrupt,
            dropout=self.dropout,
            min_cohort=self.min_cohort,
            adversary=self.adversary,
            graph=self.graph,
        )
        if length is None:
            return found
        domain = self.domain(sum_bound=participants * input_bound, length=length, cohort=participants)
        terms = Terms(length=length, input_bound=input_bound, cohort=participants, domain=domain)
        return replace(found, costs=self.estimate(terms, participants))

    def domain(self, *, sum_bound: int, length: int, cohort: int) -> Domain:
        """The smallest ring ℤ mod 2^b that holds the sums.

        Raises:
            EncodingOverflow: the sum does not fit into 62 bits.
        """
        return ring_for(sum_bound)

    def least_contributors(self, cohort: int) -> int:
        """The larger of min_cohort and t (complete graph) or n − f (regular).

        Raises:
            PlanError: see :meth:`parameters`.
        """
        return self.parameters(cohort).least

    def deploy(self, terms: Terms) -> SecureAggregationDeployment:
        """What outlives an attempt: the list of used attempt numbers and, malicious, identities. Other keys are fresh.

        Raises:
            PlanError: terms that are not over a ring, or see :meth:`parameters`.
        """
        return SecureAggregationDeployment(self, terms)

    def estimate(self, terms: Terms, cohort: int) -> tuple[StageCost, ...]:
        """Bytes are exact (openings on a regular graph: their mean); CPU seconds from timing the primitives here.

        ``modelled_seconds`` is the computation of one client or of the server; transfer is the network's to add.
        """
        parameters, signed = self.parameters(cohort), self.adversary == "malicious"
        return estimate(terms, _ring(terms), parameters, signed=signed, masks=self.masks)


class SecureAggregationDeployment:
    """Secure aggregation set up for a run.

    Against a malicious server it is the registry of identities as well: each client's key is made when it is first
    invited, before the session, and every party looks it up here and not with the server.
    """

    def __init__(self, description: SecureAggregation, terms: Terms) -> None:
        description.parameters(terms.cohort)
        self._description = description
        self._terms = terms
        self._ring = _ring(terms)
        self._attempts = Attempts(terms.cohort)
        self._identities: dict[int, signing.SigningKey] = {}

    @property
    def _signed(self) -> bool:
        return self._description.adversary == "malicious"

    @property
    def stages(self) -> tuple[Stage, ...]:
        return m.SIGNED_STAGES if self._signed else m.STAGES

    @property
    def key_bytes(self) -> int:
        """The registered keys of a cohort, where there are identities; every other key is counted in its attempt."""
        return signing.KEY * self._terms.cohort if self._signed else 0

    def round(self, session: Session) -> Mapping[Party, Role]:
        """Fresh roles for one attempt.

        Raises:
            UnexpectedMessage: the attempt was used before.
            CohortTooSmall: too few participants for the collusion and dropout that the description permits.
        """
        self._attempts.open(session)
        agreed = self._agreed(session)
        roles: dict[Party, Role] = {}
        for position, (party, index) in enumerate(zip(session.parties, session.participants, strict=True)):
            if self._signed:
                roles[party] = SignedClient(agreed, position, self._identities[index])
            else:
                roles[party] = Client(agreed, position)
        roles[SERVER] = SignedServer(agreed) if self._signed else Server(agreed)
        return roles

    def contributors(self, session: Session, schedule: Schedule) -> tuple[int, ...]:
        """U3, or the abort of the first stage that too few reach."""
        checked_participants(session, self._terms.cohort)
        agreed = self._agreed(session)
        places = {index: position for position, index in enumerate(session.participants)}

        def acting(stage: str) -> list[int]:
            return [places[index] for index in survivors(session, schedule, self.stages, stage)]

        advertised, shared, uploaded, answered = map(acting, (m.ADVERTISE, m.SHARE, m.MASKED, m.UNMASK))
        agreed.require_cohort(advertised)
        reach = agreed.reach(wire.members(advertised, agreed.invited))
        agreed.require_holders(reach, advertised, advertised)
        for members in (shared, uploaded):
            agreed.require_survivors(members)
            agreed.require_holders(reach, members, members)
        if self._signed:
            agreed.require_threshold(acting(m.CONSISTENCY))
        agreed.require_holders(reach, shared, answered)
        return tuple(session.participants[position] for position in uploaded)

    def _agreed(self, session: Session) -> m.Agreed:
        identities: tuple[bytes, ...] = ()
        if self._signed:
            for index in session.participants:
                if index not in self._identities:
                    self._identities[index] = signing.SigningKey()
            identities = tuple(self._identities[index].public for index in session.participants)
        parameters, masks = self._parameters(session), self._description.masks
        return m.Agreed.on(self._terms, self._ring, parameters, session, identities, masks=masks)

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
