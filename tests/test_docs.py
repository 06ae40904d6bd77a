"""The documents in docs/ are true: their code runs, and the package acts as their tables and bytes say."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import orjson
import pytest
import simplejpeg
import trio

import reactor_trio
from reactor_trio import Input, InputField, Output, ReactorModel, Video, event
from reactor_trio.cli.find_model import choose
from reactor_trio.cli.serve import serve as serve_command
from reactor_trio.contract.contract import read_contract
from reactor_trio.errors import InvalidPayload
from reactor_trio.protocol import names
from reactor_trio.protocol.binary import MediaFrame, decode_binary
from reactor_trio.server.metrics import Metrics
from reactor_trio.testing import SessionClient, open_session
from rooms import imports, room
from serving import DOCUMENTED_URL, PROCESS_TIMEOUT, ROOT, Served, serve

DOCS = ROOT / "docs"
AUTHORING, WIRE, CLIENT, SERVING, TRIO = (
    DOCS / f"{name}.md" for name in ("authoring", "wire", "client", "serving", "trio")
)


ONE_PIXEL = bytes(simplejpeg.encode_jpeg(np.zeros((1, 1, 3), np.uint8)))


@attrs.frozen
class Fence:
    """A block of a document, between ``` lines."""

    language: str
    line: int
    """Line of its first line in the document, from 1."""
    text: str


def fences(document: Path, language: str) -> list[Fence]:
    found: list[Fence] = []
    inside: list[str] | None = None
    for number, line in enumerate(document.read_text().splitlines(), 1):
        if inside is None:
            if line.startswith("```"):
                inside, start, name = [], number + 1, line[3:]
        elif line == "```":
            found.append(Fence(name, start, "\n".join(inside)))
            inside = None
        else:
            inside.append(line)
    assert inside is None, f"{document.name}: a ``` is not closed"
    return [fence for fence in found if fence.language == language]


def rows(document: Path, first_heading: str) -> Iterator[list[str]]:
    """The rows of the table whose first column has this heading, as cells without their backticks."""
    lines = iter(document.read_text().splitlines())
    for line in lines:
        if line.startswith(f"| {first_heading} |"):
            break
    else:
        raise AssertionError(f"{document.name} has no table that begins with {first_heading!r}")
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            return
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        yield [cell.strip().strip("`").replace("\\|", "|") for cell in cells]


def python_of(document: Path) -> str:
    """All Python of a document as one program, in which each line keeps its number in the document."""
    lines = [""] * len(document.read_text().splitlines())
    for fence in fences(document, "python"):
        lines[fence.line - 1 : fence.line - 1 + len(fence.text.splitlines())] = fence.text.splitlines()
    return "\n".join(lines)


def run_python(document: Path, folder: Path, url: str = DOCUMENTED_URL) -> None:
    program = folder / f"of_{document.stem}.py"  # a file named trio.py would hide the library
    program.write_text(python_of(document).replace(DOCUMENTED_URL, url))
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=PROCESS_TIMEOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{document.name}, whose lines these are:\n{done.stderr}"


@functools.cache
def namespace_of(document: Path) -> dict[str, Any]:
    """The names that the document's Python defines, without its lines that call `run(...)` or assert."""
    module = ModuleType(f"docs_{document.stem}")
    sys.modules[module.__name__] = module
    program = re.sub(r"^(trio\.)?run\(.*\)$|^assert .*$", "", python_of(document), flags=re.MULTILINE)
    exec(compile(program, document, "exec"), vars(module))
    return vars(module)


@pytest.fixture
def seed(tmp_path: Path) -> Iterator[Served]:
    with serve(ROOT / "examples" / "seed.py", tmp_path) as server:
        yield server


