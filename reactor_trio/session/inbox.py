"""The inbox: the queue of a session's commands and files, and the dispatch task that runs their handlers.

A command is run at once, queued, superseded by a later command, or refused; its client is told in every case.
The waiting commands are bounded in number and in bytes; commands that wait for their uploads count too.
"""

from __future__ import annotations

import math
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import trio

from reactor_trio.errors import ProtocolError
from reactor_trio.protocol import names
from reactor_trio.protocol.server_messages import Error
from reactor_trio.session.coalescing import open_coalescing_channel
from reactor_trio.session.turns import Turns
from reactor_trio.session.work import Aside, Begun, Command, FileArrived, Work

if TYPE_CHECKING:
    from reactor_trio.contract.events import EventSpec
    from reactor_trio.protocol.server_messages import ToClient
    from reactor_trio.protocol.text import Id
    from reactor_trio.session.coalescing import CoalescingReceiveChannel, CoalescingSendChannel
    from reactor_trio.session.coalescing_state import CoalescingChannelStatistics
    from reactor_trio.session.context import SessionContext
    from reactor_trio.session.handlers import Handlers

TIME_SLICE = 0.005
"""Seconds after which the dispatch task stops running handlers without a checkpoint between them."""


class Inbox:
    """The queue of one session's commands and finished uploads, between its links and its handlers.

    The links call `put`, `put_file` and the methods for commands aside; the session runs `serve` in the
    dispatch task, and calls `stop` and `close` at its end.
    """

    def __init__(self, context: SessionContext, handlers: Handlers, *, has_steps: bool) -> None:
        """`has_steps`: the model is a `ReactorPipeline`, whose handlers run between the generator's steps."""
        self._handlers = handlers
        self._observer = context.observer
        self._log = context.log
        self._max_commands = context.limits.max_queued_events
        self._max_bytes = context.limits.max_queued_event_bytes
        # A held key has two values in the channel, one more than it needs room for otherwise.
        keys = sum(event.dedupe for event in context.contract.declarations.events.values())
        size = self._max_commands + context.limits.max_uploads + keys
        channel: tuple[CoalescingSendChannel[Work], CoalescingReceiveChannel[Work]] = open_coalescing_channel(
            size, max_defer=context.limits.max_defer
        )
        self._waiting, self._taken = channel
        self.turns = Turns(self._waiting) if has_steps else None
        # Valid commands that wait for their uploads; they count towards both bounds.
        self._aside: list[Aside] = []
        self.bytes = 0
        """Largest memory that the waiting commands may take, in bytes, commands aside included."""
        self._now = trio.lowlevel.current_clock().current_time

    @property
    def buffered(self) -> int:
        """Number of commands and finished uploads that wait for the dispatch task."""
        return self._waiting.buffered

    @property
    def aside(self) -> int:
        """Number of commands that wait for their uploads."""
        return len(self._aside)

    def statistics(self) -> CoalescingChannelStatistics:
        """The numbers of the channel now."""
        return self._waiting.statistics()

    # ---- the side of the links

    def put(self, command: Command, *, run_before: float = -math.inf) -> None:
        """Run a command at once, or queue it. The client of a command that it replaces is told.

        A plain `def` handler is run in the caller's step if no work is ahead of the command and the time is
        before `run_before`, in seconds of Trio's clock. This saves two task switches, which cost more than
        all other work for a command. Raises `ProtocolError`, `overloaded`, if there is no room; the command
        is not queued then. Does nothing once the session has ended.
        """
        key = command.key
        replaces = key is not None and (self._waiting.would_replace(key) or self._is_aside(key))
        self._check_room(command.spec, command.id, replaces=replaces)
        if self.bytes:
            self._check_weight(command.spec, command.id, command.weight, queued=True)
        if self._aside and key is not None:
            self._supersede_aside(key)
        now = self._now()
        if now < run_before and command.unread is None and self._may_run(command.spec):
            self._run_now(command, now)
        else:
            self.queue(command)

    def _may_run(self, spec: EventSpec) -> bool:
        if spec.is_async or spec.in_thread or not self._waiting.receiver_waits:
            return False
        return self.turns is None or not self.turns.stepping

    def _run_now(self, command: Command, now: float) -> None:
        answer = self._handlers.run_now(command, now)
        if self.turns is not None:
            self.turns.handled()
        if isinstance(answer, Begun):
            self._waiting.send_nowait(answer)
        elif answer is not None:
            command.reply.post(answer)

    def queue(self, command: Command) -> None:
        """Queue a command for which there is room; does nothing once the session has ended.

        `AsideCommands` calls this after `take_back`: the room of a command aside is assured, and it is never
        run at once.
        """
        try:
            replaced = self._waiting.send_nowait(command, command.key)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the session has ended
        self.bytes += command.weight
        if isinstance(replaced, Command):
            self.bytes -= replaced.weight
            self._superseded(replaced)

    def put_file(self, arrived: FileArrived) -> None:
        """Queue a complete upload for `@file_uploaded`. Does nothing once the session has ended."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._waiting.send_nowait(arrived)

    def put_aside(self, aside: Aside) -> None:
        """Count a command that waits for its uploads, and supersede a command aside of the same event.

        A queued command of the event is not replaced before the uploads are complete, since they may never
        be. Raises `ProtocolError`, `overloaded`, if there is no room; the command is not counted then.
        """
        spec = aside.spec
        self._check_room(spec, aside.id, replaces=spec.dedupe and self._is_aside(spec.name))
        self._check_weight(spec, aside.id, aside.weight, queued=False)
        if spec.dedupe:
            self._supersede_aside(spec.name)
        self._aside.append(aside)
        self.bytes += aside.weight

    def take_back(self, aside: Aside) -> bool:
        """Stop counting a command aside; returns False if a later command has superseded it."""
        if aside not in self._aside:
            return False
        self._aside.remove(aside)
        self.bytes -= aside.weight
        return True

    def _is_aside(self, event: str) -> bool:
        return any(aside.spec.name == event for aside in self._aside)

    def _supersede_aside(self, event: str) -> None:
        for aside in [aside for aside in self._aside if aside.spec.name == event]:
            self.take_back(aside)
            aside.withdraw()
            self._superseded(aside)

    def _superseded(self, command: Command | Aside) -> None:
        self._observer.not_handled(command.spec.name, "superseded")
        command.reply.superseded(command.id)

    def _check_room(self, spec: EventSpec, id_: Id | None, *, replaces: bool) -> None:
        # Commands aside count, so that there is room when their uploads are complete. Files do not count: the
        # channel is larger by `max_uploads`, since a file for `@file_uploaded` must never find it full.
        room = self._max_commands - len(self._aside)
        if replaces or self._waiting.buffered < room:
            return
        if sum(not isinstance(work, FileArrived) for work in self._waiting.waiting()) < room:
            return
        text = f"{self._max_commands} commands wait already; this one was not taken"
        raise ProtocolError(names.OVERLOADED, text, event=spec.name, reply_to=id_)

    def _check_weight(self, spec: EventSpec, id_: Id | None, weight: int, *, queued: bool) -> None:
        """Raises `ProtocolError` if the waiting commands and this one exceed the bytes that they may take.

        `queued`: the command would be queued, and may replace a queued command of its event.
        """
        limit, waiting = self._max_bytes, self.bytes
        if waiting + weight <= limit:
            return
        if spec.dedupe:
            waiting -= sum(aside.weight for aside in self._aside if aside.spec.name == spec.name)
            replaced = self._waiting.replaceable(spec.name) if queued else None
            waiting -= replaced.weight if isinstance(replaced, Command) else 0
        if waiting and waiting + weight > limit:
            text = f"the commands that wait take {waiting} of {limit} bytes; this one was not taken"
            raise ProtocolError(names.OVERLOADED, text, event=spec.name, reply_to=id_)

    def stop(self) -> None:
        """Stop counting the commands aside. Called when the session ends, since none of them will be run."""
        for aside in list(self._aside):
            self.take_back(aside)

    def close(self) -> None:
        """Refuse further work, and throw away the waiting work. Called after the dispatch task has ended."""
        self._waiting.close()
        self._taken.close()

    # ---- the dispatch task

    async def serve(self) -> None:
        """One of the connection's four tasks: runs `@connected`, then the queued work in order.

        Runs one hook or handler at a time, until the task is cancelled. Returns early if `@connected` fails,
        which ends the session.
        """
        with self._taken:
            if await self._handlers.connect():
                await self._dispatch()

    async def _dispatch(self) -> None:
        while True:
            # `work` is None while this task waits, so that the last payload, with its files, can be freed.
            work: Work | None = await self._taken.receive()
            while work is not None:
                work = await (self._run_unread(work) if _is_unread(work) else self._turn(work))

    async def _turn(self, work: Work) -> Work | None:
        """Run this work and the work queued behind it, in a turn of the handlers.

        Returns work that was taken from the queue but whose files must be read first; None otherwise.
        """
        turns = self.turns
        if turns is None:
            return await self._run_waiting(work)
        await turns.begin_handling()
        try:
            return await self._run_waiting(work)
        finally:
            turns.end_handling()

    async def _run_waiting(self, work: Work) -> Work | None:
        # Run the queued work without a checkpoint in between: a task switch for each command is expensive.
        deadline = self._now() + TIME_SLICE
        while True:
            await self._run(work)
            if self._now() > deadline:
                return None
            try:
                work = self._taken.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):  # `EndOfChannel`: the session ended in this step
                return None
            if _is_unread(work):
                return work

    async def _run_unread(self, work: Work) -> Work | None:
        """Read the files of this work from the disk, outside any turn, and run it then."""
        assert isinstance(work, Command | FileArrived)
        assert work.unread is not None
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(work.unread.loaded())
            except ProtocolError as error:
                await self._unreadable(work, error)
                return None
            return await self._turn(work)

    async def _unreadable(self, work: Command | FileArrived, error: ProtocolError) -> None:
        if isinstance(work, FileArrived):
            self._log.error("@file_uploaded was not called", reason=error.message)
            return
        self.bytes -= work.weight
        self._observer.not_handled(work.spec.name, "invalid")
        error.event, error.reply_to = work.spec.name, work.id
        await _send(work, Error.of(error))

    async def _run(self, work: Work) -> None:
        match work:
            case Command():
                self.bytes -= work.weight
                answer = await self._handlers.command(work)
                if answer is not None:
                    await _send(work, answer)
            case Begun(command, result, began):
                answer = await self._handlers.rest(command, result, began)
                if answer is not None:
                    await _send(command, answer)
            case FileArrived(file, _):
                await self._handlers.file_uploaded(file)


def _is_unread(work: Work) -> bool:
    return type(work) is not Begun and work.unread is not None  # type: ignore[union-attr]


async def _send(command: Command, answer: ToClient) -> None:
    try:
        command.reply.send_nowait(answer)
    except trio.WouldBlock:
        await command.reply.send(answer)
