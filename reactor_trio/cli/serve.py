"""`reactor-trio serve`: from the command line to a served model, and the exit status of the process."""

from __future__ import annotations

import gc
import importlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from reactor_trio.cli import EndsProcess
from reactor_trio.cli.errors import Failure, Refusal
from reactor_trio.cli.find_model import (
    DEMO,
    ModelImportError,
    apply_overrides,
    choose,
    find_hook,
    find_model,
    read_yaml,
)
from reactor_trio.cli.limits import LIMIT_OPTIONS
from reactor_trio.cli.options import adding
from reactor_trio.cli.proxies import announce
from reactor_trio.cli.settings import ADDRESS_OPTIONS, CLIENT_OPTIONS, read_settings
from reactor_trio.cli.tracebacks import print_traceback
from reactor_trio.compute.lanes import FILES
from reactor_trio.compute.watchdog import Watchdog, watching
from reactor_trio.contract.contract import read_contract
from reactor_trio.errors import BadModelSetting, ListenError, ModelNotFound
from reactor_trio.logs.logger import get_logger
from reactor_trio.logs.setup import LEVELS, LogFormat, logging_process
from reactor_trio.logs.writer import write_what_waits
from reactor_trio.server.composition import Composition
from reactor_trio.server.drain import INTERRUPTED, serve_process, shutting_down
from reactor_trio.server.gate import raise_descriptor_limit

if TYPE_CHECKING:
    from reactor_trio.link.host import ModelHost
    from reactor_trio.logs.process import Log

log = get_logger(__name__)


@click.command()
@click.argument("model", required=False)
@adding(ADDRESS_OPTIONS)
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
@adding(CLIENT_OPTIONS)
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
    "--watchdog/--no-watchdog",
    default=True,
    show_default=True,
    help="Log which line of the model blocks all clients, if one does.",
)
@adding(LIMIT_OPTIONS)
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
        settings = read_settings(options, hook)
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
    except TypeError as exc:  # two classes that do not fit together: no line of the author's is wrong
        raise Failure(str(exc)) from None
    composition = Composition(
        model=model_class,
        settings=settings.server,
        config=config,
        name=choice.name,
        limits=settings.limits,
        media=settings.media,
    )
    _run(composition, process_log, has_watchdog=has_watchdog)


def _require_torch() -> None:
    try:
        importlib.import_module("torch")
    except ImportError:
        raise Refusal('the demo needs PyTorch: pip install "reactor-trio[torch]"') from None


def _keep_what_is_loaded() -> None:
    """Exclude the model and the libraries from garbage collection.

    Each full collection would examine them, find nothing, and stop all clients for 20 to 50 ms.
    """
    gc.collect()  # otherwise the present garbage, such as that of `load`, would be kept for ever
    gc.freeze()


def _run(composition: Composition, process_log: Log, *, has_watchdog: bool) -> None:
    executor, metrics = composition.executor, composition.metrics
    log.debug("limit of descriptors", descriptors=raise_descriptor_limit())
    metrics.log_losses = lambda: (process_log.lost, process_log.repeats.suppressed)

    async def load() -> ModelHost:
        host = await composition.load()
        await executor.run(FILES, _keep_what_is_loaded)
        return host

    async def main() -> None:
        server = composition.server()
        with watching(Watchdog(metrics.stalled)) if has_watchdog else nullcontext():
            await serve_process(server, load, shutdown=shutdown, announce=announce)

    ends_process = click.get_current_context().find_object(EndsProcess) is not None
    with shutting_down(executor, ends_process=ends_process, flush=write_what_waits) as shutdown:
        try:
            trio.run(main)
        except (ListenError, BadModelSetting) as exc:
            raise Failure(str(exc)) from None
        except SystemExit:  # of `load`: it ends the process with its own status or text
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
        print_traceback(exc)
