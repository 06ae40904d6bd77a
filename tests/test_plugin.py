"""The pytest plugin, in pytest runs of its own: virtual time, its limit, and each kind of leak."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
PLUGIN = "pytest_reactor_trio"
TIMEOUT = 60
"""Real seconds that an inner run may take."""

MODEL = """
import threading
import time
import pytest
import trio
from reactor_trio import ModelMessage, ReactorModel, connected, event
from reactor_trio.link import uploads
from reactor_trio.testing import *
from reactor_trio.testing import load_host, memory_transport_pair

class Echo(ReactorModel):
    @event
    def echo(self, text: str) -> None: ...

    @event
    async def nap(self, seconds: float) -> None:
        await trio.sleep(seconds)
"""


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("CI", "BUILD_NUMBER"):  # if these are set, pytest prints each message twice
        monkeypatch.delenv(name, raising=False)
    pytester.makeini("[pytest]\ntrio_mode = true\naddopts = --strict-markers --strict-config -Werror\n")
    return pytester


def outcome(pytester: pytest.Pytester, test: str, *options: str, **counts: int) -> str:
    """Run pytest on the test file, check the numbers of its outcomes, and return the printed output."""
    pytester.makepyfile(MODEL + test)
    result = pytester.runpytest_subprocess(
        "-p", PLUGIN, "-p", "pytest_trio.plugin", *options, timeout=TIMEOUT
    )
    result.assert_outcomes(**counts)
    return str(result.stdout)


def test_it_is_an_entry_point_so_that_it_needs_no_import() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}
    assert project["tool"]["setuptools"]["py-modules"] == [PLUGIN]


def test_it_imports_nothing_heavy_before_a_test_needs_it() -> None:
    heavy = "{'numpy', 'torch', 'trio', 'reactor_trio', 'attrs'}"
    program = f"import {PLUGIN}, sys; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=TIMEOUT
    )
    assert done.stdout.strip() == "set()"


def test_a_run_that_has_nothing_to_do_with_it_imports_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_plain():
            import sys
            assert not {"numpy", "reactor_trio"} & set(sys.modules)
        """
    )
    pytester.makeini("[pytest]")
    pytester.runpytest_subprocess("-p", PLUGIN, timeout=TIMEOUT).assert_outcomes(passed=1)


# ---- virtual time


def test_the_fixtures_and_the_marker_work_in_both_kinds_of_tests(pytester: pytest.Pytester) -> None:
    test = """
def test_plain(reactor_session):
    async def main():
        async with reactor_session(Echo) as client:
            await client.call("nap", seconds=3600)
            assert trio.current_time() == 3600
    run(main)

def test_plain_with_the_clock(virtual_clock):
    run(trio.sleep, 5, clock=virtual_clock)
    assert virtual_clock.current_time() == 5

async def test_async(reactor_session):
    async with reactor_session(Echo, network=Network(delay=1)) as client:
        await client.call("nap", seconds=3600)
        assert trio.current_time() == 3603

async def test_async_with_the_clock(virtual_clock):
    await trio.sleep(3600)
    assert trio.current_time() == virtual_clock.current_time() == 3600

async def test_async_with_both(virtual_clock, reactor_session):
    await trio.sleep(3600)
    assert virtual_clock.current_time() == 3600

async def test_async_under_pytest_trios_clock(autojump_clock):
    async with open_session(Echo) as client:
        await client.call("nap", seconds=3600)

@pytest.mark.virtual_seconds(4000)
async def test_async_with_the_marker_alone():
    await trio.sleep(3600)

async def test_async_in_real_time():
    began = time.monotonic()
    await trio.sleep(0.05)
    assert time.monotonic() - began >= 0.05
"""
    outcome(pytester, test, passed=8)


def test_a_test_that_takes_more_virtual_seconds_fails(pytester: pytest.Pytester) -> None:
    test = """
pytestmark = pytest.mark.virtual_seconds(60)

def test_in_time():
    run(trio.sleep, 60)
    run(trio.sleep, 60)

def test_too_long():
    run(trio.sleep, 61)

async def test_async_too_long(reactor_session):
    async with reactor_session(Echo) as client:
        await client.call("nap", seconds=61)

def test_deadlock():
    run(trio.sleep_forever)

@pytest.mark.virtual_seconds(100)
def test_the_closest_marker_counts():
    run(trio.sleep, 61)
"""
    text = outcome(pytester, test, passed=2, failed=3)
    assert text.count("TookTooLong: the test took more than 60 virtual seconds") >= 3


