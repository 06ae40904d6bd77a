"""The author's own page (`--web`): which paths lead to a file, which headers it has, and how it is sent."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import h11
import pytest
import structlog
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import reactor_trio
from asgi_servers import scope_of
from reactor_trio import ReactorModel
from reactor_trio.link.host import ModelHost
from reactor_trio.server import connections, web_folder
from reactor_trio.server.arrival import Arrival
from reactor_trio.server.http import BodyLost, Request, Response
from reactor_trio.server.routes import is_guarded
from reactor_trio.server.serve import Server
from reactor_trio.server.service import Service
from reactor_trio.server.sessions import Granted
from reactor_trio.server.settings import ServerSettings
from reactor_trio.server.web import web_files
from reactor_trio.server.web_folder import HEADERS, PAGE_TYPES, PIECE_BYTES, WebFolder, segments_of
from reactor_trio.testing import InlineExecutor
from serving import PROCESS_TIMEOUT, environment, serve

TEST_TIMEOUT = 60.0
INDEX = b"<!doctype html><title>mine</title>"
SECRET = b"nobody is to read this"
OURS = sorted(set(web_files()) - {"/"})
"""Paths of the runtime's own files, without the page."""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A page, with files in its folder and beside it that must not be served."""
    return make_site(tmp_path)


def make_site(folder: Path) -> Path:
    site = folder / "site"
    for name, content in {
        "index.html": INDEX,
        "app.js": b"import './reactor.js'",
        "über uns/index.html": b"about",
        "img/a b.png": b"png",
        "img/.hidden.png": SECRET,
        ".env": SECRET,
        ".git/config.txt": SECRET,
        "model.py": SECRET,
        "weights.pt": SECRET,
        "LICENSE": SECRET,
        "empty.txt": b"",
    }.items():
        file = site / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (folder / "secret.txt").write_bytes(SECRET)
    (folder / "site-two").mkdir()
    (folder / "site-two" / "secret.txt").write_bytes(SECRET)
    return site


def request(path: str, method: str = "GET", *, prefix: str = "", **headers: str) -> Request:
    items = {"host": "127.0.0.1"} | {name.replace("_", "-"): value for name, value in headers.items()}
    arrival = Arrival("127.0.0.1:5", host="127.0.0.1", prefix=prefix)
    return Request(method, path, tuple(items.items()), arrival=arrival)


async def get(site: Path, path: str, method: str = "GET", **headers: str) -> Response:
    return await WebFolder(site, InlineExecutor()).answer(request(path, method, **headers))


async def body_of(response: Response) -> bytes:
    """The whole body, read piece by piece as the server sends it."""
    if response.long_body is None:
        return response.body
    body = b""
    while len(body) < response.long_body.size:
        data = await response.long_body.read(len(body))
        assert 0 < len(data) <= PIECE_BYTES
        body += data
    return body


# ---- which paths lead to a file


@pytest.mark.parametrize(
    ("path", "content", "content_type"),
    [
        ("/", INDEX, "text/html; charset=utf-8"),
        ("/index.html", INDEX, "text/html; charset=utf-8"),
        ("/?a=b", INDEX, "text/html; charset=utf-8"),
        ("/app.js", b"import './reactor.js'", "text/javascript; charset=utf-8"),
        ("/%61pp.js", b"import './reactor.js'", "text/javascript; charset=utf-8"),
        ("/%C3%BCber%20uns/", b"about", "text/html; charset=utf-8"),
        ("/img/a%20b.png", b"png", "image/png"),
        ("/empty.txt", b"", "text/plain; charset=utf-8"),
        ("http://127.0.0.1/app.js", b"import './reactor.js'", "text/javascript; charset=utf-8"),
    ],
)
async def test_a_path_leads_to_its_file(site: Path, path: str, content: bytes, content_type: str) -> None:
    response = await get(site, path)
    assert (response.status, response.content_type) == (200, content_type)
    assert await body_of(response) == content


