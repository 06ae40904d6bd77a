"""`python -m reactor_trio`."""

from __future__ import annotations

from reactor_trio.cli import main

if __name__ == "__main__":
    main()