def test_without_a_marker_a_day_is_allowed_and_the_ini_option_says_otherwise(
    pytester: pytest.Pytester,
) -> None:
    test = """
def test_a_day():
    run(trio.sleep, 86400)

def test_deadlock():
    run(trio.sleep_forever)
"""
    outcome(pytester, test, passed=1, failed=1)
    text = outcome(pytester, test, "-o", "virtual_seconds=10", failed=2)
    assert "more than 10 virtual seconds" in text


def test_an_ini_option_puts_all_async_tests_into_virtual_time_but_those_marked(
    pytester: pytest.Pytester,
) -> None:
    test = """
async def test_virtual():
    await trio.sleep(3600)

@pytest.mark.real_time
class TestReal:
    async def test_real(self):
        await takes_a_moment()

    @pytest.mark.virtual_seconds(4000)
    async def test_the_marker_at_the_test_counts(self):
        await trio.sleep(3600)

    async def test_real_though_it_opens_a_session(self, reactor_session):
        await takes_a_moment()

@pytest.mark.real_time(0.1)
async def test_hangs_in_real_time():
    await trio.sleep_forever()

async def test_hangs_in_virtual_time():
    await trio.sleep_forever()

async def takes_a_moment():
    began = time.monotonic()
    await trio.sleep(0.05)
    assert time.monotonic() - began >= 0.05
"""
    text = outcome(pytester, test, "-o", "virtual_time=true", passed=4, failed=2)
    assert "TooSlowError" in text
    assert "TookTooLong: the test took more than 86400 virtual seconds" in text


def test_each_example_of_hypothesis_runs_by_the_same_clock_as_other_tests(pytester: pytest.Pytester) -> None:
    test = """
from hypothesis import given, settings, strategies as st

naps = st.floats(3000, 4000)

@pytest.mark.parametrize("times", [1, 2])
@settings(max_examples=5, database=None, deadline=None)
@given(seconds=naps)
async def test_a_session(times, seconds):
    async with open_session(Echo) as client:
        for _ in range(times):
            await client.call("nap", seconds=seconds)
    assert trio.current_time() == pytest.approx(times * seconds)

@pytest.mark.virtual_seconds(60)
@settings(max_examples=5, database=None, deadline=None)
@given(seconds=naps)
async def test_too_long(seconds):
    await trio.sleep(seconds)

@pytest.mark.real_time(0.1)
@settings(max_examples=5, database=None, deadline=None)
@given(seconds=naps)
async def test_in_real_time(seconds):
    await trio.sleep(seconds)
"""
    text = outcome(pytester, test, "-o", "virtual_time=true", passed=2, failed=2)
    assert "TookTooLong: the test took more than 60 virtual seconds" in text
    assert "TooSlowError" in text


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ("virtual_seconds", "test_it: virtual_seconds takes one number"),
        ("virtual_seconds('x')", "test_it: virtual_seconds takes one number"),
        ("real_time(1, 2)", "test_it: real_time takes one number"),
        ("may_outlive('thing')", "may_outlive knows task, thread"),
    ],
)
def test_a_wrong_marker_says_so(pytester: pytest.Pytester, marker: str, told: str) -> None:
    assert told in outcome(pytester, f"\n@pytest.mark.{marker}\ndef test_it(): ...\n", errors=1)


# ---- leaks