@pytest.mark.parametrize(
    "path",
    [
        *("/nothing.html", "/app.js/", "/app.js/index.html", "/img", "/img/", "//app.js", "/img//a%20b.png"),
        *("/.env", "/%2eenv", "/.git/config.txt", "/%2Egit/config.txt", "/img/.hidden.png"),
        *("/..", "/../secret.txt", "/img/../../secret.txt", "/img/..%2f..%2fsecret.txt"),
        *("/%2e%2e/secret.txt", "/.%2e/secret.txt", "/..%5csecret.txt", "/..\\secret.txt"),
        *("/%252e%252e/secret.txt", "/..;/secret.txt", "/../site-two/secret.txt", "/../site/index.html"),
        *("/app.js%00", "/app.js%00.png", "/secret.txt%00.html", "/%ff.html", "/%c0%ae%c0%ae/secret.txt"),
        *("/C:/secret.txt", "/index.html:stream.txt", "/app.js%0d%0aX:%20y", f"/{'a' * 5000}.html"),
        *("/model.py", "/weights.pt", "/LICENSE", "/etc/passwd", "//etc/passwd", "/proc/self/environ"),
        *("/Index.html", "app.js", "", "*", "/über uns/"),
    ],
)
async def test_no_other_path_does(site: Path, path: str) -> None:
    response = await get(site, path)
    assert (response.status, await body_of(response)) == (404, b"not found\n")


PIECES = st.sampled_from(
    [
        *("/", "//", ".", "..", "...", "%2e", "%2E%2e", "%2f", "%5c", "\\", "%00", "~", ":", ";", "?", "#"),
        *("index.html", "secret.txt", "site", "site-two", "img", "app.js", ".env", ".git", "config.txt"),
        *("model.py", "out.txt", "etc", "passwd", "%", "%c0%af", "%252e", "%u2215", "∕", " ", "a b.png"),
    ]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=12).map("".join))
@example("/out.txt")
@example("/img/../out.txt")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
async def test_whatever_the_path_nothing_but_the_page_is_read(tmp_path: Path, path: str) -> None:
    if not (site := tmp_path / "site").exists():
        make_site(tmp_path)
        (site / "out.txt").symlink_to(tmp_path / "secret.txt")
    for asked in (path, f"/{path}"):
        response = await get(site, asked)
        assert response.status in (200, 307, 404)
        assert SECRET not in await body_of(response)
        location = dict(response.headers).get("Location", "x/")
        assert re.match(r"[A-Za-z0-9%._~-]+/", location), "it stays on this server, below this page"
        response.encode(with_body=False).decode("ascii")


@given(st.text())
def test_a_name_is_taken_apart_before_it_names_a_file(path: str) -> None:
    segments = segments_of(path)
    if segments is None:
        return
    assert path.startswith("/")
    for name in segments:
        assert name not in ("", ".", "..")
        assert not name.startswith(".")
        assert not set(name) & set("/\\:\0\r\n")
        assert Path(name).name == name


async def test_a_link_may_lead_to_the_folder_and_no_further(site: Path) -> None:
    for name, target in {
        "inside.js": site / "app.js",
        "relative.js": Path("img/../app.js"),
        "out.txt": site.parent / "secret.txt",
        "hidden.txt": site / ".git" / "config.txt",
        "loop.txt": site / "loop.txt",
        "gone.txt": site / "gone",
        "beside": site.parent / "site-two",
    }.items():
        (site / name).symlink_to(target)
    assert (await get(site, "/inside.js")).status == 200
    assert (await get(site, "/relative.js")).status == 200
    for path in ("/out.txt", "/hidden.txt", "/loop.txt", "/gone.txt", "/beside/secret.txt", "/beside/"):
        assert (await get(site, path)).status == 404, path


async def test_the_folder_itself_may_be_a_link_that_is_changed(site: Path) -> None:
    current = site.parent / "current"
    current.symlink_to(site)
    assert await body_of(await get(current, "/")) == INDEX
    current.unlink()
    current.symlink_to(site.parent / "site-two")
    assert await body_of(await get(current, "/secret.txt")) == SECRET


async def test_a_model_may_change_the_current_folder(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.parent)
    folder = WebFolder(Path("site"), InlineExecutor())
    monkeypatch.chdir("/")
    assert (await folder.answer(request("/"))).status == 200


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in the file system")
async def test_what_is_no_file_is_not_opened(site: Path) -> None:
    os.mkfifo(site / "pipe.txt")
    (site / "folder.html").mkdir()
    assert (await get(site, "/pipe.txt")).status == 404
    assert (await get(site, "/folder.html")).status == 404


async def test_a_folder_without_its_slash_is_a_redirect_if_it_has_a_page(site: Path) -> None:
    response = await get(site, "/%C3%BCber%20uns?a=b")
    assert (response.status, dict(response.headers)["Location"]) == (307, "%C3%BCber%20uns/?a=b")


