"""MNIST over 100 clients with skewed labels, masking secure aggregation, one client in ten lost in each round.

fedpriv plan benchmarks/studies/mnist_masking.py
fedpriv run benchmarks/studies/mnist_masking.py --out benchmarks/results/mnist_masking
"""

from functools import partial

import fedpriv as fp


def federation(seed: int) -> fp.data.Federation:
    """Dirichlet(0.3) over the labels; 14×14 mean-pooled images; a new partition for each seed."""
    return fp.data.mnist(clients=100, partition=fp.data.Dirichlet(0.3), pooled=True, seed=seed)


plan = fp.Plan(
    model=partial(fp.models.mlp, hidden=(64,)),
    client=fp.LocalSGD(epochs=1, batch_size=32, learning_rate=0.1),
    aggregation=fp.SecureAggregation(corrupt=0.1, dropout=0.1),
    rounds=15,
)
plans = fp.grid(plan, network=[fp.Network(), fp.Network(dropout=0.1)])
seeds = range(2)
evaluate_every = 1
x = "round"
