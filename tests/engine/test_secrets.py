"""What a run keeps of a round that failed: the error, and no key, seed or vector that its frames would hold on to."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import fedpriv as fp
from fedpriv.aggregation.homomorphic.deployment import HomomorphicDeployment
from fedpriv.aggregation.secagg import Client
from fedpriv.errors import DataError, TooFewSurvivors, TrainingFailed, without_frames
from fedpriv.learning.update import Update, per_client

Make = Callable[..., fp.Plan]


def alive(*kinds: type) -> set[int]:
    gc.collect()
    return {id(thing) for thing in gc.get_objects() if type(thing) in kinds}


@per_client
class Failing:
    """An algorithm of the user's own that raises."""

    def init(self, client: Any) -> None:
        return None

    def train_one(self, model: Any, broadcast: Any, client: Any, state: Any, rng: Any) -> Update:
        raise ZeroDivisionError("the user's own")


def test_a_recorded_abort_keeps_no_role(federation: Any, planned: Make) -> None:
    before = alive(Client)
    aggregation = fp.SecureAggregation(corrupt=0.0, dropout=0.1, min_cohort=6)
    plan = planned(aggregation=aggregation, network=fp.Network(dropout={"upload": 1.0}))
    run = fp.run(federation, plan, seed=0, progress=False)
    assert [type(record.aborted) for record in run.records] == [TooFewSurvivors] * 2
    assert not alive(Client) - before, "the clients of an aborted attempt, with their keys and seeds"


def test_a_recorded_failure_keeps_no_key(federation: Any, planned: Make) -> None:
    before = alive(HomomorphicDeployment)
    plan = planned(client=Failing(), aggregation=fp.CKKS())
    study = fp.compare(federation, {"failing": plan}, seeds=[0], on_invalid="record", progress=False)
    (cell,) = study.cells
    error = cell.outcome.error  # type: ignore[union-attr]
    assert type(error) is TrainingFailed
    assert type(error.__cause__) is ZeroDivisionError, "what happened is still told"
    assert not alive(HomomorphicDeployment) - before, "the authority's secret key"


def test_without_frames_follows_every_link() -> None:
    try:
        try:
            try:
                raise KeyError("context")
            except KeyError:
                raise ZeroDivisionError("cause")  # noqa: B904
        except ZeroDivisionError as error:
            raise DataError("A rule.", remedy="A remedy.") from error
    except DataError as error:
        kept = without_frames(error)
    links: list[BaseException | None] = [kept, kept.__cause__, kept.__cause__ and kept.__cause__.__context__]
    assert [type(link) for link in links] == [DataError, ZeroDivisionError, KeyError]
    assert all(link is not None and link.__traceback__ is None for link in links)
