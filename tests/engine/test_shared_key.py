"""Runs whose server never sees a model: clients decrypt, and make the steps themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fedpriv as fp
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.engine.delivery import Delivery, Sent
from fedpriv.engine.explain import planned_epsilon
from fedpriv.errors import DecryptionFailed, PlanError
from fedpriv.network import Network
from fedpriv.privacy.ledger import Ledger
from fedpriv.threat import CLIENT, PUBLIC, SERVER, Coalition, View

Make = Callable[..., fp.Plan]
NOISE = fp.CentralGaussian(clip_norm=1.0, noise_multiplier=0.5, bits=14)
MECHANISMS = {"without noise": fp.NoDP(bits=14), "central noise": NOISE}
SHARED, TOLD = fp.SharedClientKey(), fp.SharedClientKey(tell_server=True)
KEYS = {
    "authority": fp.KeyAuthority(),
    "adding authority": fp.KeyAuthority(additions="trusted-authority"),
    "shared": SHARED,
    "shared, told": TOLD,
}
NETWORK = Network(dropout={"setup": 0.1, "upload": 0.1, "recovery": 0.2})
DELTA = 1e-3


def execute(federation: Any, plan: Any, seed: int = 5, **options: Any) -> fp.Run:
    return fp.run(federation, plan, seed=seed, progress=False, **options)


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("scheme", ["CKKS", "BFV"])
def test_the_model_is_that_of_plain_averaging(scheme: str, mechanism: str, federation: Any, planned: Make) -> None:
    """Bit by bit, under every key model, with clients lost anywhere, in real and in ideal runs."""
    plan = planned(mechanism=MECHANISMS[mechanism], network=NETWORK, rounds=3)
    plain = execute(federation, plan)
    assert len({record.sha256 for record in plain.records}) > 1
    assert any(len(record.contributors) < len(federation) for record in plain.records)
    for keys in KEYS.values():
        protected = replace(plan, aggregation=getattr(fp, scheme)(keys=keys)).resolve(federation)
        for ideal in (False, True):
            run = execute(federation, protected, ideal=ideal)
            assert [r.sha256 for r in run.records] == [r.sha256 for r in plain.records]
            assert [r.contributors for r in run.records] == [r.contributors for r in plain.records]


def test_under_paillier_too(federation: Any, planned: Make) -> None:
    plan = planned(rounds=1)
    plain = execute(federation, plan).sha256
    for keys in (KEYS["adding authority"], SHARED):
        protected = replace(plan, aggregation=fp.Paillier(keys=keys, key_bits=2048))
        assert execute(federation, protected).sha256 == plain


def test_a_round_without_a_client_to_decrypt_is_aborted(federation: Any, planned: Make) -> None:
    plan = planned(aggregation=fp.BFV(keys=SHARED), network=Network(dropout={"recovery": 1.0}))
    for ideal in (False, True):
        run = execute(federation, plan, ideal=ideal)
        assert run.frame["aborted"].tolist() == ["TooFewSurvivors"] * 2


def test_clients_in_other_processes_give_the_same(federation: Any, planned: Make) -> None:
    plan = planned(aggregation=fp.BFV(keys=SHARED)).resolve(federation)
    assert execute(federation, plan, executor=fp.Processes(2)).sha256 == execute(federation, plan).sha256


def test_a_failed_decryption_ends_the_run(federation: Any, planned: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no round among others: every further answer would tell more of the key."""
    made: list[HomomorphicDeployment] = []
    deploy = fp.BFV.deploy

    def with_another_key(self: fp.BFV, terms: Any) -> HomomorphicDeployment:
        deployment, other = deploy(self, terms), deploy(self, terms)
        deployment._decryptor = other._decryptor
        made.append(deployment)
        return deployment

    monkeypatch.setattr(fp.BFV, "deploy", with_another_key)
    with pytest.raises(DecryptionFailed) as failure:
        execute(federation, planned(aggregation=fp.BFV(keys=SHARED)))
    assert any("In round 1" in note for note in failure.value.__notes__)
    assert made[0].decryptions == 1


def test_a_private_mean_that_the_server_does_not_see() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 40))
    plain, shared = (
        fp.private_mean(vectors, aggregation=aggregation, seed=1)
        for aggregation in (fp.PlainSum(), fp.CKKS(keys=SHARED))
    )
    assert np.array_equal(plain.mean, shared.mean)
    assert shared.ledger.epsilon(DELTA, observer="server") == 0.0


# --- who learns what ------------------------------------------------------------------------------------------------


def threat_of(plan: fp.Plan, federation: Any) -> Any:
    return plan.resolve(federation).threat


