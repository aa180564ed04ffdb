"""The loaders over the real data sets, against what is published about them."""

import re
from collections import Counter

import numpy as np
import pytest

from fedpriv import data
from fedpriv.data import Dirichlet, Shards, federate, files
from fedpriv.errors import ConfigurationError, DataError

pytestmark = pytest.mark.usefixtures("data_folder")


def test_digits() -> None:
    federation = data.digits(clients=200, seed=0)
    assert (federation.sizes.sum(), len(federation.test_y), federation.shape, federation.classes) == (
        1437,
        360,
        (64,),
        10,
    )
    assert set(federation.sizes) == {7, 8}
    pixels = np.concatenate([client.x for client in federation.clients])
    assert (pixels.min(), pixels.max()) == (0, 1)
    np.testing.assert_array_equal(pixels * 16, np.rint(pixels * 16))
    assert federation.notes == ()
    with pytest.raises(DataError, match="fewer clients"):
        data.digits(clients=1438, seed=0)


def test_breast_cancer_says_what_its_normalisation_leaks() -> None:
    pooled = data.breast_cancer(clients=5, seed=0)
    x = pooled.pooled().clients[0].x
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=0, ddof=1), 1, rtol=1e-5)
    assert "everyone learns" in pooled.notes[0]
    assert pooled.pooled().notes == pooled.only(0).notes == pooled.notes
    raw = data.breast_cancer(clients=5, normalise="none", seed=0)
    fitted = raw.pooled().clients[0].x
    expected = (raw.test_x - fitted.mean(axis=0)) / fitted.std(axis=0, ddof=1)
    np.testing.assert_allclose(pooled.test_x, expected, rtol=1e-3, atol=1e-4)  # by the training statistics
    assert raw.sizes.sum() + len(raw.test_y) == 569
    own = data.breast_cancer(clients=5, normalise="client", seed=0)
    assert own.notes == raw.notes == ()
    for part in [client.x for client in own.clients] + [own.test_x]:
        np.testing.assert_allclose(part.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(part.std(axis=0, ddof=1), 1, rtol=1e-5)
    with pytest.raises(ConfigurationError, match="normalise"):
        data.breast_cancer(normalise="batch", seed=0)  # type: ignore[arg-type]


def test_a_feature_without_spread_is_centred_and_not_scaled() -> None:
    x = np.column_stack([np.full(20, 0.1), np.arange(20)])
    federation = federate(x, np.arange(20) % 2, clients=2, seed=0)
    for how in ("client", "pooled"):
        prepared = data.standardise(federation, how)  # type: ignore[arg-type]
        np.testing.assert_allclose(prepared.clients[0].x[:, 0], 0, atol=1e-6)
    lonely = federate(x, np.arange(20) % 2, clients=16, seed=0)
    assert np.isfinite(data.standardise(lonely, "client").clients[0].x).all()


def test_mnist() -> None:
    federation = data.mnist(seed=0)
    assert federation.shape == (1, 28, 28)
    assert set(federation.sizes) == {600}
    # Class counts and the mean and deviation of the training pixels, as published.
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(federation.label_counts.sum(axis=0), train)
    np.testing.assert_array_equal(np.bincount(federation.test_y), test)
    pixels = np.stack([client.x for client in federation.clients])
    assert pixels.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)
    assert federation.test_x.max() == 1
    assert federation.test_y[0] == 7  # the well-known first test image

    pooled = data.mnist(seed=0, pooled=True)
    assert pooled.shape == (1, 14, 14)
    image = federation.clients[3].x[5, 0]
    by_hand = [[image[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean() for c in range(14)] for r in range(14)]
    np.testing.assert_allclose(pooled.clients[3].x[5, 0], by_hand, atol=1e-6)
    np.testing.assert_array_equal(pooled.clients[3].y, federation.clients[3].y)


@pytest.mark.parametrize("partition", [Dirichlet(0.3), Shards(2)])
def test_mnist_skewed(partition: data.Partition) -> None:
    federation = data.mnist(clients=100, partition=partition, seed=0, pooled=True)
    assert federation.sizes.sum() == 60_000
    assert federation.skew.mean() > 0.4


def test_sms_spam_with_the_words_of_training_messages() -> None:
    federation = data.sms_spam(clients=10, seed=3)
    assert (federation.sizes.sum(), len(federation.test_y)) == (4459, 1115)
    assert federation.label_counts[:, 1].sum() + federation.test_y.sum() == 747
    assert "hashed" in federation.notes[0]

    # By hand: words of two letters or more that at least two training messages hold.
    positions = federate(np.arange(5574)[:, None], np.arange(5574) % 2, clients=10, seed=3)
    lines = files.SMS_SPAM.read().decode().split("\n")
    messages = [set(re.findall(r"\b\w\w+\b", line.partition("\t")[2].lower())) for line in lines]
    held = [messages[int(p)] for client in positions.clients for p in client.x[:, 0]]
    documents = Counter(word for message in held for word in message)
    kept = {word for word, count in documents.items() if count >= 2}
    assert federation.shape == (len(kept),)
    bags = np.concatenate([client.x for client in federation.clients])
    assert set(np.unique(bags)) == {0, 1}
    np.testing.assert_array_equal(bags.sum(axis=1), [len(message & kept) for message in held])
    np.testing.assert_array_equal(
        federation.test_x.sum(axis=1), [len(messages[int(p)] & kept) for p in positions.test_x[:, 0]]
    )


def test_sms_spam_hashed_leaks_nothing() -> None:
    federation = data.sms_spam(clients=10, vocabulary="hashed", seed=3)
    assert federation.shape == (4096,)
    assert federation.notes == ()
    # A message's features depend on that message alone: another split gives it the same bag.
    other = data.sms_spam(clients=3, vocabulary="hashed", test=0.5, seed=4)
    bags = [
        sorted(x.tobytes() for x in np.concatenate([*(c.x for c in f.clients), f.test_x])) for f in (federation, other)
    ]
    assert bags[0] == bags[1]
    with pytest.raises(ConfigurationError, match="vocabulary"):
        data.sms_spam(vocabulary="all", seed=0)  # type: ignore[arg-type]


HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")


@pytest.mark.parametrize("split", ["seeded", "flamby"])
def test_heart_disease_has_the_counts_of_fed_heart_disease(split: str) -> None:
    federation = data.heart_disease(split=split, seed=1)  # type: ignore[arg-type]
    assert tuple(client.name for client in federation.clients) == HOSPITALS == federation.test_names
    np.testing.assert_array_equal(federation.sizes, [199, 172, 30, 85])
    assert [len(federation.test_of(hospital)[1]) for hospital in HOSPITALS] == [104, 89, 16, 45]
    assert federation.shape == (13,)
    assert federation.notes == ()
    for client in federation.clients:
        np.testing.assert_allclose(client.x.mean(axis=0), 0, atol=1e-5)
        spread = client.x.std(axis=0, ddof=1)
        assert ((np.abs(spread - 1) < 1e-4) | (spread < 1e-4)).all()


def test_heart_disease_is_what_pandas_makes_of_the_files() -> None:
    """The preparation written a second time, with pandas' own missing values and indicators."""
    import io

    import pandas as pd
    from sklearn.model_selection import train_test_split

    federation = data.heart_disease(split="flamby", normalise="none", seed=0)
    tables = {
        hospital: pd.read_csv(io.BytesIO(file.read()), header=None, na_values="?").drop(columns=[10, 11, 12]).dropna()
        for hospital, file in files.HEART_DISEASE.items()
    }
    everything = pd.get_dummies(pd.concat(tables), columns=[2, 6], drop_first=True, dtype=float)
    for client in federation.clients:
        table = everything.loc[client.name]
        y = (table[13] > 0).to_numpy().astype(int)
        train, test = train_test_split(
            np.arange(len(y)),
            train_size=0.66,
            test_size=0.34,
            random_state=43,
            stratify=y if min(np.bincount(y)) > 2 else None,
        )
        x = table.drop(columns=13).to_numpy(dtype=np.float32)
        np.testing.assert_array_equal(client.x, x[train])
        np.testing.assert_array_equal(client.y, y[train])
        np.testing.assert_array_equal(federation.test_of(client.name)[0], x[test])
        np.testing.assert_array_equal(federation.test_of(client.name)[1], y[test])


def test_heart_disease_uses_each_hospitals_own_statistics_on_its_test_part() -> None:
    raw = data.heart_disease(normalise="none", seed=2)
    own, pooled = data.heart_disease(seed=2), data.heart_disease(normalise="pooled", seed=2)
    assert "everyone learns" in pooled.notes[0]
    va = raw.clients[3].x
    expected = (raw.test_of("va")[0] - va.mean(axis=0)) / va.std(axis=0, ddof=1)
    np.testing.assert_allclose(own.test_of("va")[0], expected, rtol=1e-3, atol=1e-3)
    everyone = raw.pooled().clients[0].x
    expected = (raw.test_x - everyone.mean(axis=0)) / everyone.std(axis=0, ddof=1)
    np.testing.assert_allclose(pooled.test_x, expected, rtol=1e-3, atol=1e-3)


def test_heart_disease_seeds_change_the_split_and_nothing_else() -> None:
    one, two = data.heart_disease(normalise="none", seed=1), data.heart_disease(normalise="none", seed=2)
    assert one.fingerprint != two.fingerprint
    assert one.fingerprint == data.heart_disease(normalise="none", seed=1).fingerprint
    rows = [
        sorted(map(tuple, np.column_stack([f.test_of("va")[0], f.test_of("va")[1]]).tolist()))
        + sorted(map(tuple, np.column_stack([f.clients[3].x, f.clients[3].y]).tolist()))
        for f in (one, two)
    ]
    assert sorted(rows[0]) == sorted(rows[1])
    fixed = {data.heart_disease(split="flamby", seed=seed).fingerprint for seed in (1, 2)}
    assert len(fixed) == 1


def test_heart_disease_imputed_by_the_hospitals_own_means() -> None:
    federation = data.heart_disease(missing="impute", normalise="none", seed=0)
    np.testing.assert_array_equal(
        federation.sizes + np.bincount(federation.test_groups),
        [303, 294, 123, 200],  # type: ignore[arg-type]
    )
    assert federation.shape == (13,)
    slope = federation.clients[1].x[:, 10]  # Hungary: 190 of 294 missing, the rest is 1, 2 or 3
    recorded = slope[np.isin(slope, (1, 2, 3))]
    imputed = slope[~np.isin(slope, (1, 2, 3))]
    assert len(imputed) > len(recorded) > 0
    np.testing.assert_allclose(imputed, recorded.mean(), rtol=1e-6)
    test = federation.test_of("hungarian")[0][:, 10]
    np.testing.assert_allclose(test[~np.isin(test, (1, 2, 3))], recorded.mean(), rtol=1e-6)
    with pytest.raises(ConfigurationError, match="split="):
        data.heart_disease(missing="impute", split="flamby", seed=0)
    for wrong in ({"missing": "zero"}, {"split": "random"}, {"normalise": "hospital"}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            data.heart_disease(**wrong, seed=0)  # type: ignore[arg-type]
