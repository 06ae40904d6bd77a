"""The guide for authors, docs/testing.md: its code is two test files, which pass with the plugin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "testing.md"
TIMEOUT = 60
"""Real seconds for all of the guide's tests."""


def test_the_tests_of_the_guide_pass(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\ntrio_mode = true\naddopts = --strict-markers -Werror\n")
    fences = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    second = next(
        index for index, fence in enumerate(fences) if index and fence.startswith("from __future__")
    )
    pytester.makepyfile(test_painter="\n\n".join(fences[:second]), test_tracks="\n\n".join(fences[second:]))
    result = pytester.runpytest_subprocess(
        "-p", "pytest_reactor_trio", "-p", "pytest_trio.plugin", timeout=TIMEOUT
    )
    result.assert_outcomes(passed=8)  # `test_pacing` has two sets of parameters
