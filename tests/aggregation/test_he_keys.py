"""Key models: what each states, what each refuses as an argument, and that all pass the conformance suite."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from he_keys import deployed, handed_on, hear, session_of, vectors_of

from fedpriv.aggregation import PlainSum, SecureAggregation, conformance
from fedpriv.aggregation.homomorphic.bfv import BFV
from fedpriv.aggregation.homomorphic.ckks import CKKS
from fedpriv.aggregation.homomorphic.deployment import COMMON_SECRET
from fedpriv.aggregation.homomorphic.keys import KeyAuthority, KeyModel, SharedClientKey, check_keys
from fedpriv.aggregation.homomorphic.paillier import Paillier
from fedpriv.aggregation.performance import perform
from fedpriv.errors import ConfigurationError, PlanError, TooFewSurvivors, UnexpectedMessage
from fedpriv.network import Message, Network, Wire
from fedpriv.threat import AUTHORITY, CLIENT, PUBLIC, SERVER, Coalition, View, client

TRUSTED_SERVER, TRUSTED_AUTHORITY = KeyAuthority(), KeyAuthority(additions="trusted-authority")
SHARED = SharedClientKey()
MODELS: dict[str, KeyModel] = {"server adds": TRUSTED_SERVER, "authority adds": TRUSTED_AUTHORITY, "shared": SHARED}
every = pytest.mark.parametrize("keys", MODELS.values(), ids=MODELS)

BENCHES = (
    {
        f"{scheme.__name__}, {name}": conformance.Bench(aggregator=scheme(keys=keys), bytes_tolerance=0.02)
        for scheme in (CKKS, BFV)
        for name, keys in MODELS.items()
        if scheme is BFV or keys != TRUSTED_SERVER  # test_homomorphic.py has the others
    }
    | {
        f"Paillier, {name}": conformance.Bench(
            aggregator=Paillier(keys=keys, key_bits=2048), cohorts=(3, 5), lengths=(1, 130), flips=4
        )
        for name, keys in list(MODELS.items())[1:]
    }
)


@pytest.mark.conformance
@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("bench", BENCHES)
def test_conformance(bench: str, check: conformance.Check) -> None:
    check(BENCHES[bench])


# --- what each states -----------------------------------------------------------------------------------------------


def test_who_holds_adds_decrypts() -> None:
    said = {name: (keys.clients_hold_secret, keys.adder, keys.decryptor, keys.signed) for name, keys in MODELS.items()}
    assert said == {
        "server adds": (False, SERVER, AUTHORITY, False),
        "authority adds": (False, AUTHORITY, AUTHORITY, True),
        "shared": (True, SERVER, CLIENT, False),
    }


def test_an_authority_that_adds_is_trusted_with_the_updates() -> None:
    model = TRUSTED_AUTHORITY.threat_model(assumptions=("DCR",), reference="Paillier 1999")
    assert {View.UPDATES, View.EXACT_SUM} <= model.sees("authority")
    assert View.UPDATES not in TRUSTED_SERVER.threat_model(assumptions=(), reference="").sees("authority")
    assert model.sees("server") == {View.COHORT, View.SURVIVORS, View.CIPHERTEXTS}
    assert model.adversary == "malicious"
    assert View.UPDATES in model.sees(Coalition(server=True, clients=0.01)), "no claim where clients lie as well"
    assert any("trusted with each update" in assumption for assumption in model.assumptions)
    assert not any("adds honestly" in assumption for assumption in model.assumptions)
    assert "DCR" in model.assumptions


@pytest.mark.parametrize("told", [False, True])
def test_a_shared_key_opens_everything_to_the_server_and_one_client(told: bool) -> None:
    model = SharedClientKey(tell_server=told).threat_model(assumptions=(), reference="")
    assert model.releaser == CLIENT
    assert model.sees("server") == {View.COHORT, View.SURVIVORS, View.CIPHERTEXTS}
    assert SERVER in model.computational
    assert View.EXACT_SUM in model.sees("participant")
    assert View.COHORT in model.sees("participant"), "each checks that only participants are in an aggregate"
    assert View.UPDATES not in model.sees("participant")
    assert View.UPDATES in model.sees(Coalition(server=True, clients=0.001))
    assert model.corrupt == 0.0
    assert model.informed == (frozenset({SERVER, CLIENT, PUBLIC}) if told else frozenset({CLIENT}))
    assert any("tells the server" in assumption for assumption in model.assumptions) == told


@pytest.mark.parametrize("aggregator", [PlainSum(), SecureAggregation(), Paillier()])
def test_elsewhere_everybody_is_told(aggregator: Any) -> None:
    assert aggregator.threat_model.informed == {SERVER, CLIENT, PUBLIC}


@every
def test_a_minimum_is_kept(keys: KeyModel) -> None:
    assert keys.least_contributors(3) == 3
    with pytest.raises(PlanError):
        keys.least_contributors(2)


@pytest.mark.parametrize("model", [KeyAuthority, SharedClientKey])
@pytest.mark.parametrize("least", [0, -1, 2.5, True, "3"])
def test_a_minimum_is_a_positive_integer(model: Any, least: object) -> None:
    with pytest.raises(ConfigurationError):
        model(min_contributors=least)


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        (KeyAuthority, {"additions": "nobody"}),
        (KeyAuthority, {"additions": True}),
        (SharedClientKey, {"tell_server": 1}),
    ],
)
def test_other_arguments_are_refused(model: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        model(**arguments)


@pytest.mark.parametrize("keys", [None, KeyAuthority, SharedClientKey, "authority", object()])
def test_what_is_no_key_model_is_refused(keys: object) -> None:
    with pytest.raises(ConfigurationError):
        check_keys(keys)


# --- what is the same under each ------------------------------------------------------------------------------------


@every
def test_a_round(keys: KeyModel) -> None:
    deployment, session = deployed(keys), session_of()
    vectors = vectors_of(session)
    total = perform(deployment, session, Wire(Network()), lambda here: [(p, vectors[p]) for p in here], keys.decryptor)
    assert np.array_equal(total.total, [7, 7, 7])
    assert total.contributors == (0, 1, 2)
    assert deployment.decryptions == 1


@every
def test_ideal_and_real_abort_alike_where_nobody_is_left_to_decrypt(keys: KeyModel) -> None:
    deployment, session = deployed(keys), session_of()
    vectors, schedule = vectors_of(session), dict.fromkeys(session.parties, "decrypt")
    if keys.decryptor != CLIENT:
        assert deployment.contributors(session, schedule) == session.participants
        return
    with pytest.raises(TooFewSurvivors):
        deployment.contributors(session, schedule)
    with pytest.raises(TooFewSurvivors):
        perform(
            deployment,
            session,
            Wire(Network(), schedule=schedule),
            lambda here: [(p, vectors[p]) for p in here],
            keys.decryptor,
        )
    one_left = dict.fromkeys(session.parties[1:], "decrypt")
    assert deployment.contributors(session, one_left) == session.participants


@every
def test_a_fresh_client_role_moves_to_another_process(keys: KeyModel) -> None:
    """And not once it was given its input, or has acted."""
    deployment, session = deployed(keys), session_of()
    roles: dict[str, Any] = dict(deployment.round(session))
    moved = {party: pickle.loads(pickle.dumps(roles[party])) for party in session.parties}
    sent = handed_on(roles | moved, session)
    holder = moved[client(0)] if keys.decryptor == CLIENT else roles[AUTHORITY]
    hear(holder, [message for message in sent if message.recipient == holder.party])
    holder.step("decrypt")
    assert np.array_equal(holder.result().total, [7, 7, 7])
    for used in (moved[client(0)], moved[client(1)]):
        with pytest.raises(TypeError, match="begun"):
            pickle.dumps(used)
    given, spoken_to = (deployment.round(session_of(round=round))[client(0)] for round in (1, 2))
    given.submit(np.zeros(3, dtype=np.int64))  # type: ignore[attr-defined]
    with pytest.raises(UnexpectedMessage):
        spoken_to.receive(Message(SERVER, client(0), "add", b""))
    for used in (given, spoken_to):
        with pytest.raises(TypeError, match="begun"):
            pickle.dumps(used)


@every
def test_what_a_client_is_sent_once(keys: KeyModel) -> None:
    """The key; where the server must not see what clients share, another secret as well."""
    deployment = deployed(keys)
    extra = COMMON_SECRET if keys.clients_hold_secret else 0
    assert deployment.key_bytes - extra == 2048 // 8


@every
def test_reprs_show_no_secret(keys: KeyModel) -> None:
    roles: dict[str, Any] = dict(deployed(keys).round(session_of()))
    roles[client(0)].submit(np.full(3, 777))
    for role in roles.values():
        assert len(repr(role)) < 100
        assert "777" not in repr(role)
