"""Parties, observers, and what a coalition pools."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpriv.errors import ConfigurationError
from fedpriv.threat import Coalition, ThreatModel, View, client, client_index, parties_of

MASKED = ThreatModel(
    adversary="honest-but-curious",
    corrupt=0.1,
    assumptions=("Clients' keys are authentic.",),
    reference="Bonawitz et al. 2017, section 6",
    learns={
        "server": frozenset({View.SURVIVORS, View.CIPHERTEXTS, View.EXACT_SUM}),
        "client": frozenset({View.COHORT}),
        "public": frozenset({View.FINAL_MODEL}),
    },
)
KEYED = ThreatModel(
    adversary="honest-but-curious",
    corrupt=0.0,
    assumptions=("Server and authority do not collude.",),
    reference="-",
    learns={"server": frozenset({View.CIPHERTEXTS}), "authority": frozenset({View.EXACT_SUM})},
    releaser="authority",
    exposing=(frozenset({"server", "authority"}),),
)


@given(st.integers(min_value=0, max_value=2**64))
def test_client_names_are_one_to_one(index: int) -> None:
    assert client_index(client(index)) == index


@pytest.mark.parametrize(
    "party",
    ["server", "client", "client/", "client/-1", "client/007", "client/1/2", "client/x", "client/²", "client/٣"],
)
def test_other_spellings_are_refused(party: str) -> None:
    with pytest.raises(ConfigurationError, match="client/<index>"):
        client_index(party)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0, float("nan"), float("inf"), "0.1", True, None, [0.1]])
def test_colluding_share_is_a_fraction(share: Any) -> None:
    with pytest.raises(ConfigurationError, match="colluding"):
        Coalition(clients=share)


@pytest.mark.parametrize("name", ["server", "authority"])
def test_a_party_is_inside_or_not(name: str) -> None:
    member: Any = "yes"
    with pytest.raises(ConfigurationError, match=f"{name} is True or False"):
        Coalition(**{name: member})


def test_named_observers_and_coalitions_agree() -> None:
    assert parties_of("server") == Coalition(server=True).parties
    assert parties_of("authority") == Coalition(authority=True).parties
    assert parties_of("public") == Coalition().parties
    with pytest.raises(ConfigurationError, match="'moon'"):
        parties_of("moon")
    nobody: Any
    for nobody in (["server"], None, 3):
        with pytest.raises(ConfigurationError, match="An observer is"):
            parties_of(nobody)


def test_coalitions_are_named_without_rounding_their_size_away() -> None:
    assert str(Coalition(server=True, clients=0.1)) == "server + 10% of clients"
    assert str(Coalition(clients=0.004)) == "0.4% of clients"
    assert str(Coalition()) == "public"


def test_an_observer_sees_its_own_and_the_public_view() -> None:
    assert MASKED.sees("participant") == {View.COHORT, View.FINAL_MODEL}
    assert MASKED.sees("public") == {View.FINAL_MODEL}
    assert MASKED.sees("authority") == {View.FINAL_MODEL}  # there is none in this protocol


def test_a_coalition_pools_views() -> None:
    pooled = MASKED.sees(Coalition(server=True, clients=0.1))
    assert pooled == MASKED.sees("server") | MASKED.sees("participant")
    assert View.UPDATES not in pooled


def test_beyond_the_bound_nothing_is_claimed() -> None:
    assert View.UPDATES in MASKED.sees(Coalition(server=True, clients=0.11))
    assert View.UPDATES not in MASKED.sees(Coalition(clients=0.5))  # without the server they hold no masked vectors


def test_a_share_that_is_over_the_bound_by_rounding_is_not_beyond_it() -> None:
    bound = replace(MASKED, corrupt=0.3)
    assert View.UPDATES not in bound.sees(Coalition(server=True, clients=0.1 + 0.2))
    assert View.UPDATES in bound.sees(Coalition(server=True, clients=0.3 + 1e-6))


def test_exposing_coalitions_see_updates() -> None:
    assert View.UPDATES not in KEYED.sees(Coalition(server=True))
    assert View.UPDATES not in KEYED.sees(Coalition(authority=True))
    assert {View.UPDATES, View.EXACT_SUM} <= KEYED.sees(Coalition(server=True, authority=True))
    assert View.UPDATES in KEYED.sees(Coalition(server=True, authority=True, clients=0.2))


def test_with_views_adds_and_forgets_nothing() -> None:
    wider = MASKED.with_views({"client": frozenset({View.ROUND_MODELS}), "combiner/1": frozenset({View.GROUP_SUMS})})
    assert wider.sees("participant") == {View.COHORT, View.ROUND_MODELS, View.FINAL_MODEL}
    assert wider.learns["combiner/1"] == {View.GROUP_SUMS}
    assert wider.learns["server"] == MASKED.learns["server"]
    assert View.ROUND_MODELS not in MASKED.sees("participant")
