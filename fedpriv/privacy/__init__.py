"""Sampling, clipping, mechanisms, the ledger and its accountants."""

from fedpriv.privacy.adaptive import AdaptiveClip
from fedpriv.privacy.budget import Budget, check_delta
from fedpriv.privacy.calibration import solve_noise_multiplier, solve_record_noise_multiplier
from fedpriv.privacy.clipping import clip_rows, round_within
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.ledger.event import LedgerEvent, record_event
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
    Unit,
)
from fedpriv.privacy.mechanisms.correlated import MatrixFactorization, TreeMechanism
from fedpriv.privacy.mechanisms.distributed import DistributedDiscreteGaussian, DistributedSkellam
from fedpriv.privacy.mechanisms.gaussian import CentralGaussian
from fedpriv.privacy.mechanisms.local import LocalGaussian
from fedpriv.privacy.mechanisms.no_dp import NoDP
from fedpriv.privacy.mechanisms.response import RandomizedResponse
from fedpriv.privacy.sampling import (
    FixedSizeSampling,
    FullParticipation,
    MinSeparation,
    PoissonSampling,
    Sampling,
    SamplingRecord,
)
from fedpriv.privacy.weights import Capped

__all__ = [
    "AdaptiveClip",
    "Adjacency",
    "Budget",
    "Capped",
    "CentralGaussian",
    "DistributedDiscreteGaussian",
    "DistributedSkellam",
    "Encoded",
    "FixedSizeSampling",
    "FullParticipation",
    "Ledger",
    "LedgerEvent",
    "LocalGaussian",
    "MatrixFactorization",
    "Mechanism",
    "MinSeparation",
    "NoDP",
    "Outcome",
    "PoissonSampling",
    "RandomizedResponse",
    "Release",
    "RoundSpec",
    "Sampling",
    "SamplingRecord",
    "Setting",
    "Statement",
    "TreeMechanism",
    "Trust",
    "Unit",
    "check_delta",
    "clip_rows",
    "record_event",
    "round_within",
    "solve_noise_multiplier",
    "solve_record_noise_multiplier",
]
