"""The graph of SecAgg+: how many neighbours a client needs, what threshold, and who the neighbours are.

Reference: Bell et al. 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS. The criteria are
those that Google publishes with its implementation (google-parfait/federated-compute, ``graph_parameter_finder``).
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fedpriv.crypto import wire
from fedpriv.errors import ConfigurationError, PlanError

FEASIBLE = Fraction(9, 10)
"""The most that corrupt and lost clients may be together (the lost counted twice where the server is semi-malicious):
beyond it the degree grows towards n."""


@dataclass(frozen=True, kw_only=True)
class GraphParameters:
    """What a randomly relabelled Harary graph guarantees: a client shares its keys with its k neighbours, t of them."""

    participants: int
    """n: the vertices."""
    corrupt: int
    """c = ⌊corrupt · n⌋: the clients that may collude with the server."""
    dropouts: int
    """f = ⌊dropout · n⌋: the clients that may be lost."""
    degree: int
    """k: the neighbours of each client; even."""
    threshold: int
    """t: the shares that open a secret, among those of the k neighbours."""
    semi_malicious: bool
    """Whether the server may also tell neighbours different survivor sets."""
    privacy_failure_bits: float
    """−log2 of a bound on the probability, over the graph, that the corrupt clients and the losses expose a client."""
    correctness_failure_bits: float
    """−log2 of a bound on the probability that some client keeps fewer than t neighbours."""


def regular_graph(
    participants: int,
    *,
    corrupt: float | Fraction,
    dropout: float | Fraction,
    semi_malicious: bool = False,
    security_bits: int = 40,
    correctness_bits: int = 20,
) -> GraphParameters:
    """The least even degree k, and its threshold t, that meet the published criteria for n clients.

    With c = ⌊corrupt · n⌋, f = ⌊dropout · n⌋ and σ, η the bits of security and of correctness:

    (a) n(n − k − 1)/2 · P[k given clients are all corrupt or lost] < 2^-(σ+1): the honest survivors stay connected;
    (b) n · P[more than t₁ of k neighbours are corrupt] < 2^-(σ+1), and t = t₁ + 1;
        semi-malicious: 2t ≥ k + t₁ + 1, so that no two survivor lists open both secrets of a client;
    (c) n · P[fewer than t of k neighbours survive] < 2^-η, t ≥ 2.

    Guarantees: both failure probabilities, over the choice of the graph, for any set of c corrupt clients and f lost
        ones that does not depend on it. The union bound counts all n clients, so that it covers a client's neighbours
        being drawn among the n − 1 others.
    Assumes: the relabelling is uniform and drawn after the roster and the corrupt clients are fixed.
    Does not hide: the graph. A semi-malicious threshold alone protects nobody: the protocol's acknowledgement step,
        without which the server is honest-but-curious, is not part of it.
    Reference: Bell et al. 2020, Sections 3 and 4.

    Args:
        participants: n.
        corrupt: the share of clients that may collude with the server; ``Fraction(c, n)`` states a count exactly.
        dropout: the share of clients that may be lost; likewise.
        semi_malicious: the stricter threshold of the semi-malicious server.
        security_bits: σ.
        correctness_bits: η.

    Raises:
        PlanError: no degree below n − 1 meets the criteria.
        ConfigurationError: an argument out of its range.
    """
    n = participants
    if n < 1 or security_bits < 1 or correctness_bits < 1:
        raise ConfigurationError(
            "A graph has at least one client, and at least one bit of security and of correctness.",
            value=(n, security_bits, correctness_bits),
            remedy="The usual are 40 bits of security and 20 of correctness.",
        )
    gamma, delta = _share("corrupt", corrupt), _share("dropout", dropout)
    burden = gamma + (2 if semi_malicious else 1) * delta
    if burden > FEASIBLE:
        raise PlanError(
            f"corrupt + {'2 · ' if semi_malicious else ''}dropout is at most {float(FEASIBLE)} in a regular graph.",
            value=float(burden),
            remedy="Lower corrupt or dropout, or use the complete graph.",
        )
    c, f = math.floor(gamma * n), math.floor(delta * n)
    privacy = -(security_bits + 1) * math.log(2)
    correctness = -correctness_bits * math.log(2)
    k = 2
    while k < n - 1:
        if _disconnected(n, c + f, k) >= privacy:
            k += 2
            continue
        exposed = _least(lambda t: math.log(n) + _log_tail(n, c, k, t) < privacy, k)  # noqa: B023
        t = max(2, (k + exposed + 1) // 2 if semi_malicious else exposed)
        most = _least(lambda t: math.log(n) + _log_tail(n, f, k, k - t) >= correctness, k)  # noqa: B023
        if t <= most:
            collusion = _log_tail(n, c, k, 2 * t - k if semi_malicious else t)
            return GraphParameters(
                participants=n,
                corrupt=c,
                dropouts=f,
                degree=k,
                threshold=t,
                semi_malicious=semi_malicious,
                privacy_failure_bits=_bits(_log_sum(_disconnected(n, c + f, k), math.log(n) + collusion)),
                correctness_failure_bits=_bits(math.log(n) + _log_tail(n, f, k, k - t + 1)),
            )
        # With two more neighbours t does not fall and `most` rises by at most two: nothing is skipped.
        k += 2 * -(-(t - most) // 2)
    raise PlanError(
        f"A regular graph has a degree below n − 1 that keeps {c} corrupt clients out and bears {f} losses, "
        f"with {security_bits} bits of security and {correctness_bits} of correctness.",
        value=n,
        remedy="Use the complete graph, invite more clients, or lower corrupt or dropout.",
    )


def neighbours(members: Sequence[int], degree: int, seed: bytes) -> Mapping[int, tuple[int, ...]]:
    """Each member's neighbours, in increasing order: a Harary graph on a ring in an order drawn from the seed.

    A member is joined to the ``degree / 2`` members before and after it on the ring; with ``degree`` at least
    ``len(members) − 1``, to all others.

    Guarantees: everybody with the same members, degree and seed has the same graph. The order is uniform if SHA-256 of
        the seed and a member behaves as a random function.
    Assumes: the seed is fixed after the members are, and by no party alone (a hash of their keys, for instance).
    Does not hide: the graph, from anybody who knows the seed.

    Args:
        members: distinct, in [0, 2^32).
        degree: even, ≥ 2, or at least ``len(members) − 1``.
        seed: public bytes.

    Raises:
        ConfigurationError: members that repeat, or a degree that no ring has.
    """
    n = len(members)
    if len(set(members)) != n or degree < 0 or (degree < n - 1 and (degree < 2 or degree % 2)):
        raise ConfigurationError(
            "A Harary graph has distinct members and an even degree of at least 2.",
            value=(n, degree),
            remedy="Take the degree from regular_graph.",
        )
    if degree >= n - 1:
        everybody = tuple(sorted(members))
        return {member: tuple(other for other in everybody if other != member) for member in members}
    keyed = hashlib.sha256(wire.prefixed(b"fedpriv/secagg/graph/v1", seed))
    ring = np.array(sorted(members, key=lambda member: _draw(keyed, member)), dtype=np.int64)
    half = degree // 2
    offsets = [offset for offset in range(-half, half + 1) if offset]
    rows = np.sort(ring[(np.arange(n)[:, None] + offsets) % n], axis=1)
    return dict(zip(ring.tolist(), map(tuple, rows.tolist()), strict=True))


def _draw(keyed: hashlib._Hash, member: int) -> bytes:
    drawn = keyed.copy()
    drawn.update(wire.u32(member))
    return drawn.digest()


def _share(name: str, share: float | Fraction) -> Fraction:
    """The fraction that was meant: 0.1 is a tenth and 1/3 a third, so that ⌊share · n⌋ is not one too low."""
    if isinstance(share, bool) or not isinstance(share, int | float | Fraction) or not 0 <= share < 1:
        raise ConfigurationError(
            f"{name} is a share of the clients, in [0, 1).", value=share, remedy="Give a fraction, e.g. 0.1."
        )
    return share if isinstance(share, Fraction) else Fraction(share).limit_denominator(10**12)


def _disconnected(n: int, bad: int, k: int) -> float:
    """Criterion (a), as a natural logarithm. To cut a ring graph takes two runs of k/2 neighbouring bad vertices."""
    return math.log(n) + math.log(n - k - 1) - math.log(2) + _log_tail(n, bad, k, k)


def _log_tail(n: int, marked: int, drawn: int, least: int) -> float:
    """The logarithm of P[X ≥ least], X hypergeometric: how many of ``drawn`` out of n are among the ``marked``."""
    if least <= max(0, drawn + marked - n):
        return 0.0
    if least > min(marked, drawn):
        return -math.inf
    if least * n <= marked * drawn:  # at or below the mean: sum the other, smaller tail
        return math.log1p(-math.exp(_log_tail(n, n - marked, drawn, drawn - least + 1)))
    first = _log_choose(marked, least) + _log_choose(n - marked, drawn - least) - _log_choose(n, drawn)
    total, term, x = 1.0, 1.0, least
    while x < min(marked, drawn) and term > total * 1e-17:
        term *= (marked - x) * (drawn - x) / ((x + 1) * (n - marked - drawn + x + 1))
        total += term
        x += 1
    return first + math.log(total)


def _least(holds: Callable[[int], bool], most: int) -> int:
    """The least of 0 … most + 1 for which it holds; it holds from there on."""
    return bisect.bisect_left(range(most + 1), True, key=holds)


def _log_sum(one: float, other: float) -> float:
    """The logarithm of e^one + e^other."""
    high = max(one, other)
    return high if high == -math.inf else high + math.log1p(math.exp(min(one, other) - high))


def _bits(log_probability: float) -> float:
    return max(0.0, -log_probability / math.log(2))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
