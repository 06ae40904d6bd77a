"""Every error that the runtime raises, as one tree of classes; each class names the party at fault.

    ReactorError
    ├── CommandError              a handler refused a command (the author's decision)
    ├── ProtocolError             the client sent something the protocol does not allow
    │   └── InvalidPayload        ... a payload that does not fit the event's signature
    ├── TransportClosed           the peer closed the connection, or the network broke
    │   └── TransportStalled      ... because the peer accepted no byte for `send_timeout` seconds
    ├── HandshakeFailed           a server did not let this client in, or is no reactor server
    ├── BufferClosed              the client has left, so there are no more input frames to read
    ├── NoSession                 a bug in the model: `send` or `emit` outside a session
    ├── BadModelSetting           a bug in the model: an `fps` or `buffer_size` that cannot be used
    ├── ListenError               the server cannot listen on its address (the operator, or another program)
    └── ModelNotFound             the operator named a model or an option that does not exist

Mistakes in the declaration of a model are plain `TypeError`s, raised when the class is created.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

_CODE = re.compile(r"[a-z][a-z0-9_]*")

MAX_FIELD_ERRORS: Final = 100
"""Largest number of faults listed in one answer."""
LONGEST_NAME: Final = 200
"""Largest number of characters of a path or a name in an error; a client may have sent any name."""
LONGEST_MESSAGE: Final = 1000
"""Largest number of characters of an error's text."""
LONGEST_CODE: Final = 64
"""Largest number of characters of an error's code."""
LONGEST_REFUSAL: Final = 4000
"""Largest number of characters of a `CommandError`'s message to the client; the rest is cut off."""


def shorten(text: str, longest: int) -> str:
    """Return the text, cut to at most `longest` characters, with an ellipsis as the last if it was cut."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


class ReactorError(Exception):
    """The base class of all errors that the runtime raises. Catch it to catch them all."""


class CommandError(ReactorError):
    """Raised by a handler to refuse a command; the runtime sends the code and the message to the client.

    On the client's side, `Client.call` raises a `CommandError` with the server's answer: `event`,
    `upload_id`, `errors` and `retry_after` (seconds) are set where the server named them.

    The client receives the first 4000 characters of the message; half a surrogate pair, as in a file name
    that is not UTF-8, becomes U+FFFD.

    Raises `ValueError` if `code` is not of the form `[a-z][a-z0-9_]*`, with at most 64 characters, and
    `TypeError` if `code` or `message` is not a `str`.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        event: str | None = None,
        upload_id: str | None = None,
        errors: Sequence[FieldError] = (),
        retry_after: float | None = None,
    ) -> None:
        check_refusal(code, message)
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.event = event
        self.upload_id = upload_id
        self.errors = tuple(errors)
        self.retry_after = retry_after

    def __str__(self) -> str:
        # If a payload has one fault, the message repeats this fault: print it once.
        says_more = [str(error) for error in self.errors] != [self.message]
        details = "".join(f"\n  {error}" for error in self.errors) if says_more else ""
        return f"{self.code}: {self.message}{details}"


def check_refusal(code: object, message: object) -> None:
    """Check the arguments of a `CommandError`; raises its `TypeError` or `ValueError` if one is invalid."""
    for name, value in (("code", code), ("message", message)):
        if not isinstance(value, str):
            raise TypeError(f"the {name} of a CommandError is a str, not {type(value).__name__}")
    assert isinstance(code, str)
    if len(code) > LONGEST_CODE or not _CODE.fullmatch(code):
        shown = shorten(repr(code), LONGEST_NAME)
        raise ValueError(
            f"an error code is [a-z][a-z0-9_]*, of at most {LONGEST_CODE} characters, not {shown}"
        )


@attrs.frozen
class FieldError:
    """One fault of a payload: the path of the invalid value, such as `boxes[2].width`, and a message."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def shortened(self) -> FieldError:
        """Return this fault with its path cut to `LONGEST_NAME` and its message to `LONGEST_MESSAGE`."""
        if len(self.path) <= LONGEST_NAME and len(self.message) <= LONGEST_MESSAGE:
            return self
        return FieldError(shorten(self.path, LONGEST_NAME), shorten(self.message, LONGEST_MESSAGE))


class ProtocolError(ReactorError):
    """The client broke the protocol; the server answers with `reactor.error` (docs/design.md#errors).

    `code` is the wire code. `reply_to` is the `id` of the client's message, None if none could be read.
    `event`, `upload_id` and `retry_after` (seconds) are further fields of the answer. Long texts and names
    are cut, since a client may have sent any.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        reply_to: str | int | None = None,
        event: str | None = None,
        upload_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        message = shorten(message, LONGEST_MESSAGE)
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.reply_to = reply_to
        self.event = event and shorten(event, LONGEST_NAME)
        self.upload_id = upload_id and shorten(upload_id, LONGEST_NAME)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class InvalidPayload(ProtocolError):
    """A payload does not fit the event's signature; `errors` lists the first 100 faults, each with its path.

    The message is the first fault and the number of further faults. `more` is the number of known faults
    that are not in `errors`. `is_partial` says that the check stopped early, so the payload may have further
    faults.

    `code` is `invalid_payload`, or, if every fault concerns an upload, `unresolved_upload`, `upload_type` or
    `upload_too_large`.
    """

    def __init__(
        self,
        errors: Sequence[FieldError],
        *,
        code: str = "invalid_payload",
        more: int = 0,
        is_partial: bool = False,
        **where: Any,
    ) -> None:
        self.errors = tuple([error.shortened() for error in errors[:MAX_FIELD_ERRORS]])
        others = len(errors) - 1 + more
        at_least = "at least " if is_partial else ""
        rest = f" (and {at_least}{others} more)" if others > 0 else ""
        super().__init__(code, "".join(map(str, self.errors[:1])) + rest, **where)


class TransportClosed(ReactorError):
    """The connection has ended. `code` is the close code of the peer; 1006 if the network broke."""

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"connection closed: {self.code} {self.reason}".rstrip()


class TransportStalled(TransportClosed):
    """The peer accepted no byte for `send_timeout` seconds, so the runtime closed the stream by force."""


class HandshakeFailed(ReactorError):
    """A server answered, but refused this client, or is not a reactor server. Raised when a client connects.

    `status` is the HTTP status of the refusal (401 wrong token, 403 wrong Origin, 426 no WebSocket at this
    path, 503 full, loading or draining), None if the handshake failed before a status was received. `body`
    is the text of the answer, `retry_after` the seconds that a busy server asks the client to wait.
    """

    def __init__(
        self, reason: str, *, status: int | None = None, body: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.body = body
        self.retry_after = retry_after

    def __str__(self) -> str:
        said = f": {self.body}" if self.body else ""
        return f"HTTP {self.status} {self.reason}{said}" if self.status is not None else self.reason


class BufferClosed(ReactorError):
    """Raised by a read from an input track once the client has left.

    A model need not catch this error: the session is ending, and the runtime does not log the error as a
    failure of `run` or of a handler.
    """


class NoSession(ReactorError):
    """The author used `send`, `emit` or `client` on a model that is not serving a session."""


class BadModelSetting(ReactorError, ValueError):
    """The model's `fps` or `buffer_size`, as `load` left them, cannot be used."""


class ListenError(ReactorError):
    """The server cannot listen on its address: the address is in use, not allowed, or does not exist."""


class ModelNotFound(ReactorError):
    """The model that the operator named, or the file that should name the model, does not exist."""
