"""The files for browsers: which files are served, with which headers, and which paths lead to none."""

from __future__ import annotations

import re
import tomllib
from glob import glob
from pathlib import Path
from typing import Any, get_args

import h11
import orjson
import pytest
import trio

from reactor_trio import ReactorModel
from reactor_trio.link.host import ModelHost
from reactor_trio.protocol.binary import (
    MEDIA,
    MediaFrame,
    UploadChunk,
    decode_binary,
    encode_media,
    encode_upload_chunk,
)
from reactor_trio.server.auth import offered_token
from reactor_trio.server.http import Request, Response
from reactor_trio.server.origins import Policy
from reactor_trio.server.routes import State, Status, answer, is_guarded
from reactor_trio.server.serve import Server
from reactor_trio.server.settings import ServerSettings
from reactor_trio.server.web import CONTENT_TYPES, web_files
from serving import ROOT

pytestmark = pytest.mark.real_time

TEST_TIMEOUT = 60.0
WEB = ROOT / "reactor_trio" / "web"
FILES = web_files()
FOR_THE_TYPE_CHECKER = {".json", ".ts"}
"""Suffixes of the files in the folder that are not served."""

PATHS = sorted(FILES)


def get(path: str, method: str = "GET", status: Status = "ready", **headers: str) -> Response:
    items = {"host": "127.0.0.1"} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(method, path, tuple(items.items()))
    what = answer(request, Policy(), State(status, "Painter", sessions=0, web=FILES))
    assert isinstance(what, Response)
    return what


