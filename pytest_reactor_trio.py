"""The pytest plugin of `reactor_trio.testing`: virtual time for tests, and no leak goes unseen.

It is a module of its own, outside the package, because pytest imports it at the start of a run: to import
anything of `reactor_trio` is to import NumPy and Trio, and most tests have no use for it. What it does
is in `reactor_trio/testing`, which is imported by the first test that needs it.

- fixture `reactor_session`: `open_session`, in virtual time also in an async test (with pytest-trio);
- fixture `virtual_clock`: a clock that jumps over waiting; tests of pytest-trio that ask for it run under it;
- marker `virtual_seconds(n)`: the test fails when it takes longer; without it a virtual day is allowed (the
  ini option `virtual_seconds` says otherwise), so that a deadlock fails instead of hanging;
- each test fails that leaves something of a session behind; marker `may_outlive(...)` lets it.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from trio.testing import MockClock

    from reactor_trio.testing import LeakWatch

DAY = "86400"
KINDS = ("task", "thread", "file", "channel", "outbox")

# Typed by its value: the type itself is not there to be imported.
_watch: pytest.StashKey[LeakWatch] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini option `virtual_seconds`."""
    parser.addini(
        "virtual_seconds",
        "reactor_trio: virtual seconds that a test may take, unless its marker says otherwise (0: no limit)",
        default=DAY,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line(
        "markers",
        "virtual_seconds(seconds): reactor_trio: the test fails if a run of it takes more virtual seconds",
    )
    config.addinivalue_line(
        "markers",
        f"may_outlive(*kinds): reactor_trio: the test may leave these behind: {', '.join(KINDS)}; without "
        "arguments anything",
    )


@pytest.fixture
def virtual_clock() -> MockClock:
    """A clock whose time passes only while every task waits: then it jumps to the next deadline.

    An async test of pytest-trio that asks for it runs under it. Elsewhere: `run(main, clock=virtual_clock)`.
    """
    from trio.testing import MockClock

    return MockClock(autojump_threshold=0)


@pytest.fixture
def reactor_session(virtual_clock: MockClock) -> Callable[..., Any]:
    """`reactor_trio.testing.open_session`; an async test that asks for it runs in virtual time.

    The order in which ready tasks run is the same in each run of the test.
    """
    from reactor_trio.testing import open_session

    return open_session


# ---- around each test


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Watch the sessions that the test and its fixtures make; let an async test run in virtual time."""
    wants_virtual_time = _wants_virtual_time(item)
    if "reactor_trio" in sys.modules or wants_virtual_time:  # else there is nothing to watch
        from reactor_trio.testing import LeakWatch

        item.stash[_watch] = LeakWatch().__enter__()
    result = yield
    # Wrong markers fail here, once pytest has set up what its teardown expects.
    _kinds(item)
    _marked_seconds(item)
    if _is_async(item) and (item.get_closest_marker("virtual_seconds") or wants_virtual_time):
        item.add_marker(pytest.mark.trio(run=_runner(item)), append=False)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run the test within its virtual seconds, then look for what outlived its session."""
    if _watch not in item.stash:
        return (yield)
    from reactor_trio.testing.deterministic import virtual_limit

    try:
        with virtual_limit(_seconds(item)):
            result = yield
    except BaseException:
        # The test's own failure counts; what it left behind may be why, or may come from it.
        if leaks := _leaks(item):
            item.add_report_section("call", "reactor_trio", leaks)
        raise
    if leaks := _leaks(item):
        pytest.fail(leaks, pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Watch no longer."""
    try:
        return (yield)
    finally:
        watch = item.stash.get(_watch, None)
        if watch is not None:
            del item.stash[_watch]
            watch.__exit__(None, None, None)


# ---- virtual time


def _is_async(item: pytest.Item) -> bool:
    """Whether pytest-trio runs it."""
    is_coroutine = inspect.iscoroutinefunction(getattr(item, "obj", None))
    return is_coroutine and item.get_closest_marker("trio") is not None


def _wants_virtual_time(item: pytest.Item) -> bool:
    return bool({"virtual_clock", "reactor_session"} & set(getattr(item, "fixturenames", ())))


def _runner(item: pytest.Item) -> Callable[..., Any]:
    """What pytest-trio calls instead of `trio.run`; `clock` is that of a fixture which the test asked for."""

    def run_virtually(async_fn: Callable[..., Any], *, clock: Any = None, instruments: Any = ()) -> Any:
        from reactor_trio.testing.deterministic import run

        clock = clock or getattr(item, "funcargs", {}).get("virtual_clock")
        return run(async_fn, clock=clock, instruments=instruments)

    return run_virtually


def _seconds(item: pytest.Item) -> float | None:
    seconds = _marked_seconds(item)
    return seconds if seconds is not None else float(item.config.getini("virtual_seconds")) or None


def _marked_seconds(item: pytest.Item) -> float | None:
    marker = item.get_closest_marker("virtual_seconds")
    if marker is None:
        return None
    if len(marker.args) != 1 or marker.kwargs or not isinstance(marker.args[0], int | float):
        raise pytest.UsageError(f"{item.nodeid}: virtual_seconds takes one number of seconds")
    return float(marker.args[0])


# ---- what outlives its session


def _kinds(item: pytest.Item) -> tuple[str, ...]:
    """Kinds of things that this test may leave behind."""
    marker = item.get_closest_marker("may_outlive")
    if marker is None:
        return ()
    unknown = [kind for kind in marker.args if kind not in KINDS]
    if unknown:
        raise pytest.UsageError(
            f"{item.nodeid}: may_outlive knows {', '.join(KINDS)}, not {', '.join(map(str, unknown))}"
        )
    return marker.args or KINDS


def _leaks(item: pytest.Item) -> str:
    allowed = _kinds(item)
    leaks = [leak for leak in item.stash[_watch].leaks() if leak.kind not in allowed]
    if not leaks:
        return ""
    return "\n".join(["this outlived its session:", *(f"  {leak}" for leak in leaks)])
