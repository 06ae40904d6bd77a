"""A Trio runtime for real-time, interactive AI models: one connection, one nursery.

How the house is laid out; imports point downwards:

    cli, server, client, testing    around a session: the command line, the port, the peer, the test kit
    web                             what the server shows to browsers: reactor.js and the playground
    demo                            the model that is served if no other is named
    session/connection.py           one connection = one nursery: receive, dispatch, run, send
    session                         its channel, outbox, pacing, tracks both ways, latency, uploads, endings
    compute, media                  worker threads and devices; arrays <-> payloads, JPEG, H.264, PCM
    contract                        signatures -> attrs classes -> structuring and schemas. Pure
    authoring                       what a model's author writes with, exported below
    protocol                        bytes <-> frozen messages. Pure
"""

from __future__ import annotations

import importlib.metadata

from reactor_trio.authoring.client_info import ClientInfo
from reactor_trio.authoring.decorators import connected, disconnected, event, file_uploaded
from reactor_trio.authoring.fields import InputField, MessageField
from reactor_trio.authoring.identity import AuthRequest, Identity
from reactor_trio.authoring.inputs import InputFrame, ReadMode
from reactor_trio.authoring.messages import ModelMessage
from reactor_trio.authoring.model import ReactorModel
from reactor_trio.authoring.pipeline import ReactorPipeline
from reactor_trio.authoring.state import Idle, InputState
from reactor_trio.authoring.tracks import Audio, Input, Output, Video
from reactor_trio.authoring.uploads import UploadedFile
from reactor_trio.errors import BufferClosed, CommandError, ReactorError
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
    "Limits",
    "MessageField",
    "ModelMessage",
    "Output",
    "ReactorError",
    "ReactorModel",
    "ReactorPipeline",
    "ReadMode",
    "UploadedFile",
    "Video",
    "__version__",
    "connected",
    "disconnected",
    "event",
    "file_uploaded",
]

try:
    __version__ = importlib.metadata.version("reactor-trio")
except importlib.metadata.PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0"
