"""Hostile requests over loopback sockets: the server gives each one answer, however the bytes are cut.

`CASES` is the table: a name, the bytes, and the status of the answer, or `CLOSED` for no answer. Status 101
means that a session began; the test then uses the session. Each case is sent whole, byte by byte, and cut at
random. After each of these requests the server must answer the next client, have no session left, and have
logged no error. Where the server accepts a request that a stricter server would refuse, the reason stands
beside the case. No request can be smuggled past the server, as every answer closes its connection.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import orjson
import pytest
import structlog
import trio

from reactor_trio import ModelMessage, ReactorModel, event
from reactor_trio.link.host import ModelHost
from reactor_trio.server.http import MAX_HEAD_BYTES
from reactor_trio.server.serve import Server
from reactor_trio.server.settings import ServerSettings

TEST_TIMEOUT = 300.0
"""Virtual seconds that a test may take."""
HANDSHAKE_TIMEOUT = 10.0
SPLITS = 6
"""Random cuts of each case."""
BYTEWISE_LIMIT = 2000
"""Longer cases are not sent byte by byte."""
CLOSED = None

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GET = b"GET /health HTTP/1.1\r\n"
HOST = b"Host: 127.0.0.1\r\n"
END = b"\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
SOCKET = UPGRADE + VERSION + b"Sec-WebSocket-Key: " + KEY + b"\r\n"
WS = b"GET /ws HTTP/1.1\r\n" + HOST
NEXT = GET + HOST + END
NO_KEY = UPGRADE + VERSION
FIVE = b"Content-Length: 5\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
PROTOCOL = b"Sec-WebSocket-Protocol: "
EXTENSION = b"Sec-WebSocket-Extensions: "
CLIENT_HELLO = (
    bytes.fromhex("16030100c8010000c40303") + bytes(range(1, 33)) + bytes.fromhex("20") + bytes(150)
)

CASES: list[tuple[str, bytes, int | None]] = [
    # Good requests: a server that refuses every request must not pass.
    ("a request", GET + HOST + END, 200),
    ("an upgrade", WS + SOCKET + END, 101),
    # The request line. RFC 9112, section 3.
    ("nothing at all", b"", CLOSED),
    ("a blank line first", b"\r\n" + NEXT, 400),
    ("half a method", b"GE", CLOSED),
    ("HTTP/0.9", b"GET /health\r\n\r\n", 400),
    ("HTTP/1.0", b"GET /health HTTP/1.0\r\n\r\n", 200),
    ("HTTP/1.2, which is a kind of 1.1", b"GET /health HTTP/1.2\r\n" + HOST + END, 200),
    ("HTTP/2.0", b"GET /health HTTP/2.0\r\n" + HOST + END, 505),
    ("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("HTTP/11", b"GET /health HTTP/11\r\n" + HOST + END, 400),
    ("http in lower case", b"GET /health http/1.1\r\n" + HOST + END, 400),
    ("no version number", b"GET /health HTTP/\r\n" + HOST + END, 400),
    ("two spaces", b"GET  /health HTTP/1.1\r\n" + HOST + END, 400),
    ("a tab for a space", b"GET\t/health HTTP/1.1\r\n" + HOST + END, 400),
    ("a space behind", b"GET /health HTTP/1.1 \r\n" + HOST + END, 400),
    ("a space before", b" GET /health HTTP/1.1\r\n" + HOST + END, 400),
    ("a space in the target", b"GET /health x HTTP/1.1\r\n" + HOST + END, 400),
    ("a NUL in the target", b"GET /health\0 HTTP/1.1\r\n" + HOST + END, 400),
    ("UTF-8 in the target", "GET /hé HTTP/1.1\r\n".encode() + HOST + END, 400),
    ("an empty target", b"GET  HTTP/1.1\r\n" + HOST + END, 400),
    ("a method with a parenthesis", b"G(T /health HTTP/1.1\r\n" + HOST + END, 400),
    ("a lower-case method, which is another one", b"get /health HTTP/1.1\r\n" + HOST + END, 405),
    ("a target of 20 KB", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + END, 431),
    ("absolute form", b"GET http://127.0.0.1/health HTTP/1.1\r\n" + HOST + END, 200),
    ("absolute form of another host", b"GET http://evil.example/health HTTP/1.1\r\n" + HOST + END, 421),
    ("authority form", b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n" + HOST + END, 404),
    ("asterisk form", b"OPTIONS * HTTP/1.1\r\n" + HOST + END, 404),
    ("climbing out of the root", b"GET /../../etc/passwd HTTP/1.1\r\n" + HOST + END, 404),
    ("a path that is encoded", b"GET /%68ealth HTTP/1.1\r\n" + HOST + END, 404),
    ("TRACE", b"TRACE /health HTTP/1.1\r\n" + HOST + END, 405),
    # Lines and headers. RFC 9112, sections 2.2 and 5.
    ("bare LF, which a recipient may take", b"GET /health HTTP/1.1\nHost: x\n\n", 200),
    ("bare CR", b"GET /health HTTP/1.1\rHost: x\r\r", CLOSED),
    ("a CR in a value", GET + HOST + b"A: b\rc\r\n\r\n", 400),
    ("an LF in a value, which is another header", GET + HOST + b"A: b\nX-Other: c\r\n\r\n", 200),
    ("a folded line, which becomes a space", GET + HOST + b"A: b\r\n c\r\n\r\n", 200),
    ("a folded first line", GET + b" " + HOST + END, 400),
    ("a folded Transfer-Encoding", GET + HOST + b"Transfer-Encoding:\r\n xchunked\r\n\r\n", 400),
    ("a NUL in a value", GET + HOST + b"A: b\0c\r\n\r\n", 400),
    ("a NUL in a name", GET + HOST + b"A\0: b\r\n\r\n", 400),
    ("a space before the colon", GET + HOST + b"Content-Length : 5\r\n\r\nhello", 400),
    ("a space in a name", GET + HOST + b"X Y: b\r\n\r\n", 400),
    ("no name", GET + HOST + b": b\r\n\r\n", 400),
    ("no colon", GET + HOST + b"nothing\r\n\r\n", 400),
    ("UTF-8 in a name", GET + HOST + "é: b\r\n\r\n".encode(), 400),
    ("a byte over 127 in a value, which is opaque", GET + HOST + b"A: \xff\xfe\r\n\r\n", 200),
    ("an empty value", GET + HOST + b"A:\r\n\r\n", 200),
    ("an unfinished head", GET + HOST, CLOSED),
    ("a header of 100 KB", GET + HOST + b"A: " + b"b" * 100_000 + b"\r\n\r\n", 431),
    ("a header that never ends", GET + HOST + b"A: " + b"b" * (MAX_HEAD_BYTES + 1), 431),
    ("5000 headers", GET + HOST + b"A: b\r\n" * 5000 + END, 431),
    ("2000 headers within the limit", GET + HOST + b"A:b\r\n" * 2000 + END, 200),
    # Host. RFC 9112, section 3.2.
    ("no Host", GET + END, 400),
    ("two Hosts", GET + HOST + b"Host: evil.example\r\n\r\n", 400),
    ("the same Host twice", GET + HOST + HOST + END, 400),
    ("an empty Host", GET + b"Host:\r\n\r\n", 200),
    # Bodies, and attempts to smuggle a request. RFC 9112, section 6. The connection ends with the answer,
    # so the server never reads the bytes behind a request as another request.
    ("two lengths", GET + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
    ("a list of lengths", GET + HOST + b"Content-Length: 5, 6\r\n\r\nhello!", 400),
    ("the same length twice", GET + HOST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 200),
    ("a negative length", GET + HOST + b"Content-Length: -1\r\n\r\n", 400),
    ("a length with a sign", GET + HOST + b"Content-Length: +5\r\n\r\nhello", 400),
    ("a length in hexadecimal", GET + HOST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    ("a length of a gazillion", GET + HOST + b"Content-Length: " + b"9" * 100 + b"\r\n\r\n", 400),
    ("a length and chunks", GET + HOST + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 200),
    ("chunks that are not last", GET + HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n", 400),
    ("chunks of an unknown kind", GET + HOST + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
    ("chunks twice", GET + HOST + CHUNKED * 2 + END, 400),
    ("broken chunks, which nobody reads", GET + HOST + CHUNKED + b"\r\nzz\r\n", 200),
    ("a request in a body", GET + HOST + b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT, 200),
    ("pipelined requests: one answer", NEXT * 3, 200),
    ("a request behind one that fails", b"GET / HTTP/9\r\n\r\n" + NEXT, 400),
    ("100-continue: the answer at once", GET + HOST + b"Expect: 100-continue\r\n" + FIVE, 200),
    ("a body of 200 KB to a 405", b"POST /health HTTP/1.1\r\n" + HOST + b"Content-Length: 200000\r\n\r\n"
     + bytes(200_000), 405),
    # Other protocols.
    ("a TLS ClientHello", CLIENT_HELLO, 400),
    ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", CLOSED),
    ("zeros", bytes(5000), 400),
    ("a WebSocket frame without a handshake", b"\x81\x85\x01\x02\x03\x04" + b"hello", CLOSED),
    ("a proxy's preamble", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + NEXT, 400),
    # The opening handshake. RFC 6455, section 4.2.1.
    ("no Connection", WS + SOCKET.replace(b"Connection: Upgrade\r\n", b"") + END, 426),
    ("no key", WS + NO_KEY + END, 400),
    ("a short key", WS + NO_KEY + b"Sec-WebSocket-Key: AAAA\r\n\r\n", 400),
    ("a long key", WS + NO_KEY + b"Sec-WebSocket-Key: " + KEY + KEY + b"\r\n\r\n", 400),
    ("a key that is no base64", WS + NO_KEY + b"Sec-WebSocket-Key: " + b"!" * 24 + b"\r\n\r\n", 400),
    ("two keys", WS + SOCKET + b"Sec-WebSocket-Key: " + KEY + b"\r\n\r\n", 400),
    ("two versions", WS + SOCKET + VERSION + END, 426),
    ("version 8", WS + SOCKET.replace(b"13", b"8") + END, 426),
    ("an upgrade of HTTP/1.0", b"GET /ws HTTP/1.0\r\n" + HOST + SOCKET + END, 426),
    ("an upgrade by POST", b"POST /ws HTTP/1.1\r\n" + HOST + SOCKET + END, 405),
    ("an upgrade by HEAD", b"HEAD /ws HTTP/1.1\r\n" + HOST + SOCKET + END, 426),
    ("an upgrade to h2c", WS + SOCKET.replace(b"websocket", b"h2c") + END, 426),
    ("an upgrade elsewhere, which is ignored", GET + HOST + SOCKET + END, 200),
    ("an upgrade with a body", WS + SOCKET + b"Content-Length: 5\r\n\r\nhello", 400),
    ("an upgrade with chunks", WS + SOCKET + CHUNKED + b"\r\n0\r\n\r\n", 400),
    ("an upgrade with two lengths", WS + SOCKET + b"Content-Length: 0\r\nContent-Length: 1\r\n\r\n", 400),
    ("a foreign subprotocol", WS + SOCKET + PROTOCOL + b"chat\r\n\r\n", 400),
    ("subprotocols on two lines", WS + SOCKET + PROTOCOL + b"a\r\n" + PROTOCOL + b"reactor.v1\r\n\r\n", 101),
    ("a subprotocol twice", WS + SOCKET + PROTOCOL + b"reactor.v1, reactor.v1\r\n\r\n", 101),
    ("an extension, which is declined", WS + SOCKET + EXTENSION + b"permessage-deflate\r\n\r\n", 101),
    ("a broken extension, which is declined", WS + SOCKET + EXTENSION + b";;=,\xff\r\n\r\n", 101),
    ("Upgrade as one of a list", WS + SOCKET.replace(b"websocket", b"h2c, WebSocket") + END, 101),
    ("a hostile origin", WS + SOCKET + b"Origin: http://evil.example\r\n\r\n", 403),
    ("two origins", WS + SOCKET + b"Origin: http://127.0.0.1\r\nOrigin: http://evil.example\r\n\r\n", 403),
    ("a name made to resolve to loopback",
     WS.replace(HOST, b"Host: evil.example\r\n") + SOCKET + b"Origin: http://evil.example\r\n\r\n", 403),
]  # fmt: skip

# RFC 9112, section 3.2: the answer to a Host that is no authority must be 400.
HOSTS: list[tuple[str, bytes, int | None]] = [
    ("a Host with a space", GET + b"Host: a b\r\n\r\n", 400),
    ("a Host that is a URL", GET + b"Host: http://127.0.0.1/\r\n\r\n", 400),
    ("a Host with a user", GET + b"Host: me@127.0.0.1\r\n\r\n", 400),
    ("a Host with two ports", GET + b"Host: 127.0.0.1:80:81\r\n\r\n", 400),
    ("a Host list", GET + b"Host: 127.0.0.1, evil.example\r\n\r\n", 400),
]


class Said(ModelMessage):
    text: str


class Echo(ReactorModel):
    async def load(self, config: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()

    @event
    def say(self, text: str) -> Said:
        return Said(text=text)


@pytest.fixture
def errors() -> Iterator[list[Any]]:
    """Fails the test if an error was logged; the list is filled after the test."""
    with structlog.testing.capture_logs() as entries:
        found: list[Any] = []
        yield found
        found += [entry for entry in entries if entry["log_level"] in ("error", "critical")]
        assert found == []


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        server = Server(ServerSettings(port=0, handshake_timeout=HANDSHAKE_TIMEOUT, **settings), name="Echo")
        await nursery.start(server.run, partial(ModelHost.load, Echo))
        yield server
        nursery.cancel_scope.cancel(reason="the test is over")


@attrs.frozen
class Answer:
    """The answer to a request: its status (None: no answer), and all bytes that came back."""

    status: int | None
    data: bytes


async def ask(server: Server, pieces: Sequence[bytes], *, pause: float = 0.01) -> Answer:
    """Send the pieces so that each is read by itself; read the answer to its end, or use the new session."""
    async with await trio.open_tcp_stream("127.0.0.1", server.addresses[0][1]) as stream:
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        data = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write, stream, pieces, pause)
            with suppress(trio.BrokenResourceError):
                while not data.startswith(b"HTTP/1.1 101 ") or b"\r\n\r\n" not in data:
                    if not (more := await stream.receive_some(65536)):
                        break
                    data += more
            nursery.cancel_scope.cancel(reason="the server has answered")
        if not data:
            return Answer(None, b"")
        head = bytes(data).partition(b"\r\n\r\n")[0]
        assert data.count(b"HTTP/1.1 ") == 1, "one answer a connection"
        status = int(head.split()[1])
        if status == 101:
            await _use(stream, bytes(data).partition(b"\r\n\r\n")[2])
        else:
            assert b"\r\nConnection: close" in head
        return Answer(status, bytes(data))


async def _write(stream: trio.SocketStream, pieces: Sequence[bytes], pause: float) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for piece in pieces:
            await stream.send_all(piece)
            await trio.sleep(pause)
        await stream.send_eof()


async def _use(stream: trio.SocketStream, rest: bytes) -> None:
    """Read until the welcome, a sign of the session. `_write` has closed its side, or is cancelled."""
    while b"reactor.welcome" not in rest:
        more = await stream.receive_some(65536)
        assert more, "the session ended before its welcome"
        rest += more


async def assert_serves_on(server: Server) -> None:
    """The requests before have left no session behind, and the next client is served."""
    while True:
        answer = await ask(server, [NEXT])
        assert answer.status == 200
        state = orjson.loads(answer.data.partition(b"\r\n\r\n")[2])
        if state["sessions"] == 0:
            return
        await trio.sleep(0.1)


def cuts(name: str, data: bytes) -> Iterator[list[bytes]]:
    """The bytes whole, byte by byte, and cut at random; the random cuts of a name are the same each time."""
    yield [data]
    if len(data) <= BYTEWISE_LIMIT:
        yield [data[at : at + 1] for at in range(len(data))]
    rng = random.Random(name)
    for _ in range(SPLITS if len(data) > 1 else 0):
        at = sorted(rng.randrange(1, len(data)) for _ in range(rng.randint(1, 4)))
        yield [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


TABLE = [pytest.param(*case, id=case[0]) for case in CASES + HOSTS]


@pytest.mark.parametrize(("name", "data", "expected"), TABLE)
async def test_a_hostile_request_gets_its_answer_however_it_is_cut(
    name: str, data: bytes, expected: int | None, errors: list[Any]
) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running() as server:
            for pieces in cuts(name, data):
                answer = await ask(server, pieces)
                assert answer.status == expected, (name, [len(piece) for piece in pieces], answer.data[:300])
                await assert_serves_on(server)


def test_the_table_is_long_and_its_names_differ() -> None:
    assert len(CASES) == len({name for name, _, _ in CASES}) >= 100


# ---- time limits


@pytest.mark.parametrize("data", [NEXT[:-1], WS + SOCKET, b"G"])
async def test_a_head_that_does_not_end_is_408(data: bytes, errors: list[Any]) -> None:
    """The client sends no more bytes, and does not close the connection."""
    with trio.fail_after(TEST_TIMEOUT):
        async with (
            running() as server,
            await trio.open_tcp_stream("127.0.0.1", server.addresses[0][1]) as stream,
        ):
            started = trio.current_time()
            await stream.send_all(data)
            answer = b"".join([bytes(more) async for more in stream])
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert trio.current_time() - started == pytest.approx(HANDSHAKE_TIMEOUT)
            await assert_serves_on(server)


async def test_a_byte_every_second_is_408_although_it_is_never_silent(errors: list[Any]) -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with running() as server:
            answer = await ask(server, [NEXT[at : at + 1] for at in range(len(NEXT))], pause=1.0)
            assert answer.status == 408
            await assert_serves_on(server)


async def test_many_silent_clients_keep_nobody_out(errors: list[Any]) -> None:
    count = 200
    with trio.fail_after(TEST_TIMEOUT):
        async with running() as server:
            port = server.addresses[0][1]
            silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(count)]
            await assert_serves_on(server)
            await trio.sleep(HANDSHAKE_TIMEOUT + 5)
            for stream in silent:
                assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 408 ")
                await stream.aclose()


async def test_an_answer_that_nobody_reads_does_not_stay_for_ever(errors: list[Any]) -> None:
    """The client asks, reads nothing and does not close; the server closes after its linger time."""
    with trio.fail_after(TEST_TIMEOUT):
        async with (
            running() as server,
            await trio.open_tcp_stream("127.0.0.1", server.addresses[0][1]) as stream,
        ):
            await stream.send_all(NEXT)
            await trio.sleep(30)
            with pytest.raises(trio.BrokenResourceError):
                await _talk_on(stream)
            await assert_serves_on(server)


async def _talk_on(stream: trio.SocketStream) -> None:
    for _ in range(10):
        await stream.send_all(b"x" * 1000)
        await trio.sleep(0.1)
