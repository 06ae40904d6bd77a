"""From the head of a request to its answer: pure functions, so most cases take one line."""

from __future__ import annotations

import base64
from contextlib import suppress

import attrs
import h11
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio.server.arrival import Arrival
from reactor_trio.server.http import (
    MAX_HEAD_BYTES,
    HeadError,
    HeadParser,
    Request,
    Response,
    Upgrade,
)
from reactor_trio.server.origins import Policy
from reactor_trio.server.routes import State, answer, is_guarded
from reactor_trio.server.web import web_files

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
TOKEN = "s3cret/+?token"
TOKEN_SUBPROTOCOL = "reactor.token." + base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("=")

SCHEMA = b'{"openapi": "3.1.0"}'
WEB = web_files()
READY = State("ready", "Painter", sessions=1, schema=SCHEMA, web=WEB)
LOADING = State("loading", "Painter", sessions=0, web=WEB)
DRAINING = State("draining", "Painter", sessions=1, schema=SCHEMA, web=WEB)
OPEN = Policy()
LOOPBACK = Policy(own_names=frozenset({"127.0.0.1"}))

UPGRADE = {
    "host": "127.0.0.1:8080",
    "connection": "keep-alive, Upgrade",
    "upgrade": "WebSocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": KEY,
}


def request(path: str = "/", method: str = "GET", **headers: str) -> Request:
    items = {"host": "127.0.0.1:8080"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, path, tuple(items.items()))


def upgrade(**changes: str | None) -> Request:
    headers = UPGRADE | {name.replace("_", "-"): value for name, value in changes.items()}
    return Request("GET", "/ws", tuple((name, value) for name, value in headers.items() if value is not None))


def refused(asked: Request, policy: Policy = OPEN, state: State = READY) -> Response:
    what = answer(asked, policy, state)
    assert isinstance(what, Response)
    return what


def granted(asked: Request, policy: Policy = OPEN, state: State = READY) -> Upgrade:
    what = answer(asked, policy, state)
    assert isinstance(what, Upgrade), what
    return what


# ---- heads

HEAD = (
    b"GET /ws?x=1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY.encode() + b"\r\n\r\n"
)


@pytest.mark.parametrize("at", range(len(HEAD)))
def test_a_head_may_be_split_anywhere(at: int) -> None:
    parser = HeadParser()
    found = parser.feed(HEAD[:at]) if at else None
    assert found is None
    found = parser.feed(HEAD[at:] + b"\x81\x80rest")
    assert found is not None
    assert (found.method, found.path) == ("GET", "/ws")
    assert parser.rest == b"\x81\x80rest"


def test_a_head_may_come_byte_by_byte() -> None:
    parser = HeadParser()
    results = [parser.feed(HEAD[at : at + 1]) for at in range(len(HEAD))]
    assert results[:-1] == [None] * (len(HEAD) - 1)
    assert results[-1] is not None
    assert parser.rest == b""


