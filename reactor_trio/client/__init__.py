"""The Python client: async on Trio (`open_client`), and blocking (`connect`)."""

from reactor_trio.client.blocking import BlockingClient, connect
from reactor_trio.client.client import Client
from reactor_trio.client.errors import Superseded
from reactor_trio.client.latency import Latency, Spread
from reactor_trio.client.messages import (
    EventInfo,
    MessageInfo,
    ModelInfo,
    ServerLimits,
    TrackInfo,
    UploadHandle,
    Welcome,
)
from reactor_trio.client.received_frame import Frame
from reactor_trio.client.websocket import open_client
from reactor_trio.errors import HandshakeFailed
from reactor_trio.protocol.server_messages import ServerMessage

__all__ = [
    "BlockingClient",
    "Client",
    "EventInfo",
    "Frame",
    "HandshakeFailed",
    "Latency",
    "MessageInfo",
    "ModelInfo",
    "ServerLimits",
    "ServerMessage",
    "Spread",
    "Superseded",
    "TrackInfo",
    "UploadHandle",
    "Welcome",
    "connect",
    "open_client",
]
