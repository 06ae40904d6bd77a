"""A file that the client sent, as a handler sees it."""

from __future__ import annotations

import attrs


@attrs.frozen
class UploadedFile:
    """One uploaded file, whole and in memory.

    `name` is a label as the client gave it, never a path; `mime_type` is what the client says, not
    what was looked at; `size` is in bytes.
    """

    name: str
    mime_type: str
    size: int
    data: bytes = attrs.field(repr=False)
