"""What noise costs in accuracy, under two protocols: digits, 100 clients, 200 rounds, 5 seeds.

Forty runs, which can be killed and go on where they were; their sums are those of the protocols, whose costs are
modelled.

fedpriv plan benchmarks/studies/digits_tradeoff.py
fedpriv run benchmarks/studies/digits_tradeoff.py --workers 2 --out benchmarks/results/digits_tradeoff
fedpriv run benchmarks/studies/digits_tradeoff.py --workers 2 --out benchmarks/results/digits_tradeoff --resume
"""

from functools import partial

import fedpriv as fp


def federation(seed: int) -> fp.data.Federation:
    """Dirichlet(0.3) over the labels; a new partition for each seed."""
    return fp.data.digits(clients=100, partition=fp.data.Dirichlet(0.3), seed=seed)


plan = fp.Plan(
    model=partial(fp.models.mlp, hidden=(128,)),
    client=fp.LocalSGD(epochs=1, batch_size=8, learning_rate=0.1),
    rounds=200,
)
plans = fp.grid(
    plan,
    aggregation=[fp.PlainSum(), fp.SecureAggregation(corrupt=0.1, dropout=0.1)],
    mechanism=[fp.CentralGaussian(clip_norm=1.0, noise_multiplier=z) for z in (1.0, 2.0, 4.0, 8.0)],
)
seeds = range(5)
ideal = True
x = "epsilon"
