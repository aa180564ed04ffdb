"""A sum that is exact shows how many of the reduced vectors in it had wrapped: it is no function of the noisy sum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fedpriv as fp
from fedpriv.errors import PlanError
from fedpriv.privacy import DistributedDiscreteGaussian
from fedpriv.privacy.rotation import unrotate
from fedpriv.randomness import Noise
from fedpriv.study import mean


class Silent(DistributedDiscreteGaussian):
    """Its shares are zeros."""

    @property
    def sampler(self) -> Any:
        return lambda variance, size, words: np.zeros(size, dtype=np.int64)


@pytest.mark.parametrize(("tails", "z"), [(1.0, 1.0), (2.0, 0.49), (6.0, 0.155), (6.0, 1.0)])
@pytest.mark.parametrize("keys", [fp.KeyAuthority(min_contributors=20), fp.SharedClientKey(min_contributors=20)])
def test_where_exact_sums_are_seen_no_vector_wraps_by_itself(tails: float, z: float, keys: Any) -> None:
    """Whoever sees the exact sum of reduced vectors would learn how many had wrapped, hence signs of their noise."""
    n, d = 30, 4096
    plan = fp.Plan(
        model=None,
        client=mean._Vectors(),
        mechanism=Silent(clip_norm=1.0, noise_multiplier=z, bits=13, tails=tails, corrupt=0.0),
        aggregation=fp.Paillier(key_bits=2048, keys=keys),
        server=mean._KeepMean(),
        rounds=1,
    )
    federation = mean._federation(np.ones((n, d)) / 64)
    if tails < 2.0:  # no room for the noise of one client
        with pytest.raises(PlanError, match="wraps by itself"):
            plan.resolve(federation)
        return
    here = plan.resolve(federation)
    spec = plan.mechanism.begin(here.mechanism_state, 0, public=7)
    along = unrotate(np.eye(1, d), spec.public, spec.round)  # one rotated coordinate holds all of it
    words = np.random.default_rng(3).bit_generator.random_raw
    sent = plan.mechanism.protect(along, [1], spec, [Noise(words=words, normal=np.zeros)]).values
    apart = (1 << (spec.modulus_bits - 1)) - int(np.abs(sent).max())
    wraps = n * d * 2.0 * math.exp(-(max(0, apart) ** 2) / (2.0 * spec.share.variance))
    assert wraps < 2.0**-40
