"""BFV as an aggregator: what is refused in a plan, and that what is accepted is exact at the edge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.aggregation import conformance, roles
from fedpriv.aggregation.homomorphic.bfv import BFV
from fedpriv.aggregation.homomorphic.ckks import CKKS
from fedpriv.aggregation.homomorphic.fitting import Demand, chunks, code_for, data_slots
from fedpriv.aggregation.homomorphic.keys import KeyAuthority, KeyModel, SharedClientKey
from fedpriv.aggregation.homomorphic.lattice import LatticeDecryptor
from fedpriv.aggregation.homomorphic.presets import PRESETS
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Session, Terms
from fedpriv.crypto.lattice import BFVCode, BFVParameters, SecretKey, bfv_noise
from fedpriv.encoding import Bounded
from fedpriv.errors import ConfigurationError, DecryptionFailed, PlanError
from fedpriv.network import Network, Wire
from fedpriv.threat import AUTHORITY, Party

EXACT, WIDE = (PRESETS[name].parameters for name in ("bfv-exact", "bfv-wide"))
MODELS: list[KeyModel] = [KeyAuthority(), SharedClientKey()]
SPENT = BFVParameters(degree=2048, moduli=(40,), plain_bits=25)
"""Room in the plaintext modulus, and little for noise."""


def _fits(aggregator: BFV, **plan: int) -> bool:
    try:
        aggregator.domain(**plan)
    except PlanError:
        return False
    return True


# --- what a plan is refused for -----------------------------------------------------------------------------------


def test_sums_end_at_half_the_plaintext_modulus() -> None:
    for parameters in (EXACT, WIDE):
        own = BFV(preset=parameters)
        assert own.domain(sum_bound=parameters.largest, length=5000, cohort=10) == Bounded(parameters.largest)
        with pytest.raises(PlanError, match="half the plaintext modulus"):
            own.domain(sum_bound=parameters.largest + 1, length=5000, cohort=10)


def test_the_refusal_names_the_bits_that_fit() -> None:
    with pytest.raises(PlanError, match="may have 21 bits and a sign"):
        BFV(preset="bfv-exact").domain(sum_bound=2**30, length=10, cohort=3)
    assert _fits(BFV(preset="bfv-exact"), sum_bound=2**21 - 1, length=10, cohort=3)


def test_the_counting_slot_must_fit() -> None:
    """Sums of at most 1 in a cohort beyond the plaintext modulus: the counter is the largest value there is."""
    assert not _fits(BFV(preset=EXACT), sum_bound=1, length=1, cohort=EXACT.largest + 1)


def test_vectors_that_could_wrap_back_into_the_domain_are_refused() -> None:
    """What wraps must lie outside of what sums may reach, to the last unit."""
    largest = 1_000_000
    spread = EXACT.plain_modulus - largest - 1
    code_for(EXACT, Demand(length=1, largest=largest, client=spread // 3, spread=spread, cohort=3))
    with pytest.raises(PlanError, match="wrap"):
        code_for(EXACT, Demand(length=1, largest=largest, client=spread // 3, spread=spread + 1, cohort=3))


@pytest.mark.parametrize("aggregator", [BFV(preset="bfv-exact"), CKKS(preset="ckks-lean")], ids=["BFV", "CKKS"])
def test_sums_beyond_what_clients_may_send_are_refused(aggregator: BFV | CKKS, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who decrypts, where clients do not look at their own input."""
    domain = aggregator.domain(sum_bound=3000, length=1, cohort=3)
    deployment = aggregator.deploy(Terms(length=1, input_bound=1000, cohort=3, domain=domain))
    monkeypatch.setattr(roles, "checked_input", lambda vector, terms: vector)

    def total(value: int, attempt: int) -> list[int]:
        session = Session(round=attempt, attempt=0, participants=(0, 1, 2), context=b"")
        vectors = {"client/0": value, "client/1": 1000, "client/2": 1000}

        def inputs(here: Sequence[Party]) -> list[tuple[Party, np.ndarray]]:
            return [(party, np.array([vectors[party]])) for party in here]

        return perform(deployment, session, Wire(Network()), inputs, AUTHORITY).total.tolist()

    assert total(1000, attempt=0) == [3000]
    with pytest.raises(DecryptionFailed, match="bound of its contributors"):
        total(1001, attempt=1)


@pytest.mark.parametrize("keys", MODELS, ids=lambda keys: type(keys).__name__)
def test_noise_ends_the_additions(keys: KeyModel) -> None:
    own = BFV(preset=SPENT, keys=keys)
    most = bfv_noise.most_additions(
        SPENT, ciphertexts=chunks(SPENT, 10**6), encryption="secret" if keys.clients_hold_secret else "public"
    )
    assert _fits(own, sum_bound=1000, length=10**6, cohort=most)
    with pytest.raises(PlanError, match=f"up to {most} additions"):
        own.domain(sum_bound=1000, length=10**6, cohort=most + 1)


