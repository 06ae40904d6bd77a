"""Classes that become attrs classes when they are written: `ModelMessage`, `Output`, `InputState`.

`@dataclass` or `@attrs.define` may stand on top of such a class, and changes nothing: both decorators keep
the methods that a class already has, here `__init__`, `__eq__` and `__repr__`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import attrs

from reactor_trio.declare.fields import INPUT_FIELD, MISSING, InputFieldInfo, MessageFieldInfo
from reactor_trio.declare.hints import is_class_var, name_of, own_annotations

if TYPE_CHECKING:
    from collections.abc import Iterable

_FIELDS: Final = "__record_fields__"
_FIELD_INFO = (MessageFieldInfo, InputFieldInfo, dataclasses.Field, type(attrs.field()))


class RecordType(type):
    """Keeps the fields as they were declared, and refuses `frozen=True`, if a decorator stands on top.

    A class learns of a decorator only from the attributes that the decorator sets.
    """

    def __setattr__(cls, name: str, value: Any) -> None:
        if name == "__dataclass_params__" and value.frozen:
            raise TypeError(_no_frozen(cls))
        if name == "__setattr__" and _is_frozen_setattr(value):
            raise TypeError(_no_frozen(cls))
        if name == "__attrs_attrs__" and _FIELDS in vars(cls):
            return  # The fields of `@attrs.define` lack descriptions and default factories.
        super().__setattr__(name, value)


def make_record(cls: type, *, is_state: bool = False) -> bool:
    """Turn a class that was just made into an attrs class, with the fields of its bases before its own.

    Returns False, and does nothing, for the copy of a class that `slots=True` on top of it makes. With
    `is_state` a field takes an `InputField`, otherwise a `MessageField`.

    Raises `TypeError`, naming class and field, for a mutable default, a required field after one with a
    default (in a state: a field without a default), and a field without an annotation.
    """
    if _is_frozen_setattr(vars(cls).get("__setattr__")):
        raise TypeError(_no_frozen(cls))
    if _FIELDS in vars(cls):
        type.__setattr__(cls, "__attrs_attrs__", vars(cls)[_FIELDS])
        return False
    annotated = [name for name, kind in own_annotations(cls).items() if not is_class_var(kind)]
    for name, value in vars(cls).items():
        if isinstance(value, _FIELD_INFO) and name not in annotated:
            raise TypeError(_unannotated(cls, name, value, is_state))
    own = {name: _field(cls, name, vars(cls).get(name, MISSING), is_state) for name in annotated}
    if is_state:
        _check_all_optional(cls, own)
    _check_order(cls, own)
    for name, field in own.items():
        _show_default(cls, name, field)
    if hasattr(cls, "__post_init__") and "__attrs_post_init__" not in vars(cls):
        # A dataclass on top would have called it.
        cls.__attrs_post_init__ = _call_post_init  # type: ignore[attr-defined]
    attrs.define(cls, these=own, slots=False)
    setattr(cls, _FIELDS, attrs.fields(cls))
    return True


def field_names(cls: type) -> tuple[str, ...]:
    """The names of the fields of a class made by `make_record`, those of its bases first."""
    return tuple(field.name for field in attrs.fields(cls))


def missing_annotation(cls: type, name: str, remedy: str) -> str:
    """The text of the error for a field that has `=` but no annotation; `remedy` is the right code."""
    return f"{cls.__qualname__}.{name} has no annotation: write `{remedy}`, with a colon"


def _unannotated(cls: type, name: str, value: Any, is_state: bool) -> str:
    ours = "InputField" if is_state else "MessageField"
    specifier = ours if isinstance(value, MessageFieldInfo | InputFieldInfo) else "field"
    return f"{cls.__qualname__}.{name} has no annotation: write `{name}: TYPE = {specifier}(...)`"


def _field(cls: type, name: str, value: Any, is_state: bool) -> Any:
    """The attrs field for the value to the right of an annotation."""
    field: Any
    if isinstance(value, MessageFieldInfo if is_state else InputFieldInfo):
        of_message, of_payload = "MessageField is for messages", "InputField is for payloads"
        reason = f"{of_message}; use InputField" if is_state else f"{of_payload}; use MessageField"
        raise TypeError(f"{cls.__qualname__}.{name}: {reason}")
    if isinstance(value, MessageFieldInfo | InputFieldInfo):
        default = attrs.NOTHING if value.default is MISSING else value.default
        said = {INPUT_FIELD: value} if is_state else {"description": value.description}
        field = attrs.field(default=default, metadata=said)
    elif isinstance(value, dataclasses.Field):
        field = _from_dataclass_field(value)
    elif isinstance(value, type(attrs.field())):
        field = value
    else:
        field = attrs.field(default=attrs.NOTHING if value is MISSING else value)
    # The argument is named like the field: attrs would take a leading underscore off, a dataclass would not.
    field.alias = field.alias or name
    if _is_mutable(_default_of(field)):
        raise TypeError(
            f"{cls.__qualname__}.{name}: the default {_default_of(field)!r} would be shared by all "
            f"instances; use dataclasses.field(default_factory=...)"
        )
    return field


def _from_dataclass_field(field: Any) -> Any:
    default: Any = attrs.NOTHING
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = attrs.Factory(field.default_factory)
    return attrs.field(
        default=default,
        init=field.init,
        repr=field.repr,
        eq=field.compare,
        kw_only=field.kw_only is True,
        metadata=dict(field.metadata),
    )


def _show_default(cls: type, name: str, field: Any) -> None:
    """Leave the default in the class body, in a form that a decorator on top understands."""
    default = _default_of(field)
    if default is attrs.NOTHING:
        if name in vars(cls):
            delattr(cls, name)
    elif isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        factory: Any = default
        setattr(cls, name, dataclasses.field(default_factory=factory.factory))
    else:
        setattr(cls, name, default)


def _check_all_optional(cls: type, own: dict[str, Any]) -> None:
    for name, field in own.items():
        if _default_of(field) is attrs.NOTHING:
            written = name_of(own_annotations(cls)[name])
            raise TypeError(
                f"{cls.__qualname__}.{name} needs a default, as a fresh state is made for each client: "
                f"write `{name}: {written} = ...`"
            )


def _check_order(cls: type, own: dict[str, Any]) -> None:
    inherited: dict[str, Any] = {}
    for base in reversed(cls.__mro__[1:]):
        inherited.update({field.name: field for field in vars(base).get("__attrs_attrs__", ())})
    ordered = [(name, field) for name, field in inherited.items() if name not in own]
    optional = None
    for name, field in _positional([*ordered, *own.items()]):
        if _default_of(field) is not attrs.NOTHING:
            optional = name
        elif optional is not None:
            raise TypeError(
                f"{cls.__qualname__}.{name} is required, but comes after {optional!r}, which has a default; "
                f"give {name!r} a default too"
            )


def _positional(fields: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(name, field) for name, field in fields if field.init and not field.kw_only]


def _default_of(field: Any) -> Any:
    # attrs keeps the default in `_default` before the class is made, and in `default` afterwards.
    return field.default if isinstance(field, attrs.Attribute) else field._default


def _is_mutable(value: Any) -> bool:
    return not isinstance(value, attrs.Factory) and type(value).__hash__ is None  # type: ignore[arg-type]


def _is_frozen_setattr(value: Any) -> bool:
    return getattr(value, "__name__", "") == "_frozen_setattrs"


def _no_frozen(cls: type) -> str:
    kind = "a message or an output" if not getattr(cls, "__is_state__", False) else "a state that clients set"
    return f"{cls.__qualname__} is {kind}, and frozen=True does not fit on it; leave it out"


def _call_post_init(self: Any) -> None:
    self.__post_init__()
