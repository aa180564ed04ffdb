"""Key recovery over parameters and releases: ``python papers/li-micciancio2021/reproduce.py [--quick]``."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedpriv import attacks
from fedpriv.crypto import lattice
from fedpriv.crypto.lattice import raw, ring
from fedpriv.report import reproduction

HERE = Path(__file__).resolve().parent
CLIENTS = 10
GRID = 2.0**-15
"""Clients send multiples of it, so that an exact sum exists."""
TRIALS = 10
"""Keys for each setting."""
QUICK = 8192
Vector = npt.NDArray[np.number[Any]]


@dataclass(frozen=True)
class Seen:
    """One trial: what the observer sees, and the truth beside it."""

    ciphertexts: list[attacks.RawCiphertext]
    floats: list[Vector]
    """Raw decryptions."""
    sums: list[Vector]
    """The exact sums of what clients sent, in the same form."""
    key: npt.NDArray[np.int8] | None = None
    """The true key, where it can be had without the attack; never given to it."""


@dataclass(frozen=True)
class Setting:
    """Parameters, and how a trial under a fresh key is made."""

    name: str
    degree: int
    scale_bits: int
    see: Callable[[int], Seen]
    releases: tuple[str, ...]
    published: str = ""


class Outcome(NamedTuple):
    """Of one attack."""

    succeeded: bool
    seconds: float
    wrong: float | None
    exact: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cell. A blank is an empty string."""

    setting: str
    degree: int
    scale_bits: int
    release: str
    ciphertexts: int
    trials: int
    recovered: int
    seconds: float
    """CPU, the median over trials, for the attack alone."""
    wrong_coefficients: float | str
    """Share of the coefficients that the release does not determine, by the true key: the attack needs 0."""
    exact: float
    """Share of released values that are the exact sum."""
    published: str = ""


def updates(seed: int, ciphertexts: int, slots: int) -> npt.NDArray[np.float64]:
    """``[clients, ciphertexts, slots]``, N(0, 0.05²) on the grid."""
    drawn = np.random.default_rng(seed).normal(0, 0.05, (CLIENTS, ciphertexts, slots))
    return np.rint(drawn / GRID) * GRID


