"""Authentication of clients: the hook, the fixed token, signed tokens, and the operator's choice."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import jwt
import pytest
import structlog
import trio
import trio_websocket
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio import AuthRequest, Identity, ModelMessage, ReactorModel, event
from reactor_trio.cli.find_model import choose, find_hook
from reactor_trio.client import HandshakeFailed, open_client
from reactor_trio.errors import ModelNotFound
from reactor_trio.link.host import ModelHost
from reactor_trio.server.auth import TOKEN_SUBJECT, auth_request, fixed_token, offered_token
from reactor_trio.server.http import Request
from reactor_trio.server.serve import Server
from reactor_trio.server.settings import ServerSettings
from reactor_trio.server.signed_tokens import signed_tokens

pytestmark = pytest.mark.real_time

DEADLINE = 60.0
"""Real seconds; a test takes some milliseconds, or longer if it starts a process."""
TOKEN = "s3cret/+?token"
SECRET = b"0123456789abcdef0123456789abcdef"
ALICE = Identity("alice", {"role": "painter"})


def subprotocol(token: str) -> str:
    return "reactor.token." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def request(target: str = "/ws", **headers: str) -> Request:
    items = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Request("GET", target, (("host", "x"), *items))


def asked(token: str | None) -> AuthRequest:
    return AuthRequest(token, {}, "", "/ws")


# ---- the request that the hook gets


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer   {TOKEN} "},
        {"sec_websocket_protocol": f"reactor.v1, {subprotocol(TOKEN)}"},
        {"sec_websocket_protocol": f"{subprotocol(TOKEN)}=,reactor.v1"},
        {"authorization": f"Bearer {TOKEN}", "sec_websocket_protocol": subprotocol("another")},
    ],
)
def test_the_token_is_found(headers: dict[str, str]) -> None:
    assert offered_token(request(**headers)) == TOKEN


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"sec_websocket_protocol": "reactor.v1"},
        {"sec_websocket_protocol": "reactor.v1, reactor.token."},
        {"sec_websocket_protocol": f"reactor.v1, reactor.token.{TOKEN}"},
        {"sec_websocket_protocol": "reactor.v1, reactor.token.\xff%%%"},
        {"sec_websocket_protocol": "reactor.token.gICA"},  # bytes that are not UTF-8
    ],
)
def test_what_cannot_be_read_is_no_token(headers: dict[str, str]) -> None:
    assert offered_token(request(**headers)) is None


@given(st.text(min_size=1))
def test_every_token_comes_through_a_subprotocol(token: str) -> None:
    assert offered_token(request(sec_websocket_protocol=subprotocol(token))) == token


@given(st.text(st.characters(max_codepoint=255)))
def test_no_header_trips_the_search(value: str) -> None:
    offered_token(request(authorization=value, sec_websocket_protocol=f"reactor.token.{value}"))


def test_the_hook_sees_headers_address_path_and_query() -> None:
    found = auth_request(request("/ws?room=a%20b&x=1&x=2&empty=", accept="a"), "192.0.2.7:1")
    assert (found.path, found.address) == ("/ws", "192.0.2.7:1")
    assert found.headers == {"host": "x", "accept": "a"}
    assert found.query == {"room": "a b", "x": "2", "empty": ""}
    doubled = Request("GET", "/ws", (("cookie", "a=1"), ("cookie", "b=2")))
    assert auth_request(doubled, "").headers["cookie"] == "a=1, b=2"


def test_values_are_frozen_and_tell_no_token() -> None:
    found = auth_request(request(authorization=f"Bearer {TOKEN}"), "")
    assert TOKEN not in repr(found)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        found.path = "/"  # type: ignore[misc]
    with pytest.raises(TypeError):
        found.headers["a"] = "b"  # type: ignore[index]
    with pytest.raises(TypeError):
        ALICE.claims["role"] = "admin"  # type: ignore[index]
    assert hash(ALICE) == hash(Identity("alice", {"role": "painter"}))


# ---- the fixed token


def test_the_fixed_token() -> None:
    authenticate = fixed_token(TOKEN)
    assert authenticate(asked(TOKEN)) == Identity(TOKEN_SUBJECT)
    for wrong in (None, "", "wrong", TOKEN + "x", TOKEN[:-1], "\xff"):
        assert authenticate(asked(wrong)) is None


# ---- signed tokens


def signed(
    key: Any = SECRET, algorithm: str = "HS256", *, lasts: float | None = 3600.0, **claims: Any
) -> str:
    claims = {"sub": "alice", **claims}
    if lasts is not None:
        claims["exp"] = time.time() + lasts
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm)


def test_a_signed_token_says_who_it_is() -> None:
    identity = signed_tokens(SECRET)(asked(signed(role="painter")))
    assert isinstance(identity, Identity)
    assert (identity.subject, identity.claims["role"]) == ("alice", "painter")


def key_pair(algorithm: str) -> Any:
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def pem_of(public_key: Any) -> bytes:
    pem: bytes = public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_public_keys_verify(algorithm: Any) -> None:
    private, other = key_pair(algorithm), key_pair(algorithm)
    authenticate = signed_tokens(pem_of(private.public_key()), algorithm=algorithm)
    assert authenticate(asked(signed(private, algorithm))) is not None
    assert authenticate(asked(signed(other, algorithm))) is None


def test_a_public_key_is_not_taken_for_a_secret() -> None:
    """The classic attack: an HMAC token signed with the public key, which everyone knows (RFC 8725, 2.1)."""
    pem = pem_of(key_pair("RS256").public_key())
    hs256 = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    text = ".".join(map(b64, (b'{"alg": "HS256"}', b'{"sub": "eve", "exp": 1e11}')))
    forged = f"{text}.{b64(hs256.sign(text.encode(), pem))}"
    assert signed_tokens(pem, algorithm="RS256")(asked(forged)) is None
    with pytest.raises(ValueError, match="key in PEM: say which algorithm"):
        signed_tokens(pem)


@pytest.mark.parametrize(
    "token",
    [
        None,
        "",
        "a.b.c",
        "x" * 5000,
        signed(b"another secret of thirty-two bytes"),
        signed(algorithm="HS512", key=SECRET * 2),
        signed(lasts=-31),
        signed(lasts=None),
        signed(sub=None),
        signed(sub=7),
        signed(nbf=time.time() + 3600),
        signed(aud="someone"),
        jwt.encode({"sub": "alice", "exp": 1e11}, "", "none"),
        signed() + "x",
        ".".join(map(b64, (b'{"alg":"HS256"}', b"[]", b"x" * 32))),
    ],
    ids=range(15),
)
def test_other_tokens_are_refused(token: str | None) -> None:
    with structlog.testing.capture_logs() as logged:
        assert signed_tokens(SECRET)(asked(token)) is None
    assert not token or token not in str(logged)


def test_clocks_may_differ_by_the_leeway() -> None:
    assert signed_tokens(SECRET)(asked(signed(lasts=-20))) is not None
    assert signed_tokens(SECRET, leeway=0)(asked(signed(lasts=-1))) is None


@pytest.mark.parametrize(
    ("claims", "is_let_in"),
    [
        ({"aud": "reactor", "iss": "us"}, True),
        ({"aud": ["x", "reactor"], "iss": "us"}, True),
        ({"aud": "other", "iss": "us"}, False),
        ({"iss": "us"}, False),
        ({"aud": "reactor", "iss": "them"}, False),
        ({"aud": "reactor"}, False),
    ],
)
def test_audience_and_issuer(claims: dict[str, Any], is_let_in: bool) -> None:
    authenticate = signed_tokens(SECRET, audience="reactor", issuer="us")
    assert (authenticate(asked(signed(**claims))) is not None) is is_let_in


@pytest.mark.parametrize(
    ("key", "algorithm", "said"),
    [
        (SECRET, "none", "not none"),
        (SECRET, "HS1", "not HS1"),
        (b"short", "HS256", "wants a secret of 32 bytes, not 5"),
        (SECRET, "HS512", "wants a secret of 64 bytes, not 32"),
        (SECRET, "RS256", "no public key in PEM for RS256"),
        (pem_of(key_pair("EdDSA").public_key()), "RS256", "no public key in PEM for RS256"),
        (b"-----BEGIN PRIVATE KEY-----", "RS256", "the private one stays with the signer"),
    ],
)
def test_a_key_that_is_none_is_told_at_once(key: bytes, algorithm: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        signed_tokens(key, algorithm=algorithm)


# ---- the server


class Who(ModelMessage):
    subject: str | None
    role: str | None


class Painter(ReactorModel):
    @event
    def who(self) -> Who:
        identity = self.client.identity
        return (
            Who(subject=None, role=None)
            if identity is None
            else Who(subject=identity.subject, role=identity.claims.get("role"))
        )


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Server]:
    async def load() -> ModelHost:
        return await ModelHost.load(Painter)

    async with trio.open_nursery() as nursery:
        server = Server(ServerSettings(port=0, **settings), name="painter")
        await nursery.start(server.run, load)
        yield server
        nursery.cancel_scope.cancel(reason="the test is over")


async def whoami(server: Server, token: str | None = None) -> dict[str, Any]:
    async with open_client(f"ws://{server.authority}", token=token) as client:
        reply = await client.call("who")
        assert reply is not None
        return dict(reply.data)


async def status_of(server: Server, token: str | None = None, path: str = "/ws") -> int | None:
    with pytest.raises(HandshakeFailed) as refused:
        async with open_client(f"ws://{server.authority}{path}", token=token):
            pass
    return refused.value.status


@pytest.fixture
def logged() -> Any:
    with structlog.testing.capture_logs() as entries:
        yield entries


async def test_the_model_sees_who_it_is() -> None:
    def authenticate(request: AuthRequest) -> Identity | None:
        return ALICE if request.token == TOKEN else None

    async def slowly(request: AuthRequest) -> Identity | None:
        await trio.lowlevel.checkpoint()
        return authenticate(request)

    with trio.fail_after(DEADLINE):
        for hook in (authenticate, slowly):
            async with serving(authenticate=hook) as server:
                assert await whoami(server, TOKEN) == {"subject": "alice", "role": "painter"}
                assert await status_of(server, "wrong") == 401
                assert await status_of(server) == 401
        async with serving(token=TOKEN) as server:
            assert await whoami(server, TOKEN) == {"subject": "token", "role": None}
        async with serving() as server:
            assert await whoami(server) == {"subject": None, "role": None}
        async with serving(authenticate=signed_tokens(SECRET)) as server:
            assert await whoami(server, signed(role="x")) == {"subject": "alice", "role": "x"}
            assert await status_of(server, signed(lasts=-100)) == 401


async def test_a_browser_shows_its_token_in_a_subprotocol() -> None:
    with trio.fail_after(DEADLINE):
        async with serving(authenticate=signed_tokens(SECRET)) as server:
            port = server.addresses[0][1]
            async with trio_websocket.open_websocket(
                "127.0.0.1", port, "/ws", use_ssl=False, subprotocols=["reactor.v1", subprotocol(signed())]
            ) as ws:
                assert ws.subprotocol == "reactor.v1"
                assert '"reactor.welcome"' in await ws.get_message()


async def test_a_hook_that_fails_is_500_without_a_word_of_why(logged: list[Any]) -> None:
    def authenticate(request: AuthRequest) -> Identity | None:
        raise RuntimeError(f"the database is down, so {request.token} {request.headers}")

    async def group(request: AuthRequest) -> Identity | None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise SystemExit(f"no {request.token}")

    with trio.fail_after(DEADLINE):
        for hook in (authenticate, group):
            async with serving(authenticate=hook) as server:
                async with await trio.open_tcp_stream("127.0.0.1", server.addresses[0][1]) as stream:
                    await stream.send_all(
                        f"GET /schema HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
                    )
                    answer = b"".join([bytes(data) async for data in stream])
                assert answer.startswith(b"HTTP/1.1 500 ")
                assert b"database" not in answer
                assert TOKEN.encode() not in answer
                assert await status_of(server, TOKEN) == 500
    errors = [entry for entry in logged if entry["event"] == "authenticate() failed"]
    assert len(errors) == 4
    assert "the database is down" in errors[0]["exception"]
    assert TOKEN not in str(logged)


@pytest.mark.parametrize("answer", [True, "alice", {"sub": "alice"}])
async def test_only_an_identity_lets_a_client_in(answer: Any, logged: list[Any]) -> None:
    with trio.fail_after(DEADLINE):
        async with serving(authenticate=lambda request: answer) as server:
            assert await status_of(server) == 500
    assert any("returns an Identity or None" in str(entry.get("exception")) for entry in logged)


async def test_a_hook_that_hangs_is_bounded_by_the_handshake(logged: list[Any]) -> None:
    async def authenticate(request: AuthRequest) -> Identity | None:
        if request.token is None:
            await trio.sleep_forever()
        return ALICE

    with trio.fail_after(DEADLINE):
        async with serving(authenticate=authenticate, handshake_timeout=0.2) as server:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(status_of, server)
                assert (await whoami(server, TOKEN))["subject"] == "alice"
            assert await status_of(server) == 503
    assert [entry["event"] for entry in logged if entry["log_level"] == "error"] == [
        "authenticate() took too long"
    ] * 2


async def test_only_what_is_guarded_asks_the_hook() -> None:
    paths: list[str] = []

    def authenticate(request: AuthRequest) -> Identity | None:
        paths.append(request.path)
        return None

    with trio.fail_after(DEADLINE):
        async with serving(authenticate=authenticate) as server:
            statuses = [
                await status_of(server, path=path) for path in ("/health", "/nothing", "/schema", "/ws")
            ]
    assert statuses == [200, 404, 401, 401]
    assert paths == ["/schema", "/ws"]


async def test_no_token_is_ever_logged(logged: list[Any]) -> None:
    with trio.fail_after(DEADLINE):
        async with serving(token=TOKEN) as server:
            await whoami(server, TOKEN)
            await status_of(server, "wrong-" + TOKEN)
    assert TOKEN not in str(logged)
    assert logged


# ---- the operator's choice


def test_one_way_to_authenticate() -> None:
    with pytest.raises(ValueError, match="not both"):
        ServerSettings(token="x", authenticate=fixed_token("y"))
    ServerSettings(host="0.0.0.0", authenticate=fixed_token("y"))


def test_the_token_is_in_no_repr() -> None:
    assert TOKEN not in repr(ServerSettings(token=TOKEN))


HOOK = """
from reactor_trio import AuthRequest, Identity, ModelMessage, ReactorModel, event

