"""Where things are, for the browser's tests."""

from __future__ import annotations

from pathlib import Path

from serving import Served

HERE = Path(__file__).parent
"""The folder of the models that these tests serve."""


def home(server: Served) -> str:
    """The playground of a server."""
    return server.url.replace("ws://", "http://") + "/"
