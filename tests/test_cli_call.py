"""`reactor-trio call` against a small server in another thread, in real time."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from reactor_trio.cli import call as call_module
from reactor_trio.cli.values import File, Word, WordError, nest, parse, read_words
from serving import default_signals
from tiny_server import TOKEN, TinyServer, server_in_a_thread

if TYPE_CHECKING:
    from collections.abc import Generator

DEADLINE = 20.0
"""Seconds; a test takes some milliseconds."""


@pytest.fixture(scope="module")
def server() -> Generator[TinyServer]:
    with server_in_a_thread() as tiny:
        yield tiny


def run(*words: str) -> Result:
    result = CliRunner().invoke(call_module.call, ["--seconds", str(DEADLINE), *words], prog_name="call")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


# ---- values


def test_words_are_taken_apart():
    assert read_words(["a=1", "b.c=x=y", "d=@f.png", "e=@@home", "f="]) == [
        Word(("a",), "1"),
        Word(("b", "c"), "x=y"),
        Word(("d",), File(Path("f.png"))),
        Word(("e",), "@home"),
        Word(("f",), ""),
    ]


@pytest.mark.parametrize(
    "words", [["a"], ["=1"], ["a..b=1"], ["a=1", "a=2"], ["a=1", "a.b=2"], ["a.b=2", "a=1"]]
)
def test_words_that_are_no_fields(words: list[str]):
    with pytest.raises(WordError):
        read_words(words)


def test_dotted_keys_make_objects():
    assert nest([(("a", "b"), 1), (("a", "c", "d"), 2), (("e",), 3)]) == {
        "a": {"b": 1, "c": {"d": 2}},
        "e": 3,
    }


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "number": {"type": "number"},
        "flag": {"type": "boolean"},
        "mode": {"enum": ["on", "off", 3]},
        "either": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/Mode"}]},
        "boxes": {"type": "array", "items": {"type": "integer"}},
        "camera": {"$ref": "#/$defs/Camera"},
        "names": {"type": "object", "additionalProperties": {"type": "string"}},
        "any": {},
        "loop": {"$ref": "#/$defs/Loop"},
    },
    "$defs": {
        "Mode": {"const": "1"},
        "Camera": {"type": "object", "properties": {"name": {"type": "string"}, "zoom": {"type": "number"}}},
        "Loop": {"$ref": "#/$defs/Loop"},
    },
}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("text", "5", "5"),
        ("text", "null", "null"),
        ("text", "", ""),
        ("maybe", "null", None),
        ("maybe", "5", "5"),
        ("number", "5", 5),
        ("number", "1e3", 1000.0),
        ("number", "five", "five"),
        ("number", "NaN", "NaN"),
        ("flag", "yes", True),
        ("mode", "on", "on"),
        ("mode", "3", 3),
        ("either", "1", "1"),
        ("either", "2", 2),
        ("boxes", "[1, 2]", [1, 2]),
        ("camera.name", "7", "7"),
        ("camera.zoom", "7", 7),
        ("camera", "{name: a, zoom: 2}", {"name": "a", "zoom": 2}),
        ("names.x", "7", "7"),
        ("any", "2024-01-02", "2024-01-02"),
        ("any", "2024-99-99", "2024-99-99"),
        ("any", "{1: 2", "{1: 2"),
        ("any", "", ""),
        ("any", "@x", "@x"),
        ("unknown.deep", "true", True),
        ("loop", "1", 1),
    ],
)
def test_the_schema_says_what_a_word_means(key: str, text: str, value: object):
    parsed = parse(text, tuple(key.split(".")), SCHEMA)
    assert parsed == value
    assert type(parsed) is type(value)


# ---- the command


def test_an_answer_is_printed_as_json(server: TinyServer):
    result = run(server.url, "echo", "camera.name=5", "camera.zoom=5", "tags=[a, b]")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "type": "echoed",
        "data": {"camera": {"name": "5", "zoom": 5}, "tags": ["a", "b"]},
    }
    assert result.stderr == ""


def test_an_ack_is_printed(server: TinyServer):
    assert json.loads(run(server.url, "set_prompt", "prompt=rain").stdout) == {
        "type": "reactor.ack",
        "data": {},
    }


def test_a_file_is_uploaded_first(server: TinyServer, tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(b"pixels" * 50_000)
    result = run(server.url, "echo", f"image=@{path}")
    upload_id = json.loads(result.stdout)["data"]["image"]["upload_id"]
    assert server.files[upload_id] == path.read_bytes()
    assert result.stderr == ""


def test_a_large_file_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    path = tmp_path / "large.bin"
    path.write_bytes(bytes(2 * 1024 * 1024))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with call_module._progress(path) as on_progress:
        assert on_progress is not None
        on_progress(1024 * 1024, 2 * 1024 * 1024)
        on_progress(2 * 1024 * 1024, 2 * 1024 * 1024)
    assert "large.bin" in terminal.getvalue()
    assert "100%" in terminal.getvalue()


def test_listening_prints_further_messages(server: TinyServer):
    lines = run("--listen", "2", server.url, "play").stdout.splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["reactor.ack", "progress", "progress"]


def test_a_refusal_names_every_field(server: TinyServer):
    result = run(server.url, "refuse")
    assert result.exit_code == 1
    assert result.stderr == "invalid_payload: wrong\n  a[1].b: missing\n"
    assert result.stdout == ""


def test_a_connection_that_ends_is_said_so(server: TinyServer):
    result = run(server.url, "leave")
    assert (result.exit_code, result.stderr) == (1, "Error: connection closed: 1000 finished\n")


def test_an_unknown_event_names_those_that_exist(server: TinyServer):
    result = run(server.url, "set_promt", "prompt=x")
    assert result.exit_code == 2
    assert "no event 'set_promt'; painter has: set_prompt, echo, refuse" in result.stderr


def test_no_answer_in_time(server: TinyServer):
    result = run(server.url, "hang", "--seconds", "0.2")
    assert (result.exit_code, result.stderr) == (1, "Error: hang: not done within 0.2 s\n")


def test_the_token(server: TinyServer):
    result = run(server.url + "/private", "echo")
    assert result.exit_code == 1
    assert "HTTP 401 Unauthorized: no, sorry" in result.stderr
    assert run(server.url + "/private", "echo", "--token", TOKEN).exit_code == 0


def test_nothing_listens():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}"
        result = run(url, "echo")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: cannot connect to {url}: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["localhost:8080", "echo"],
        ["ws://127.0.0.1:1"],
        ["ws://127.0.0.1:1", "echo", "word"],
        ["ws://127.0.0.1:1", "echo", "a=@no/such/file"],
        ["ws://127.0.0.1:1", "echo", "a=1", "a=2"],
    ],
)
def test_wrong_usage_is_told_before_connecting(words: list[str]):
    result = run(*words)
    assert result.exit_code == 2
    assert "Error:" in result.stderr


def test_a_command_too_large_for_the_server(server: TinyServer):
    result = run(server.url, "echo", f"x={'y' * 1_100_000}")
    assert result.exit_code == 1
    assert "the server takes at most 1048576" in result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="sends SIGINT to a child process")
def test_an_interrupt_ends_it(server: TinyServer):
    server.hanging.clear()
    child = subprocess.Popen(
        [sys.executable, "-m", "reactor_trio", "call", server.url, "hang"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        preexec_fn=default_signals,
    )
    try:
        assert server.hanging.wait(DEADLINE)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=DEADLINE)
    finally:
        child.kill()
    assert (out, err.strip(), child.returncode) == ("", "Aborted!", 1)
