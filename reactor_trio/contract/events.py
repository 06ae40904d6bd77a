"""The `@event` methods and the hooks of a model's class, as frozen values that the session calls."""

from __future__ import annotations

import inspect
import re
import types
import typing
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import attrs

from reactor_trio.contract.payloads import PayloadField, make_payload, payload_field
from reactor_trio.contract.schema import payload_schema
from reactor_trio.contract.structure import Structurer
from reactor_trio.contract.upload_fields import Files, PendingUpload, PendingUploads
from reactor_trio.declare.client_info import ClientInfo
from reactor_trio.declare.decorators import MARKER, EventMarker, HookKind, HookMarker
from reactor_trio.declare.fields import MISSING, InputFieldInfo, MessageFieldInfo
from reactor_trio.declare.hints import Unresolved, declared, name_of, names_class, parameter_hint, signature
from reactor_trio.declare.messages import Message, is_message_class
from reactor_trio.declare.uploaded_file import UploadedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from reactor_trio.contract.type_tree import Record

__all__ = ["Declarations", "EventSpec", "HookSpec", "PendingUpload", "PendingUploads", "read_declarations"]

EVENT_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
CLIENT: Final = "client"
"""The name of the parameter that takes the `ClientInfo`."""


@attrs.frozen(kw_only=True)
class EventSpec:
    """One command: its schema for clients, and the call of its handler."""

    name: str
    description: str
    dedupe: bool
    in_thread: bool
    is_async: bool
    method: str
    payload_class: type
    reply: type[Message] | None
    wants_client: bool
    has_uploads: bool
    schema: Mapping[str, Any] = attrs.field(eq=False, repr=False)
    fields: tuple[str, ...] = attrs.field(repr=False)
    structurer: Structurer = attrs.field(eq=False, repr=False)
    result_types: tuple[type, ...] = attrs.field(repr=False)
    """The types that the handler may return."""

    def structure(self, data: Mapping[str, Any], files: Files) -> Any:
        """The payload as an instance of `payload_class`.

        Raises `InvalidPayload` with every fault at its path, or `PendingUploads` if the only fault is that
        uploads have not arrived yet: the caller then keeps the command, and asks again.
        """
        return self.structurer.structure(data, files)

    def call(self, model: Any, payload: Any, client: ClientInfo) -> Any:
        """Call the handler, and return its result or its coroutine."""
        handler, arguments = self.bind(model, payload, client)
        return handler(**arguments)

    def bind(self, model: Any, payload: Any, client: ClientInfo) -> tuple[Callable[..., Any], dict[str, Any]]:
        """The handler and its keyword arguments, for a call in a worker thread."""
        arguments = {name: getattr(payload, name) for name in self.fields}
        if self.wants_client:
            arguments[CLIENT] = client
        return getattr(model, self.method), arguments

    def check_result(self, result: object) -> Message | None:
        """The result of the handler. Raises `TypeError` if the handler's annotation does not allow it."""
        if result is None and types.NoneType in self.result_types:
            return None
        if isinstance(result, Message) and isinstance(result, self.result_types):
            return result
        allowed = " or ".join(map(_result_name, self.result_types))
        raise TypeError(f"{self.method} returned {type(result).__qualname__}; it may return {allowed}")


@attrs.frozen
class HookSpec:
    """One hook, and the call of its method."""

    kind: HookKind
    method: str
    is_async: bool
    wants_client: bool

    def call(self, model: Any, client: ClientInfo, uploaded_file: UploadedFile | None = None) -> Any:
        """Call the hook, and return its result or its coroutine. Only `@file_uploaded` takes a file."""
        arguments: dict[str, Any] = {}
        if self.kind == "file_uploaded":
            arguments["uploaded_file"] = uploaded_file
        if self.wants_client:
            arguments[CLIENT] = client
        return getattr(model, self.method)(**arguments)


@attrs.frozen
class Declarations:
    """The events and hooks of a class and its bases."""

    events: Mapping[str, EventSpec]
    connected: HookSpec | None = None
    disconnected: HookSpec | None = None
    file_uploaded: HookSpec | None = None


@attrs.frozen
class _Method:
    """A marked method: the class that defines the method, its name there, and the function."""

    owner: type
    name: str
    function: Callable[..., Any]
    marker: EventMarker | HookMarker

    @property
    def where(self) -> str:
        return f"{self.owner.__qualname__}.{self.name}"

    def refuse(self, reason: str, parameter: str | None = None) -> TypeError:
        """The error for the author; the caller raises it."""
        subject = self.where if parameter is None else f"{self.where}, parameter {parameter!r}"
        return TypeError(f"{subject}: {reason}")


# Kept, as a subclass reads the events of its bases again: that would cost time, and a local class that their
# annotations name may be out of sight where the subclass is made.
_SPECS: WeakKeyDictionary[Callable[..., Any], dict[tuple[type, str], EventSpec]] = WeakKeyDictionary()


