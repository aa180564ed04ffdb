"""What an attempt without losses costs: bytes from the message formats, seconds from the primitives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedpriv.aggregation.protocol import Terms
from fedpriv.aggregation.secagg import messages as m
from fedpriv.aggregation.secagg.parameters import Parameters
from fedpriv.aggregation.secagg.reach import drawn
from fedpriv.aggregation.timing import cpu_seconds
from fedpriv.crypto import agreement, envelope, merkle, prg, shamir, signing, wire
from fedpriv.encoding import Ring
from fedpriv.network import StageCost
from fedpriv.threat import CLIENT, SERVER


def estimate(
    terms: Terms,
    ring: Ring,
    parameters: Parameters,
    *,
    signed: bool = False,
    masks: prg.MaskCipher = "aes-256-ctr",
) -> tuple[StageCost, ...]:
    """One attempt with every invited client, in which nobody is lost."""
    n, k, t = parameters.participants, parameters.degree, parameters.threshold
    whole = parameters.graph == "complete"
    bits = wire.packed_size(n, 1)
    told = bits if whole else wire.packed_size(k + 1, 1)
    held = n if whole else k  # shares that a client holds
    advertised = m.KEYS + (signing.SIGNATURE if signed else 0)
    opening = 0.0 if whole else _opening_bytes(n, k)
    envelopes = m.ENVELOPE * k
    speed = _speed()
    verify = _seconds_to_verify() if signed else 0.0
    mask = _seconds_to_start(masks) + terms.length * _seconds_per_word(wire.word_type(ring.bits).itemsize, masks)
    pack, unpack = _seconds_to_pack(ring.bits)
    shares = _seconds_to_share(held, t)
    open_shares = _seconds_to_open(held, t) if whole else n * _seconds_to_open(1, t) + n * k * _seconds_to_unpack()
    sign = verify / 2  # half of a verification, about
    confirmation = (
        (
            *_up(m.CONSISTENCY, n, signing.SIGNATURE, sign, n * verify),
            *_down(m.SIGNATURES, n, bits + signing.SIGNATURE * t, t * verify, 0.0),
        )
        if signed
        else ()
    )
    return (
        *_up(m.ADVERTISE, n, advertised, 2 * speed.key_pair + (sign if signed else 0.0), n * verify),
        *_down(m.ROSTER, n, bits + advertised * (k + 1) + opening, k * verify, 0.0),
        *_up(m.SHARE, n, agreement.KEY + envelopes, shares + k * speed.to_seal, 0.0),
        *_down(m.ROUTE, n, told + envelopes, 0.0, 0.0),
        *_up(
            m.MASKED,
            n,
            wire.packed_size(terms.length, ring.bits),
            (k + 1) * mask + k * speed.to_open + terms.length * pack,
            n * terms.length * unpack,
        ),
        *_down(m.SURVIVORS, n, told, 0.0, 0.0),
        *confirmation,
        *_up(m.UNMASK, n, m.SHARE_BYTES * held, 0.0, 0.0),
        _row(m.RECONSTRUCT, SERVER, 1, cpu=open_shares + n * (mask + 2 * speed.derive)),
    )


@lru_cache
def _opening_bytes(n: int, k: int) -> float:
    """The mean over the clients of one graph: how many hashes an opening needs varies with who the neighbours are."""
    reach = drawn(n, k, b"estimate")
    return sum(merkle.opening_size(n, reach.seats(position)) for position in range(n)) / n


def _up(stage: str, n: int, payload: int, client_seconds: float, server_seconds: float) -> tuple[StageCost, StageCost]:
    """Each client sends one message to the server."""
    size = n * (wire.FRAME + payload)
    return (
        _row(stage, CLIENT, n, messages=n, sent=size, cpu=n * client_seconds),
        _row(stage, SERVER, 1, received=size, cpu=server_seconds),
    )


def _down(
    stage: str, n: int, payload: float, client_seconds: float, server_seconds: float
) -> tuple[StageCost, StageCost]:
    """The server sends one message to each client."""
    size = round(n * (wire.FRAME + payload))
    return (
        _row(stage, CLIENT, n, received=size, cpu=n * client_seconds),
        _row(stage, SERVER, 1, messages=n, sent=size, cpu=server_seconds),
    )


def _row(
    stage: str, role: str, parties: int, *, messages: int = 0, sent: int = 0, received: int = 0, cpu: float
) -> StageCost:
    return StageCost(
        stage=stage,
        role=role,
        parties=parties,
        messages=messages,
        bytes_sent=sent,
        bytes_received=received,
        cpu_seconds=cpu,
        modelled_seconds=cpu / parties,
    )


@dataclass(frozen=True, kw_only=True)
class _Speed:
    """CPU seconds of one call of each primitive."""

    key_pair: float
    derive: float
    to_seal: float
    """Agree with a peer, derive both directions' keys, seal."""
    to_open: float
    """Open an envelope, agree on the mask, derive its key."""


