"""What happens to an update before it is summed, and to the sum before it is released: one module each."""

from fedpriv.privacy.mechanisms.distributed import DistributedDiscreteGaussian, DistributedSkellam
from fedpriv.privacy.mechanisms.gaussian import CentralGaussian
from fedpriv.privacy.mechanisms.no_dp import NoDP

__all__ = ["CentralGaussian", "DistributedDiscreteGaussian", "DistributedSkellam", "NoDP"]
