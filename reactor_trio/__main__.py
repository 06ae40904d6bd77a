"""Entry point of `python -m reactor_trio`: runs the command line, `reactor_trio.cli`."""

from __future__ import annotations

from reactor_trio.cli import main

if __name__ == "__main__":
    main()