def headers_of(response: Response, *, with_body: bool = True) -> dict[str, str]:
    """The header lines as a client reads them."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET" if with_body else "HEAD", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response.encode(with_body=with_body))
    client.receive_data(b"")
    head = client.next_event()
    assert isinstance(head, h11.Response)
    names = [name for name, _ in head.headers]
    assert len(names) == len(set(names)), "each header once"
    body = client.next_event()
    assert isinstance(body, h11.Data) == bool(with_body and response.body)
    return {name.decode(): value.decode() for name, value in head.headers}


# ---- files that are served


def test_the_page_the_client_and_the_playground_are_there() -> None:
    assert {"/", "/reactor.js", "/playground.js", "/playground.css"} <= set(FILES)
    assert get("/").body == (WEB / "index.html").read_bytes()
    assert get("/reactor.js").body == (WEB / "reactor.js").read_bytes()


def test_every_file_is_served_or_is_for_the_type_checker() -> None:
    found = {f"/{path.relative_to(WEB)}" for path in WEB.rglob("*") if path.is_file()}
    left_out = {path for path in found if Path(path).suffix in FOR_THE_TYPE_CHECKER}
    assert found - left_out - {"/index.html"} | {"/", "/playground"} == set(FILES)
    for path in left_out:
        assert get(path).status == 404


@pytest.mark.parametrize("path", PATHS)
def test_a_file_is_what_it_says(path: str) -> None:
    headers = headers_of(get(path))
    suffix = Path(path).suffix or ".html"
    assert headers["content-type"] == CONTENT_TYPES[suffix]
    assert headers["x-content-type-options"] == "nosniff"
    assert int(headers["content-length"]) == len(FILES[path].body) > 0
    # Browsers run an ES module only if its type is that of JavaScript.
    assert suffix != ".js" or headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("path", PATHS)
def test_head_tells_the_same_without_the_body(path: str) -> None:
    response = get(path, "HEAD")
    assert headers_of(response, with_body=False) == headers_of(get(path))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_done_to_a_file_but_read_it(method: str) -> None:
    response = get("/reactor.js", method)
    assert (response.status, dict(response.headers)["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("status", get_args(Status))
def test_the_page_is_there_whatever_becomes_of_the_model(status: Status) -> None:
    assert get("/", status=status).status == 200
    assert get("/reactor.js", status=status).status == 200


@pytest.mark.parametrize("path", PATHS)
def test_the_page_needs_no_token(path: str) -> None:
    assert not is_guarded(Request("GET", path))


# ---- paths without a file


@pytest.mark.parametrize(
    "path",
    [
        "/index.html",
        "/jsconfig.json",
        "/reactor",
        "/reactor/",
        "/reactor.js/",
        "//reactor.js",
        "/./reactor.js",
        "/reactor/../reactor.js",
        "/../__init__.py",
        "/../../pyproject.toml",
        "/..%2f__init__.py",
        "/%2e%2e/__init__.py",
        "/%72eactor.js",
        "/..\\__init__.py",
        "/reactor.js%00.css",
        "/reactor.js\x00",
        "/REACTOR.JS",
        "/etc/passwd",
        "//etc/passwd",
        "/web/reactor.js",
        "reactor.js",
        "",
    ],
)
def test_no_other_path_leads_to_a_file(path: str) -> None:
    assert get(path).status == 404


# ---- caching


@pytest.mark.parametrize("path", PATHS)
def test_a_browser_asks_again_and_is_told_that_nothing_has_changed(path: str) -> None:
    headers = headers_of(get(path))
    assert headers["cache-control"] == "no-cache"
    etag = headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', etag)
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = get(path, if_none_match=known)
        assert (again.status, again.body) == (304, b"")
        told = headers_of(again)
        assert told["etag"] == etag
        assert told["cache-control"] == "no-cache"
        # A browser would take these headers for those of the file that it has.
        assert not {"content-length", "content-type"} & set(told)
    assert get(path, if_none_match='"other"').status == 200
    assert get(path, if_none_match=etag.strip('"')).status == 200


def test_each_content_has_its_own_etag() -> None:
    bodies = {file.body for file in FILES.values()}
    assert len({file.etag for file in FILES.values()}) == len(bodies)


def test_what_is_no_file_is_not_kept() -> None:
    for path in ("/health", "/schema", "/nothing"):
        assert headers_of(get(path))["cache-control"] == "no-store"


# ---- the rules that a browser is given


@pytest.mark.parametrize("path", PATHS)
def test_a_file_may_use_nothing_from_elsewhere_and_nothing_inline(path: str) -> None:
    headers = headers_of(get(path))
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert (policy["script-src"], policy["style-src"], policy["connect-src"]) == ("'self'",) * 3
    assert {policy[name] for name in ("frame-ancestors", "base-uri", "form-action")} == {"'none'"}
    sources = {source for sources in policy.values() for source in sources.split()}
    assert sources <= {"'none'", "'self'", "data:", "blob:"}
    assert not {"data:", "blob:"} & set(f"{policy['script-src']} {policy['worker-src']}".split())
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["permissions-policy"] == "camera=(self), microphone=(self)"


@pytest.mark.parametrize("path", PATHS)
def test_a_file_names_no_other_site(path: str) -> None:
    """The page works offline, and no other site learns of its users."""
    text = FILES[path].body.decode()
    elsewhere = re.findall(r"(?:https?:)?//(?!www\.w3\.org/)[\w-]+\.[\w.-]+", without_comments(text))
    assert elsewhere == []


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|<!--.*?-->|^\s*//.*?$", "", text, flags=re.DOTALL | re.MULTILINE)


def test_the_page_has_nothing_inline() -> None:
    """A browser would refuse inline code, too, but this test shows it at once."""
    page = FILES["/"].body.decode()
    assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", page) == []


# ---- the golden values of tests/js


def golden() -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads((ROOT / "tests" / "js" / "golden.json").read_bytes())
    return found


def test_the_golden_bytes_are_what_the_server_writes_and_reads() -> None:
    for each in golden()["messages"]:
        frame = decode_binary(bytes.fromhex(each["message"]))
        assert bytes(frame.payload).hex() == each["payload"]
        header = each["header"]
        if each["kind"] == MEDIA:
            assert isinstance(frame, MediaFrame)
            assert (frame.track, frame.seq, frame.pts, frame.codec) == tuple(
                header[name] for name in ("track", "seq", "pts", "codec")
            )
            written = encode_media(frame)
        else:
            assert isinstance(frame, UploadChunk)
            written = encode_upload_chunk(frame)
        length = int.from_bytes(written[1:3])
        assert orjson.loads(written[3 : 3 + length]) == header
        assert (written[0], written[3 + length :].hex()) == (each["kind"], each["payload"])


def test_the_golden_token_is_what_the_server_reads() -> None:
    token = golden()["token"]
    request = Request("GET", "/ws", (("sec-websocket-protocol", f"reactor.v1, {token['subprotocol']}"),))
    assert offered_token(request) == token["text"]


# ---- over a socket, and from a package


async def fetch(server: Server, path: str) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", server.addresses[0][1]) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return b"".join([bytes(data) async for data in stream])


async def test_a_server_with_a_token_shows_its_page_before_and_after_it_is_ready() -> None:
    loaded = trio.Event()

    async def load() -> ModelHost:
        await loaded.wait()
        return await ModelHost.load(ReactorModel)

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            server = Server(ServerSettings(port=0, token="x"), name="loading model")
            nursery.start_soon(server.run, load)
            await trio.testing.wait_all_tasks_blocked()
            pages = [await fetch(server, "/")]
            assert (await fetch(server, "/schema")).startswith(b"HTTP/1.1 401 ")
            loaded.set()
            await server.ready.wait()
            pages.append(await fetch(server, "/"))
            nursery.cancel_scope.cancel(reason="the test is over")
    for page in pages:
        assert page.startswith(b"HTTP/1.1 200 ")
        assert page.endswith(FILES["/"].body)


def test_the_files_are_among_the_data_of_the_package() -> None:
    """Looks for the files as setuptools does, since building a wheel would need the network."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["reactor_trio"]
    # For a pattern that ends in `**`, `Path.glob` would find folders only.
    found = {name for each in patterns for name in glob(each, root_dir=WEB.parent, recursive=True)}  # noqa: PTH207
    named = {"/index.html" if path == "/" else path for path in FILES}
    assert {f"web{path}" for path in named} <= found
