"""A nursery behind a public context manager: what leaves it is what the caller would expect."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


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
