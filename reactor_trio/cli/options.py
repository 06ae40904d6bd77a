"""Options of a command that are declared in several modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
"""As `click.option` returns it."""


def adding(options: Sequence[Decorator]) -> Decorator:
    """A decorator that adds these options to a command, in their order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add
