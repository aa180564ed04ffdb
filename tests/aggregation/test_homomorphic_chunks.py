"""CKKS and Paillier with vectors of several messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pytest
from schemes import Protected, both, per_ciphertext, run, session_of, terms_of

from fedpriv.aggregation.homomorphic import paillier
from fedpriv.aggregation.homomorphic.adding import HomomorphicServer
from fedpriv.aggregation.homomorphic.bfv import BFV
from fedpriv.aggregation.homomorphic.ckks import CKKS
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.homomorphic.envelope import seal
from fedpriv.aggregation.homomorphic.keys import KeyAuthority
from fedpriv.crypto.lattice import bfv_noise, ckks_noise
from fedpriv.errors import UnexpectedMessage
from fedpriv.network import Message
from fedpriv.threat import AUTHORITY, SERVER, Party, client


@pytest.fixture
def chunked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Protected], tuple[HomomorphicDeployment, int]]:
    """A deployment in which a vector takes two messages, and the vector's length."""
    monkeypatch.setattr(paillier, "MESSAGE_BYTES", 512)  # one ciphertext of a 2048-bit key

    def deploy(aggregator: Protected) -> tuple[HomomorphicDeployment, int]:
        aggregator = replace(aggregator, keys=KeyAuthority(min_contributors=1))
        length = per_ciphertext(aggregator, terms_of(aggregator, 1, cohort=2)) + 1
        return aggregator.deploy(terms_of(aggregator, length, cohort=2)), length

    return deploy


Chunked: TypeAlias = Callable[[Protected], tuple[HomomorphicDeployment, int]]


@both
@pytest.mark.parametrize("order", [[0, 0], [1], [0, 1, 0], [0, 1, 1]], ids=str)
def test_chunks_come_once_each_and_in_order(aggregator: Protected, chunked: Chunked, order: list[int]) -> None:
    deployment, length = chunked(aggregator)
    roles = deployment.round(session_of(2))
    roles[client(0)].submit(np.ones(length, dtype=np.int64))  # type: ignore[attr-defined]
    chunks = roles[client(0)].step("encrypt")
    assert len(chunks) == 2
    for place in order[:-1]:
        roles[SERVER].receive(chunks[place])
    with pytest.raises(UnexpectedMessage):
        roles[SERVER].receive(chunks[order[-1]])


@both
def test_a_client_lost_within_its_upload_is_not_in_the_sum(aggregator: Protected, chunked: Chunked) -> None:
    """The last chunk of one client never arrives: the sum is the others', exactly."""
    deployment, length = chunked(aggregator)
    sent: list[Party] = []

    def swallow(message: Message) -> Message | None:
        sent.append(message.sender)
        return None if message.sender == client(0) and sent.count(client(0)) > 1 else message

    vectors = np.array([np.ones(length), -np.ones(length)], dtype=np.int64)
    result = run(deployment, session_of(2), vectors, swallow)
    assert result.contributors == (1,)
    assert np.array_equal(result.total, vectors[1])


@both
def test_the_server_keeps_one_vector(aggregator: Protected, chunked: Chunked) -> None:
    """Uploads are folded in as they complete, chunks of two clients interleaved."""
    deployment, length = chunked(aggregator)
    roles = deployment.round(session_of(2))
    server = roles[SERVER]
    assert isinstance(server, HomomorphicServer)
    uploads = []
    for party in (client(0), client(1)):
        roles[party].submit(np.ones(length, dtype=np.int64))  # type: ignore[attr-defined]
        uploads.append(roles[party].step("encrypt"))
    for pair in zip(*uploads, strict=True):
        for message in pair:
            server.receive(message)
    assert (len(server._fold._totals), server._fold.arriving) == (2, frozenset())
    for message in server.step("add"):
        roles[AUTHORITY].receive(message)
    assert server._fold._totals == []
    roles[AUTHORITY].step("decrypt")
    assert np.array_equal(roles[AUTHORITY].result().total, np.full(length, 2))  # type: ignore[attr-defined]


@both
@pytest.mark.parametrize("named", [((0, 1), (0,)), ((0, 7), (0, 7))], ids=["differing", "unknown"])
def test_aggregates_name_their_contributors(
    aggregator: Protected, chunked: Chunked, named: tuple[tuple[int, ...], ...]
) -> None:
    """All chunks name the same clients, and only participants."""
    deployment, _ = chunked(aggregator)
    roles = deployment.round(session_of(2))
    label = roles[AUTHORITY]._label  # type: ignore[attr-defined]
    first, second = (
        Message(SERVER, AUTHORITY, "add", seal(label, chunk, contributors, b"x"))
        for chunk, contributors in enumerate(named)
    )
    with pytest.raises(UnexpectedMessage):  # noqa: PT012
        roles[AUTHORITY].receive(first)
        roles[AUTHORITY].receive(second)


@pytest.mark.parametrize("aggregator", [CKKS(), BFV()], ids=["CKKS", "BFV"])
def test_an_aggregate_is_held_to_the_bound_of_all_its_ciphertexts(
    aggregator: CKKS | BFV, chunked: Chunked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that an honest one is refused with the probability that the plan was proved for, however long it is."""
    deployment, length = chunked(aggregator)
    asked: list[int] = []
    slot_error, noise_bound = ckks_noise.slot_error, bfv_noise.noise_bound

    def ckks(*args: Any, **named: Any) -> Any:
        asked.append(named["slots"] // args[0].slots)
        return slot_error(*args, **named)

    def bfv(*args: Any, **named: Any) -> Any:
        asked.append(named["ciphertexts"])
        return noise_bound(*args, **named)

    monkeypatch.setattr(ckks_noise, "slot_error", ckks)
    monkeypatch.setattr(bfv_noise, "noise_bound", bfv)
    run(deployment, session_of(2), np.ones((2, length), dtype=np.int64))
    assert asked == [2, 2]
