"""The files of an author's own page: each is looked up in a folder when it is asked for, and sent in pieces.

`server.reception` asks `WebFolder.answer` for every path that is none of the runtime's own. A path leads to a
file of the folder, or to nothing: it is taken apart before it is made into a name (`segments_of`), and after
all symbolic links were followed the file must still lie in the folder. Range requests are not answered by a
part: RFC 9110, 14.2, lets a server send the whole file.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal
from urllib.parse import quote, unquote_to_bytes

import attrs

from reactor_trio.compute.lanes import Lane
from reactor_trio.logs.logger import get_logger
from reactor_trio.server.http import METHODS, NOT_FOUND, BodyLost, Response, method_not_allowed, plain
from reactor_trio.server.web import CONTENT_TYPES, INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reactor_trio.compute.executor import Executor
    from reactor_trio.server.http import Request

PIECE_BYTES = 64 * 1024
"""The most of a file that is in memory for one client."""
LANE: Final = Lane("web", limit=4)
"""Reading the author's page. It does not wait for `load` and uploads, nor do they wait for it."""

PAGE_TYPES: Final = CONTENT_TYPES | {
    ".avif": "image/avif",
    ".csv": "text/csv; charset=utf-8",
    ".flac": "audio/flac",
    ".gif": "image/gif",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".htm": "text/html; charset=utf-8",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".m4a": "audio/mp4",
    ".map": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".otf": "font/otf",
    ".pdf": "application/pdf",
    ".ttf": "font/ttf",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".xml": "application/xml",
}
"""Content types by a file's suffix, in lower case. They do not depend on the machine (`/etc/mime.types`).

A file with another suffix, or none, is not served: a folder that also holds the model's code, its config and
its weights does not give them away.
"""
HEADERS: Final = (
    # No rules for scripts and styles: the author's page may add its own by a `meta` element.
    ("Content-Security-Policy", "base-uri 'self'; frame-ancestors 'self'; object-src 'none'"),
    ("Permissions-Policy", "camera=(self), microphone=(self)"),
    ("Referrer-Policy", "same-origin"),
    # A browser may keep a file, but asks each time whether it has changed.
    ("Cache-Control", "no-cache"),
)
"""Headers of every file."""

# Both slashes, the colon of drives and streams on Windows, and control characters.
_REFUSED = frozenset("/\\:\x7f" + "".join(map(chr, range(32))))

log = get_logger(__name__)


def segments_of(path: str) -> tuple[str, ...] | None:
    """The names in the path of a URL, percent-decoded; that of the index for a path that ends with a slash.

    None for a path that can lead to no file: with an empty name, a name that begins with a dot (as `..` and
    hidden files do), an escaped slash or backslash, a colon, a control character, or bytes that are no UTF-8.
    """
    if not path.startswith("/") or not path.isascii():
        return None
    *folders, last = path[1:].split("/")
    names: list[str] = []
    for text in (*folders, last or INDEX):
        try:
            name = unquote_to_bytes(text).decode("utf-8")
        except UnicodeDecodeError:
            return None
        if not name or name.startswith(".") or not _REFUSED.isdisjoint(name):
            return None
        names.append(name)
    return tuple(names)


@attrs.frozen
class _File:
    """A file that was found."""

    path: str
    """Without symbolic links."""
    size: int
    version: tuple[int, int, int]
    """Changes with the file: its inode, when it was changed in nanoseconds, and its size."""
    first: bytes = attrs.field(default=b"", repr=False)
    """Its first piece, if it is to be sent."""

    @property
    def etag(self) -> str:
        """Weak (RFC 9110, 8.8.1): two changes within a tick of the file system's clock have the same."""
        return 'W/"{:x}-{:x}-{:x}"'.format(*self.version)


class FileBody:
    """A file that is sent: at most one piece of it is in memory, and no descriptor is open between pieces."""

    def __init__(self, file: _File, executor: Executor) -> None:
        self.size = file.size
        self._file = file
        self._executor = executor

    async def read(self, offset: int) -> bytes:
        """See `server.http.LongBody`."""
        if offset < len(self._file.first):
            return self._file.first[offset:]
        return await self._executor.run(LANE, _read, self._file, offset)


