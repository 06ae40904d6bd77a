"""What a text of the client says, as far as no session is needed to tell: any thread may find out.

A megabyte of JSON takes a tenth of a second to be read and structured, so that is done in a thread, and what
was read is thrown away there too.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from reactor_trio.contract.events import PendingUploads
from reactor_trio.errors import InvalidPayload, ProtocolError
from reactor_trio.protocol import slices
from reactor_trio.protocol.client_messages import Invoke, decode_text
from reactor_trio.protocol.text import MAX_DEPTH
from reactor_trio.protocol.weight import weight_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reactor_trio.contract.events import EventSpec
    from reactor_trio.contract.upload_fields import Files
    from reactor_trio.protocol.client_messages import Control

INLINE_CHARACTERS = 8192
"""A longer text is read in a thread: a millisecond or two for most types."""
INLINE_CHARACTERS_TRIED = 1024
"""The same if the members of a union may have to be tried, which costs some ten times as much."""
SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that reads gives Python's lock to one that waits for it."""
_AT_ONCE = 1000
"""Items of a list or dict that are thrown away in one go."""
_loads = partial(slices.loads, max_depth=MAX_DEPTH)


@attrs.frozen
class Reading:
    """A text that could be read: a command, or a message to the runtime."""

    message: Invoke | Control
    """The data of a command is gone, unless it is to be structured again."""
    spec: EventSpec | None = None
    """The command's event; None: there is no such event, or the message is for the runtime."""
    payload: Any = None
    pending: tuple[str, ...] = ()
    """Uploads that the payload is complete but for."""
    error: ProtocolError | None = None
    """What is wrong with the payload."""
    failure: BaseException | None = None
    """What a validator of the author's raised beside errors."""
    weight: int = 0
    """Bytes that its values may take, of a text that was read just now."""


def inline_characters(events: Mapping[str, EventSpec]) -> int:
    """The length up to which texts of a model's clients are read on the loop."""
    tried = any(spec.structurer.needs_trying for spec in events.values())
    return INLINE_CHARACTERS_TRIED if tried else INLINE_CHARACTERS


def read(text: str, events: Mapping[str, EventSpec], files: Files) -> Reading:
    """Read and structure a text. Raises `ProtocolError` as `decode`, for a text that is no sound message."""
    with _beside_the_loop():
        return _read(text, events, files)


def _read(text: str, events: Mapping[str, EventSpec], files: Files) -> Reading:
    try:
        message = decode_text(text, _loads)
    except ProtocolError as error:
        raise _alone(error) from None
    if not isinstance(message, Invoke):
        return Reading(message)
    spec = events.get(message.event)
    if spec is None:
        _throw_away(message.data)
        return Reading(Invoke(message.event, {}, message.id))
    reading = structure(message, spec, files)
    if not reading.pending and not (spec.structurer.hands_on and reading.error is None):
        _throw_away(message.data)
    return attrs.evolve(reading, weight=weight_of(text))


def structure(message: Invoke, spec: EventSpec, files: Files) -> Reading:
    """Structure the payload of a command."""
    kept = Invoke(message.event, {}, message.id)
    try:
        return Reading(kept, spec, spec.structure(message.data, files))
    except PendingUploads as pending:
        return Reading(message, spec, pending=pending.upload_ids)
    except InvalidPayload as error:
        error.reply_to = message.id
        return Reading(kept, spec, error=_alone(error))
    except BaseException as failure:  # the session's to judge, which is told in any case  # noqa: ASYNC103  in a thread
        return Reading(kept, spec, failure=failure)  # noqa: ASYNC104  in a thread


def structure_again(message: Invoke, spec: EventSpec, files: Files) -> Reading:
    """The same in a thread, of a long text that was put aside for its uploads."""
    with _beside_the_loop():
        return structure(message, spec, files)


@contextmanager
def _beside_the_loop() -> Iterator[None]:
    """Let the loop have Python's lock as soon as it wants it, as long as this thread keeps it busy.

    By default it waits for 5 ms each time, four times for a command, and for each full collection of garbage:
    a megabyte of JSON is up to 350,000 lists, which are looked at again and again as they become more. Both
    settings are the process's, so they are as they were when nothing long is read.
    """
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    patient = (*thresholds[:2], 1_000_000)
    sys.setswitchinterval(min(interval, SWITCH_INTERVAL))
    gc.set_threshold(*patient)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if gc.get_threshold() == patient:  # else somebody else has set it, and knows better
            gc.set_threshold(*thresholds)


def _throw_away(data: dict[str, Any]) -> None:
    """Take JSON apart bit by bit: at once it would take 10 ms or more in which no other thread runs."""
    waiting: list[Any] = [data]
    while waiting:
        items = waiting.pop()
        if type(items) is dict:
            values = list(items.values())
            items.clear()
            items = values
        while items:
            some = items[-_AT_ONCE:]
            del items[-_AT_ONCE:]
            waiting += [item for item in some if type(item) in (dict, list) and len(item) > _AT_ONCE]


def _alone(error: ProtocolError) -> ProtocolError:
    # Its traceback would take the frames along, and with them the data, to be thrown away by the loop.
    return error.with_traceback(None)
