"""The limits of a session: sizes, numbers, rates and times, as one frozen value."""

from __future__ import annotations

from typing import Any

import attrs
from attrs.validators import and_, ge, gt


def _with_types(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Check the type of each value before its range, so that an error names the field."""
    return [
        field.evolve(validator=_check_type if field.validator is None else and_(_check_type, field.validator))
        for field in fields
    ]


def _check_type(limits: object, field: attrs.Attribute[Any], value: object) -> None:
    is_float = str(field.type) == "float"  # the text of the annotation
    if isinstance(value, bool) or not isinstance(value, (int, float) if is_float else int):
        raise TypeError(f"'{field.name}' must be {'a number' if is_float else 'an int'}: {value!r}")


@attrs.frozen(kw_only=True, field_transformer=_with_types)
class Limits:
    """Limits and timeouts of a session; each is a command line option of the same name.

    Sizes are in bytes, times in seconds. Raises `ValueError` for a value out of range, `TypeError` for a
    value of another type. The operator sets the limits once; all sessions of a host share them.
    """

    max_message_bytes: int = attrs.field(default=1024 * 1024, validator=ge(1024))
    """Largest WebSocket message from the client; a larger message closes the connection with 1009."""
    max_upload_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=ge(0))
    """Largest uploaded file."""
    max_session_upload_bytes: int = attrs.field(default=256 * 1024 * 1024, validator=ge(0))
    """Largest sum of all uploaded files of a session."""
    max_uploads: int = attrs.field(default=1000, validator=ge(0))
    """Largest number of uploaded files of a session."""
    upload_chunk_bytes: int = attrs.field(default=256 * 1024, validator=ge(1))
    """Largest chunk of an upload."""
    spool_bytes: int = attrs.field(default=8 * 1024 * 1024, validator=ge(0))
    """A file larger than this is kept in a temporary file until a handler takes it."""
    max_total_upload_bytes: int = attrs.field(default=1024 * 1024 * 1024, validator=ge(0))
    """Memory for the uploads of all sessions together; half of it is for files that stay in memory."""
    max_total_spool_bytes: int = attrs.field(default=8 * 1024 * 1024 * 1024, validator=ge(0))
    """Disk space for the uploads of all sessions together, in temporary files."""
    upload_stall_timeout: float = attrs.field(default=60.0, validator=gt(0))
    """An upload that receives no byte for this long fails."""
    disk_timeout: float = attrs.field(default=5.0, validator=gt(0))
    """How long an upload, and the messages behind it, wait for a slow disk; then the upload fails."""
    upload_timeout: float = attrs.field(default=30.0, validator=gt(0))
    """How long a command waits for the uploads that it refers to."""
    max_queued_events: int = attrs.field(default=64, validator=ge(1))
    """Largest number of commands that wait for their handler; more are answered `overloaded`."""
    max_queued_event_bytes: int = attrs.field(default=16 * 1024 * 1024, validator=ge(0))
    """Memory for the commands that wait for their handler; a single command may always wait."""
    max_defer: float = attrs.field(default=1.0, validator=ge(0))
    """How long newer commands may replace a deduplicated command before its place in the queue is kept."""
    max_events_per_second: float = attrs.field(default=200.0, validator=ge(0))
    """Rate of commands, and largest burst after a pause; more are answered `overloaded`. 0: no limit."""
    max_messages_per_second: float = attrs.field(default=5000.0, validator=ge(0))
    """Rate of all messages, and largest burst after a pause; more are read later. 0: no limit."""
    max_bytes_per_second: int = attrs.field(default=0, validator=ge(0))
    """Rate of uploads and media; more is read later. 0: no limit; else at least `max_message_bytes`."""
    max_input_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=ge(1024))
    """Memory for the decoded frames of one input track that wait to be read; then the oldest is dropped."""
    max_queued_messages: int = attrs.field(default=256, validator=ge(1))
    """Largest number of messages that wait for the client; then `send` waits."""
    max_queued_bytes: int = attrs.field(default=8 * 1024 * 1024, validator=ge(1))
    """Largest sum of the bytes of messages that wait for the client; then `send` waits."""
    max_bad_messages: int = attrs.field(default=100, validator=ge(1))
    """Number of unreadable messages in a row after which the connection is closed with 1008."""
    send_timeout: float = attrs.field(default=10.0, validator=gt(0))
    """The connection of a client that accepts no byte for this long is closed by force."""
    heartbeat: float = attrs.field(default=20.0, validator=gt(0))
    """Time between pings. A client that sends nothing for this long after a ping is considered lost."""
    idle_timeout: float = attrs.field(default=0.0, validator=ge(0))
    """The session of a client that sends no command, upload or frame for this long ends. 0: no limit."""
    close_timeout: float = attrs.field(default=3.0, validator=gt(0))
    """Longest time for the closing handshake."""
    hook_timeout: float = attrs.field(default=10.0, validator=gt(0))
    """Longest time for `@disconnected`, and for closing the generator of a pipeline."""

    def __attrs_post_init__(self) -> None:
        # Then one message pauses reading for one second at most. Pings and commands wait during the pause.
        if 0 < self.max_bytes_per_second < self.max_message_bytes:
            raise ValueError(
                "'max_bytes_per_second' must be 0, or at least one message a second (max_message_bytes, "
                f"{self.max_message_bytes}): {self.max_bytes_per_second}"
            )
