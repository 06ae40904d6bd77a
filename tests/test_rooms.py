"""The rooms of the house, as the code draws them: imports point down, and none of them goes in a circle.

Every import counts: those for the type checker alone, and those inside a function.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import reactor_trio

PACKAGE = Path(reactor_trio.__file__).parent

FLOORS = (
    {"cli", "demo", "testing"},
    {"server", "client", "web"},
    {"link"},
    {"session"},
    {"compute", "media"},
    {"model"},
    {"contract"},
    {"declare"},
    {"wire"},
    {"protocol"},
    {"errors", "logs"},
)
"""The rooms of docs/design.md, highest first. A room may use those below it, and no other of its floor."""


def imports() -> dict[str, set[str]]:
    """Of each module of the package, the modules of the package that it imports."""
    modules = {module_name(file): file for file in PACKAGE.rglob("*.py")}
    return {
        name: {
            imported
            for node in ast.walk(ast.parse(file.read_text()))
            for imported in imported_by(node, modules)
            if imported != name
        }
        for name, file in modules.items()
    }


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_by(node: ast.AST, modules: dict[str, Path]) -> set[str]:
    match node:
        case ast.Import(names):
            return {alias.name for alias in names if alias.name in modules}
        case ast.ImportFrom(module, names, level):
            assert level == 0, "imports name the module in full"
            if module not in modules:
                return set()
            inner = {f"{module}.{alias.name}" for alias in names} & set(modules)
            # Of a package, a module of it or what its `__init__` gives.
            return inner if len(inner) == len(names) else {*inner, module}
    return set()


def room(module: str) -> str:
    """The room that a module is in; the package itself is above all of them."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def test_the_test_sees_every_room() -> None:
    rooms = {room(module) for module in imports()} - {"reactor_trio", "__main__"}
    assert rooms == set().union(*FLOORS) - {"web"}


def test_imports_point_down() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = sorted(
        f"{module} imports {imported}"
        for module, used in imports().items()
        for imported in used
        if (here := room(module)) not in ("reactor_trio", "__main__")
        and (there := room(imported)) != here
        # The built-in model is written as an author's is: with the names that the package exports.
        and (here, there) != ("demo", "reactor_trio")
        and floor[here] >= floor.get(there, -1)
    )
    assert not wrong


@pytest.mark.parametrize("of", [room, str], ids=["rooms", "modules"])
def test_nothing_goes_in_a_circle(of: type[str]) -> None:
    graph: dict[str, set[str]] = {}
    for module, used in imports().items():
        if module.startswith("reactor_trio."):
            graph.setdefault(of(module), set()).update(of(each) for each in used)
    for name, used in graph.items():
        used -= {name, "reactor_trio"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
