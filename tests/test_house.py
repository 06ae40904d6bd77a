"""The sizes of constructors, files and functions in `reactor_trio`, and the style of its tests.

Each exception from a limit or from the style is listed with its reason.
"""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import attrs
import pytest

from serving import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_ARGUMENTS = 6
"""Arguments of a constructor, without `self`. Keyword-only fields of an attrs class do not count."""
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

LARGE_CONSTRUCTORS = {
    "client/latency.py::Latency": "a value: one spread for each stage",
    "client/messages.py::Welcome": "a value: the fields of the welcome",
    "client/received_frame.py::Frame": "a value: the fields of a media header",
    "compute/calls.py::Call": "four are arguments, the others the call's state",
    "link/reading.py::Reading": "a record: what is known of a text when it has been read",
    "media/jpeg_scans.py::JpegWork": "a value: the counts of one scan",
    "protocol/binary.py::MediaFrame": "a value: the fields of a media header",
    "protocol/upload_ledger.py::Upload": "a record: three of its fields are state",
    "server/routes.py::State": "a value: the answer of /health",
    "session/coalescing_state.py::CoalescingChannelStatistics": "a value: Trio's fields, and more",
    "session/coalescing_state.py::ChannelState": "one is an argument, the others are state",
    "session/observer.py::SessionStatistics": "a value: one number for each thing that is counted",
    "session/work.py::Command": "a value: on the way of every command, so that it is one object",
    "session/output_steps.py::Content": "a record: what one step of the output shows",
}
LARGE_FILES: dict[str, str] = {}
LARGE_FUNCTIONS = {
    "server/library.py::serve": "half of it is the docstring, with one line for each option",
}

_TICKING = "test_a_key_that_must_be_held_between_two_looks_at_the_time_ends_no_session"
OWN_RUNS = {
    "browser/test_prefix.py::behind": "a proxy in a thread of its own, for plain tests",
    "real/test_real_log.py::call": "a server in the process of the test, whose standard error is a pipe",
    "test_coalescing_against_trio.py::outcome_of": "compares two runs of the same seed",
    "test_demo.py::test_two_runs_are_the_same_to_the_byte": "compares two runs",
    "test_endings_sweep.py": "one run for each place at which a session can be ended",
    "test_timers.py::test_each_run_has_its_own": "compares runs",
    "test_network.py::test_jitter_is_seeded_in_bounds_and_nothing_overtakes": "compares runs",
    f"test_session_regressions.py::{_TICKING}": "a clock of its own",
    "test_testing_kit.py": "the tests of `run` itself",
    "test_thread_pool.py::test_a_pool_may_be_used_in_one_run_after_the_other": "two runs of one pool",
}
"""Tests that start a run of Trio themselves. All other tests are `async def`; the plugin runs them."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@attrs.frozen
class Source:
    """One parsed file; `name` is its path in the package or in `tests`."""

    name: str
    text: str
    tree: ast.Module

    @property
    def length(self) -> int:
        return len(self.text.splitlines())


@cache
def sources(folder: str) -> tuple[Source, ...]:
    root = ROOT / folder
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}
    return tuple(
        Source(path.relative_to(root).as_posix(), text, ast.parse(text)) for path, text in texts.items()
    )


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Each function with its qualified name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield f"{prefix}{node.name}", node
        name = getattr(node, "name", None)
        yield from functions(node, f"{prefix}{name}." if isinstance(name, str) else prefix)


def lines_of(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def arguments_of(node: ast.ClassDef) -> int:
    """The number of arguments of a class's constructor; those of base classes are not counted."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            arguments = each.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            return len(named) - 1 + sum(more is not None for more in (arguments.vararg, arguments.kwarg))
    decorators = [ast.unparse(each) for each in node.decorator_list]
    made = [each for each in decorators if re.match(r"attrs\.|dataclass|define|frozen", each)]
    if not made or "kw_only=True" in made[0]:
        return 0
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    return sum(
        not ast.unparse(each.annotation).startswith("ClassVar")
        and not re.search(r"init=False|kw_only=True", ast.unparse(each.value or each.target))
        for each in fields
    )


def assert_listed(found: Mapping[str, int], listed: Mapping[str, str], limit: int, what: str) -> None:
    new = {name: size for name, size in found.items() if name not in listed}
    assert not new, f"more than {limit} {what}: make it smaller, or list it with a reason"
    assert set(listed) == set(found), f"no more than {limit} {what} any more: take these from the list"


