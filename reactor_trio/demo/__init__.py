"""The built-in demo: a small network that paints moving pictures, seeded by a prompt. Needs `torch`."""

from __future__ import annotations

from reactor_trio.demo.painter import Painter

__all__ = ["Painter"]