@pytest.mark.parametrize("step", [1000, 10**6])
def test_a_head_that_is_too_long_is_431_however_it_arrives(step: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * (MAX_HEAD_BYTES * 4) + b"\r\n\r\n"
    parser = HeadParser()

    def feed() -> None:
        for at in range(0, len(head), step):
            assert parser.feed(head[at : at + step]) is None

    with pytest.raises(HeadError) as caught:
        feed()
    assert caught.value.response.status == 431


def test_the_limit_is_exact_and_does_not_count_what_follows() -> None:
    def head(size: int) -> bytes:
        start = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: "
        return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"

    assert HeadParser().feed(head(MAX_HEAD_BYTES) + b"x" * MAX_HEAD_BYTES) is not None
    with pytest.raises(HeadError):
        HeadParser().feed(head(MAX_HEAD_BYTES + 1))


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # a TLS client
        b"hello\r\n\r\n",
        b"GET /\r\n\r\n",  # HTTP/0.9
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_what_is_no_head_is_400(head: bytes) -> None:
    with pytest.raises(HeadError) as caught:
        HeadParser().feed(head)
    assert caught.value.response.status == 400
    assert b"Connection: close" in caught.value.response.encode()


@pytest.mark.parametrize("head", [b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_another_version_of_http_is_505(head: bytes) -> None:
    with pytest.raises(HeadError) as caught:
        HeadParser().feed(head)
    assert caught.value.response.status == 505


@given(st.binary(min_size=1, max_size=300))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    with suppress(HeadError):
        HeadParser(max_head_bytes=100).feed(data)


@given(
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=30),
    st.dictionaries(
        st.sampled_from(
            [
                "host",
                "origin",
                "authorization",
                "sec-websocket-protocol",
                "sec-websocket-key",
                "upgrade",
                "connection",
            ]
        ),
        st.text(st.characters(max_codepoint=255), max_size=30),
    ),
)
def test_no_request_breaks_the_routing(target: str, headers: dict[str, str]) -> None:
    for policy in (OPEN, LOOPBACK):
        what = answer(Request("GET", target, tuple(headers.items())), policy, READY)
        assert isinstance(what, Response | Upgrade)
        what = answer(Request("GET", "/ws", tuple((UPGRADE | headers).items())), policy, READY)
        assert isinstance(what, Response | Upgrade)


# ---- routes


@pytest.mark.parametrize("target", ["/", "/?a=b", "http://127.0.0.1:8080/", "http://127.0.0.1:8080"])
def test_the_page_is_at_the_root(target: str) -> None:
    response = refused(request(target))
    assert response.status == 200
    assert response.content_type.startswith("text/html")


@pytest.mark.parametrize("path", ["/nothing", "/ws/", "/health/x", "//ws", "*", "/%77s", "/WS"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_anything_else_is_404(path: str, method: str) -> None:
    assert refused(request(path, method)).status == 404


@pytest.mark.parametrize("path", ["/", "/ws", "/schema", "/health"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_405_and_are_told_which_are_allowed(path: str, method: str) -> None:
    response = refused(request(path, method))
    assert response.status == 405
    assert ("Allow", "GET, HEAD") in response.headers


@pytest.mark.parametrize(("state", "status"), [(READY, 200), (LOADING, 503), (DRAINING, 503)])
def test_health_says_how_it_is(state: State, status: int) -> None:
    response = refused(request("/health"), OPEN, state)
    assert response.status == status
    assert response.body == (
        f'{{"status":"{state.status}","model":"Painter","sessions":{state.sessions},"waiting":0}}'.encode()
    )


def test_health_of_a_full_server_is_still_200() -> None:
    full = State("ready", "Painter", 1, is_full=True, schema=SCHEMA)
    assert refused(request("/health"), OPEN, full).status == 200


def test_there_is_no_schema_while_the_model_loads() -> None:
    response = refused(request("/schema"), OPEN, LOADING)
    assert response.status == 503
    assert "Retry-After" in dict(response.headers)


def test_an_answer_is_valid_http_and_head_has_no_body() -> None:
    response = refused(request("/schema"))
    for with_body in (True, False):
        client = h11.Connection(h11.CLIENT)
        method = "GET" if with_body else "HEAD"
        client.send(h11.Request(method=method, target="/schema", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(response.encode(with_body=with_body))
        client.receive_data(b"")
        head = client.next_event()
        assert isinstance(head, h11.Response)
        headers = dict(head.headers)
        assert (head.status_code, headers[b"content-type"]) == (200, b"application/json")
        assert headers[b"content-length"] == str(len(SCHEMA)).encode()
        assert headers[b"connection"] == b"close"
        body = client.next_event()
        assert isinstance(body, h11.Data if with_body else h11.EndOfMessage)


# ---- the upgrade


def test_a_good_request_is_granted() -> None:
    assert granted(upgrade()) == Upgrade(KEY.encode(), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"upgrade": None},
        {"upgrade": "h2c"},
        {"connection": None},
        {"connection": "keep-alive"},
        {"sec_websocket_version": None},
        {"sec_websocket_version": "8"},
    ],
)
def test_no_websocket_is_426_and_is_told_what_is_spoken(changes: dict[str, str | None]) -> None:
    response = refused(upgrade(**changes))
    assert response.status == 426
    assert {("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")} <= set(response.headers)


def test_neither_head_nor_http_1_0_can_be_upgraded() -> None:
    good = upgrade()
    assert refused(Request("HEAD", "/ws", good.headers)).status == 426
    assert refused(Request("GET", "/ws", good.headers, "1.0")).status == 426


@pytest.mark.parametrize("key", [None, "", "x", "AAAA", "dGhlIHNhbXBsZSBub25jZQ", KEY + "AAAA", "\xe9" * 24])
def test_a_bad_key_is_400(key: str | None) -> None:
    assert refused(upgrade(sec_websocket_key=key)).status == 400


@pytest.mark.parametrize("changes", [{"content_length": "5"}, {"transfer_encoding": "chunked"}])
def test_an_upgrade_with_a_body_is_400(changes: dict[str, str | None]) -> None:
    assert refused(upgrade(**changes)).status == 400
    assert granted(upgrade(content_length="0"))


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("reactor.v1", "reactor.v1"),
        ("chat, reactor.v1", "reactor.v1"),
        (f"reactor.v1,{TOKEN_SUBPROTOCOL}", "reactor.v1"),
        (f"{TOKEN_SUBPROTOCOL}, reactor.v1", "reactor.v1"),
        (TOKEN_SUBPROTOCOL, None),
        (None, None),
        ("", None),
    ],
)
def test_the_subprotocol_is_chosen_and_never_a_token(offered: str | None, chosen: str | None) -> None:
    assert granted(upgrade(sec_websocket_protocol=offered)).subprotocol == chosen


@pytest.mark.parametrize("offered", ["chat", "reactor.v2", f"chat, {TOKEN_SUBPROTOCOL}", "REACTOR.V1"])
def test_only_foreign_subprotocols_are_400(offered: str) -> None:
    assert refused(upgrade(sec_websocket_protocol=offered)).status == 400


# ---- paths that need a token (test_auth.py tests the check of the token)


@pytest.mark.parametrize(
    ("path", "guarded"), [("/", False), ("/ws", True), ("/schema", True), ("/health", False)]
)
def test_page_and_health_need_no_token(path: str, guarded: bool) -> None:
    assert is_guarded(request(path)) is guarded
    assert is_guarded(request(path, "HEAD")) is guarded
    assert not is_guarded(request(path, "POST"))  # the answer is 405 with and without a token


# ---- the origin


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://LOCALHOST:8080", "localhost:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("http://127.0.0.1", "127.0.0.1"),
        ("http://127.0.0.1", "127.0.0.1:80"),
        ("https://127.0.0.1", "127.0.0.1:443"),
    ],
)
@pytest.mark.parametrize("policy", [OPEN, LOOPBACK])
def test_the_servers_own_origin_is_let_in(origin: str, host: str, policy: Policy) -> None:
    granted(upgrade(origin=origin, host=host), policy)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://127.0.0.1:8081",
        "http://127.0.0.1",
        "http://127.0.0.1:8080.evil.example",
        "http://127.0.0.1:8080@evil.example",
        "ftp://127.0.0.1:8080",
        "127.0.0.1:8080",
        "null",
        "",
        "file://",
    ],
)
def test_another_origin_is_403(origin: str) -> None:
    assert refused(upgrade(origin=origin)).status == 403
    allowed = Policy(allow_origins=frozenset({"https://example.com"}))
    assert refused(upgrade(origin=origin), allowed).status == 403


