"""`Transport` over the WebSocket of an ASGI server, which itself speaks the protocol to the client.

ASGI gives whole messages and an event for the end of the connection. It lacks four things:

- Pings. The ASGI server has its own, and says by `websocket.disconnect` that a client is lost.
- Progress. `send` returns when a whole message was accepted, and says nothing of its bytes. So a client that
  takes longer than `send_timeout` for one message counts as one that accepts nothing.
- A write without waiting. So `send_nowait` takes no messages.
- A close by force. The ASGI call returns, and the server closes the socket at a time of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from reactor_trio.errors import TransportClosed, TransportStalled
from reactor_trio.protocol.names import CloseCode
from reactor_trio.wire.asgi_calls import DISCONNECT
from reactor_trio.wire.transport import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactor_trio.wire.asgi_calls import Calls, Event
    from reactor_trio.wire.transport import Outgoing

LINGER_SECONDS = 1.0
"""Seconds that the ASGI server has to say how a connection has ended."""


class AsgiTransport:
    """A WebSocket that was accepted; `Transport` says what each method promises.

    `send_timeout` is in seconds. A message of more than `max_message_bytes` bytes ends the connection with
    1009.
    """

    def __init__(self, calls: Calls, *, send_timeout: float, max_message_bytes: int) -> None:
        self._calls = calls
        self._send_timeout = send_timeout
        self._max_message_bytes = max_message_bytes
        self._received: list[str | bytes] = []
        # How the connection has ended, or is about to end. No event is sent once it is set.
        self._closed: TransportClosed | None = None
        # Whether the end has been reached: no more events are taken.
        self._ended = False
        # The code and reason of a refusal. The client is told once the messages before it are received.
        self._refusal: TransportClosed | None = None
        self._writing = trio.Lock()
        # The scope of the write that is under way, which `abort` cancels.
        self._write_scope: trio.CancelScope | None = None

    @property
    def last_received(self) -> float:
        """See `Transport`: always now."""
        return trio.current_time()

    # ---- reading

    async def receive(self) -> Sequence[str | bytes]:
        """See `Transport`."""
        await trio.lowlevel.checkpoint()
        while True:
            self._read()
            if self._received:
                messages, self._received = self._received, []
                return messages
            if self._refusal is not None:
                await self._refuse(self._refusal)
            if self._ended:
                raise self._again()
            await self._calls.wait()

    def _read(self) -> None:
        """Take the events that have arrived."""
        for event in self._calls.take():
            if event["type"] == DISCONNECT:
                self._end(
                    TransportClosed(event.get("code") or CloseCode.NO_STATUS, event.get("reason") or "")
                )
            elif event["type"] == "websocket.receive" and self._closed is None and self._refusal is None:
                self._take(event)

    def _take(self, event: Event) -> None:
        text: str | None = event.get("text")
        message = event["bytes"] if text is None else text
        is_short = len(message) * (1 if text is None else 4) <= self._max_message_bytes
        if not is_short and len(message if text is None else text.encode()) > self._max_message_bytes:
            reason = f"a message may have {self._max_message_bytes} bytes"
            self._refusal = TransportClosed(CloseCode.MESSAGE_TOO_BIG, reason)
        else:
            self._received.append(message)

    async def _refuse(self, refusal: TransportClosed) -> None:
        self._refusal = None
        with trio.move_on_after(LINGER_SECONDS):
            await self.aclose(refusal.code, refusal.reason)
        self._end(refusal)

    # ---- writing

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """See `Transport`."""
        async with self._writing:
            self._check_open()
            if messages:
                await self._write([_event(message) for message in messages])

    def send_nowait(self, messages: Sequence[Outgoing]) -> bool:
        """See `Transport`: ASGI cannot write without waiting."""
        return False

    @property
    def has_unsent(self) -> bool:
        """See `Transport`."""
        return False

    async def ping(self) -> None:
        """See `Transport`. Nothing is written: the ASGI server pings the client itself."""
        await trio.lowlevel.checkpoint()
        self._check_open()

    async def _write(self, events: list[Event]) -> None:
        is_sent = is_lost = False
        try:
            with trio.CancelScope() as self._write_scope:
                await self._calls.send(events, self._send_timeout)
                is_sent = True
        except trio.TooSlowError:
            reason = f"no message was accepted for {self._send_timeout:g} s"
            self._end(TransportStalled(CloseCode.ABNORMAL, reason))
        except TransportClosed:
            is_lost = True
        finally:
            self._write_scope = None
            if not (is_sent or is_lost):  # also if cancelled: some of the events may have been sent
                self._end(TransportClosed(CloseCode.ABNORMAL, "a write was cut short"))
        if is_lost:
            await self._hear_why()
        if not is_sent:
            raise self._again()

    async def _hear_why(self) -> None:
        """Wait a moment for the event that says how the connection ended. Messages are kept for `receive`."""
        with trio.move_on_after(LINGER_SECONDS):
            while not self._ended:
                self._read()
                if not self._ended:
                    await self._calls.wait()
        self._end(TransportClosed(CloseCode.ABNORMAL, "connection lost"))

    def _check_open(self) -> None:
        if self._closed is not None:
            raise self._again()

    # ---- the end

    async def aclose(self, code: int, reason: str) -> None:
        """See `Transport`. The ASGI server waits for the client; its last event ends the wait here."""
        try:
            async with self._writing:
                if self._closed is not None:
                    return
                self._closed = TransportClosed(code, reason)
                await self._write([{"type": "websocket.close", "code": code, "reason": reason}])
            with trio.move_on_after(LINGER_SECONDS):
                while not self._ended:
                    self._read()
                    if not self._ended:
                        await self._calls.wait()
        except TransportClosed:
            pass
        finally:
            self._end(TransportClosed(CloseCode.ABNORMAL, "closed by force"))

    async def abort(self) -> None:
        """See `Transport`. No event is sent any more; the caller must let the ASGI call return."""
        self._end(TransportClosed(CloseCode.ABNORMAL, "closed by force"))
        if self._write_scope is not None:
            self._write_scope.cancel(reason="the connection was closed by force")
        await trio.lowlevel.checkpoint()

    def _end(self, closed: TransportClosed) -> None:
        """Remember how the connection ended, unless that is known already."""
        self._closed = self._closed or closed
        self._ended = True
        self._calls.wake()

    def _again(self) -> TransportClosed:
        """A new error each time, since the traceback of one that is raised twice would grow."""
        assert self._closed is not None
        return type(self._closed)(self._closed.code, self._closed.reason)


def _event(message: Outgoing) -> Event:
    data = whole(message)
    return {"type": "websocket.send", ("text" if isinstance(data, str) else "bytes"): data}
