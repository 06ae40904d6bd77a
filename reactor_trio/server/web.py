"""The files of the package's `web` folder: the playground and the JavaScript client, read into memory once.

They are in a table by the path of their URL. A request is looked up there and is never made into the name of
a file, so no request can leave the folder. `server.web_folder` serves a folder of the author's.
"""

from __future__ import annotations

import functools
import hashlib
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

INDEX = "index.html"
"""The file that is served at `/`, and at `/playground`."""
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
"""Content types by suffix. A file with another suffix, such as those of the type checker, is not served."""

# Nothing from other origins and nothing inline, so that no text of a model can become a script. `'self'` in
# `connect-src` is also the WebSocket of this host and port (CSP 3, 6.7.2.8).
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "font-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("Permissions-Policy", "camera=(self), microphone=(self)"),
    ("Referrer-Policy", "no-referrer"),
    # A browser may keep a file, but asks each time whether it has changed.
    ("Cache-Control", "no-cache"),
)
"""Headers of every file."""


@attrs.frozen
class WebFile:
    """A file in memory."""

    body: bytes = attrs.field(repr=False)
    content_type: str
    etag: str
    """A strong ETag (RFC 9110, 8.8.3): a hash of the content."""


@functools.cache
def web_files() -> Mapping[str, WebFile]:
    """Every file that is served, by the path of its URL. Read at the first call.

    The playground is at `/`, and at `/playground`, where its relative links lead to the same files.
    """
    found = dict(_walk(files("reactor_trio") / "web", PurePosixPath("/")))
    found["/"] = found["/playground"] = found.pop(f"/{INDEX}")
    return found


def _walk(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[str, WebFile]]:
    for each in folder.iterdir():
        here = path / each.name
        if each.is_dir():
            yield from _walk(each, here)
        elif here.suffix in CONTENT_TYPES:
            body = each.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            yield str(here), WebFile(body, CONTENT_TYPES[here.suffix], etag)