def test_two_origins_are_403() -> None:
    good = upgrade(origin="http://127.0.0.1:8080")
    assert refused(Request("GET", "/ws", (*good.headers, ("origin", "http://evil.example")))).status == 403


@pytest.mark.parametrize("allowed", ["https://example.com", "https://EXAMPLE.com/", "*"])
def test_an_allowed_origin_is_let_in(allowed: str) -> None:
    granted(upgrade(origin="https://example.com"), Policy(allow_origins=frozenset({allowed})))


def test_a_page_whose_name_was_made_to_resolve_to_loopback_is_403() -> None:
    rebound = upgrade(origin="http://evil.example:8080", host="evil.example:8080")
    assert refused(rebound, LOOPBACK).status == 403
    granted(rebound, Policy(own_names=frozenset({"evil.example"})))
    granted(rebound, OPEN)


APP = Arrival(host="app.example", scheme="https", is_forwarded=True)
"""The host and scheme reported by a proxy that speaks TLS and serves an app under this name."""


@pytest.mark.parametrize("policy", [OPEN, LOOPBACK])
def test_a_page_of_the_proxys_name_is_of_the_servers_origin(policy: Policy) -> None:
    asked = attrs.evolve(upgrade(origin="https://app.example"), arrival=APP)
    granted(asked, policy)
    granted(attrs.evolve(asked, arrival=attrs.evolve(APP, host="app.example:443")), policy)
    granted(attrs.evolve(asked, arrival=attrs.evolve(APP, scheme=None)), policy)


