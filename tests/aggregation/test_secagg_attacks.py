"""What an adversary could try within and just beyond the model; each attempt ends with its own typed error.

Messages are changed *and framed anew*, as an adversary who knows the public transcript would, so that the checksum
is no help against it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from fedpriv.aggregation import SecureAggregation, Session, Sum, Terms
from fedpriv.aggregation.secagg import Client, Server, SignedClient, SignedServer
from fedpriv.aggregation.secagg import messages as m
from fedpriv.crypto import agreement, envelope, shamir, signing, wire
from fedpriv.errors import (
    AuthenticationFailed,
    CohortTooSmall,
    ContextMismatch,
    FedprivError,
    InvalidShare,
    MalformedMessage,
    RoundAborted,
    TooFewSurvivors,
    UnexpectedMessage,
)
from fedpriv.network import Message
from fedpriv.threat import SERVER, client

Payload = Callable[[bytes], bytes]

N, LENGTH, BOUND = 6, 5, 100
BITMAP = wire.packed_size(N, 1)
IDENTITIES = [signing.SigningKey() for _ in range(12)]


def agreed_on(
    *,
    n: int = N,
    length: int = LENGTH,
    bound: int = BOUND,
    context: bytes = b"model",
    attempt: int = 0,
    **arguments: Any,
) -> m.Agreed:
    description = SecureAggregation(**arguments)
    domain = description.domain(sum_bound=n * bound, length=length, cohort=n)
    terms = Terms(length=length, input_bound=bound, cohort=n, domain=domain)
    session = Session(round=0, attempt=attempt, participants=tuple(range(n)), context=context)
    identities = tuple(key.public for key in IDENTITIES[:n]) if description.adversary == "malicious" else ()
    return m.Agreed.on(terms, domain, description.parameters(n), session, identities)  # type: ignore[arg-type]


@dataclass
class Attempt:
    """One attempt played by hand; an adversary changes payloads on the way and remembers what was sent."""

    agreed: m.Agreed = field(default_factory=agreed_on)
    lost: Mapping[int, str] = field(default_factory=dict)
    changes: Mapping[tuple[str, str, str], Payload] = field(default_factory=dict)
    value: int = 1
    sent: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        signed = bool(self.agreed.identities)
        self.stages = m.SIGNED_STAGES if signed else m.STAGES
        self.roles: dict[str, Any] = {
            party: SignedClient(self.agreed, i, IDENTITIES[i]) if signed else Client(self.agreed, i)
            for i, party in enumerate(self.agreed.parties)
        }
        self.roles[SERVER] = SignedServer(self.agreed) if signed else Server(self.agreed)

    def play(self) -> Sum:
        silent: set[str] = set()
        for stage in self.stages:
            silent |= {client(i) for i, name in self.lost.items() if name == stage.name}
            for party in [SERVER] if stage.actor == SERVER else self.agreed.parties:
                if party in silent:
                    continue
                role = self.roles[party]
                if stage.name == m.MASKED:
                    role.submit(np.full(self.agreed.terms.length, self.value, dtype=np.int64))
                for message in role.step(stage.name):
                    self.sent.append(message)
                    if message.recipient not in silent:
                        self.roles[message.recipient].receive(self.changed(message))
        return self.roles[SERVER].result()

    def changed(self, message: Message) -> Message:
        change = self.changes.get((message.stage, message.sender, message.recipient))
        if change is None:
            return message
        body = wire.frame(message.body[: wire.TAG], change(message.body[wire.TAG : -wire.DIGEST]))
        return Message(message.sender, message.recipient, message.stage, body)

    def uploaded(self) -> set[str]:
        return {message.sender for message in self.sent if message.stage == m.MASKED}


def attacked(stage: str, sender: str, recipient: str, change: Payload, **arguments: Any) -> Attempt:
    return Attempt(changes={(stage, sender, recipient): change}, **arguments)


def flipped(place: int) -> Payload:
    return lambda payload: payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]


def replaced(start: int, new: bytes) -> Payload:
    return lambda payload: payload[:start] + new + payload[start + len(new) :]


def always(payload: bytes) -> Payload:
    return lambda _: payload


MODES: dict[str, dict[str, Any]] = {
    "complete": {"n": 6},
    "malicious": {"n": 6, "adversary": "malicious"},
    "regular": {"n": 12, "graph": "regular", "corrupt": 0.0, "dropout": 0.1},
}


@pytest.mark.parametrize("stage", [m.ADVERTISE, m.SHARE, m.MASKED, m.CONSISTENCY, m.UNMASK])
@pytest.mark.parametrize("mode", MODES)
def test_an_attempt_that_nobody_attacks(mode: str, stage: str) -> None:
    """Also with a client that is missing before share-keys: it is in no list, and nobody waits for it."""
    agreed = agreed_on(**MODES[mode])
    everybody = range(agreed.invited)
    after = stage in (m.UNMASK, m.CONSISTENCY)
    result = Attempt(lost={2: stage}, agreed=agreed).play()
    there = tuple(everybody) if after or stage not in {s.name for s in m.SIGNED_STAGES} else tuple({*everybody} - {2})
    assert result.contributors == there
    assert result.total.tolist() == [len(there)] * LENGTH


class Overlooking(Client):
    """The weakened variant: it takes everybody of U1 to have shared keys, and masks with them."""

    def _collect(self, payload: memoryview) -> None:
        super()._collect(payload)
        self._sharers = self._roster.members


def test_a_client_missing_before_share_keys_ruins_the_sum_of_a_variant_that_overlooks_it() -> None:
    attempt = Attempt(lost={2: m.SHARE}, agreed=agreed_on(length=64))
    attempt.roles |= {party: Overlooking(attempt.agreed, i) for i, party in enumerate(attempt.agreed.parties)}
    assert attempt.play().total.tolist() != [N - 1] * 64


# --- shares and envelopes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", range(N))
def test_a_changed_share_opens_nothing(member: int) -> None:
    """Of a seed (the living) or of a mask key (client 2 is lost), by a client among the first t that answer."""
    change = flipped(member * m.SHARE_BYTES)
    with pytest.raises(InvalidShare):
        attacked(m.UNMASK, client(0), SERVER, change, lost={2: m.MASKED}).play()


@pytest.mark.parametrize("sender", [0, 5])
def test_a_share_outside_the_field_is_malformed(sender: int) -> None:
    """Also where it is not needed: of six answers the first four open the secrets."""
    outside = shamir.pack(np.full((1, m.LIMBS), 131071)).tobytes()
    with pytest.raises(MalformedMessage):
        attacked(m.UNMASK, client(sender), SERVER, replaced(0, outside)).play()


def test_shares_of_the_wrong_kind_open_nothing() -> None:
    """A client that answers for the dead as for the living gives shares of another secret."""
    attempt = Attempt(lost={2: m.MASKED})
    liar = attempt.roles[client(0)]
    liar._mourn = lambda payload: None  # never hears who is dead
    with pytest.raises(InvalidShare):
        attempt.play()
    server = attempt.roles[SERVER]
    assert not server._answers  # an honest server keeps no shares, and no vector that is unmasked in part
    assert not server._vector.size


@pytest.mark.parametrize("place", [agreement.KEY, agreement.KEY + 20, agreement.KEY + m.ENVELOPE - 1])
def test_a_changed_envelope_is_not_opened(place: int) -> None:
    attempt = attacked(m.SHARE, client(0), SERVER, flipped(place))
    with pytest.raises(AuthenticationFailed):
        attempt.play()
    assert client(1) not in attempt.uploaded()


def test_a_sealed_share_outside_the_field_is_refused_by_its_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that handed it on would be taken for the one that made it; so it sends nothing."""
    attempt, seal = Attempt(), envelope.seal
    liar = attempt.roles[client(1)]
    share: Callable[[], list[Message]] = liar._share

    def lie() -> list[Message]:
        with monkeypatch.context() as patch:
            patch.setattr(envelope, "seal", lambda key, plain, context: seal(key, b"\xff" * len(plain), context))
            return share()

    liar.follow(*(replace(turn, do=lie) if turn.stage == m.SHARE else turn for turn in liar._script))
    with pytest.raises(MalformedMessage):
        attempt.play()
    assert not attempt.uploaded()


