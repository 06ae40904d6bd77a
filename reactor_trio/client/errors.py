"""What can go wrong for a client beyond the errors of `reactor_trio.errors`, where the tree is drawn."""

from __future__ import annotations

from reactor_trio.errors import CommandError, ReactorError, TransportClosed
from reactor_trio.protocol.names import SUPERSEDED


class Superseded(CommandError):
    """A later command of the same deduplicated event replaced this one before its handler ran.

    It is no fault of anyone's: whoever sends many values of a slider catches it and goes on.
    """

    def __init__(self, event: str) -> None:
        code = SUPERSEDED.rpartition(".")[2]
        super().__init__(code, "a later command of this event replaced this one", event=event)


class HandshakeFailed(ReactorError):
    """There is a server, but it did not let this client in, or it is no reactor server.

    `status` is the HTTP status of a refusal (401 wrong token, 403 wrong Origin, 426 no WebSocket at this
    path, 503 full, loading or draining), None where the handshake did not get that far; `body` is the
    text of the answer, `retry_after` the seconds that a busy server asks to wait.
    """

    def __init__(
        self, reason: str, *, status: int | None = None, body: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.body = body
        self.retry_after = retry_after

    def __str__(self) -> str:
        said = f": {self.body}" if self.body else ""
        return f"HTTP {self.status} {self.reason}{said}" if self.status is not None else self.reason


def again(closed: TransportClosed) -> TransportClosed:
    """The same error anew: one object raised in several tasks would collect all their tracebacks."""
    return type(closed)(closed.code, closed.reason)
