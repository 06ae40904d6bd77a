"""A nursery for context managers around a caller's code: exceptions come out as they were raised.

A connection, the Python client and the sessions in memory of the test kit each open one.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@asynccontextmanager
async def open_plain_nursery() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery out of which a single exception comes as itself, not in a group of one.

    So `except TransportClosed` around `async with open_client(...)` works. A group that the body itself
    raised comes out as this group, and several exceptions at once come out in the nursery's group.
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