def test_the_server_sees_ciphertexts_alone(federation: Any, planned: Make) -> None:
    threat = threat_of(planned(aggregation=fp.BFV(keys=SHARED), mechanism=NOISE), federation)
    assert threat.sees("server") == {View.COHORT, View.SURVIVORS, View.CIPHERTEXTS}
    assert threat.sees("public") == frozenset()
    assert {View.EXACT_SUM, View.ROUND_MODELS, View.FINAL_MODEL} <= threat.sees("participant")
    assert View.UPDATES in threat.sees(Coalition(server=True, clients=0.1))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_server_that_is_told_sees_what_is_released(mechanism: str, federation: Any, planned: Make) -> None:
    threat = threat_of(planned(aggregation=fp.BFV(keys=TOLD), mechanism=MECHANISMS[mechanism]), federation)
    released = View.EXACT_SUM if mechanism == "without noise" else View.NOISY_SUM
    assert threat.sees("server") == {
        *(View.COHORT, View.SURVIVORS, View.CIPHERTEXTS),
        *(View.ROUND_MODELS, View.FINAL_MODEL, released),
    }
    assert threat.sees("public") == {View.FINAL_MODEL}


def test_central_noise_protects_those_who_do_not_draw_it(federation: Any, planned: Make) -> None:
    for keys in (SHARED, TOLD):
        run = execute(federation, planned(aggregation=fp.BFV(keys=keys), mechanism=NOISE))
        client = run.ledger.statement(DELTA, observer="participant")
        assert math.isinf(client.epsilon)
        assert "not the clients, who draw it" in str(client)
        assert math.isinf(run.ledger.epsilon(DELTA, observer=Coalition(server=True, clients=0.1)))
        server = run.ledger.statement(DELTA, observer="server")
        public = run.ledger.statement(DELTA, observer="public")
        assert server.computational
        if keys is SHARED:
            assert (server.epsilon, public.epsilon) == (0.0, 0.0)
            assert "only ciphertexts" in server.reason
            assert "if the cryptography holds" in str(server)
        else:
            assert 0 < server.epsilon < math.inf
            assert 0 < public.epsilon < math.inf
        assert Ledger.from_json(run.ledger.to_json()).threat == run.ledger.threat


def test_without_noise_the_server_that_is_not_told_learns_nothing_still(federation: Any, planned: Make) -> None:
    silent = execute(federation, planned(aggregation=fp.BFV(keys=SHARED))).ledger
    told = execute(federation, planned(aggregation=fp.BFV(keys=TOLD))).ledger
    assert silent.epsilon(DELTA, observer="server") == 0.0
    assert math.isinf(told.epsilon(DELTA, observer="server"))
    assert math.isinf(silent.epsilon(DELTA, observer="participant"))


def test_ledgers_of_the_first_version_are_read(federation: Any, planned: Make) -> None:
    """They did not say who was told: everybody was."""
    ledger = execute(federation, planned(mechanism=NOISE)).ledger
    text = ledger.to_json().replace('"informed": ["client", "public", "server"], ', "")
    assert "informed" not in text
    assert Ledger.from_json(text).threat.informed == {SERVER, CLIENT, PUBLIC}


def test_budgets_name_somebody_who_sees_a_release(federation: Any, planned: Make) -> None:
    target = fp.Budget(epsilon=2.0, delta=DELTA, observer="server")
    mechanism = fp.CentralGaussian(clip_norm=1.0, target=target, bits=14)
    told = planned(aggregation=fp.BFV(keys=TOLD), mechanism=mechanism).resolve(federation)
    assert planned_epsilon(told, DELTA, "server") == pytest.approx(2.0, rel=1e-2)
    for observer in ("server", "public"):
        unseen = replace(mechanism, target=replace(target, observer=observer))
        with pytest.raises(PlanError, match=rf"against the {observer} any noise gives .* tell_server=True"):
            planned(aggregation=fp.BFV(keys=SHARED), mechanism=unseen).resolve(federation)


def test_what_is_said_before_the_run(federation: Any, planned: Make) -> None:
    text = " ".join(planned(aggregation=fp.BFV(keys=SHARED), mechanism=NOISE).resolve(federation).explain().split())
    assert "each client holds the sum" in text
    assert "after the first model of" in text
    assert "server ciphertexts, cohort, survivors (computational)" in text
    assert "client cohort, exact sum, final model, round models, survivors" in text
    assert "public nothing" in text
    assert "who publishes one shows it to the server as well" in text
    told = " ".join(planned(aggregation=fp.BFV(keys=TOLD), mechanism=NOISE).resolve(federation).explain().split())
    assert "besides the model of" in told
    assert "One client tells the server" in told


# --- what it costs --------------------------------------------------------------------------------------------------


def sent(run: fp.Run, stage: str, role: str, column: str) -> list[int]:
    rows = run.costs.query(f"stage == '{stage}' and role == '{role}'").set_index("round")[column]
    return [int(rows.get(round + 1, 0)) for round in range(len(run.records))]


def model_bytes(parameters: int) -> int:
    return 8 + len("parameters") + 8 + 4 * parameters


