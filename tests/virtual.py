"""Tests in virtual time: `@virtually` runs an async test deterministically, and fails it if it hangs."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import trio

from reactor_trio.testing import run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DEADLINE = 3600.0
"""Virtual seconds after which a test hangs."""


def virtually(async_fn: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a plain test of an async one; its parameters stay pytest's fixtures and parameters."""

    @functools.wraps(async_fn)
    def test(**arguments: Any) -> None:
        async def main() -> None:
            with trio.fail_after(DEADLINE):
                await async_fn(**arguments)

        run(main)

    # pytest-trio and pytest look through wrappers: this one is no coroutine function.
    test.__signature__ = inspect.signature(async_fn)  # type: ignore[attr-defined]
    del test.__wrapped__  # type: ignore[attr-defined]
    return test