class WebFolder:
    """Answers requests with the files of a folder, which is read by `executor` in a lane of its own."""

    def __init__(self, folder: Path, executor: Executor) -> None:
        # Absolute, since a model may change the current folder. Links are followed at each request.
        self._folder = folder.absolute()
        self._executor = executor
        # Unknown suffixes that were logged.
        self._unknown: set[str] = set()

    async def answer(self, request: Request) -> Response:
        """The file that the request's path leads to, 304 if the client has it, a redirect, or 404.

        A checkpoint if the path can lead to a file. If cancelled, it waits for the thread that looks for it.
        """
        segments = segments_of(request.path)
        if segments is None:
            return NOT_FOUND
        if request.method not in METHODS:
            return method_not_allowed()
        content_type = PAGE_TYPES.get(_suffix(segments[-1]))

        def is_wanted(etag: str) -> bool:
            return request.method == "GET" and content_type is not None and not request.has(etag)

        file = await self._executor.run(LANE, _find, self._folder, segments, is_wanted)
        if file is None:
            return NOT_FOUND
        if file == "folder":
            return _with_slash(request, segments[-1])
        if content_type is None:
            self._log_unknown(request.path, _suffix(segments[-1]))
            return NOT_FOUND
        headers = (*HEADERS, ("ETag", file.etag))
        if request.has(file.etag):
            return Response(304, headers=headers)
        return Response(
            200, content_type=content_type, headers=headers, long_body=FileBody(file, self._executor)
        )

    def _log_unknown(self, path: str, suffix: str) -> None:
        """Log once for each suffix that a file is not served. A folder has few suffixes."""
        if suffix not in self._unknown:
            self._unknown.add(suffix)
            log.warning("a file of the page is not served, as its type is not known", path=path)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  a name, not a path


def _with_slash(request: Request, name: str) -> Response:
    # Relative links in a folder's index are right only if the address ends with a slash. The location is
    # relative, since a proxy may serve the page below a longer path.
    location = f"{quote(name, safe='')}/"
    _, mark, query = request.target.partition("?")
    return plain(307, f"it is at {location}", ("Location", f"{location}{mark}{query}"))


# ---- in a worker thread


def _find(
    folder: Path, segments: tuple[str, ...], is_wanted: Callable[[str], bool]
) -> _File | Literal["folder"] | None:
    """The file, with its first piece if `is_wanted` is true of its ETag.

    "folder" for a folder with an index; None if there is no such file in the folder, or it cannot be read.
    """
    try:
        top = os.path.realpath(folder, strict=True)
        path = os.path.realpath(os.path.join(top, *segments), strict=True)  # noqa: PTH118
        below = Path(path).relative_to(top)
        if any(part.startswith(".") for part in below.parts):
            return None  # a link to a hidden file
        if stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116
            return "folder" if os.path.isfile(os.path.join(path, INDEX)) else None  # noqa: PTH113, PTH118
        with _opened(path) as (opened, found):
            file = _File(path, found.st_size, _version(found))
            if is_wanted(file.etag):
                file = attrs.evolve(file, first=opened.read(min(PIECE_BYTES, file.size)))
            return file
    except (OSError, ValueError):  # not there, not to be read, no file, or not in the folder
        return None


def _read(file: _File, offset: int) -> bytes:
    """A piece of the file, at least one byte. Raises `BodyLost`."""
    try:
        with _opened(file.path) as (opened, found):
            if _version(found) == file.version:
                opened.seek(offset)
                if data := opened.read(min(PIECE_BYTES, file.size - offset)):
                    return data
    except OSError as exc:
        raise BodyLost(f"{file.path}: {exc.strerror}") from None
    raise BodyLost(f"{file.path} has changed")


@contextmanager
def _opened(path: str) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """A regular file, unbuffered. Raises `OSError`, also for what is no file, and never waits for a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb", buffering=0) as opened:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "this is no regular file")
        yield opened, found


def _version(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size
