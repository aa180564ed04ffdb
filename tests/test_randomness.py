"""Streams that depend on nothing but their key, and normal draws from the operating system's generator."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedpriv import randomness
from fedpriv.errors import ConfigurationError
from fedpriv.randomness import Streams, noise, noises, os_gaussian, secret_bytes

ALPHA = 1e-6
INDEX = st.integers(min_value=0, max_value=2**63 - 1)


@given(seed=INDEX, purpose=st.text(), round=INDEX, client=INDEX)
def test_a_stream_is_a_function_of_its_key(seed: int, purpose: str, round: int, client: int) -> None:
    first = Streams(seed).generator(purpose, round, client).random(3)
    assert np.array_equal(first, Streams(seed).generator(purpose, round, client).random(3))
    assert np.array_equal(first, Streams(np.int64(seed)).generator(purpose, round, client).random(3))


@given(clients=st.lists(INDEX, min_size=1, max_size=6, unique=True), data=st.data())
def test_neither_order_nor_cohort_matters(clients: list[int], data: st.DataObject) -> None:
    streams = Streams(5)
    alone = {index: streams.generator("batches", 3, index).random() for index in clients}
    order = data.draw(st.permutations(clients))
    part = order[: data.draw(st.integers(min_value=1, max_value=len(order)))]
    assert [rng.random() for rng in streams.generators("batches", 3, part)] == [alone[index] for index in part]


def test_drawing_from_one_stream_leaves_the_others_alone() -> None:
    streams = Streams(1)
    left, right = streams.generators("sampling", 0, [0, 1])
    left.random(10_000)
    assert right.random() == streams.generator("sampling", 0, 1).random()


def test_no_two_keys_share_a_stream() -> None:
    keys = list(product([0, 1, 2**64, 2**64 + 1], ["a", "b", "a|1", "a|1|1", ""], [0, 1, 11], [0, 1, 2**32, 2**63]))
    starts = {tuple(Streams(s).generator(p, r, c).integers(0, 2**63, 2)) for s, p, r, c in keys}
    assert len(starts) == len(keys)


def test_streams_of_neighbouring_clients_do_not_overlap() -> None:
    """A counter in the low word would make client 1's stream client 0's, shifted by a few draws."""
    left, right = (rng.integers(0, 2**63, 4096) for rng in Streams(0).generators("x", 0, [0, 1]))
    assert not set(left.tolist()) & set(right.tolist())


def test_a_generator_is_made_once_when_it_is_first_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = np.random.PCG64DXSM
    monkeypatch.setattr(np.random, "PCG64DXSM", lambda start: made.append(start) or real(start))
    rngs = Streams(2).generators("x", 0, range(5))
    assert (len(rngs), len(made)) == (5, 0)
    first = rngs[3].random()
    assert rngs[3] is rngs[-2] is rngs[2:][1]
    assert rngs[3].random() != first
    assert len(made) == 3
    assert Streams(2).generator("x", 0, 3).random() == first
    with pytest.raises(IndexError):
        rngs[5]


@pytest.mark.statistical
def test_first_draws_of_many_streams_are_uniform_and_independent() -> None:
    """n = 20,000 streams, α = 1e-6: what a cohort draws first is as good as what one generator draws in a row.

    The power check: streams whose neighbours share a draw in ten are caught.
    """
    n = 20_000
    draws = np.array([rng.random(2) for rng in Streams(11).generators("training", 4, range(n))])
    rounds = np.array([Streams(11).generator("training", round).random() for round in range(n)])

    def correlation(left: np.ndarray, right: np.ndarray) -> float:
        return float(stats.pearsonr(left, right).pvalue)

    assert all(stats.kstest(column, "uniform").pvalue > ALPHA for column in (draws[:, 0], draws[:, 1], rounds))
    pairs = [(draws[:, 0], draws[:, 1]), (draws[:-1, 0], draws[1:, 0]), (draws[:, 0], rounds)]
    assert all(correlation(*pair) > ALPHA for pair in pairs)
    shared = draws[:, 0].copy()
    shared[1::10] = shared[::10]
    assert correlation(shared[:-1], shared[1:]) < ALPHA


def test_a_stream_has_no_children() -> None:
    """A child would start from the operating system's entropy, and no run could be repeated."""
    with pytest.raises(TypeError):
        Streams(0).generator("x").spawn(1)


