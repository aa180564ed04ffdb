"""What the clients of an attempt must agree on is in its context, every byte and every term."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest
from algorithms import Make, execute

import fedpriv as fp
from fedpriv.engine.context import digest, serialise
from fedpriv.engine.description import describe
from fedpriv.errors import ConfigurationError
from fedpriv.learning.update import Broadcast
from fedpriv.privacy.correlation import Correlation
from fedpriv.privacy.ledger.event import Response
from fedpriv.privacy.mechanism import Adapted, Share


class TestContext:
    @pytest.fixture
    def parts(self, federation: Any, planned: Make) -> tuple[Broadcast, Any, Any]:
        plan = planned(mechanism=fp.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0))
        spec = plan.resolve(federation).spec
        parameters = np.arange(3, dtype=np.float32)
        extra = {"control": np.ones(2, dtype=np.float32)}
        return Broadcast(parameters=parameters, extra=extra), spec, plan.client

    def test_every_byte_and_every_term_counts(self, parts: Any) -> None:
        broadcast, spec, client = parts
        base = serialise(broadcast)
        hashes = [digest(base, spec, client, 5)]
        assert digest(base, spec, client, 5) == hashes[0]
        for position in range(len(base)):
            hashes.append(digest(base[:position] + bytes([base[position] ^ 1]) + base[position + 1 :], spec, client, 5))
        terms = [
            {"clip_norm": 2.0},
            {"round": 1},
            {"noise_multiplier": 2.0},
            {"divisor": 9.0},
            {"max_weight": 2},
            {"length": 16},
            {"codec": replace(spec.codec, step=spec.codec.step * 2)},
            {"adjacency": "add-remove"},
            {"sampling": None},
            {"planned_contributors": 99},
            {"public": 7},
            {"modulus_bits": 12},
            {"limit": 99},
            {"share": Share(kind="skellam", variance=1.0, l2=1.0, l1=1.0, dimension=4, wrap=0.0)},
            {"correlation": Correlation(kind="tree", rounds=5)},
            {"adapted": Adapted(norm=1.0, bit=0.1, cohort=8.0)},
            {"corrupt": 0.25},
            {"response": Response(epsilon=1.0, categories=2)},
        ]
        hashes += [digest(base, replace(spec, **change), client, 5) for change in terms]
        assert {item for change in terms for item in change} == {item.name for item in fields(spec)}
        for change in ({"learning_rate": 0.31}, {"steps": 3}, {"momentum": 0.5}, {"proximal": 0.1}, {"batch_size": 5}):
            hashes.append(digest(base, spec, replace(client, **change), 5))
        hashes.append(digest(base, spec, client, 6))
        assert len(set(hashes)) == len(hashes)

    def test_hyper_parameters_count_whatever_their_type(self, parts: Any) -> None:
        broadcast, spec, _ = parts

        class Own:
            """An algorithm that is no dataclass."""

            def __init__(self, **settings: Any) -> None:
                self.__dict__ |= settings

        values = [
            np.int64(1),
            np.int64(2),
            np.float32(0.5),
            0.25,
            np.arange(3),
            np.arange(4),
            "a",
            {2, 3},
            (1, 2),
            None,
        ]
        hashes = {digest(serialise(broadcast), spec, Own(setting=value), 5) for value in values}
        assert len(hashes) == len(values)
        assert describe({"b", "a"}) == ["a", "b"]  # not in the order of a salted hash

    def test_a_user_object_that_leads_back_to_itself(self) -> None:
        class Own:
            def __init__(self) -> None:
                self.me, self._key = self, "secret"

        assert describe(Own()) == {"type": "Own", "me": "Own"}

    def test_names_and_lengths_are_part_of_it(self) -> None:
        one, two = np.ones(1, dtype=np.float32), np.ones(2, dtype=np.float32)
        made = [
            Broadcast(parameters=two, extra={"a": one}),
            Broadcast(parameters=one, extra={"a": two}),
            Broadcast(parameters=two, extra={"b": one}),
            Broadcast(parameters=two, extra={"a": one, "b": one}),
            Broadcast(parameters=two, extra={"parameters": one}),
            Broadcast(parameters=3 * two, extra={"parameters": one}),
        ]
        assert len({serialise(broadcast) for broadcast in made}) == len(made)
        reordered = Broadcast(parameters=two, extra={"b": one, "a": one})
        assert serialise(reordered) == serialise(made[3])

    @pytest.mark.parametrize(
        "vector", [np.ones(2), np.ones(2, dtype=np.int64), np.ones((2, 1), dtype=np.float32), [1.0], None]
    )
    def test_what_is_not_sent_as_it_is_used_is_refused(self, vector: Any) -> None:
        with pytest.raises(ConfigurationError, match="float32"):
            serialise(Broadcast(parameters=np.ones(2, dtype=np.float32), extra={"control": vector}))

    def test_the_session_carries_it(self, federation: Any, planned: Make) -> None:
        seen: list[bytes] = []

        @dataclass(frozen=True, kw_only=True)
        class Watched(fp.PlainSum):
            kept: Any = field(default=None)

            def deploy(self, terms: Any) -> Any:
                deployment = super().deploy(terms)
                whole = deployment.round

                def round(session: Any) -> Any:
                    seen.append(session.context)
                    return whole(session)

                deployment.round = round  # type: ignore[method-assign]
                return deployment

        execute(federation, planned(aggregation=Watched(), rounds=3))
        assert len(set(seen)) == 3
        assert all(len(context) == 32 for context in seen)
