"""What an `emit` is given -> steps: what is shown at one moment, a frame of each video track and some audio.

A batch of N frames makes N steps, and its audio is spread over them. Nothing here waits.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from reactor_trio.declare.tracks import Output
from reactor_trio.media.audio import AudioLayout, inspect_audio, pcm_samples
from reactor_trio.media.video import VideoLayout, inspect_video, rgb_frames

if TYPE_CHECKING:
    import numpy as np

    from reactor_trio.declare.tracks import TrackSpec
    from reactor_trio.session.applied import Applied

    Array = np.ndarray[Any, Any]

MAX_METADATA_BYTES = 16 * 1024
"""Encoded, for each frame."""


@attrs.define(eq=False)
class Picture:
    """One frame of one video track on its way."""

    track: str
    seq: int
    pixels: Array
    """(H, W, 3), uint8, RGB."""
    metadata: bytes | None
    """JSON."""
    applied: tuple[Applied, ...] = ()
    pts: float = 0.0
    """Seconds; known once it is due."""


@attrs.define(eq=False)
class Sound:
    """A step's share of the audio of one track."""

    track: str
    samples: Array
    """(samples, channels), int16, little-endian."""
    metadata: bytes | None
    applied: tuple[Applied, ...] = ()


@attrs.define(eq=False)
class Step:
    """What is shown at one moment."""

    pictures: list[Picture]
    sounds: list[Sound]
    seconds: float
    """How much of the buffer it takes if it has no picture: the time that its audio lasts."""
    arrived: float = 0.0
    """When it came into the buffer, in seconds of the runtime's clock."""


@attrs.define(eq=False)
class Content:
    """What one output holds, as far as shapes tell; only tracks with a frame or a sample."""

    video: Mapping[str, VideoLayout]
    audio: Mapping[str, AudioLayout]
    metadata: tuple[bytes | None, ...]
    """One for each step."""
    frames: int
    """Frames of each video track; 0 if there is none."""
    seconds: float
    """Of audio, the longest."""
    is_immediate: bool
    """Whether `convert` is short work, for the loop; otherwise it belongs in a thread."""
    steps: int
    """How many moments it takes to show."""


def inspect_output(output: Output, tracks: Mapping[str, TrackSpec]) -> Content:
    """Say what it holds, without looking at a pixel or a sample; `tracks` are those that were announced.

    Raises `ValueError` for what cannot be shown, and `TypeError` for what is no output.
    """
    if not isinstance(output, Output):
        raise TypeError(
            f"emit() takes an Output, as in `await self.emit(Picture(main_video=frame))`, not a value of "
            f"type {type(output).__qualname__}"
        )
    video: dict[str, VideoLayout] = {}
    audio: dict[str, AudioLayout] = {}
    seconds = 0.0
    is_immediate = True
    layout: VideoLayout | AudioLayout
    for track in type(output).__tracks__:
        value = getattr(output, track.name)
        if value is None:
            continue
        announced = tracks.get(track.name)
        if announced is not track and announced != track:
            raise ValueError(f"track {track.name!r} was not announced: declare its Output beside the model")
        if track.rate is None:
            video[track.name] = layout = inspect_video(value, track=track.name)
        else:
            layout = inspect_audio(value, track=track.name)
            if layout.samples:  # else it says nothing, not even how many channels there are
                audio[track.name] = layout
                seconds = max(seconds, layout.samples / track.rate)
        is_immediate = is_immediate and layout.immediate
    frames = _count(video)
    try:
        metadata = encode_metadata(output.metadata, frames)
    except ValueError as error:
        raise ValueError(f"{type(output).__qualname__}: {error}") from error.__cause__
    return Content(video, audio, metadata, frames, seconds, is_immediate, frames or int(seconds > 0))


def _count(video: Mapping[str, VideoLayout]) -> int:
    count = 0
    for layout in video.values():
        if count not in (0, layout.count):
            each = ", ".join(f"{track}: {layout.count}" for track, layout in video.items())
            raise ValueError(f"the tracks of one output must have equally many frames, not {each}")
        count = layout.count
    return count


def encode_metadata(metadata: object, frames: int) -> tuple[bytes | None, ...]:
    """The JSON for each frame: of one object, the same for all, or of a list with one for each.

    Without frames there is one, for the audio. Raises `ValueError` if it is none, or too long.
    """
    count = frames or 1
    if metadata is None:
        return (None,) * count
    if not isinstance(metadata, list | tuple):
        return (_encode_object(metadata),) * count
    if len(metadata) != count:
        has = f"a batch of {frames} frames" if frames > 1 else "an output that is no batch"
        raise ValueError(f"metadata is a list of {len(metadata)} for {has}; give one object for each frame")
    return tuple([_encode_object(each) for each in metadata])


def _encode_object(metadata: object) -> bytes | None:
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata must be a dict, a JSON object, not of type {type(metadata).__name__}")
    try:
        encoded: bytes = orjson.dumps(metadata, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise ValueError(f"metadata is not JSON: {error}") from error
    if len(encoded) > MAX_METADATA_BYTES:
        raise ValueError(f"metadata has at most {MAX_METADATA_BYTES} bytes as JSON, not {len(encoded)}")
    return encoded


Values = Mapping[str, Sequence["Array"]]
"""What an output holds: for a video track its frames, for an audio track what it gives to each step."""


def convert(output: Output, content: Content) -> Values:
    """Copy the values. Quick if the content `is_immediate`; otherwise it belongs in a thread."""
    values: dict[str, Sequence[Array]] = {}
    for track, layout in content.video.items():
        values[track] = rgb_frames(getattr(output, track), layout)
    for track, sound in content.audio.items():
        values[track] = _spread(pcm_samples(getattr(output, track), sound), content.steps)
    return values


def _spread(samples: Array, steps: int) -> Sequence[Array]:
    bounds = [len(samples) * step // steps for step in range(steps + 1)]
    return [samples[begin:end] for begin, end in itertools.pairwise(bounds)]


def make_steps(
    content: Content,
    values: Values,
    applied: Mapping[str, tuple[Applied, ...]],
    seq: dict[str, int],
) -> list[Step]:
    """The steps of an output. Takes the numbers of its frames from `seq`, by track.

    What was `applied`, by track, goes with the first frame of each video track, or with the audio if there is
    none.
    """
    steps: list[Step] = []
    for index in range(content.steps):
        metadata = content.metadata[index]
        pictures = []
        for track in content.video:
            pictures.append(
                Picture(track, seq[track], values[track][index], metadata, applied.get(track, ()))
            )
            seq[track] += 1
        sounds = _sounds(content, values, applied, index) if content.audio else []
        steps.append(Step(pictures, sounds, content.seconds))
        applied = {}
    return steps


def _sounds(
    content: Content, values: Values, applied: Mapping[str, tuple[Applied, ...]], index: int
) -> list[Sound]:
    sounds = [Sound(track, values[track][index], None) for track in content.audio]
    if not content.video:
        for sound in sounds:
            sound.metadata, sound.applied = content.metadata[index], applied.get(sound.track, ())
    return [sound for sound in sounds if len(sound.samples)]
