"""The origin of a request behind proxies: believed peers, believed headers, and input that must not fail."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio.server.arrival import UNIX, Arrival
from reactor_trio.server.forwarded import LOOPBACK, MAX_HOPS, TrustedProxies, arrival_of
from reactor_trio.server.http import HeadParser, Request
from reactor_trio.server.settings import ServerSettings

PROXY = "127.0.0.1:4242"
CLIENT = "203.0.113.9"
LOCAL = TrustedProxies.named(LOOPBACK)
LARGEST = 16 * 1024
"""Bytes of the largest request head."""


def arrive(
    *headers: tuple[str, str],
    peer: str = PROXY,
    proxies: TrustedProxies | None = LOCAL,
    root_path: str = "",
) -> Arrival:
    request = Request("GET", "/ws", (("host", "Inner.example:8080"), *headers))
    return arrival_of(request, peer, proxies, root_path)


def standard(*lines: str, **options: str) -> Arrival:
    return arrive(*(("forwarded", line) for line in lines), **options)  # type: ignore[arg-type]


# ---- proxies that are believed

SAID = (
    ("x-forwarded-for", CLIENT),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "app.example"),
    ("x-forwarded-prefix", "/app1"),
)


def test_a_trusted_proxy_is_believed() -> None:
    assert arrive(*SAID) == Arrival(CLIENT, "https", "app.example", "/app1", is_forwarded=True)
    assert arrive(*SAID).ip == ipaddress.ip_address(CLIENT)


@pytest.mark.parametrize("peer", ["192.0.2.1:4242", "[2001:db8::1]:4242", ""])
def test_another_peer_is_not_believed(peer: str) -> None:
    assert arrive(*SAID, peer=peer) == Arrival(peer, None, "inner.example:8080")
    assert arrive(*SAID, ("forwarded", f"for={CLIENT}"), peer=peer).address == peer


def test_nobody_is_believed_unless_asked_for() -> None:
    assert arrive(*SAID, proxies=None) == Arrival(PROXY, None, "inner.example:8080")


@pytest.mark.parametrize("peer", ["[::1]:4242", "127.7.7.7:1", UNIX, "[::ffff:127.0.0.1]:4242"])
def test_by_default_this_machine_is_believed(peer: str) -> None:
    assert arrive(*SAID, peer=peer).address == CLIENT


def test_a_proxy_that_says_nothing_leaves_its_own_address() -> None:
    assert arrive() == Arrival(PROXY, None, "inner.example:8080")
    assert arrive(peer=UNIX).ip is None


@pytest.mark.parametrize(
    ("named", "peer", "believed"),
    [
        ("10.0.0.7", "10.0.0.7:1", True),
        ("10.0.0.7", "10.0.0.8:1", False),
        ("10.0.0.7", PROXY, False),
        ("10.0.0.9/8", "10.200.0.1:1", True),
        ("fd00::/8", "[fd12::1]:1", True),
        ("fd00::/8", "10.0.0.7:1", False),
        ("*", "10.0.0.7:1", True),
        ("*", "[fd12::1]:1", True),
    ],
)
def test_proxies_are_named_by_address_or_network(named: str, peer: str, believed: bool) -> None:
    arrival = arrive(*SAID, peer=peer, proxies=TrustedProxies.named([named]))
    assert (arrival.address == CLIENT) is believed


# ---- the address


@pytest.mark.parametrize(
    ("said", "address"),
    [
        (CLIENT, CLIENT),
        (f"{CLIENT}:51234", f"{CLIENT}:51234"),
        ("2001:db8::7", "[2001:db8::7]"),
        ("[2001:db8::7]", "[2001:db8::7]"),
        ("[2001:DB8::7]:443", "[2001:db8::7]:443"),
        ('"[2001:db8::7]:443"', "[2001:db8::7]:443"),
        ("::ffff:203.0.113.9", CLIENT),
        (f"6.6.6.6, {CLIENT}", CLIENT),
        (f"6.6.6.6, {CLIENT}, 127.0.0.1, 127.0.0.9", CLIENT),
        (f"{CLIENT}, 127.0.0.1:80", CLIENT),
        ("127.0.0.8, 127.0.0.9", "127.0.0.8"),
        (f" ,, {CLIENT} ,,", CLIENT),
        (f"{CLIENT}:99999", CLIENT),
        # Text that is no address comes from the client and tells nothing: only the proxy before it is known.
        ("unknown", PROXY),
        ("_hidden", PROXY),
        ("6.6.6.6, unknown", PROXY),
        ("6.6.6.6, garbage, 127.0.0.9", "127.0.0.9"),
        ("999.1.1.1", PROXY),
        ("010.0.0.1", PROXY),
        ("[203.0.113.9]", CLIENT),
        ("fe80::1%eth0", PROXY),
        ("1.2.3.4 5.6.7.8", PROXY),
        ("\x00", PROXY),
        ("", PROXY),
    ],
)
def test_the_rightmost_address_that_is_no_proxy_is_the_client(said: str, address: str) -> None:
    assert arrive(("x-forwarded-for", said)).address == address


def test_several_lines_are_one_list() -> None:
    assert arrive(("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", CLIENT)).address == CLIENT


# ---- scheme, host, prefix


@pytest.mark.parametrize(
    ("said", "scheme"),
    [
        ("https", "https"),
        ("HTTP", "http"),
        ("wss", "https"),
        ("ws", "http"),
        ("http, https", "https"),
        ("gopher", None),
        ("", None),
        ('"https"', None),
    ],
)
def test_the_scheme(said: str, scheme: str | None) -> None:
    assert arrive(("x-forwarded-proto", said)).scheme == scheme


def test_scheme_and_host_are_those_that_the_clients_own_proxy_saw() -> None:
    chain = ("x-forwarded-for", f"6.6.6.6, {CLIENT}, 127.0.0.9")
    appended = arrive(
        chain,
        ("x-forwarded-proto", "http, https, http"),
        ("x-forwarded-host", "evil.example, App.example, inner"),
    )
    assert (appended.scheme, appended.host) == ("https", "app.example")
    replaced = arrive(chain, ("x-forwarded-proto", "https"), ("x-forwarded-host", "app.example"))
    assert (replaced.scheme, replaced.host) == ("https", "app.example")


@pytest.mark.parametrize("said", ["a b", '"><script>', "a/b", "user@a", "\xe9", ""])
def test_a_host_that_is_none_is_not_taken(said: str) -> None:
    assert arrive(("x-forwarded-host", said)).host == "inner.example:8080"


@pytest.mark.parametrize(
    ("said", "prefix"),
    [
        ("/app1", "/app1"),
        ("/app1/", "/app1"),
        ("/a/b_c-d.e~f", "/a/b_c-d.e~f"),
        ("/", "/root"),
        ("app1", "/root"),
        ("//evil.example", "/root"),
        ("/a/../b", "/root"),
        ("/..", "/root"),
        ("/a b", "/root"),
        ('/"><script>', "/root"),
        ("/%2e%2e", "/root"),
        (f"/{'a' * 400}", "/root"),
    ],
)
def test_the_prefix(said: str, prefix: str) -> None:
    assert arrive(("x-forwarded-prefix", said), root_path="/root").prefix == prefix


# ---- RFC 7239


@pytest.mark.parametrize(
    ("line", "address", "scheme", "host"),
    [
        # The examples of sections 4, 5.2, 6.1 and 7.1.
        ('for="_gazonk"', PROXY, None, "inner.example:8080"),
        ('For="[2001:db8:cafe::17]:4711"', "[2001:db8:cafe::17]:4711", None, "inner.example:8080"),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60", "http", "inner.example:8080"),
        ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17", None, "inner.example:8080"),
        ('for=_hidden, for=_SEVKISEK;proto=https;host="a.example"', PROXY, "https", "a.example"),
        ("for=unknown;proto=https", PROXY, "https", "inner.example:8080"),
        (
            'for=192.0.2.43,for="[2001:db8:cafe::17]",for=127.0.0.2',
            "[2001:db8:cafe::17]",
            None,
            "inner.example:8080",
        ),
        (
            'for=192.0.2.43:47011;proto=https;host="a.example:8443"',
            "192.0.2.43:47011",
            "https",
            "a.example:8443",
        ),
        ('for="192.0.2.43:_obf"', "192.0.2.43", None, "inner.example:8080"),
        # Spaces, empty parts, extensions, escapes.
        (
            ' for=192.0.2.43 ; Proto=HTTPS ;secret="a,b;for=6.6.6.6" , ',
            "192.0.2.43",
            "https",
            "inner.example:8080",
        ),
        (r'for="192.0.2.4\3"', "192.0.2.43", None, "inner.example:8080"),
        ("proto=https", PROXY, "https", "inner.example:8080"),
        # Broken lines.
        ("for", PROXY, None, "inner.example:8080"),
        ("for=", PROXY, None, "inner.example:8080"),
        ("for=6.6.6.6;for=7.7.7.7", PROXY, None, "inner.example:8080"),
        ('for="6.6.6.6', PROXY, None, "inner.example:8080"),
        ("for=6.6.6.6 proto=https", PROXY, None, "inner.example:8080"),
        ("for = 6.6.6.6", PROXY, None, "inner.example:8080"),
        ("for=6.6.6.6;host=a/b;proto=ftp", "6.6.6.6", None, "inner.example:8080"),
        # A quote that the client has left open, and an element that a proxy has appended behind it.
        (f'for="6.6.6.6, for={CLIENT};proto=https', CLIENT, "https", "inner.example:8080"),
        (f'for=6.6.6.6;a=", for={CLIENT};by="_x"', CLIENT, None, "inner.example:8080"),
    ],
)
def test_forwarded(line: str, address: str, scheme: str | None, host: str) -> None:
    arrival = standard(line)
    assert (arrival.address, arrival.scheme, arrival.host) == (address, scheme, host)


def test_a_line_of_its_own_is_not_spoiled_by_the_one_before() -> None:
    assert standard('for="6.6.6.6', f"for={CLIENT}").address == CLIENT


def test_the_customary_headers_win() -> None:
    """A proxy that knows only `X-Forwarded-*` hands on a `Forwarded` header that a client has written."""
    spoofed = ("forwarded", "for=6.6.6.6;proto=https;host=evil.example")
    assert arrive(("x-forwarded-for", CLIENT), spoofed) == Arrival(
        CLIENT, None, "inner.example:8080", is_forwarded=True
    )
    assert arrive(("x-forwarded-prefix", "/app1"), spoofed).address == "6.6.6.6"


# ---- random headers

texts = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=80)
pieces = st.lists(
    st.sampled_from(
        [
            *'",;=\\ _:[]%',
            "for=",
            "proto=https",
            "host=",
            CLIENT,
            "127.0.0.1",
            "::1",
            "unknown",
            "/a",
            "for=127.0.0.1,",
        ]
    ),
    max_size=40,
).map("".join)
names = st.sampled_from(
    [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-prefix",
        "host",
    ]
)


@given(
    st.lists(st.tuples(names, texts | pieces), max_size=6),
    st.sampled_from([PROXY, UNIX, "", "6.6.6.6:1", "?"]),
)
def test_nothing_raises_and_nothing_strange_comes_out(headers: list[tuple[str, str]], peer: str) -> None:
    arrival = arrival_of(Request("GET", "/", tuple(headers)), peer, LOCAL)
    assert arrival.address == peer or arrival.ip is not None
    assert arrival.scheme in (None, "http", "https")
    assert arrival.prefix == "" or (arrival.prefix.startswith("/") and not arrival.prefix.startswith("//"))
    if peer != PROXY and peer != UNIX:
        assert arrival.address == peer
        assert not arrival.is_forwarded


ips = st.ip_addresses().filter(lambda ip: not ip.is_loopback and not getattr(ip, "ipv4_mapped", None))


@given(texts | pieces, ips, st.integers(1, 65535), st.booleans())
def test_what_a_client_writes_never_hides_what_its_proxy_appends(
    written: str, ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, in_a_line_of_its_own: bool
) -> None:
    node = f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
    for name, appended in (("x-forwarded-for", node), ("forwarded", f'for="{node}";proto=https')):
        if in_a_line_of_its_own:
            headers = ((name, written), (name, appended))
        elif name == "forwarded" and '"' in written:
            continue  # a client's open quote may hide the element; then the proxy's address counts
        else:
            headers = ((name, f"{written}, {appended}"),)
        assert arrival_of(Request("GET", "/", headers), PROXY, LOCAL).address == node


@given(texts | pieces)
def test_what_a_client_writes_is_never_taken_for_what_its_proxy_appends(written: str) -> None:
    arrival = standard(f'{written}, for="{CLIENT}:1";host="a.example"')
    assert arrival.address in (f"{CLIENT}:1", PROXY)


@pytest.mark.parametrize(
    "line",
    [
        "," * LARGEST,
        ";" * LARGEST,
        '"' * LARGEST,
        '"\\' * (LARGEST // 2),
        "a=b;" * (LARGEST // 4),
        "a=b," * (LARGEST // 4),
        'a="' * (LARGEST // 3),
        "127.0.0.1," * (LARGEST // 10),
        "for=127.0.0.1," * (LARGEST // 14),
        "::1," * (LARGEST // 4),
        " " * LARGEST,
        "/a" * (LARGEST // 2),
        ":" * LARGEST,
    ],
)
def test_a_whole_head_of_it_takes_no_time(line: str) -> None:
    request = Request("GET", "/", tuple((name, line) for name in ("x-forwarded-for", "x-forwarded-prefix")))
    other = Request("GET", "/", (("forwarded", line),))
    begin = time.thread_time()
    arrival_of(request, PROXY, LOCAL)
    arrival_of(other, PROXY, LOCAL)
    assert time.thread_time() - begin < 0.1  # it takes 2 ms on an idle machine


def test_no_more_than_so_many_proxies_are_walked_through() -> None:
    line = ", ".join([CLIENT, *["127.0.0.1"] * MAX_HOPS])
    assert arrive(("x-forwarded-for", line)).address == "127.0.0.1"


# ---- the path and host for the rest of the server


def test_the_requests_path_is_that_below_the_prefix_whether_or_not_it_was_taken_away() -> None:
    def path(target: str) -> str:
        return Request("GET", target, arrival=Arrival(prefix="/app1")).path

    assert path("/app1/ws?x=1") == path("/ws?x=1") == path("http://a/app1/ws") == "/ws"
    assert path("/app1/") == path("/") == "/"
    assert path("/app10/ws") == "/app10/ws"
    assert path("/app1/app1/ws") == "/app1/ws"
    assert Request("GET", "/app1/ws", arrival=Arrival(prefix="/app1")).full_path == "/app1/ws"


def test_the_host_is_the_forwarded_one_or_that_of_the_header() -> None:
    request = HeadParser().feed(b"GET / HTTP/1.1\r\nHost: A.example\r\n\r\n")
    assert request is not None
    assert request.host == "a.example"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"trusted_proxies": ("10.0.0.7",)}, "--trusted-proxy needs --proxy-headers"),
        (
            {"proxy_headers": True, "trusted_proxies": ("nginx",)},
            r"'nginx' .*10\.0\.0\.0/8 .*--trusted-proxy",
        ),
        ({"root_path": "app1"}, "'app1' is no path such as /app1"),
        ({"root_path": "/a//b"}, "is no path"),
        ({"root_path": "/a?b"}, "is no path"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ServerSettings(**settings)  # type: ignore[arg-type]


def test_settings() -> None:
    assert ServerSettings().proxies is None
    assert ServerSettings(proxy_headers=True).proxies == LOCAL
    assert ServerSettings(root_path="/app1/").root_path == "/app1"
    assert ServerSettings(root_path="/").root_path == ""
