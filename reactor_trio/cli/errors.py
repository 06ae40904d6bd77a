"""How a command ends that did not work: a short message on standard error, without a traceback."""

from __future__ import annotations

import click


class Refusal(click.ClickException):
    """The command line, the config or the model it names is wrong: exit status 2."""

    exit_code = 2


class Failure(click.ClickException):
    """The command line was right, and the command did not work: exit status 1."""

    exit_code = 1
