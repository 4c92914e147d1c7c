"""The rooms and the rules between them, checked on the source of every module: nothing is imported or run.

Each rule is a function from parsed modules to a list of violations, and is itself tested on planted ones.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("reward_model", "service", "training")
CLIENT = "service.client"
MAX_LINES = 300
NAMES_OF_NOTHING = {"common", "helper", "helpers", "misc", "shared", "util", "utils"}

WEB = {"fastapi", "starlette", "uvicorn", "pydantic", "pydantic_settings", "prometheus_client"}
ENGINE = {"torch", "transformers"}

#: Who must not import what; a name covers all below it.
FORBIDDEN = {
    "reward_model": {"service", "training", "accelerate", "datasets", "httpx", *WEB},
    "service": {"training", "accelerate", "datasets", "torch.optim"},
    "service.batcher": {"fastapi", "starlette", "uvicorn", *ENGINE},
    "service.client": {*ROOMS, *WEB, *ENGINE},
    "service.pipeline": {"fastapi", "starlette", "uvicorn", *ENGINE},
    "service.stub": ENGINE,
    "training": {"service", *WEB},
}

Modules = Mapping[str, ast.Module]


def within(name: str, parent: str) -> bool:
    """Whether `name` is `parent` or lies below it."""
    return name == parent or name.startswith(parent + ".")


def imports_of(name: str, tree: ast.Module, modules: Modules) -> Iterator[tuple[ast.stmt, str]]:
    """Every import statement of a module with the full name of what it imports, those for types too."""
    package = name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (above, node.module)))
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node, full if full in modules or f"{full}.__init__" in modules else base


def forbidden_imports(modules: Modules) -> list[str]:
    """Imports that cross a boundary in the wrong direction."""
    return [
        f"{name}:{node.lineno} imports {target}"
        for name, tree in modules.items()
        for node, target in imports_of(name, tree, modules)
        for room, banned in FORBIDDEN.items()
        if within(name, room) and any(within(target, one) for one in banned)
        if not (target == CLIENT and name != CLIENT)
    ]


def cycles(modules: Modules) -> list[str]:
    """The first circle of modules that import one another, if any; imports for types count as well."""
    known = {name.removesuffix(".__init__"): name for name in modules}
    graph = {
        name: {known[target] for _, target in imports_of(name, tree, modules) if target in known} - {name}
        for name, tree in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def lazy_imports(modules: Modules) -> list[str]:
    """Imports inside functions, and imports by name, which hide a dependency from every other rule here."""
    found = []
    for name, tree in modules.items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found += [
                    f"{name}:{node.lineno} in {function.name}"
                    for node in ast.walk(function)
                    if isinstance(node, ast.Import | ast.ImportFrom)
                ]
        found += [
            f"{name}:{node.lineno} calls {ast.unparse(node.func)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"__import__", "import_module", "importlib.import_module"}
        ]
    return found


def undocumented(modules: Modules) -> list[str]:
    """Modules that do not say what they are for."""
    return [name for name, tree in modules.items() if not ast.get_docstring(tree)]


def names_of_nothing(modules: Modules) -> list[str]:
    """Modules named after a role that attracts anything, instead of a noun."""
    return [name for name in modules if NAMES_OF_NOTHING & set(name.replace("_", ".").split("."))]


def environment_reads(modules: Modules) -> list[str]:
    """Reads of the environment."""
    return [
        f"{name}:{node.lineno}"
        for name, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.ImportFrom) and _is_environment(node)
    ]


def _is_environment(node: ast.Attribute | ast.ImportFrom) -> bool:
    names = {"environ", "environb", "getenv"}
    if isinstance(node, ast.ImportFrom):
        return node.module == "os" and bool(names & {alias.name for alias in node.names})
    return ast.unparse(node) in {f"os.{name}" for name in names}


def foreign_imports_of_client(modules: Modules, standard: frozenset[str]) -> list[str]:
    """What the copyable client imports beyond the standard library and httpx."""
    return [
        f"{name}:{node.lineno} imports {target}"
        for name, tree in modules.items()
        if name == CLIENT
        for node, target in imports_of(name, tree, modules)
        if target.split(".")[0] not in {*standard, "httpx"}
    ]


def _paths() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _parse(sources: dict[str, str]) -> Modules:
    return {name: ast.parse(text) for name, text in sources.items()}


@pytest.fixture(scope="module")
def modules() -> Modules:
    return {_name(path): ast.parse(path.read_bytes(), str(path)) for path in _paths()}


def test_every_room_is_looked_at(modules: Modules) -> None:
    assert {name.split(".")[0] for name in modules} == set(ROOMS)
    assert {f"{room}.__init__" for room in ROOMS} <= set(modules)


def test_rooms_import_in_one_direction_only(modules: Modules) -> None:
    assert forbidden_imports(modules) == []


def test_no_modules_import_each_other_in_a_circle(modules: Modules) -> None:
    assert cycles(modules) == []


def test_no_import_hides_in_a_function(modules: Modules) -> None:
    assert lazy_imports(modules) == []


def test_every_module_says_what_it_is_for(modules: Modules) -> None:
    assert undocumented(modules) == []


def test_no_module_is_named_after_nothing(modules: Modules) -> None:
    assert names_of_nothing(modules) == []


@pytest.mark.parametrize("path", _paths(), ids=_name)
def test_no_file_has_found_a_second_noun(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_only_the_settings_read_the_environment_of_the_service(modules: Modules) -> None:
    service = {name: tree for name, tree in modules.items() if within(name, "service")}
    assert {read.split(":")[0] for read in environment_reads(service)} == {"service.settings"}


def test_the_client_needs_only_the_standard_library_and_httpx(modules: Modules) -> None:
    assert foreign_imports_of_client(modules, sys.stdlib_module_names) == []


@pytest.mark.parametrize(
    "planted",
    [
        _parse({"reward_model.packing": "import service.app"}),
        _parse({"reward_model.packing": "from training import losses"}),
        _parse({"reward_model.scores": "from pydantic import BaseModel"}),
        _parse({"reward_model.deep.er": "if True:\n    import starlette.routing"}),
        _parse({"reward_model.packing": "def f():\n    import fastapi"}),
        _parse({"training.train": "from service.schemas import Score"}),
        _parse({"training.train": "import service"}),
        _parse({"service.app": "from training.losses import loss"}),
        _parse({"service.batcher": "import torch.cuda"}),
        _parse({"service.compat.tei": "from ...training import losses"}),
        _parse({"service.client": "from service.schemas import Score", "service.schemas": ""}),
        _parse({"service.client": "from . import schemas", "service.schemas": ""}),
    ],
    ids=lambda planted: next(iter(planted)),
)  # fmt: skip
def test_an_import_in_the_wrong_direction_is_caught(planted: Modules) -> None:
    assert len(forbidden_imports(planted)) >= 1


@pytest.mark.parametrize(
    "allowed",
    [
        _parse({"training.label": "from service.client import Client", "service.client": "import httpx"}),
        _parse({"training.label": "from service import client", "service.client": "import httpx"}),
        _parse({"service.app": "import servicelib, trainings\nfrom reward_model.scores import Score"}),
    ],
)
def test_what_is_allowed_is_not_caught(allowed: Modules) -> None:
    assert forbidden_imports(allowed) == []


def test_circles_are_caught_whatever_form_the_import_has() -> None:
    assert cycles(_parse({"a": "import b", "b": "import c", "c": "import a"}))
    assert cycles(_parse({"p.__init__": "from p import a", "p.a": "import p"}))
    assert cycles(_parse({"p.a": "from . import b", "p.b": "from .a import x", "p.__init__": ""}))
    assert cycles(_parse({"a": "if TYPE_CHECKING:\n    from b import T", "b": "def f():\n    import a"}))
    assert not cycles(_parse({"a": "import b, c", "b": "import c", "c": "import os"}))


def test_hidden_imports_are_caught() -> None:
    assert lazy_imports(_parse({"a": "def f():\n    import os"}))
    assert lazy_imports(
        _parse({"a": "class A:\n    async def f(self):\n        if x:\n            from os import sep"})
    )
    assert lazy_imports(_parse({"a": "module = importlib.import_module('service')"}))
    assert not lazy_imports(_parse({"a": "if TYPE_CHECKING:\n    import os\nclass A:\n    import sys"}))


def test_the_smaller_rules_catch_what_they_are_for() -> None:
    assert undocumented(_parse({"a": "import os", "b": '"""What b is for."""'})) == ["a"]
    assert names_of_nothing(_parse({"a.utils": "", "a.text_helpers": "", "a.utility": ""})) == [
        "a.utils",
        "a.text_helpers",
    ]
    assert environment_reads(
        _parse({"a": "import os\nos.environ['X']", "b": "from os import getenv", "c": "os.path"})
    ) == [
        "a:2",
        "b:1",
    ]
    planted = _parse({"service.client": "import json\nimport httpx\nimport numpy", "service.app": "import torch"})
    assert foreign_imports_of_client(planted, frozenset({"json"})) == ["service.client:3 imports numpy"]
