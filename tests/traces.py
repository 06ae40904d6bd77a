"""The traces that a session may leave: temporary files, and errors in the log."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def temporary_files() -> Iterator[list[Any]]:
    """Collects the temporary files that are made in the context."""
    made: list[Any] = []
    real = tempfile.TemporaryFile

    def temporary_file(**options: Any) -> Any:
        made.append(real(**options))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", temporary_file)
        yield made


@contextmanager
def logged_errors() -> Iterator[list[dict[str, Any]]]:
    """Collects the log entries that are errors, from any thread; no entry is printed."""
    found: list[dict[str, Any]] = []

    def note(logger: object, method: str, event_dict: dict[str, Any]) -> Any:
        if method in ("error", "critical", "exception"):
            found.append(event_dict)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[note])
    try:
        yield found
    finally:
        structlog.configure(**before)


async def kept_cancelled() -> trio.Cancelled:
    """A `Cancelled` that was caught and kept after its scope had ended."""
    kept: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            kept.append(cancelled)
            raise
    return kept.pop()
