"""`Message`: the base class by which the contract recognises messages.

Authors derive from `ModelMessage` (`model/messages.py`), which checks each class when it is made.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar, Final, TypeGuard

from reactor_trio.declare.records import RecordType

_ACRONYM_END: Final = re.compile(r"([A-Z]+)([A-Z][a-z])")
_WORD_END: Final = re.compile(r"([a-z0-9])([A-Z])")


class Message(metaclass=RecordType):
    """The base of `ModelMessage`. The class variables describe a message to clients."""

    __wire_name__: ClassVar[str] = ""
    """The type of the message on the wire; empty for a base class that is no message itself."""
    __message_fields__: ClassVar[tuple[str, ...]] = ()
    __message_description__: ClassVar[str] = ""


def is_message_class(value: Any) -> TypeGuard[type[Message]]:
    """Whether a value is a class of messages: a subclass of `ModelMessage`, not `ModelMessage` itself."""
    return isinstance(value, type) and issubclass(value, Message) and value.__wire_name__ != ""


def wire_name(cls: type) -> str:
    """The class's name in snake_case: `SetHTTPUrl` -> `set_http_url`."""
    words = _WORD_END.sub(r"\1_\2", _ACRONYM_END.sub(r"\1_\2", cls.__name__.strip("_")))
    return words.lower()


def cleaned_docstring(cls: type) -> str:
    """The class's own docstring without its indentation, not its base's; empty if there is none."""
    text = vars(cls).get("__doc__")
    return inspect.cleandoc(text) if isinstance(text, str) else ""
