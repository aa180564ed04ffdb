"""Clients and models for DP-SGD, and what such clients send."""

from __future__ import annotations

import copy

import numpy as np
from torch import nn

from fedpriv.data import Client
from fedpriv.learning import DELTA, DPSGD, Broadcast, flatten, models

FEATURES, CLASSES = 5, 3
SIZE = CLASSES * FEATURES + CLASSES
PLAIN = DPSGD(learning_rate=0.2, clip_norm=0.5, sampling_rate=0.4, expected_batch=5.0, steps=4, noise_multiplier=0.8)


def a_client(records: int = 12, index: int = 0, shape=(FEATURES,), scale: float = 1.0) -> Client:
    rng = np.random.default_rng(index)
    x = (scale * rng.normal(size=(records, *shape))).astype(np.float32)
    return Client(index=index, name=str(index), x=x, y=rng.integers(0, CLASSES, records))


def train(algorithm, clients, model=None, *, batching="auto", seed: int = 9) -> np.ndarray:
    """``[n, d]``: what each client sends."""
    model = copy.deepcopy(model or linear())  # it is trained through
    rngs = [np.random.default_rng([seed, client.index]) for client in clients]
    broadcast = Broadcast(parameters=flatten(model))
    updates = algorithm.train(model, broadcast, clients, [None] * len(clients), rngs, batching=batching)
    assert [update.events for update in updates] == [(algorithm.participation(c.index),) for c in clients]
    return np.stack([update.payload[DELTA] for update in updates])


def build(factory, shape=(FEATURES,)) -> nn.Module:
    return models.build(factory, shape, CLASSES, seed=3)


def linear() -> nn.Module:
    return build(models.logistic)
