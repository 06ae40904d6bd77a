"""How log lines look, and what never stands in one."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import orjson
import pytest
import structlog

from reactor_trio.server.logs import LogFormat, configure_logging


@pytest.fixture(autouse=True)
def structlog_as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def log_a_failure() -> None:
    token = "s3cret" + "-local"
    try:
        raise ZeroDivisionError(len(token))
    except ZeroDivisionError:
        structlog.get_logger().exception("it failed", address="127.0.0.1:1")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_failure_is_logged_to_stderr_without_local_variables(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(log_format)
    log_a_failure()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ZeroDivisionError" in captured.err
    assert "s3cret-local" not in captured.err
    assert "\x1b" not in captured.err  # no colours: pytest's stderr is no terminal
    assert not sys.stderr.isatty()


def test_json_is_one_object_a_line_and_levels_are_heeded(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "warning")
    structlog.get_logger().info("not this")
    log_a_failure()
    (line,) = capsys.readouterr().err.splitlines()
    entry = orjson.loads(line)
    assert (entry["event"], entry["level"], entry["address"]) == ("it failed", "error", "127.0.0.1:1")