def test_exchanged_envelopes_are_not_opened() -> None:
    """The server delivers to client 0 another member's envelope in the place of the right one."""
    first, second = slice(BITMAP, BITMAP + m.ENVELOPE), slice(BITMAP + m.ENVELOPE, BITMAP + 2 * m.ENVELOPE)
    exchange = lambda payload: payload[:BITMAP] + payload[second] + payload[first] + payload[second.stop :]  # noqa: E731
    attempt = attacked(m.ROUTE, SERVER, client(0), exchange)
    with pytest.raises(AuthenticationFailed):
        attempt.play()
    assert not attempt.uploaded()


def test_a_changed_commitment_is_noticed() -> None:
    with pytest.raises(InvalidShare):
        attacked(m.SHARE, client(0), SERVER, flipped(0)).play()


# --- rosters and contexts ---------------------------------------------------------------------------------------------


def test_a_client_whose_key_was_exchanged_notices_it() -> None:
    with pytest.raises(ContextMismatch):
        attacked(m.ADVERTISE, client(3), SERVER, replaced(0, agreement.KeyPair().public)).play()


def test_a_client_that_was_shown_another_roster_uploads_nothing() -> None:
    """Only client 0 sees another mask key for client 3; every envelope between it and the others is bound to T1."""
    place = BITMAP + 3 * m.KEYS + agreement.KEY
    attempt = attacked(m.ROSTER, SERVER, client(0), replaced(place, agreement.KeyPair().public))
    with pytest.raises(AuthenticationFailed):
        attempt.play()
    assert not attempt.uploaded()