@pytest.mark.parametrize("seed", [-1, 1.0, "7", None, True])
def test_a_seed_is_a_non_negative_integer(seed: object) -> None:
    with pytest.raises(ConfigurationError, match="non-negative integer"):
        Streams(seed)  # type: ignore[arg-type]


def test_integers_for_other_generators() -> None:
    drawn = [Streams(3).integer("torch", round) for round in range(2000)]
    assert len(set(drawn)) == 2000
    assert all(0 <= value < 2**63 for value in drawn)
    assert max(drawn) > 2**62


def test_secrets_come_from_the_operating_system_alone() -> None:
    np.random.seed(0)  # noqa: NPY002 - the point: it changes nothing
    first = secret_bytes(32)
    np.random.seed(0)  # noqa: NPY002
    assert (len(first), len(secret_bytes(0))) == (32, 0)
    assert first != secret_bytes(32)
    assert not np.array_equal(os_gaussian(8), os_gaussian(8))


@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_os_gaussian_sizes(size: int) -> None:
    draws = os_gaussian(size)
    assert draws.shape == (size,)
    assert draws.dtype == np.float64
    assert np.isfinite(draws).all()


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_os_gaussian_is_finite_at_the_ends(byte: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomness, "secret_bytes", lambda length: byte * length)
    assert np.isfinite(os_gaussian(4)).all()


def test_noise_is_of_its_source() -> None:
    streams = Streams(11)
    seeded = noise("seeded", streams, "noise", 2)
    assert np.array_equal(seeded.normal(5), streams.generator("noise", 2).standard_normal(5))
    assert not np.array_equal(seeded.words(5), noise("seeded", streams, "noise", 3).words(5))
    claimed = noise("os", streams, "noise", 2)
    assert claimed.normal is os_gaussian
    assert not np.array_equal(claimed.words(5), noise("os", streams, "noise", 2).words(5))
    for drawn in (seeded, claimed):
        assert (drawn.words(3).dtype, drawn.words(0).shape, drawn.normal(3).dtype) == (np.uint64, (0,), np.float64)
    with pytest.raises(ConfigurationError, match="'true'"):
        noise("true", streams, "noise", 2)  # type: ignore[arg-type]


def test_each_client_has_noise_of_its_own() -> None:
    streams = Streams(11)
    several = noises("seeded", streams, "noise", 2, [4, 9, 4])
    first, second, again = (one.words(4).tolist() for one in several)
    assert first != second
    assert second == noise("seeded", streams, "noise", 2, client=9).words(4).tolist()
    assert again == first  # the stream of one client, from its start
    assert len(noises("os", streams, "noise", 2, [4, 9])) == 2


@pytest.mark.statistical
def test_os_gaussian_is_standard_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kolmogorov and Smirnov, n = 40 000, α = 1e-6; σ = 2/3 and 3/2 are rejected. The bytes are fixed for the test."""
    monkeypatch.setattr(randomness, "secret_bytes", np.random.default_rng(20).bytes)
    draws = os_gaussian(40_000)
    assert stats.kstest(draws, "norm").pvalue > ALPHA
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(wrong * draws, "norm").pvalue < ALPHA


@pytest.mark.statistical
def test_os_gaussian_halves_are_uncorrelated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair shares a radius: n = 20 000 pairs, sample correlation of values and of squares, α = 1e-6; a copy fails."""
    monkeypatch.setattr(randomness, "secret_bytes", np.random.default_rng(21).bytes)
    left, right = os_gaussian(40_000).reshape(2, -1)
    assert stats.pearsonr(left, right).pvalue > ALPHA
    assert stats.pearsonr(left**2, right**2).pvalue > ALPHA
    assert stats.pearsonr(left, 0.05 * left + right).pvalue < ALPHA


@pytest.mark.statistical
def test_streams_are_uncorrelated() -> None:
    """First draws over 20 000 clients, and over 20 000 rounds: uniform, and no link between neighbours, α = 1e-6."""
    streams = Streams(2)
    over_clients = np.array([rng.random() for rng in streams.generators("x", 0, range(20_000))])
    over_rounds = np.array([streams.generator("x", round).random() for round in range(20_000)])
    for draws in (over_clients, over_rounds):
        assert stats.kstest(draws, "uniform").pvalue > ALPHA
        assert stats.pearsonr(draws[:-1], draws[1:]).pvalue > ALPHA
        assert stats.kstest(draws**1.1, "uniform").pvalue < ALPHA
    assert stats.pearsonr(over_clients, over_rounds).pvalue > ALPHA
