"""Partitions: every record once, nobody empty, the same from the same seed, and the law that they claim."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.data import IID, Dirichlet, Natural, Partition, Shards, digits, federate
from fedpriv.errors import ConfigurationError, DataError


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    clients = draw(st.integers(1, 12))
    y = draw(st.lists(st.integers(0, 4), min_size=2 * clients, max_size=120))
    return np.array(y, dtype=np.int64), clients


PARTITIONS = st.sampled_from([IID(), Shards(1), Shards(2), Dirichlet(0.05), Dirichlet(1.0), Dirichlet(1e6, min_size=2)])


@given(problem=problems(), partition=PARTITIONS, seed=st.integers(0, 2**32))
def test_every_record_is_at_exactly_one_client_and_no_client_is_empty(
    problem: tuple[np.ndarray, int], partition: Partition, seed: int
) -> None:
    y, clients = problem
    try:
        parts = partition.split(y, clients, np.random.default_rng(seed), None)
    except DataError:
        assert isinstance(partition, Dirichlet)  # the others never fail where records suffice
        return
    assert len(parts) == clients
    assert min(map(len, parts)) >= getattr(partition, "min_size", 1)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(y)))
    again = partition.split(y, clients, np.random.default_rng(seed), None)
    for part, same in zip(parts, again, strict=True):
        np.testing.assert_array_equal(part, same)


@given(problem=problems(), seed=st.integers(0, 2**32))
def test_sizes(problem: tuple[np.ndarray, int], seed: int) -> None:
    y, clients = problem
    sizes = [len(part) for part in IID().split(y, clients, np.random.default_rng(seed), None)]
    assert max(sizes) - min(sizes) <= 1
    sizes = [len(part) for part in Shards(2).split(y, clients, np.random.default_rng(seed), None)]
    assert max(sizes) - min(sizes) <= 2


def test_shards_of_mcmahan_have_at_most_two_labels_when_shards_fit_the_classes() -> None:
    y = np.repeat(np.arange(10), 600)
    parts = Shards(2).split(y, 100, np.random.default_rng(0), None)
    labels = [len(np.unique(y[part])) for part in parts]
    assert {len(part) for part in parts} == {60}
    assert set(labels) == {1, 2}
    assert labels.count(2) > 70  # two shards of one label meet at about one client in ten


def test_shards_are_shuffled_within_a_label() -> None:
    y = np.zeros(100, dtype=np.int64)
    part = Shards(1).split(y, 2, np.random.default_rng(0), None)[0]
    assert not np.array_equal(np.sort(part), np.arange(part.min(), part.min() + 50))


@given(owners=st.lists(st.integers(0, 3), min_size=4, max_size=50))
def test_natural_leaves_records_with_their_owner(owners: list[int]) -> None:
    groups = np.array(owners, dtype=np.int64)
    parts = Natural().split(np.zeros_like(groups), 4, np.random.default_rng(0), groups)
    for owner, part in enumerate(parts):
        np.testing.assert_array_equal(part, np.flatnonzero(groups == owner))


@pytest.mark.statistical
@pytest.mark.parametrize(("factor", "passes"), [(1.0, True), (2 / 3, False), (3 / 2, False)])
def test_dirichlet_label_shares_follow_alpha(factor: float, passes: bool) -> None:
    # n = 2,000 classes, each dealt to 10 clients by its own draw p: E[Σ p²] = (α + 1) / (10 α + 1).
    # z-test at 1e-6 with the sample's deviation; 400 records a class, so rounding moves Σ p² by about 1e-5.
    alpha, clients, classes, records = 0.3, 10, 2000, 400
    y = np.repeat(np.arange(classes), records)
    parts = Dirichlet(factor * alpha).split(y, clients, np.random.default_rng(20), None)
    shares = np.stack([np.bincount(y[part], minlength=classes) for part in parts], axis=1) / records
    squares = (shares**2).sum(axis=1)
    z = (squares.mean() - (alpha + 1) / (clients * alpha + 1)) / (squares.std(ddof=1) / math.sqrt(classes))
    assert bool(abs(z) < 4.892) is passes


@pytest.mark.statistical
def test_dirichlet_treats_clients_alike() -> None:
    # Each client's expected share is 1/n, whatever its index (the running sum must not favour the first or the last).
    # n = 4,000 classes of 7 records; z-test per client at 1e-6, Bonferroni over 5 clients.
    classes, clients = 4000, 5
    y = np.repeat(np.arange(classes), 7)
    parts = Dirichlet(0.5).split(y, clients, np.random.default_rng(21), None)
    shares = np.stack([np.bincount(y[part], minlength=classes) for part in parts], axis=1) / 7
    z = (shares.mean(axis=0) - 1 / clients) / (shares.std(axis=0, ddof=1) / math.sqrt(classes))
    assert np.abs(z).max() < 5.2


def test_a_large_alpha_is_nearly_iid_and_a_small_one_nearly_one_class_to_one_client() -> None:
    y = np.repeat(np.arange(20), 100)
    even = Dirichlet(1e6).split(y, 5, np.random.default_rng(0), None)
    for part in even:
        np.testing.assert_allclose(np.bincount(y[part]), 20, atol=1)
    skewed = Dirichlet(1e-3).split(y, 5, np.random.default_rng(0), None)
    largest = np.stack([np.bincount(y[part], minlength=20) for part in skewed]).max(axis=0)
    assert np.mean(largest >= 99) > 0.9


def test_dirichlet_redraws_until_nobody_is_short_and_says_when_it_gives_up() -> None:
    y = np.repeat(np.arange(10), 30)
    first = np.random.default_rng(3).dirichlet(np.full(20, 0.1), size=10)
    assert (np.rint(np.cumsum(first, axis=1) * 30)[:, -1] == 30).all()
    held = [np.rint(np.diff(np.cumsum(first, axis=1), axis=1, prepend=0) * 30).sum(axis=0).min()]
    assert held[0] < 2  # the first draw alone would leave a client short
    parts = Dirichlet(0.1, min_size=2).split(y, 20, np.random.default_rng(3), None)
    assert min(map(len, parts)) >= 2
    with pytest.raises(DataError, match="fewer clients, a larger alpha"):
        Dirichlet(0.01).split(y, 60, np.random.default_rng(0), None)


@pytest.mark.parametrize("partition", [Dirichlet(1.0, min_size=4), Shards(4)])
def test_too_few_records_are_refused(partition: Partition) -> None:
    with pytest.raises(DataError, match="fewer clients"):
        partition.split(np.zeros(11, dtype=np.int64), 3, np.random.default_rng(0), None)


def test_natural_without_owners_and_others_with_owners_are_refused() -> None:
    y = np.array([0, 1, 0, 1])
    with pytest.raises(DataError, match="owner"):
        Natural().split(y, 2, np.random.default_rng(0), None)
    for partition in (IID(), Dirichlet(1.0), Shards(1)):
        with pytest.raises(DataError, match="owners"):
            partition.split(y, 2, np.random.default_rng(0), np.array([0, 0, 1, 1]))


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_alpha_is_positive(alpha: float) -> None:
    with pytest.raises(ConfigurationError, match="alpha"):
        Dirichlet(alpha)


def test_counts_are_positive() -> None:
    with pytest.raises(ConfigurationError, match="min_size"):
        Dirichlet(1.0, min_size=0)
    with pytest.raises(ConfigurationError, match="per_client"):
        Shards(0)


@pytest.mark.parametrize("partition", [IID, "iid"])
def test_a_partition_that_is_none_says_how_to_give_one(partition: object) -> None:
    with pytest.raises(ConfigurationError, match=r"Give an instance: fp\.data\.IID\(\)"):
        digits(clients=4, partition=partition, seed=0)  # type: ignore[arg-type]


def test_owners_whose_records_are_all_held_out() -> None:
    with pytest.raises(DataError, match=r"remain for training.*Give more records"):
        federate([[1.0, 2.0], [3.0, 4.0]], [0, 1], clients=[0, 1], seed=0)
