"""Sampling, clipping, mechanisms, the ledger and its accountants."""

from fedpriv.privacy.budget import Budget, check_delta, solve_noise_multiplier, solve_record_noise_multiplier
from fedpriv.privacy.clipping import clip_rows, round_within
from fedpriv.privacy.event import LedgerEvent, Unit, record_event
from fedpriv.privacy.gaussian import CentralGaussian
from fedpriv.privacy.ledger import Ledger
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
from fedpriv.privacy.no_dp import NoDP
from fedpriv.privacy.sampling import (
    FixedSizeSampling,
    FullParticipation,
    PoissonSampling,
    Sampling,
    SamplingRecord,
)
from fedpriv.privacy.statement import Statement

__all__ = [
    "Adjacency",
    "Budget",
    "CentralGaussian",
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
