"""What a session may take, and how long it may last: one frozen value, one unit a name."""

from __future__ import annotations

import attrs
from attrs.validators import ge, gt


@attrs.frozen(kw_only=True)
class Limits:
    """Limits and policy times of a session; each is a command line option under its own name.

    Sizes are in bytes, times in seconds. Raises `ValueError` for a value out of range.
    """

    max_message_bytes: int = attrs.field(default=1024 * 1024, validator=ge(1024))
    """One WebSocket message from the client; a larger one closes the connection with 1009."""
    max_upload_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=ge(0))
    """One uploaded file."""
    max_session_upload_bytes: int = attrs.field(default=256 * 1024 * 1024, validator=ge(0))
    """All files of a session together."""
    max_uploads: int = attrs.field(default=1000, validator=ge(0))
    """Number of files of a session."""
    upload_chunk_bytes: int = attrs.field(default=256 * 1024, validator=ge(1))
    """The largest chunk of an upload."""
    spool_bytes: int = attrs.field(default=8 * 1024 * 1024, validator=ge(0))
    """A file larger than this is kept in a temporary file until a handler takes it."""
    max_total_upload_bytes: int = attrs.field(default=1024 * 1024 * 1024, validator=ge(0))
    """Uploads of all sessions together in memory; half of it for files that stay there."""
    max_total_spool_bytes: int = attrs.field(default=8 * 1024 * 1024 * 1024, validator=ge(0))
    """Uploads of all sessions together in temporary files."""
    upload_stall_timeout: float = attrs.field(default=60.0, validator=gt(0))
    """An upload of which no byte comes for this long is given up."""
    disk_timeout: float = attrs.field(default=5.0, validator=gt(0))
    """How long an upload, and what is behind it, waits for a slow disk; then the upload fails."""
    upload_timeout: float = attrs.field(default=30.0, validator=gt(0))
    """How long a command waits for the upload that it refers to."""
    max_queued_events: int = attrs.field(default=64, validator=ge(1))
    """Commands that may wait for their handler; more are answered `overloaded`."""
    max_queued_event_bytes: int = attrs.field(default=16 * 1024 * 1024, validator=ge(0))
    """Memory that commands may take which wait for their handler; one alone may always wait."""
    max_defer: float = attrs.field(default=1.0, validator=ge(0))
    """How long a flood may push a deduplicated command back before its place in the queue is held."""
    max_events_per_second: float = attrs.field(default=200.0, validator=ge(0))
    """Commands, and as many at once after a pause; more are answered `overloaded`. 0: no limit."""
    max_messages_per_second: float = attrs.field(default=5000.0, validator=ge(0))
    """Messages of any kind, and as many at once after a pause; more are read later. 0: no limit."""
    max_bytes_per_second: int = attrs.field(default=0, validator=ge(0))
    """Bytes of uploads and media; more are read later. 0: no limit; else at least `max_message_bytes`."""
    max_input_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=ge(1024))
    """Decoded frames of one input track that wait to be read; then the oldest is dropped."""
    max_queued_messages: int = attrs.field(default=256, validator=ge(1))
    """Messages that may wait for the client; then `send` waits."""
    max_queued_bytes: int = attrs.field(default=8 * 1024 * 1024, validator=ge(1))
    """Bytes of messages that may wait for the client; then `send` waits."""
    max_bad_messages: int = attrs.field(default=100, validator=ge(1))
    """Unreadable messages in a row; then the connection is closed with 1008."""
    send_timeout: float = attrs.field(default=10.0, validator=gt(0))
    """A client that accepts no byte for this long is cut off."""
    heartbeat: float = attrs.field(default=20.0, validator=gt(0))
    """Time between pings, and how long after a ping silence means that the client is lost."""
    idle_timeout: float = attrs.field(default=0.0, validator=ge(0))
    """A client that sends no command, upload or frame for this long is said goodbye to. 0: it may stay."""
    close_timeout: float = attrs.field(default=3.0, validator=gt(0))
    """The closing handshake."""
    hook_timeout: float = attrs.field(default=10.0, validator=gt(0))
    """What `@disconnected` may take."""

    def __attrs_post_init__(self) -> None:
        # So a pause for one message lasts a second at most: pings and commands wait behind it.
        if 0 < self.max_bytes_per_second < self.max_message_bytes:
            raise ValueError(
                "'max_bytes_per_second' must be 0, or at least one message a second (max_message_bytes, "
                f"{self.max_message_bytes}): {self.max_bytes_per_second}"
            )
