"""`reactor-trio call`: one command to a served model, and its answer as JSON on standard output."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import click
import orjson
import trio

from reactor_trio.cli.errors import Failure
from reactor_trio.cli.values import File, Word, WordError, nest, parse, read_words
from reactor_trio.client.websocket import open_client
from reactor_trio.errors import CommandError, HandshakeFailed, TransportClosed
from reactor_trio.protocol.names import ACK
from reactor_trio.protocol.server_messages import ServerMessage
from reactor_trio.wire.connect import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from reactor_trio.client.client import Client

BAR_BYTES = 1024 * 1024
"""The upload of a file larger than this shows a progress bar."""


class Refused(Failure):
    """The server's error, `code: message` and a line for each field, printed without a prefix."""

    def show(self, file: Any = None) -> None:
        click.echo(self.message, err=True)


@attrs.frozen
class Order:
    """The arguments of the command."""

    url: str
    event: str
    words: list[Word]
    token: str | None
    listen: int


@click.command()
@click.argument("url")
@click.argument("event")
@click.argument("fields", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--token", envvar="REACTOR_TOKEN", show_envvar=True, help="What the server asks clients to show."
)
@click.option(
    "--listen",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Also print the first N messages that are no answer, those before the answer included.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="How long all of it may take.",
)
def call(
    url: str, event: str, fields: tuple[str, ...], token: str | None, listen: int, seconds: float
) -> None:
    """Send the command EVENT to the server at URL and print its answer.

    A VALUE is JSON or YAML, or just text where the event wants text. KEY=@PATH uploads a file first;
    KEY=@@TEXT is text that begins with an @. KEY may be dotted: camera.zoom=2.

    \b
        reactor-trio call ws://127.0.0.1:8080 set_prompt prompt="a rainy street"
        reactor-trio call ws://127.0.0.1:8080 set_reference_image image=@photo.jpg
    """
    order = Order(url, event, _read_fields(url, fields), token, listen)
    try:
        trio.run(_within, seconds, order)
    except* KeyboardInterrupt:
        raise click.Abort from None


def _read_fields(url: str, fields: tuple[str, ...]) -> list[Word]:
    """Check all that can be checked without a server. Raises `click.BadParameter`: exit status 2."""
    try:
        Address.parse(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL") from None
    try:
        words = read_words(fields)
    except WordError as error:
        raise click.BadParameter(str(error), param_hint="KEY=VALUE") from None
    for word in words:
        if isinstance(word.value, File) and not word.value.path.is_file():
            raise click.BadParameter(f"no such file: {word.value.path}", param_hint=".".join(word.key))
    return words


async def _within(seconds: float, order: Order) -> None:
    with trio.move_on_after(seconds):
        try:
            return await _carry_out(order)
        except CommandError as error:
            raise Refused(str(error)) from None
        except TransportClosed as error:
            raise Failure(str(error)) from None
    raise Failure(f"{order.event}: not done within {seconds:g} s")


async def _carry_out(order: Order) -> None:
    async with AsyncExitStack() as stack:
        try:
            opening = open_client(order.url, token=order.token, on_queued=_print_position)
            client = await stack.enter_async_context(opening)
        except (OSError, HandshakeFailed, ValueError) as error:
            raise Failure(f"cannot connect to {order.url}: {error}") from None
        payload = await _payload(client, order)
        try:
            answer = await client.call(order.event, payload)
        except ValueError as error:
            raise Failure(str(error)) from None
        _print(answer or ServerMessage(ACK, {}))
        await _listen(client, order.listen)


def _print_position(position: int) -> None:
    click.echo(f"All sessions are taken; place in line: {position}", err=True)


async def _payload(client: Client, order: Order) -> dict[str, Any]:
    event = client.welcome.events.get(order.event)
    if event is None:
        known = ", ".join(client.welcome.events) or "none"
        raise click.UsageError(f"no event {order.event!r}; {client.welcome.model.name} has: {known}")
    values: list[tuple[tuple[str, ...], Any]] = []
    for word in order.words:
        if isinstance(word.value, File):
            values.append((word.key, await _upload(client, word.value.path)))
        else:
            values.append((word.key, parse(word.value, word.key, event.schema)))
    return nest(values)


async def _upload(client: Client, path: Path) -> object:
    try:
        with _progress(path) as on_progress:
            return await client.upload(path, on_progress=on_progress)
    except OSError as error:
        raise Failure(f"cannot read {path}: {error}") from None


@contextmanager
def _progress(path: Path) -> Generator[Callable[[int, int], None] | None]:
    """A bar on standard error, if that is a terminal and the file is large."""
    size = path.stat().st_size
    if size <= BAR_BYTES or not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=size, label=path.name, file=sys.stderr) as bar:
        yield lambda sent, total: bar.update(sent - bar.pos)


async def _listen(client: Client, count: int) -> None:
    for _ in range(count):
        try:
            message = await client.receive()
        except TransportClosed as closed:
            if client.goodbye is None:
                raise
            click.echo(str(closed), err=True)
            return
        _print(message)


def _print(message: ServerMessage) -> None:
    click.echo(orjson.dumps({"type": message.type, "data": message.data}))
