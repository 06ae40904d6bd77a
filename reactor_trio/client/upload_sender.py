"""The sources of an upload: a path, bytes, or an open binary file, read chunk by chunk."""

from __future__ import annotations

import errno
import mimetypes
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import attrs

from reactor_trio.compute.lanes import FILES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from reactor_trio.compute.executor import Executor

UNKNOWN_TYPE = "application/octet-stream"
"""The MIME type of bytes of unknown type (RFC 2046, section 4.5.1)."""


class Readable(Protocol):
    """A binary file that is open for reading."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...


Source = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable


@attrs.frozen
class Upload:
    """An upload that is about to start."""

    name: str
    mime_type: str
    size: int
    _read: Callable[[int], bytes]
    # None if the bytes are in memory, so that reading needs no thread.
    _executor: Executor | None

    async def read(self, size: int) -> bytes:
        """Read the next `size` bytes, fewer only at the end.

        Raises `OSError` if the file became shorter since the upload started, `TypeError` if it gives text.
        """
        if self._executor is None:
            data = self._read(size)
        else:
            data = await self._executor.run(FILES, self._read, size)
        if not isinstance(data, bytes):
            raise TypeError(f"{self.name}: open the file in binary mode; it gives {type(data).__name__}")
        if not data and size:
            raise OSError(f"{self.name}: the file became shorter while it was uploaded")
        return data


@asynccontextmanager
async def open_upload(
    source: Source, name: str | None, mime_type: str | None, executor: Executor
) -> AsyncGenerator[Upload]:
    """Open the source and find its size, name and type. At the end, a path is closed, a file is not.

    Raises `OSError` for a path that cannot be read, `TypeError` or `ValueError` for a source that has no
    bytes or no size.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        view = memoryview(source).cast("B")
        yield _describe(_Cursor(view).read, name or "upload", mime_type, len(view), None)
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        file = await executor.run(FILES, _open, path)
        try:
            size = os.fstat(file.fileno()).st_size
            yield _describe(file.read, name or path.name, mime_type, size, executor)
        finally:
            file.close()
    else:
        size = await executor.run(FILES, _remaining, source)
        label = getattr(source, "name", None)
        label = Path(label).name if isinstance(label, str) else "upload"
        yield _describe(source.read, name or label, mime_type, size, executor)


def _describe(
    read: Callable[[int], bytes], name: str, mime_type: str | None, size: int, executor: Executor | None
) -> Upload:
    guessed = mime_type or mimetypes.guess_type(name)[0] or UNKNOWN_TYPE
    return Upload(name, guessed, size, read, executor)


def _open(path: Path) -> BinaryIO:
    # Opening a pipe would block the thread until another process writes into it.
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.open("rb")


def _remaining(file: Readable) -> int:
    """How many bytes are left in the file. Raises `ValueError` if the file cannot seek."""
    try:
        here = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(here)
    except (AttributeError, OSError):
        raise ValueError(
            f"cannot find the size of {file!r}: give a path, bytes, or a seekable file"
        ) from None
    return end - here


class _Cursor:
    """Bytes in memory, read like a file, without a copy of all of them."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def read(self, size: int) -> bytes:
        part = self._view[self._at : self._at + size]
        self._at += len(part)
        return bytes(part)
