"""The answers that calls wait for: one `id`, one answer (docs/design.md#text-messages)."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from reactor_trio.client.errors import again

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reactor_trio.errors import TransportClosed
    from reactor_trio.protocol import server_messages
    from reactor_trio.protocol.text import Id


class Answer:
    """One answer that a call waits for."""

    def __init__(self, id_: int) -> None:
        self.id = id_
        # Cancelled when the answer is there, or the connection has ended: an upload sends its chunks inside.
        self.until = trio.CancelScope()
        # Set by `put`, for an answer or for the end of the connection; the caller waits for it.
        self._done = trio.Event()
        self._result: server_messages.Answer | TransportClosed | None = None

    def put(self, result: server_messages.Answer | TransportClosed) -> None:
        """Give the caller its answer, or the error with which the connection has ended."""
        self._result = result
        self._done.set()
        self.until.cancel(reason="the answer is there")

    async def wait(self) -> server_messages.Answer:
        """Wait for the answer. Raises `TransportClosed` if the connection ends before it came."""
        await self._done.wait()
        if isinstance(self._result, Exception):
            raise again(self._result)
        assert self._result is not None  # since `_done` is set
        return self._result


class Answers:
    """All answers that calls wait for. An answer to a call that was cancelled is dropped in silence."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._waiting: dict[Id | None, Answer] = {}

    @contextmanager
    def expect(self) -> Iterator[Answer]:
        """Make a new id, and expect its answer within the `with` block."""
        answer = Answer(next(self._ids))
        self._waiting[answer.id] = answer
        try:
            yield answer
        finally:
            self._waiting.pop(answer.id, None)

    def put(self, message: server_messages.Answer) -> None:
        """Give an answer to the call that waits for it, if any does."""
        answer = self._waiting.pop(message.reply_to, None)
        if answer is not None:
            answer.put(message)

    def fail(self, closed: TransportClosed) -> None:
        """The connection has ended: fail all calls that wait for an answer."""
        for answer in self._waiting.values():
            answer.put(closed)
        self._waiting.clear()
