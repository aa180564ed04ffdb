"""Learning rate, epochs and clip norm of ``mnist_dp``: central noise at ε = 1, twelve settings, three seeds each.

Trials are measured on a fifth of each client's own training records, on which they do not train; the test set chooses
nothing. The ε of ``mnist_dp`` does not cover this choice, nor are the distributed and the local plans tuned for
themselves.

fedpriv run benchmarks/studies/mnist_dp_settings.py --workers 2 --out benchmarks/results/mnist_dp_settings
"""

import fedpriv as fp

federation = fp.data.mnist(clients=1_000, partition=fp.data.IID(), pooled=True, seed=0)
plans = {
    "central, ε = 1": fp.Plan(
        model=fp.models.logistic,
        client=fp.LocalSGD(epochs=5, batch_size=10, learning_rate=0.5),
        mechanism=fp.CentralGaussian(clip_norm=2.0, target=fp.Budget(epsilon=1.0, delta=1e-5, observer="public")),
        aggregation=fp.SecureAggregation(corrupt=0.1, dropout=0.1),
        rounds=20,
    )
}
tune = {
    "client.learning_rate": [0.2, 0.5, 1.0],
    "client.epochs": [2, 5],
    "mechanism.clip_norm": [1.0, 2.0],
}
held_out = 0.2
seeds = range(1)
ideal = True
observer = "public"
