"""Contains the failures of author's code, and lets the exceptions of Trio and Python pass.

A failure of a model ends its session or request and nothing else, whatever its class: not only an
`Exception`, but also `SystemExit`, a panic of a library written in Rust, `asyncio.CancelledError`, a
`GeneratorExit` that author's code raised, an author's own `BaseException`, and groups of these. Only three
exceptions propagate:

- `Cancelled`, if a scope around the task is cancelled. A `Cancelled` that author's code kept and raised again
  without such a scope is a failure: Trio would end the nursery around it without an error;
- `KeyboardInterrupt`, the operator's Ctrl-C. If the process handles SIGINT itself, as `reactor-trio serve`
  does, Ctrl-C raises no exception; a `KeyboardInterrupt` then comes from the author's code, and is a failure
  (`interrupts_are_raised`);
- the `GeneratorExit` that Python raises in a coroutine that is closed while it waits.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio

from reactor_trio.errors import BufferClosed

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

interrupts_are_raised: ContextVar[bool] = ContextVar("interrupts_are_raised", default=True)
"""Whether Ctrl-C may raise `KeyboardInterrupt`. A context variable: tasks inherit it from their parent."""


class contained:  # noqa: N801  used like a function
    """A context manager: passes a failure of its block to `on_failure`, lets other exceptions propagate.

    If a group holds both, `on_failure` is called first, and the rest of the group is raised then.
    """

    __slots__ = ("_on_failure",)

    def __init__(self, on_failure: Callable[[BaseException], object]) -> None:
        self._on_failure = on_failure

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if raised is None:
            return False
        failure, rest = split(raised)
        if failure is None:
            return False
        self._on_failure(failure)
        if rest is not None:
            raise rest from None
        return True


def split(raised: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Split an exception into the failure, unwrapped by `unwrap`, and the part that must propagate.

    One of the two is None if the exception has no such part.
    """
    if not isinstance(raised, BaseExceptionGroup):
        travels = not _ends_here(raised) or _is_thrown_by_close(raised)
        return (None, raised) if travels else (raised, None)
    failures, rest = raised.split(_ends_here)
    return (None if failures is None else unwrap(failures)), rest


def _ends_here(raised: BaseException) -> bool:
    match raised:
        case BaseExceptionGroup():
            return False  # `BaseExceptionGroup.split` calls this for the members
        case trio.Cancelled():
            return not _is_cancelled()
        case KeyboardInterrupt():
            return not interrupts_are_raised.get()
    return True


def _is_cancelled() -> bool:
    """Whether a cancel scope around this code, up to the next shield, is cancelled."""
    return not trio.lowlevel.in_trio_task() or trio.current_effective_deadline() == -math.inf


def _is_thrown_by_close(raised: BaseException) -> bool:
    # Python closes the innermost of the coroutines that await each other first, and raises a new
    # `GeneratorExit` in each. So its traceback has one frame; a `GeneratorExit` that author's code raised has
    # come through the frames of other functions.
    traceback = raised.__traceback__
    return isinstance(raised, GeneratorExit) and traceback is not None and traceback.tb_next is None


def is_client_gone(failure: BaseException) -> bool:
    """Whether the failure is a `BufferClosed`, or a group of nothing else: the client has left."""
    if isinstance(failure, BaseExceptionGroup):
        return all(map(is_client_gone, failure.exceptions))
    return isinstance(failure, BufferClosed)


def unwrap(failure: BaseException) -> BaseException:
    """Return the only exception in a group of one, however deeply nested; other exceptions unchanged."""
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    return failure
