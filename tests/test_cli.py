"""The command line: the process as an operator sees it, and the search for models, without a process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import orjson
import pytest
import trio
import trio_websocket
from click.testing import CliRunner

from reactor_trio.cli import cli
from reactor_trio.cli.find_model import (
    DEMO,
    ModelChoice,
    ModelImportError,
    apply_overrides,
    choose,
    find_model,
)
from reactor_trio.cli.limits import LIMITS
from reactor_trio.errors import ModelNotFound
from reactor_trio.session.limits import Limits

pytestmark = pytest.mark.real_time

TEST_TIMEOUT = 60.0

MODEL = """
import time
import trio
from reactor_trio.declare.decorators import connected, disconnected, event
from reactor_trio.model.messages import ModelMessage
from reactor_trio.model.model import ReactorModel

class Word(ModelMessage):
    word: str

class Greeter(ReactorModel):
    def load(self, config):
        self.word = config.get("word", "hello")
        if "load_takes" in config:
            print("loading", flush=True)
            time.sleep(config["load_takes"])
        if config.get("fail"):
            raise RuntimeError("no such checkpoint")

    @event
    def get_word(self) -> Word:
        return Word(word=self.word)

    @event(in_thread=True)
    def block(self):
        print("blocking", flush=True)
        time.sleep(3600)

    @disconnected
    async def on_disconnect(self):
        print("disconnected", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "greeter.py").write_text(MODEL)
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "reactor_trio", "serve", *arguments]


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