LEAKS = {
    "task": (
        """
class Leaky(ReactorModel):
    def load(self, config):
        self.nursery = config["nursery"]

    @event
    def start(self):
        self.nursery.start_soon(self.count, name="counting")

    async def count(self):
        await trio.sleep(3600)

def test_it():
    async def main():
        async with trio.open_nursery() as nursery:
            async with open_session(Leaky, {"nursery": nursery}) as client:
                await client.call("start")
            nursery.cancel_scope.cancel()
    run(main)
""",
        ["session-1: task 'counting' goes on at *test_*.py:*"],
    ),
    "thread": (
        """
class Leaky(ReactorModel):
    async def run(self):
        await self.connected.wait()
        await trio.to_thread.run_sync(blocking, abandon_on_cancel=True)

started, release = threading.Event(), threading.Event()

def blocking():
    started.set()
    release.wait(10)

@pytest.fixture(autouse=True)
def released():
    yield
    release.set()

def test_it():
    async def main():
        async with open_session(Leaky) as client:
            while not started.is_set():
                await trio.sleep(0.001)
    trio.run(main)
""",
        ["session-1: thread 'blocking from session-1/run' still runs"],
    ),
    "file": (
        """
def test_it(monkeypatch):
    async def forget(self): pass
    monkeypatch.setattr(uploads.Uploads, "close", forget)
    async def main():
        async with open_session(Echo, limits=Limits(spool_bytes=10)) as client:
            start = {"upload_id": "u", "name": "n", "mime_type": "m", "size": 100}
            await client.transport.send([
                encode_client_text("reactor.upload_start", start),
                encode_upload_chunk(UploadChunk("u", 0, bytes(100))),
            ])
            await trio.sleep(1)
    run(main)

from reactor_trio.protocol.binary import UploadChunk, encode_upload_chunk
from reactor_trio.protocol.text import encode_client_text
from reactor_trio.session.limits import Limits
""",
        ["session-1: temporary file * is open"],
    ),
    "channel": (
        """
def test_it():
    async def main():
        async with open_session(Echo) as client:
            client.session.inbox._waiting.clone()
    run(main)
""",
        ["session-1: sending end is open: inbox"],
    ),
    "outbox": (
        """
from reactor_trio.link.outbox import Outbox

def test_it(monkeypatch):
    monkeypatch.setattr(Outbox, "close", lambda self: None)
    async def main():
        async with open_session(Echo) as client:
            await client.call("echo", text="x")
    run(main)
""",
        ["session-1: the outbox is open"],
    ),
    "never run": (
        """
@pytest.mark.may_outlive()
def test_that_may():
    test_it()

def test_it():
    async def main():
        host = await load_host(Echo)
        host.session(memory_transport_pair()[0])
    run(main)
""",
        [
            "session-1: sending end is open: inbox (the session was made and never run)",
            "session-1: receiving end is open: inbox (the session was made and never run)",
            "session-1: the outbox is open (the session was made and never run)",
        ],
    ),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_what_outlives_its_session_fails_its_test_and_is_named(pytester: pytest.Pytester, kind: str) -> None:
    test, lines = LEAKS[kind]
    pytester.makepyfile(MODEL + test)
    result = pytester.runpytest_subprocess(
        "-p", PLUGIN, "-p", "pytest_trio.plugin", "-k", "test_it", timeout=TIMEOUT
    )
    result.assert_outcomes(failed=1, deselected=kind == "never run")
    result.stdout.fnmatch_lines(["this outlived its session:", *(f"  {line}" for line in lines)])
    assert str(result.stdout).count("session-1: ") == len(lines)


def test_a_test_may_say_what_it_leaves_behind(pytester: pytest.Pytester) -> None:
    marked = "\n@pytest.mark.may_outlive({})\ndef test_it("
    test = LEAKS["channel"][0]
    for arguments, counts in (("", {"passed": 1}), ("'channel'", {"passed": 1}), ("'task'", {"failed": 1})):
        outcome(pytester, test.replace("\ndef test_it(", marked.format(arguments)), **counts)


def test_a_failure_of_the_test_counts_and_the_leak_is_reported_beside_it(pytester: pytest.Pytester) -> None:
    test = LEAKS["channel"][0].replace("    run(main)", "    run(main)\n    assert 1 == 2")
    text = outcome(pytester, test, failed=1)
    assert "assert 1 == 2" in text
    assert "session-1: sending end is open" in text


def test_a_session_that_still_runs_in_another_thread_is_no_leak(pytester: pytest.Pytester) -> None:
    test = """
@pytest.fixture(scope="module")
def server():
    ready, stop = threading.Event(), threading.Event()

    async def main():
        async with open_session(Echo) as client:
            ready.set()
            while not stop.is_set():
                await trio.sleep(0.01)

    thread = threading.Thread(target=trio.run, args=[main])
    thread.start()
    ready.wait(10)
    yield
    stop.set()
    thread.join()

def test_it(server): ...
"""
    outcome(pytester, test, passed=1)
