"""What DP-SGD draws: batches and noise as stated, whatever the data are; nobody's stream where it is to be secret."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from private import CLASSES, FEATURES, PLAIN, SIZE, a_client, build, linear, train
from scipy.stats import binom, chi2
from torch import nn

from fedpriv.learning import DPSGD, Broadcast, flatten, models, noised

ALPHA = 1e-6


def variance_fits(draws: np.ndarray, sigma: float) -> bool:
    """Two-sided chi-square test of N(0, σ²) at alpha = 1e-6."""
    statistic = float((draws.astype(np.float64) ** 2).sum() / sigma**2)
    return chi2.ppf(ALPHA / 2, draws.size) < statistic < chi2.isf(ALPHA / 2, draws.size)


def without_data(**more) -> DPSGD:
    """All batches are empty: what is left is noise."""
    return replace(PLAIN, sampling_rate=1e-15, **more)


@pytest.mark.statistical
@pytest.mark.parametrize("noise", ["seeded", "os"])
@pytest.mark.parametrize("batching", ["loop", "stacked"])
@pytest.mark.parametrize("steps", [1, 4])
def test_every_step_is_noised_as_stated_even_without_data(noise, batching, steps) -> None:
    """n = 60 clients × 198 coordinates = 11,880; σ = noise_multiplier · clip_norm · η / expected_batch · √steps."""
    model = build(partial(models.mlp, hidden=(20,)), (6,))
    clients = [a_client(4, i, shape=(6,)) for i in range(60)]
    sent = train(without_data(noise=noise, steps=steps), clients, model, batching=batching)
    assert sent.size > 10_000
    sigma = 0.8 * 0.5 * 0.2 / 5.0 * math.sqrt(steps)
    assert variance_fits(sent, sigma)
    assert not variance_fits(sent, sigma * 2 / 3)
    assert not variance_fits(sent, sigma * 3 / 2)
    assert abs(sent.mean()) < 5 * sigma / math.sqrt(sent.size)
    # No client's noise is another's, and no coordinate's its neighbour's.
    for a, b in ((sent[:-1], sent[1:]), (sent[:, :-1], sent[:, 1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / math.sqrt(a.size)


@pytest.mark.statistical
@pytest.mark.parametrize("noise", ["seeded", "os"])
def test_batches_are_poisson_at_the_public_rate(noise) -> None:
    """n = 20,000 coins per test, whatever the number of records; batch sizes vary as a binomial's do."""
    for records in (5, 500):
        steps = 20_000 // records
        algorithm = replace(PLAIN, steps=steps, sampling_rate=0.3, noise=noise)
        sizes = [len(b) for b in algorithm.batches(records, np.random.default_rng(1))]
        assert len(sizes) == steps

        def fits(rate: float, drawn: int = sum(sizes)) -> bool:
            return binom.ppf(ALPHA / 2, 20_000, rate) <= drawn <= binom.isf(ALPHA / 2, 20_000, rate)

        assert fits(0.3)
        assert not fits(0.2)
        assert not fits(0.45)
        spread = np.var(sizes) / (records * 0.3 * 0.7)
        assert 0.2 < spread < 3.0  # a fixed size has none
    every = replace(PLAIN, sampling_rate=1.0, noise=noise).batches(7, np.random.default_rng(1))
    assert all(len(batch) == 7 for batch in every)


@pytest.mark.parametrize("batching", ["loop", "stacked"])
def test_the_divisor_is_public(batching) -> None:
    """n equal records move the model n times as far as one: nothing is divided by a private number."""
    one = a_client(1)
    algorithm = DPSGD(
        learning_rate=1e-3, clip_norm=10.0, sampling_rate=1.0, expected_batch=8.0, steps=1, noise_multiplier=1e-9
    )
    many = [replace(one, x=np.repeat(one.x, n, axis=0), y=np.repeat(one.y, n)) for n in (1, 2, 7, 50)]
    sent = np.concatenate([train(algorithm, [client], batching=batching) for client in many])
    np.testing.assert_allclose(sent / np.array([[1], [2], [7], [50]]), np.repeat(sent[:1], 4, axis=0), atol=1e-7)
    assert np.abs(sent[0]).max() > 1e-6


@pytest.mark.statistical
def test_noise_does_not_depend_on_how_many_records_there_are() -> None:
    """n = 11,880 each, as above: a divisor or a rate made from n would change σ."""
    model = build(partial(models.mlp, hidden=(20,)), (6,))
    for records in (1, 300):
        sent = train(without_data(), [a_client(records, i, shape=(6,)) for i in range(60)], model)
        assert variance_fits(sent, 0.8 * 0.5 * 0.2 / 5.0 * math.sqrt(4))


def test_the_steps_and_the_event_do_not_depend_on_the_data() -> None:
    model, rngs = linear(), [np.random.default_rng(i) for i in range(3)]
    clients = [a_client(records, i) for i, records in enumerate((1, 30, 200))]
    updates = PLAIN.train(model, Broadcast(parameters=flatten(model)), clients, [None] * 3, rngs)
    assert [u.metrics["steps"] for u in updates] == [4.0] * 3
    public = [replace(u.events[0], scope="", cohort=()) for u in updates]
    assert public[0] == public[1] == public[2]
    event = updates[1].events[0]
    assert (event.unit, event.scope, event.count, event.trust) == ("record", "client/1", 4, "local")
    assert (event.noise_multiplier, event.clip_norm, event.adjacency) == (0.8, 0.5, "add-remove")
    assert (event.sampling.kind, event.sampling.rate, event.sampling.population) == ("poisson", 0.4, 0)


def test_noise_from_the_operating_system_is_nobodys_stream() -> None:
    clients = [a_client(30, i) for i in range(2)]
    for batching in ("loop", "stacked"):
        first, again = (train(without_data(noise="os"), clients, batching=batching) for _ in range(2))
        assert np.abs(first - again).min() > 0
        np.testing.assert_array_equal(*(train(PLAIN, clients, batching=batching) for _ in range(2)))
    drawn = [list(replace(PLAIN, noise="os").batches(200, np.random.default_rng(1))) for _ in range(2)]
    assert any(not np.array_equal(a, b) for a, b in zip(*drawn, strict=True))
    assert replace(PLAIN, noise="os").participation(0).noise_source == "os"


def test_what_dropout_draws_is_nobodys_stream_either() -> None:
    """A record more in a batch shifts the others' masks, which moves the sum by more than the clip norm."""
    masks = []

    class Seen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype == torch.float32:  # the probe of Opacus' rules has doubles
                masks.append(x.detach() == 0)
            return x

    model = nn.Sequential(nn.Linear(FEATURES, 30), nn.Dropout(0.5), Seen(), nn.Linear(30, CLASSES))
    before = torch.random.get_rng_state()
    for noise in ("seeded", "os"):
        for _ in range(2):
            train(replace(PLAIN, sampling_rate=1.0, steps=1, noise=noise), [a_client()], model)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[2], masks[3])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("batching", ["loop", "stacked"])
def test_what_is_drawn_does_not_depend_on_how_much_at_once(batching, monkeypatch) -> None:
    """Else a client's noise would depend on who trains beside it."""
    clients, algorithm = [a_client(30, i) for i in range(3)], replace(PLAIN, steps=7)
    whole = train(algorithm, clients, batching=batching)
    for numbers in (1, 3 * 3 * SIZE):
        monkeypatch.setattr(noised, "_AT_ONCE", numbers)
        np.testing.assert_array_equal(train(algorithm, clients, batching=batching), whole)
