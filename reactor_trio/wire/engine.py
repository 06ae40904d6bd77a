"""The engine of a WebSocket: all that this project takes from trio-websocket and wsproto.

trio-websocket answers a client's handshake (`WebSocketRequest.accept`). Its own engine, wsproto's
`WSConnection`, composes a client's handshake and checks the answer, masks a client's frames, composes pings
and close frames, checks the close frames that arrive, and knows the state of the connection. `framing` reads
all data frames and composes those of a server.

Private names of the two libraries that are used: 0, here and in all of the package.
`tests/test_engine.py` keeps it so, and fails if a new version lacks one of the public ones. Only this module
and `foreign_errors`, which names their exceptions, import the libraries.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

import attrs
from trio_websocket import WebSocketConnection, WebSocketRequest
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from reactor_trio.errors import HandshakeFailed
from reactor_trio.wire.foreign_errors import ENGINE, REQUEST
from reactor_trio.wire.framing import encode_frame, encode_pong
from reactor_trio.wire.transport import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from reactor_trio.wire.streams import Buffer
    from reactor_trio.wire.transport import Outgoing

SHOWN_BYTES = 500
"""Bytes that are kept of a refusal's body: enough for a sentence, not for a proxy's whole error page."""


@attrs.frozen
class Closed:
    """How a connection ended: a code of RFC 6455, section 7.4, and a reason in words."""

    code: int
    reason: str = ""


@attrs.frozen
class Proposal:
    """The handshake that a client sends: `host` is the `Host` header, `path` includes the query."""

    host: str
    path: str
    subprotocols: tuple[str, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Engine:
    """One side of one WebSocket: a client's if there is a proposal, else a server's.

    Only `accept` writes to a stream. All other methods take bytes and return bytes.
    """

    def __init__(self, proposal: Proposal | None = None) -> None:
        self.is_client = proposal is not None
        self._proposal = proposal
        self._wsproto = WSConnection(ConnectionType.CLIENT if self.is_client else ConnectionType.SERVER)
        self.is_opening = True
        """Whether the answer to the handshake is not whole yet."""
        self.is_open = False
        """Whether messages may be sent: after the handshake, and before either side closes."""
        # A server's refusal, until its body is whole.
        self._refusal: RejectConnection | None = None
        self._body = b""

    # ---- the state of the connection

    @property
    def is_refused(self) -> bool:
        """Whether the server has refused, and the body of its answer is still to come."""
        return self._wsproto.state is ConnectionState.REJECTING

    @property
    def may_close(self) -> bool:
        """Whether this side may still send a close frame."""
        return self._wsproto.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING)

    def _note_state(self) -> None:
        """To be called whenever wsproto's state may have changed.

        Both attributes are asked for with each message, and wsproto takes three calls to say its state.
        """
        state = self._wsproto.state
        self.is_opening = state in (ConnectionState.CONNECTING, ConnectionState.REJECTING)
        self.is_open = state is ConnectionState.OPEN

    # ---- the handshake

    async def accept(self, stream: trio.abc.Stream, key: bytes, subprotocol: str | None) -> None:
        """Answer a client's handshake whose `Sec-WebSocket-Key` is `key`.

        No other field of the client's head reaches the libraries, so that none can trip them. Raises
        `TransportClosed` if the client is gone. If cancelled, the connection is of no more use.
        """
        head = [
            (b"Host", b"localhost"),
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"websocket"),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Key", key),
        ]
        if subprotocol is not None:
            head.append((b"Sec-WebSocket-Protocol", subprotocol.encode("ascii")))
        self._wsproto.initiate_upgrade_connection(head, "/ws")
        (request,) = self._wsproto.events()
        assert isinstance(request, Request)
        connection = WebSocketConnection(stream, self._wsproto)
        try:
            with ENGINE:
                await WebSocketRequest(connection, request).accept(subprotocol=subprotocol)
        finally:
            self._note_state()

    def propose(self) -> bytes:
        """The client's handshake. Raises `ValueError` for a host, path or header that HTTP does not allow."""
        assert self._proposal is not None
        proposal = self._proposal
        with REQUEST:
            return self._wsproto.send(
                Request(
                    host=proposal.host,
                    target=proposal.path,
                    subprotocols=[*proposal.subprotocols],
                    extra_headers=[*proposal.headers],
                )
            )

    # ---- bytes that arrive

    def take(self, data: bytes) -> Closed | None:
        """Take a part of a server's answer to the handshake, or one close frame; never another frame.

        No bytes at all mean that the server sends no more. Returns the code and reason of a close frame, None
        for an answer. If the connection `is_open` after a close frame, the frame was faulty, and is to be
        refused with the code and reason that are returned.

        Raises `HandshakeFailed` for a refusal, once its body is whole, and `TransportClosed` for an answer
        that is no handshake.
        """
        try:
            with ENGINE:
                self._wsproto.receive_data(data)
                events = [*self._wsproto.events()]
        finally:
            self._note_state()
        closed = None
        for event in events:
            match event:
                case RejectConnection():
                    self._refusal = event
                    if not event.has_body:
                        raise self._refused()
                case RejectData():
                    self._body += event.data[: SHOWN_BYTES - len(self._body)]
                    if event.body_finished:
                        raise self._refused()
                case CloseConnection():
                    closed = Closed(event.code, event.reason or "")
        return closed

    def _refused(self) -> HandshakeFailed:
        assert self._refusal is not None
        status = self._refusal.status_code
        wait = dict(self._refusal.headers).get(b"retry-after", b"").decode("latin-1")
        return HandshakeFailed(
            http.client.responses.get(status, "refused"),
            status=status,
            body=self._body.decode(errors="replace").strip(),
            retry_after=float(wait) if wait.isdecimal() else None,
        )

    # ---- bytes to write

    def messages(self, messages: Sequence[Outgoing]) -> list[Buffer]:
        """The frames of these messages. A client's are masked, which copies them."""
        if self.is_client:
            return [self._wsproto.send(_event(message)) for message in messages]
        return [part for message in messages for part in encode_frame(message)]

    def ping(self) -> bytes:
        """A ping without a payload."""
        return self._wsproto.send(Ping())

    def pong(self, payload: bytes) -> bytes:
        """The answer to a ping."""
        return self._wsproto.send(Pong(payload)) if self.is_client else encode_pong(payload)

    def close(self, code: int, reason: str) -> bytes:
        """A close frame, the last frame of this side. To be called only if this side `may_close`."""
        data = self._wsproto.send(CloseConnection(code=code, reason=reason))
        self._note_state()
        return data


def _event(message: Outgoing) -> TextMessage | BytesMessage:
    data = whole(message)
    return TextMessage(data=data) if isinstance(data, str) else BytesMessage(data=data)
