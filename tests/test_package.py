"""The package as a whole: versions agree, nothing heavy is loaded early, the ground holds what it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fedpriv

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): pin
    for name, _, pin in (line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    if pin
}
REQUIREMENTS = [
    Requirement(line)
    for line in (*PROJECT["dependencies"], *(x for extra in PROJECT["optional-dependencies"].values() for x in extra))
    if not line.startswith("fedpriv[")
]
HEAVY = ("torch", "tenseal", "phe", "opacus", "matplotlib", "pandas", "scipy", "sklearn", "dp_accounting", "ray")


def test_versions_agree() -> None:
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert cited[1] == fedpriv.__version__ == PROJECT["version"] == version("fedpriv")
    assert f"## [{fedpriv.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_a_misspelt_name_is_asked_about() -> None:
    with pytest.raises(AttributeError, match="SecureAgregation") as raised:
        fedpriv.SecureAgregation  # noqa: B018
    assert (raised.value.name, raised.value.obj) == ("SecureAgregation", fedpriv)  # what "Did you mean" is made from


def test_import_is_light() -> None:
    """Under half a second with numpy, the best of five; none of the heavy packages is loaded."""
    code = f"import fedpriv, json, sys; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    seconds = []
    for _ in range(5):
        command = [sys.executable, "-X", "importtime", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == []
        times = re.search(r"^import time:\s+\d+ \|\s+(\d+) \| fedpriv$", done.stderr, re.MULTILINE)
        assert times is not None
        seconds.append(int(times[1]) / 1e6)
    assert min(seconds) < 0.5


def test_public_names_are_few_and_there() -> None:
    assert len(fedpriv.__all__) <= 46  # what stands in a plan, the calls that run one, three modules
    assert len(set(fedpriv.__all__)) == len(fedpriv.__all__)
    for name in fedpriv.__all__:
        assert getattr(fedpriv, name) is not None
    assert set(fedpriv.__all__) <= set(dir(fedpriv))
    with pytest.raises(AttributeError, match="moonshine"):
        fedpriv.moonshine  # noqa: B018


def test_commands_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    readme = (ROOT / "README.md").read_text()
    promised = set(re.findall(r"(?:^\s*|`|\$ |&& )make ([a-z]+)", readme, re.MULTILINE))
    assert {"demo", "test"} <= promised
    assert promised <= targets


def test_no_path_of_a_machine_is_committed() -> None:
    pattern = r"(^|[^A-Za-z0-9_.])/(" + "|".join(["home", "work", "Users", "root"]) + ")/"
    command = ["git", "grep", "-nIE", pattern, "--", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr  # 1: nothing was found; more: git could not look


def test_pins_carry_no_build_of_one_machine() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == len(PINS) > 50
    assert not [line for line in lines if "+" in line]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_each_requirement_is_pinned_within_its_range(requirement: Requirement) -> None:
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} is not in constraints.txt"
    assert requirement.specifier.contains(pin)


def test_the_root_holds_what_the_design_lists() -> None:
    command = ["git", "ls-files"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    top = {name.split("/")[0] for name in files}
    listed = {"pyproject.toml", "constraints.txt", "README.md", "Makefile", "LICENSE", "CITATION.cff", "CHANGELOG.md"}
    folders = {"fedpriv", "tests", "benchmarks", "notebooks", "papers"}
    assert listed <= top
    assert {name for name in top if not name.startswith(".")} <= listed | folders
