"""The built-in demo: a small network that paints what a prompt seeds. Needs the `torch` extra."""

from __future__ import annotations

from reactor_trio.demo.painter import Painter

__all__ = ["Painter"]
