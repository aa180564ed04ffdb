"""CKKS, BFV and Paillier side by side, for the tests of what they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest

from fedpriv.aggregation.homomorphic.bfv import BFV
from fedpriv.aggregation.homomorphic.ckks import CKKS
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.homomorphic.fitting import Demand, data_slots
from fedpriv.aggregation.homomorphic.paillier import Lanes, Paillier
from fedpriv.aggregation.performance import perform
from fedpriv.aggregation.protocol import Session, Sum, Terms
from fedpriv.network import Message, Network, Wire
from fedpriv.threat import AUTHORITY

Protected: TypeAlias = CKKS | BFV | Paillier
SCHEMES = [CKKS(), BFV(), Paillier(key_bits=2048)]
both = pytest.mark.parametrize("aggregator", SCHEMES, ids=["CKKS", "BFV", "Paillier"])
COHORT, BOUND = 6, 2**15 - 1


def terms_of(aggregator: Protected, length: int, cohort: int = COHORT, bound: int = BOUND) -> Terms:
    domain = aggregator.domain(sum_bound=cohort * bound, length=length, cohort=cohort)
    return Terms(length=length, input_bound=bound, cohort=cohort, domain=domain)


def session_of(clients: int, attempt: int = 0, round: int = 0) -> Session:
    return Session(round=round, attempt=attempt, participants=tuple(range(clients)), context=b"context")


def run(
    deployment: HomomorphicDeployment,
    session: Session,
    vectors: np.ndarray,
    tamper: Callable[[Message], Message | None] | None = None,
) -> Sum:
    wire = Wire(Network(), tamper=tamper)
    rows = dict(zip(session.parties, vectors, strict=True))
    return perform(deployment, session, wire, lambda present: [(p, rows[p]) for p in present], AUTHORITY)


def per_ciphertext(aggregator: Protected, terms: Terms) -> int:
    if isinstance(aggregator, Paillier):
        return Lanes.of(terms, aggregator.key_bits - 1).count
    return data_slots(aggregator.preset_for(Demand.of_terms(terms, aggregator.keys)).parameters)
