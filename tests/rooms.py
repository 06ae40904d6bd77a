"""The rooms of the package, and what their modules import, as the code says.

Every import counts: those for the type checker alone, and those inside a function.
"""

from __future__ import annotations

import ast
from pathlib import Path

import reactor_trio

PACKAGE = Path(reactor_trio.__file__).parent


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
