"""The format of log lines, and the data that no log line contains."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
import trio

from reactor_trio import (
    CommandError,
    InputField,
    ModelMessage,
    ReactorModel,
    UploadedFile,
    connected,
    disconnected,
    event,
    file_uploaded,
)
from reactor_trio.logs.setup import LogFormat, configure_logging
from reactor_trio.testing import open_session
from serving import ROOT, serve

SENTINEL = "a-prompt-that-nobody-else-may-read"


@pytest.fixture(autouse=True)
def structlog_as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def log_a_failure() -> None:
    token = "s3cret" + "-local"
    try:
        raise ZeroDivisionError(len(token))
    except ZeroDivisionError:
        structlog.get_logger().exception("it failed", address="127.0.0.1:1")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_failure_is_logged_to_stderr_without_local_variables(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(log_format)
    log_a_failure()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ZeroDivisionError" in captured.err
    assert "s3cret-local" not in captured.err
    assert "\x1b" not in captured.err  # no colours: pytest's stderr is no terminal
    assert not sys.stderr.isatty()


def test_json_is_one_object_a_line_and_levels_are_heeded(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "warning")
    structlog.get_logger().info("not this")
    log_a_failure()
    (line,) = capsys.readouterr().err.splitlines()
    entry = orjson.loads(line)
    assert (entry["event"], entry["level"], entry["address"]) == ("it failed", "error", "127.0.0.1:1")


# ---- no data of a client


class Said(ModelMessage):
    what: Any


class Fails(ReactorModel):
    """A model that fails in every way, with the client's data in its local variables."""

    prompt = ""

    @connected
    def begin(self) -> None:
        structlog.get_logger().info("the author's own line")

    @disconnected
    def end(self) -> None:
        prompt = self.prompt
        raise ZeroDivisionError(len(prompt))

    @file_uploaded
    def see(self, uploaded_file: UploadedFile) -> None:
        data = uploaded_file.data
        raise ZeroDivisionError(len(data))

    @event
    def set_prompt(self, prompt: str = InputField(max_length=100)) -> None:
        self.prompt = prompt

    @event
    def fail(self, prompt: str) -> None:
        raise ZeroDivisionError(len(prompt))

    @event
    async def fail_in_thread(self, prompt: str) -> None:
        await self.compute(int.__truediv__, len(prompt), 0)

    @event
    def refuse(self, prompt: str) -> None:
        raise CommandError("no", f"not {prompt}")

    @event
    def say(self, prompt: str) -> Said:
        return Said(what={prompt: object()})  # an `object` cannot be serialised

    @event
    def use(self, prompt: str, image: UploadedFile) -> None: ...

    @event(dedupe=True)
    async def wait(self, prompt: str) -> None:
        await trio.sleep(1)

    async def run(self) -> None:
        while not self.prompt.endswith("stop"):  # noqa: ASYNC110  the prompt sets no event
            await trio.sleep(0.1)
        prompt = self.prompt
        raise ZeroDivisionError(len(prompt))


async def a_session_of_failures() -> None:
    async with open_session(Fails) as client:
        await client.upload(SENTINEL.encode(), name=SENTINEL)
        for name in ("fail", "fail_in_thread", "refuse", SENTINEL, "say"):
            with pytest.raises(CommandError):
                await client.call(name, prompt=SENTINEL)
        for payload in (
            {"prompt": 10 * SENTINEL},
            {"prompt": [SENTINEL]},
            {SENTINEL: SENTINEL},
            {"prompt": {SENTINEL: None}},
        ):
            with pytest.raises(CommandError):
                await client.call("set_prompt", **payload)
        with pytest.raises(CommandError):
            await client.call("use", prompt=SENTINEL, image={"upload_id": SENTINEL})
        for _ in range(70):  # all but the last one are superseded
            await client.send("wait", prompt=SENTINEL)
        await client.transport.send([SENTINEL, f'{{"type": "{SENTINEL}"', SENTINEL.encode()])
        await client.send("set_prompt", prompt=f"{SENTINEL} stop")
        await trio.sleep(5)


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_what_a_client_says_stands_in_no_line_of_the_log(
    log_format: LogFormat, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(log_format, level)
    await a_session_of_failures()
    captured = capsys.readouterr()
    logged = captured.out + captured.err
    assert SENTINEL not in logged
    for failure in ("handler failed", "run() failed", "@disconnected failed", "@file_uploaded failed"):
        assert failure in logged
    # Only the client is told the faults of a payload; the log has the error's code alone, at level debug.
    assert ("invalid_payload" in logged) == (level == "debug")


async def test_every_line_of_a_session_has_its_id_also_the_authors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("json")
    await a_session_of_failures()
    entries = [orjson.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert "the author's own line" in [entry["event"] for entry in entries]
    assert {entry.get("session_id") for entry in entries} == {"session-1"}


def status_of(url: str, token: str) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request) as response:
            return int(response.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


def test_a_token_is_never_logged(tmp_path: Path) -> None:
    options = ("--token", SENTINEL, "--log-level", "debug")
    with serve(ROOT / "examples" / "seed.py", tmp_path, *options) as server:
        url = server.url.replace("ws://", "http://")
        assert status_of(f"{url}/metrics", SENTINEL) == 200
        assert status_of(f"{url}/metrics?token={SENTINEL}", f"wrong-{SENTINEL}") == 401
    logged = (tmp_path / "stderr.txt").read_text()
    assert "/metrics" in logged
    assert SENTINEL not in logged