@pytest.mark.parametrize("ideal", [False, True])
def test_the_server_sends_the_first_model_and_no_other(ideal: bool, federation: Any, planned: Make) -> None:
    run = execute(federation, planned(aggregation=fp.BFV(keys=SHARED), rounds=3), ideal=ideal)
    size = 8 * model_bytes(run.resolved.parameters)
    assert sent(run, "broadcast", "server", "bytes_sent") == [size, 0, 0]
    assert sent(run, "broadcast", "client", "bytes_received") == [size, 0, 0]
    assert sent(run, "broadcast", "server", "messages") == [8, 0, 0]
    assert "release" not in set(run.costs["stage"])
    assert run.costs.query("stage == 'broadcast'")["modelled"].tolist() == [ideal] * 6
    told = execute(federation, planned(aggregation=fp.BFV(keys=TOLD), rounds=3), ideal=ideal)
    assert sent(told, "broadcast", "server", "bytes_sent") == [size, size, size]
    payload = 8 * (run.resolved.parameters + 1)
    assert sent(told, "release", "client", "bytes_sent") == [payload] * 3
    assert sent(told, "release", "server", "bytes_received") == [payload] * 3


def test_clients_that_were_away_are_sent_what_they_missed(federation: Any, planned: Make) -> None:
    """Recounted by hand from the cohorts and the aggregates' sizes."""
    sampling, network = fp.FixedSizeSampling(5), Network(dropout={"upload": 0.15})
    run = execute(
        federation, planned(aggregation=fp.BFV(keys=SHARED), sampling=sampling, network=network, rounds=8), seed=3
    )
    assert any(len(record.contributors) < 5 for record in run.records)
    model = model_bytes(run.resolved.parameters)
    received = sent(run, "add", "client", "bytes_received")
    missing: dict[int, int] = {}
    expected = []
    for record, everybody in zip(run.records, received, strict=True):
        expected.append(sum(missing.get(index, model + sum(published(run, record.round))) for index in record.cohort))
        missing |= dict.fromkeys(record.cohort, 0)
        if record.contributors:
            each = everybody // len(record.contributors)
            missing = {index: owed if index in record.contributors else owed + each for index, owed in missing.items()}
    assert sent(run, "broadcast", "client", "bytes_received") == expected
    assert sent(run, "broadcast", "server", "bytes_sent") == expected
    assert len(set(expected[1:])) > 2


def published(run: fp.Run, before: int) -> list[int]:
    """Bytes of the aggregates of the rounds before this one."""
    received = sent(run, "add", "client", "bytes_received")
    return [
        received[record.round] // len(record.contributors) for record in run.records[:before] if record.contributors
    ]


def test_the_slowest_client_is_the_one_that_missed_most(federation: Any, planned: Make) -> None:
    network = Network(download=1000.0, latency=0.0)
    plan = planned(aggregation=fp.BFV(keys=SHARED), network=network, sampling=fp.FixedSizeSampling(5), rounds=2)
    run = execute(federation, plan)
    rows = run.costs.query("stage == 'broadcast' and role == 'client'")
    first, second = run.records
    new = [index for index in second.cohort if index not in first.cohort]
    assert new
    most = (model_bytes(run.resolved.parameters) + published(run, 1)[0]) / network.download
    assert rows["modelled_seconds"].tolist() == pytest.approx([model_bytes(run.resolved.parameters) / 1000.0, most])


def test_delivery_by_hand() -> None:
    delivery = Delivery(server_knows_model=False)
    assert delivery.bring([0, 1], 100) == [Sent(1, 100), Sent(1, 100)]
    delivery.publish([0], 7)
    assert delivery.bring([0, 1, 2], 100) == [Sent(0, 0), Sent(1, 7), Sent(2, 107)]
    assert delivery.bring([0, 1, 2], 100) == [Sent(0, 0)] * 3, "an aborted round publishes nothing"
    delivery.publish([0, 1, 2], 9)
    assert delivery.bring([3, 2], 100) == [Sent(3, 116), Sent(0, 0)]
    known = Delivery(server_knows_model=True)
    assert known.bring([0, 1], 100) == known.bring([0, 1], 100) == [Sent(1, 100)] * 2


def test_an_authority_that_adds_is_forwarded_every_upload(federation: Any, planned: Make) -> None:
    adds = execute(federation, planned(aggregation=fp.BFV(keys=KEYS["adding authority"]), rounds=1))
    opens = execute(federation, planned(aggregation=fp.BFV(keys=KEYS["authority"]), rounds=1))
    assert sent(adds, "forward", "server", "bytes_sent") == sent(adds, "encrypt", "client", "bytes_sent")
    assert sent(adds, "forward", "authority", "bytes_received") == sent(adds, "encrypt", "client", "bytes_sent")
    assert sent(adds, "forward", "server", "bytes_sent")[0] > 7 * sent(opens, "add", "server", "bytes_sent")[0]
    assert np.array_equal(adds.parameters, opens.parameters)
