"""CKKS as an aggregator: what is refused in a plan, and that what is accepted is exact at the edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.aggregation.homomorphic.ckks import CKKS, DATA_SLOTS, PARAMETERS, TOLERANCE, CKKSDecryptor, _error
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Session, Terms
from fedpriv.crypto.lattice.legacy import SecretKey
from fedpriv.encoding import Bounded
from fedpriv.errors import DecryptionFailed, PlanError
from fedpriv.network import Network, Wire
from fedpriv.threat import AUTHORITY


def _largest_bits(cohort: int, length: int) -> int:
    """The most bits that domain() accepts, by trying."""
    for bits in range(1, 62):
        try:
            CKKS().domain(sum_bound=2**bits - 1, length=length, cohort=cohort)
        except PlanError:
            return bits - 1
    raise AssertionError("no limit")


@pytest.mark.parametrize(("cohort", "at_least"), [(3, 35), (10, 35), (200, 35), (1000, 34), (10_000, 31)])
def test_capacity_is_refused_beyond_its_limit_and_useful_below(cohort: int, at_least: int) -> None:
    bits = _largest_bits(cohort, 650)
    assert at_least <= bits <= 40
    assert _error(2**bits - 1, 2**bits - 1, 650, cohort) < TOLERANCE
    assert _error(2 ** (bits + 1) - 1, 2 ** (bits + 1) - 1, 650, cohort) >= TOLERANCE


def test_the_refusal_names_the_bits_that_fit() -> None:
    with pytest.raises(PlanError, match=r"may have 35 bits"):
        CKKS().domain(sum_bound=2**40, length=650, cohort=200)


def test_a_cohort_too_large_for_any_sum_is_refused() -> None:
    with pytest.raises(PlanError, match="smaller cohort"):
        CKKS().domain(sum_bound=10**15, length=650, cohort=2**50)


@pytest.mark.parametrize("sign", [1, -1])
def test_exact_at_the_limit_of_capacity(sign: int) -> None:
    """20 clients, all-constant vectors that fill the largest sum the preset accepts."""
    cohort, length = 20, DATA_SLOTS + 1
    bound = (2 ** _largest_bits(cohort, length) - 1) // cohort
    domain = CKKS().domain(sum_bound=cohort * bound, length=length, cohort=cohort)
    deployment = CKKS().deploy(Terms(length=length, input_bound=bound, cohort=cohort, domain=domain))
    session = Session(round=0, attempt=0, participants=tuple(range(cohort)), context=b"")
    vector = np.full(length, sign * bound)
    result = perform(deployment, session, Wire(Network()), lambda here: [(p, vector) for p in here], AUTHORITY)
    assert np.array_equal(result.total, cohort * vector)


@given(cohort=st.integers(1, 5000), length=st.integers(1, 10**6), bits=st.integers(1, 45))
def test_whatever_is_accepted_is_proved(cohort: int, length: int, bits: int) -> None:
    try:
        domain = CKKS().domain(sum_bound=2**bits, length=length, cohort=cohort)
    except PlanError:
        return
    assert domain == Bounded(2**bits)
    counted = max(2**bits, cohort)
    assert _error(counted, counted, length, cohort) < TOLERANCE


def test_the_counting_slot_is_covered_by_the_proof() -> None:
    """Sums of at most 1 in a cohort of 5000: the counter is the largest value there is."""
    with pytest.raises(PlanError):
        CKKS().domain(sum_bound=1, length=1, cohort=2**37)
    deployment_scale = PARAMETERS.scale_for(5000)
    terms = Terms(length=1, input_bound=0, cohort=5000, domain=Bounded(1))
    deployment = CKKS().deploy(terms)
    assert deployment._decryptor._scale == deployment_scale  # type: ignore[attr-defined]


def test_padding_is_checked() -> None:
    key, scale = SecretKey(PARAMETERS), 2.0**30
    slots = np.zeros(PARAMETERS.slots)
    slots[-1], slots[1] = 3, 5  # the counter fits; coordinate 1 is beyond the length
    with pytest.raises(DecryptionFailed, match="Padding"):
        CKKSDecryptor(key, scale, 1).decrypt([key.public.encrypt(slots, scale)], 3)
    assert CKKSDecryptor(key, scale, 2).decrypt([key.public.encrypt(slots, scale)], 3).tolist() == [0, 5]


def test_estimate_scales_with_chunks_and_clients() -> None:
    def sent(length: int, cohort: int) -> int:
        terms = Terms(length=length, input_bound=1, cohort=cohort, domain=Bounded(cohort))
        return CKKS().estimate(terms, cohort)[0].bytes_sent

    assert sent(DATA_SLOTS, 5) == 5 * sent(DATA_SLOTS, 1)
    assert sent(DATA_SLOTS + 1, 5) == 2 * sent(DATA_SLOTS, 5)
    assert 32 < sent(DATA_SLOTS, 1) / DATA_SLOTS < 32.3, "32 bytes a coordinate"