@lru_cache(maxsize=1)
def _speed() -> _Speed:
    one, other = agreement.KeyPair(), agreement.KeyPair()
    key, context, shares = bytes(32), bytes(80), bytes(2 * m.SHARE_BYTES)
    sealed = envelope.seal(key, shares, context)
    agree = cpu_seconds(lambda: one.agree(other.public))
    derive = cpu_seconds(lambda: agreement.derive(key, salt=key, info=context))
    return _Speed(
        key_pair=cpu_seconds(agreement.KeyPair),
        derive=derive,
        to_seal=agree + 2 * derive + cpu_seconds(lambda: envelope.seal(key, shares, context)),
        to_open=agree + derive + cpu_seconds(lambda: envelope.unseal(key, sealed, context)),
    )


@lru_cache
def _seconds_to_start(masks: prg.MaskCipher) -> float:
    """A mask of one word."""
    few = np.zeros(1, dtype="<u4")
    return cpu_seconds(lambda: prg.mask(few, add=(bytes(32),), cipher=masks))


@lru_cache
def _seconds_per_word(itemsize: int, masks: prg.MaskCipher) -> float:
    target = np.zeros(4 * prg.PIECE // itemsize, dtype=f"<u{itemsize}")
    return cpu_seconds(lambda: prg.mask(target, add=(bytes(32),) * 4, cipher=masks)) / (4 * target.size)


@lru_cache
def _seconds_to_pack(bits: int) -> tuple[float, float]:
    """Of one value: to pack (and hash the frame), to unpack (and check it)."""
    values = np.zeros(1 << 16, dtype=wire.word_type(bits))
    tag = bytes(wire.TAG)
    packed = wire.pack_bits(values, bits)
    framed = wire.frame(tag, packed)
    there = cpu_seconds(lambda: wire.frame(tag, wire.pack_bits(values, bits)))
    back = cpu_seconds(lambda: wire.unpack_bits(wire.unframe(tag, framed), values.size, bits, values.dtype))
    return there / values.size, back / values.size


@lru_cache
def _seconds_to_share(n: int, threshold: int) -> float:
    secrets = np.zeros(2 * m.LIMBS, dtype=np.int64)
    return cpu_seconds(
        lambda: shamir.pack(shamir.split(secrets, threshold=threshold, points=range(1, n + 1))), repeat=1
    )


@lru_cache
def _seconds_to_open(n: int, threshold: int) -> float:
    answer = bytes(n * m.SHARE_BYTES)
    unpacked = cpu_seconds(lambda: shamir.unpack(answer, m.LIMBS), repeat=1)
    shares = np.zeros((threshold, n * m.LIMBS), dtype=np.int64)
    return 2 * n * unpacked + cpu_seconds(lambda: shamir.combine(range(1, threshold + 1), shares), repeat=1)


@lru_cache(maxsize=1)
def _seconds_to_unpack() -> float:
    """One share."""
    answers = bytes(64 * m.SHARE_BYTES)
    return cpu_seconds(lambda: shamir.unpack(answers, m.LIMBS)) / 64


@lru_cache(maxsize=1)
def _seconds_to_verify() -> float:
    key = signing.SigningKey()
    signature = key.sign(bytes(32))
    return cpu_seconds(lambda: signing.verify(key.public, signature, bytes(32)))
