"""Where clients train: on the processor where there is no GPU, and refused aloud where one is asked for in vain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fedpriv as fp
from fedpriv.engine import training
from fedpriv.errors import ConfigurationError

PLAN = fp.Plan(model=fp.models.logistic, client=fp.LocalSGD(steps=2, learning_rate=0.3), rounds=2)


@pytest.fixture(scope="module")
def federation() -> fp.data.Federation:
    return fp.data.digits(clients=5, seed=0)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_processor_where_there_is_no_gpu(federation: fp.data.Federation) -> None:
    assert training.settled_device("auto") == "cpu"
    by_default = fp.run(federation, PLAN, seed=0, progress=False)
    assert by_default.sha256 == fp.run(federation, PLAN, seed=0, progress=False, device="cpu").sha256


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training.settled_device("auto") == training.settled_device("cuda") == "cuda"
    assert training.settled_device("cpu") == "cpu"


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_not_there_is_refused(federation: fp.data.Federation) -> None:
    with pytest.raises(ConfigurationError, match="needs a GPU"):
        fp.run(federation, PLAN, seed=0, progress=False, device="cuda")
    with pytest.raises(ConfigurationError, match="needs a GPU"):
        next(fp.rounds(federation, PLAN, seed=0, device="cuda"))


def test_an_unknown_device_is_refused(federation: fp.data.Federation) -> None:
    with pytest.raises(ConfigurationError, match="tpu"):
        fp.run(federation, PLAN, seed=0, progress=False, device="tpu")  # type: ignore[arg-type]


def test_each_device_has_a_module_of_its_own(federation: fp.data.Federation) -> None:
    """The meta device computes nothing, but every machine has it."""
    resolved = PLAN.resolve(federation)
    for device in ("meta", "cpu", "meta"):
        module = training._module(resolved, device)
        assert module is not None
        assert {p.device.type for p in module.parameters()} == {device}


@pytest.mark.usefixtures("no_gpu")
def test_clients_train_where_the_run_says(federation: fp.data.Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    real = training._module

    def told(resolved: Any, device: str) -> Any:
        seen.add(device)
        return real(resolved, "cpu")

    monkeypatch.setattr(training, "_module", told)
    monkeypatch.setattr("fedpriv.engine.rounds.device_of", lambda resolved, device: "cuda")
    fp.run(federation, PLAN, seed=0, progress=False)
    assert seen == {"cuda"}


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("batching", ["loop", "vmap", "stacked"])
def test_devices_agree_to_rounding(federation: fp.data.Federation, batching: Any, device: Any) -> None:
    plan = fp.Plan(model=fp.models.mlp, client=PLAN.client, rounds=2, batching=batching)
    there, cpu = (fp.run(federation, plan, seed=0, progress=False, device=name) for name in (device, "cpu"))
    np.testing.assert_allclose(there.parameters, cpu.parameters, atol=0 if device == "cpu" else 1e-4)