@pytest.mark.parametrize("half", [0, agreement.KEY])
def test_a_roster_that_names_a_key_twice_is_refused(half: int) -> None:
    """Figure 4, round 1: all public keys are different."""

    def twice(payload: bytes) -> bytes:
        one, other = BITMAP + 4 * m.KEYS + half, BITMAP + 3 * m.KEYS
        return replaced(one, payload[other : other + agreement.KEY])(payload)

    with pytest.raises(MalformedMessage, match="different"):
        attacked(m.ROSTER, SERVER, client(0), twice).play()


@pytest.mark.parametrize("half", [0, agreement.KEY])
def test_a_key_in_another_encoding_is_refused(half: int) -> None:
    """X25519 ignores the top bit, so that one client's key could pass as a different one of another's."""

    def twin(payload: bytes) -> bytes:
        key = payload[BITMAP + 3 * m.KEYS :][: agreement.KEY]
        return replaced(BITMAP + 4 * m.KEYS + half, key[:-1] + bytes([key[-1] | 0x80]))(payload)

    with pytest.raises(MalformedMessage, match="different"):
        attacked(m.ROSTER, SERVER, client(0), twin).play()


def test_a_key_of_small_order_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        attacked(m.ROSTER, SERVER, client(0), replaced(BITMAP + 3 * m.KEYS, bytes(agreement.KEY))).play()


def test_a_roster_without_oneself_is_refused() -> None:
    without = lambda payload: wire.members([1, 2, 3, 4, 5], N) + payload[BITMAP + m.KEYS :]  # noqa: E731
    with pytest.raises(ContextMismatch):
        attacked(m.ROSTER, SERVER, client(0), without).play()


def test_routed_shares_without_oneself_are_refused() -> None:
    others = lambda payload: wire.members([1, 2, 3, 4, 5], N) + payload[BITMAP:]  # noqa: E731
    with pytest.raises(UnexpectedMessage):
        attacked(m.ROUTE, SERVER, client(0), others).play()


