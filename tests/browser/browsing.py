"""The folder of the models of the browser's tests, and the address of the playground."""

from __future__ import annotations

from pathlib import Path

from serving import Served

HERE = Path(__file__).parent
"""The folder of the models that these tests serve."""


def home(server: Served) -> str:
    """The address of a server's playground."""
    return server.url.replace("ws://", "http://") + "/"
