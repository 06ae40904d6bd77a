"""A file that the client sent, as a handler sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable


class _OnDisk:
    """What a file has instead of its bytes while they are on the disk."""

    __slots__ = ("_read",)

    _read: Callable[[], bytes]


@attrs.frozen
class UploadedFile(_OnDisk):
    """One uploaded file, whole and in memory.

    `name` is a label as the client gave it, never a path; `mime_type` is what the client says, not
    what was looked at; `size` is in bytes.

    A large file is on the disk until a handler or `@file_uploaded` takes it: its `data` is there when they
    begin, and for as long as the model keeps the file. Code that looks at `data` before, such as a validator,
    has it read right there, which blocks; that raises `OSError` if it cannot be read.
    """

    name: str
    mime_type: str
    size: int
    data: bytes = attrs.field(repr=False)

    def __getattr__(self, name: str) -> Any:
        # Python asks only for what is not there: the bytes of a file that is still on the disk.
        if name != "data":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return fill(self, self._read())


def on_disk(name: str, mime_type: str, size: int, read: Callable[[], bytes]) -> UploadedFile:
    """A file whose bytes `read` gives, once they are needed."""
    file: UploadedFile = object.__new__(UploadedFile)
    for attribute, value in (("name", name), ("mime_type", mime_type), ("size", size), ("_read", read)):
        object.__setattr__(file, attribute, value)
    return file


def is_on_disk(file: UploadedFile) -> bool:
    """Whether its bytes are yet to be read."""
    try:
        object.__getattribute__(file, "data")
    except AttributeError:
        return True
    return False


def fill(file: UploadedFile, data: bytes) -> bytes:
    """Give a file its bytes; returns those that it has, for somebody may have been first."""
    if is_on_disk(file):
        object.__setattr__(file, "data", data)
    return file.data
