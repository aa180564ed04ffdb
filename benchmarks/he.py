"""Homomorphic averaging: every preset under every key model beside the usual settings of others, in one run.

Ten clients, 16-bit values. fedpriv's rows are real rounds through the protocol, with envelopes, checksums and the
checks of a sum; the others sum likewise and do no more: TenSEAL encrypts and serialises, loads, adds and serialises,
loads and decrypts; phe encrypts, adds and decrypts, and its ciphertexts are counted, not serialised. A row stops at the
sum. NVFlare's own server (``HEInTimeAccumulateWeightedAggregator``) goes on to multiply by 1/count, which takes it more
time and drops a modulus: 32 bytes down in the place of 57.6. NVFlare's clients start a ciphertext with every layer;
here all but the last are full.

Processor seconds for a million coordinates: encryption of one client, additions for all of them, decryption of the sum;
the least of three runs. Paillier is measured at a shorter length and scaled (``scaled_from``). The floor is that of
information: ⌈log₂(number of possible sums)⌉ bits a coordinate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import Row
from fedpriv.aggregation import BFV, CKKS, KeyAuthority, Paillier, Session, SharedClientKey, Terms, perform
from fedpriv.aggregation.homomorphic.keys import KeyModel
from fedpriv.aggregation.homomorphic.presets import PRESETS, LatticePreset, PaillierPreset
from fedpriv.aggregation.protocol import Aggregator
from fedpriv.encoding import Integers
from fedpriv.network import Network, StageCost, Wire
from fedpriv.threat import CLIENT, SERVER, Party, client_index

CLIENTS = 10
INPUT_BOUND = 2**15 - 1
"""16 bits a coordinate."""
LENGTH, PAILLIER_LENGTH, PHE_LENGTH = 1_000_000, 10_000, 200
QUICK = (20_000, 1_000, 10)
REPEATS = 3
MILLION = 1_000_000

NVFLARE = ("NVFlare's setting", "8192 [60,40,40], scale 2^40, symmetric", (60, 40, 40), True)
TUTORIAL = ("TenSEAL's tutorial", "8192 [60,40,40,60], scale 2^40, public key", (60, 40, 40, 60), False)
SCALE = 2.0**40


@dataclass(frozen=True)
class Measured:
    """For a vector of ``length`` coordinates."""

    length: int
    encrypt: float
    """CPU seconds of one client."""
    add: float
    """CPU seconds of the server, for all clients."""
    decrypt: float
    """CPU seconds of one holder of the key."""
    up: float
    """Bytes of a client's upload."""
    down: float
    """Bytes of the encrypted sum."""
    error: float
    """The largest error of a sum, in units of the encoded integers."""


def rows(*, quick: bool) -> Iterator[Row]:
    """One row for each setting; NVFlare's first, the others beside it."""
    length, paillier_length, phe_length = QUICK if quick else (LENGTH, PAILLIER_LENGTH, PHE_LENGTH)
    repeats = 1 if quick else REPEATS
    nvflare = _best([_tenseal(NVFLARE, length) for _ in range(repeats)])
    phe = _best([_phe(phe_length) for _ in range(repeats)])
    yield _row(*NVFLARE[:2], "shared key", nvflare, nvflare, phe)
    yield _row(*TUTORIAL[:2], "public key", _best([_tenseal(TUTORIAL, length) for _ in range(repeats)]), nvflare, phe)
    yield _row("phe, value by value", "modulus of 2048 bits", "public key", phe, nvflare, phe)
    for preset in PRESETS.values():
        for keys, name in ((KeyAuthority(), "key authority"), (SharedClientKey(), "shared key")):
            at = paillier_length if isinstance(preset, PaillierPreset) else length
            measured = _best([_round(_aggregator(preset, keys), at) for _ in range(repeats)])
            yield _row(preset.name, preset.text, name, measured, nvflare, phe)


def _row(setting: str, parameters: str, keys: str, it: Measured, nvflare: Measured, phe: Measured) -> Row:
    def million(seconds: float) -> float:
        return seconds * MILLION / it.length

    floor = math.ceil(math.log2(2 * CLIENTS * INPUT_BOUND + 1)) / 8
    return {
        "setting": setting,
        "parameters": parameters,
        "keys": keys,
        "encrypt_seconds": million(it.encrypt),
        "add_seconds": million(it.add),
        "decrypt_seconds": million(it.decrypt),
        "bytes_up": it.up / it.length,
        "bytes_down": it.down / it.length,
        "up_to_floor": it.up / it.length / floor,
        "error": it.error,
        "nvflare_encrypt_ratio": nvflare.encrypt / nvflare.length / (it.encrypt / it.length),
        "phe_encrypt_ratio": phe.encrypt / phe.length / (it.encrypt / it.length),
        "scaled_from": it.length,
        "clients": CLIENTS,
    }


def _best(runs: Sequence[Measured]) -> Measured:
    """The least time of each step."""
    first = runs[0]
    return Measured(
        length=first.length,
        encrypt=min(run.encrypt for run in runs),
        add=min(run.add for run in runs),
        decrypt=min(run.decrypt for run in runs),
        up=first.up,
        down=first.down,
        error=max(run.error for run in runs),
    )


