"""A Trio runtime for real-time, interactive AI models: one connection, one nursery.

The packages of the runtime, in layers; a package imports only from the layers below its own:

    cli, demo, testing     the command line; the model served by default; the test kit
    server, client, web    the server of the port; the client library; the pages for browsers
    link                   one client of a session: receive, send, outbox, encoders, uploads
    session                one copy of the model: inbox, dispatch, run, pacer
    compute, media         worker threads and devices; arrays <-> payloads, JPEG, H.264, PCM
    model                  the base classes of an author's model, exported below
    contract               signatures -> attrs classes -> structuring and schemas. Pure
    declare                the words of a declaration: fields, tracks, marks. Pure
    wire                   the transport seam, its WebSockets and ASGI
    protocol               bytes <-> frozen messages. Pure
    errors, logs           the tree of errors; the logger
"""

from __future__ import annotations

import importlib.metadata
import typing

from reactor_trio.declare.client_info import ClientInfo
from reactor_trio.declare.decorators import connected, disconnected, event, file_uploaded
from reactor_trio.declare.fields import InputField, MessageField
from reactor_trio.declare.identity import AuthRequest, Identity
from reactor_trio.declare.inputs import InputFrame, ReadMode
from reactor_trio.declare.tracks import Audio, Input, InputTrack, Output, Video
from reactor_trio.declare.uploaded_file import UploadedFile
from reactor_trio.errors import BufferClosed, CommandError, ReactorError
from reactor_trio.model.messages import ModelMessage
from reactor_trio.model.model import ReactorModel
from reactor_trio.model.pipeline import ReactorPipeline
from reactor_trio.model.state import Idle, InputState
from reactor_trio.session.limits import Limits

__all__ = [
    "Audio",
    "AuthRequest",
    "BufferClosed",
    "ClientInfo",
    "CommandError",
    "Identity",
    "Idle",
    "Input",
    "InputField",
    "InputFrame",
    "InputState",
    "InputTrack",
    "Limits",
    "MediaSettings",
    "MessageField",
    "ModelApp",
    "ModelMessage",
    "Output",
    "ReactorError",
    "ReactorModel",
    "ReactorPipeline",
    "ReadMode",
    "RunningServer",
    "UploadedFile",
    "Video",
    "__version__",
    "asgi",
    "connected",
    "disconnected",
    "event",
    "file_uploaded",
    "serve",
]

try:
    __version__ = importlib.metadata.version("reactor-trio")
except importlib.metadata.PackageNotFoundError:  # the package runs from a source tree, not installed
    __version__ = "0"

if typing.TYPE_CHECKING:
    from reactor_trio.media.settings import MediaSettings
    from reactor_trio.server.asgi import ModelApp, asgi
    from reactor_trio.server.library import RunningServer, serve
else:
    _MODULES = {
        "MediaSettings": "reactor_trio.media.settings",
        "ModelApp": "reactor_trio.server.asgi",
        "RunningServer": "reactor_trio.server.library",
        "asgi": "reactor_trio.server.asgi",
        "serve": "reactor_trio.server.library",
    }

    def __getattr__(name):
        """Import the server when a name that needs it is first used (PEP 562)."""
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module), name)

    def __dir__():
        return sorted({*globals(), *__all__})
