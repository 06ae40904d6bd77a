"""Every error of the runtime, as one tree; each class says whose fault it is.

    ReactorError
    ├── CommandError              a handler refused a command (the author's decision)
    ├── ProtocolError             the client sent something the protocol does not allow
    │   └── InvalidPayload        ... a payload that does not fit the event's signature
    ├── TransportClosed           the peer left, or the network took it away
    │   └── TransportStalled      ... by accepting no byte for `send_timeout` seconds
    ├── HandshakeFailed           a server did not let this client in, or is no reactor server
    ├── BufferClosed              the client is gone, so there are no more input frames to read
    ├── NoSession                 a bug in the model: `send` or `emit` outside a session
    ├── BadModelSetting           a bug in the model: an `fps` or `buffer_size` that cannot be used
    ├── ListenError               the address cannot be listened on (the operator's, or another program's)
    └── ModelNotFound             the operator named a model or an option that does not exist

Mistakes in the declaration of a model are plain `TypeError`s, raised when the class is made.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

_CODE = re.compile(r"[a-z][a-z0-9_]*")

MAX_FIELD_ERRORS: Final = 100
"""More faults than this are not listed in one answer."""
LONGEST_NAME: Final = 200
"""Characters of a path or a name in an error: it may be one that a client made up."""
LONGEST_MESSAGE: Final = 1000
"""Characters of an error's text."""
LONGEST_CODE: Final = 64
"""Characters of an error's code."""
LONGEST_REFUSAL: Final = 4000
"""Characters of what a handler says to the client with `CommandError`: what is longer is cut off."""


def shorten(text: str, longest: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


class ReactorError(Exception):
    """The root of all errors that the runtime raises."""


class CommandError(ReactorError):
    """Raised by a handler to refuse a command; the client is sent both arguments.

    On the client's side `Client.call` raises it with what the server answered: there `event`,
    `upload_id`, `errors` and `retry_after` (seconds) are filled in where the server named them.

    The client is sent the first 4000 characters of the message; half a surrogate pair, as in a file's name
    that is no UTF-8, becomes U+FFFD.

    Raises `ValueError` if `code` is not of the form `[a-z][a-z0-9_]*`, with at most 64 characters, and
    `TypeError` if it or the message is no `str`.
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
        # The message of a payload with one fault is that fault.
        says_more = [str(error) for error in self.errors] != [self.message]
        details = "".join(f"\n  {error}" for error in self.errors) if says_more else ""
        return f"{self.code}: {self.message}{details}"


def check_refusal(code: object, message: object) -> None:
    """Raises `TypeError` or `ValueError` for what a `CommandError` cannot hold."""
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
    """One thing that is wrong with a payload, and where: `boxes[2].width`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def shortened(self) -> FieldError:
        """The same, with a path and a text that are not long."""
        if len(self.path) <= LONGEST_NAME and len(self.message) <= LONGEST_MESSAGE:
            return self
        return FieldError(shorten(self.path, LONGEST_NAME), shorten(self.message, LONGEST_MESSAGE))


class ProtocolError(ReactorError):
    """The client's message is answered with `reactor.error` (docs/design.md#errors).

    `code` is the wire code; `reply_to` the message's own `id` where one could be read; `data` holds
    the further fields of the answer (`event`, `upload_id`, `retry_after` in seconds). Texts and names are
    cut off where they are long: a client may have made them up.
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
    """A payload that does not fit: the first 100 faults are listed in `errors`, each at its own path.

    The message is the first of them, and how many more there are: `more` of those that are known are not
    listed. If `is_partial`, not all of the payload was looked at.

    `code` is `invalid_payload`, unless all that is wrong concerns an upload (`unresolved_upload`,
    `upload_type`, `upload_too_large`).
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
    """The connection has ended: the peer closed it (`code` says how) or the network broke (1006)."""

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"connection closed: {self.code} {self.reason}".rstrip()


class TransportStalled(TransportClosed):
    """The peer accepted no byte for `send_timeout` seconds, so the stream was closed by force."""


class HandshakeFailed(ReactorError):
    """There is a server, but it did not let this client in, or it is no reactor server.

    `status` is the HTTP status of a refusal (401 wrong token, 403 wrong Origin, 426 no WebSocket at this
    path, 503 full, loading or draining), None where the handshake did not get that far; `body` is the
    text of the answer, `retry_after` the seconds that a busy server asks to wait.
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
    """Raised by a read from an input track once the client is gone.

    A model may let it pass: that is no failure of `run` or of a handler, since the session is ending.
    """


class NoSession(ReactorError):
    """`send`, `emit` or `client` was used on a model that is not serving a session."""


class BadModelSetting(ReactorError, ValueError):
    """What `load` left in `fps` or `buffer_size` cannot be used."""


class ListenError(ReactorError):
    """The address cannot be listened on: in use, not allowed, or not there."""


class ModelNotFound(ReactorError):
    """The model that was asked for, or the file that should name it, is not there."""