def test_the_threshold_is_the_clients_own() -> None:
    """n = 6, c = f = 1: t = 4. A server that shows a roster of 3, or drops half of it later, gets nothing."""
    assert agreed_on().parameters.threshold == 4
    few = lambda payload: wire.members([0, 1, 2], N) + payload[BITMAP : BITMAP + 3 * m.KEYS]  # noqa: E731
    with pytest.raises(TooFewSurvivors):
        attacked(m.ROSTER, SERVER, client(0), few).play()
    fewer = lambda payload: wire.members([0, 1, 2], N) + payload[BITMAP : BITMAP + 2 * m.ENVELOPE]  # noqa: E731
    attempt = attacked(m.ROUTE, SERVER, client(0), fewer)
    with pytest.raises(TooFewSurvivors):
        attempt.play()
    assert not attempt.uploaded()


def test_the_least_cohort_is_the_clients_own() -> None:
    agreed = agreed_on(n=10, min_cohort=9)
    size = wire.packed_size(10, 1)
    few = lambda payload: wire.members(range(8), 10) + payload[size : size + 8 * m.KEYS]  # noqa: E731
    with pytest.raises(CohortTooSmall):
        attacked(m.ROSTER, SERVER, client(0), few, agreed=agreed).play()


class TwoFaced(Server):
    """Speaks to one client as if it had been sent the same model as the others: tags are made for each side."""

    misled: str
    transcript: bytes

    def _tag(self, stage: str, sender: str, recipient: str) -> bytes:
        honest = self._transcript
        if self.misled in (sender, recipient):
            self._transcript = self.transcript
        try:
            return super()._tag(stage, sender, recipient)
        finally:
            self._transcript = honest


def test_an_inconsistent_model_gets_no_masked_vector() -> None:
    """Pasquini et al. 2022: a server sends one client another model, and relays everything without a fault."""
    here, there = agreed_on(), agreed_on(context=b"another model")
    attempt = Attempt(agreed=here)
    attempt.roles[client(0)] = Client(there, 0)
    with pytest.raises(ContextMismatch):  # an honest relay notices at the first message
        attempt.play()
    attempt = Attempt(agreed=here)
    attempt.roles[client(0)] = Client(there, 0)
    relay = TwoFaced(here)
    relay.misled, relay.transcript = client(0), there.transcript
    attempt.roles[SERVER] = relay
    with pytest.raises(AuthenticationFailed):  # a lying relay does not help: envelopes are bound to T0
        attempt.play()
    assert not attempt.uploaded()


def test_an_inconsistent_model_goes_unnoticed_without_a_context() -> None:
    """The weakened variant: T0 leaves the context out, and the sum of updates of two models comes out."""
    here, there = agreed_on(), agreed_on(context=b"another model")
    attempt = Attempt(agreed=here)
    attempt.roles[client(0)] = Client(replace(there, transcript=here.transcript), 0)
    assert attempt.play().total.tolist() == [N] * LENGTH


class Reusing(Client):
    """The weakened variant: keys and seed are the client's for good, and masks are bound to no session."""

    def _advertise(self) -> list[Message]:
        super()._advertise()
        self._envelope_key, self._mask_key = (agreement.KeyPair(bytes([i, self._position]) * 16) for i in (1, 2))
        self._seed = bytes([3, self._position]) * 16
        self._advertised = self._envelope_key.public + self._mask_key.public
        return [self.send(SERVER, m.ADVERTISE, self._advertised)]

    def _meet(self, payload: memoryview) -> None:
        super()._meet(payload)
        if self.unbound:
            self._roster = replace(self._roster, transcript=bytes(32))

    unbound = True


class Bound(Reusing):
    """Keys are reused, but masks are derived from T1, as they are."""

    unbound = False


@pytest.mark.parametrize(("role", "repeats"), [(Reusing, True), (Bound, False), (Client, False)])
def test_masks_used_twice_give_the_difference_of_inputs(role: type[Client], repeats: bool) -> None:
    """Across attempts (another T0) with other inputs: y − y' = x − x' mod 2^b where masks repeat."""
    vectors = []
    for number in (0, 1):
        attempt = Attempt(agreed=agreed_on(attempt=number, length=64), value=10 * number)
        attempt.roles |= {party: role(attempt.agreed, i) for i, party in enumerate(attempt.agreed.parties)}
        with contextlib.suppress(InvalidShare):  # commitments of the weakened variant are bound to no session either
            attempt.play()
        vectors.append(uploads(attempt))
    modulus = 2**attempt.agreed.ring.bits
    differences = [(second.astype(int) - first) % modulus for first, second in zip(*vectors, strict=True)]
    assert [bool((difference == 10).all()) for difference in differences] == [repeats] * N


