"""Three clients learn to tell spam from their own messages; every update is aggregated under encryption.

    fedpriv run benchmarks/studies/sms_spam.py --out benchmarks/results/sms_spam

What is decrypted is the aggregate, so that nobody sees a single client's model; and the SHA-256 of every round's model
is that of plain averaging.
"""

from dataclasses import replace

import fedpriv as fp

federation = fp.data.sms_spam(clients=3, vocabulary="hashed", seed=0)
plan = fp.Plan(
    model=fp.models.logistic,
    client=fp.LocalSGD(epochs=1, batch_size=16, learning_rate=0.3),
    rounds=10,
)
plans = {
    "plain": plan,
    "BFV, key authority": replace(plan, aggregation=fp.BFV()),
    "BFV, shared key": replace(plan, aggregation=fp.BFV(keys=fp.SharedClientKey())),
    "CKKS, key authority": replace(plan, aggregation=fp.CKKS()),
    "Paillier, key authority": replace(plan, aggregation=fp.Paillier()),
}
seeds = range(1)
evaluate_every = 1
