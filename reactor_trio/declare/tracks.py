"""The media tracks of a model: `class Picture(Output): main_video: Video`, `class Camera(Input): ...`."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence  # noqa: TC003  the hints of `Output` are resolved
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, dataclass_transform, overload

import attrs

from reactor_trio.declare.hints import Unresolved, class_hints, is_class_var, own_annotations
from reactor_trio.declare.inputs import InputFrame, ReadMode
from reactor_trio.declare.records import RecordType, make_record, missing_annotation

if TYPE_CHECKING:

    class _Track:
        """The annotation for a type checker: a field of an `Output` takes any array or tensor, and a field of
        an `Input` is an `InputTrack`."""

        @overload
        def __get__(self, instance: Input, owner: type | None = None) -> InputTrack: ...
        @overload
        def __get__(self, instance: object, owner: type | None = None) -> Any: ...
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

        `Audio(sample_rate=24000)` in the place of a default sets the rate; the field stays required.
        """

        sample_rate: int = attrs.field(default=48_000, validator=_check_rate)
        """Samples per second and channel."""


Direction = Literal["out", "in"]


@attrs.frozen
class TrackSpec:
    """One track of a model. The direction `out` is from the model to the client, `in` from the client."""

    name: str
    kind: Literal["video", "audio"]
    direction: Direction
    rate: int | None = None
    """Samples per second of an audio track."""


if TYPE_CHECKING:

    def _keyword_only(*, default: Any, kw_only: Literal[True]) -> Any: ...

else:
    _keyword_only = attrs.field


class InputTrack(Protocol):
    """One input track of a session, as `self.input.webcam`: the newest 128 frames that were not read yet.

    When it is full, or holds more than the limit `max_input_bytes`, the oldest frame is dropped. Where
    several tasks read, each frame goes to one of them.
    """

    @property
    def spec(self) -> TrackSpec:
        """Name, kind and sample rate."""
        ...

    @property
    def available(self) -> int:
        """Frames that wait to be read; 0 once the client is gone."""
        ...

    @property
    def dropped(self) -> int:
        """Frames that were lost because reading or decoding was too slow, without those that LATEST
        skipped."""
        ...

    def try_read(self, n: int = 1, mode: ReadMode = ReadMode.LATEST) -> list[InputFrame] | None:
        """Take `n` frames, oldest first, or return None, and take nothing, if fewer are there.

        LATEST gives the `n` newest frames, and throws older ones away; FIFO the `n` oldest, and newer ones
        stay. May be called from any thread. Takes frames also before a `read` that waits already.

        Raises `BufferClosed` once the client is gone, also for frames that were not read, and `ValueError`
        if `n` is not 1 to 128, or if `n` frames of this size are more than `max_input_bytes`.
        """
        ...

    async def read(self, n: int = 1, mode: ReadMode = ReadMode.LATEST) -> list[InputFrame]:
        """Wait until there are `n` frames, and take them as `try_read` does. Holds no thread meanwhile.

        Tasks that wait are served in the order of their calls. From a worker thread, call
        `trio.from_thread.run(track.read)`. Raises as `try_read`. If cancelled, no frame is lost.
        """
        ...


@dataclass_transform(field_specifiers=(Video, Audio, _keyword_only))
class _Tracks(metaclass=RecordType):
    """The base of `Output` for type checkers, which take no field from the decorated class itself."""


@attrs.define(slots=False)
class Output(_Tracks):
    """One piece of media that a model emits. Each field is a track, and has the name of the track.

    A field is required unless `= None` stands behind it. Beside the tracks, each output takes `metadata=`.

    Raises `TypeError`, naming class and field, when the subclass is made, for a field that is neither
    `Video` nor `Audio`, or has the name `metadata`.
    """

    metadata: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = _keyword_only(
        default=None, kw_only=True
    )
    """A JSON object of at most 16 KiB, which goes to the client with each frame of this output, or with the
    first block of audio if the output has no video. For a batch of N frames, also a list of N objects."""

    __tracks__: ClassVar[tuple[TrackSpec, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__tracks__" in vars(cls):
            return  # A copy of the class, made by `slots=True` on top of it.
        _check_annotated(cls)
        if "metadata" in own_annotations(cls):
            raise TypeError(
                f"{cls.__qualname__}.metadata: every output has `metadata` already; name the track otherwise"
            )
        tracks = {track.name: track for track in cls.__tracks__}
        tracks.update({track.name: track for track in _own_tracks(cls, "out")})
        make_record(cls)
        cls.__tracks__ = tuple(tracks.values())


class Input:
    """Media that a model takes from its client. Each field is a track, and has the name of the track.

    An annotation of the model binds the tracks: with `input: Camera` in the model, `self.input.webcam` is the
    track `webcam` of the session, an `InputTrack`. The class is never instantiated by the author.

    Raises `TypeError`, naming class and field, when the subclass is made, for a field that is neither
    `Video` nor `Audio`.
    """

    __tracks__: ClassVar[tuple[TrackSpec, ...]] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        raise TypeError(
            f"{cls.__qualname__} declares input tracks and is not called: annotate the model with it, "
            f"`input: {cls.__name__}`, and read from `self.input`"
        )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__tracks__" in vars(cls):
            return  # A copy of the class, made by `slots=True` on top of it.
        _check_annotated(cls)
        tracks = {track.name: track for track in cls.__tracks__}
        tracks.update({track.name: track for track in _own_tracks(cls, "in")})
        cls.__tracks__ = tuple(tracks.values())

    if not TYPE_CHECKING:  # a type checker would take any attribute for a track

        def __getattr__(self, name: str) -> Any:
            tracks = ", ".join(track.name for track in self.__tracks__)
            raise AttributeError(
                f"{type(self).__qualname__} has no track {name!r}; it has: {tracks}", name=name, obj=self
            )


def _check_annotated(cls: type) -> None:
    """Raises `TypeError` for `main_video = Video`, which makes a class attribute and no track."""
    annotated = own_annotations(cls)
    for name, value in vars(cls).items():
        kind = value if isinstance(value, type) else type(value)
        if name in annotated or kind not in (Video, Audio):
            continue
        options = f" = {value!r}" if value not in (kind, kind()) else ""
        raise TypeError(missing_annotation(cls, name, f"{name}: {kind.__name__}{options}"))


def _own_tracks(cls: type, direction: Direction) -> list[TrackSpec]:
    try:
        hints = class_hints(cls)
    except Unresolved as exc:
        raise TypeError(f"{cls.__qualname__}.{exc.field}: {exc.reason}") from None
    own = own_annotations(cls)
    return [
        _track(cls, name, hint, direction)
        for name, hint in hints.items()
        if name in own and not is_class_var(hint)
    ]


def _track(cls: type, name: str, hint: Any, direction: Direction) -> TrackSpec:
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
        delattr(cls, name)  # The options of the track are no default of the field.
    if kind is Video:
        return TrackSpec(name, "video", direction)
    return TrackSpec(name, "audio", direction, _rate(options))


def _rate(options: Any) -> int:
    return int((options or Audio()).sample_rate)


def _without_none(hint: Any) -> Any:
    """`Video` of `Video | None`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not types.NoneType]
        return members[0] if len(members) == 1 else hint
    return hint
