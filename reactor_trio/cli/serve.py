"""`reactor-trio serve`."""

from __future__ import annotations

import gc
import importlib
import os
import re
import traceback
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs
import click
import outcome
import trio

from reactor_trio.cli import EndsProcess
from reactor_trio.cli.auth import jwt_options, take_authenticate
from reactor_trio.cli.find_model import (
    DEMO,
    ModelImportError,
    apply_overrides,
    choose,
    find_hook,
    find_model,
    read_yaml,
)
from reactor_trio.cli.proxies import announce, proxy_options, take_sockets
from reactor_trio.compute.executor import ThreadExecutor
from reactor_trio.compute.lanes import FILES
from reactor_trio.compute.watchdog import Watchdog, watching
from reactor_trio.contract.contract import read_contract
from reactor_trio.errors import BadModelSetting, ModelNotFound
from reactor_trio.logs.logger import get_logger
from reactor_trio.logs.setup import LEVELS, LogFormat, logging_process
from reactor_trio.logs.values import printable
from reactor_trio.logs.writer import write_what_waits
from reactor_trio.media.settings import VIDEO_CODECS, MediaSettings
from reactor_trio.server.drain import INTERRUPTED, serve_process, shutting_down
from reactor_trio.server.gate import raise_descriptor_limit
from reactor_trio.server.listeners import ListenError
from reactor_trio.server.metrics import Metrics
from reactor_trio.server.serve import Server
from reactor_trio.server.settings import ServerSettings
from reactor_trio.session.host import ModelHost
from reactor_trio.session.limits import Limits
from reactor_trio.wire.tls import load_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from reactor_trio.cli.find_model import ModelChoice
    from reactor_trio.logs.process import Log
    from reactor_trio.server.auth import Authenticate

LIMITS = {
    "max_message_bytes": "One message from a client, in bytes.",
    "max_upload_bytes": "One uploaded file, in bytes.",
    "max_session_upload_bytes": "All files of a session, in bytes.",
    "max_uploads": "Number of files of a session.",
    "upload_chunk_bytes": "The largest chunk of an upload, in bytes.",
    "spool_bytes": "A file larger than so many bytes is kept on disk until a handler takes it.",
    "max_total_upload_bytes": "Uploads of all sessions in memory, in bytes; half of it for files that stay.",
    "max_total_spool_bytes": "Uploads of all sessions on disk, in bytes.",
    "upload_stall_timeout": "An upload of which nothing comes for so many seconds is given up.",
    "disk_timeout": "How long an upload waits for a slow disk until it fails, in seconds.",
    "upload_timeout": "How long a command waits for its upload, in seconds.",
    "max_queued_events": "Commands of a session that may wait.",
    "max_queued_event_bytes": "Memory of commands of a session that wait, in bytes; one alone always may.",
    "max_defer": "How long newer commands may push a deduplicated one back, in seconds.",
    "max_events_per_second": "Commands of a session in a second, and at once; 0: no limit.",
    "max_messages_per_second": "Messages of a session of any kind in a second, and at once; 0: no limit.",
    "max_bytes_per_second": "Bytes of uploads and media of a session in a second; 0: no limit.",
    "max_input_bytes": "Decoded frames of an input track that may wait for the model, in bytes.",
    "max_queued_messages": "Messages that may wait for a client.",
    "max_queued_bytes": "Bytes of messages that may wait for a client.",
    "max_bad_messages": "Unreadable messages in a row that end a session.",
    "send_timeout": "A client that accepts nothing for so many seconds is cut off.",
    "heartbeat": "Seconds between pings, and that a client has to answer one.",
    "idle_timeout": "Seconds that a client may stay without a command, upload or frame; 0: for ever.",
    "close_timeout": "The closing handshake, in seconds.",
    "hook_timeout": "What @disconnected may take, in seconds.",
}
"""Each field of `Limits`, and what its option's help says."""

MEDIA = {
    "video_codec": "What video is sent in, unless a client asks for another: h264 needs the extra video.",
    "jpeg_quality": "Quality of JPEG frames, 1 to 100.",
    "min_video_bit_rate": "Bits a second that H.264 may always take, however small the frames.",
    "max_video_bit_rate": "Bits a second that H.264 takes at most, a track and client.",
}
"""Each field of `MediaSettings`, and what its option's help says."""

log = get_logger(__name__)

_OUR_FOLDER = f"{Path(__file__).parents[1]}{os.sep}"


class Refusal(click.ClickException):
    """A wrong model, option or config: a short message, exit status 2."""

    exit_code = 2


class Failure(click.ClickException):
    """It was asked for in the right way, and did not work: a short message, exit status 1."""

    exit_code = 1


