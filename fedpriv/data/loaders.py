"""Public data sets as federations: how each is read, prepared and split, and what the preparation leaks."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fedpriv.data import files
from fedpriv.data.build import federate
from fedpriv.data.federation import Client, Examples, Federation
from fedpriv.data.partitions import IID, Partition
from fedpriv.errors import ConfigurationError
from fedpriv.randomness import Streams

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

Normalise: TypeAlias = Literal["client", "pooled", "none"]
"""Whose mean and standard deviation bring each feature to mean 0 and deviation 1; see :func:`standardise`."""


def digits(*, clients: int = 100, partition: Partition | None = None, test: float = 0.2, seed: int) -> Federation:
    """Handwritten digits of 8 × 8 pixels: 1,797 records ``[64]`` in [0, 1], 10 classes; comes with scikit-learn.

    Pixels are divided by their largest possible value, 16: nothing is fitted, nothing leaks.

    Args:
        clients: how many.
        partition: ``IID()`` where it is left out.
        test: the share of records held out; 0.2 are 360 records.
        seed: derives the held-out records and the partition.

    Reference:
        E. Alpaydin, C. Kaynak, Optical recognition of handwritten digits, UCI 1998 (its test part).

    Raises:
        DataError: the partition leaves a client empty.
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    x, y = load_digits(return_X_y=True)
    return federate(
        x / 16.0, y, clients=clients, partition=partition or IID(), test=test, seed=seed, classes=10, name="digits"
    )


def breast_cancer(
    *,
    clients: int = 10,
    partition: Partition | None = None,
    test: float = 0.2,
    normalise: Normalise = "pooled",
    seed: int,
) -> Federation:
    """Breast cancer Wisconsin (diagnostic): 569 records ``[30]``, 2 classes (1: benign); comes with scikit-learn.

    Args:
        clients: how many.
        partition: ``IID()`` where it is left out.
        test: the share of records held out.
        normalise: see :func:`standardise`. ``"pooled"`` leaks each feature's mean and deviation over all clients.
        seed: derives the held-out records and the partition.

    Reference:
        W. H. Wolberg, O. L. Mangasarian, W. N. Street, UCI 1995.

    Raises:
        DataError: the partition leaves a client empty.
        ConfigurationError: an unknown ``normalise``.
    """
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    federation = federate(
        x, y, clients=clients, partition=partition or IID(), test=test, seed=seed, classes=2, name="breast_cancer"
    )
    return standardise(federation, normalise)


def mnist(*, clients: int = 100, partition: Partition | None = None, seed: int, pooled: bool = False) -> Federation:
    """MNIST: 60,000 training and 10,000 test images ``[1, 28, 28]`` in [0, 1], 10 classes.

    Pixels are divided by 255: nothing is fitted, nothing leaks. The test set is the published one.

    Args:
        clients: how many.
        partition: ``IID()`` where it is left out. ``Shards(2)`` with 100 clients is the split of McMahan et al. 2017.
        seed: derives the partition.
        pooled: images of ``[1, 14, 14]``, each pixel the mean of 2 × 2: four times fewer inputs to encrypt.

    Reference:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, 1998.

    Raises:
        DataUnavailable: a file is missing, damaged or cannot be downloaded.
        DataError: the partition leaves a client empty.
    """
    arrays = {part: _idx(file.read()) for part, file in files.MNIST.items()}

    def images(part: str) -> Examples:
        pixels = arrays[part].astype(np.float32) / np.float32(255)
        if pooled:
            pixels = pixels.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
        return pixels[:, None]

    return federate(
        images("train_x"),
        arrays["train_y"],
        clients=clients,
        partition=partition or IID(),
        test=(images("test_x"), arrays["test_y"]),
        seed=seed,
        classes=10,
        name="mnist 14×14" if pooled else "mnist",
    )


