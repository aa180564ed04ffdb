"""Federation and federate: nothing lost, nothing changed, and bad data refused with the remedy."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.data import IID, Client, Dirichlet, Federation, Natural, Partition, Shards, federate
from fedpriv.errors import ConfigurationError, DataError


def positions(records: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Examples that tell which record they are."""
    return np.arange(records, dtype=np.float32)[:, None], np.arange(records) % classes


def small(**changes: object) -> Federation:
    x, y = positions(30)
    given_: dict[str, object] = {"clients": 3, "seed": 1, "name": "small"} | changes
    return federate(x, y, **given_)  # type: ignore[arg-type]


# federate


@given(
    records=st.integers(30, 80),
    clients=st.integers(1, 6),
    partition=st.sampled_from([IID(), Shards(2), Dirichlet(5.0)]),
    test=st.floats(0.05, 0.5),
    seed=st.integers(0, 2**40),
)
def test_every_record_is_at_one_client_or_in_the_test_set(
    records: int, clients: int, partition: Partition, test: float, seed: int
) -> None:
    x, y = positions(records)
    federation = federate(x, y, clients=clients, partition=partition, test=test, seed=seed)
    held = np.concatenate([client.x[:, 0] for client in federation.clients] + [federation.test_x[:, 0]])
    np.testing.assert_array_equal(np.sort(held), np.arange(records))
    assert len(federation.test_y) == int(np.ceil(test * records))
    for part_x, part_y in [(c.x, c.y) for c in federation.clients] + [(federation.test_x, federation.test_y)]:
        np.testing.assert_array_equal(part_x[:, 0] % 3, part_y)
        assert (np.diff(part_x[:, 0]) > 0).all()  # in the original order
    assert federation.sizes.sum() + len(federation.test_y) == records
    again = federate(x, y, clients=clients, partition=partition, test=test, seed=seed)
    assert again.fingerprint == federation.fingerprint


def test_the_test_set_is_the_same_for_every_partition_and_number_of_clients() -> None:
    tests = [small().test_x, small(clients=7).test_x, small(partition=Shards(2)).test_x]
    assert all(np.array_equal(tests[0], other) for other in tests)
    assert not np.array_equal(tests[0], small(seed=2).test_x)


def test_owners_become_clients_with_parts_of_the_test_set() -> None:
    x, y = positions(40)
    owners = np.array(["b", "a", "c", "a"] * 10)
    federation = federate(x, y, clients=owners, test=0.25, seed=0)
    assert [client.name for client in federation.clients] == ["a", "b", "c"]
    np.testing.assert_array_equal(federation.sizes, [15, 7, 7])
    for client in federation.clients:
        part, labels = federation.test_of(client.name)
        mine = np.concatenate([client.x, part])[:, 0].astype(int)
        np.testing.assert_array_equal(np.sort(mine), np.flatnonzero(owners == client.name))
        np.testing.assert_array_equal(part[:, 0] % 3, labels)
    same = federate(x, y, clients=owners.astype(object), partition=Natural(), test=0.25, seed=0)
    assert same.fingerprint == federation.fingerprint
    with pytest.raises(DataError, match="Parts are a, b, c"):
        federation.test_of("d")


def test_a_test_set_of_its_own() -> None:
    x, y = positions(12)
    federation = federate(x, y, clients=3, test=(x[:4], [0, 1, 2, 3]), seed=0)
    assert federation.sizes.sum() == 12
    assert federation.classes == 4
    assert federation.test_groups is None
    with pytest.raises(DataError, match="no part"):
        federation.test_of("0")