def _limit_options(command: Callable[..., None]) -> Callable[..., None]:
    for field in reversed(attrs.fields(Limits)):
        option = click.option(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            show_default=True,
            help=LIMITS[field.name],
        )
        command = option(command)
    return command


def _media_options(command: Callable[..., None]) -> Callable[..., None]:
    for field in reversed(attrs.fields(MediaSettings)):
        is_choice = field.name == "video_codec"
        option = click.option(
            f"--{field.name.replace('_', '-')}",
            type=click.Choice(VIDEO_CODECS) if is_choice else type(field.default),
            default=field.default,
            show_default=True,
            help=MEDIA[field.name],
        )
        command = option(command)
    return command


@click.command()
@click.argument("model", required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port; 0 picks one."
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML file that load() is given.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One value of the config; KEY may be a.b."
)
@click.option(
    "--max-sessions",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Clients at a time; 0: no limit.",
)
@click.option(
    "--max-sessions-per-address",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Clients of one address, or IPv6 network, that may be there or wait; 0: no limit.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Connections of all kinds; 0: as many as there are descriptors for.",
)
@click.option(
    "--max-handshakes",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Connections without a session: a request is still to come, or an answer to be read.",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Clients that may wait in line when it is full; 0: they are refused at once.",
)
@click.option(
    "--max-wait",
    type=float,
    default=300.0,
    show_default=True,
    help="Seconds that a client may wait in line.",
)
@click.option(
    "--token", envvar="REACTOR_TOKEN", show_envvar=True, help="What clients must show to be let in."
)
@jwt_options
@click.option("--no-auth", is_flag=True, help="Let anyone in who can reach the address.")
@click.option(
    "--allow-origin",
    "allow_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Other pages that may connect, such as https://example.com; * for any.",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="Another name by which a server of this machine alone may be asked.",
)
@click.option(
    "--certfile",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificate chain in PEM: serve https and wss.",
)
@click.option(
    "--keyfile",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The certificate's key in PEM, without a password, if it is not in --certfile.",
)
@proxy_options
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Log lines for a person, or one JSON object each.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="The least of what is logged.",
)
@click.option(
    "--drain-timeout",
    type=float,
    default=30.0,
    show_default=True,
    help="Seconds that sessions have to end on SIGTERM.",
)
@click.option(
    "--stuck-timeout",
    type=float,
    default=300.0,
    show_default=True,
    help="Seconds that a call may keep the model's device until /health says failed; 0: for ever.",
)
@click.option(
    "--watchdog/--no-watchdog",
    default=True,
    show_default=True,
    help="Log which line of the model blocks all clients, if one does.",
)
@_media_options
@_limit_options
def serve(
    model: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    log_format: LogFormat,
    log_level: str,
    watchdog: bool,
    **options: Any,
) -> None:
    """Serve MODEL to WebSocket clients.

    MODEL is module:Class or path/to/file.py:Class; the class may be left out where there is only one.
    Without it, reactor.yaml in the current folder says what to serve; without that, it is the demo.
    """
    with logging_process(log_format, log_level) as process_log:
        _serve(model, config_file, overrides, options, process_log, has_watchdog=watchdog)


def _serve(
    model: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    options: dict[str, Any],
    process_log: Log,
    *,
    has_watchdog: bool,
) -> None:
    try:
        choice = choose(model, Path.cwd())
        hook = find_hook(choice.authenticate) if choice.authenticate else None
        limits, media, settings = _settings(options, hook)
        config = apply_overrides(read_yaml(config_file) if config_file else choice.config, overrides)
        if choice.target.startswith(DEMO.partition(":")[0]):
            _require_torch()
        model_class = find_model(choice.target)
    except ModelNotFound as exc:
        raise Refusal(str(exc)) from None
    except ModelImportError as exc:
        _tell_failure(exc.__cause__ or exc, process_log)
        raise SystemExit(1) from None
    except KeyboardInterrupt:  # importing the model's file takes a while
        raise SystemExit(INTERRUPTED) from None
    try:
        read_contract(model_class)
    except TypeError as exc:  # two classes that do not go together: there is no line to show
        raise Failure(str(exc)) from None
    name = choice.name or model_class.__name__
    load = partial(_load, model_class, config, choice, limits, media)
    _run(name, settings, load, process_log, has_watchdog=has_watchdog)


