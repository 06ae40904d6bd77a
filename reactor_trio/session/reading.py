"""What a text of the client says, as far as no session is needed to tell: any thread may find out.

A megabyte of JSON takes a tenth of a second to be read and structured, so that is done in a thread, and what
was read is thrown away there too.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from reactor_trio.contract.events import PendingUploads
from reactor_trio.errors import InvalidPayload, ProtocolError
from reactor_trio.protocol import control, names
from reactor_trio.protocol.text import ClientText, decode_client_text
from reactor_trio.protocol.weight import weight_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reactor_trio.contract.events import EventSpec
    from reactor_trio.contract.uploads import Files

INLINE_CHARACTERS = 8192
"""A longer text is read in a thread: a millisecond or two for most types."""
INLINE_CHARACTERS_TRIED = 1024
"""The same if the members of a union may have to be tried, which costs some ten times as much."""


@attrs.frozen
class Reading:
    """A text that could be read: a command, or a message to the runtime."""

    message: ClientText
    """Its data is gone, but for that of a command which is to be structured again."""
    spec: EventSpec | None = None
    """The command's; None: there is no such event, or it is for the runtime."""
    payload: Any = None
    asks: control.ClientControl | None = None
    """What it asks of the runtime."""
    pending: tuple[str, ...] = ()
    """Uploads that the payload is complete but for."""
    error: ProtocolError | None = None
    """What is wrong with the payload, or with a message to the runtime."""
    failure: BaseException | None = None
    """What a validator of the author's raised beside errors."""
    weight: int = 0
    """Bytes that its values may take, of a text that was read just now."""


def inline_characters(events: Mapping[str, EventSpec]) -> int:
    """The length up to which texts of a model's clients are read on the loop."""
    tried = any(spec.structurer.needs_trying for spec in events.values())
    return INLINE_CHARACTERS_TRIED if tried else INLINE_CHARACTERS


def read(text: str, events: Mapping[str, EventSpec], files: Files) -> Reading:
    """Read and structure a text. Raises `ProtocolError` (`bad_message`) if it cannot be read."""
    with _no_full_collection():
        return _read(text, events, files)


def _read(text: str, events: Mapping[str, EventSpec], files: Files) -> Reading:
    message = decode_client_text(text)
    kept = ClientText(message.type, {}, message.id)
    if message.type.startswith(names.RUNTIME_PREFIX):
        try:
            return Reading(kept, asks=control.parse_control(message))
        except ProtocolError as error:
            return Reading(kept, error=_alone(error))
    spec = events.get(message.type)
    if spec is None:
        return Reading(kept)
    return attrs.evolve(structure(message, spec, files), weight=weight_of(text))


def structure(message: ClientText, spec: EventSpec, files: Files) -> Reading:
    """Structure the payload of a command."""
    kept = ClientText(message.type, {}, message.id)
    try:
        return Reading(kept, spec, spec.structure(message.data, files))
    except PendingUploads as pending:
        return Reading(message, spec, pending=pending.upload_ids)
    except InvalidPayload as error:
        error.reply_to = message.id
        return Reading(kept, spec, error=_alone(error))
    except BaseException as failure:  # the session's to judge, which is told in any case
        return Reading(kept, spec, failure=failure)


@contextmanager
def _no_full_collection() -> Iterator[None]:
    """Let Python's garbage collector look at what is new, but not at everything again and again.

    A megabyte of JSON is 350,000 lists, and each full collection on the way there holds all threads for as
    long as it looks at them: 160 ms together instead of 60 in the worst case. Afterwards most are gone.
    """
    before = gc.get_threshold()
    within = (*before[:2], 1_000_000)
    gc.set_threshold(*within)
    try:
        yield
    finally:
        if gc.get_threshold() == within:  # else somebody else has set it, and knows better
            gc.set_threshold(*before)


def _alone(error: ProtocolError) -> ProtocolError:
    # Its traceback would take the frames along, and with them the data, to be thrown away by the loop.
    return error.with_traceback(None)
