"""Reads long texts of a client in a thread: decodes the JSON and structures the payload, without the session.

To read and structure a megabyte of JSON takes a tenth of a second, which would block the loop. The decoded
JSON is thrown away in the thread too, as that takes long as well.
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
from reactor_trio.protocol.client_messages import Invoke, decode
from reactor_trio.protocol.text import MAX_DEPTH
from reactor_trio.protocol.weight import weight_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reactor_trio.contract.events import EventSpec
    from reactor_trio.contract.upload_fields import Files
    from reactor_trio.protocol.client_messages import Control

INLINE_CHARACTERS = 8192
"""Characters up to which a text is read on the loop, in a millisecond or two for most types."""
INLINE_CHARACTERS_TRIED = 1024
"""Characters up to which a text is read on the loop if the members of a union in a payload may have to be
tried one by one, which takes about ten times as long."""
SWITCH_INTERVAL = 0.0005
"""Seconds after which a reading thread gives Python's lock (the GIL) to a thread that waits for it."""
_AT_ONCE = 1000
"""Items of a list or dict that are freed at once."""
_loads = partial(slices.loads, max_depth=MAX_DEPTH)


@attrs.frozen
class Reading:
    """The result of reading a text: a command with its structured payload, or a message to the runtime."""

    message: Invoke | Control
    """The message. The data of a command is empty, unless the command must be structured again."""
    spec: EventSpec | None = None
    """The event of a command. None if the model has no such event, or the message is for the runtime."""
    payload: Any = None
    """The structured payload, if nothing is pending or wrong."""
    pending: tuple[str, ...] = ()
    """Ids of uploads that have not arrived yet; the payload is valid except for them."""
    error: ProtocolError | None = None
    """The faults of the payload, for the client."""
    failure: BaseException | None = None
    """The exception of a validator of the author that failed."""
    weight: int = 0
    """Bytes that the text and its values may take; 0 after `structure`, which does not see the text."""


def inline_characters(events: Mapping[str, EventSpec]) -> int:
    """Characters up to which a text for these events is read on the loop."""
    tried = any(spec.structurer.needs_trying for spec in events.values())
    return INLINE_CHARACTERS_TRIED if tried else INLINE_CHARACTERS


def read(text: str, events: Mapping[str, EventSpec], files: Files) -> Reading:
    """Read and structure a text, in a thread. Raises `ProtocolError` for a text that is no valid message."""
    with _beside_the_loop():
        return _read(text, events, files)


def _read(text: str, events: Mapping[str, EventSpec], files: Files) -> Reading:
    try:
        message = decode(text, _loads)
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
    """Structure the payload of a command. Raises nothing: faults and failures are fields of the result."""
    kept = Invoke(message.event, {}, message.id)
    try:
        return Reading(kept, spec, spec.structure(message.data, files))
    except PendingUploads as pending:
        return Reading(message, spec, pending=pending.upload_ids)
    except InvalidPayload as error:
        error.reply_to = message.id
        return Reading(kept, spec, error=_alone(error))
    except BaseException as failure:  # `Commands.of_reading` decides  # noqa: ASYNC103  in a thread
        return Reading(kept, spec, failure=failure)  # noqa: ASYNC104  in a thread


def structure_again(message: Invoke, spec: EventSpec, files: Files) -> Reading:
    """Structure, in a thread, the payload of a long command that has waited for its uploads."""
    with _beside_the_loop():
        return structure(message, spec, files)


@contextmanager
def _beside_the_loop() -> Iterator[None]:
    """Within the block this thread gives Python's lock up quickly, and full garbage collections are rare.

    By default the loop waits 5 ms each time it needs the lock, four times for a command, and it waits for
    each full garbage collection: a megabyte of JSON makes up to 350,000 lists, and each collection visits all
    lists made so far. Both settings are those of the process, so they are restored after the block.
    """
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    patient = (*thresholds[:2], 1_000_000)
    sys.setswitchinterval(min(interval, SWITCH_INTERVAL))
    gc.set_threshold(*patient)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if gc.get_threshold() == patient:  # otherwise other code has changed it meanwhile
            gc.set_threshold(*thresholds)


def _throw_away(data: dict[str, Any]) -> None:
    """Free decoded JSON in small portions: at once takes 10 ms or more, in which no other thread runs."""
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
    # The traceback refers to the frames and so to the decoded data, which the loop would have to free.
    return error.with_traceback(None)
