"""What every aggregator must do: one suite for fedpriv's protocols and for yours.

``check_aggregator(MyProtocol())`` runs real rounds in memory and raises :class:`ConformanceFailure`, naming every check
that failed and why. Each check is a function of a :class:`Bench` in :data:`CHECKS`, so that a test suite can run them
one by one::

    @pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check, bench):
        check(bench)

The suite tests behaviour. It cannot prove secrecy: it only catches an upload that is plainly not hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from fedpriv.aggregation.conformance import refusals, statements, sums
from fedpriv.aggregation.conformance.bench import Bench, ConformanceFailure
from fedpriv.aggregation.protocol import Aggregator

__all__ = ["CHECKS", "Bench", "Check", "ConformanceFailure", "check_aggregator"]

Check: TypeAlias = Callable[[Bench], None]

CHECKS: tuple[Check, ...] = (
    sums.check_sum_is_exact,
    sums.check_extremes_do_not_wrap,
    sums.check_order_does_not_matter,
    sums.check_dropouts_equal_ideal,
    sums.check_least_contributors,
    refusals.check_refuses_bad_inputs,
    refusals.check_takes_one_input,
    refusals.check_acts_once,
    refusals.check_refuses_duplicates,
    refusals.check_refuses_replays,
    refusals.check_refuses_wrong_parties,
    refusals.check_notices_flipped_bits,
    refusals.check_refuses_other_bytes,
    refusals.check_refuses_other_contexts,
    refusals.check_attempts_are_used_once,
    statements.check_threat_model,
    statements.check_stages,
    statements.check_uploads_look_hidden,
    statements.check_bytes_match_estimate,
    statements.check_descriptions_are_values,
)


def check_aggregator(
    aggregator: Aggregator,
    *,
    cohorts: Sequence[int] = (2, 3, 4, 5, 8),
    lengths: Sequence[int] = (1, 7, 130),
    input_bound: int = 1000,
    flips: int = 8,
    bytes_tolerance: float = 0.0,
    seed: int = 0,
) -> None:
    """Run every check; see :class:`Bench` for the arguments.

    Raises:
        ConformanceFailure: names each check that failed, with its reason.
    """
    bench = Bench(
        aggregator=aggregator,
        cohorts=cohorts,
        lengths=lengths,
        input_bound=input_bound,
        flips=flips,
        bytes_tolerance=bytes_tolerance,
        seed=seed,
    )
    failures = []
    for check in CHECKS:
        try:
            check(bench)
        except Exception as error:  # a foreign aggregator may fail in any way
            failures.append(f"{check.__name__}: {type(error).__name__}: {error}")
    if failures:
        raise ConformanceFailure(f"{len(failures)} of {len(CHECKS)} checks failed.\n" + "\n".join(failures))
