"""docs/embedding.md and examples/in_fastapi.py: programs that serve a model, run as a reader runs them."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
import trio

import reactor_trio
from programs import running
from reactor_trio.client import Client, open_client
from reactor_trio.errors import TransportClosed
from reactor_trio.server.options import AccessOptions, ServeOptions
from serving import PROCESS_TIMEOUT, ROOT

pytestmark = pytest.mark.real_time

PAGE = ROOT / "docs" / "embedding.md"
SERVERS = {
    "uvicorn": "-m uvicorn --port 0 APP",
    "hypercorn on Trio": "-m hypercorn --bind 127.0.0.1:0 --worker-class trio APP",
}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A folder with the two Python files of docs/embedding.md."""
    counter, app = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert counter.count("port=8080") == 1
    (tmp_path / "counter.py").write_text(counter.replace("port=8080", "port=0"))
    (tmp_path / "app.py").write_text(app)
    return tmp_path


async def end_of(client: Client) -> int:
    with trio.fail_after(PROCESS_TIMEOUT):
        while True:
            try:
                await client.receive()
            except TransportClosed as closed:
                return closed.code


async def test_the_program_with_a_nursery(page: Path) -> None:
    with running(["counter.py"], page) as program:
        async with open_client(f"ws://{program.authority}/ws") as client:
            answer = await client.call("add")
            assert answer is not None
            assert answer.data == {"value": 5}
            program.process.send_signal(signal.SIGINT)
            assert await end_of(client) == 1001
            assert client.goodbye == "shutting_down"
        assert "KeyboardInterrupt" in program.ended()


@pytest.mark.parametrize("server", SERVERS)
async def test_the_application_that_mounts_a_model(page: Path, server: str) -> None:
    with running(SERVERS[server].replace("APP", "app:app").split(), page) as program:
        assert json.loads(program.fetch("/")) == {"the counter": "/counter/"}
        assert json.loads(program.fetch("/counter/health"))["status"] == "ready"
        async with open_client(f"ws://{program.authority}/counter/ws") as client:
            answer = await client.call("add")
            assert answer is not None
            assert answer.data == {"value": 5}


async def test_the_example_for_fastapi() -> None:
    command = ["-m", "uvicorn", "--port", "0", "--app-dir", "examples", "in_fastapi:app"]
    with running(command, ROOT) as program:
        assert json.loads(program.fetch("/about")) == {"model": "/lamp/"}
        assert "<html" in program.fetch("/lamp/")
        async with open_client(f"ws://{program.authority}/lamp/ws") as client:
            await client.call("set_colour", colour=[0, 0, 255])
            with trio.fail_after(PROCESS_TIMEOUT):
                while (await client.frame("lamp")).array()[60, 80, 2] < 250:
                    pass


def test_the_page_names_every_keyword_that_is_spelled_otherwise_than_its_option() -> None:
    text = PAGE.read_text()
    for name in ("config", "limits", "media", "auth=False", "watchdog=True"):
        assert f"| `{name}` |" in text
    keywords = set(ServeOptions.__annotations__) - {"auth"}
    serving = (ROOT / "docs" / "serving.md").read_text()
    spelled_alike = {name for name in keywords if f"`--{name.replace('_', '-')}`" in serving}
    # The command has no options for these two.
    described = {name for name in keywords if f"`{name}`" in text} | {"handshake_timeout", "max_head_bytes"}
    assert keywords - spelled_alike <= described
    assert set(AccessOptions.__annotations__) < set(ServeOptions.__annotations__)
    assert reactor_trio.serve.__doc__ is not None
    assert [name for name in keywords if f"`{name}`" not in reactor_trio.serve.__doc__] == []
