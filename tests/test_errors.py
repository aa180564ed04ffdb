"""Every error names the value, the rule and the remedy, and crosses process borders whole."""

from __future__ import annotations

import inspect
import pickle

import pytest

from fedpriv import errors

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.FedprivError)]


@pytest.mark.parametrize("kind", KINDS)
def test_message_names_value_rule_and_remedy(kind: type[errors.FedprivError]) -> None:
    error = kind("A cohort has at least 3 clients.", value=2, remedy="Raise the sampling rate.")
    assert str(error) == "A cohort has at least 3 clients. Got 2. Raise the sampling rate."
    assert (error.rule, error.value, error.remedy) == (
        "A cohort has at least 3 clients.",
        2,
        "Raise the sampling rate.",
    )


def test_without_a_value_nothing_is_shown() -> None:
    assert (
        str(errors.InvalidShare("Shares agree.", remedy="Start a new attempt.")) == "Shares agree. Start a new attempt."
    )


def test_a_remedy_is_not_optional() -> None:
    with pytest.raises(TypeError, match="remedy"):
        errors.DataError("Something is wrong.")  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", KINDS)
def test_pickles(kind: type[errors.FedprivError]) -> None:
    error = kind("A rule.", value={"rounds": 0}, remedy="A remedy.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.rule, copy.value, copy.remedy) == (str(error), error.rule, error.value, error.remedy)


def test_families() -> None:
    """What callers catch: a wrong argument is a ValueError; an aborted round is one family, no ValueError."""
    assert issubclass(errors.PlanError, ValueError)
    assert issubclass(errors.DataUnavailable, errors.DataError)
    for kind in (errors.TooFewSurvivors, errors.CohortTooSmall, errors.AuthenticationFailed, errors.DecryptionFailed):
        assert issubclass(kind, errors.RoundAborted)
        assert not issubclass(kind, ValueError)
