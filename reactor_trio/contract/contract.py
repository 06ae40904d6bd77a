"""The contract of a model class, which its clients are shown: events, messages and tracks.

There is no registry: the messages and outputs of a model are the classes that the code of the model can name.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from reactor_trio.contract.events import Declarations, read_declarations
from reactor_trio.contract.inputs import bound_inputs, check_late_inputs
from reactor_trio.contract.schema import message_schema
from reactor_trio.contract.serialise import resolve_message_type
from reactor_trio.declare.hints import closure
from reactor_trio.declare.messages import Message, cleaned_docstring, is_message_class
from reactor_trio.declare.tracks import Input, Output, TrackSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

T = TypeVar("T")

AUDIO_CODECS = ("pcm_s16le",)
INPUT_VIDEO_CODECS = ("jpeg", "raw")
"""The codecs that a client may send video in."""


@attrs.frozen
class MessageSpec:
    """One message that a model may send."""

    name: str
    description: str
    schema: Mapping[str, Any] = attrs.field(eq=False, repr=False)
    message_class: type[Message]


@attrs.frozen(kw_only=True)
class Contract:
    """The events, messages and tracks of a model class."""

    model_class: type
    name: str
    description: str
    declarations: Declarations
    messages: Mapping[str, MessageSpec]
    tracks: tuple[TrackSpec, ...]
    outputs: tuple[type[Output], ...] = ()
    """All `Output` classes that the code of the model can name."""

    def welcome(self, video_codecs: Sequence[str] = ()) -> dict[str, Any]:
        """The part of `reactor.welcome` that describes the model (docs/design.md#text-messages).

        `video_codecs` are the codecs of output video, the default first. If it is empty, no codecs are named.
        """
        return {
            "model": {"name": self.name, "description": self.description},
            "events": [
                _described(event, "name", "description", "dedupe", "schema")
                for event in self.declarations.events.values()
            ],
            "messages": [
                _described(message, "name", "description", "schema") for message in self.messages.values()
            ],
            "tracks": [_described_track(track, video_codecs) for track in self.tracks],
        }


def read_contract(model_class: type, name: str | None = None) -> Contract:
    """The contract of a model class. `name` is the name of the class by default.

    Raises `TypeError` for two messages of one name, two tracks of one name that differ, a message with an
    annotation that cannot be resolved, an `Input` that stands below the model, and a text that is no Unicode.
    """
    declarations = read_declarations(model_class)
    check_late_inputs(model_class)
    visible = list(_visible(model_class))
    outputs = _subclasses(visible, Output)
    replies = [event.reply for event in declarations.events.values() if event.reply is not None]
    contract = Contract(
        model_class=model_class,
        name=model_class.__name__ if name is None else name,
        description=cleaned_docstring(model_class),
        declarations=declarations,
        messages=MappingProxyType(_messages([*replies, *filter(is_message_class, visible)])),
        tracks=_tracks([*outputs, *bound_inputs(model_class).values()]),
        outputs=tuple(outputs),
    )
    _check_texts(contract.welcome(), contract.name)
    return contract


def _check_texts(value: Any, path: str) -> None:
    """Raises `TypeError`, naming the place, for a text that is no Unicode, and so could not be sent."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            fault = f"half a surrogate pair, {value[error.start]!r}, as character {error.start}"
            raise TypeError(f"{path}: a text for clients holds {fault}") from None
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check_texts(key, path)
            _check_texts(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for inner in value:
            name = inner.get("name") if isinstance(inner, Mapping) else None
            _check_texts(inner, path if name is None else f"{path}.{name}")


def check_tracks(model_class: type) -> None:
    """Raises `TypeError` for an input track that has the name of an output track of the model."""
    inputs = bound_inputs(model_class)
    if inputs:
        _tracks([*_subclasses(_visible(model_class), Output), *inputs.values()])


def _visible(model_class: type) -> Iterator[Any]:
    """All values that the code of the model's classes can name: in modules, class bodies and closures."""
    for owner in model_class.__mro__[:-1]:
        yield from _values_of(sys.modules.get(owner.__module__))
        yield from list(vars(owner).values())
        for member in list(vars(owner).values()):
            function = _function(member)
            if function is not None:
                # A file that was run, not imported, has no module, but its functions have globals.
                yield from list(function.__globals__.values())
                yield from closure(function).values()


def _values_of(module: object) -> list[Any]:
    return [] if module is None else list(vars(module).values())


def _function(member: Any) -> Any:
    inner = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    inner = inspect.unwrap(inner) if callable(inner) else None
    return inner if inspect.isfunction(inner) else None


def _subclasses(values: Iterable[Any], base: type[T]) -> list[type[T]]:
    """The subclasses of `base` among the values, each once, in order."""
    found = {
        each: None
        for each in values
        if isinstance(each, type) and issubclass(each, base) and each is not base
    }
    return list(found)


def _messages(classes: Iterable[type[Message]]) -> dict[str, MessageSpec]:
    messages: dict[str, MessageSpec] = {}
    for cls in classes:
        name = cls.__wire_name__
        known = messages.get(name)
        if known is not None and known.message_class is not cls:
            raise TypeError(f"two messages are named {name!r}: {_full(known.message_class)} and {_full(cls)}")
        if known is None:
            resolve_message_type(cls)
            messages[name] = MessageSpec(name, cls.__message_description__, message_schema(cls), cls)
    return messages


def _tracks(classes: Iterable[type[Output | Input]]) -> tuple[TrackSpec, ...]:
    tracks: dict[str, tuple[TrackSpec, type]] = {}
    for cls in classes:
        for track in cls.__tracks__:
            known, owner = tracks.setdefault(track.name, (track, cls))
            if known != track:
                raise TypeError(
                    f"two tracks are named {track.name!r} and differ: "
                    f"{_full(owner)} ({_kind(known)}) and {_full(cls)} ({_kind(track)})"
                )
    return tuple(track for track, _ in tracks.values())


def _kind(track: TrackSpec) -> str:
    kind = track.kind if track.rate is None else f"{track.kind}, {track.rate} Hz"
    return f"input, {kind}" if track.direction == "in" else kind


def _full(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _described_track(track: TrackSpec, video_codecs: Sequence[str]) -> dict[str, Any]:
    described = _described(track, "name", "kind", "direction")
    if track.rate is not None:
        described["rate"] = track.rate
    if video_codecs:
        described["codecs"] = list(_codecs(track, video_codecs))
    return described


def _codecs(track: TrackSpec, video_codecs: Sequence[str]) -> Sequence[str]:
    if track.kind == "audio":
        return AUDIO_CODECS
    return video_codecs if track.direction == "out" else INPUT_VIDEO_CODECS


def _described(spec: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in names}
