"""`UploadedFile`: a file that the client sent, as a handler sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable


class _OnDisk:
    """The function that reads the bytes of a file on the disk; unset for a file in memory."""

    __slots__ = ("_read",)

    _read: Callable[[], bytes]


@attrs.frozen
class UploadedFile(_OnDisk):
    """One complete uploaded file.

    `name` is a label that the client gave, never a path; `mime_type` is the client's statement, which is not
    checked; `size` is in bytes.

    A large file is on the disk until a handler or `@file_uploaded` takes it: `data` is in memory when the
    handler begins, and for as long as the model keeps the file. If other code asks for `data` before that,
    such as a validator, the file is read at that moment, which blocks, and raises `OSError` on a failure.
    """

    name: str
    mime_type: str
    size: int
    data: bytes = attrs.field(repr=False)

    def __getattr__(self, name: str) -> Any:
        # Python calls it for missing attributes only: here the bytes of a file that is still on the disk.
        if name != "data":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return fill(self, self._read())


def on_disk(name: str, mime_type: str, size: int, read: Callable[[], bytes]) -> UploadedFile:
    """A file on the disk: `read` is called for its bytes when they are needed."""
    file: UploadedFile = object.__new__(UploadedFile)
    for attribute, value in (("name", name), ("mime_type", mime_type), ("size", size), ("_read", read)):
        object.__setattr__(file, attribute, value)
    return file


def is_on_disk(file: UploadedFile) -> bool:
    """Whether the bytes of a file have not been read yet."""
    try:
        object.__getattribute__(file, "data")
    except AttributeError:
        return True
    return False


def fill(file: UploadedFile, data: bytes) -> bytes:
    """Give a file its bytes, unless it has them already; returns the bytes that it has."""
    if is_on_disk(file):
        object.__setattr__(file, "data", data)
    return file.data
