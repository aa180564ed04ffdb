"""What a plan and its parts refuse as they are written down, before there is a federation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

import fedpriv as fp
from fedpriv.errors import ConfigurationError
from fedpriv.privacy import RoundSpec

Make = Callable[..., fp.Plan]


class TestIncoherent:
    @pytest.mark.parametrize("rounds", [0, -1, True, 2.0, "3", None])
    def test_rounds(self, rounds: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match="at least one round"):
            planned(rounds=rounds)

    @pytest.mark.parametrize("adjacency", ["zeroout", "", None, 1])
    def test_adjacency(self, adjacency: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match="zero-out"):
            planned(adjacency=adjacency)

    @pytest.mark.parametrize("model", ["logistic", 3])
    def test_model_that_cannot_be_called(self, model: Any, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match="callable"):
            planned(model=model)

    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("client", fp.LocalSGD),
            ("sampling", fp.FullParticipation),
            ("mechanism", fp.NoDP),
            ("aggregation", fp.PlainSum),
            ("server", fp.FedAvg),
            ("network", fp.Network),
        ],
    )
    def test_a_class_instead_of_an_instance(self, name: str, part: type, planned: Make) -> None:
        with pytest.raises(
            ConfigurationError, match=f"plan's {name} .*Give an instance.*{part.__name__}.*not the class"
        ):
            planned(**{name: part})

    @pytest.mark.parametrize("name", ["client", "sampling", "mechanism", "aggregation", "server", "network"])
    def test_a_part_without_what_its_seam_needs(self, name: str, planned: Make) -> None:
        with pytest.raises(ConfigurationError, match=f"plan's {name} .*It lacks") as caught:
            planned(**{name: object()})
        for member in ("payload", "accounting", "noise_contributors", "deploy", "broadcast", "schedule"):
            assert str(caught.value).count(member) <= 1  # nothing is listed twice

    @pytest.mark.parametrize(
        ("name", "member"),
        [
            *(("sampling", member) for member in ("cohort", "expected", "least", "largest", "accounting")),
            *(("mechanism", member) for member in ("noise_contributors", "trust", "advance")),
            *(("aggregation", member) for member in ("least_contributors", "threat_model", "estimate")),
        ],
    )
    def test_a_part_that_lacks_one_member(self, name: str, member: str, planned: Make) -> None:
        whole = getattr(planned(), name)

        class Lacking:
            def __getattr__(self, wanted: str) -> Any:
                if wanted == member:
                    raise AttributeError(wanted)
                return getattr(whole, wanted)

        with pytest.raises(ConfigurationError, match=f"It lacks {member}"):
            planned(**{name: Lacking()})

    def test_parts_must_be_named(self) -> None:
        with pytest.raises(TypeError):
            fp.Plan(fp.models.logistic, fp.LocalSGD(epochs=1, learning_rate=0.1))  # type: ignore[misc, call-arg]


@pytest.mark.parametrize("keys", [fp.KeyAuthority, "authority"])
@pytest.mark.parametrize("scheme", [fp.CKKS, fp.Paillier])
def test_keys_that_are_no_key_model(scheme: Any, keys: Any) -> None:
    with pytest.raises(ConfigurationError, match="who holds the secret key"):
        scheme(keys=keys)


@pytest.mark.parametrize("clip_norm", [0, -1.0, float("nan"), "1"])
def test_a_clip_norm_that_is_none(clip_norm: Any) -> None:
    with pytest.raises(ConfigurationError, match="clip norm is finite"):
        fp.CentralGaussian(clip_norm=clip_norm, noise_multiplier=1.0)


@dataclass(frozen=True, kw_only=True)
class Older(fp.NoDP):
    """As mechanisms were written before rounds had public randomness."""

    def begin(self, state: RoundSpec, round: int) -> RoundSpec:  # type: ignore[override]
        return replace(state, round=round)


def test_a_mechanism_that_does_not_take_what_it_is_given(planned: Make) -> None:
    with pytest.raises(ConfigurationError, match=r"begin takes \(state, round, public\).*Older\.begin\(state"):
        planned(mechanism=Older())
