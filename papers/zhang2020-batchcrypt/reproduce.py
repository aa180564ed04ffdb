"""Packing ratios beside BatchCrypt's: ``python papers/zhang2020-batchcrypt/reproduce.py [--quick]``."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.aggregation.homomorphic.paillier import COUNTER_BITS, Lanes
from fedpriv.aggregation.protocol import Terms
from fedpriv.crypto import paillier
from fedpriv.encoding import Bounded, Integers
from fedpriv.report import reproduction

HERE = Path(__file__).resolve().parent
KEYS, BITS, COHORTS = (2048, 3072), (8, 16, 20, 24), (2, 10, 100)
COST_BITS, COST_COHORT = 16, 10
"""The setting whose bytes and seconds are measured."""
SIGN_AND_PADDING = 3
"""What BatchCrypt's lane has beyond the value's bits: a second sign bit, and two for carries."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number: the published one, that of the formulas, and the measured one. A blank is an empty string."""

    item: str
    key_bits: int | str = ""
    bits: int | str = ""
    cohort: int | str = ""
    published: float | str = ""
    batchcrypt: float | str = ""
    """By its formula, ``bits`` for the sum: a client's value has log₂(cohort) bits less."""
    batchcrypt_same: float | str = ""
    """By its formula, with ``bits`` for each client's value, as fedpriv has."""
    formula: float | str = ""
    fedpriv: float | str = ""


def batchcrypt_lanes(key_bits: int, bits: int) -> int:
    """The plaintexts of its Paillier stay below n/3."""
    return (key_bits - 2) // (bits + SIGN_AND_PADDING)


def fedpriv_lanes(key_bits: int, bits: int, cohort: int) -> int:
    """A lane is a digit up to the offset sum, 2·A·K; 64 bits count contributors; a plaintext is below 2^(key − 1)."""
    largest = 2 * (2 ** (bits - 1) - 1) * cohort
    return math.floor((key_bits - 1 - COUNTER_BITS) / math.log2(largest + 1))


def lanes_of(key_bits: int, bits: int, cohort: int) -> Lanes:
    bound = 2 ** (bits - 1) - 1
    return Lanes.of(Terms(length=1, input_bound=bound, cohort=cohort, domain=Bounded(cohort * bound)), key_bits - 1)


def values_per_plaintext(key_bits: int, bits: int, cohort: int) -> float:
    """Measured: pack all-constant vectors of both signs, the worst case, for every client; add; unpack; compare."""
    lanes, bound = lanes_of(key_bits, bits, cohort), 2 ** (bits - 1) - 1
    length = 3 * lanes.count
    for value in (bound, -bound):
        plaintexts = [cohort * one for one in lanes.pack(np.full(length, value, dtype=np.int64))]
        sums = [total for plaintext in plaintexts for total in lanes.unpack(plaintext, cohort)]
        if sums != [cohort * value] * length or max(plaintexts).bit_length() >= key_bits:
            raise SystemExit(f"The sum of {cohort} vectors of {value} is wrong at {key_bits} bits.")
    return length / len(plaintexts)


def packing() -> Iterator[Row]:
    """Values in one ciphertext, hence how many times fewer ciphertexts."""
    for lane in published("lane bits"):
        bits = int(lane["bits"])
        yield Row(
            item="lane bits",
            key_bits=2048,
            bits=bits,
            published=float(lane["value"]),
            batchcrypt=bits + SIGN_AND_PADDING,
        )
    stated = {(int(case["key_bits"]), int(case["bits"])): case for case in published("values per ciphertext")}
    for key_bits in KEYS:
        for bits in BITS:
            for cohort in COHORTS:
                case = stated.get((key_bits, bits))
                yield Row(
                    item="values per ciphertext",
                    key_bits=key_bits,
                    bits=bits,
                    cohort=cohort,
                    published=float(case["value"]) if case else "",
                    batchcrypt=batchcrypt_lanes(key_bits, bits),
                    batchcrypt_same=batchcrypt_lanes(key_bits, bits + math.ceil(math.log2(cohort))),
                    formula=fedpriv_lanes(key_bits, bits, cohort),
                    fedpriv=values_per_plaintext(key_bits, bits, cohort),
                )