def test_every_document_is_tested() -> None:
    here = {AUTHORING, WIRE, CLIENT, SERVING, TRIO}
    elsewhere = {
        DOCS / "testing.md",  # tests/test_guide.py
        DOCS / "browser.md",  # tests/js/docs.test.mjs
        DOCS / "embedding.md",  # tests/test_embedding.py
        DOCS / "api.md",  # tests/test_public_names.py
        DOCS / "index.md",  # `nox -s docs` checks its links alone
        DOCS / "security.md",  # tests/test_deploy.py
        DOCS / "deploying.md",
        DOCS / "design.md",  # tests below check the names in it
        DOCS / "performance.md",
    }
    records = {DOCS / "conformance.md", DOCS / "soak.md"}  # the output of commands
    assert set(DOCS.glob("*.md")) <= here | elsewhere | records
    assert here | elsewhere <= set(DOCS.glob("*.md"))


@pytest.mark.parametrize("document", [AUTHORING, WIRE, SERVING, TRIO], ids=lambda path: path.name)
def test_the_python_in_the_documents_runs(document: Path, tmp_path: Path) -> None:
    run_python(document, tmp_path)


def test_the_python_for_clients_runs(seed: Served) -> None:
    (seed.folder / "photo.jpg").write_bytes(ONE_PIXEL)
    run_python(CLIENT, seed.folder, seed.url)


@pytest.mark.parametrize("document", [CLIENT, SERVING], ids=lambda path: path.name)
def test_commands_print_what_the_documents_say(document: Path, seed: Served) -> None:
    (seed.folder / "photo.jpg").write_bytes(ONE_PIXEL)
    blocks = fences(document, "console")
    assert blocks
    for block in blocks:
        for shown in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, expected = shown.partition("\n")
            done = seed.run(command)
            assert (done.output + done.errors).strip() == expected.strip(), command


# ---- authoring.md


def test_the_table_of_field_types_is_true() -> None:
    namespace = namespace_of(AUTHORING)
    for annotation, accepted, gets, refused, because in rows(AUTHORING, "annotation"):
        model = model_of(f"@event\ndef set_it(self, it: {annotation}): ...", namespace)
        spec = model.__declarations__.events["set_it"]
        if gets != "the file":
            payload = spec.structure({"it": orjson.loads(accepted)}, {})
            wanted = eval(gets, namespace)
            assert (type(payload.it), payload.it) == (type(wanted), wanted)
        if refused:
            with pytest.raises(InvalidPayload) as error:
                spec.structure({"it": orjson.loads(refused)}, {})
            assert [fault.message for fault in error.value.errors] == [because]


def test_the_table_of_constraints_names_all_of_them() -> None:
    named = [name for first, *_ in rows(AUTHORING, "argument") for name in re.findall(r"\w+", first)]
    assert named == list(inspect.signature(InputField).parameters)


