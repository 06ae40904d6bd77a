"""The dispatch task: hooks and handlers, one at a time, in the order in which they were queued."""

from __future__ import annotations

import contextlib
import inspect
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import trio

from reactor_trio.compute.lanes import HANDLERS
from reactor_trio.contract.serialise import dump
from reactor_trio.declare.messages import Message
from reactor_trio.errors import (
    LONGEST_REFUSAL,
    CommandError,
    InvalidPayload,
    ProtocolError,
    check_refusal,
    shorten,
)
from reactor_trio.protocol import control, names
from reactor_trio.protocol.text import encodable, encode_server_text
from reactor_trio.session.endings import CONNECT_FAILED, Ending
from reactor_trio.session.failures import contained, is_client_gone, split
from reactor_trio.session.work import Backlog, Begun, Command, FileArrived, Work

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from reactor_trio.compute.executor import Executor
    from reactor_trio.contract.events import HookSpec
    from reactor_trio.declare.client_info import ClientInfo
    from reactor_trio.declare.connected import Connected
    from reactor_trio.declare.uploaded_file import UploadedFile
    from reactor_trio.link.outbox import Outbox
    from reactor_trio.logs.logger import Logger
    from reactor_trio.model.model import ReactorModel
    from reactor_trio.protocol.text import Id
    from reactor_trio.session.coalescing import CoalescingReceiveChannel
    from reactor_trio.session.latency import LatencyTracker
    from reactor_trio.session.observer import Handled, Observer
    from reactor_trio.session.turns import Turns

STEP = 0.005
"""Seconds that handlers which never wait may take together before the loop gets its turn."""


def encode_message(message: Message, reply_to: Id | None = None) -> str:
    """The text frame of a message. Raises `TypeError` if it is none, or a value cannot be serialised."""
    if not isinstance(message, Message):
        raise TypeError(f"a ModelMessage can be sent, not {type(message).__name__}")
    return encode_server_text(message.__wire_name__, dump(message), reply_to)