def costs(key_bits: int, *, singles: int, packs: int) -> Iterator[Row]:
    """Bytes and CPU seconds of one value, packed and by itself, in one run; every sum is checked."""
    import phe  # type: ignore[import-untyped]

    row = partial(Row, key_bits=key_bits, bits=COST_BITS, cohort=COST_COHORT)
    lanes, bound = lanes_of(key_bits, COST_BITS, COST_COHORT), 2 ** (COST_BITS - 1) - 1
    values: Integers = np.random.default_rng(0).integers(-bound, bound + 1, packs * lanes.count, dtype=np.int64)

    secret = paillier.SecretKey(key_bits)
    plaintexts = list(lanes.pack(values))
    encrypt, ciphertexts = timed(secret.public.encrypt, plaintexts)
    decrypt, opened = timed(secret.decrypt, ciphertexts)
    if [value for one in opened for value in lanes.unpack(one, 1)] != values.tolist():
        raise SystemExit("Packed values come back wrong.")
    packed = {
        "bytes": sum(map(len, ciphertexts)) / len(values),
        "encryption, s": encrypt / len(values),
        "decryption, s": decrypt / len(values),
    }

    public, private = phe.generate_paillier_keypair(n_length=key_bits)
    numbers = (values[:singles] / bound).tolist()  # floats, as one uses phe
    encrypt, single = timed(public.encrypt, numbers)
    decrypt, back = timed(private.decrypt, single)
    if not np.allclose(back, numbers, rtol=1e-12, atol=0):
        raise SystemExit("Single values come back wrong.")
    alone = {
        "bytes": key_bits / 4,
        "encryption, s": encrypt / len(numbers),
        "decryption, s": decrypt / len(numbers),
    }
    limits = {
        "traffic": [float(published(f"traffic reduction {end}")[0]["value"]) for end in ("from", "to")],
    }
    for name in packed:
        yield row(item=f"{name} a value, alone", fedpriv=significant(alone[name]))
        yield row(item=f"{name} a value, packed", fedpriv=significant(packed[name]))
        yield row(
            item=f"{name}: times less",
            published="{:g} to {:g}".format(*limits["traffic"]) if name == "bytes" else "",
            formula=lanes.count,
            fedpriv=significant(alone[name] / packed[name]),
        )


def timed(function: Callable[[Any], Any], arguments: Sequence[Any]) -> tuple[float, list[Any]]:
    """CPU seconds, and the results."""
    started = time.process_time()
    results = [function(argument) for argument in arguments]
    return time.process_time() - started, results


def significant(value: float) -> float:
    return float(f"{value:.4g}")


def published(item: str) -> list[dict[str, str]]:
    return reproduction.read(HERE / "published.csv", item=item)


def main(arguments: list[str] | None = None) -> int:
    chosen = reproduction.parser(__doc__, quick="few values at 2048 bits; written nowhere by itself").parse_args(
        arguments
    )
    keys, singles, packs = (KEYS[:1], 16, 3) if chosen.quick else (KEYS, 200, 50)
    table = []
    for row in (*packing(), *(row for bits in keys for row in costs(bits, singles=singles, packs=packs))):
        print(
            f"{row.item:32} key {row.key_bits:>4}  b {row.bits:>2}  K {row.cohort:>3}  "
            f"published {row.published or '–':>9}  BatchCrypt {row.batchcrypt or '–':>4}, "
            f"b each {row.batchcrypt_same or '–':>4}  formula {row.formula or '–':>4}  fedpriv {row.fedpriv:>9}",
            flush=True,
        )
        table.append(vars(row))
    target = reproduction.target(chosen, HERE)
    if target:
        reproduction.write(target, table, environment=reproduction.environment("numpy", "phe", "gmpy2"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
