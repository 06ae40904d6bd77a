"""The public fields of an `InputState` as commands: `set_<field>` for each."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType, NoneType
from typing import TYPE_CHECKING, Any, Final

import attrs

from reactor_trio.contract.events import EVENT_NAME, EventSpec
from reactor_trio.contract.faults import of_authors_code
from reactor_trio.contract.payloads import make_payload, payload_field
from reactor_trio.contract.schema import payload_schema
from reactor_trio.contract.structure import Structurer
from reactor_trio.declare.fields import INPUT_FIELD, MISSING, InputFieldInfo
from reactor_trio.declare.hints import Unresolved, attribute_hint, declared, own_annotations
from reactor_trio.errors import FieldError, InvalidPayload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reactor_trio.declare.client_info import ClientInfo

_SPECS: Final = "__state_specs__"
"""Attribute of a state class: the specs of its own fields. They are kept, as a local class that an annotation
names may be out of sight where the model is made."""


@attrs.frozen(kw_only=True)
class StateEventSpec(EventSpec):
    """The command `set_<field>`, whose handler is part of the runtime."""

    def call(self, model: Any, payload: Any, client: ClientInfo) -> None:
        """Set the field of the session's state. Raises `InvalidPayload` if a validator of attrs refuses
        it."""
        [field] = self.fields
        try:
            setattr(model.state, field, getattr(payload, field))
        except Exception as error:
            fault = FieldError(field, of_authors_code(error))
            raise InvalidPayload([fault], event=self.name) from error

    def bind(self, model: Any, payload: Any, client: ClientInfo) -> tuple[Callable[..., Any], dict[str, Any]]:
        """See `EventSpec.bind`."""
        return partial(self.call, model, payload, client), {}


def state_events(cls: type) -> Mapping[str, EventSpec]:
    """The commands for the public fields of a state class, those of its bases first.

    Raises `TypeError`, naming class and field, for an annotation that cannot be resolved.
    """
    try:
        return read_state(cls)
    except Unresolved as exc:
        raise TypeError(f"{cls.__qualname__}.{exc.field}: {exc.reason}") from None


def check_state_name(cls: Any) -> None:
    """Raises `TypeError`, naming class and attribute, for an annotated `InputState` that no client can set.

    That is one under another name than `state`, or in a model that is no pipeline. A pipeline that has a
    `state` may have further attributes of this kind.
    """
    is_pipeline = "state" in cls.__reserved__
    if is_pipeline and cls.__state_class__ is not None:
        return
    for name in own_annotations(cls):
        hint = _hint_or_none(cls, name)
        if not (isinstance(hint, type) and getattr(hint, "__is_state__", False)):
            continue
        where = f"{cls.__qualname__}.{name} is annotated {hint.__name__}, an InputState"
        if is_pipeline:
            raise TypeError(f"{where}: write `state: {hint.__name__}`")
        if name == "state":
            raise TypeError(f"{where}, which only a ReactorPipeline has")


def _hint_or_none(cls: type, name: str) -> Any:
    try:
        return attribute_hint(cls, name)
    except Unresolved:
        return None


def read_state(cls: type) -> Mapping[str, EventSpec]:
    """As `state_events`, but raises `Unresolved`: an annotation may name a class further down in the file.

    Raises `TypeError`, naming class and field, for a type, a name or a default that a field cannot have.
    """
    specs: dict[str, EventSpec] = {}
    for field in attrs.fields(cls):
        if not field.name.startswith("_"):
            spec = _spec(_owner(cls, field.name), field)
            specs[spec.name] = spec
    return MappingProxyType(specs)


def _owner(cls: type, name: str) -> type:
    return next(base for base in cls.__mro__ if name in own_annotations(base))


def _spec(owner: type, field: attrs.Attribute[Any]) -> EventSpec:
    known: dict[str, EventSpec] | None = vars(owner).get(_SPECS)
    if known is None:
        known = {}
        setattr(owner, _SPECS, known)
    if field.name not in known:
        known[field.name] = _make_spec(owner, field)
    return known[field.name]


def _make_spec(owner: type, field: attrs.Attribute[Any]) -> EventSpec:
    def refuse(reason: str) -> TypeError:
        return TypeError(f"{owner.__qualname__}.{field.name}: {reason}")

    name = f"set_{field.name}"
    if not EVENT_NAME.fullmatch(name):
        raise refuse(f"clients set it with the command {name!r}, and a command's name is [a-z][a-z0-9_]*")
    tp, rules = declared(attribute_hint(owner, field.name))
    info = _info(field)
    if rules is not None:
        info = attrs.evolve(rules, default=info.default, description=rules.description or info.description)
    try:
        only = payload_field(info, tp, refuse, None if _is_plain(field) else field.default)
    except Unresolved as exc:
        raise Unresolved(f"{field.name}: {exc.field}", exc.annotation, exc.cause) from exc
    payload = make_payload(name, {field.name: only}, owner.__module__)
    structurer = Structurer(name, payload)
    return StateEventSpec(
        name=name,
        description=info.description or "",
        # Only the newest value of a state counts.
        dedupe=True,
        in_thread=False,
        is_async=False,
        method=f"state.{field.name}",
        payload_class=payload.type,
        reply=None,
        wants_client=False,
        has_uploads=structurer.has_uploads,
        schema=payload_schema(payload, title=name),
        fields=(field.name,),
        structurer=structurer,
        result_types=(NoneType,),
    )


def _info(field: attrs.Attribute[Any]) -> InputFieldInfo:
    """The `InputField` of a field, or one made of its plain default."""
    info = field.metadata.get(INPUT_FIELD)
    if isinstance(info, InputFieldInfo):
        return info
    description = field.metadata.get("description")
    return InputFieldInfo(default=field.default if _is_plain(field) else MISSING, description=description)


def _is_plain(field: attrs.Attribute[Any]) -> bool:
    return not isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]
