"""The words of the wire, protocol version 1 (docs/design.md#the-wire)."""

from __future__ import annotations

import enum
from typing import Final

PROTOCOL_VERSION: Final = 1
SUBPROTOCOL: Final = "reactor.v1"
TOKEN_SUBPROTOCOL: Final = "reactor.token."
"""Prefix of the second subprotocol by which a browser hands in its token (docs/design.md#safe-defaults)."""

RUNTIME_PREFIX: Final = "reactor."
"""Prefix of the runtime's types; a model's own names contain no dot (docs/design.md#text-messages)."""

# Message types, server to client.
QUEUED: Final = "reactor.queued"
WELCOME: Final = "reactor.welcome"
ACK: Final = "reactor.ack"
SUPERSEDED: Final = "reactor.superseded"
ERROR: Final = "reactor.error"
PONG: Final = "reactor.pong"
UPLOAD_READY: Final = "reactor.upload_ready"
UPLOAD_COMPLETE: Final = "reactor.upload_complete"
GOODBYE: Final = "reactor.goodbye"

# Message types, client to server.
PING: Final = "reactor.ping"
UPLOAD_START: Final = "reactor.upload_start"
UPLOAD_ABORT: Final = "reactor.upload_abort"
CONFIGURE_TRACK: Final = "reactor.configure_track"
REQUEST_KEY_FRAME: Final = "reactor.request_key_frame"
FRAME_SHOWN: Final = "reactor.frame_shown"

# Error codes (docs/design.md#errors).
BAD_MESSAGE: Final = "bad_message"
UNKNOWN_EVENT: Final = "unknown_event"
INVALID_PAYLOAD: Final = "invalid_payload"
OVERLOADED: Final = "overloaded"
UNRESOLVED_UPLOAD: Final = "unresolved_upload"
UPLOAD_TOO_LARGE: Final = "upload_too_large"
UPLOAD_QUOTA: Final = "upload_quota"
UPLOAD_TYPE: Final = "upload_type"
UPLOAD_REJECTED: Final = "upload_rejected"
QUEUE_TIMEOUT: Final = "queue_timeout"
INTERNAL_ERROR: Final = "internal_error"
MODEL_ERROR: Final = "model_error"

MAX_UPLOAD_ID_LENGTH: Final = 64
"""Characters of an upload's id, at least one (docs/design.md#uploads)."""


class CloseCode(enum.IntEnum):
    """The WebSocket close codes that the runtime uses or meets (RFC 6455, section 7.4.1)."""

    NORMAL = 1000
    """The client closed, or `run()` returned (`finished`)."""
    GOING_AWAY = 1001
    """The server shuts down."""
    PROTOCOL_ERROR = 1002
    """The WebSocket framing was broken."""
    NO_STATUS = 1005
    """Never on the wire: the peer closed without a code."""
    ABNORMAL = 1006
    """Never on the wire: the connection was lost without a closing handshake."""
    INVALID_DATA = 1007
    """A text message was no UTF-8."""
    POLICY_VIOLATION = 1008
    """Too many unreadable messages in a row, or too many pings, pongs or fragments."""
    MESSAGE_TOO_BIG = 1009
    """A message over `max_message_bytes`."""
    INTERNAL_ERROR = 1011
    """`run()` or `@connected` failed."""
    TRY_AGAIN_LATER = 1013
    """No session became free while the client waited (registered with IANA, after the RFC)."""
