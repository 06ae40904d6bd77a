"""The playground below a path, behind a reverse proxy that takes the path away, or leaves it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from browsing import HERE
from playwright.sync_api import Page, expect

from reactor_trio.client import connect
from serving import PROCESS_TIMEOUT, serve

PREFIX = "/app1"


class Proxy:
    """A reverse proxy: passes on requests below `PREFIX`, one for each connection; others get a 404."""

    def __init__(self, target: int, *, strips: bool) -> None:
        self.port = 0
        self.outside: list[str] = []
        """The requested paths that are not below `PREFIX`."""
        self._target = target
        self._strips = strips

    async def run(self, ready: Callable[[trio.CancelScope], object]) -> None:
        with trio.CancelScope() as scope:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            ready(scope)
            await trio.serve_listeners(self._handle, [listener])

    async def _handle(self, client: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = await client.receive_some()
            if not data:
                return
            head += data
        method, path, rest = head.split(b" ", 2)
        if not path.startswith(PREFIX.encode()):
            self.outside.append(path.decode())
            await client.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        if self._strips:
            path = path.removeprefix(PREFIX.encode()) or b"/"
        host = f"127.0.0.1:{self.port}"
        said = f"\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: {host}\r\n"
        rest = rest.replace(
            f"\r\nHost: {host}\r\n".encode(), b"\r\nHost: inner.example\r\n" + said[2:].encode(), 1
        )
        server = await trio.open_tcp_stream("127.0.0.1", self._target)
        await server.send_all(b" ".join((method, path, rest)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pump, client, server)
            nursery.start_soon(_pump, server, client)


async def _pump(source: trio.SocketStream, to: trio.SocketStream) -> None:
    try:
        while data := await source.receive_some():
            await to.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await trio.aclose_forcefully(source)
        await trio.aclose_forcefully(to)


@contextmanager
def behind(target: int, *, strips: bool) -> Iterator[Proxy]:
    """A proxy that runs in a thread, before the server at port `target`."""
    proxy = Proxy(target, strips=strips)
    ready = threading.Event()
    stop: list[Callable[[], object]] = []

    def is_ready(scope: trio.CancelScope) -> None:
        token = trio.lowlevel.current_trio_token()
        stop.append(partial(token.run_sync_soon, partial(scope.cancel, reason="the test is over")))
        ready.set()

    thread = threading.Thread(target=trio.run, args=(proxy.run, is_ready))
    thread.start()
    try:
        assert ready.wait(PROCESS_TIMEOUT)
        yield proxy
    finally:
        stop[0]()
        thread.join()


@pytest.mark.parametrize(
    ("strips", "options"),
    [
        (True, ()),
        (True, ("--root-path", PREFIX)),
        (False, ("--root-path", PREFIX)),
    ],
    ids=["taken away", "taken away, and told", "left"],
)
def test_the_playground_and_its_snippets_work_below_a_path(
    page: Page, tmp_path: Path, strips: bool, options: tuple[str, ...]
) -> None:
    with (
        serve(HERE / "wall.py", tmp_path, "--proxy-headers", *options) as server,
        behind(urlsplit(server.url).port or 0, strips=strips) as proxy,
    ):
        base = f"http://127.0.0.1:{proxy.port}{PREFIX}"
        page.goto(f"{base}/")
        expect(page.locator("#state-text")).to_have_text("Connected")
        page.get_by_role("button", name="Connect from code").click()
        snippets = page.locator("#code-snippets")
        expect(snippets).to_contain_text(f'with connect("{base}") as client')
        expect(snippets).to_contain_text(f'import {{ connect }} from "{base}/reactor.js"')
        expect(snippets).to_contain_text(f'connect("{base.replace("http", "ws")}/ws")')
        expect(snippets).to_contain_text(f"python -m reactor_trio call {base} ")
        link = page.get_by_role("link", name="schema").evaluate("link => link.href")
        assert page.request.get(link).json().get("servers") == ([{"url": PREFIX}] if options else None)
        for url in (base, f"{base}/", f"{base}/ws", f"{base.replace('http', 'ws')}/ws"):
            with connect(url) as client:
                assert client.welcome.model.name
        assert not proxy.outside


def test_the_path_without_its_slash_leads_to_the_page(page: Page, tmp_path: Path) -> None:
    with (
        serve(HERE / "wall.py", tmp_path, "--proxy-headers", "--root-path", PREFIX) as server,
        behind(urlsplit(server.url).port or 0, strips=False) as proxy,
    ):
        page.goto(f"http://127.0.0.1:{proxy.port}{PREFIX}?x=1")
        expect(page.locator("#state-text")).to_have_text("Connected")
        assert urlsplit(page.url)[2:4] == (f"{PREFIX}/", "x=1")
        assert not proxy.outside