def test_longer_vectors_leave_less_room() -> None:
    """The proof is about every coefficient of every ciphertext."""

    def most(length: int) -> int:
        own = BFV(preset=SPENT)
        return max(cohort for cohort in range(1, 40) if _fits(own, sum_bound=1, length=length, cohort=cohort))

    assert most(10**15) < most(1)


@given(cohort=st.integers(1, 5000), length=st.integers(1, 10**6), bits=st.integers(1, 45))
def test_whatever_is_accepted_is_proved(cohort: int, length: int, bits: int) -> None:
    demand = Demand.of(sum_bound=2**bits, length=length, cohort=cohort, keys=KeyAuthority())
    try:
        assert BFV().domain(sum_bound=2**bits, length=length, cohort=cohort) == Bounded(2**bits)
    except PlanError:
        return
    parameters = BFV().preset_for(demand).parameters
    assert isinstance(parameters, BFVParameters)
    assert 2 * max(2**bits, cohort) < parameters.plain_modulus
    bound = bfv_noise.noise_bound(
        parameters,
        additions=cohort,
        ciphertexts=chunks(parameters, length),
        encryption="public",
        failure=2.0**-128,
    )
    assert bound < 0.5


@pytest.mark.parametrize("preset", ["ckks-lean", "paillier-3072", "bfv", "", None, 3, PRESETS["ckks-lean"].parameters])
def test_only_presets_of_bfv(preset: object) -> None:
    with pytest.raises(ConfigurationError, match="bfv-exact"):
        BFV(preset=preset)  # type: ignore[arg-type]


def test_auto_takes_the_smallest_that_fits() -> None:
    def chosen(sum_bound: int, cohort: int, keys: KeyModel) -> str:
        return BFV(keys=keys).preset_for(Demand.of(sum_bound=sum_bound, length=10**6, cohort=cohort, keys=keys)).name

    assert chosen(10 * (2**15 - 1), 10, KeyAuthority()) == "bfv-exact"
    assert chosen(1000 * (2**23 - 1), 1000, KeyAuthority()) == "bfv-wide"
    assert chosen(1, 1000, KeyAuthority()) == "bfv-wide", "for its noise"
    assert chosen(1, 1000, SharedClientKey()) == "bfv-exact", "seeded encryption has less noise"


def test_the_ring_stands_in_the_threat_model() -> None:
    assert "2048, moduli of 40 bits" in " ".join(BFV(preset="bfv-exact").threat_model.assumptions)
    said = " ".join(BFV().threat_model.assumptions)
    assert "2048" in said
    assert "4096" in said


# --- what is accepted is exact --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("parameters", [EXACT, WIDE, SPENT], ids=["exact", "wide", "little-room"])
@pytest.mark.parametrize("keys", MODELS, ids=lambda keys: type(keys).__name__)
def test_exact_at_the_limit_of_capacity(sign: int, parameters: BFVParameters, keys: KeyModel) -> None:
    """All-constant vectors that fill the largest sum, in as large a cohort as the noise bears, up to 12."""
    aggregator, length = BFV(preset=parameters, keys=keys), data_slots(parameters) + 1
    cohort = max(c for c in range(3, 13) if _fits(aggregator, sum_bound=parameters.largest, length=length, cohort=c))
    bound = parameters.largest // cohort
    domain = aggregator.domain(sum_bound=parameters.largest, length=length, cohort=cohort)
    deployment = aggregator.deploy(Terms(length=length, input_bound=bound, cohort=cohort, domain=domain))
    session = Session(round=0, attempt=0, participants=tuple(range(cohort)), context=b"")
    vector = np.full(length, sign * bound)
    holder = keys.decryptor
    result = perform(deployment, session, Wire(Network()), lambda here: [(p, vector) for p in here], holder)
    assert np.array_equal(result.total, cohort * vector)


def test_padding_and_count_are_checked() -> None:
    key = SecretKey(BFVCode(EXACT))
    slots = np.zeros(EXACT.slots, dtype=np.int64)
    slots[-1], slots[1] = 3, 5  # coordinate 1 is beyond a length of 1
    payload = key.public.encrypt(slots)
    assert LatticeDecryptor(key, 2).decrypt([payload], 3).tolist() == [0, 5]
    with pytest.raises(DecryptionFailed, match="Padding"):
        LatticeDecryptor(key, 1).decrypt([payload], 3)
    for named in (2, 4):
        with pytest.raises(DecryptionFailed, match="counting slot"):
            LatticeDecryptor(key, 2).decrypt([payload], named)


BENCHES = {
    "trusted-server": conformance.Bench(aggregator=BFV(), bytes_tolerance=0.01),
    "trusted-authority": conformance.Bench(
        aggregator=BFV(keys=KeyAuthority(additions="trusted-authority")), bytes_tolerance=0.01
    ),
    "shared-key": conformance.Bench(aggregator=BFV(keys=SharedClientKey()), bytes_tolerance=0.01),
}


@pytest.mark.conformance
@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("keys", BENCHES)
def test_conformance(keys: str, check: conformance.Check) -> None:
    check(BENCHES[keys])
