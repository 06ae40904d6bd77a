"""How many examples Hypothesis tries: 100, or 10 with `--hypothesis-profile=quick` (`nox -s quick`)."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("quick", max_examples=10, deadline=None)