def read_declarations(cls: type) -> Declarations:
    """The events and hooks of a class and its bases.

    A method that is overridden without a decorator is no event and no hook any more. A hook replaces the hook
    of its kind in a base class, under any name. An `@event` replaces the event of its name that the state of
    a `ReactorPipeline` makes.

    Raises `TypeError`, with the class, the method and the parameter in its text, for all that
    docs/design.md#events and docs/design.md#hooks do not allow.
    """
    methods = list(_marked_methods(cls))
    reserved: frozenset[str] = getattr(cls, "__reserved__", frozenset())
    for method in methods:
        if method.name in reserved:
            raise method.refuse(f"{method.name!r} is a name of the runtime's own; choose another")
    of_state: Mapping[str, EventSpec] = getattr(cls, "__state_events__", {})
    events = _events(methods)
    of_state = {name: spec for name, spec in of_state.items() if name not in events}
    return Declarations(types.MappingProxyType({**of_state, **events}), **_hooks(methods))


def _marked_methods(cls: type) -> Iterator[_Method]:
    """The marked methods in the order of definition, bases first, without those that are overridden."""
    for owner in reversed(cls.__mro__):
        for name, value in list(vars(owner).items()):
            if _defining_class(cls, name) is owner:
                method = _marked(owner, name, value)
                if method is not None:
                    yield method


def _defining_class(cls: type, name: str) -> type:
    return next(base for base in cls.__mro__ if name in vars(base))


def _marked(owner: type, name: str, value: Any) -> _Method | None:
    inner = value
    if isinstance(value, property):
        inner = value.fget
    elif isinstance(value, staticmethod | classmethod):
        inner = value.__func__
    marker = getattr(value, MARKER, None) or getattr(inner, MARKER, None)
    if not isinstance(marker, EventMarker | HookMarker):
        return None
    method = _Method(owner, name, typing.cast("Callable[..., Any]", inner), marker)
    if inner is not value:
        raise method.refuse(f"{_decorator(marker)} marks a method, not a {type(value).__name__}")
    if not inspect.isfunction(value):
        raise method.refuse(f"{_decorator(marker)} marks a method, not {value!r}")
    if inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):
        raise method.refuse("a handler cannot be a generator: it is called, not iterated over")
    return method


def _decorator(marker: EventMarker | HookMarker) -> str:
    return "@event" if isinstance(marker, EventMarker) else f"@{marker.kind}"


def _events(methods: list[_Method]) -> dict[str, EventSpec]:
    events: dict[str, EventSpec] = {}
    found: dict[str, _Method] = {}
    for method in methods:
        if not isinstance(method.marker, EventMarker):
            continue
        spec = _event(method, method.marker)
        if spec.name in found:
            raise method.refuse(f"there is another event named {spec.name!r}: {found[spec.name].where}")
        events[spec.name], found[spec.name] = spec, method
    return events


def _event(method: _Method, marker: EventMarker) -> EventSpec:
    known = _SPECS.setdefault(method.function, {})
    key = (method.owner, method.name)
    if key not in known:
        known[key] = _make_event(method, marker)
    return known[key]


def _make_event(method: _Method, marker: EventMarker) -> EventSpec:
    name = method.name if marker.name is None else marker.name
    if not isinstance(name, str) or not EVENT_NAME.fullmatch(name):
        raise method.refuse(f"an event's name is [a-z][a-z0-9_]*, not {name!r}; say @event(name=...)")
    if not isinstance(marker.description, str):
        raise method.refuse(f"a description is a str, not {type(marker.description).__name__}")
    is_async = _is_async(method.function)
    if marker.in_thread and is_async:
        raise method.refuse("in_thread=True is for a def handler; an async def one runs on the loop")
    parameters = _parameters(method)
    wants_client = _takes_client(method, parameters)
    payload = _payload(method, name, parameters)
    structurer = Structurer(name, payload)
    result_types = _result_types(method)
    return EventSpec(
        name=name,
        description=marker.description,
        dedupe=marker.dedupe,
        in_thread=marker.in_thread,
        is_async=is_async,
        method=method.name,
        payload_class=payload.type,
        reply=_declared_reply(result_types),
        wants_client=wants_client,
        has_uploads=structurer.has_uploads,
        schema=payload_schema(payload, title=name),
        fields=tuple(parameters),
        structurer=structurer,
        result_types=result_types,
    )


def _is_async(function: Callable[..., Any]) -> bool:
    # A decorator may make a plain def that returns the coroutine of an async def.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(inspect.unwrap(function))


