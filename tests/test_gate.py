"""Limits of a server before a client has a session: connections, addresses, host names, wrong tokens."""

from __future__ import annotations

import ipaddress
import logging
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio.server.address import network_of
from reactor_trio.server.gate import RESERVED, Gate, Pass, connections_for
from reactor_trio.server.guesses import (
    FORGOTTEN_AFTER,
    FREE,
    LOGGED_EVERY,
    MAX_ADDRESSES,
    MOST,
    PAUSE,
    Guesses,
)
from reactor_trio.server.http import Request, Response
from reactor_trio.server.listeners import ACCEPT_LOG_SECONDS, accept_errors_now_and_then
from reactor_trio.server.origins import Policy
from reactor_trio.server.routes import State, answer

# ---- connections


def enter(gate: Gate, count: int) -> list[Pass]:
    passes = [gate.enter() for _ in range(count)]
    assert all(each is not None for each in passes)
    return [each for each in passes if each is not None]


def test_a_few_are_read_beyond_the_bound_and_the_next_ones_are_not() -> None:
    gate = Gate(max_connections=3)
    inside = enter(gate, 3)
    beyond = enter(gate, RESERVED)
    assert [each.is_reserved for each in inside] == [False] * 3
    assert all(each.is_reserved for each in beyond)
    for each in beyond:
        each.is_busy = True
    assert gate.enter() is None
    assert gate.refused["connections"] == RESERVED + 1
    beyond[0].leave()
    assert enter(gate, 1)[0].is_reserved
    inside[0].leave()
    assert not enter(gate, 1)[0].is_reserved


def test_beyond_the_bound_the_oldest_that_has_not_said_what_it_wants_makes_room() -> None:
    gate = Gate(max_connections=1)
    [inside, *beyond] = enter(gate, 1 + RESERVED)
    evicted: list[Pass] = []
    for each in beyond:
        each.on_eviction = partial(evicted.append, each)
    beyond[0].is_busy = True
    enter(gate, 2)
    assert evicted == beyond[1:3]
    assert not inside.was_evicted
    assert gate.reserved == RESERVED
    evicted[0].leave()
    assert gate.reserved == RESERVED, "it has given its place up before"


def test_what_has_a_session_is_not_unfinished_any_more() -> None:
    gate = Gate(max_unfinished=2)
    for _ in range(100):
        [each] = enter(gate, 1)
        each.has_session()
    assert (gate.connections, gate.unfinished) == (100, 0)
    enter(gate, 2)
    assert enter(gate, 1)[0].is_reserved
    assert gate.refused == {"unfinished": 1}


@given(st.lists(st.tuples(st.sampled_from(["enter", "session", "leave"]), st.integers(0, 30)), max_size=200))
def test_whatever_happens_the_numbers_are_those_of_the_connections(moves: list[tuple[str, int]]) -> None:
    gate = Gate(max_connections=6, max_unfinished=4)
    inside: list[Pass] = []
    with_session: set[Pass] = set()
    for move, number in moves:
        if move == "enter":
            passed = gate.enter()
            inside += [] if passed is None else [passed]
        elif inside:
            each = inside[number % len(inside)]
            if move == "session":
                each.has_session()
                with_session.add(each)
            else:
                each.leave()
                each.leave()
                inside.remove(each)
        inside = [each for each in inside if not each.was_evicted]
        ordinary = [each for each in inside if not each.is_reserved]
        assert gate.connections == len(ordinary) <= 6
        assert gate.unfinished == len([each for each in ordinary if each not in with_session]) <= 4
        assert gate.reserved == len(inside) - len(ordinary) <= RESERVED


@pytest.mark.parametrize(
    ("descriptors", "in_use", "expected"),
    [(None, 10, 0), (64, 16, 32), (1024, 16, 872), (65536, 16, 64488), (10, 9, 1)],
)
def test_descriptors_are_kept_back_for_everything_else(
    descriptors: int | None, in_use: int, expected: int
) -> None:
    assert connections_for(descriptors, in_use) == expected


def test_that_nothing_can_be_accepted_is_logged_now_and_then() -> None:
    now = 100.0
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("trio.serve_listeners"), Handler()
    logger.addHandler(handler)
    with accept_errors_now_and_then(lambda: now):
        for number in range(79):  # eight errors a second
            logger.error("number %s", number)
            now += 0.125
    logger.error("afterwards")
    logger.error("as well")
    logger.removeHandler(handler)
    assert lines == ["number 0", f"number {ACCEPT_LOG_SECONDS / 0.125:.0f}", "afterwards", "as well"]


