"""Fixtures that several test files use, and the profile of Hypothesis for quick runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from traces import logged_errors

# 10 examples in place of 100, with `--hypothesis-profile=quick` (`nox -s quick`).
settings.register_profile("quick", max_examples=10, deadline=None)


@pytest.fixture
def errors() -> Iterator[list[dict[str, Any]]]:
    """The entries that a test logs as errors, from any thread."""
    with logged_errors() as found:
        yield found
