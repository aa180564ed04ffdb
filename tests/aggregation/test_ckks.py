"""CKKS as an aggregator: what is refused in a plan, and that what is accepted is exact at the edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.aggregation.homomorphic.ckks import CKKS
from fedpriv.aggregation.homomorphic.fitting import Demand, chunks, code_for, data_slots
from fedpriv.aggregation.homomorphic.keys import KeyAuthority, KeyModel, SharedClientKey
from fedpriv.aggregation.homomorphic.lattice import LatticeDecryptor
from fedpriv.aggregation.homomorphic.presets import PRESETS
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Session, Terms
from fedpriv.crypto.lattice import CKKSCode, CKKSParameters, SecretKey
from fedpriv.crypto.lattice.ckks import TOLERANCE
from fedpriv.crypto.lattice.ckks_noise import slot_error
from fedpriv.encoding import Bounded
from fedpriv.errors import ConfigurationError, DecryptionFailed, PlanError
from fedpriv.network import Network, Wire
from fedpriv.threat import AUTHORITY

LEAN, PRECISE = (PRESETS[name].parameters for name in ("ckks-lean", "ckks-precise"))
MODELS: list[KeyModel] = [KeyAuthority(), SharedClientKey()]


def _largest_bits(aggregator: CKKS, cohort: int, length: int) -> int:
    """The most bits of a sum that domain() accepts, by trying."""
    for bits in range(cohort.bit_length(), 62):
        try:
            aggregator.domain(sum_bound=2**bits - 1, length=length, cohort=cohort)
        except PlanError:
            return bits - 1
    raise AssertionError("no limit")


def _error(parameters: CKKSParameters, bits: int, cohort: int, length: int) -> float:
    """The bound that a plan rests on, put together by hand."""
    return slot_error(
        parameters,
        additions=cohort,
        slots=chunks(parameters, length) * parameters.slots,
        largest=2**bits - 1,
        scale=parameters.scale_for(2**bits - 1),
        encryption="public",
    ).total


@pytest.mark.parametrize(("cohort", "at_least"), [(3, 35), (10, 35), (200, 34), (1000, 34), (10_000, 31)])
def test_capacity_is_refused_beyond_its_limit_and_useful_below(cohort: int, at_least: int) -> None:
    bits = _largest_bits(CKKS(), cohort, 650)
    assert at_least <= bits <= 40
    assert _error(PRECISE, bits, cohort, 650) < TOLERANCE
    assert _error(PRECISE, bits + 1, cohort, 650) >= TOLERANCE


def test_the_refusal_names_the_bits_that_fit() -> None:
    fits = _largest_bits(CKKS(), 200, 650)
    with pytest.raises(PlanError, match=rf"may have {fits} bits"):
        CKKS().domain(sum_bound=2**40, length=650, cohort=200)


def test_a_cohort_too_large_for_any_sum_is_refused() -> None:
    with pytest.raises(PlanError, match="smaller cohort"):
        CKKS().domain(sum_bound=10**15, length=650, cohort=2**50)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("preset", ["ckks-lean", "ckks-precise"])
@pytest.mark.parametrize("keys", MODELS, ids=lambda keys: type(keys).__name__)
def test_exact_at_the_limit_of_capacity(sign: int, preset: str, keys: KeyModel) -> None:
    """20 clients, all-constant vectors that fill the largest sum the preset accepts."""
    aggregator, cohort = CKKS(preset=preset, keys=keys), 20
    length = data_slots(LEAN) + 1
    bound = (2 ** _largest_bits(aggregator, cohort, length) - 1) // cohort
    domain = aggregator.domain(sum_bound=cohort * bound, length=length, cohort=cohort)
    deployment = aggregator.deploy(Terms(length=length, input_bound=bound, cohort=cohort, domain=domain))
    session = Session(round=0, attempt=0, participants=tuple(range(cohort)), context=b"")
    vector = np.full(length, sign * bound)
    result = perform(deployment, session, Wire(Network()), lambda here: [(p, vector) for p in here], keys.decryptor)
    assert np.array_equal(result.total, cohort * vector)


@given(cohort=st.integers(1, 5000), length=st.integers(1, 10**6), bits=st.integers(1, 45))
def test_whatever_is_accepted_is_proved(cohort: int, length: int, bits: int) -> None:
    demand = Demand.of(sum_bound=2**bits, length=length, cohort=cohort, keys=KeyAuthority())
    try:
        assert CKKS().domain(sum_bound=2**bits, length=length, cohort=cohort) == Bounded(2**bits)
    except PlanError:
        return
    parameters = CKKS().preset_for(demand).parameters
    code = code_for(parameters, demand)
    counted = max(2**bits, cohort)
    assert isinstance(parameters, CKKSParameters)
    slots = chunks(parameters, length) * parameters.slots
    error = slot_error(
        parameters, additions=cohort, slots=slots, largest=counted, scale=code.scale, encryption="public"
    )
    assert error.total < TOLERANCE
    assert counted * np.sqrt(2) * code.scale < 2 ** (parameters.wire_bits - 1), "no coefficient wraps"


def test_the_counting_slot_is_covered_by_the_proof() -> None:
    """Sums of at most 1 in a cohort of 5000: the counter is the largest value there is."""
    with pytest.raises(PlanError):
        CKKS().domain(sum_bound=1, length=1, cohort=2**37)
    demand = Demand.of(sum_bound=1, length=1, cohort=5000, keys=KeyAuthority())
    assert demand.largest == demand.spread == 5000
    assert code_for(PRECISE, demand).scale == PRECISE.scale_for(5000)


def test_terms_bound_one_clients_vector() -> None:
    """In a domain with room to spare; without terms a client may make up half of a sum."""
    terms = Terms(length=1, input_bound=10, cohort=4, domain=Bounded(1040))
    demand = Demand.of_terms(terms, KeyAuthority())
    assert demand == Demand(length=1, largest=1040, client=10, spread=1040, cohort=4)
    assert Demand.of(sum_bound=1040, length=1, cohort=4, keys=KeyAuthority()).client == 520


@pytest.mark.parametrize(("cohort", "bound"), [(1, 100), (1, 90), (2, 50), (6, 1010)])
@pytest.mark.parametrize("preset", ["ckks-lean", "ckks-precise"])
def test_one_clients_largest_value_can_be_encrypted(cohort: int, bound: int, preset: str) -> None:
    """SEAL encodes half of what q holds: a client that makes up most of a sum needs a smaller scale."""
    aggregator = CKKS(preset=preset, keys=KeyAuthority(min_contributors=1))
    domain = aggregator.domain(sum_bound=cohort * bound, length=2, cohort=cohort)
    terms = Terms(length=2, input_bound=bound, cohort=cohort, domain=domain)
    session = Session(round=0, attempt=0, participants=(0,), context=b"")
    vector = np.array([1, -1]) * bound
    total = perform(aggregator.deploy(terms), session, Wire(Network()), lambda here: [(here[0], vector)], AUTHORITY)
    assert np.array_equal(total.total, vector)


def test_padding_is_checked() -> None:
    key = SecretKey(CKKSCode(LEAN, 2.0**28))
    slots = np.zeros(LEAN.slots, dtype=np.int64)
    slots[-1], slots[1] = 3, 5  # the counter fits; coordinate 1 is beyond the length
    payload = key.public.encrypt(slots)
    with pytest.raises(DecryptionFailed, match="Padding"):
        LatticeDecryptor(key, 1).decrypt([payload], 3)
    assert LatticeDecryptor(key, 2).decrypt([payload], 3).tolist() == [0, 5]


def test_a_wrong_count_is_refused() -> None:
    key = SecretKey(CKKSCode(LEAN, 2.0**28))
    slots = np.zeros(LEAN.slots, dtype=np.int64)
    slots[-1] = 3
    payload = key.public.encrypt(slots)
    for named in (2, 4):
        with pytest.raises(DecryptionFailed, match="counting slot"):
            LatticeDecryptor(key, 1).decrypt([payload], named)


@pytest.mark.parametrize("preset", ["bfv-exact", "paillier-3072", "ckks", "", None, 3, PRESETS["bfv-wide"].parameters])
def test_only_presets_of_ckks(preset: object) -> None:
    with pytest.raises(ConfigurationError, match="ckks-lean"):
        CKKS(preset=preset)  # type: ignore[arg-type]


def test_auto_takes_the_smallest_that_fits() -> None:
    def chosen(sum_bound: int, cohort: int, keys: KeyModel) -> str:
        return CKKS(keys=keys).preset_for(Demand.of(sum_bound=sum_bound, length=10**6, cohort=cohort, keys=keys)).name

    assert chosen(10 * (2**15 - 1), 10, KeyAuthority()) == "ckks-lean"
    assert chosen(40 * (2**15 - 1), 40, KeyAuthority()) == "ckks-precise"
    assert chosen(40 * (2**15 - 1), 40, SharedClientKey()) == "ckks-lean", "seeded encryption has less noise"


def test_own_parameters_are_held_to_the_same_proof() -> None:
    own = CKKS(preset=CKKSParameters(degree=2048, moduli=(54,)))
    assert own.domain(sum_bound=2**20, length=10, cohort=10) == Bounded(2**20)
    assert "54" in " ".join(own.threat_model.assumptions)
    with pytest.raises(PlanError, match="may have"):
        own.domain(sum_bound=2**40, length=10, cohort=10)


def test_estimate_scales_with_chunks_and_clients() -> None:
    width = data_slots(LEAN)

    def sent(length: int, cohort: int) -> int:
        terms = Terms(length=length, input_bound=1, cohort=cohort, domain=Bounded(cohort))
        return CKKS().estimate(terms, cohort)[0].bytes_sent

    assert sent(width, 5) == 5 * sent(width, 1)
    assert sent(width + 1, 5) == 2 * sent(width, 5)
    assert 12 < sent(width, 1) / width < 12.1, "12 bytes a coordinate"