# --- the dead ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dead", "error"),
    [
        ([0], UnexpectedMessage),  # the client itself
        ([1, 2, 3], TooFewSurvivors),  # fewer than the threshold alive
        ([5], UnexpectedMessage),  # client 5 never shared its keys: not in U2
    ],
)
def test_dead_lists_that_no_honest_server_sends(dead: list[int], error: type[FedprivError]) -> None:
    with pytest.raises(error):
        attacked(m.SURVIVORS, SERVER, client(0), always(wire.members(dead, N)), lost={5: m.SHARE}).play()


def test_nobody_is_asked_for_both_secrets_of_a_client() -> None:
    """The server names the dead only, once; who is not among them is alive."""
    attempt = Attempt()
    attempt.play()
    role = attempt.roles[client(0)]
    (old,) = [message for message in attempt.sent if message.recipient == client(0) and message.stage == m.SURVIVORS]
    with pytest.raises(UnexpectedMessage):
        role.receive(old)
    with pytest.raises(UnexpectedMessage):
        role.step(m.UNMASK)
    answers = [message for message in attempt.sent if message.stage == m.UNMASK]
    assert {len(message.body) for message in answers} == {wire.FRAME + N * m.SHARE_BYTES}


def test_a_client_that_left_does_not_come_back() -> None:
    attempt = Attempt(lost={5: m.SHARE})
    late: list[Message] = []

    def come_back(payload: bytes) -> bytes:
        if not late:
            role = attempt.roles[SERVER]
            absent = Client(attempt.agreed, 5)
            late.append(absent.send(SERVER, m.MASKED, bytes(attempt.agreed.vector_bytes)))
            role.receive(late[0])
        return payload

    attempt.changes = {(m.MASKED, client(0), SERVER): come_back}
    with pytest.raises(UnexpectedMessage):
        attempt.play()