async def test_a_file_of_an_unknown_type_is_not_served_and_the_log_says_so_once(site: Path) -> None:
    folder = WebFolder(site, InlineExecutor())
    with structlog.testing.capture_logs() as entries:
        for path in ("/weights.pt", "/weights.pt", "/other.pt", "/model.py"):
            assert (await folder.answer(request(path))).status == 404
    assert [entry["path"] for entry in entries] == ["/weights.pt", "/model.py"]


async def test_a_suffix_may_be_in_capitals(site: Path) -> None:
    (site / "PHOTO.JPG").write_bytes(b"jpg")
    assert (await get(site, "/PHOTO.JPG")).content_type == "image/jpeg"


# ---- the headers of a file


@pytest.mark.parametrize("suffix", sorted(PAGE_TYPES))
async def test_a_file_is_what_its_suffix_says_on_every_machine(site: Path, suffix: str) -> None:
    (site / f"x{suffix}").write_bytes(b"x")
    head = headers_of(await get(site, f"/x{suffix}"))
    assert head["content-type"] == PAGE_TYPES[suffix]
    assert head["content-length"] == "1"
    assert head["x-content-type-options"] == "nosniff"
    assert {(name, head[name.lower()]) for name, _ in HEADERS} == set(HEADERS)
    assert "script-src" not in head["content-security-policy"], "the author's page decides"


