"""Sampling, clipping, mechanisms, the ledger and its accountants."""

from fedpriv.privacy.budget import Budget, check_delta, solve_noise_multiplier, solve_record_noise_multiplier
from fedpriv.privacy.clipping import clip_rows, round_within
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.ledger.event import LedgerEvent, Unit, record_event
from fedpriv.privacy.ledger.statement import Statement
from fedpriv.privacy.mechanism import (
    Adjacency,
    Encoded,
    Mechanism,
    Outcome,
    Release,
    RoundSpec,
    Setting,
    Trust,
)
from fedpriv.privacy.mechanisms.distributed import DistributedDiscreteGaussian, DistributedSkellam
from fedpriv.privacy.mechanisms.gaussian import CentralGaussian
from fedpriv.privacy.mechanisms.no_dp import NoDP
from fedpriv.privacy.sampling import (
    FixedSizeSampling,
    FullParticipation,
    PoissonSampling,
    Sampling,
    SamplingRecord,
)

__all__ = [
    "Adjacency",
    "Budget",
    "CentralGaussian",
    "DistributedDiscreteGaussian",
    "DistributedSkellam",
    "Encoded",
    "FixedSizeSampling",
    "FullParticipation",
    "Ledger",
    "LedgerEvent",
    "Mechanism",
    "NoDP",
    "Outcome",
    "PoissonSampling",
    "Release",
    "RoundSpec",
    "Sampling",
    "SamplingRecord",
    "Setting",
    "Statement",
    "Trust",
    "Unit",
    "check_delta",
    "clip_rows",
    "record_event",
    "round_within",
    "solve_noise_multiplier",
    "solve_record_noise_multiplier",
]
