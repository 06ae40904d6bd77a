"""The rooms of docs/design.md: imports between rooms point down, and no imports form a circle."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter

import pytest

from rooms import imports, room
from serving import ROOT


def floors() -> list[set[str]]:
    """The rooms of docs/design.md, highest floor first. A room may use the rooms below it, and no others."""
    page = (ROOT / "docs" / "design.md").read_text()
    [drawing] = re.findall(r"^## The rooms\n.*?```text\n(.*?)```", page, re.MULTILINE | re.DOTALL)
    return [set(line.split()) for line in drawing.splitlines()]


def test_the_test_sees_every_room() -> None:
    rooms = {room(module) for module in imports()} - {"reactor_trio", "__main__"}
    assert rooms == set().union(*floors()) - {"web"}


def test_imports_point_down() -> None:
    floor = {name: number for number, names in enumerate(floors()) for name in names}
    wrong = sorted(
        f"{module} imports {imported}"
        for module, used in imports().items()
        for imported in used
        if (here := room(module)) not in ("reactor_trio", "__main__")
        and (there := room(imported)) != here
        # The built-in model imports the names that the package exports, as an author's model does.
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