def headers_of(response: Response, method: str = "HEAD") -> dict[str, str]:
    """The header lines as a client reads them."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response.encode(with_body=False))
    head = client.next_event()
    assert isinstance(head, h11.Response)
    names = [name for name, _ in head.headers]
    assert len(names) == len(set(names)), "each header once"
    return {name.decode(): value.decode() for name, value in head.headers}


class CountingExecutor(InlineExecutor):
    def __init__(self) -> None:
        self.calls = 0

    async def run(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return await super().run(*args, **kwargs)


async def test_head_tells_the_same_and_reads_nothing(site: Path) -> None:
    head = await get(site, "/app.js", "HEAD")
    assert headers_of(head) == headers_of(await get(site, "/app.js"))
    assert head.long_body is not None
    assert head.long_body._file.first == b""  # type: ignore[attr-defined]


async def test_a_browser_asks_again_and_is_told_that_nothing_has_changed(site: Path) -> None:
    etag = headers_of(await get(site, "/app.js"))["etag"]
    for known in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        again = await get(site, "/app.js", if_none_match=known)
        assert (again.status, await body_of(again)) == (304, b"")
        assert headers_of(again)["etag"] == etag
    assert (await get(site, "/app.js", if_none_match='"other"')).status == 200
    (site / "app.js").write_bytes(b"import './reactor.js';")
    assert (await get(site, "/app.js", if_none_match=etag)).status == 200


async def test_of_a_large_file_one_piece_is_read_at_a_time(site: Path) -> None:
    content = os.urandom(3 * PIECE_BYTES + 5)
    (site / "large.mp4").write_bytes(content)
    executor = CountingExecutor()
    response = await WebFolder(site, executor).answer(request("/large.mp4"))
    assert executor.calls == 1
    assert await body_of(response) == content
    assert executor.calls == 4


@pytest.mark.parametrize("change", ["written", "replaced", "shorter", "gone"])
async def test_a_file_that_changes_is_not_sent_to_the_end(site: Path, change: str) -> None:
    file = site / "large.mp4"
    file.write_bytes(bytes(2 * PIECE_BYTES))
    body = (await get(site, "/large.mp4")).long_body
    assert body is not None
    assert await body.read(0) == bytes(PIECE_BYTES)
    if change == "written":
        file.write_bytes(b"\1" * 2 * PIECE_BYTES)
        os.utime(file, ns=(0, 1))
    elif change == "replaced":
        other = site / "other"
        other.write_bytes(b"\1" * 2 * PIECE_BYTES)
        other.rename(file)
    elif change == "shorter":
        file.write_bytes(bytes(PIECE_BYTES))
    else:
        file.unlink()
    with pytest.raises(BodyLost, match=re.escape(str(file))):
        await body.read(PIECE_BYTES)


# ---- beside the runtime's own files


async def receive(site: Path | None, request: Request, **options: Any) -> Response | Granted:
    service = Service(ServerSettings(web=site, **options), name="Painter", executor=InlineExecutor())
    return await service.reception.receive(request, deadline=10.0)


async def answer(
    site: Path | None, path: str, method: str = "GET", *, prefix: str = "", **options: Any
) -> Response:
    found = await receive(site, request(path, method, prefix=prefix), **options)
    assert isinstance(found, Response)
    return found


async def test_the_page_takes_the_place_of_the_playground_which_has_one_of_its_own(site: Path) -> None:
    playground = web_files()["/playground"].body
    assert await body_of(await answer(site, "/")) == INDEX
    assert (await answer(site, "/playground")).body == playground
    assert (await answer(None, "/")).body == (await answer(None, "/playground")).body == playground


@pytest.mark.parametrize("path", [*OURS, "/schema", "/health", "/metrics", "/ws"])
async def test_the_names_of_the_runtime_stay_its_own(site: Path, path: str) -> None:
    file = site / path.strip("/")
    if not file.is_dir():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(SECRET)
    found = await answer(site, path)
    assert found.long_body is None
    assert found.body == (await answer(None, path)).body


async def test_without_an_index_there_is_nothing_at_the_root(site: Path) -> None:
    (site / "index.html").unlink()
    assert (await answer(site, "/")).status == 404
    assert (await answer(site, "/app.js")).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_nothing_can_be_done_to_a_file_but_read_it(site: Path, method: str) -> None:
    for path in ("/", "/app.js"):
        response = await answer(site, path, method)
        assert (response.status, dict(response.headers)["Allow"]) == (405, "GET, HEAD")


async def test_the_page_stands_below_the_prefix(site: Path) -> None:
    for path in ("/app1/app.js", "/app.js"):
        assert (await answer(site, path, prefix="/app1")).status == 200
    moved = await answer(site, "/app1", prefix="/app1")
    assert (moved.status, dict(moved.headers)["Location"]) == (307, "app1/")
    assert await body_of(await answer(site, "/app1/", prefix="/app1")) == INDEX


async def test_the_page_needs_no_token_but_the_name_of_the_server(site: Path) -> None:
    assert not is_guarded(request("/"))
    assert (await answer(site, "/", token="secret")).status == 200
    rebound = Request("GET", "/app.js", (("host", "evil.example"),))
    found = await receive(site, rebound)
    assert isinstance(found, Response)
    assert found.status == 421


def test_a_folder_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", Path(__file__)):
        with pytest.raises(ValueError, match=re.escape(f"there is no folder {path} (--web)")):
            ServerSettings(web=path)
    assert ServerSettings(web=str(tmp_path)).web == tmp_path  # type: ignore[arg-type]


# ---- over sockets


class Quiet(ReactorModel):
    """Does nothing."""


@asynccontextmanager
async def running(site: Path) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        server = Server(ServerSettings(port=0, web=site), name="quiet")
        await nursery.start(server.run, lambda: ModelHost.load(Quiet))
        yield server
        nursery.cancel_scope.cancel(reason="the test is over")


@asynccontextmanager
async def asking(server: Server, path: str) -> AsyncIterator[trio.SocketStream]:
    async with await trio.open_tcp_stream("127.0.0.1", server.addresses[0][1]) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield stream


async def read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


@pytest.mark.real_time
@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 5 * PIECE_BYTES + 1])
async def test_a_file_arrives_whole(site: Path, size: int) -> None:
    content = os.urandom(size)
    (site / "film.webm").write_bytes(content)
    with trio.fail_after(TEST_TIMEOUT):
        async with running(site) as server, asking(server, "/film.webm") as stream:
            head, _, body = (await read_all(stream)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"Content-Length: {size}\r\n".encode() in head
    assert body == content


def open_files() -> list[str]:
    """Paths of the files that this process has open; empty where there is no `/proc`."""
    paths = []
    for descriptor in Path("/proc/self/fd").glob("*"):
        with suppress(FileNotFoundError):  # the folder's own descriptor, closed again
            paths.append(str(descriptor.readlink()))
    return paths


@pytest.mark.real_time
async def test_who_reads_slowly_holds_one_piece_in_memory_and_no_file(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 512 * PIECE_BYTES  # more than the kernel's buffers take
    with (site / "film.webm").open("wb") as file:
        file.truncate(size)
    pieces = 0
    read = web_folder._read

    def counted(*args: Any) -> bytes:
        nonlocal pieces
        pieces += 1
        return read(*args)

    monkeypatch.setattr(web_folder, "_read", counted)
    with trio.fail_after(TEST_TIMEOUT):
        async with running(site) as server, asking(server, "/film.webm") as stream:
            seen = -1
            while pieces != seen or not pieces:  # until the server reads no further piece
                seen = pieces
                await trio.sleep(0.3)
            assert pieces < 400
            assert str(site / "film.webm") not in open_files()
            received = await read_all(stream)
    assert len(received.partition(b"\r\n\r\n")[2]) == size
    assert pieces == 511


@pytest.mark.real_time
async def test_a_file_that_changes_is_cut_off_and_harms_nobody_else(site: Path) -> None:
    size = 512 * PIECE_BYTES
    file = site / "film.webm"
    with file.open("wb") as opened:
        opened.truncate(size)
    with trio.fail_after(TEST_TIMEOUT), structlog.testing.capture_logs() as entries:
        async with running(site) as server:
            async with asking(server, "/film.webm") as stream:
                await stream.receive_some(1000)
                file.write_bytes(b"new")
                received = 0
                with suppress(trio.BrokenResourceError):
                    async for data in stream:
                        received += len(data)
                assert received < size
            async with asking(server, "/film.webm") as stream:
                assert (await read_all(stream)).endswith(b"\r\n\r\nnew")
    reasons = [entry["reason"] for entry in entries if "cut off" in entry["event"]]
    assert reasons == [f"{file.resolve()} has changed"]


@pytest.mark.real_time
async def test_a_large_file_may_take_longer_than_a_page(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.0)
    (site / "film.webm").write_bytes(bytes(20 * PIECE_BYTES))
    with trio.fail_after(TEST_TIMEOUT):
        async with running(site) as server, asking(server, "/film.webm") as stream:
            assert len(await read_all(stream)) > 20 * PIECE_BYTES


# ---- the command, and the function


@pytest.mark.real_time
async def test_the_function_serves_the_page(site: Path) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(reactor_trio.serve, Quiet, port=0, web=str(site)))
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await read_all(stream)).endswith(INDEX)
        nursery.cancel_scope.cancel(reason="the test is over")


@pytest.mark.real_time
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_application_serves_the_page(site: Path, method: str) -> None:
    content = os.urandom(3 * PIECE_BYTES + 5)
    (site / "film.webm").write_bytes(content)
    app = reactor_trio.asgi(Quiet, web=site)
    for path, body in {"/": INDEX, "/empty.txt": b"", "/film.webm": content}.items():
        events: list[Any] = []

        async def send(event: Any, events: list[Any] = events) -> None:
            events.append(event)

        await app(scope_of(path, kind="http", method=method), trio.sleep_forever, send)
        start, *pieces = events
        headers = dict(start["headers"])
        assert (start["status"], headers[b"content-length"]) == (200, str(len(body)).encode())
        assert b"".join(piece["body"] for piece in pieces) == (body if method == "GET" else b"")
        assert max(len(piece["body"]) for piece in pieces) <= PIECE_BYTES
        assert [piece.get("more_body", False) for piece in pieces] == [True] * (len(pieces) - 1) + [False]


async def test_the_function_refuses_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"there is no folder {tmp_path / 'x'} (web)")):
        await reactor_trio.serve(Quiet, web=tmp_path / "x")


def test_the_command_refuses_what_is_no_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reactor_trio", "serve", "--web", "nothing"],
        cwd=tmp_path,
        env=environment(),
        timeout=PROCESS_TIMEOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "Error: there is no folder nothing (--web)\n")


def test_the_command_serves_the_page(tmp_path: Path, site: Path) -> None:
    (tmp_path / "quiet.py").write_text(
        "from reactor_trio import ReactorModel\n\n\nclass Quiet(ReactorModel):\n    pass\n"
    )
    with serve(tmp_path / "quiet.py", tmp_path, "--web", "site") as served:
        url = served.url.replace("ws:", "http:")
        for path, part in {"/": INDEX, "/reactor.js": b"export", "/playground": b"playground.js"}.items():
            with urllib.request.urlopen(url + path, timeout=TEST_TIMEOUT) as answered:
                assert part in answered.read()
        for path in ("/../secret.txt", "/.env", "/model.py"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(url + path, timeout=TEST_TIMEOUT)
