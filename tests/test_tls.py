"""TLS on the server's port, with certificates of an authority made for the test."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives import serialization

from reactor_trio import ModelMessage, Output, ReactorModel, UploadedFile, Video, event
from reactor_trio.client import HandshakeFailed, open_client
from reactor_trio.errors import TransportClosed
from reactor_trio.link.host import ModelHost
from reactor_trio.server.serve import Server
from reactor_trio.server.settings import ServerSettings
from reactor_trio.session.limits import Limits
from reactor_trio.testing.executor import InlineExecutor
from reactor_trio.wire.streams import PatientStream
from reactor_trio.wire.tls import TLSStream, load_context
from serving import environment

DEADLINE = 60.0
"""Real seconds. A test takes some milliseconds, except a test that starts a process."""
SIDE = 1200
"""Pixels; noise of this size makes a JPEG of more than a megabyte: many TLS records."""


class Size(ModelMessage):
    size: int


class Picture(Output):
    screen: Video


class Painter(ReactorModel):
    @event
    def measure(self, file: UploadedFile) -> Size:
        return Size(size=len(file.data))

    @event
    async def paint(self) -> None:
        noise = np.random.default_rng(1).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        await self.emit(Picture(screen=noise))

    @event
    async def flood(self) -> None:
        while True:
            await self.send(Size(size=1))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("127.0.0.1", "localhost")


@pytest.fixture(scope="module")
def server_context(certificate: trustme.LeafCert, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return load_context(*files(certificate, tmp_path_factory.mktemp("tls")))


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the test's authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def logged() -> Any:
    with structlog.testing.capture_logs() as entries:
        yield entries


def files(certificate: trustme.LeafCert, folder: Path) -> tuple[Path, Path]:
    certfile, keyfile = folder / "cert.pem", folder / "key.pem"
    certfile.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    keyfile.write_bytes(certificate.private_key_pem.bytes())
    return certfile, keyfile


@asynccontextmanager
async def serving(
    context: ssl.SSLContext, limits: Limits | None = None, **settings: Any
) -> AsyncIterator[Server]:
    async def load() -> ModelHost:
        # `InlineExecutor`, since threads do not work under the mock clock.
        return await ModelHost.load(Painter, limits=limits, executor=InlineExecutor())

    async with trio.open_nursery() as nursery:
        server = Server(ServerSettings(port=0, ssl_context=context, **settings), name="painter")
        await nursery.start(server.run, load)
        yield server
        nursery.cancel_scope.cancel(reason="the test is over")


def url_of(server: Server) -> str:
    return f"wss://{server.authority}"


async def raw(server: Server) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", server.addresses[0][1])


async def secure(server: Server, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    stream = trio.SSLStream(await raw(server), context, server_hostname="127.0.0.1", https_compatible=True)
    await stream.do_handshake()
    return stream


# ---- sessions and HTTP


@pytest.mark.real_time
async def test_commands_uploads_and_a_large_frame(
    server_context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    with trio.fail_after(DEADLINE):
        async with serving(server_context) as server:
            async with open_client(url_of(server), ssl_context=trusting) as client:
                handle = await client.upload(b"x" * 3_000_000, name="large.bin")
                reply = await client.call("measure", file=handle)
                assert reply is not None
                assert reply.data == {"size": 3_000_000}
                await client.call("paint")
                frame = await client.frame()
                assert len(frame.data) > 1_000_000
                assert frame.array().shape == (SIDE, SIDE, 3)


@pytest.mark.real_time
async def test_http_is_answered_over_tls_and_ends_at_once(
    server_context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    with trio.fail_after(DEADLINE):
        async with serving(server_context) as server:
            for path, expected in (("/health", b'"status":"ready"'), ("/", b"</html>")):
                stream = await secure(server, trusting)
                await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {server.authority}\r\n\r\n".encode())
                began = trio.current_time()
                answer = b"".join([bytes(data) async for data in stream])
                assert trio.current_time() - began < 1  # without waiting for the peer to hang up
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert expected in answer
                await trio.aclose_forcefully(stream)


@pytest.mark.real_time
async def test_a_client_that_does_not_trust_the_certificate_is_told(server_context: ssl.SSLContext) -> None:
    with trio.fail_after(DEADLINE):
        async with serving(server_context) as server:
            with pytest.raises(HandshakeFailed, match="no TLS"):
                async with open_client(url_of(server)):
                    pass


@pytest.mark.real_time
async def test_a_drain_says_goodbye_over_tls(
    server_context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    with trio.fail_after(DEADLINE):
        async with serving(server_context) as server:
            async with open_client(url_of(server), ssl_context=trusting) as client:
                server.drain()
                with pytest.raises(TransportClosed, match="1001 shutting_down"):
                    await client.receive()
                assert client.goodbye == "shutting_down"


@pytest.mark.real_time
async def test_clients_wait_in_line_over_tls(
    server_context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    told: list[int] = []
    with trio.fail_after(DEADLINE):
        async with serving(server_context, max_sessions=1) as server:
            async with open_client(url_of(server), ssl_context=trusting) as first:

                async def wait() -> None:
                    async with open_client(
                        url_of(server), ssl_context=trusting, on_queued=told.append
                    ) as second:
                        await second.call("paint")

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    while not told:
                        await trio.lowlevel.checkpoint()
                    await first.aclose()
    assert told == [1]


# ---- clients that break the rules harm nobody


@pytest.mark.real_time
async def test_plain_http_and_noise_harm_nobody(
    server_context: ssl.SSLContext, trusting: ssl.SSLContext, logged: list[Any]
) -> None:
    with trio.fail_after(DEADLINE):
        async with serving(server_context) as server:
            async with open_client(url_of(server), ssl_context=trusting) as client:
                for noise in (
                    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
                    b"\x00" * 100_000,
                    b"",
                ):
                    async with await raw(server) as stream:
                        with suppress(trio.BrokenResourceError):  # cut off before all was sent
                            await stream.send_all(noise)
                            await stream.send_eof()
                        await read_to_the_end(stream)
                await client.ping()
    assert [entry for entry in logged if entry["log_level"] in ("error", "warning")] == []


async def read_to_the_end(stream: trio.abc.ReceiveStream) -> bytes:
    read = b""
    try:
        async for data in stream:
            read += data
    except trio.BrokenResourceError:
        pass
    return read


@pytest.mark.real_time
async def test_clients_that_vanish_harm_nothing(
    server_context: ssl.SSLContext, trusting: ssl.SSLContext, logged: list[Any]
) -> None:
    reset = trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
    with trio.fail_after(DEADLINE):
        async with serving(server_context) as server:
            for how in ("tcp", "tls", "upgraded"):
                for is_reset in (False, True):
                    stream: trio.abc.Stream = await raw(server)
                    socket = stream
                    if how != "tcp":
                        stream = trio.SSLStream(stream, trusting, server_hostname="127.0.0.1")  # type: ignore[arg-type]
                        await stream.do_handshake()
                    if how == "upgraded":
                        await stream.send_all(
                            b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                            b"Sec-WebSocket-Version: 13\r\n"
                            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                        )
                        await stream.receive_some()
                    if is_reset:
                        socket.setsockopt(*reset)  # type: ignore[attr-defined]
                    await socket.aclose()
            async with open_client(url_of(server), ssl_context=trusting) as client:
                await client.ping()
            while server.state.sessions:
                await trio.lowlevel.checkpoint()
    assert [entry for entry in logged if entry["log_level"] == "error"] == []


async def test_a_handshake_that_hangs_is_cut_off(server_context: ssl.SSLContext) -> None:
    with trio.fail_after(DEADLINE):
        async with serving(server_context, handshake_timeout=10) as server:
            async with await raw(server) as silent, await raw(server) as halting:
                began = trio.current_time()
                await halting.send_all(b"\x16\x03\x01\x02\x00")
                await read_to_the_end(halting)
                await read_to_the_end(silent)
                assert trio.current_time() - began == pytest.approx(10)


async def test_the_deadline_covers_tls_and_the_head_together(
    server_context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    with trio.fail_after(DEADLINE):
        async with serving(server_context, handshake_timeout=10) as server:
            began = trio.current_time()
            plain = await raw(server)
            await trio.sleep(8)
            stream = trio.SSLStream(plain, trusting, server_hostname="127.0.0.1", https_compatible=True)
            await stream.do_handshake()
            assert (await read_to_the_end(stream)).startswith(b"HTTP/1.1 408 ")
            assert trio.current_time() - began == pytest.approx(10)
            await trio.aclose_forcefully(stream)


# ---- writes that are cut short


@pytest.mark.real_time
async def test_a_client_that_stops_reading_is_cut_off(
    server_context: ssl.SSLContext, trusting: ssl.SSLContext, logged: list[Any]
) -> None:
    """A cancelled send may leave part of a TLS record, which no write can end: the server closes by force."""
    with trio.fail_after(DEADLINE):
        async with serving(server_context, Limits(send_timeout=0.2)) as server:
            stream = await secure(server, trusting)
            await stream.send_all(
                b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await stream.receive_some()
            text = b'{"type": "flood"}'
            await stream.send_all(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
            async with open_client(url_of(server), ssl_context=trusting) as other:
                while server.state.sessions > 1:
                    await other.ping()
            await trio.aclose_forcefully(stream)
    ended = [entry["reason"] for entry in logged if entry["event"] == "session ended"]
    assert "slow_client" in ended


@pytest.mark.real_time
async def test_a_cancelled_write_tears_the_stream(
    server_context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    ours, theirs = trio.socket.socketpair()
    with trio.fail_after(DEADLINE):
        server = TLSStream(trio.SocketStream(ours), server_context)
        client = trio.SSLStream(trio.SocketStream(theirs), trusting, server_hostname="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            nursery.start_soon(client.do_handshake)
        patient = PatientStream(server, send_timeout=DEADLINE)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(patient.send_all, bytes(100_000_000))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        for attempt in (patient.send_all(b"more"), server.send_all(b"more"), server.receive_some()):
            with pytest.raises(trio.BrokenResourceError):
                await attempt
        assert patient.send_nowait([b"more"]) is False
        await trio.aclose_forcefully(patient)
        await trio.aclose_forcefully(client)


@pytest.mark.real_time
async def test_nothing_is_written_past_tls(server_context: ssl.SSLContext) -> None:
    """`send_nowait` writes to a socket's descriptor, so under TLS it would write plain text."""
    ours, theirs = trio.socket.socketpair()
    stream = PatientStream(TLSStream(trio.SocketStream(ours), server_context), send_timeout=DEADLINE)
    assert stream.send_nowait([b"secret"]) is False
    with pytest.raises(BlockingIOError):
        theirs._sock.recv(100)  # type: ignore[attr-defined]
    await trio.aclose_forcefully(stream)
    theirs.close()


