"""The suites of secure aggregation measure real rounds, and say so where there is nothing to compare with."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from benchmarks import Row, secagg, secagg_large
from benchmarks.apart import apart
from fedpriv.aggregation.secagg.server import Server


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secagg, "QUICK", ((10, 500),))
    monkeypatch.setattr(secagg, "REPEATS", 1)
    monkeypatch.setattr(secagg.peers, "measure", lambda *_: iter(()))
    monkeypatch.setattr(secagg_large, "QUICK", (secagg_large.Point(10, 300, 0.1, 0.1, "complete"),))


@pytest.mark.usefixtures("small")
def test_clients_and_servers_stand_beside_flower_and_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    def flower(peer: str, script: object, wanted: str) -> Iterator[Row]:
        for n, d in json.loads(wanted)["points"]:
            for role in ("client", "server"):
                yield {"role": role, "clients": n, "coordinates": d, "dropout": 0.0, "cpu_seconds": 2.0, "how": "x"}

    monkeypatch.setattr(secagg.peers, "measure", flower)
    rows = list(secagg.rows(quick=True))
    assert [(row["role"], row["dropout"]) for row in rows] == [
        ("client", 0.0),
        *(("server", dropout) for dropout in secagg.DROPOUTS),
    ]
    assert len({tuple(row) for row in rows}) == 1
    for row in rows:
        assert isinstance(row["cpu_seconds"], float)
        assert isinstance(row["floor_seconds"], float)
        assert row["to_floor"] == row["cpu_seconds"] / row["floor_seconds"]
        assert row["flower_to_cpu"] == (2.0 / row["cpu_seconds"] if row["dropout"] == 0.0 else None)
    # A masked vector of 500 coordinates in 20 bits, ten shares of 34 bytes, nine envelopes of 96: at the least.
    assert isinstance(rows[0]["sent_bytes"], int)
    assert 1250 + 340 + 864 < rows[0]["sent_bytes"] < 1250 + 340 + 864 + 400


@pytest.mark.usefixtures("small")
def test_without_flower_its_columns_are_empty() -> None:
    assert {(row["flower_seconds"], row["flower_to_cpu"]) for row in secagg.rows(quick=True)} == {(None, None)}


@pytest.mark.usefixtures("small")
def test_a_wrong_sum_is_no_measurement(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    right = Server.result

    def wrong(self: Server) -> object:
        total = right(self)
        total.total[0] += 1
        return total

    monkeypatch.setattr(Server, "result", wrong)
    for suite in (secagg, secagg_large):
        with pytest.raises(RuntimeError, match="A measurement failed"):
            list(suite.rows(quick=True))
        assert "Another sum than that of the inputs" in capfd.readouterr().err


@pytest.mark.usefixtures("small")
def test_the_stages_of_a_round_add_up_to_it() -> None:
    *stages, whole = secagg_large.rows(quick=True)
    assert whole["stage"] == "whole round"
    assert sum(float(row["share"] or 0) for row in stages) <= 1 + 1e-9
    assert whole["sent_bytes"] == sum(int(row["sent_bytes"] or 0) for row in stages)


def test_what_happens_apart_stays_there() -> None:
    seen: list[int] = []
    assert apart(lambda: seen.append(1) or len(seen)) == 1
    assert seen == []