def test_the_tables_of_event_options_and_hooks_name_all_of_them() -> None:
    options = [
        parameter
        for parameter in inspect.signature(reactor_trio.event).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    table = {name: default for name, default, _ in rows(AUTHORING, "option")}
    assert table == {
        each.name: repr(each.default).replace("'", '"').replace("None", "the method's name")
        for each in options
    }
    assert {name for name, *_ in rows(AUTHORING, "hook")} == {"@connected", "@disconnected", "@file_uploaded"}


def mistakes() -> list[Any]:
    block = fences(AUTHORING, "text")[-1]
    assert block.text.count("TypeError: ") > 30
    return [
        pytest.param(*each.rsplit("\nTypeError: ", 1), id=each.rpartition("TypeError: ")[2][:60])
        for each in block.text.split("\n\n")
    ]


@pytest.mark.parametrize(("code", "message"), mistakes())
def test_a_mistake_reads_as_the_list_says(code: str, message: str) -> None:
    namespace = vars(reactor_trio) | {
        name: namespace_of(AUTHORING)[name] for name in ("np", "attrs", "Literal")
    }
    make = exec_in_module if code.startswith(("@attrs.", "@dataclass", "class ")) else model_of
    with pytest.raises(TypeError) as error:
        make(code, namespace)
    assert str(error.value) == message


def model_of(methods: str, namespace: dict[str, Any]) -> type[ReactorModel]:
    code = f"class Model(ReactorModel):\n{textwrap.indent(methods, '    ')}"
    model: type[ReactorModel] = exec_in_module(code, namespace)["Model"]
    return model


def exec_in_module(code: str, namespace: dict[str, Any]) -> dict[str, Any]:
    module = ModuleType("docs_snippet")
    sys.modules[module.__name__] = module
    vars(module).update({name: value for name, value in namespace.items() if not name.startswith("__")})
    exec(
        compile(f"from __future__ import annotations\nimport dataclasses\n{code}", "snippet", "exec"),
        vars(module),
    )
    return vars(module)


# ---- wire.md

SETTLE = 5.0
"""Virtual seconds in which a session answers all messages that were sent."""
BINARY = re.compile(r"(?P<kind>[0-9a-f]{2}) (?P<length>[0-9a-f]{4}) (?P<header>\{.*?\}) (?P<payload>.*)")


def exchanges() -> list[Fence]:
    return [fence for fence in fences(WIRE, "text") if fence.text.startswith("> ")]


@pytest.mark.parametrize("exchange", exchanges(), ids=lambda fence: f"line {fence.line}")
async def test_an_exchange_is_as_it_was_captured(exchange: Fence) -> None:
    lines = exchange.text.splitlines()
    assert await replay([line[2:] for line in lines if line[0] == ">"]) == [
        line[2:] for line in lines if line[0] == "<"
    ]


async def replay(sent: list[str]) -> list[str]:
    """The answers of a session, one line a message, in the notation of the document."""
    async with open_session(namespace_of(WIRE)["Painter"]) as client:
        await trio.sleep(SETTLE)
        seen = len(client.transcript)
        await client.transport.send([message_of(line) for line in sent])
        await trio.sleep(SETTLE)
        answers = [line_of(each.message) for each in client.transcript[seen:] if each.direction == "<"]
        return [*answers, *close_of(client)]


def message_of(line: str) -> str | bytes:
    binary = BINARY.fullmatch(line)
    if binary is None:
        return line
    header = binary["header"].encode()
    assert int(binary["length"], 16) == len(header), line
    return b"".join((bytes.fromhex(binary["kind"] + binary["length"]), header, binary["payload"].encode()))


def line_of(message: str | bytes) -> str:
    if isinstance(message, str):
        return message
    frame = decode_binary(message)
    assert isinstance(frame, MediaFrame)
    assert bytes(frame.payload[:2]) == b"\xff\xd8", "a JPEG"
    header_length = int.from_bytes(message[1:3])
    return f"{message[0]:02x} {header_length:04x} {message[3 : 3 + header_length].decode()} (a JPEG file)"


def close_of(client: SessionClient) -> list[str]:
    return [] if client.closed is None else [f"close {client.closed.code} {client.closed.reason}"]


async def test_the_welcome_is_as_it_was_captured() -> None:
    async with open_session(namespace_of(WIRE)["Painter"]) as client:
        await trio.sleep(SETTLE)
        [block] = fences(WIRE, "json")
        assert orjson.loads(block.text) == orjson.loads(client.transcript[0].message)


def test_the_bytes_of_a_chunk_are_right() -> None:
    [block] = fences(WIRE, "hex")
    pairs = [re.match(r"(?:[0-9a-f]{2} )+", f"{line} ") for line in block.text.splitlines()]
    chunk = decode_binary(bytes.fromhex("".join(pair[0] for pair in pairs if pair)))
    assert (chunk.upload_id, chunk.offset, bytes(chunk.payload)) == ("u1", 0, b"hello")


def test_the_table_of_error_codes_has_them_all() -> None:
    named = {code for code, _ in rows(WIRE, "code")}
    assert named == {code for code in vars(names).values() if is_code(code)} | {"any other"}


def is_code(value: object) -> bool:
    """Tell whether a name of the wire is an error code: the other names have a dot."""
    return isinstance(value, str) and re.fullmatch(r"[a-z_]+", value) is not None


# ---- design.md, trio.md, performance.md

REFERENCE = re.compile(r"docs/(?P<page>[\w/]+\.md)(?:#(?P<anchor>[\w-]+))?")
READ = ("reactor_trio", "tests", "benchmarks", "examples", "docs")


def sources() -> Iterator[Path]:
    for folder in READ:
        for suffix in ("py", "js", "mjs", "md"):
            yield from sorted((ROOT / folder).rglob(f"*.{suffix}"))
    yield from (*ROOT.glob("*.md"), *ROOT.glob("*.py"), ROOT / "pyproject.toml")


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, in the form that the site gives them."""
    return frozenset(slug(line.lstrip("# ")) for line in prose(page) if re.match("#+ ", line))


def slug(heading: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def prose(page: Path) -> Iterator[str]:
    """The lines of a page that are in no block of code."""
    inside = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            yield line


def test_each_reference_from_the_code_leads_to_a_section() -> None:
    found = [
        (source, match)
        for source in sources()
        for match in REFERENCE.finditer(source.read_text(encoding="utf-8"))
    ]
    assert len(found) > 40
    astray = [
        f"{source.relative_to(ROOT)}: {match[0]}"
        for source, match in found
        if not (page := DOCS / match["page"]).is_file()
        or (match["anchor"] and match["anchor"] not in anchors(page))
    ]
    assert astray == []


def test_no_reference_leads_to_a_paper_that_is_not_here() -> None:
    elsewhere = re.compile(r"\b(?:DESIGN|PERFORMANCE|TRIO)(?:\.md|, sections?|:| \d)")
    astray = [
        f"{source.relative_to(ROOT)}: {match[0]}"
        for source in sources()
        for match in elsewhere.finditer(source.read_text(encoding="utf-8"))
    ]
    assert astray == []


TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
PATH = re.compile(r"`([\w/]+\.(?:py|md|js|mjs)|[\w/]+/)`")
OF_DEVELOPERS = (DOCS / "design.md", DOCS / "trio.md", DOCS / "performance.md", ROOT / "CONTRIBUTING.md")


@pytest.mark.parametrize("page", OF_DEVELOPERS, ids=lambda path: path.name)
def test_each_test_that_a_page_names_is_there(page: Path) -> None:
    found = TEST.findall(page.read_text())
    missing = [
        f"{file}::{name}"
        for file, name in found
        if not (ROOT / file).is_file()
        or (name and not re.search(rf"def {name}\(", (ROOT / file).read_text()))
    ]
    assert missing == []


@pytest.mark.parametrize("page", OF_DEVELOPERS, ids=lambda path: path.name)
def test_each_file_that_a_page_names_is_there(page: Path) -> None:
    found = PATH.findall(page.read_text())
    missing = [
        file for file in found if not (ROOT / file).exists() and not (ROOT / "reactor_trio" / file).exists()
    ]
    assert missing == []


def imported() -> dict[str, set[str]]:
    """By room, the other rooms that its modules import. The package itself imports all and is left out."""
    rooms: dict[str, set[str]] = {}
    for module, used in imports().items():
        if room(module) not in ("reactor_trio", "__main__"):
            found = rooms.setdefault(room(module), set())
            found |= {room(each) for each in used} - {room(module), "reactor_trio"}
    return rooms


def drawn() -> dict[str, set[str]]:
    """By room, the rooms to which its arrows in docs/design.md lead."""
    arrows = re.findall(r"^(\w+) +->  ([\w, ]+)$", (DOCS / "design.md").read_text(), re.MULTILINE)
    return {room: set(reached.split(", ")) for room, reached in arrows}


def reached(start: str, arrows: dict[str, set[str]]) -> set[str]:
    direct = arrows.get(start, set())
    return direct.union(*(reached(each, arrows) for each in direct))


def test_the_arrows_between_the_rooms_are_those_of_the_imports() -> None:
    arrows = drawn()
    for each, found in imported().items():
        assert found <= reached(each, arrows), f"{each} imports what no arrow leads to"
        assert arrows.get(each, set()) <= found, f"{each} does not import where its arrows lead"


WALKS = ("A command, from bytes to its reply", "A frame, from emit to the socket")
PAGE = 60
"""Lines of a page."""


def steps_of(walk: str) -> list[tuple[str, str]]:
    """The module and the function of each step."""
    text = (DOCS / "design.md").read_text().split(f"\n## {walk}\n")[1].split("\n## ")[0]
    assert len(text.splitlines()) < PAGE
    cells = [re.split(r" *\| *", line)[1:5] for line in text.splitlines() if re.match(r"\| \d", line)]
    return [
        (module.strip("`"), function)
        for _, module, functions, _ in cells
        for function in re.findall(r"`([^`]+)`", functions)
    ]


@pytest.mark.parametrize("walk", WALKS)
def test_each_step_of_a_walk_is_a_function_of_its_module(walk: str) -> None:
    steps = steps_of(walk)
    assert len(steps) > 10
    for file, function in steps:
        module = importlib.import_module(f"reactor_trio.{file.removesuffix('.py').replace('/', '.')}")
        assert callable(functools.reduce(getattr, function.split("."), module))


def test_a_frame_returns_to_no_room_that_it_has_left() -> None:
    rooms = [file.partition("/")[0] for file, _ in steps_of(WALKS[1])]
    visits = [room for room, _ in itertools.groupby(room for room in rooms if room != "compute")]
    assert visits == ["model", "session", "link", "wire"]


def test_a_command_goes_down_and_its_reply_up() -> None:
    called = {"protocol", "contract"}  # rooms whose functions any room calls with plain values
    rooms = [file.partition("/")[0] for file, _ in steps_of(WALKS[0])]
    visits = [room for room, _ in itertools.groupby(room for room in rooms if room not in called)]
    assert visits == ["wire", "link", "session", "link", "wire"]


# ---- serving.md


def test_the_table_of_options_is_that_of_the_command() -> None:
    described = {option: default for option, default, _ in rows(SERVING, "option")}
    assert described == {
        option.opts[0]: default_of(option)
        for option in serve_command.params
        if option.opts[0].startswith("--")
    }


def default_of(option: Any) -> str:
    default = option.default
    if option.is_flag or option.multiple or default is None or "UNSET" in repr(default).upper():
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


class Picture(Output):
    main: Video


class Camera(Input):
    webcam: Video


class Watcher(ReactorModel):
    input: Camera

    @event
    def paint(self) -> None: ...


def test_the_table_of_metrics_has_them_all() -> None:
    metrics = Metrics()
    metrics.model_loaded(read_contract(Watcher))
    metrics._endings["finished"] += 1  # before its first count the metric has no label value
    labels: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            total = "_total" if family.type == "counter" else ""
            labels.setdefault(family.name + total, set()).update(sample.labels)
    described = {name: set(re.findall(r"\w+", of)) for name, of, _ in rows(SERVING, "metric")}
    assert described == {name: of - {"le"} for name, of in labels.items() if not name.startswith("process_")}


def test_the_project_file_is_read_as_described(tmp_path: Path) -> None:
    [block] = fences(SERVING, "yaml")
    (tmp_path / "reactor.yaml").write_text(block.text)
    choice = choose(None, tmp_path)
    assert choice.target == f"{tmp_path / 'painter.py'}:Painter"
    assert choice.name == "Landscapes"
    assert choice.config == {"checkpoint": "weights.pt", "size": {"width": 512, "height": 512}}
