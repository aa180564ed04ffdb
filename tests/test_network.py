"""The in-memory network: who is lost when, what is counted, what an adversary does to a message."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedpriv.errors import ConfigurationError
from fedpriv.network import PHASES, Message, Network, Stage, Wire, cohort_of
from fedpriv.randomness import Streams
from fedpriv.threat import client

ALPHA = 1e-6
ONE_STAGE = (Stage("upload", "client"), Stage("sum", "server"))
BONAWITZ = (
    Stage("advertise", "client", "setup"),
    Stage("keys", "server"),
    Stage("share", "client", "setup"),
    Stage("masked", "client"),
    Stage("consistency", "client", "recovery"),
    Stage("unmask", "client", "recovery"),
)
PHASE_OF = {stage.name: stage.phase for stage in BONAWITZ}


def test_protocols_with_different_stages_lose_the_same_clients() -> None:
    """The contributors of a sum are those lost at *recovery* or not at all; they agree whatever the stages are."""
    network, streams, cohort = Network(dropout=0.5), Streams(4), range(500)
    long = network.schedule(streams, 2, cohort, BONAWITZ)
    short = network.schedule(streams, 2, cohort, ONE_STAGE)
    assert set(short.values()) == {"upload"}
    assert set(short) == {party for party, stage in long.items() if PHASE_OF[stage] != "recovery"}
    assert set(long.values()) == {"advertise", "share", "masked", "consistency", "unmask"}
    other = (*BONAWITZ[:3], Stage("masked", "client"), Stage("open", "client", "recovery"))
    phases = {
        party: PHASE_OF.get(stage, "recovery") for party, stage in network.schedule(streams, 2, cohort, other).items()
    }
    assert phases == {party: PHASE_OF[stage] for party, stage in long.items()}


@given(cohort=st.lists(st.integers(0, 1000), min_size=1, max_size=20, unique=True), seed=st.integers(0, 50))
def test_a_client_is_lost_independently_of_the_cohort(cohort: list[int], seed: int) -> None:
    network, streams = Network(dropout=0.6), Streams(seed)
    together = network.schedule(streams, 0, cohort, BONAWITZ)
    alone: dict[str, str] = {}
    for index in cohort:
        alone |= network.schedule(streams, 0, [index], BONAWITZ)
    assert together == alone


def test_rounds_and_seeds_differ() -> None:
    network, cohort = Network(dropout=0.5), range(200)
    schedules = [network.schedule(Streams(s), r, cohort, BONAWITZ) for s in (0, 1) for r in (0, 1)]
    assert all(left != right for i, left in enumerate(schedules) for right in schedules[:i])


def test_no_dropout_and_full_dropout() -> None:
    assert Network().schedule(Streams(0), 0, range(50), BONAWITZ) == {}
    assert len(Network(dropout=1.0).schedule(Streams(0), 0, range(500), BONAWITZ)) == 500
    late = Network(dropout={"recovery": 1.0})
    assert set(late.schedule(Streams(0), 0, range(50), BONAWITZ).values()) <= {"consistency", "unmask"}
    assert late.schedule(Streams(0), 0, range(50), ONE_STAGE) == {}


def _p_value(network: Network, rates: dict[str, float]) -> float:
    """χ² of the phases in which 20 000 clients are lost, against these rates."""
    n = 20_000
    counts = Counter(PHASE_OF[s] for s in network.schedule(Streams(9), 0, range(n), BONAWITZ).values())
    observed = [counts[phase] for phase in PHASES]
    expected = [n * rates[phase] for phase in PHASES]
    return float(stats.chisquare([*observed, n - sum(observed)], [*expected, n - sum(expected)]).pvalue)


@pytest.mark.statistical
def test_dropout_rates() -> None:
    """n = 20 000, α = 1e-6; two thirds and three halves of the rate are rejected."""
    third = dict.fromkeys(PHASES, 0.1)
    assert _p_value(Network(dropout=0.3), third) > ALPHA
    uneven = {"setup": 0.05, "upload": 0.2, "recovery": 0.1}
    assert _p_value(Network(dropout=uneven), uneven) > ALPHA
    for factor in (2 / 3, 3 / 2):
        assert _p_value(Network(dropout=0.3 * factor), third) < ALPHA


@pytest.mark.statistical
def test_stragglers_are_lognormal() -> None:
    """n = 5 000, α = 1e-6; σ = 2/3 and 3/2 of the stated one are rejected."""
    factors = Network(stragglers=0.5).slowness(Streams(3), 0, range(5000))
    draws = np.log(list(factors.values())) / 0.5
    assert stats.kstest(draws, "norm").pvalue > ALPHA
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(wrong * draws, "norm").pvalue < ALPHA


def test_without_stragglers_all_are_equal() -> None:
    assert Network().slowness(Streams(3), 0, [1, 5]) == {"client/1": 1.0, "client/5": 1.0}


@pytest.mark.parametrize(
    "bad",
    [
        {"dropout": 1.1},
        {"dropout": -0.1},
        {"dropout": float("nan")},
        {"dropout": {"lunch": 0.1}},
        {"dropout": {"setup": 0.6, "upload": 0.6}},
        {"upload": 0.0},
        {"upload": float("nan")},
        {"download": -1.0},
        {"latency": -0.1},
        {"latency": float("nan")},
        {"stragglers": -1.0},
        {"stragglers": float("nan")},
    ],
)
def test_impossible_networks_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Network(**bad)  # type: ignore[arg-type]


def _message(sender: str, recipient: str, size: int = 10) -> Message:
    return Message(sender, recipient, "masked", bytes(size))


def test_bytes_are_counted_on_both_sides() -> None:
    wire, stage = Wire(Network(latency=0.0, upload=100.0, download=50.0)), Stage("masked", "client")
    wire.enter(stage)
    assert len(wire.carry([_message(client(0), "server", 30), _message(client(1), "server", 70)])) == 2
    wire.carry([_message("server", client(1), 100)])
    wire.spent(client(0), 0.25)
    wire.spent("server", 0.5)
    wire.leave(stage)
    clients, server = wire.costs
    assert (clients.role, clients.parties, clients.messages) == ("client", 2, 2)
    assert (clients.bytes_sent, clients.bytes_received, clients.cpu_seconds) == (100, 100, 0.25)
    assert clients.modelled_seconds == pytest.approx(70 / 100 + 100 / 50)  # the slowest client, not the sum
    assert (server.role, server.bytes_sent, server.bytes_received) == ("server", 100, 100)
    assert server.modelled_seconds == 0.5
    wire.leave(stage)
    assert len(wire.costs) == 2  # a stage's bytes are not charged twice


def test_latency_and_slowness_are_modelled() -> None:
    wire = Wire(Network(latency=2.0, upload=10.0), slowness={client(0): 3.0})
    wire.carry([_message(client(0), "server", 10)])
    wire.spent(client(0), 1.0)
    wire.leave(Stage("masked", "client"))
    assert wire.costs[0].modelled_seconds == pytest.approx(3.0 * (1.0 + 1.0) + 2.0)


def test_a_lost_client_is_silent_from_its_stage_on() -> None:
    wire = Wire(Network(), schedule={client(0): "masked"})
    wire.enter(Stage("share", "client", "setup"))
    assert not wire.silent(client(0))
    for name in ("masked", "unmask"):
        wire.enter(Stage(name, "client"))
        assert wire.silent(client(0))
        assert not wire.silent(client(1))


def test_what_goes_to_a_lost_client_is_sent_but_not_received() -> None:
    wire, stage = Wire(Network(), schedule={client(0): "masked"}), Stage("masked", "client")
    wire.enter(stage)
    assert wire.carry([_message("server", client(0)), _message("server", client(1))]) == [_message("server", client(1))]
    wire.leave(stage)
    assert {row.role: (row.bytes_sent, row.bytes_received) for row in wire.costs} == {
        "client": (0, 10),
        "server": (20, 0),
    }


def test_an_adversary_changes_and_swallows() -> None:
    def tamper(message: Message) -> Message | None:
        if message.sender == client(0):
            return None
        return Message(message.sender, message.recipient, message.stage, b"forged")

    wire = Wire(Network(), tamper=tamper)
    delivered = wire.carry([_message(client(0), "server"), _message(client(1), "server")])
    assert [(message.sender, message.body) for message in delivered] == [(client(1), b"forged")]
    wire.leave(Stage("masked", "client"))
    by_role = {row.role: row for row in wire.costs}
    assert by_role["client"].bytes_sent == 20  # what the honest sent was spent, whatever became of it
    assert by_role["server"].bytes_received == len(b"forged")


def test_a_message_does_not_show_its_bytes() -> None:
    secret = b"a share of a mask key"
    assert "share of" not in repr(Message(client(0), "server", "share", secret))


def test_cohort_of_is_sorted_and_ignores_others() -> None:
    assert cohort_of(["server", client(10), client(2), "combiner/1"]) == (2, 10)