@pytest.mark.parametrize(
    "origin",
    ["http://app.example", "https://app.example:8443", "https://evil.example", "http://127.0.0.1:8080"],
)
def test_a_page_of_another_scheme_or_host_than_the_proxys_is_403(origin: str) -> None:
    assert refused(attrs.evolve(upgrade(origin=origin), arrival=APP)).status == 403


def test_a_server_behind_a_proxy_is_asked_by_the_proxys_name() -> None:
    asked = request("/health")
    assert refused(attrs.evolve(asked, arrival=APP), LOOPBACK).status == 200
    assert refused(attrs.evolve(asked, arrival=Arrival(host="app.example")), LOOPBACK).status == 421


def test_a_name_that_no_proxy_vouches_for_is_not_the_servers_own() -> None:
    rebound = attrs.evolve(upgrade(origin="http://evil.example"), arrival=Arrival(host="evil.example"))
    assert refused(rebound, LOOPBACK).status == 403


# ---- a server below a path

BELOW = Arrival(prefix="/a/app1")


@pytest.mark.parametrize(
    ("target", "location"),
    [("/a/app1", "app1/"), ("/a/app1?x=/y", "app1/?x=/y"), ("http://h/a/app1", "app1/")],
)
def test_the_path_without_its_slash_leads_to_the_page(target: str, location: str) -> None:
    response = refused(attrs.evolve(request(target), arrival=BELOW))
    assert (response.status, dict(response.headers)["Location"]) == (307, location)
    assert refused(attrs.evolve(request(target, "POST"), arrival=BELOW)).status == 404
    assert refused(request(target)).status == 404


def test_everything_is_found_with_and_without_the_path() -> None:
    for path in ("/", "/reactor.js", "/health", "/schema"):
        for target in (path, f"/a/app1{path}"):
            assert refused(attrs.evolve(request(target), arrival=BELOW)).status == 200
    for target in ("/ws", "/a/app1/ws"):
        granted(attrs.evolve(upgrade(), target=target, arrival=BELOW))
        assert is_guarded(attrs.evolve(upgrade(), target=target, arrival=BELOW))
    for target in ("/a/app1x/ws", "/a/ws", "/a/app1/a/app1/ws", "//a/app1/ws"):
        assert refused(attrs.evolve(upgrade(), target=target, arrival=BELOW)).status == 404


def test_the_schema_says_below_which_path_the_server_stands() -> None:
    response = refused(attrs.evolve(request("/schema"), arrival=BELOW))
    assert orjson.loads(response.body) == {"openapi": "3.1.0", "servers": [{"url": "/a/app1"}]}
    assert refused(request("/schema")).body == SCHEMA


# ---- room for a session


@pytest.mark.parametrize(
    "state", [LOADING, DRAINING, State("ready", "Painter", 2, is_full=True, schema=SCHEMA)]
)
def test_no_room_is_503_and_says_when_to_come_back(state: State) -> None:
    response = refused(upgrade(), OPEN, state)
    assert response.status == 503
    assert int(dict(response.headers)["Retry-After"]) > 0


def test_there_is_room_below_the_maximum() -> None:
    granted(upgrade(), OPEN, State("ready", "Painter", 1, waiting=2, schema=SCHEMA))


# ---- the Host header


@pytest.mark.parametrize("host", ['"><script>', "a b", "evil.example/path", "\xe9"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    head = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")
    with pytest.raises(HeadError) as error:
        HeadParser().feed(head)
    assert error.value.response.status == 400
