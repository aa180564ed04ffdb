"""The sum is exact, whatever the inputs, the cohort and the losses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedpriv.aggregation.conformance.bench import Bench, ConformanceFailure, Vectors, inputs, upload_stage
from fedpriv.aggregation.protocol import Session, Sum, perform_ideal
from fedpriv.errors import RoundAborted
from fedpriv.network import Schedule
from fedpriv.threat import CLIENT, client


def check_sum_is_exact(bench: Bench) -> None:
    """The sum of random vectors, for every cohort and length."""
    for length in bench.lengths:
        for cohort in bench.cohorts:
            session = bench.session(cohort)
            vectors = bench.vectors(session, length)
            require_same(bench.run(session, vectors, length=length), vectors, session.participants)


def check_extremes_do_not_wrap(bench: Bench) -> None:
    """Everybody at +bound, everybody at -bound, and half and half, in the largest cohort."""
    cohort = max(bench.cohorts)
    for signs in ((1, 1), (-1, -1), (1, -1)):
        session = bench.session(cohort)
        vectors = {
            index: np.full(bench.length, signs[i % 2] * bench.input_bound, dtype=np.int64)
            for i, index in enumerate(session.participants)
        }
        require_same(bench.run(session, vectors), vectors, session.participants)


def check_order_does_not_matter(bench: Bench) -> None:
    """Clients exchange their vectors: the sum stays."""
    first, second = bench.session(), bench.session()
    vectors = bench.vectors(first)
    exchanged = dict(zip(vectors, reversed(list(vectors.values())), strict=True))
    if not np.array_equal(bench.run(first, vectors).total, bench.run(second, exchanged).total):
        raise ConformanceFailure("The sum changed when clients exchanged their vectors.")


def check_dropouts_equal_ideal(bench: Bench) -> None:
    """For clients lost at any stage the real attempt and the ideal one give the same sum or the same error type."""
    for cohort in (min(bench.cohorts), bench.cohort):
        for schedule in schedules(bench, cohort):
            session = bench.session(cohort)
            vectors = bench.vectors(session)
            real = really(bench, session, vectors, schedule)
            ideal = ideally(bench, session, vectors, schedule)
            if real != ideal:
                raise ConformanceFailure(f"{schedule} of {cohort} clients: really {real}, ideally {ideal}.")


def check_least_contributors(bench: Bench) -> None:
    """With exactly the stated least number of uploads there is a sum; with one fewer there is none."""
    for cohort in bench.cohorts:
        least = bench.aggregator.least_contributors(cohort)
        session = bench.session(cohort)
        stage = upload_stage(bench)
        enough = {client(index): stage for index in session.participants[least:]}
        outcome = really(bench, session, bench.vectors(session), enough)
        if isinstance(outcome, type):
            raise ConformanceFailure(f"{least} of {cohort} contributors should be enough; got {outcome.__name__}.")
        session = bench.session(cohort)
        few = {client(index): stage for index in session.participants[least - 1 :]}
        outcome = really(bench, session, bench.vectors(session), few)
        if not (isinstance(outcome, type) and issubclass(outcome, RoundAborted)):
            raise ConformanceFailure(f"{least - 1} of {cohort} contributors gave a sum, below the stated {least}.")


def require_same(outcome: Sum, vectors: Vectors, contributors: Sequence[int]) -> None:
    """Raises ConformanceFailure unless the outcome is the exact sum over the contributors."""
    if outcome.contributors != tuple(contributors):
        raise ConformanceFailure(f"Contributors are {tuple(contributors)}, not {outcome.contributors}.")
    expected = np.sum([vectors[index] for index in contributors], axis=0)
    if outcome.total.dtype != np.int64 or not np.array_equal(outcome.total, expected):
        raise ConformanceFailure("The sum is not the exact int64 sum of the contributors' vectors.")


def really(
    bench: Bench, session: Session, vectors: Vectors, schedule: Schedule
) -> tuple[tuple[int, ...], bytes] | type[RoundAborted]:
    """What a real attempt comes to: contributors and sum, or the type of its error."""
    try:
        result = bench.run(session, vectors, schedule=schedule)
    except RoundAborted as error:
        return type(error)
    require_same(result, vectors, result.contributors)
    return result.contributors, result.total.tobytes()


def ideally(
    bench: Bench, session: Session, vectors: Vectors, schedule: Schedule
) -> tuple[tuple[int, ...], bytes] | type[RoundAborted]:
    """What the ideal functionality comes to."""
    try:
        result = perform_ideal(bench.deployment()[0], session, schedule, inputs(vectors), bench.length)
    except RoundAborted as error:
        return type(error)
    return result.contributors, result.total.tobytes()


def schedules(bench: Bench, cohort: int) -> list[Schedule]:
    """Losses at each stage: nobody, one, as many as can be borne, one more, all; and mixtures."""
    stages = [stage.name for stage in bench.deployment()[0].stages if stage.actor == CLIENT]
    parties = [client(3 * i + 1) for i in range(cohort)]
    spare = cohort - bench.aggregator.least_contributors(cohort)
    schedules: list[Schedule] = [{}]
    for stage in stages:
        for lost in sorted({1, spare, spare + 1, cohort}):
            schedules.append(dict.fromkeys(bench.rng.permutation(parties)[:lost].tolist(), stage))
    for _ in range(6):
        drawn = bench.rng.random(cohort) < 0.3
        schedules.append(
            {party: str(bench.rng.choice(stages)) for party, gone in zip(parties, drawn, strict=True) if gone}
        )
    return schedules
