"""The set-up and the stages behind ``make``: nothing unfinished looks ready, nothing that failed looks good."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Pip:
    """Stands for the commands of a set-up: notes them, makes an interpreter, fails on demand."""

    def __init__(self, root: Path) -> None:
        self.root, self.commands, self.fails = root, [""], False

    def __call__(self, *command: str) -> None:
        self.commands.append(" ".join(command))
        if "--clear" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True, exist_ok=True)
            (Path(command[-1]) / "bin" / "python").touch()
        elif self.fails:
            raise KeyboardInterrupt

    def called(self) -> list[str]:
        """What was run since the last call of this method: ``new``, ``core``, ``dev``, ``peers``, ``torch``."""
        kinds = {"--clear": "new", ".[dev]": "dev", "--editable .": "core", "flwr": "peers", "--index-url": "torch"}
        found = [next(kind for mark, kind in kinds.items() if mark in command) for command in self.commands[1:]]
        self.commands = [""]
        return found


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Pip, Callable[[str], None]]:
    environment = _script("environment")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text(name)
    pip = Pip(tmp_path)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "_run", pip)
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    return pip, environment.main


def test_set_up_is_done_once(ground: tuple[Pip, Callable[[str], None]]) -> None:
    pip, main = ground
    main("core")
    assert pip.called() == ["new", "core"]
    main("core")
    assert pip.called() == []


def test_changed_requirements_are_installed(ground: tuple[Pip, Callable[[str], None]]) -> None:
    pip, main = ground
    for name in ("pyproject.toml", "constraints.txt"):
        main("dev")
        pip.called()
        (pip.root / name).write_text("changed")
        main("dev")
        assert pip.called() == ["dev"]


def test_dev_serves_core_and_is_never_narrowed(ground: tuple[Pip, Callable[[str], None]]) -> None:
    pip, main = ground
    main("core")
    main("dev")
    assert pip.called() == ["new", "core", "dev"]
    main("core")
    assert pip.called() == []
    (pip.root / "constraints.txt").write_text("changed")
    main("core")
    assert pip.called() == ["dev"]


@pytest.mark.parametrize("built_before", [False, True])
def test_an_interrupted_set_up_starts_anew(ground: tuple[Pip, Callable[[str], None]], built_before: bool) -> None:
    pip, main = ground
    if built_before:
        main("core")
    pip.fails = True
    with pytest.raises(KeyboardInterrupt):
        main("dev")
    pip.fails = False
    pip.called()
    main("core")
    assert pip.called() == ["new", "core"]


def test_a_moved_checkout_is_built_anew(
    ground: tuple[Pip, Callable[[str], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pip, main = ground
    main("core")
    stamp = pip.root / ".venv" / "fedpriv-stamp"
    stamp.write_text(stamp.read_text().replace(str(pip.root), "elsewhere"))
    pip.called()
    main("core")
    assert pip.called() == ["new", "core"]


def test_torch_comes_first_from_its_index(
    ground: tuple[Pip, Callable[[str], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pip, main = ground
    monkeypatch.setenv("TORCH_INDEX", "https://example.org/cpu")
    main("core")
    assert pip.called() == ["new", "torch", "core"]


def test_peers_live_apart(ground: tuple[Pip, Callable[[str], None]]) -> None:
    pip, main = ground
    main("peers")
    assert pip.called() == ["new", "peers"]
    assert (pip.root / ".peers").is_dir()
    assert not (pip.root / ".venv").exists()


def test_every_stage_runs_and_the_last_line_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = _script("stages")

    def crash() -> object:
        """Fails without a failing test."""
        return stages.Result(False, note="pytest ended with 3")

    def good() -> object:
        """Passes."""
        return stages.Result(True, passed=7, skipped=1)

    monkeypatch.setattr(stages, "STAGES", {"crash": (crash, 1), "good": (good, 0)})
    assert stages.main(["crash", "good"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "7 passed, 1 failed"
    assert any(line.startswith("crash") and "FAILED pytest ended with 3" in line for line in lines)
    assert any(line.startswith("good") and "ok, OVER BUDGET" in line for line in lines)
    assert any(line.startswith("WARNING: good took") for line in lines)
    assert stages.main(["good"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "7 passed, 0 failed"


def test_pytest_results_are_counted(tmp_path: Path) -> None:
    stages = _script("stages")
    tests = tmp_path / "test_some.py"
    tests.write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "@pytest.fixture\ndef broken(): raise ValueError\n"
        "def test_error(broken): pass\n"
        "@pytest.mark.skip(reason='x')\ndef test_skipped(): pass\n"
    )
    result = stages._pytest("-n0", str(tests))
    assert (result.good, result.passed, result.failed, result.skipped) == (False, 1, 2, 1)
    nothing = stages._pytest("-n0", str(tests), "-k", "absent")
    assert (nothing.good, nothing.note) == (False, "no test was found")
