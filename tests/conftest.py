"""Fixtures of several files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from traces import logged_errors


@pytest.fixture
def errors() -> Iterator[list[dict[str, Any]]]:
    """The entries that a test logs as errors, from any thread."""
    with logged_errors() as found:
        yield found