def test_no_constructor_takes_many_arguments() -> None:
    found = {
        f"{source.name}::{node.name}": arguments_of(node)
        for source in sources("reactor_trio")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef) and arguments_of(node) > MAX_ARGUMENTS
    }
    assert_listed(found, LARGE_CONSTRUCTORS, MAX_ARGUMENTS, "arguments")


def test_no_file_is_long() -> None:
    found = {each.name: each.length for each in sources("reactor_trio") if each.length > MAX_FILE_LINES}
    assert_listed(found, LARGE_FILES, MAX_FILE_LINES, "lines")


def test_no_function_is_long(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = {
        f"{source.name}::{name}": lines_of(function)
        for source in sources("reactor_trio")
        for name, function in functions(source.tree)
    }
    files = [each.length for each in sources("reactor_trio")]
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(files)} files, median {statistics.median(files):g} lines; {len(lengths)} functions, "
            f"median {statistics.median(lengths.values()):g} lines\n"
        )
    found = {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES}
    assert_listed(found, LARGE_FUNCTIONS, MAX_FUNCTION_LINES, "lines")


# ---- how tests are written

_CLOCKS = ("autojump_clock", "mock_clock", "virtual_clock")


def starts_a_run(node: ast.AST, imports_run: bool) -> bool:
    """Whether a node starts a run of Trio, or sets a clock or a marker for a run.

    A call of `run` counts if the file imports `run` from the test kit (`imports_run`).
    """
    match node:
        case ast.Call(func=ast.Name(id="run")):
            return imports_run
        case ast.Call(func=ast.Name(id="MockClock") | ast.Attribute(attr="MockClock")):
            return True
        case ast.Attribute(value=ast.Name(id="trio" | "anyio"), attr="run"):
            return True
        case ast.Attribute(value=ast.Attribute(attr="mark"), attr="trio"):
            return True
        case ast.arg(arg=name):
            return name in _CLOCKS
    return False


def test_async_tests_are_run_by_the_plugin_and_by_nothing_else() -> None:
    found = set()
    for source in sources("tests"):
        imports_run = any(
            isinstance(node, ast.ImportFrom)
            and node.module == "reactor_trio.testing"
            and any(each.name == "run" for each in node.names)
            for node in source.tree.body
        )
        for top in source.tree.body:
            if any(starts_a_run(node, imports_run) for node in ast.walk(top)):
                found.add(f"{source.name}::{getattr(top, 'name', '')}")
    listed = {name for name in found if name in OWN_RUNS or name.partition("::")[0] in OWN_RUNS}
    assert found == listed, "write `async def`, with the marker `real_time` for threads and sockets"
    used = {entry for entry in OWN_RUNS if any(name.startswith(entry) for name in found)}
    assert used == set(OWN_RUNS), "no longer needed in the list"


def test_no_test_reads_the_private_parts_of_a_session() -> None:
    found = [each.name for each in sources("tests") if re.search(r"\bsession\._", each.text)]
    assert not found, "look at its statistics, at what its client is told, or at `left_open` of the test kit"


# ---- torch


@pytest.mark.parametrize("folder", ["tests", "examples", "benchmarks", "reactor_trio"])
def test_torch_is_imported_at_the_top_only_where_a_network_is(folder: str) -> None:
    found = {
        source.name
        for source in sources(folder)
        for node in source.tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and re.match(r"(import|from) torch\b", ast.unparse(node))
    }
    networks = {
        "tests": {"test_demo_network.py", "test_frames.py"},
        "examples": {"diffusion.py", "webcam.py"},
        "benchmarks": {"demo_frames.py"},
        "reactor_trio": {f"demo/{name}.py" for name in ("network", "painter", "palette", "styles")},
    }
    assert found == networks[folder]


WITHOUT_TORCH = """
import sys
import numpy as np
import reactor_trio, reactor_trio.cli, reactor_trio.client, reactor_trio.testing
from reactor_trio import Output, ReactorModel, Video, event
from reactor_trio.server.serve import Server
from reactor_trio.testing import open_session, run

class Picture(Output):
    main: Video

class Model(ReactorModel):
    @event
    async def paint(self) -> None:
        await self.emit(Picture(main=np.zeros((8, 8, 3), np.uint8)))

async def main():
    async with open_session(Model) as client:
        await client.call("paint")
        assert (await client.frame()).array().shape == (8, 8, 3)

run(main)
print(sorted(name for name in sys.modules if name.partition(".")[0] == "torch"))
"""


def test_a_model_without_torch_is_served_without_importing_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.splitlines()[-1] == "[]"
