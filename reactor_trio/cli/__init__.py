"""The command line: `python -m reactor_trio`, also installed as `reactor-trio`."""

from __future__ import annotations

import importlib

import click

__all__ = ["EndsProcess", "cli", "main"]

_COMMANDS = {
    "call": "Send one command to a served model and print what it answers.",
    "serve": "Serve a model to WebSocket clients.",
}
"""The short help of each command by its name, which is also the name of its module and function."""


class _LazyGroup(click.Group):
    """Imports the module of a command when it is used: `call` imports no server, `serve` no client."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(f"reactor_trio.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


class EndsProcess:
    """The object of click's context if the process ends after the command, as in `main`.

    Then `serve` may end the process by force; a test that invokes `cli` passes no such object.
    """


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="reactor-trio")
def cli() -> None:
    """Serve real-time, interactive AI models, and talk to them."""


def main() -> None:
    """Entry point of the process; ends it."""
    cli(prog_name="reactor-trio", obj=EndsProcess())
