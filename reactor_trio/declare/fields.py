"""`InputField` and `MessageField`: default, rules and description of a field."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Collection


class Missing(enum.Enum):
    """The type of `MISSING`, the default of a field that has none (`None` is a default)."""

    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final[Literal[Missing.MISSING]] = Missing.MISSING

INPUT_FIELD: Final = "reactor_input_field"
"""Key of a payload field's metadata: its `InputFieldInfo`."""


# Compared by identity, for two reasons: a dataclass refuses a default whose class has no hash, and two
# fields with equal bounds are still two fields.
@attrs.frozen(kw_only=True, eq=False)
class InputFieldInfo:
    """The arguments of one `InputField`. The contract checks them when the model's class is made."""

    default: Any = MISSING
    description: str | None = None
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    choices: Any = None
    max_size: int | None = None
    mime_types: Any = None


@attrs.frozen(kw_only=True, eq=False)
class MessageFieldInfo:
    """The arguments of one `MessageField`."""

    default: Any = MISSING
    description: str | None = None


def InputField(  # noqa: N802  (it reads as a type beside a default, as in pydantic's `Field`)
    default: Any = MISSING,
    *,
    description: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    pattern: str | None = None,
    choices: Collection[Any] | None = None,
    max_size: int | None = None,
    mime_types: Collection[str] | None = None,
) -> Any:
    """Default, rules and description of a field that clients send.

    It stands in the place of a default, or inside the type, as in `list[Annotated[int, InputField(ge=0)]]`:
    there its rules are those of the items. A default then stands behind `=`.

    `ge`, `gt`, `le` and `lt` bound a number; `min_length` and `max_length` count the characters of a
    string or the items of a list, a `tuple[T, ...]` or a dict; `pattern` is a regular expression that RE2
    searches for in a string, without back-references and look-around, and with classes of ASCII; `choices`
    lists the values allowed. For an `UploadedFile`, `max_size` is in bytes and `mime_types` are patterns such
    as `image/*`. No rule applies to `null`, where the type allows it.

    A default that breaks the rules beside it, and a rule that does not apply to the type, are `TypeError`s
    when the class is made.
    """
    return InputFieldInfo(
        default=default,
        description=description,
        ge=ge,
        gt=gt,
        le=le,
        lt=lt,
        min_length=min_length,
        max_length=max_length,
        pattern=pattern,
        choices=choices,
        max_size=max_size,
        mime_types=mime_types,
    )


def MessageField(  # noqa: N802
    *, default: Any = MISSING, description: str | None = None
) -> Any:
    """A default and a description for one field of a `ModelMessage`."""
    return MessageFieldInfo(default=default, description=description)