# ---- the operator's files


def test_a_context_refuses_old_versions(server_context: ssl.SSLContext) -> None:
    assert server_context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_the_key_may_stand_in_the_certificates_file(certificate: trustme.LeafCert, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
    load_context(both)


@pytest.mark.parametrize(
    ("certfile", "keyfile", "said"),
    [
        ("missing.pem", "key.pem", r"cannot read .*missing\.pem: No such file"),
        ("cert.pem", "missing.pem", r"cannot read .*missing\.pem: No such file"),
        (".", "key.pem", "cannot read .*: Is a directory"),
        ("key.pem", "key.pem", r"key\.pem holds no certificate"),
        ("cert.pem", "cert.pem", r"cert\.pem holds no private key in PEM$"),
        ("cert.pem", None, r"cert\.pem holds no private key in PEM \(--keyfile\)"),
        ("noise.pem", "noise.pem", r"noise\.pem holds no certificate"),
        ("broken.pem", "key.pem", r"broken\.pem and .*key\.pem are no certificate and key"),
        ("cert.pem", "other_key.pem", r"other_key\.pem does not belong to .*cert\.pem"),
        ("cert.pem", "locked_key.pem", r"locked_key\.pem: the key has a password"),
    ],
)
def test_wrong_files_are_told_in_a_few_words(
    certfile: str,
    keyfile: str | None,
    said: str,
    authority: trustme.CA,
    certificate: trustme.LeafCert,
    tmp_path: Path,
) -> None:
    write_wrong_files(tmp_path, authority, certificate)
    with pytest.raises(ValueError, match=said) as caught:
        load_context(tmp_path / certfile, tmp_path / keyfile if keyfile else None)
    assert "\n" not in str(caught.value)


def write_wrong_files(folder: Path, authority: trustme.CA, certificate: trustme.LeafCert) -> None:
    _, keyfile = files(certificate, folder)
    (folder / "noise.pem").write_bytes(b"\x00\xff noise")
    (folder / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (folder / "other_key.pem").write_bytes(authority.issue_cert("other").private_key_pem.bytes())
    key = serialization.load_pem_private_key(keyfile.read_bytes(), password=None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )
    (folder / "locked_key.pem").write_bytes(locked)


# ---- the process

MODEL = """
from reactor_trio import ModelMessage, ReactorModel, event

class Word(ModelMessage):
    word: str

class Greeter(ReactorModel):
    @event
    def greet(self) -> Word:
        return Word(word="hello")
"""


def command(*options: str | Path) -> list[str]:
    return [sys.executable, "-m", "reactor_trio", "serve", "model.py", "--port", "0", *map(str, options)]


@pytest.mark.real_time
async def test_the_process_speaks_tls_and_drains_on_sigterm(
    certificate: trustme.LeafCert, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    certfile, keyfile = files(certificate, tmp_path)
    with trio.fail_after(DEADLINE):
        process = await trio.lowlevel.open_process(
            command("--certfile", certfile, "--keyfile", keyfile),
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        try:
            line = (await process.stdout.receive_some()).decode()
            https, wss = (word.strip("()\n") for word in line.split() if "://" in word)
            assert https.startswith("https://127.0.0.1:")
            assert wss.startswith("wss://127.0.0.1:")
            async with open_client(wss, ssl_context=trusting) as client:
                reply = await client.call("greet")
                assert reply is not None
                process.send_signal(signal.SIGTERM)
                with pytest.raises(TransportClosed, match="1001"):
                    await client.receive()
                assert client.goodbye == "shutting_down"
            assert await process.wait() == 0
        finally:
            process.kill()
            await process.stdout.aclose()


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--certfile", "missing.pem"], "Error: cannot read missing.pem: No such file or directory\n"),
        (["--keyfile", "key.pem"], "Error: --keyfile needs --certfile\n"),
    ],
)
async def test_wrong_files_are_exit_status_2(options: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    with trio.fail_after(DEADLINE):
        done = await trio.run_process(
            command(*options), cwd=tmp_path, check=False, capture_stdout=True, capture_stderr=True
        )
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", said)
