"""Runs the model's hooks and handlers, and makes the answers to the client's commands.

The inbox (`session/inbox.py`) decides when a handler runs: one at a time, in the dispatch task, or in the
step of the receive task that read the command. All hooks and handlers of a session share the context
variables of the dispatch task.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

import trio

from reactor_trio.compute.lanes import HANDLERS
from reactor_trio.contract.serialise import dump
from reactor_trio.declare.messages import Message
from reactor_trio.errors import (
    LONGEST_REFUSAL,
    CommandError,
    InvalidPayload,
    check_refusal,
    shorten,
)
from reactor_trio.protocol import names
from reactor_trio.protocol.server_messages import Ack, Error, ModelText
from reactor_trio.protocol.text import encodable
from reactor_trio.session.endings import CONNECT_FAILED, Ending
from reactor_trio.session.failures import contained, is_client_gone, split
from reactor_trio.session.work import Begun, Command

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable

    from reactor_trio.contract.events import HookSpec
    from reactor_trio.declare.connected import Connected
    from reactor_trio.declare.uploaded_file import UploadedFile
    from reactor_trio.model.model import ReactorModel
    from reactor_trio.protocol.server_messages import ToClient
    from reactor_trio.protocol.text import Id
    from reactor_trio.session.applied import AppliedCommands
    from reactor_trio.session.context import SessionContext
    from reactor_trio.session.observer import Handled


def model_text(message: Message, reply_to: Id | None = None) -> ModelText:
    """Make the protocol message of a model's message, in answer to the command `reply_to` if there is one.

    Raises `TypeError` if `message` is no `Message`, or one of its values cannot be serialised.
    """
    if not isinstance(message, Message):
        raise TypeError(f"a ModelMessage can be sent, not {type(message).__name__}")
    return ModelText(message.__wire_name__, dump(message), reply_to)


class Handlers:
    """Runs the hooks and handlers of one session's model, and makes the answers.

    Called by the inbox for commands and files, and by the session for `@disconnected`.
    """

    def __init__(
        self,
        context: SessionContext,
        model: ReactorModel,
        connected: Connected,
        applied: AppliedCommands,
        end: Callable[[Ending], None],
    ) -> None:
        self._model = model
        self._client = context.client
        self._connected = connected
        self._executor = context.executor
        self._log = context.log
        self._observer = context.observer
        self._applied = applied
        self._end = end
        # Half the CPU time of `trio.current_time`; read twice for each command.
        self._now = trio.lowlevel.current_clock().current_time
        # The context of the dispatch task, in which all handlers of the session run.
        self._context: contextvars.Context | None = None
        self.entered = False
        """Whether `@connected` has begun, so that `@disconnected` must run at the session's end."""

    async def connect(self) -> bool:
        """Run `@connected` in the calling task, the dispatch task; returns whether the hook succeeded.

        If `@connected` raises, the session ends. If `@connected` is cancelled, `@disconnected` still runs.
        """
        await trio.lowlevel.checkpoint_if_cancelled()  # `run` may have failed in its first step
        self._applied.handlers_run_here()
        self._context = trio.lowlevel.current_task().context
        with contained(self._connect_failed):
            self._model._reactor_begin()
            self.entered = True
            await self._hook(type(self._model).__declarations__.connected)
            self._connected.set()
        return self._connected.is_set()  # False if the session has ended meanwhile

    def _connect_failed(self, failure: BaseException) -> None:
        if not is_client_gone(failure):
            self._log.error("@connected failed", exc_info=failure)
        self._end(CONNECT_FAILED)

    async def file_uploaded(self, file: UploadedFile) -> None:
        """Run `@file_uploaded`. A failure of the hook is logged, not raised."""
        with contained(lambda failure: self._log.error("@file_uploaded failed", exc_info=failure)):
            await self._hook(type(self._model).__declarations__.file_uploaded, file)

    async def disconnect(self) -> None:
        """Run `@disconnected`, if the model has it. A failure of the hook is logged, not raised."""
        with contained(lambda failure: self._log.error("@disconnected failed", exc_info=failure)):
            await self._hook(type(self._model).__declarations__.disconnected)

    async def _hook(self, hook: HookSpec | None, uploaded_file: UploadedFile | None = None) -> None:
        if hook is None:
            return
        result = hook.call(self._model, self._client, uploaded_file)
        if inspect.isawaitable(result):
            await result

    def run_now(self, command: Command, began: float) -> ToClient | Begun | None:
        """Run a plain `def` handler in the caller's step; returns the answer, None if none is due.

        May be called from any task: the handler reads and sets the context variables of the dispatch task.
        If the handler returns an awaitable, `run_now` returns a `Begun`, which the caller must queue.
        `began` is the present time, in seconds of Trio's clock.
        """
        assert self._context is not None, "the dispatcher waits for the inbox, so it runs"
        return self._context.run(self._run_now, command, began)

    def _run_now(self, command: Command, began: float) -> ToClient | Begun | None:
        try:
            result = command.spec.call(self._model, command.payload, self._client)
            if result is not None and inspect.isawaitable(result):
                return Begun(command, result, began)
            return self._answer(command, result, began, self._applied.handled)
        except BaseException as raised:  # noqa: ASYNC103  `split` hands on
            return self._refusal(command, raised, began)  # noqa: ASYNC104  `split` hands on

    async def command(self, command: Command) -> ToClient | None:
        """Run the handler of a command in the dispatch task; returns the answer, None if none is due."""
        spec = command.spec
        began = self._now()
        if not spec.in_thread and not spec.is_async:
            begun = self._run_now(command, began)
            if isinstance(begun, Begun):
                return await self.rest(command, begun.result, began)
            return begun
        try:
            awaitable = self._begun(command)
        except BaseException as raised:  # e.g. from a decorator around the handler  # noqa: ASYNC103  `split` hands on
            return self._refusal(command, raised, began)  # noqa: ASYNC104  `split` hands on
        return await self.rest(command, awaitable, began)

    def _begun(self, command: Command) -> Awaitable[Any]:
        spec = command.spec
        if spec.in_thread:
            handler, arguments = spec.bind(self._model, command.payload, self._client)
            return self._executor.run(HANDLERS, handler, **arguments)
        called: Awaitable[Any] = spec.call(self._model, command.payload, self._client)
        return called

    async def rest(self, command: Command, result: Awaitable[Any], began: float) -> ToClient | None:
        """Await a handler's result in the dispatch task; returns the answer, None if none is due."""
        self._applied.running(command.id, command.arrived, began)
        try:
            return self._answer(command, await result, began, self._applied.ran)
        except BaseException as raised:  # noqa: ASYNC103  `split` hands on
            return self._refusal(command, raised, began)  # noqa: ASYNC104  `split` hands on

    def _answer(
        self,
        command: Command,
        result: object,
        began: float,
        tell: Callable[[Id | None, float, float, float], None],
    ) -> ToClient | None:
        reply = command.spec.check_result(result)
        if reply is not None:
            answer: ToClient | None = model_text(reply, command.id)
        else:
            answer = None if command.id is None else Ack(command.id)
        now = self._now()
        self._observer.handled(command.spec.name, "ok", began - command.arrived, now - began)
        tell(command.id, command.arrived, began, now)
        return answer

    def _refusal(self, command: Command, raised: BaseException, began: float) -> ToClient:
        """Make the answer to a command whose handler raised.

        Raises the part of `raised` that is not a failure of the handler (`session/failures.py`).
        """
        failure, rest = split(raised)
        if rest is None:
            assert failure is not None
            return self._failure(command, failure, began)
        if failure is not None:  # the handler's nursery failed and was cancelled too: the session ends
            with contextlib.suppress(trio.WouldBlock):
                command.reply.send_nowait(self._failure(command, failure, began))
        raise rest from None

    def _failure(self, command: Command, failure: BaseException, began: float) -> ToClient:
        """Make the answer to a failed command, even if the failure itself, e.g. its `__str__`, raises."""
        name = command.spec.name
        with contained(lambda worse: self._log.error("handler failed", command=name, exc_info=worse)):
            return self._told(command, failure, began)
        return Error(names.INTERNAL_ERROR, "the handler failed", event=name, reply_to=command.id)

    def _told(self, command: Command, failure: BaseException, began: float) -> ToClient:
        self._applied.failed()
        name = command.spec.name
        if isinstance(failure, InvalidPayload):  # raised by a validator of the model's state
            failure.reply_to = command.id
            self._observer.not_handled(name, "invalid")
            return Error.of(failure)
        outcome: Handled = "refused" if isinstance(failure, CommandError) else "failed"
        self._observer.handled(name, outcome, began - command.arrived, self._now() - began)
        if isinstance(failure, CommandError):
            check_refusal(failure.code, failure.message)  # a subclass may have set invalid values
            text = shorten(encodable(failure.message), LONGEST_REFUSAL)
            if text != failure.message:
                wrong = "it was too long, or held half a surrogate pair"
                self._log.warning("the message of a CommandError was changed", command=name, reason=wrong)
            return Error(failure.code, text, event=name, reply_to=command.id)
        if not is_client_gone(failure):
            self._log.error("handler failed", command=name, exc_info=failure)
        return Error(names.INTERNAL_ERROR, "the handler failed", event=name, reply_to=command.id)
