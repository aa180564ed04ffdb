"""The degree and threshold of SecAgg+, and the graph itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.aggregation.secagg.graph import GraphParameters, _log_tail, neighbours, regular_graph
from fedpriv.errors import ConfigurationError, PlanError

Z = 4.9
"""Of a normal variable: two-sided alpha = 1e-6."""

PUBLISHED = [
    (n, 0.05, 0.05, semi_malicious, expected)
    for semi_malicious, row in {
        False: [(12, 6), (30, 17), (34, 20), (36, 21), (38, 22)],
        True: [(16, 11), (52, 37), (62, 44), (68, 48), (74, 52)],
    }.items()
    for n, expected in zip([100, 1000, 10**4, 10**5, 10**6], row, strict=True)
]
"""google-parfait/federated-compute, graph_parameter_finder_test.cc."""

RECOMPUTED = [
    (n, share, share, semi_malicious, expected)
    for share, semi_malicious, row in [
        (0.05, False, [(12, 6), (20, 11), (30, 17), (34, 20)]),
        (0.05, True, [(16, 11), (30, 21), (52, 37), (62, 44)]),
        (0.10, False, [(22, 11), (34, 19), (48, 27), (54, 31)]),
        (0.10, True, [(32, 22), (56, 39), (96, 67), (122, 85)]),
        (0.20, False, [(40, 21), (62, 34), (98, 54), (122, 67)]),
        (0.20, True, [(62, 42), (118, 80), (302, 206), (482, 328)]),
        (1 / 3, False, [(68, 34), (122, 64), (292, 154), (442, 231)]),
    ]
    for n, expected in zip([100, 200, 1000, 10**4], row, strict=True)
]
"""An independent computation from the same criteria."""


def pair(parameters: GraphParameters) -> tuple[int, int]:
    return parameters.degree, parameters.threshold


@pytest.mark.parametrize(("n", "corrupt", "dropout", "semi_malicious", "expected"), PUBLISHED + RECOMPUTED)
def test_the_published_table(
    n: int, corrupt: float, dropout: float, semi_malicious: bool, expected: tuple[int, int]
) -> None:
    found = regular_graph(n, corrupt=corrupt, dropout=dropout, semi_malicious=semi_malicious)
    assert pair(found) == expected
    assert found.privacy_failure_bits >= 40
    assert found.correctness_failure_bits >= 20


def test_the_largest_published_cases_are_quick() -> None:
    assert pair(regular_graph(10**6, corrupt=0.3, dropout=0.3, semi_malicious=True)) == (11136, 7454)
    assert pair(regular_graph(10**6, corrupt=0.45, dropout=0.45)) == (6240, 3156)


@given(st.data())
def test_tails_are_the_exact_ones(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    marked, drawn = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    least = data.draw(st.integers(-1, drawn + 1))
    exact = tail(n, marked, drawn, least)
    found = _log_tail(n, marked, drawn, least)
    assert found == -math.inf if exact == 0 else math.isclose(math.exp(found), float(exact), rel_tol=1e-10)


def test_tails_keep_their_precision_far_out() -> None:
    exact = tail(10**4, 500, 34, 20)
    assert math.isclose(_log_tail(10**4, 500, 34, 20), math.log(exact.numerator) - math.log(exact.denominator))


@pytest.mark.parametrize("semi_malicious", [False, True])
@pytest.mark.parametrize(("n", "corrupt", "dropout"), [(30, 0.1, 0.1), (60, 0.2, 0.2), (80, 0.0, 0.3), (120, 0.1, 0.2)])
def test_no_smaller_degree_meets_the_criteria(n: int, corrupt: float, dropout: float, semi_malicious: bool) -> None:
    """The search leaves out degrees that cannot do; here every degree and threshold is tried, with exact fractions."""
    found = regular_graph(
        n, corrupt=corrupt, dropout=dropout, semi_malicious=semi_malicious, security_bits=12, correctness_bits=6
    )
    c, f = round(corrupt * n), round(dropout * n)
    fits = [
        (k, t)
        for k in range(2, n - 1, 2)
        for t in range(2, k + 1)
        if Fraction(n * (n - k - 1), 2) * tail(n, c + f, k, k) < Fraction(1, 2**13)
        and n * tail(n, c, k, 2 * t - k if semi_malicious else t) < Fraction(1, 2**13)
        and n * tail(n, f, k, k - t + 1) < Fraction(1, 2**6)
    ]
    assert pair(found) == min(fits)


@pytest.mark.parametrize("semi_malicious", [False, True])
def test_more_clients_corruption_or_losses_never_need_less(semi_malicious: bool) -> None:
    def found(n: int, corrupt: float, dropout: float) -> tuple[int, int]:
        return pair(regular_graph(n, corrupt=corrupt, dropout=dropout, semi_malicious=semi_malicious))

    shares = [0.02, 0.05, 0.1, 0.15, 0.2, 0.25]
    for other in (0.05, 0.2):
        by_corruption = [found(1000, share, other) for share in shares]
        by_losses = [found(1000, other, share) for share in shares]
        by_size = [found(n, other, other) for n in (200, 400, 800, 1600, 3200, 10**5, 10**6)]
        for row in (by_corruption, by_losses, by_size):
            assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(row)), row


def test_counts_are_those_of_the_shares_as_written() -> None:
    assert regular_graph(100, corrupt=0.29, dropout=0.07).corrupt == 29  # 0.29 * 100 is 28.999…
    assert regular_graph(300, corrupt=1 / 3, dropout=0.1).corrupt == 100
    assert regular_graph(1000, corrupt=Fraction(37, 1000), dropout=0.1).corrupt == 37


def test_more_bits_cost_more_neighbours() -> None:
    weak, strong = (regular_graph(1000, corrupt=0.1, dropout=0.1, security_bits=bits) for bits in (20, 80))
    assert weak.degree < strong.degree
    assert strong.privacy_failure_bits >= 80


@pytest.mark.parametrize(
    ("n", "corrupt", "dropout", "semi_malicious"),
    [
        (1000, 0.5, 0.5, False),
        (1000, 0.5, 0.5, True),
        (1000, 0.33, 0.33, True),
        (1000, 1 / 3, 1 / 3, True),
        (20, 0.45, 0.45, False),
        (3, 0.0, 0.0, False),
    ],
)
def test_refusals_name_the_remedy(n: int, corrupt: float, dropout: float, semi_malicious: bool) -> None:
    with pytest.raises(PlanError, match="complete graph"):
        regular_graph(n, corrupt=corrupt, dropout=dropout, semi_malicious=semi_malicious)


@pytest.mark.parametrize(
    ("n", "corrupt", "dropout"), [(0, 0.1, 0.1), (1000, 0.1, 1.0), (1000, 0.1, -1.0), (9, True, 0)]
)
def test_arguments_out_of_range(n: int, corrupt: float, dropout: float) -> None:
    with pytest.raises(ConfigurationError):
        regular_graph(n, corrupt=corrupt, dropout=dropout)


@given(st.sets(st.integers(0, 2**32 - 1), min_size=2, max_size=40), st.integers(1, 25), st.binary(max_size=8))
def test_a_graph_is_regular_symmetric_and_connected(members: set[int], half: int, seed: bytes) -> None:
    graph = neighbours(sorted(members), 2 * half, seed)
    assert set(graph) == members
    for member, others in graph.items():
        assert len(others) == len(set(others)) == min(2 * half, len(members) - 1)
        assert list(others) == sorted(others)
        assert member not in others
        assert all(member in graph[other] for other in others)
    assert connected(graph, members)


def test_a_graph_depends_on_members_and_seed_and_nothing_else() -> None:
    assert neighbours([3, 5, 9, 11, 20, 31], 2, b"a") == neighbours([31, 5, 9, 3, 20, 11], 2, b"a")
    graphs = {str(sorted(neighbours(range(12), 4, seed).items())) for seed in (b"", b"a", b"b", b"ab")}
    assert len(graphs) == 4


@pytest.mark.parametrize(("members", "degree"), [([1, 1, 2, 3, 4], 2), (range(10), 3), (range(10), 0), (range(4), -2)])
def test_no_such_graph(members: list[int], degree: int) -> None:
    with pytest.raises(ConfigurationError):
        neighbours(members, degree, b"seed")


@pytest.mark.statistical
def test_every_pair_is_joined_equally_often() -> None:
    """20,000 graphs; χ² over the 66 pairs of 12 clients. Power: a ring in which one pair never meets is seen."""
    counts = np.zeros((12, 12))
    for trial in range(20_000):
        for member, others in neighbours(range(12), 4, trial.to_bytes(4, "big")).items():
            counts[member, list(others)] += 1
    joined = counts[np.triu_indices(12, 1)]
    expected = 20_000 * 4 / 11
    spread = math.sqrt(expected * (1 - 4 / 11))
    assert np.abs(joined - expected).max() < (Z + 1) * spread  # Bonferroni over 66 pairs
    assert np.abs(np.append(joined, 0) - expected).max() > (Z + 1) * spread


@pytest.mark.statistical
def test_how_many_clients_are_exposed_and_stranded() -> None:
    """4,000 real graphs at weak bits: the mean counts are the n · P of criteria (b) and (c); of t ± 1 they are not."""
    found = regular_graph(60, corrupt=0.2, dropout=0.4, security_bits=3, correctness_bits=2)
    n, c, f, k, t = found.participants, found.corrupt, found.dropouts, found.degree, found.threshold
    corrupt, surviving = np.arange(n) < c, np.arange(n) >= f
    exposed = np.empty((4000, 3))
    stranded = np.empty((4000, 3))
    failed = np.empty((4000, 2))
    for trial in range(4000):
        graph = neighbours(range(n), k, trial.to_bytes(4, "big"))
        rows = np.array([graph[member] for member in range(n)])
        for column, threshold in enumerate((t - 1, t, t + 1)):
            exposed[trial, column] = np.count_nonzero(corrupt[rows].sum(axis=1) >= threshold)
            stranded[trial, column] = np.count_nonzero(surviving[rows].sum(axis=1) < threshold)
        failed[trial] = exposed[trial, 1] > 0, stranded[trial, 1] > 0
    for counts, theory in ((exposed, tail(n, c, k, t)), (stranded, tail(n, f, k, k - t + 1))):
        spread = np.maximum(counts.std(axis=0), math.sqrt(n * theory))  # as of rare events, where none was seen
        error = np.abs(counts.mean(axis=0) - n * float(theory)) / (spread / math.sqrt(4000))
        assert error[1] < Z
        assert error[0] > Z
        assert error[2] > Z
    bounds = 2.0 ** -np.array([found.privacy_failure_bits, found.correctness_failure_bits])
    assert np.all(failed.mean(axis=0) <= bounds + Z * np.sqrt(bounds / 4000))


@pytest.mark.statistical
def test_how_often_the_honest_survivors_fall_apart() -> None:
    """10,000 real graphs: criterion (a) bounds it and is not far off; two thirds of the bound would not hold."""
    n, bad, k = 60, 6, 4
    bound = n * (n - k - 1) / 2 * float(tail(n, bad, k, k))
    good = set(range(bad, n))
    apart = np.mean([not connected(neighbours(range(n), k, trial.to_bytes(4, "big")), good) for trial in range(10_000)])
    error = math.sqrt(bound / 10_000)
    assert apart < bound + Z * error
    assert apart > 2 / 3 * bound + Z * error


def tail(n: int, marked: int, drawn: int, least: int) -> Fraction:
    """P[X ≥ least], hypergeometric, exactly."""
    ways = sum(
        math.comb(marked, x) * math.comb(n - marked, drawn - x) for x in range(max(least, 0), min(marked, drawn) + 1)
    )
    return Fraction(ways, math.comb(n, drawn))


def connected(graph: Mapping[int, tuple[int, ...]], members: set[int]) -> bool:
    """Whether these members, without the others, can all reach each other."""
    start = next(iter(members))
    seen, edge = {start}, [start]
    while edge:
        fresh = [other for other in graph[edge.pop()] if other in members and other not in seen]
        seen.update(fresh)
        edge.extend(fresh)
    return seen == members
