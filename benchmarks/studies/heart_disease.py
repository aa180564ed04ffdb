"""Four hospitals: what each learns alone, what they learn together, and what one pooled data set would give.

    fedpriv run benchmarks/studies/heart_disease.py --out benchmarks/results/heart_disease

A hospital by itself has nobody to hide among: masking secure aggregation refuses it, and the table says so.
"""

from collections.abc import Callable

import fedpriv as fp

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")


def federated(seed: int) -> fp.data.Federation:
    """The natural split; every hospital normalises by its own training records."""
    return fp.data.heart_disease(seed=seed)


def pooled(seed: int) -> fp.data.Federation:
    """All records in one place, normalised together."""
    return fp.data.heart_disease(normalise="pooled", seed=seed).pooled()


def alone(hospital: str) -> Callable[[int], fp.data.Federation]:
    """One hospital's records; the test set is still that of all four."""
    return lambda seed: federated(seed).only(hospital)


federation = {
    **{f"{hospital} alone": alone(hospital) for hospital in HOSPITALS},
    "federated": federated,
    "pooled": pooled,
}
plan = fp.Plan(
    model=fp.models.logistic,
    client=fp.LocalSGD(steps=50, batch_size=8, learning_rate=0.01),
    rounds=20,
)
plans = fp.grid(plan, aggregation=[fp.PlainSum(), fp.SecureAggregation(corrupt=0.1, dropout=0.1)])
seeds = range(5)
on_invalid = "record"
