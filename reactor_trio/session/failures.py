"""What author's code may raise, and what is not ours to stop.

A failure of a model ends at its session or request, whatever class it is of: not only an `Exception`, but
also `SystemExit`, a panic of a library written in Rust, `asyncio.CancelledError`, a `GeneratorExit` that
somebody raised, an author's own `BaseException`, and groups of them. Only these travel on:

- `Cancelled`, if a scope around us is cancelled. One that was kept and raised again, with no such scope, is a
  failure like any other: Trio would end the nursery around it, in silence;
- `KeyboardInterrupt`, the operator's Ctrl-C. Where the process takes SIGINT itself, as `reactor-trio serve`
  does, no Ctrl-C is ever raised: what is, is the author's own doing, and a failure (`interrupts_are_raised`);
- the `GeneratorExit` that Python throws into a coroutine which is closed where it waits.
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
"""Whether a Ctrl-C may arrive as `KeyboardInterrupt`; for a task and all that it starts."""


class contained:  # noqa: N801  used as a function is
    """Hand a failure in the block to `on_failure`; let what travels on through.

    Of a group that holds both, the failure is handled first.
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
    """What ends here, as `unwrap` gives it, and what travels on; one of the two may be None."""
    if not isinstance(raised, BaseExceptionGroup):
        travels = not _ends_here(raised) or _is_thrown_by_close(raised)
        return (None, raised) if travels else (raised, None)
    failures, rest = raised.split(_ends_here)
    return (None if failures is None else unwrap(failures)), rest


def _ends_here(raised: BaseException) -> bool:
    match raised:
        case BaseExceptionGroup():
            return False  # its members are asked
        case trio.Cancelled():
            return not _is_cancelled()
        case KeyboardInterrupt():
            return not interrupts_are_raised.get()
    return True


def _is_cancelled() -> bool:
    """Whether a scope around this task, as far as the next shield, is cancelled."""
    return not trio.lowlevel.in_trio_task() or trio.current_effective_deadline() == -math.inf


def _is_thrown_by_close(raised: BaseException) -> bool:
    # Of coroutines that await each other the innermost is closed first. So it begins anew in each of them,
    # and has not come through the frame of another function, as one does that somebody has raised.
    traceback = raised.__traceback__
    return isinstance(raised, GeneratorExit) and traceback is not None and traceback.tb_next is None


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
