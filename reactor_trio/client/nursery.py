"""Nurseries behind a public context manager: what leaves them is what the caller would expect."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator


@asynccontextmanager
async def open_plain_nursery() -> AsyncGenerator[trio.Nursery]:
    """A nursery out of which a lone exception comes as itself, and not in a group of one.

    So `except TransportClosed` round `async with open_client(...)` works. A group that the body itself
    raised stays the group that it is; several exceptions at once stay together.
    """
    alone: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        alone = group.exceptions[0]
    if alone is not None:
        raise alone


@contextmanager
def bare_interrupts() -> Generator[None]:
    """Lets a lone `KeyboardInterrupt` out of the nursery of a lower layer, which keeps only `Exception`s bare."""
    alone: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1 or not isinstance(group.exceptions[0], KeyboardInterrupt):
            raise
        alone = group.exceptions[0]
    if alone is not None:
        raise alone
