"""The rooms of the package, and the imports of their modules, as the code has them.

Every import counts, also an import for the type checker alone, and an import inside a function.
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
            # A name from a package is one of its modules, or a name of its `__init__`.
            return inner if len(inner) == len(names) else {*inner, module}
    return set()


def room(module: str) -> str:
    """The room of a module; the package itself is above all rooms."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]
