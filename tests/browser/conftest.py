"""A real Chromium, without a screen. A page may send requests to this machine only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browsing import HERE
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from serving import Served, serve

OPTIONS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=user-gesture-required",
    # These two are for the test of the heap.
    "--js-flags=--expose-gc",
    "--enable-precise-memory-info",
]
PAGE_TIMEOUT = 20_000.0
"""Milliseconds for anything that a page is expected to show."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "expects(*texts): what the page's console may complain of")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--minutes",
        type=float,
        default=0.5,
        help="how long the page's heap is watched (default: half a minute)",
    )


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "no Chromium: apt install chromium, or say in CHROMIUM where it is"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PAGE_TIMEOUT)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page; its console may have only the expected errors, and its requests must stay on this machine."""
    page = context.new_page()
    complaints: list[str] = []
    asked: set[str] = set()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.add(request.url))
    page.on("websocket", lambda socket: asked.add(socket.url))
    yield page
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts <= {"127.0.0.1"}, asked
    marker = request.node.get_closest_marker("expects")
    expected = () if marker is None else marker.args
    unexpected = [text for text in complaints if not any(part in text for part in expected)]
    assert not unexpected


@pytest.fixture
def wall(tmp_path: Path) -> Iterator[Served]:
    with serve(HERE / "wall.py", tmp_path) as server:
        yield server