def sms_spam(
    *,
    clients: int = 10,
    partition: Partition | None = None,
    test: float = 0.2,
    vocabulary: Literal["train", "hashed"] = "train",
    seed: int,
) -> Federation:
    """SMS Spam Collection: 5,574 messages as a binary bag of words, 2 classes (1: spam, 13 %).

    Real people's messages: do not try to identify anyone.

    Args:
        clients: how many.
        partition: ``IID()`` where it is left out.
        test: the share of records held out; 0.2 are 1,115 messages.
        vocabulary: ``"train"``: the words that at least two training messages of all clients hold, about 3,600
            features; **this leaks** to everyone which words occur, before any protocol runs. ``"hashed"``: 4,096
            buckets of a public hash function; leaks nothing, some words share a bucket.
        seed: derives the held-out records and the partition.

    Reference:
        T. A. Almeida, J. M. Gómez Hidalgo, A. Yamakami, Contributions to the study of SMS spam filtering, DocEng 2011.

    Raises:
        DataUnavailable: the file is missing, damaged or cannot be downloaded.
        DataError: the partition leaves a client empty.
        ConfigurationError: an unknown ``vocabulary``.
    """
    from sklearn.feature_extraction.text import (  # type: ignore[import-untyped]
        CountVectorizer,
        HashingVectorizer,
    )

    if vocabulary not in ("train", "hashed"):
        raise ConfigurationError(
            'vocabulary is "train" or "hashed".', value=vocabulary, remedy='Use "hashed" to leak nothing.'
        )
    lines = files.SMS_SPAM.read().decode("utf-8").split("\n")
    labels, texts = zip(*(line.split("\t", 1) for line in lines if line), strict=True)
    # Deal out positions first: the vocabulary may only come from texts that clients hold.
    federation = federate(
        np.arange(len(texts))[:, None],
        np.array(labels) == "spam",
        clients=clients,
        partition=partition or IID(),
        test=test,
        seed=seed,
        classes=2,
        name="sms_spam",
    )
    if vocabulary == "train":
        held = np.sort(np.concatenate([client.x[:, 0] for client in federation.clients])).astype(np.int64)
        words = CountVectorizer(binary=True, min_df=2).fit([texts[position] for position in held])
        notes: tuple[str, ...] = (
            "The vocabulary was built from all clients' training texts: everyone learns which words at least two of "
            'the messages hold, before any protocol runs. vocabulary="hashed" does not leak this.',
        )
    else:
        words = HashingVectorizer(n_features=4096, binary=True, norm=None, alternate_sign=False)
        notes = ()
    bags: csr_matrix = words.transform(texts)

    def bag(positions: Examples) -> Examples:
        rows: Examples = bags[positions[:, 0].astype(np.int64)].toarray().astype(np.float32)
        return rows

    return _prepared(federation, [bag] * len(federation), bag, notes)


def heart_disease(
    *,
    missing: Literal["drop", "impute"] = "drop",
    normalise: Normalise = "client",
    split: Literal["seeded", "flamby"] = "seeded",
    seed: int,
) -> Federation:
    """UCI Heart Disease at its four hospitals: Cleveland, Hungary, Switzerland, Long Beach VA; 13 features, 2 classes.

    Class 1 is any degree of disease (1 to 4 in the files). Of each hospital's records 66 % are for training, chosen at
    random within each class (in Switzerland, where a single record may be healthy, over all); the test set is the
    union of the rest, and ``federation.test_of("va")`` gives one hospital's part.

    With the defaults the records are those of Fed-Heart-Disease (FLamby): 199/104, 172/89, 30/16 and 85/45 for
    training/test, 740 in all. Two things differ: a feature that is constant in a hospital's training records becomes 0
    there and stays unscaled in its test records (FLamby divides by 1e-9), and ``federation.pooled()`` keeps the
    normalisation chosen here (FLamby's pooled baseline has ``normalise="pooled"``).

    Args:
        missing: ``"drop"`` leaves out the features slope, ca and thal, which three hospitals hardly recorded, then the
            records with any missing value, and encodes chest pain (4 levels) and resting ECG (3 levels) as indicators
            without their first level. ``"impute"`` keeps all 920 records and the 13 features as numbers; a missing
            value becomes the mean of the feature in that hospital's own training records, 0 where it has none.
        normalise: see :func:`standardise`. ``"client"`` leaks nothing.
        split: ``"seeded"``, or ``"flamby"`` for the one split that FLamby fixed, of the records with
            ``missing="drop"``; the seed then changes nothing.
        seed: derives which records are for training.

    Reference:
        A. Janosi, W. Steinbrunn, M. Pfisterer, R. Detrano, UCI 1988; J. Ogier du Terrail et al., FLamby, NeurIPS 2022.

    Raises:
        DataUnavailable: a file is missing, damaged or cannot be downloaded.
        ConfigurationError: an unknown ``missing``, ``normalise`` or ``split``, or FLamby's split of imputed records.
    """
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

    if missing not in ("drop", "impute") or split not in ("seeded", "flamby"):
        raise ConfigurationError(
            'missing is "drop" or "impute", split is "seeded" or "flamby".',
            value=(missing, split),
            remedy="Use one of these, or leave them out.",
        )
    if split == "flamby" and missing != "drop":
        raise ConfigurationError(
            'split="flamby" is of the records with missing="drop".', value=missing, remedy='Use split="seeded".'
        )
    streams = Streams(seed)
    clients, tests = [], []
    for index, (hospital, file) in enumerate(files.HEART_DISEASE.items()):
        table = _table(file.read())
        x, y = table[:, :13], (table[:, 13] > 0).astype(np.int64)
        if missing == "drop":
            x = x[:, :10]
            whole = ~np.isnan(x).any(axis=1)
            x, y = x[whole], y[whole]
            x = np.column_stack([np.delete(x, (2, 6), axis=1), x[:, [2]] == (2, 3, 4), x[:, [6]] == (1, 2)])
        train, held_out = train_test_split(
            np.arange(len(y)),
            train_size=0.66,
            test_size=1.0 - 0.66,
            random_state=43 if split == "flamby" else streams.integer("test split", client=index) % 2**32,
            stratify=y if np.bincount(y, minlength=2).min() > 2 else None,
        )
        if missing == "impute":
            x = np.where(np.isnan(x), _means(x[train]), x)
        clients.append(Client(index=index, name=hospital, x=x[train].astype(np.float32), y=y[train]))
        tests.append((x[held_out], y[held_out]))
    federation = Federation(
        name="heart_disease",
        clients=tuple(clients),
        test_x=np.concatenate([x for x, _ in tests]).astype(np.float32),
        test_y=np.concatenate([y for _, y in tests]),
        classes=2,
        test_groups=np.repeat(np.arange(len(tests)), [len(y) for _, y in tests]),
        test_names=tuple(files.HEART_DISEASE),
    )
    return standardise(federation, normalise)


