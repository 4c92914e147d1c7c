"""What is declared, pinned, imported and said about the project agrees."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import reward_model

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = ("reward_model", "service", "training")


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _declared(*extras: str) -> dict[str, Requirement]:
    project = PROJECT["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(one.name): one for one in requirements}


def _pins() -> list[Requirement]:
    return [Requirement(line) for line in _read("constraints.txt").splitlines() if line and not line.startswith("#")]


def _third_party(room: str) -> set[str]:
    """Top-level modules that a room imports and that are neither Python's nor ours."""
    found = set()
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - set(ROOMS)


def test_every_direct_dependency_is_pinned_to_a_version_in_its_range() -> None:
    pins = {str(canonicalize_name(pin.name)): pin for pin in _pins()}
    for name, requirement in _declared(*PROJECT["project"]["optional-dependencies"]).items():
        (specifier,) = pins[name].specifier
        assert requirement.specifier.contains(specifier.version), name


def test_constraints_pin_one_exact_public_version_each_in_order() -> None:
    pins = _pins()
    assert all([one.operator for one in pin.specifier] == ["=="] for pin in pins)
    assert all(Version(one.version).local is None for pin in pins for one in pin.specifier)
    names = [pin.name.lower() for pin in pins]
    assert names == sorted(set(names))


@pytest.mark.parametrize(
    ("room", "extras"), [("reward_model", ()), ("service", ()), ("training", ("training", "demo"))]
)
def test_what_a_room_imports_is_declared(room: str, extras: tuple[str, ...]) -> None:
    # torch's builds for CUDA bring Triton, those for CPUs do without.
    owners = packages_distributions() | {"triton": ["torch"]}
    declared = _declared(*extras)
    undeclared = {
        module
        for module in _third_party(room)
        if not {canonicalize_name(owner) for owner in owners.get(module, [module])} & declared.keys()
    }
    assert undeclared == set()


def test_the_version_is_written_once_and_has_a_section_in_the_changelog() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "reward_model.__version__"
    assert re.search(rf"(?m)^## \[{re.escape(reward_model.__version__)}\]", _read("CHANGELOG.md"))
    assert re.search(r"(?m)^## \[Unreleased\]", _read("CHANGELOG.md"))


def test_the_manifests_name_the_current_version() -> None:
    assert f"newTag: {reward_model.__version__}\n" in _read("k8s/base/kustomization.yaml")


def test_the_demo_backbone_is_pinned_by_hash_and_credited() -> None:
    (pin,) = _declared("demo").keys() - _declared().keys()
    demo = _read("requirements-demo.txt")
    assert re.search(rf"(?m)^{re.escape(pin)}==0\.1\.0 \\\n\s+--hash=sha256:[0-9a-f]{{64}}$", demo)
    notice = _read("NOTICE")
    assert "all-MiniLM-L6-v2" in notice
    assert pin in notice


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_ships_its_types(room: str) -> None:
    assert (ROOT / room / "py.typed").exists()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"][room]


def test_the_oldest_python_is_the_one_that_the_tools_check_for() -> None:
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(oldest)
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")


def test_continuous_integration_runs_what_a_developer_runs() -> None:
    assert "make check" in _read(".ci/run")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