def _is_unread(work: Work) -> bool:
    return type(work) is not Begun and bool(work.unread)  # type: ignore[union-attr]


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
        log: Logger,
        end: Callable[[Ending], None],
        observer: Observer,
        latency: LatencyTracker,
        turns: Turns | None = None,
        loaded: Callable[[Mapping[str, UploadedFile]], AbstractAsyncContextManager[None]] | None = None,
    ) -> None:
        self._model = model
        self._client = client
        self._connected = connected
        self._inbox = inbox
        self._outbox = outbox
        self._executor = executor
        self._log = log
        self._end = end
        self._observer = observer
        self._latency = latency
        self.turns = turns
        """Of a `ReactorPipeline`: handlers run between the steps of its generator."""
        # Reads files from the disk, and frees them again; see `Uploads.loaded`.
        self._loaded = loaded
        self.backlog = Backlog()
        # Half the price of `trio.current_time`, and asked twice for each command.
        self._now = trio.lowlevel.current_clock().current_time
        # That of `run`'s task: all handlers of a session share their context variables.
        self._context: contextvars.Context | None = None
        self.entered = False
        """Whether `@connected` was entered, so that `@disconnected` is due."""

    async def run(self) -> None:
        """`@connected`, then everything in the inbox. Runs until it is cancelled."""
        with self._inbox:
            await trio.lowlevel.checkpoint_if_cancelled()  # `run` may have failed in its first step
            self._latency.handlers_run_here()
            self._context = trio.lowlevel.current_task().context
            with contained(self._connect_failed):
                self._model._reactor_begin()
                self.entered = True
                await self.hook(type(self._model).__declarations__.connected)
                self._connected.set()
            if self._connected.is_set():  # else `@connected` has failed, or the session ended meanwhile
                await self._serve()

    def close(self) -> None:
        """Throw away what was not begun; for a session that ended before `run` was started."""
        self._inbox.close()

    def _connect_failed(self, failure: BaseException) -> None:
        if not is_client_gone(failure):
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
            # Not kept while this task waits: a payload may hold large files.
            work: Work | None = await self._inbox.receive()
            while work is not None:
                work = await (self._run_unread(work) if _is_unread(work) else self._turn(work))

    async def _turn(self, work: Work) -> Work | None:
        """Run it, and what waits behind it; returns what was taken and must have its files read first."""
        turns = self.turns
        if turns is None:
            return await self._run_waiting(work)
        await turns.begin_handling()
        try:
            return await self._run_waiting(work)
        finally:
            turns.end_handling()

    async def _run_waiting(self, work: Work) -> Work | None:
        # Take on without a checkpoint what waits behind it: a task switch a command is what would cost.
        deadline = trio.current_time() + STEP
        while True:
            await self._run(work)
            if trio.current_time() > deadline:
                return None
            try:
                work = self._inbox.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):  # ended: the client left in this very step
                return None
            if _is_unread(work):
                return work

    async def _run_unread(self, work: Work) -> Work | None:
        """Run work whose files are on the disk: they are read first, in no one's turn."""
        assert isinstance(work, Command | FileArrived)
        assert self._loaded is not None
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._loaded(work.unread))
            except ProtocolError as error:
                await self._unreadable(work, error)
                return None
            return await self._turn(work)

    async def _unreadable(self, work: Command | FileArrived, error: ProtocolError) -> None:
        if isinstance(work, FileArrived):
            self._log.error("@file_uploaded was not called", reason=error.message)
            return
        self.backlog.bytes -= work.weight
        self._observer.not_handled(work.spec.name, "invalid")
        error.event, error.reply_to = work.spec.name, work.id
        await self._send(control.error_of(error))

    async def _run(self, work: Work) -> None:
        match work:
            case Command():
                self.backlog.bytes -= work.weight
                answer = await self._command(work)
            case Begun(command, result, began):
                answer = await self._rest(command, result, began)
            case FileArrived(file, _):
                answer = None
                with contained(lambda failure: self._log.error("@file_uploaded failed", exc_info=failure)):
                    await self.hook(type(self._model).__declarations__.file_uploaded, file)
        if answer is not None:
            await self._send(answer)

    async def _send(self, text: str) -> None:
        try:
            self._outbox.put_nowait(text)
        except trio.WouldBlock:
            await self._outbox.put(text)

    def run_for_receive(self, command: Command, began: float) -> str | Begun | None:
        """Run a plain `def` handler at once, in the task that received the command; returns the answer.

        Only when this task waits for the inbox, so that order and meaning are as if it had run it; what the
        handler finds in context variables, and sets there, is this task's too. If the handler returns an
        awaitable, that comes back and must be queued. `began` is the time now.
        """
        assert self._context is not None, "the dispatcher waits for the inbox, so it runs"
        return self._context.run(self._run_now, command, began)

    def _run_now(self, command: Command, began: float) -> str | Begun | None:
        try:
            result = command.spec.call(self._model, command.payload, self._client)
            if result is not None and inspect.isawaitable(result):
                return Begun(command, result, began)
            return self._answer(command, result, began, self._latency.handled)
        except BaseException as raised:  # noqa: ASYNC103  `split` hands on
            return self._refusal(command, raised, began)  # noqa: ASYNC104  `split` hands on

    async def _command(self, command: Command) -> str | None:
        """Run the handler; returns the answer, None if none is due."""
        spec = command.spec
        began = self._now()
        if not spec.in_thread and not spec.is_async:
            begun = self._run_now(command, began)
            if isinstance(begun, Begun):
                return await self._rest(begun.command, begun.result, begun.began)
            return begun
        try:
            awaitable = self._begun(command)
        except BaseException as raised:  # of a decorator around the handler, for one  # noqa: ASYNC103  `split` hands on
            return self._refusal(command, raised, began)  # noqa: ASYNC104  `split` hands on
        return await self._rest(command, awaitable, began)

    def _begun(self, command: Command) -> Awaitable[Any]:
        spec = command.spec
        if spec.in_thread:
            handler, arguments = spec.bind(self._model, command.payload, self._client)
            return self._executor.run(HANDLERS, handler, **arguments)
        called: Awaitable[Any] = spec.call(self._model, command.payload, self._client)
        return called

    async def _rest(self, command: Command, awaitable: Any, began: float) -> str | None:
        self._latency.running(command.id, command.arrived, began)
        try:
            return self._answer(command, await awaitable, began, self._latency.ran)
        except BaseException as raised:  # noqa: ASYNC103  `split` hands on
            return self._refusal(command, raised, began)  # noqa: ASYNC104  `split` hands on

    def _answer(
        self,
        command: Command,
        result: object,
        began: float,
        tell: Callable[[Id | None, float, float, float], None],
    ) -> str | None:
        reply = command.spec.check_result(result)
        if reply is not None:
            answer: str | None = encode_message(reply, command.id)
        else:
            answer = None if command.id is None else control.ack(command.id)
        now = self._now()
        self._observer.handled(command.spec.name, "ok", began - command.arrived, now - began)
        tell(command.id, command.arrived, began, now)
        return answer

    def _refusal(self, command: Command, raised: BaseException, began: float) -> str:
        """The answer to a command whose handler raised. Raises what is not the handler's failure."""
        failure, rest = split(raised)
        if rest is None:
            assert failure is not None
            return self._failure(command, failure, began)
        if failure is not None:  # from a nursery of the handler's, which was cancelled too: the session ends
            with contextlib.suppress(trio.WouldBlock):
                self._outbox.put_nowait(self._failure(command, failure, began))
        raise rest from None

    def _failure(self, command: Command, failure: BaseException, began: float) -> str:
        """The answer, whatever the failure is made of. Raises only what is not the handler's."""
        name = command.spec.name
        with contained(lambda worse: self._log.error("handler failed", command=name, exc_info=worse)):
            return self._told(command, failure, began)
        return control.error(names.INTERNAL_ERROR, "the handler failed", event=name, reply_to=command.id)

    def _told(self, command: Command, failure: BaseException, began: float) -> str:
        self._latency.failed()
        name = command.spec.name
        if isinstance(failure, InvalidPayload):  # a state's own validator has the last word
            failure.reply_to = command.id
            self._observer.not_handled(name, "invalid")
            return control.error_of(failure)
        outcome: Handled = "refused" if isinstance(failure, CommandError) else "failed"
        self._observer.handled(name, outcome, began - command.arrived, self._now() - began)
        if isinstance(failure, CommandError):
            check_refusal(failure.code, failure.message)  # a subclass may have set them
            text = shorten(encodable(failure.message), LONGEST_REFUSAL)
            if text != failure.message:
                wrong = "it was too long, or held half a surrogate pair"
                self._log.warning("the message of a CommandError was changed", command=name, reason=wrong)
            return control.error(failure.code, text, event=name, reply_to=command.id)
        if not is_client_gone(failure):
            self._log.error("handler failed", command=name, exc_info=failure)
        return control.error(names.INTERNAL_ERROR, "the handler failed", event=name, reply_to=command.id)
