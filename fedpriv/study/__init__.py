"""The calls of a researcher, and what they return."""

from fedpriv.study import callbacks
from fedpriv.study.cells import Refusal
from fedpriv.study.comparison import compare
from fedpriv.study.grids import grid
from fedpriv.study.mean import PrivateMean, private_mean
from fedpriv.study.runs import Run, rounds, run
from fedpriv.study.studies import Study

__all__ = [
    "PrivateMean",
    "Refusal",
    "Run",
    "Study",
    "callbacks",
    "compare",
    "grid",
    "private_mean",
    "rounds",
    "run",
]