# ---- addresses


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7:51234", "192.0.2.7"),
        ("192.0.2.7", "192.0.2.7"),
        ("[2001:db8:1:2:3:4:5:6]:51234", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("[::ffff:192.0.2.7]:1", "192.0.2.7"),
        ("[::1]:80", "::/64"),
        ("unix", None),
        ("", None),
        ("_hidden", None),
        ("a name:80", None),
    ],
)
def test_a_network_counts_as_one(address: str, network: str | None) -> None:
    assert network_of(address) == network


@given(st.ip_addresses(), st.integers(0, 65535))
def test_a_port_changes_nothing(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    with_port = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    assert network_of(with_port) == network_of(str(address)) is not None


@given(st.text())
def test_what_is_no_address_is_none(text: str) -> None:
    network_of(text)


# ---- host names


LOOPBACK = Policy(own_names=frozenset({"127.0.0.1"}))
READY = State("ready", "Painter", 0, schema=b"{}", metrics=lambda accept: (b"", "text/plain"))


def status(path: str, host: str, policy: Policy = LOOPBACK) -> int:
    what = answer(Request("GET", path, (("host", host),)), policy, READY)
    assert isinstance(what, Response)
    return what.status


PATHS = ["/schema", "/health", "/metrics", "/nothing", "/ws"]
OWN = [
    "127.0.0.1",
    "127.0.0.1:8080",
    "LOCALHOST:80",
    "a.localhost",
    "localhost.",
    "[::1]:8080",
    "10.1.2.3",
    "model:80",
]
FOREIGN = ["evil.com", "evil.com:8080", "localhost.evil.com", "127.0.0.1.evil.com", "EVIL.com.", "evil.com:"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_that_is_made_to_resolve_to_loopback_gets_nothing(path: str, host: str) -> None:
    assert status(path, host) == 421
    assert status(path, host, Policy()) != 421, "one that others can reach has a name that nobody has told"
    assert status(path, host, Policy(frozenset({"*"}), LOOPBACK.own_names)) != 421


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", OWN)
def test_its_own_names_and_addresses_are_answered(path: str, host: str) -> None:
    assert status(path, host) != 421


@pytest.mark.parametrize(
    "policy",
    [
        Policy(frozenset({"https://lab.example:8443"}), LOOPBACK.own_names),
        Policy(frozenset(), LOOPBACK.own_names, frozenset({"lab.example"})),
    ],
)
def test_a_name_may_be_allowed(policy: Policy) -> None:
    assert status("/schema", "lab.example:8443", policy) == 200
    assert status("/schema", "Lab.Example.", policy) == 200
    assert status("/schema", "evil.com", policy) == 421


@pytest.mark.parametrize(
    "target", ["http://evil.com/schema", "http://me@evil.com:80/schema", "http://evil.com?/schema"]
)
def test_the_target_counts_and_not_the_host_header(target: str) -> None:
    what = answer(Request("GET", target, (("host", "127.0.0.1"),)), LOOPBACK, READY)
    assert isinstance(what, Response)
    assert what.status == 421
    ours = answer(Request("GET", "http://127.0.0.1/schema", (("host", "evil.com"),)), LOOPBACK, READY)
    assert isinstance(ours, Response)
    assert ours.status == 200


@given(st.text(), st.text())
def test_any_target_and_any_host_get_an_answer(target: str, host: str) -> None:
    answer(Request("GET", target, (("host", host),)), LOOPBACK, READY)


# ---- wrong tokens


def test_who_guesses_waits_and_then_is_told_that_it_is_too_much() -> None:
    guesses = Guesses()
    found = [guesses.wrong("192.0.2.7", now=float(number)) for number in range(MOST + 5)]
    assert [guess.pause for guess in found] == [0.0] * FREE + [PAUSE] * (MOST + 5 - FREE)
    assert [guess.is_one_too_many for guess in found] == [False] * MOST + [True] * 5
    assert guesses.wrong("192.0.2.8", now=50.0).count == 1
    assert guesses.wrong("192.0.2.7", now=MOST + 5 + FORGOTTEN_AFTER + 1).count == 1


def test_the_log_has_a_line_of_an_address_now_and_then() -> None:
    guesses = Guesses()
    logged = [guesses.wrong("192.0.2.7", now=number / 10).is_logged for number in range(1300)]
    assert logged.count(True) == 1 + int(130 / LOGGED_EVERY)


def test_no_more_addresses_are_remembered_than_there_is_room_for() -> None:
    guesses = Guesses()
    for number in range(3 * MAX_ADDRESSES):
        guesses.wrong(f"address {number}", now=0.0)
        guesses.wrong("the first", now=0.0)
    assert len(guesses) == MAX_ADDRESSES
    assert guesses.wrong("the first", now=0.0).count == 3 * MAX_ADDRESSES + 1