def tenseal_setting(degree: int, moduli: tuple[int, ...], scale_bits: int, *, symmetric: bool) -> Callable[[int], Seen]:
    """Two ciphertexts of one sum (or of two rounds), real parts released: TenSEAL's own way."""

    def see(seed: int) -> Seen:
        import tenseal  # type: ignore[import-untyped]

        kind = tenseal.ENCRYPTION_TYPE.SYMMETRIC if symmetric else tenseal.ENCRYPTION_TYPE.ASYMMETRIC
        context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=list(moduli), encryption_type=kind, n_threads=1
        )
        context.global_scale = 2.0**scale_bits
        public = context.serialize(save_secret_key=False, save_public_key=False, save_relin_keys=False)
        values = updates(seed, 2, degree // 2)
        aggregates = []
        for part in range(2):
            total = tenseal.ckks_vector(context, values[0, part].tolist())
            for client in range(1, CLIENTS):
                total += tenseal.ckks_vector(context, values[client, part].tolist())
            aggregates.append(total)
        return Seen(
            [attacks.read_tenseal(public, one.serialize())[0] for one in aggregates],
            [np.array(one.decrypt()) for one in aggregates],
            list(values.sum(axis=0)),
        )

    return see


def authors_setting(degree: int, scale_bits: int) -> Callable[[int], Seen]:
    """The authors' program for SEAL, function "noop": one fresh ciphertext, complex slots with parts in [−1, 1]."""

    def see(seed: int) -> Seen:
        import tenseal.sealapi as seal  # type: ignore[import-untyped]

        parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        parameters.set_poly_modulus_degree(degree)
        parameters.set_coeff_modulus(seal.CoeffModulus.Create(degree, [60, scale_bits, 60]))
        context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        keys, public, encoder = seal.KeyGenerator(context), seal.PublicKey(), seal.CKKSEncoder(context)
        keys.create_public_key(public)
        drawn = np.rint(np.random.default_rng(seed).uniform(-1, 1, (2, degree // 2)) / GRID) * GRID
        slots = drawn[0] + 1j * drawn[1]
        plain, opened, sealed = seal.Plaintext(), seal.Plaintext(), seal.Ciphertext()
        encoder.encode(slots.tolist(), 2.0**scale_bits, plain)
        seal.Encryptor(context, public).encrypt(plain, sealed)
        seal.Decryptor(context, keys.secret_key()).decrypt(sealed, opened)
        prime = context.first_context_data().parms().coeff_modulus()[0].value()
        stride = degree * sealed.coeff_modulus_size()
        words = np.array([[sealed[start + i] for i in range(degree)] for start in (0, stride)], dtype=object)
        seen = attacks.RawCiphertext(parts=ring.from_seal(words, prime), modulus=prime, scale=sealed.scale)
        return Seen([seen], [np.array(encoder.decode_complex(opened))], [slots])

    return see


def fedpriv_setting(code: lattice.CKKSCode, bound: int) -> Callable[[int], Seen]:
    """One aggregate ciphertext of fedpriv's: integers within ±bound, real and imaginary."""

    def see(seed: int) -> Seen:
        key, adder = lattice.SecretKey(code), lattice.Adder(code)
        vectors = np.random.default_rng(seed).integers(-bound, bound + 1, (CLIENTS, code.slots), dtype=np.int64)
        total = adder.load(key.public.encrypt(vectors[0]))
        for vector in vectors[1:]:
            adder.add(total, adder.load(key.public.encrypt(vector)))
        data = total.to_bytes()
        released = attacks.slots_of(key.decrypt(data, additions=CLIENTS))  # what fedpriv releases
        if not np.array_equal(released, attacks.slots_of(vectors.sum(axis=0))):
            raise SystemExit("fedpriv released a wrong sum.")
        seen = [attacks.read_ckks(code, data)]
        return Seen(seen, [raw.floats(key, data)], [released], raw.secret_coefficients(key))

    return see


def fedpriv_code(degree: int, moduli: tuple[int, ...], bound: int, lower: int) -> lattice.CKKSCode:
    """At the largest scale for these sums, or ``lower`` bits below it."""
    parameters = lattice.CKKSParameters(degree=degree, moduli=moduli)
    return lattice.CKKSCode(parameters, parameters.scale_for(2 * CLIENTS * bound) / 2**lower)


def settings() -> Iterator[Setting]:
    rounded = ("float64", "float32", *(f"{decimals} decimals" for decimals in (15, 12, 9, 6, 3)), "exact grid")
    yield Setting(
        "the authors' program for SEAL, noop",
        2**15,
        40,
        authors_setting(2**15, 40),
        rounded,
        published="complete, with high probability",
    )
    for name, degree, moduli, scale_bits, symmetric in (
        ("NVFlare: TenSEAL (60, 40, 40)", 8192, (60, 40, 40), 40, True),
        ("TenSEAL's tutorial (60, 40, 40, 60)", 8192, (60, 40, 40, 60), 40, False),
        ("TenSEAL (40, 60)", 4096, (40, 60), 36, False),
        ("TenSEAL (40, 20, 40)", 4096, (40, 20, 40), 20, False),
    ):
        see = tenseal_setting(degree, moduli, scale_bits, symmetric=symmetric)
        yield Setting(name, degree, scale_bits, see, rounded)
    for degree, primes, bits, lower in ((2048, (54,), 8, 0), (4096, (60, 49), 16, 0), (4096, (60, 49), 16, 3)):
        bound = 2 ** (bits - 1) - 1
        code = fedpriv_code(degree, primes, bound, lower)
        yield Setting(
            f"fedpriv {', '.join(map(str, primes))}; {bits} bits",
            degree,
            int(np.log2(code.scale)),
            fedpriv_setting(code, bound),
            ("float64", "float32", "3 decimals", "exact grid"),
        )


def release(kind: str, seen: Seen) -> list[Vector]:
    """The raw decryptions as they leave the decryptor."""
    if kind == "float64":
        return seen.floats
    if kind == "float32":
        return [values.astype(np.complex64 if np.iscomplexobj(values) else np.float32) for values in seen.floats]
    if kind == "exact grid":
        unit = 1.0 if _whole(seen.sums) else GRID
        return [np.round(values / unit) * unit for values in seen.floats]
    return [np.round(values, int(kind.split()[0])) for values in seen.floats]


def _whole(sums: list[Vector]) -> bool:
    return all(np.array_equal(values, np.round(values)) for values in sums)


def wrong_coefficients(seen: Seen, released: list[Vector], key: npt.NDArray[np.int8]) -> float:
    """By the true key: where encoding the release differs from the decrypted polynomial."""
    shares = []
    for ciphertext, values in zip(seen.ciphertexts, released, strict=True):
        q = ciphertext.modulus
        product = ring.evaluate(ciphertext.parts[1], q) * ring.evaluate(key.astype(object), q) % q
        message = ciphertext.parts[0] + ring.interpolate(product, q)
        if not np.iscomplexobj(values):  # m(X) + m(1/X) is what real parts can tell
            message, values = message + np.concatenate([message[:1], -message[:0:-1]]), 2 * values
        shares.append(np.mean((message - ring.encode(values, ciphertext.scale)) % q != 0))
    return float(np.mean(shares))


def measure(setting: Setting, trials: int) -> Iterator[Row]:
    cells: dict[str, list[Outcome]] = {kind: [] for kind in setting.releases}
    ciphertexts = 0
    for seed in range(trials):
        seen = setting.see(seed)
        ciphertexts = len(seen.ciphertexts)
        key = seen.key
        for kind in setting.releases:  # float64 first: the key that it gives measures the others
            released = release(kind, seen)
            started = time.process_time()
            found = attacks.ckks_key_recovery(seen.ciphertexts, released)
            seconds = time.process_time() - started
            key = found.key if key is None else key
            wrong = None if key is None else wrong_coefficients(seen, released, key)
            exact = float(np.mean([np.mean(a == b) for a, b in zip(released, seen.sums, strict=True)]))
            cells[kind].append(Outcome(found.succeeded, seconds, wrong, exact))
    for kind, outcomes in cells.items():
        known = [one.wrong for one in outcomes if one.wrong is not None]
        yield Row(
            setting=setting.name,
            degree=setting.degree,
            scale_bits=setting.scale_bits,
            release=kind,
            ciphertexts=ciphertexts,
            trials=trials,
            recovered=sum(one.succeeded for one in outcomes),
            seconds=round(statistics.median(one.seconds for one in outcomes), 3),
            wrong_coefficients=float(f"{np.mean(known):.4g}") if known else "",
            exact=round(statistics.mean(one.exact for one in outcomes), 4),
            published=setting.published if kind == "float64" else "",
        )


def main(arguments: list[str] | None = None) -> int:
    chosen = reproduction.parser(
        __doc__, quick=f"one key for each setting up to degree {QUICK}; written nowhere by itself"
    ).parse_args(arguments)
    table = []
    wanted = [setting for setting in settings() if setting.degree <= QUICK or not chosen.quick]
    for row in (row for setting in wanted for row in measure(setting, 1 if chosen.quick else TRIALS)):
        print(
            f"{row.setting:36} n {row.degree:>5}  scale 2^{row.scale_bits:<2}  {row.release:11}  "
            f"key {row.recovered:>2} of {row.trials:<2}  {row.seconds:.3f} s  "
            f"wrong coefficients {row.wrong_coefficients!s:>9}  exact values {row.exact:.1%}",
            flush=True,
        )
        table.append(vars(row))
    target = reproduction.target(chosen, HERE)
    if target:
        reproduction.write(target, table, environment=reproduction.environment("numpy", "tenseal"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