def _parameters(method: _Method) -> dict[str, inspect.Parameter]:
    """The parameters after `self`."""
    parameters = list(signature(method.function).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise method.refuse("a method's first parameter is self")
    for parameter in parameters[1:]:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else "**"
            raise method.refuse(f"{stars}{parameter.name} cannot be described to a client; name each field")
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise method.refuse("a field cannot be positional-only", parameter.name)
    return {parameter.name: parameter for parameter in parameters[1:]}


def _takes_client(method: _Method, parameters: dict[str, inspect.Parameter]) -> bool:
    """Remove the parameter `client`, and return whether it was there."""
    parameter = parameters.pop(CLIENT, None)
    if parameter is None:
        return False
    if not _is_client(method, parameter.annotation):
        reason = "is given the ClientInfo; annotate it so or not at all, or choose another name for a field"
        raise method.refuse(reason, CLIENT)
    return True


def _is_client(method: _Method, annotation: object) -> bool:
    if annotation is inspect.Parameter.empty:
        return True
    try:
        return parameter_hint(CLIENT, annotation, method.function, method.owner) is ClientInfo
    except Unresolved:
        # A class that was imported under TYPE_CHECKING has a name here, but no value.
        return names_class(annotation, "ClientInfo")


def _payload(method: _Method, name: str, parameters: Mapping[str, inspect.Parameter]) -> Record:
    fields = {each.name: _field(method, each) for each in parameters.values()}
    return make_payload(name, fields, method.owner.__module__)


def _field(method: _Method, parameter: inspect.Parameter) -> PayloadField:
    name = parameter.name
    if parameter.annotation is inspect.Parameter.empty:
        raise method.refuse("a field needs an annotation", name)
    info = parameter.default
    if isinstance(info, MessageFieldInfo):
        raise method.refuse("MessageField is for messages; use InputField", name)
    try:
        tp, rules = declared(parameter_hint(name, parameter.annotation, method.function, method.owner))
        if rules is not None and isinstance(info, InputFieldInfo):
            raise method.refuse("has two InputFields: one in Annotated, and one as its default", name)
        if not isinstance(info, InputFieldInfo):
            has_default = info is not inspect.Parameter.empty
            rules = rules or InputFieldInfo(default=MISSING)
            info = attrs.evolve(rules, default=info) if has_default else rules
        return payload_field(info, tp, lambda reason: method.refuse(reason, name))
    except Unresolved as exc:
        inside = "" if exc.field == name else f"{exc.field}: "
        raise method.refuse(f"{inside}{exc.reason}", name) from None


def _result_types(method: _Method) -> tuple[type, ...]:
    annotation = signature(method.function).return_annotation
    if annotation is inspect.Signature.empty:
        return (Message, types.NoneType)
    try:
        hint = parameter_hint("return", annotation, method.function, method.owner)
    except Unresolved as exc:
        raise method.refuse(f"the result: {exc.reason}") from None
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = typing.get_args(hint) if union else (types.NoneType if hint is None else hint,)
    messages = [member for member in members if member is not types.NoneType]
    if len(messages) > 1 or not all(map(is_message_class, messages)):
        allowed = "None, one ModelMessage subclass, or that | None"
        raise method.refuse(f"a handler returns {allowed}, not {name_of(hint)}")
    return tuple(members)


def _result_name(tp: type) -> str:
    if tp is types.NoneType:
        return "None"
    return "ModelMessage" if tp is Message else tp.__qualname__  # authors know the base by that name


def _declared_reply(result_types: tuple[type, ...]) -> type[Message] | None:
    return next((tp for tp in result_types if is_message_class(tp)), None)


def _hooks(methods: list[_Method]) -> dict[str, HookSpec]:
    chosen: dict[HookKind, _Method] = {}
    for method in methods:
        if isinstance(method.marker, EventMarker):
            continue
        kind = method.marker.kind
        other = chosen.get(kind)
        if other is not None and other.owner is method.owner:
            raise method.refuse(f"a class has at most one @{kind} hook, and {other.where} is one already")
        chosen[kind] = method  # Bases come first, so a class's own replaces its base's.
    return {kind: _hook(kind, method) for kind, method in chosen.items()}


def _hook(kind: HookKind, method: _Method) -> HookSpec:
    parameters = _parameters(method)
    wants_client = _takes_client(method, parameters)
    if kind == "file_uploaded":
        _check_file_parameter(method, parameters.pop("uploaded_file", None))
    for name in parameters:
        allowed = "uploaded_file and client" if kind == "file_uploaded" else "client"
        raise method.refuse(f"@{kind} takes no parameter but {allowed}", name)
    return HookSpec(kind, method.name, _is_async(method.function), wants_client)


def _check_file_parameter(method: _Method, parameter: inspect.Parameter | None) -> None:
    if parameter is None:
        raise method.refuse("@file_uploaded needs the parameter uploaded_file: UploadedFile")
    try:
        hint = parameter_hint(parameter.name, parameter.annotation, method.function, method.owner)
    except Unresolved as exc:
        raise method.refuse(exc.reason, parameter.name) from None
    if hint is not UploadedFile:
        raise method.refuse("is to be annotated UploadedFile", parameter.name)