def _settings(
    options: dict[str, Any], hook: Authenticate | None
) -> tuple[Limits, MediaSettings, ServerSettings]:
    try:
        limits = Limits(**{name: options.pop(name) for name in LIMITS})
        media = MediaSettings(**{name: options.pop(name) for name in MEDIA})
        context = _ssl_context(options.pop("certfile"), options.pop("keyfile"))
        authenticate = take_authenticate(options, hook)
        take_sockets(options)
        server = ServerSettings(ssl_context=context, authenticate=authenticate, **options)
        return limits, media, server
    except ValueError as exc:
        # attrs says `'send_timeout' must be > 0: 0.0`, the operator `--send-timeout`.
        text = re.sub(r"^'(\w+)'(?= must )", lambda field: f"--{field[1].replace('_', '-')}", str(exc))
        raise Refusal(text) from None


def _ssl_context(certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext | None:
    if certfile is None:
        if keyfile is not None:
            raise ValueError("--keyfile needs --certfile")
        return None
    return load_context(certfile, keyfile)


def _require_torch() -> None:
    try:
        importlib.import_module("torch")
    except ImportError:
        raise Refusal('the demo needs PyTorch: pip install "reactor-trio[torch]"') from None


async def _load(
    model_class: type[Any],
    config: dict[str, Any],
    choice: ModelChoice,
    limits: Limits,
    media: MediaSettings,
    executor: ThreadExecutor,
    metrics: Metrics,
) -> ModelHost:
    host = await ModelHost.load(
        model_class,
        config,
        name=choice.name,
        limits=limits,
        executor=executor,
        observer=metrics,
        media=media,
    )
    await executor.run(FILES, _keep_what_is_loaded)
    return host


def _keep_what_is_loaded() -> None:
    """Have the garbage collector never look at the model and the libraries again.

    It would find nothing, and stop all clients for 20 to 50 ms each time.
    """
    gc.collect()  # else what is garbage now, such as what `load` has left behind, would be kept too
    gc.freeze()


def _run(
    name: str,
    settings: ServerSettings,
    load: Callable[[ThreadExecutor, Metrics], Any],
    process_log: Log,
    *,
    has_watchdog: bool,
) -> None:
    executor, metrics = ThreadExecutor(), Metrics()
    log.debug("limit of descriptors", descriptors=raise_descriptor_limit())
    metrics.log_losses = lambda: (process_log.lost, process_log.repeats.suppressed)

    async def main() -> None:
        server = Server(settings, name=name, metrics=metrics, executor=executor)
        with watching(Watchdog(metrics.stalled)) if has_watchdog else nullcontext():
            await serve_process(
                server, partial(load, executor, metrics), shutdown=shutdown, announce=announce
            )

    ends_process = click.get_current_context().find_object(EndsProcess) is not None
    with shutting_down(executor, ends_process=ends_process, flush=write_what_waits) as shutdown:
        try:
            trio.run(main)
        except (ListenError, BadModelSetting) as exc:
            raise Failure(str(exc)) from None
        except SystemExit:  # of `load`: its status, or what it says on standard error
            raise
        except BaseException as exc:  # noqa: ASYNC103  no Trio runs
            if shutdown.status is None:
                _tell_failure(exc, process_log)
                raise SystemExit(1) from None  # noqa: ASYNC104  no Trio runs
        if shutdown.status is not None:
            raise SystemExit(shutdown.status)


def _tell_failure(exc: BaseException, process_log: Log) -> None:
    if process_log.log_format == "json":
        process_log.say("error", "the model could not be served", exc_info=exc)
    else:
        _print_traceback(exc)


def _print_traceback(exc: BaseException) -> None:
    """Print what the author's code raised, from the first line of theirs; all of it if none is theirs.

    A `TypeError` that the runtime itself raised, because of a class, ends at the author's last line too.
    """
    frames = _first_of_theirs(exc.__traceback__)
    if frames is not None and isinstance(exc, TypeError):
        frames = _without_our_tail(frames)
    if frames is None and not isinstance(exc, SyntaxError):  # which names the place itself
        frames = exc.__traceback__
    text = "".join(traceback.format_exception(type(exc), exc, frames))
    click.echo("\n".join(map(printable, text.rstrip("\n").split("\n"))), err=True)


def _without_our_tail(frames: TracebackType) -> TracebackType | None:
    kept: TracebackType | None = None
    for frame in reversed(list(_chain(frames))):
        is_ours = frame.tb_frame.f_code.co_filename.startswith(_OUR_FOLDER)
        if kept is not None or not is_ours:
            kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def _chain(frames: TracebackType | None) -> Iterator[TracebackType]:
    while frames is not None:
        yield frames
        frames = frames.tb_next


def _first_of_theirs(frames: TracebackType | None) -> TracebackType | None:
    packages = (Path(__file__).parents[1], Path(trio.__file__).parent, Path(outcome.__file__).parent)
    not_theirs = (*(f"{folder}{os.sep}" for folder in packages), "<frozen importlib", importlib.__file__)
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(not_theirs):
        frames = frames.tb_next
    return frames
