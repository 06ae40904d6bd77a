"""The options of `reactor-trio serve` that are fields of `Limits` and `MediaSettings`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import click

from reactor_trio.media.settings import VIDEO_CODECS, MediaSettings
from reactor_trio.session.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.cli.options import Decorator

LIMITS = {
    "max_message_bytes": "One message from a client, in bytes.",
    "max_upload_bytes": "One uploaded file, in bytes.",
    "max_session_upload_bytes": "All files of a session, in bytes.",
    "max_uploads": "Number of files of a session.",
    "upload_chunk_bytes": "The largest chunk of an upload, in bytes.",
    "spool_bytes": "A file larger than so many bytes is kept on disk until a handler takes it.",
    "max_total_upload_bytes": "Uploads of all sessions in memory, in bytes; half of it for files that stay.",
    "max_total_spool_bytes": "Uploads of all sessions on disk, in bytes.",
    "upload_stall_timeout": "An upload of which nothing comes for so many seconds is given up.",
    "disk_timeout": "How long an upload waits for a slow disk until it fails, in seconds.",
    "upload_timeout": "How long a command waits for its upload, in seconds.",
    "max_queued_events": "Commands of a session that may wait.",
    "max_queued_event_bytes": "Memory of commands of a session that wait, in bytes; one alone always may.",
    "max_defer": "How long newer commands may push a deduplicated one back, in seconds.",
    "max_events_per_second": "Commands of a session in a second, and at once; 0: no limit.",
    "max_messages_per_second": "Messages of a session of any kind in a second, and at once; 0: no limit.",
    "max_bytes_per_second": "Bytes of uploads and media of a session in a second; 0: no limit.",
    "max_input_bytes": "Decoded frames of an input track that may wait for the model, in bytes.",
    "max_queued_messages": "Messages that may wait for a client.",
    "max_queued_bytes": "Bytes of messages that may wait for a client.",
    "max_bad_messages": "Unreadable messages in a row that end a session.",
    "send_timeout": "A client that accepts nothing for so many seconds is cut off.",
    "heartbeat": "Seconds between pings, and that a client has to answer one.",
    "idle_timeout": "Seconds that a client may stay without a command, upload or frame; 0: for ever.",
    "close_timeout": "The closing handshake, in seconds.",
    "hook_timeout": "What @disconnected may take, in seconds.",
}
"""The help of the option for each field of `Limits`."""

MEDIA = {
    "video_codec": "What video is sent in, unless a client asks for another: h264 needs the extra video.",
    "jpeg_quality": "Quality of JPEG frames, 1 to 100.",
    "min_video_bit_rate": "Bits a second that H.264 may always take, however small the frames.",
    "max_video_bit_rate": "Bits a second that H.264 takes at most, a track and client.",
}
"""The help of the option for each field of `MediaSettings`."""


def _options(settings: type[Limits] | type[MediaSettings], helps: Mapping[str, str]) -> list[Decorator]:
    return [
        click.option(
            f"--{field.name.replace('_', '-')}",
            type=click.Choice(VIDEO_CODECS) if field.name == "video_codec" else type(field.default),
            default=field.default,
            show_default=True,
            help=helps[field.name],
        )
        for field in attrs.fields(settings)
    ]


LIMIT_OPTIONS = (*_options(MediaSettings, MEDIA), *_options(Limits, LIMITS))