class Told:
    """A user's partition that returns what it was told."""

    def __init__(self, *parts: object) -> None:
        self.parts = [np.asarray(part) for part in parts]

    def split(self, y: object, clients: int, rng: object, groups: object) -> list[np.ndarray]:
        return self.parts


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (([0, 1, 2],), "one array of positions per client"),
        (([0, 1, 2, 3], []), "at least one record"),
        (([0, 1], [2]), "exactly one client"),
        (([0, 1], [1, 2, 3]), "exactly one client"),
        (([0, 1], [1, 2]), "exactly one client"),
        (([0, 1], [2, 4]), "exactly one client"),
        (([0.0, 1.0], [2.0, 3.0]), "exactly one client"),
    ],
)
def test_a_users_partition_is_held_to_its_word(parts: tuple[list[float], ...], message: str) -> None:
    x, y = positions(4)
    with pytest.raises(DataError, match=message):
        federate(x, y, clients=2, partition=Told(*parts), test=(x, y), seed=0)
    good = federate(x, y, clients=2, partition=Told([3, 0], [2, 1]), test=(x, y), seed=0)
    np.testing.assert_array_equal(good.clients[0].x[:, 0], [0, 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": [[0.0], [np.nan], [1.0], [2.0]]}, "1 of 4 records with NaN"),
        ({"x": [[0.0], [np.inf], [1.0], [2.0]]}, "finite"),
        ({"x": [[0.0], [1e39], [1.0], [2.0]]}, "finite in float32"),
        ({"y": [0, 1, np.nan, 1]}, "No label is missing"),
        ({"y": [0, 1, 0.5, 1]}, r"Labels are integers from 0 .* Got 0.5"),
        ({"y": [0, 1, -1, 1]}, r"Labels are integers from 0 .* Got -1"),
        ({"y": [0, 1, 1e300, 1]}, r"2\^31 − 1 .* Got 1e\+300"),
        ({"y": ["ham", "spam", "ham", "spam"]}, "return_inverse"),
        ({"y": [0, 1, 0]}, "same m"),
        ({"y": [[0], [1], [0], [1]]}, "y is"),
        ({"x": [0.0, 1.0, 2.0, 3.0]}, "single feature"),
        ({"x": [["a"], ["b"], ["c"], ["d"]]}, "real numbers"),
        ({"x": np.zeros((0, 1)), "y": []}, "at least one record"),
        ({"y": [1, 1, 1, 1]}, "two classes.*only class 1"),
        ({"classes": 1}, "at least two classes"),
        ({"y": [0, 1, 2, 1], "classes": 2}, r"0 … 1 where classes=2"),
        ({"clients": 5}, "at least as many records as clients"),
        ({"clients": 0}, "at least one client"),
        ({"clients": True}, "whole number"),
        ({"clients": 2.5}, "whole number"),
        ({"clients": ["a", "b", "a"]}, "one owner for each record"),
        ({"clients": ["a", None, "a", "b"]}, "all integers or all strings"),
        ({"clients": [0.0, np.nan, 1.0, 1.0]}, "all integers or all strings"),
        ({"clients": ["a", "a", "a", "b"], "test": 0.1, "y": [0, 1, 1, 0], "classes": 2}, "client 'b' has none"),
        ({"clients": ["a", "b", "a", "b"], "partition": IID()}, "have owners"),
        ({"partition": Natural()}, "each record's owner"),
        ({"test": 0.0}, r"\(0, 1\)"),
        ({"test": 1.0}, r"\(0, 1\)"),
        ({"test": 1}, r"\(0, 1\)"),
        ({"test": np.zeros(3)}, "pair of arrays"),
        ({"test": (np.zeros((0, 1)), [])}, "at least one record"),
        ({"test": (np.zeros((2, 3)), [0, 1])}, "one shape"),
        ({"test": (np.full((2, 1), np.nan), [0, 1])}, "the test set"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "x": [[0.0], [1.0], [2.0], [3.0]],
        "y": [0, 1, 0, 1],
        "clients": 2,
        "test": (np.zeros((2, 1)), [0, 1]),
        "seed": 0,
    } | changes
    with pytest.raises(DataError, match=message):
        federate(**arguments)  # type: ignore[arg-type]


def test_seeds_are_explicit_and_checked() -> None:
    x, y = positions(10)
    with pytest.raises(TypeError, match="seed"):
        federate(x, y, clients=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="seed"):
        federate(x, y, clients=2, seed=-1)


def test_one_class_passes_where_classes_says_that_there_are_more() -> None:
    x, _ = positions(10)
    federation = federate(x, np.ones(10, dtype=int), clients=2, classes=2, seed=0)
    assert federation.classes == 2
    np.testing.assert_array_equal(federation.skew, 0)


# Client and Federation


def test_data_cannot_be_changed_and_the_users_arrays_stay_theirs() -> None:
    x, y = positions(4)
    client = Client(index=0, name="0", x=x, y=y)
    for array in (client.x, client.y, small().test_x, small().test_y):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    x[0] = 9  # still the user's, and no longer the client's
    assert client.x[0, 0] == 0
    assert (client.x.dtype, client.y.dtype) == (np.float32, np.int64)


def test_repr_holds_no_data() -> None:
    assert repr(small()) == "Federation(name='small', clients=3, records=24, test=6, shape=(1,), classes=3)"
    assert repr(small().clients[1]) == "Client(index=1, name='1', records=8)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients": ()}, "at least one client"),
        ({"clients": (Client(index=1, name="1", x=[[1.0]], y=[0]),)}, "indices 0"),
        ({"clients": tuple(Client(index=i, name="a", x=[[1.0]], y=[0]) for i in range(2))}, "name of its own"),
        ({"clients": (Client(index=0, name="0", x=[[1.0, 2.0]], y=[0]),)}, "one shape"),
        ({"clients": (Client(index=0, name="0", x=[[1.0]], y=[7]),)}, "Labels are 0"),
        ({"classes": 1}, "two classes"),
        ({"test_groups": np.zeros(6), "test_names": ()}, "test_groups"),
        ({"test_groups": np.zeros(5), "test_names": ("a",)}, "test_groups"),
        ({"test_names": ("a",)}, "Give both"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(changes: dict[str, object], message: str) -> None:
    base = small()
    parts: dict[str, object] = {
        "name": "x", "clients": base.clients, "test_x": base.test_x, "test_y": base.test_y, "classes": 3,
    }  # fmt: skip
    with pytest.raises(DataError, match=message):
        Federation(**(parts | changes))  # type: ignore[arg-type]


def test_an_empty_client_is_refused() -> None:
    with pytest.raises(DataError, match=r"at least one record \(client 'idle'\)"):
        Client(index=0, name="idle", x=np.zeros((0, 2)), y=[])


def test_pooled_and_only() -> None:
    federation = small()
    pooled = federation.pooled()
    assert len(pooled) == 1
    np.testing.assert_array_equal(pooled.clients[0].x, np.concatenate([client.x for client in federation.clients]))
    for asked in (2, "2", np.int64(2)):
        alone = federation.only(asked)  # type: ignore[arg-type]
        assert (alone.clients[0].index, alone.clients[0].name) == (0, "2")
        assert alone.clients[0].x is federation.clients[2].x
    assert pooled.test_x is alone.test_x is federation.test_x
    for unknown in (3, -1, "cleveland", True, 1.5):
        with pytest.raises(DataError, match="from 0 to 2, or one of the names 0, 1, 2"):
            federation.only(unknown)  # type: ignore[arg-type]


def test_a_name_that_is_a_number_is_not_an_index() -> None:
    x, y = positions(12)
    federation = federate(x, y, clients=[2, 0, 2] * 4, test=0.25, seed=0)
    assert federation.only("2").clients[0].name == "2"
    assert federation.only(1).clients[0].name == "2"


def test_the_fingerprint_is_of_the_data_and_of_who_holds_it() -> None:
    base = small()
    assert base.fingerprint == small(name="renamed", notes=("said",)).fingerprint
    assert len(base.fingerprint) == 64
    x, y = positions(30)
    x[7] += 1e-3
    others = [
        small(seed=2),
        small(clients=4),
        small(classes=4),
        small(partition=Shards(1)),
        federate(x, y, clients=3, seed=1),
        federate(x[:, :, None], y, clients=3, seed=1),
        base.pooled(),
        base.only(0),
    ]
    assert len({other.fingerprint for other in [base, *others]}) == len(others) + 1


def test_fingerprint_does_not_depend_on_the_machine() -> None:
    assert small().fingerprint == "564456618a163d1b0f388ba5689b875d27ca0429820539bffe652b45bf95d882"


def test_skew_by_hand() -> None:
    clients = (
        Client(index=0, name="pure", x=np.zeros((3, 1)), y=[0, 0, 0]),
        Client(index=1, name="mixed", x=np.zeros((1, 1)), y=[1]),
    )
    federation = Federation(name="hand", clients=clients, test_x=[[0.0]], test_y=[0], classes=2)
    # All data: (3/4, 1/4). pure: ½(|1 − ¾| + |0 − ¼|) = ¼; mixed: ½(¾ + ¾) = ¾.
    np.testing.assert_allclose(federation.skew, [0.25, 0.75])
    np.testing.assert_array_equal(federation.label_counts, [[3, 0], [0, 1]])
    table = federation.summary()
    assert list(table.index) == ["pure", "mixed"]
    assert list(table.columns) == ["records", "share of class 0", "share of class 1", "skew"]
    np.testing.assert_allclose(table.to_numpy(), [[3, 1, 0, 0.25], [1, 0, 1, 0.75]])


def test_few_clients_are_drawn_as_named_bars() -> None:
    import matplotlib.pyplot as plt

    federation = small()
    ax = federation.plot()
    drawn = np.array([[bar.get_height() for bar in container] for container in ax.containers]).T
    np.testing.assert_array_equal(drawn, federation.label_counts)
    tops = [max(bar.get_y() + bar.get_height() for bar in bars) for bars in zip(*ax.containers, strict=True)]
    np.testing.assert_array_equal(tops, federation.sizes)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["2", "1", "0"]
    assert "3 clients, 8 records each" in ax.get_title(loc="left")
    plt.close("all")


def test_many_clients_are_drawn_as_one_field_in_the_given_axes() -> None:
    import matplotlib.pyplot as plt

    x, y = positions(5000)
    federation = federate(x, y, clients=1000, partition=Dirichlet(2.0), seed=0)
    _, given_axes = plt.subplots()
    ax = federation.plot(given_axes)
    assert ax is given_axes
    assert not ax.containers
    steps = [patch.get_data() for patch in ax.patches]  # type: ignore[attr-defined]
    heights = np.stack([step.values - step.baseline for step in steps], axis=1)
    np.testing.assert_array_equal(
        np.array(sorted(map(tuple, heights))), np.array(sorted(map(tuple, federation.label_counts)))
    )
    main = heights.argmax(axis=1)
    assert (np.diff(main) >= 0).all()
    assert (np.diff(heights.sum(axis=1))[np.diff(main) == 0] <= 0).all()
    assert "1,000 clients" in ax.get_title(loc="left")
    plt.close("all")


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, fedpriv.data; heavy = {'torch', 'sklearn', 'pandas', 'matplotlib', 'pooch', 'scipy'} "
        "& set(sys.modules); sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
