"""The dispatch task: hooks and handlers, one at a time, in the order in which they were queued."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import trio

from reactor_trio.authoring.messages import ModelMessage
from reactor_trio.compute.executor import HANDLERS, Executor
from reactor_trio.contract.serialise import dump
from reactor_trio.errors import CommandError
from reactor_trio.protocol import control, names
from reactor_trio.protocol.text import encode_server_text
from reactor_trio.session.endings import CONNECT_FAILED, Ending
from reactor_trio.session.failures import OURS, contained, unwrap
from reactor_trio.session.work import Command, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from reactor_trio.authoring.client_info import ClientInfo
    from reactor_trio.authoring.connected import Connected
    from reactor_trio.authoring.model import ReactorModel
    from reactor_trio.authoring.uploads import UploadedFile
    from reactor_trio.contract.events import HookSpec
    from reactor_trio.protocol.text import Id
    from reactor_trio.session.coalescing import CoalescingReceiveChannel
    from reactor_trio.session.outbox import Outbox

STEP = 0.005
"""Seconds that handlers which never wait may take together before the loop gets its turn."""


def encode_message(message: ModelMessage, reply_to: Id | None = None) -> str:
    """The text frame of a message. Raises `TypeError` if it is none, or a value cannot be serialised."""
    if not isinstance(message, ModelMessage):
        raise TypeError(f"a ModelMessage can be sent, not {type(message).__name__}")
    return encode_server_text(message.__wire_name__, dump(message), reply_to)


class Dispatcher:
    """Runs the hooks and handlers of one session; see `Session` for how long."""

    def __init__(
        self,
        model: ReactorModel,
        client: ClientInfo,
        connected: Connected,
        inbox: CoalescingReceiveChannel[Work],
        outbox: Outbox,
        executor: Executor,
        log: FilteringBoundLogger,
        end: Callable[[Ending], None],
    ) -> None:
        self._model = model
        self._client = client
        self._connected = connected
        self._inbox = inbox
        self._outbox = outbox
        self._executor = executor
        self._log = log
        self._end = end
        self.entered = False
        """Whether `@connected` was entered, so that `@disconnected` is due."""

    async def run(self) -> None:
        """`@connected`, then everything in the inbox. Runs until it is cancelled."""
        with self._inbox:
            await trio.lowlevel.checkpoint_if_cancelled()  # `run` may have failed in its first step
            self.entered = True
            with contained(self._connect_failed):
                await self.hook(type(self._model).__declarations__.connected)
                self._connected.set()
            if self._connected.is_set():
                await self._serve()

    def close(self) -> None:
        """Throw away what was not begun; for a session that ended before `run` was started."""
        self._inbox.close()

    def _connect_failed(self, failure: BaseException) -> None:
        self._log.error("@connected failed", exc_info=failure)
        self._end(CONNECT_FAILED)

    async def hook(self, hook: HookSpec | None, uploaded_file: UploadedFile | None = None) -> None:
        """Run one hook of the model, if it has it. Raises what the hook raises."""
        if hook is None:
            return
        result = hook.call(self._model, self._client, uploaded_file)
        if inspect.isawaitable(result):
            await result

    async def _serve(self) -> None:
        while True:
            work = await self._inbox.receive()
            # Take on without a checkpoint what waits behind it: a task switch a command is what would cost.
            deadline = trio.current_time() + STEP
            while True:
                await self._run(work)
                if trio.current_time() > deadline:
                    break
                try:
                    work = self._inbox.receive_nowait()
                except trio.WouldBlock:
                    break

    async def _run(self, work: Work) -> None:
        if isinstance(work, Command):
            answer = await self._command(work)
            if answer is not None:
                await self._send(answer)
            return
        with contained(lambda failure: self._log.error("@file_uploaded failed", exc_info=failure)):
            await self.hook(type(self._model).__declarations__.file_uploaded, work.file)

    async def _send(self, text: str) -> None:
        try:
            self._outbox.put_nowait(text)
        except trio.WouldBlock:
            await self._outbox.put(text)

    async def _command(self, command: Command) -> str | None:
        """Run the handler; returns the answer, None if none is due."""
        try:
            reply = command.spec.check_result(await self._call(command))
            if reply is not None:
                return encode_message(reply, command.id)
        except OURS as failure:
            return self._failure(command, unwrap(failure))
        except BaseExceptionGroup as group:
            failures, rest = group.split(OURS)
            if rest is not None:
                raise
            return self._failure(command, unwrap(failures or group))
        return None if command.id is None else control.ack(command.id)

    async def _call(self, command: Command) -> Any:
        spec = command.spec
        if spec.in_thread:
            return await self._executor.run(HANDLERS, spec.call, self._model, command.payload, self._client)
        result = spec.call(self._model, command.payload, self._client)
        if spec.is_async or (result is not None and inspect.isawaitable(result)):
            return await result
        return result

    def _failure(self, command: Command, failure: BaseException) -> str:
        name = command.spec.name
        if isinstance(failure, CommandError):
            return control.error(failure.code, failure.message, event=name, reply_to=command.id)
        self._log.error("handler failed", command=name, exc_info=failure)
        return control.error(names.INTERNAL_ERROR, "the handler failed", event=name, reply_to=command.id)