def _vectors(length: int) -> Callable[[int], Integers]:
    """Client → its vector: one random vector, another sign and offset for each; the last client's is constant."""
    base = np.random.default_rng(0).integers(-INPUT_BOUND // 2, INPUT_BOUND // 2, length, dtype=np.int64)
    constant = np.full(length, INPUT_BOUND, dtype=np.int64)
    return lambda index: constant if index == CLIENTS - 1 else base * (-1) ** index + index


# --- fedpriv ------------------------------------------------------------------------------------------------------


def _aggregator(preset: LatticePreset | PaillierPreset, keys: KeyModel) -> Aggregator:
    if isinstance(preset, PaillierPreset):
        return Paillier(keys=keys, key_bits=preset.key_bits)
    return CKKS(keys=keys, preset=preset.name) if preset.scheme == "CKKS" else BFV(keys=keys, preset=preset.name)


def _round(aggregator: Aggregator, length: int) -> Measured:
    """One real round."""
    vector = _vectors(length)
    bound = CLIENTS * INPUT_BOUND
    domain = aggregator.domain(sum_bound=bound, length=length, cohort=CLIENTS)
    deployment = aggregator.deploy(Terms(length=length, input_bound=INPUT_BOUND, cohort=CLIENTS, domain=domain))
    session = Session(round=0, attempt=0, participants=tuple(range(CLIENTS)), context=b"benchmark")
    wire = Wire(Network())

    def inputs(parties: Sequence[Party]) -> Iterator[tuple[Party, Integers]]:
        return ((party, vector(client_index(party))) for party in parties)

    total = perform(deployment, session, wire, inputs, aggregator.threat_model.releaser).total
    expected = sum(vector(index) for index in range(CLIENTS))
    costs = {(row.stage, row.role): row for row in wire.costs}
    decryption = next(row for (stage, role), row in costs.items() if stage == "decrypt")
    return Measured(
        length=length,
        encrypt=costs["encrypt", CLIENT].cpu_seconds / CLIENTS,
        add=_server(wire.costs),
        decrypt=decryption.cpu_seconds / decryption.parties,
        up=costs["encrypt", CLIENT].bytes_sent / CLIENTS,
        down=next(row.bytes_received / row.parties for row in wire.costs if row.stage == "add" and row.role != SERVER),
        error=float(np.abs(total - expected).max()),
    )


def _server(costs: Sequence[StageCost]) -> float:
    return sum(row.cpu_seconds for row in costs if row.role == SERVER)


# --- others -------------------------------------------------------------------------------------------------------


def _tenseal(setting: tuple[str, str, tuple[int, ...], bool], length: int) -> Measured:
    """CKKS vectors of reals in ±1, a whole number of slots in each; integers are compared after scaling back."""
    import tenseal  # type: ignore[import-untyped]

    _, _, moduli, symmetric = setting
    kind = tenseal.ENCRYPTION_TYPE.SYMMETRIC if symmetric else tenseal.ENCRYPTION_TYPE.ASYMMETRIC
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=list(moduli), encryption_type=kind, n_threads=1
    )
    context.global_scale = SCALE
    slots, vector = 4096, _vectors(length)

    def encrypted(reals: npt.NDArray[np.float64]) -> list[bytes]:
        return [
            tenseal.ckks_vector(context, reals[at : at + slots].tolist()).serialize() for at in range(0, length, slots)
        ]

    first = vector(0) / INPUT_BOUND
    uploads, encrypt = _timed(lambda: encrypted(first))
    totals: list[Any] = []
    add = 0.0
    for index in range(CLIENTS):
        upload = uploads if index == 0 else encrypted(vector(index) / INPUT_BOUND)
        totals, spent = _timed(partial(_fold, tenseal, context, totals, upload))
        add += spent
    sent, spent = _timed(lambda: [total.serialize() for total in totals])
    found, decrypt = _timed(
        lambda: np.concatenate([np.array(tenseal.ckks_vector_from(context, one).decrypt()) for one in sent])
    )
    expected = sum(vector(index) for index in range(CLIENTS))
    error = float(np.abs(found * INPUT_BOUND - expected).max())
    return Measured(length, encrypt, add + spent, decrypt, sum(map(len, uploads)), sum(map(len, sent)), error)


def _fold(tenseal: Any, context: Any, totals: list[Any], upload: list[bytes]) -> list[Any]:
    loaded = [tenseal.ckks_vector_from(context, one) for one in upload]
    if not totals:
        return loaded
    for total, other in zip(totals, loaded, strict=True):
        total.add_(other)
    return totals


def _phe(length: int) -> Measured:
    """As phe's tutorial does it: each real number its own ciphertext."""
    from phe import paillier  # type: ignore[import-untyped]

    public, secret = paillier.generate_paillier_keypair(n_length=2048)
    vector = _vectors(length)
    uploads: list[list[Any]] = []
    encrypt = math.inf
    for index in range(CLIENTS):
        reals = (vector(index) / INPUT_BOUND).tolist()
        upload, spent = _timed(partial(list, map(public.encrypt, reals)))
        uploads, encrypt = [*uploads, upload], min(encrypt, spent)
    totals, add = _timed(lambda: [sum(column[1:], column[0]) for column in zip(*uploads, strict=True)])
    found, decrypt = _timed(lambda: np.array([secret.decrypt(total) for total in totals]))
    expected = sum(vector(index) for index in range(CLIENTS))
    size = 512.0 * length
    return Measured(length, encrypt, add, decrypt, size, size, float(np.abs(found * INPUT_BOUND - expected).max()))


def _timed(action: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    result = action()
    return result, time.process_time() - started
