"""What author's code may raise, and what is not ours to stop.

A failure of a model ends at its session: exceptions, groups of them from nurseries the author opened, and
`SystemExit`, which would take every other session down. `Cancelled` and `KeyboardInterrupt` travel on.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from reactor_trio.errors import BufferClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OURS = (Exception, SystemExit)


@contextmanager
def contained(on_failure: Callable[[BaseException], None]) -> Iterator[None]:
    """Hand a failure in the block to `on_failure`; let everything else through."""
    try:
        yield
    except OURS as failure:
        on_failure(unwrap(failure))
    except BaseExceptionGroup as group:
        failures, rest = group.split(OURS)
        if failures is not None:
            on_failure(unwrap(failures))
        if rest is not None:
            raise rest from None


def is_client_gone(failure: BaseException) -> bool:
    """Whether it says no more than that there is no client left to read from."""
    if isinstance(failure, BaseExceptionGroup):
        return all(map(is_client_gone, failure.exceptions))
    return isinstance(failure, BufferClosed)


def unwrap(failure: BaseException) -> BaseException:
    """The one exception in a group of one, however deep; anything else as it is."""
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    return failure