print("imported")

class Who(ModelMessage):
    subject: str

class Painter(ReactorModel):
    @event
    def who(self) -> Who:
        return Who(subject=self.client.identity.subject)

async def check(request: AuthRequest) -> Identity | None:
    return Identity(request.token) if request.token else None
"""
PROJECT = "runtime: {import: painter.py}\nserver: {authenticate: 'painter.py:check'}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "painter.py").write_text(HOOK)
    (tmp_path / "reactor.yaml").write_text(PROJECT)
    return tmp_path


def test_the_project_file_names_a_hook_beside_it(project: Path) -> None:
    choice = choose(None, project)
    assert choice.authenticate == f"{project / 'painter.py'}:check"
    assert choose("x:Y", project).authenticate is None
    assert find_hook(choice.authenticate).__name__ == "check"


@pytest.mark.parametrize(
    ("authenticate", "said"),
    [
        ("5", "server.authenticate should be module:function"),
        ("painter", "server.authenticate should be module:function"),
        ("painter.py:nothing", "has no function nothing"),
        ("missing.py:check", "there is no file"),
        ("no_such_module:check", "there is no module no_such_module"),
    ],
)
def test_a_hook_that_is_not_there_is_told(project: Path, authenticate: str, said: str) -> None:
    (project / "reactor.yaml").write_text(PROJECT.replace("painter.py:check", authenticate))
    with pytest.raises(ModelNotFound, match=said):
        find_hook(choose(None, project).authenticate or "")


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "reactor_trio", "serve", "--port", "0", *options]


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REACTOR_")}
    return kept | {"PYTHONPATH": root}


@pytest.mark.parametrize("way", ["hook", "secret", "public key"])
async def test_a_process_lets_in_whom_it_was_told_to(way: str, project: Path) -> None:
    private = key_pair("EdDSA")
    (project / "secret").write_bytes(SECRET + b"\n")
    (project / "key.pem").write_bytes(pem_of(private.public_key()))
    options, token, subject = {
        "hook": ([], "bob", "bob"),
        "secret": (["painter.py", "--jwt-key", "secret", "--jwt-audience", "us"], signed(aud="us"), "alice"),
        "public key": (
            ["painter.py", "--jwt-key", "key.pem", "--jwt-algorithm", "EdDSA"],
            signed(private, "EdDSA"),
            "alice",
        ),
    }[way]
    with trio.fail_after(DEADLINE):
        process = await trio.lowlevel.open_process(
            command(*options),
            cwd=project,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        try:
            printed = ""
            while "ws://" not in printed:
                printed += (await process.stdout.receive_some()).decode()
            assert printed.count("imported") == 1
            url = printed.rpartition("WebSocket ")[2].strip(")\n")
            async with open_client(url, token=token) as client:
                reply = await client.call("who")
                assert reply is not None
                assert reply.data == {"subject": subject}
            with pytest.raises(HandshakeFailed, match="401"):
                async with open_client(url):
                    pass
            process.terminate()
            assert await process.wait() == 0
        finally:
            process.kill()
            await process.stdout.aclose()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--jwt-key", "missing"], "--jwt-key missing: cannot be read: No such file or directory"),
        (["--jwt-key", "short"], "--jwt-key short: HS256 wants a secret of 32 bytes, not 5"),
        (["--jwt-issuer", "us"], "--jwt-issuer needs --jwt-key"),
        (
            ["--jwt-key", "secret", "--token", "x"],
            "a fixed token, or another way to authenticate, but not both",
        ),
    ],
)
async def test_wrong_options_are_exit_status_2(options: list[str], said: str, project: Path) -> None:
    (project / "short").write_text("short")
    (project / "secret").write_bytes(SECRET)
    with trio.fail_after(DEADLINE):
        done = await trio.run_process(
            command("painter.py", *options),
            cwd=project,
            env=environment(),
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", f"Error: {said}\n")
