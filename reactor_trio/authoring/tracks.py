"""The media tracks of a model: `class Picture(Output): main_video: Video`."""

from __future__ import annotations

import inspect
import types
import typing
from typing import TYPE_CHECKING, Any, ClassVar, Literal, dataclass_transform

import attrs

from reactor_trio.authoring.records import RecordType, make_record, missing_annotation
from reactor_trio.contract.hints import Unresolved, class_hints, is_class_var

if TYPE_CHECKING:

    class _Track:
        """What the annotation means to a type checker: the field takes arrays and tensors."""

        def __get__(self, instance: object, owner: type | None = None) -> Any: ...
        def __set__(self, instance: object, value: Any) -> None: ...

    class Video(_Track):
        """A video track."""

        def __init__(self) -> None: ...

    class Audio(_Track):
        """An audio track, at `sample_rate` samples per second and channel."""

        sample_rate: int

        def __init__(self, *, sample_rate: int = ...) -> None: ...

else:

    def _check_rate(track, attribute, rate):
        if isinstance(rate, bool) or not isinstance(rate, int) or rate <= 0:
            raise TypeError(f"Audio(sample_rate={rate!r}): a sample rate is a whole number > 0")

    @attrs.frozen
    class Video:
        """Annotation of a video track: frames `(H, W, 3)` or batches `(N, H, W, 3)`, uint8 RGB."""

    @attrs.frozen(kw_only=True)
    class Audio:
        """Annotation of an audio track: `(channels, samples)` or `(samples,)`, int16 or float in [-1, 1].

        As the field's default, `Audio(sample_rate=24000)` sets the rate; the field stays required.
        """

        sample_rate: int = attrs.field(default=48_000, validator=_check_rate)
        """Samples per second and channel."""


@attrs.frozen
class TrackSpec:
    """One track of a model, as the model sees it: `out` is from the model to its client."""

    name: str
    kind: Literal["video", "audio"]
    direction: Literal["out", "in"]
    rate: int | None = None
    """Samples per second of an audio track."""


@dataclass_transform(field_specifiers=(Video, Audio))
class Output(metaclass=RecordType):
    """One piece of media that a model emits; each field is a track, and its name the track's.

    A field is required unless `= None` stands behind it.

    Raises `TypeError` naming class and field, when the subclass is made, for a field that is neither
    `Video` nor `Audio`.
    """

    __tracks__: ClassVar[tuple[TrackSpec, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__tracks__" in vars(cls):
            return  # The copy that a `slots=True` on top has made.
        _check_annotated(cls)
        tracks = {track.name: track for track in cls.__tracks__}
        tracks.update({track.name: track for track in _own_tracks(cls)})
        make_record(cls)
        cls.__tracks__ = tuple(tracks.values())


def _check_annotated(cls: type) -> None:
    """`main_video = Video` would be no track, but a class attribute that no one misses."""
    annotated = inspect.get_annotations(cls)
    for name, value in vars(cls).items():
        kind = value if isinstance(value, type) else type(value)
        if name in annotated or kind not in (Video, Audio):
            continue
        options = f" = {value!r}" if value not in (kind, kind()) else ""
        raise TypeError(missing_annotation(cls, name, f"{name}: {kind.__name__}{options}"))


def _own_tracks(cls: type) -> list[TrackSpec]:
    try:
        hints = class_hints(cls)
    except Unresolved as exc:
        raise TypeError(f"{cls.__qualname__}.{exc.field}: {exc.reason}") from None
    own = vars(cls).get("__annotations__", {})
    return [_track(cls, name, hint) for name, hint in hints.items() if name in own and not is_class_var(hint)]


def _track(cls: type, name: str, hint: Any) -> TrackSpec:
    kind = _without_none(hint)
    if kind is not Video and kind is not Audio:
        raise TypeError(f"{cls.__qualname__}.{name} is annotated {hint!r}; a track is Video or Audio")
    options: Any = vars(cls).get(name)
    if options is not None and not isinstance(options, kind):
        raise TypeError(
            f"{cls.__qualname__}.{name}: the default of a track is None or {kind.__name__}(...), "
            f"not {options!r}"
        )
    if options is not None:
        delattr(cls, name)  # Not a value for the field.
    if kind is Video:
        return TrackSpec(name, "video", "out")
    return TrackSpec(name, "audio", "out", _rate(options))


def _rate(options: Any) -> int:
    return int((options or Audio()).sample_rate)


def _without_none(hint: Any) -> Any:
    """`Video` of `Video | None`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not types.NoneType]
        return members[0] if len(members) == 1 else hint
    return hint
