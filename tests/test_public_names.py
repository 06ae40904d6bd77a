"""The public names: each of them exists and is documented, and the documents use no other names."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
import types
from pathlib import Path

import pytest

import reactor_trio

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PUBLIC = ("reactor_trio", "reactor_trio.client", "reactor_trio.testing")
MODULES = {*PUBLIC, "reactor_trio.errors", "reactor_trio.media.jpeg", "reactor_trio.media.h264"}
"""Modules from which authors may import: the three packages, and others that the documents name."""


def code_of(document: Path) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE))


def imports(code: str) -> list[tuple[str, str]]:
    """Module and name of each `from reactor_trio... import name`."""
    found = re.findall(r"^ *from (reactor_trio[\w.]*) import (\([^)]*\)|.+)$", code, re.MULTILINE)
    lines = [f"from {module} import {names}" for module, names in found]
    nodes = [node for line in lines for node in ast.walk(ast.parse(line)) if isinstance(node, ast.ImportFrom)]
    return [(node.module or "", alias.name) for node in nodes for alias in node.names]


@pytest.mark.parametrize("package", PUBLIC)
def test_what_is_listed_is_there_and_what_is_there_is_listed(package: str) -> None:
    module = importlib.import_module(package)
    names = module.__all__
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(module, name)] == []
    own = {name for name, value in vars(module).items() if not isinstance(value, types.ModuleType)}
    assert {name for name in own if not name.startswith("_")} - {"annotations"} <= set(names)


@pytest.mark.parametrize("package", PUBLIC)
def test_the_reference_has_every_public_name(package: str) -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    listed = [name for name in importlib.import_module(package).__all__ if not name.startswith("_")]
    assert re.findall(rf"^::: {package}\.(?!errors$)(\w+)$", text, re.MULTILINE) == listed


def test_every_name_for_authors_is_documented() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    listed = [name for name in reactor_trio.__all__ if not name.startswith("_")]
    assert [name for name in listed if not re.search(rf"\b{name}\b", text)] == []


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert reactor_trio.__version__ in (project["version"], "0")


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, *sorted((ROOT / "examples").glob("*.py"))], ids=lambda p: p.name
)
def test_documents_and_examples_import_what_is_public(document: Path) -> None:
    code = document.read_text() if document.suffix == ".py" else code_of(document)
    for module, name in imports(code):
        assert module in MODULES, f"{module} is not public"
        found = importlib.import_module(module)
        assert hasattr(found, name)
        assert name in getattr(found, "__all__", (name,))
