"""`Call`: the coroutine that `send`, `emit` and `compute` return. It reports a forgotten `await`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from reactor_trio.logs.logger import get_logger

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import CodeType, TracebackType

    from reactor_trio.model.ports import SessionPort

T = TypeVar("T")

log = get_logger(__name__)

_LOST = {
    "send": "the message was not sent",
    "emit": "nothing was shown",
    "compute": "nothing was computed",
}

_IN_GENERATOR = {
    "send": "`yield` the message itself, or write `async def inference`",
    "emit": "`yield` the output itself",
    "compute": "call the function itself: a plain `inference` runs in a worker thread already",
}


class Caller(Protocol):
    """The model whose method was called."""

    _reactor_port: SessionPort | None


class Call(Coroutine[Any, Any, T]):
    """The coroutine of a call. It logs an error if it is dropped and was never awaited.

    Python's own warning names, in most cases, neither the line of the model nor the remedy. The class is a
    `Coroutine`, since `nursery.start_soon(self.send, message)` takes no other awaitable.
    """

    __slots__ = ("_begun", "_code", "_coroutine", "_lasti", "_method", "_model")

    def __init__(self, model: Caller, method: str, coroutine: Coroutine[Any, Any, T]) -> None:
        self._model = model
        self._method = method
        self._coroutine = coroutine
        self._begun = False
        # The code that called the model's method. Its line is looked up only if it is needed. The frame is
        # not kept, as it would keep its local variables alive.
        frame = sys._getframe(2)
        self._code, self._lasti = frame.f_code, frame.f_lasti

    @property
    def method(self) -> str:
        """The name of the method that was called."""
        return self._method

    def __await__(self) -> Generator[Any, Any, T]:
        self._begun = True
        return self._coroutine.__await__()

    def send(self, value: Any, /) -> Any:
        """See `Coroutine`."""
        self._begun = True
        return self._coroutine.send(value)

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
        /,
    ) -> Any:
        """See `Coroutine`."""
        self._begun = True
        if isinstance(typ, BaseException):  # the form that does not warn from Python 3.12 on
            return self._coroutine.throw(typ)
        return self._coroutine.throw(typ, val, tb)

    def close(self) -> None:
        """See `Coroutine`."""
        self._begun = True
        self._coroutine.close()

    def __del__(self) -> None:
        if self._begun:
            return
        self._coroutine.close()  # Python would warn as well
        model, method = self._model, self._method
        where = f"{self._code.co_filename}:{_line(self._code, self._lasti)}"
        # Once for each place and session, as the call may be in a loop.
        told: set[str] = vars(model).setdefault("_reactor_told", set())
        if where in told:
            return
        told.add(where)
        session = model._reactor_port
        log.error(
            f"`await` is missing before self.{method}(...): {_LOST[method]}",
            model=type(model).__name__,
            where=where,
            remedy=_remedy(method, self._code),
            **({} if session is None else {"session_id": session.client.id}),
        )


def _remedy(method: str, code: CodeType) -> str:
    if code.co_flags & inspect.CO_GENERATOR:  # a plain `inference` of a ReactorPipeline cannot await
        return _IN_GENERATOR[method]
    return f"write `await self.{method}(...)`, in an `async def` method"


def _line(code: CodeType, lasti: int) -> int:
    lines = (line for start, end, line in code.co_lines() if start <= lasti < end and line is not None)
    return next(lines, code.co_firstlineno)