def standardise(federation: Federation, normalise: Normalise) -> Federation:
    """Bring each feature to mean 0 and standard deviation 1 (n − 1 in the denominator), fitted on training records.

    Args:
        federation: what to standardise.
        normalise: ``"client"``: each client by its own records, and its part of the test set likewise; a test set
            without parts by its own statistics, as a client of its own. Nothing leaves a client; small clients have
            rough statistics. ``"pooled"``: by the records of all clients; everyone learns each feature's mean and
            deviation over all of them, which ``federation.notes`` then says. ``"none"``: as it is.

    A feature without spread is centred and not scaled.

    Raises:
        ConfigurationError: an unknown ``normalise``.
    """
    if normalise == "none":
        return federation
    if normalise == "pooled":
        pooled = _scaler(federation.pooled().clients[0].x)
        note = (
            "Features were standardised by mean and deviation over all clients' training records: everyone learns "
            'these two numbers per feature, before any protocol runs. normalise="client" does not leak this.'
        )
        return _prepared(federation, [pooled] * len(federation), pooled, (note,))
    if normalise != "client":
        raise ConfigurationError(
            'normalise is "client", "pooled" or "none".', value=normalise, remedy='Use "client" to leak nothing.'
        )
    scalers = [_scaler(client.x) for client in federation.clients]
    groups = federation.test_groups

    def scale_test(x: Examples) -> Examples:
        if groups is None:
            return _scaler(x)(x)
        scaled = np.empty_like(x)
        for index, scaler in enumerate(scalers):
            scaled[groups == index] = scaler(x[groups == index])
        return scaled

    return _prepared(federation, scalers, scale_test, ())


Step: TypeAlias = Callable[[Examples], Examples]


def _prepared(federation: Federation, steps: Sequence[Step], test_step: Step, notes: tuple[str, ...]) -> Federation:
    """The federation with each client's examples, and the test set's, put through a step."""
    clients = tuple(replace(c, x=step(c.x)) for c, step in zip(federation.clients, steps, strict=True))
    test_x = test_step(federation.test_x)
    return replace(federation, clients=clients, test_x=test_x, notes=federation.notes + notes)


def _scaler(x: Examples) -> Step:
    mean = x.mean(axis=0, dtype=np.float64)
    deviation = x.std(axis=0, ddof=1, dtype=np.float64) if len(x) > 1 else np.zeros_like(mean)
    # float32 sums leave a constant feature a spread of rounding error; that is no spread.
    flat = deviation <= 1e-7 * np.abs(mean)
    scale = np.where(flat, 1.0, deviation)
    return lambda values: ((values - mean) / scale).astype(np.float32)


def _means(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Column means over what is there; 0 where nothing is."""
    there = ~np.isnan(x)
    means: npt.NDArray[np.float64] = np.where(there, x, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    return means


def _table(contents: bytes) -> npt.NDArray[np.float64]:
    """Rows of comma-separated numbers; ``?`` becomes NaN."""
    rows = csv.reader(contents.decode("ascii").splitlines())
    return np.array([[np.nan if cell == "?" else float(cell) for cell in row] for row in rows if row])


def _idx(contents: bytes) -> npt.NDArray[np.uint8]:
    """An array in the idx format: two zero bytes, the type (8: uint8), the number of axes, their lengths, the data."""
    axes = contents[3]
    shape = np.frombuffer(contents, dtype=">u4", count=axes, offset=4)
    return np.frombuffer(contents, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape.astype(int))
