"""Converts an emitted output into steps. A step has one frame of each video track and a share of the audio.

A batch of N frames makes N steps, and its audio is spread evenly over them. Pure: no function here waits.
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
"""Largest size of one frame's metadata, encoded as JSON."""


@attrs.define(eq=False)
class Picture:
    """One frame of one video track, from `emit` to the encoder."""

    track: str
    seq: int
    pixels: Array
    """Array of shape (H, W, 3), uint8, RGB."""
    metadata: bytes | None
    """The frame's metadata as JSON; None if there is none."""
    applied: tuple[Applied, ...] = ()
    pts: float = 0.0
    """Presentation time in seconds since the session began; set when the step is shown."""


@attrs.define(eq=False)
class Sound:
    """One step's share of the audio of one track."""

    track: str
    samples: Array
    """Array of shape (samples, channels), int16, little-endian."""
    metadata: bytes | None
    applied: tuple[Applied, ...] = ()


@attrs.define(eq=False)
class Step:
    """The pictures and sounds that are due at the same time."""

    pictures: list[Picture]
    sounds: list[Sound]
    seconds: float
    """Duration of the audio. A step without a picture takes this much of the buffer."""
    arrived: float = 0.0
    """When the step was put into the buffer, in seconds of Trio's clock."""


@attrs.define(eq=False)
class Content:
    """The layout of one output: its tracks with at least one frame or sample, their shapes, and metadata."""

    video: Mapping[str, VideoLayout]
    audio: Mapping[str, AudioLayout]
    metadata: tuple[bytes | None, ...]
    """JSON for each step; None without metadata."""
    frames: int
    """Number of frames of each video track; 0 without video."""
    seconds: float
    """Duration of the longest audio track, in seconds; 0 without audio."""
    is_immediate: bool
    """Whether `convert` is fast enough for the loop; otherwise it must run in a thread."""
    steps: int
    """Number of steps that the output makes."""


def inspect_output(output: Output, tracks: Mapping[str, TrackSpec]) -> Content:
    """Return the layout of an output from the shapes of its arrays alone; `tracks` are the announced tracks.

    Raises `ValueError` if the output cannot be shown, and `TypeError` if `output` is no `Output`.
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
            if layout.samples:  # audio without samples is ignored, its number of channels too
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
    """Encode the metadata of each frame as JSON. `metadata` is one object for all frames, or a list.

    Without frames, the result has one entry, for the audio. Raises `ValueError` if `metadata` is not valid,
    has another number of objects than there are frames, or is too long.
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
"""The arrays of an output: for a video track its frames, for an audio track the samples of each step."""


def convert(output: Output, content: Content) -> Values:
    """Copy and convert the arrays of an output. Must run in a thread unless `content.is_immediate`."""
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
    """Make the steps of an output. Takes the sequence numbers of the frames from `seq`, by track.

    The commands in `applied`, by track, go to the first frame of each video track, or to the first audio if
    there is no video.
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