def test_an_input_out_of_range_moves_the_sum_by_itself_only() -> None:
    """A malicious client is not kept from it: the sum is then its vector plus the others', mod 2^b."""
    attempt = Attempt()
    attempt.roles[client(0)]._input.put = lambda vector: None
    attempt.roles[client(0)]._input.take = lambda: np.full(LENGTH, 10**6)
    bits = attempt.agreed.ring.bits
    expected = (10**6 + N - 1 + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    assert attempt.play().total.tolist() == [expected] * LENGTH


# --- masks ------------------------------------------------------------------------------------------------------------


def masked(attempt: Attempt) -> list[np.ndarray]:
    attempt.play()
    return uploads(attempt)


def uploads(attempt: Attempt) -> list[np.ndarray]:
    agreed = attempt.agreed
    return [
        wire.unpack_bits(message.body[wire.TAG : -wire.DIGEST], agreed.terms.length, agreed.ring.bits, agreed.word)
        for message in attempt.sent
        if message.stage == m.MASKED
    ]


def looks_uniform(values: np.ndarray, bits: int) -> bool:
    """χ² over every element of the ring, at α = 1e-6."""
    counts = np.bincount(values.astype(np.int64), minlength=2**bits)
    expected = len(values) / 2**bits
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return len(counts) == 2**bits and statistic < chi2.isf(1e-6, 2**bits - 1)


@pytest.mark.statistical
@pytest.mark.parametrize(("bound", "bits"), [(1, 4), (1000, 14)])
def test_masked_vectors_are_uniform_over_the_whole_ring(bound: int, bits: int) -> None:
    """Of constant inputs: every element is equally likely, the top one included. n = 400,000 values a vector.

    The masks come from the operating system's generator, so no seed is fixed: it fails by chance once in 10^6 vectors.
    """
    length = 400_000
    agreed = agreed_on(n=5, length=length, bound=bound)
    assert agreed.ring.bits == bits
    vectors = masked(Attempt(agreed=agreed))
    for vector in vectors:
        assert looks_uniform(vector, bits)
        assert vector.max() == 2**bits - 1
    again = masked(Attempt(agreed=agreed_on(n=5, length=length, bound=bound, attempt=1)))
    for one, other in zip(vectors, again, strict=True):  # fresh in each attempt: the difference is uniform, too
        assert looks_uniform((one - other) & ((1 << bits) - 1), bits)
    assert looks_uniform((vectors[0] - vectors[1]) & ((1 << bits) - 1), bits)
    # Power: a mask that never draws the top value (Flower's randint(0, mod − 1)) and a reused one are told apart.
    rng = np.random.default_rng(0)
    assert looks_uniform(rng.integers(0, 2**bits, length), bits)
    if bits == 4:
        assert not looks_uniform(rng.integers(0, 2**bits - 1, length), bits)
    assert not looks_uniform(vectors[0] - vectors[0], bits)


def test_masks_differ_between_attempts_contexts_and_clients() -> None:
    seen: set[bytes] = set()
    for attempt in (0, 1, 2):
        for context in (b"model", b"other"):
            for vector in masked(Attempt(agreed=agreed_on(attempt=attempt, context=context, length=40))):
                seen.add(vector.tobytes())
    assert len(seen) == 3 * 2 * N


def test_a_mask_key_belongs_to_one_pair_ring_length_and_session() -> None:
    """The same shared secret gives other keys wherever anything differs, and the same one for either of the pair."""
    secret, keys = bytes(32), set()
    for agreed in (agreed_on(), agreed_on(length=LENGTH + 1), agreed_on(bound=10 * BOUND), agreed_on(attempt=1)):
        advertised = {i: bytes([i]) * m.KEYS for i in range(N)}
        roster = m.FullRoster.of(agreed, advertised)
        assert roster.pairwise_mask(agreed, 1, 2, secret) == roster.pairwise_mask(agreed, 2, 1, secret)
        keys |= {roster.pairwise_mask(agreed, 1, other, secret) for other in (2, 3)}
        keys |= {roster.self_mask(agreed, 1, secret), roster.commitment(1, secret)}
    assert len(keys) == 4 * 4
    for other in (agreed_on(length=LENGTH + 1), agreed_on(bound=10 * BOUND)):  # ring and length also by themselves
        keys |= {roster.pairwise_mask(other, 1, 2, secret), roster.self_mask(other, 1, secret)}
    assert len(keys) == 4 * 4 + 4


# --- decoders ---------------------------------------------------------------------------------------------------------

CHANNELS = [
    (m.ADVERTISE, client(0), SERVER),
    (m.ROSTER, SERVER, client(0)),
    (m.SHARE, client(0), SERVER),
    (m.ROUTE, SERVER, client(0)),
    (m.MASKED, client(0), SERVER),
    (m.SURVIVORS, SERVER, client(0)),
    (m.CONSISTENCY, client(0), SERVER),
    (m.SIGNATURES, SERVER, client(0)),
    (m.UNMASK, client(0), SERVER),
]


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=100)
@given(st.sampled_from(CHANNELS), st.data())
def test_decoders_survive_any_payload(mode: str, channel: tuple[str, str, str], data: st.DataObject) -> None:
    """A soundly framed payload of any bytes ends the attempt with an abort, or is a message like any other."""

    def change(payload: bytes) -> bytes:
        how = data.draw(st.sampled_from(["any", "cut", "longer", "spliced"]))
        if how == "any":
            return data.draw(st.binary(max_size=300))
        if how == "cut":
            return payload[: data.draw(st.integers(0, len(payload)))]
        if how == "longer":
            return payload + data.draw(st.binary(min_size=1, max_size=100))
        start = data.draw(st.integers(0, len(payload) - 1))
        new = data.draw(st.binary(min_size=1, max_size=40))
        return replaced(start, new)(payload)[: len(payload)]

    with contextlib.suppress(RoundAborted):
        Attempt(changes={channel: change}, lost={4: m.MASKED}, agreed=agreed_on(**MODES[mode])).play()
