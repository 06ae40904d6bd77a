"""The pytest plugin of `reactor_trio.testing`: virtual time for tests, and no leak goes unseen.

The plugin is a module of its own, outside the package, because pytest imports it at the start of a run: to
import anything of `reactor_trio` is to import NumPy and Trio, and most tests have no use for them. The work
is done in `reactor_trio/testing`, which the first test that needs it imports.

- fixture `reactor_session`: `open_session`, in virtual time also in an async test (with pytest-trio);
- fixture `virtual_clock`: a clock that jumps over waiting; tests of pytest-trio that ask for it run under it;
- ini option `virtual_time`: all async tests run in virtual time, whatever fixtures they ask for;
- marker `virtual_seconds(n)`: the test fails when it takes longer; without it a virtual day is allowed (the
  ini option `virtual_seconds` says otherwise), so that a deadlock fails instead of hanging;
- marker `real_time(n)`: the async test runs in real time, and fails when it takes longer than n seconds (60);
- each test fails that leaves something of a session behind; marker `may_outlive(...)` lets it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from trio.testing import MockClock

    from reactor_trio.testing import LeakWatch

DAY = "86400"
REAL_SECONDS = 60.0
"""What a test in real time may take, unless its marker says otherwise."""
KINDS = ("task", "thread", "file", "channel", "outbox")

# Typed by its value: the type itself is not there to be imported.
_watch: pytest.StashKey[LeakWatch] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini options `virtual_seconds` and `virtual_time`."""
    parser.addini(
        "virtual_seconds",
        "reactor_trio: virtual seconds that a test may take, unless its marker says otherwise (0: no limit)",
        default=DAY,
    )
    parser.addini(
        "virtual_time",
        "reactor_trio: async tests run in virtual time, unless they have the marker real_time",
        type="bool",
        default=False,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line(
        "markers",
        "virtual_seconds(seconds): reactor_trio: the test fails if a run of it takes more virtual seconds",
    )
    config.addinivalue_line(
        "markers",
        "real_time(seconds=60): reactor_trio: the async test runs in real time, and fails if it takes longer",
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
    """Watch the sessions that the test and its fixtures make; choose the clock of an async test."""
    if "reactor_trio" in sys.modules or _asks_for_virtual_time(item):  # else there is nothing to watch
        from reactor_trio.testing import LeakWatch

        item.stash[_watch] = LeakWatch().__enter__()
    result = yield
    # Wrong markers fail here, once pytest has set up what its teardown expects.
    _kinds(item)
    _marked_seconds(item, "virtual_seconds")
    _marked_seconds(item, "real_time", REAL_SECONDS)
    if _is_async(item):
        _choose_clock(item)
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
    """Whether pytest-trio runs the test."""
    return inspect.iscoroutinefunction(_function(item)) and item.get_closest_marker("trio") is not None


def _function(item: pytest.Item) -> Callable[..., Any] | None:
    """The test's function. Of a test of Hypothesis: the one that is called with each example."""
    function = getattr(item, "obj", None)
    if _is_of_hypothesis(item):
        function = item.obj.hypothesis.inner_test  # type: ignore[attr-defined]
    # The parameters of one test share it, and each wraps it for its own run.
    return getattr(function, "_reactor_trio_wraps", function)


def _is_of_hypothesis(item: pytest.Item) -> bool:
    return hasattr(getattr(item, "obj", None), "hypothesis")


def _asks_for_virtual_time(item: pytest.Item) -> bool:
    return bool({"virtual_clock", "reactor_session"} & set(getattr(item, "fixturenames", ())))


def _choose_clock(item: pytest.Item) -> None:
    # Of a marker at the test and one at its class or module, the one at the test counts.
    marked = next((each.name for each in item.iter_markers() if each.name in _TIMES), None)
    is_virtual = _asks_for_virtual_time(item) or item.config.getini("virtual_time")
    if marked == "real_time":
        _run_by(item, _real_runner(_marked_seconds(item, "real_time", REAL_SECONDS)))
    elif marked == "virtual_seconds" or is_virtual:
        _run_by(item, _virtual_runner(item))


_TIMES = ("virtual_seconds", "real_time")


def _run_by(item: pytest.Item, run: Callable[..., Any]) -> None:
    """Let pytest-trio run the test by `run`, in place of `trio.run`."""
    if not _is_of_hypothesis(item):
        item.add_marker(pytest.mark.trio(run=run), append=False)
        return
    function = _function(item)
    assert function is not None

    # pytest-trio runs examples by `trio.run`, whatever its marker says.
    @functools.wraps(function)
    def run_example(**arguments: Any) -> Any:
        return run(functools.partial(function, **arguments), clock=arguments.get("virtual_clock"))

    run_example._reactor_trio_wraps = function  # type: ignore[attr-defined]
    # How pytest-trio marks a function that needs no more work; a test tells if a new one does not.
    run_example._trio_test_runner_wrapped = True  # type: ignore[attr-defined]
    item.obj.hypothesis.inner_test = run_example  # type: ignore[attr-defined]


def _virtual_runner(item: pytest.Item) -> Callable[..., Any]:
    """A function to call instead of `trio.run`; `clock` is that of a fixture which the test asked for."""

    def run_virtually(async_fn: Callable[..., Any], *, clock: Any = None, instruments: Any = ()) -> Any:
        from reactor_trio.testing.deterministic import run

        if clock is None and not _is_of_hypothesis(item):  # each of whose examples begins at 0
            clock = getattr(item, "funcargs", {}).get("virtual_clock")
        return run(async_fn, clock=clock, instruments=instruments)

    return run_virtually


def _real_runner(seconds: float | None) -> Callable[..., Any]:
    """A function to call instead of `trio.run`, with a deadline."""

    def run_really(async_fn: Callable[..., Any], *, clock: Any = None, instruments: Any = ()) -> Any:
        import trio

        async def main() -> Any:
            with trio.fail_after(seconds or REAL_SECONDS):
                return await async_fn()

        return trio.run(main, clock=clock, instruments=instruments)

    return run_really


def _seconds(item: pytest.Item) -> float | None:
    seconds = _marked_seconds(item, "virtual_seconds")
    return seconds if seconds is not None else float(item.config.getini("virtual_seconds")) or None


def _marked_seconds(item: pytest.Item, name: str, default: float | None = None) -> float | None:
    """The number of seconds that a marker gives; None if the test has no such marker.

    Raises `pytest.UsageError` if it gives none and there is no default, or something else.
    """
    marker = item.get_closest_marker(name)
    if marker is None:
        return None
    arguments = marker.args if marker.args or default is None else (default,)
    if len(arguments) != 1 or marker.kwargs or not isinstance(arguments[0], int | float):
        raise pytest.UsageError(f"{item.nodeid}: {name} takes one number of seconds")
    return float(arguments[0])


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