async def fails(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and standard error of a process that ends before it serves."""
    with trio.fail_after(TEST_TIMEOUT):
        done = await trio.run_process(
            command(*arguments),
            cwd=folder,
            env=environment(),
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
    assert done.stdout == b""
    return done.returncode, done.stderr.decode()


class Serving:
    """A process that serves."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        self.process = process
        self.output = [""]
        self.errors = [""]
        self.port = 0

    async def line(self, part: str, *, on_stderr: bool = False) -> str:
        """Wait for a line that contains `part`, and drop the lines before it."""
        pipe = self.process.stderr if on_stderr else self.process.stdout
        assert pipe is not None
        seen = self.errors if on_stderr else self.output
        while True:
            for index, line in enumerate(seen[:-1]):
                if part in line:
                    del seen[: index + 1]
                    return line
            data = await pipe.receive_some()
            assert data, f"ended without {part!r}: {seen}"
            *lines, rest = (seen.pop() + data.decode()).split("\n")
            seen.extend([*lines, rest])

    async def end(self) -> tuple[int, str]:
        """Exit status and standard error."""
        assert self.process.stderr is not None
        errors = b"".join([bytes(data) async for data in self.process.stderr])
        return await self.process.wait(), errors.decode()


@asynccontextmanager
async def started(folder: Path, *arguments: str) -> AsyncIterator[Serving]:
    process = await trio.lowlevel.open_process(
        command(*arguments, "--port", "0"),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield Serving(process)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                await pipe.aclose()


@asynccontextmanager
async def serving(folder: Path, *arguments: str) -> AsyncIterator[Serving]:
    async with started(folder, *arguments) as server:
        ready = await server.line("is served at")
        match = re.fullmatch(
            r"(\w+) is served at http://127\.0\.0\.1:(\d+)/  \(WebSocket ws://127\.0\.0\.1:(\d+)/ws\)", ready
        )
        assert match is not None, ready
        assert match[2] == match[3]
        server.port = int(match[2])
        yield server


@asynccontextmanager
async def session(server: Serving) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    async with trio_websocket.open_websocket("127.0.0.1", server.port, "/ws", use_ssl=False) as ws:
        assert orjson.loads(await ws.get_message())["type"] == "reactor.welcome"
        yield ws
        await ws.aclose()
        await trio.aclose_forcefully(ws._stream)


# ---- serving


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_says_so_and_ends_with_0_on_a_signal(folder: Path, signum: signal.Signals) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with serving(folder, "greeter.py:Greeter", "--set", "word=hi") as server:
            async with session(server) as ws:
                await ws.send_message('{"type": "get_word", "id": 1}')
                answer = orjson.loads(await ws.get_message())
                assert answer == {"type": "word", "data": {"word": "hi"}, "reply_to": 1}
                server.process.send_signal(signum)
                assert orjson.loads(await ws.get_message())["data"] == {"reason": "shutting_down"}
                with pytest.raises(trio_websocket.ConnectionClosed) as caught:
                    await ws.get_message()
                assert caught.value.reason.code == 1001
            await server.line("disconnected")
            status, errors = await server.end()
    assert status == 0
    assert "Traceback" not in errors


async def test_many_signals_in_a_row_still_end_without_a_traceback(folder: Path) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with serving(folder, "greeter.py") as server:
            server.process.send_signal(signal.SIGTERM)
            server.process.send_signal(signal.SIGINT)
            status, errors = await server.end()
    assert status == 0
    assert "Traceback" not in errors


async def test_a_signal_while_the_model_loads_ends_with_0(folder: Path) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with started(folder, "greeter.py", "--set", "load_takes=0.2") as server:
            await server.line("loading")
            server.process.terminate()
            status, errors = await server.end()
    assert status == 0
    assert "Traceback" not in errors


async def test_a_thread_that_does_not_end_is_named_at_the_third_signal(folder: Path) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with serving(folder, "greeter.py") as server, session(server) as ws:
            await ws.send_message('{"type": "block"}')
            await server.line("blocking")
            # Signals in quick succession count as one: the test waits for the effect of each before the next.
            server.process.terminate()
            await server.line("draining", on_stderr=True)
            server.process.terminate()
            await server.line("cancelling", on_stderr=True)
            server.process.terminate()
            status, errors = await server.end()
    assert status == 1
    assert "Stopped without waiting for: " in errors
    assert "in lane handlers" in errors
    assert "Traceback" not in errors


async def health(server: Serving) -> dict[str, object]:
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await stream.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b"".join([bytes(data) async for data in stream])
    status: dict[str, object] = orjson.loads(answer.partition(b"\r\n\r\n")[2])
    return status


async def test_logs_can_be_json_and_do_not_hold_the_token(folder: Path) -> None:
    arguments = ("greeter.py", "--log-format", "json", "--log-level", "debug", "--token", "s3cret")
    with trio.fail_after(TEST_TIMEOUT):
        async with serving(folder, *arguments) as server:
            assert (await health(server))["status"] == "ready"
            server.process.terminate()
            status, errors = await server.end()
    assert status == 0
    entries = [orjson.loads(line) for line in errors.splitlines()]
    assert "draining" in {entry["event"] for entry in entries}
    assert "s3cret" not in errors


async def test_reactor_yaml_in_the_folder_says_what_to_serve(folder: Path) -> None:
    (folder / "reactor.yaml").write_text(
        "model: {name: Parrot}\nruntime: {import: 'greeter:Greeter', config: {word: polly}}\n"
    )
    with trio.fail_after(TEST_TIMEOUT):
        async with serving(folder) as server, session(server) as ws:
            await ws.send_message('{"type": "get_word"}')
            assert orjson.loads(await ws.get_message())["data"] == {"word": "polly"}
            assert (await health(server))["model"] == "Parrot"


# ---- not serving


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("greeter.py:Greter",), "did you mean Greeter?"),
        (("greeter.py:Word",), "no ReactorModel"),
        (("gretter.py",), "there is no file gretter.py"),
        (("no_such_module:Greeter",), "there is no module no_such_module"),
        (("greeter.py", "--port", "99999"), "--port"),
        (("greeter.py", "--no-such-option"), "--no-such-option"),
        (("greeter.py", "--heartbeat", "-1"), "--heartbeat must be"),
        (("greeter.py", "--send-timeout", "nan"), "--send-timeout must be"),
        (("greeter.py", "--set", "word"), "key=value"),
        (("greeter.py", "--config", "missing.yaml"), "missing.yaml"),
        (("greeter.py", "--host", "0.0.0.0"), "--token or --no-auth"),
        (("greeter.py", "--token", ""), "token"),
    ],
)
async def test_a_wrong_option_or_model_is_a_short_message_and_2(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    status, errors = await fails(folder, *arguments)
    assert status == 2
    assert message in errors
    assert "Traceback" not in errors


async def test_a_model_file_that_raises_keeps_its_traceback_and_1(folder: Path) -> None:
    (folder / "broken.py").write_text("def paint():\n    raise ZeroDivisionError('oh')\npaint()\n")
    status, errors = await fails(folder, "broken.py")
    assert status == 1
    assert errors.splitlines()[1].strip().startswith(f'File "{folder / "broken.py"}", line 3')
    assert errors.splitlines()[-1] == "ZeroDivisionError: oh"


async def test_a_model_file_with_a_syntax_error_is_shown_and_1(folder: Path) -> None:
    (folder / "broken.py").write_text("def paint(:\n")
    status, errors = await fails(folder, "broken:Painter")
    assert status == 1
    assert "SyntaxError" in errors
    assert "importlib" not in errors


async def test_a_load_that_raises_keeps_its_traceback_and_1(folder: Path) -> None:
    status, errors = await fails(folder, "greeter.py", "--set", "fail=true", "--port", "0")
    assert status == 1
    assert "RuntimeError: no such checkpoint" in errors
    assert errors.splitlines()[1].strip().startswith(f'File "{folder / "greeter.py"}"')
    assert "ExceptionGroup" not in errors


async def test_a_port_in_use_is_a_short_message_and_1(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, errors = await fails(folder, "greeter.py", "--port", str(taken.getsockname()[1]))
    assert status == 1
    assert "Address already in use" in errors
    assert "Traceback" not in errors


async def test_the_demo_without_torch_says_what_to_install(folder: Path) -> None:
    (folder / "torch.py").write_text("raise ImportError('no torch here')\n")
    status, errors = await fails(folder)
    assert status == 2
    assert 'pip install "reactor-trio[torch]"' in errors
    assert "Traceback" not in errors


def test_every_limit_is_an_option_with_its_default() -> None:
    names = {field.name for field in attrs.fields(Limits)}
    assert set(LIMITS) == names
    text = CliRunner().invoke(cli, ["serve", "--help"]).output
    for name in names:
        assert f"--{name.replace('_', '-')} " in text


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert "serve" in result.output
    assert "call" in result.output


# ---- finding models


def test_the_class_may_be_left_out_where_there_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    model = find_model(str(folder / "greeter.py"))
    assert model.__name__ == "Greeter"


def test_the_class_must_be_said_where_there_are_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (folder / "two.py").write_text(MODEL + "\nclass Polite(Greeter):\n    pass\n")
    with pytest.raises(ModelNotFound, match="the models Greeter, Polite: say which one"):
        find_model(str(folder / "two.py"))
    assert find_model(f"{folder}/two.py:Polite").__name__ == "Polite"


def test_a_file_may_import_what_lies_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (folder / "weights_beside.py").write_text("WORD = 'hi'\n")
    (folder / "importing.py").write_text("import weights_beside\n" + MODEL)
    assert find_model(f"{folder}/importing.py:Greeter").__module__ == "reactor_model_importing"


def test_a_module_that_lacks_a_library_is_the_authors_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(folder)
    (folder / "lacking.py").write_text("import a_library_that_is_not_there\n")
    with pytest.raises(ModelImportError) as caught:
        find_model("lacking:Model")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("target", ["", ":", "..", "a b:C", "greeter", "x/y.py:Z", ":Class"])
def test_targets_that_name_nothing_are_not_found(target: str) -> None:
    with pytest.raises(ModelNotFound):
        find_model(target)


def test_without_anything_it_is_the_demo(tmp_path: Path) -> None:
    assert choose(None, tmp_path) == ModelChoice(DEMO)


def test_paths_in_reactor_yaml_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "reactor.yaml").write_text("runtime: {import: 'models/x.py:X', config: config.yaml}\n")
    (tmp_path / "config.yaml").write_text("a: 1\n")
    assert choose(None, tmp_path) == ModelChoice(f"{tmp_path / 'models/x.py'}:X", None, {"a": 1})
    assert choose("other:Y", tmp_path) == ModelChoice("other:Y")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "runtime: 1",
        "runtime: {import: 1}",
        "runtime: {import: a:B, config: 1}",
        "runtime: {import: a:B, config: missing.yaml}",
        "{",
        "model: {name: 1}\nruntime: {import: 'a:B'}",
    ],
)
def test_a_wrong_reactor_yaml_is_said_to_be_wrong(text: str, tmp_path: Path) -> None:
    (tmp_path / "reactor.yaml").write_text(text)
    with pytest.raises(ModelNotFound, match=r"\.yaml|runtime"):
        choose(None, tmp_path)


def test_overrides_are_yaml_under_dotted_keys() -> None:
    config = {"a": {"b": 1, "c": 2}}
    changed = apply_overrides(config, ["a.b=[1, two]", "d.e.f=true", "g=x=y", "h="])
    assert changed == {"a": {"b": [1, "two"], "c": 2}, "d": {"e": {"f": True}}, "g": "x=y", "h": None}
    assert config == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize("override", ["a", "=1", "a..b=1", "a.b=1", "c={"])
def test_wrong_overrides_are_refused(override: str) -> None:
    with pytest.raises(ModelNotFound, match="--set"):
        apply_overrides({"a": 1}, [override])
