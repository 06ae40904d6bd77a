"""`Output`: a class whose fields are tracks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import attrs
import pytest

from reactor_trio.declare.tracks import Audio, Output, TrackSpec, Video


class Picture(Output):
    main_video: Video


class Movie(Picture):
    sound: Audio = Audio(sample_rate=24_000)
    depth: Video = None


def test_fields_are_tracks_and_values_are_kept_as_they_are() -> None:
    frame = object()
    assert Picture(main_video=frame).main_video is frame
    assert Picture(frame).main_video is frame
    assert Picture.__tracks__ == (TrackSpec("main_video", "video", "out"),)
    with pytest.raises(TypeError):
        Picture()  # type: ignore[call-arg]


def test_tracks_are_inherited_and_options_leave_a_field_required() -> None:
    assert Movie.__tracks__ == (
        TrackSpec("main_video", "video", "out"),
        TrackSpec("sound", "audio", "out", 24_000),
        TrackSpec("depth", "video", "out"),
    )
    assert Movie(1, 2).depth is None
    with pytest.raises(TypeError):
        Movie(1)  # type: ignore[call-arg]


@pytest.mark.parametrize("decorator", [dataclass, dataclass(slots=True), attrs.define])
def test_a_decorator_on_top_changes_nothing(decorator: Any) -> None:
    @decorator
    class Decorated(Picture):
        sound: Audio = Audio(sample_rate=8000)

    assert [track.name for track in Decorated.__tracks__] == ["main_video", "sound"]
    assert Decorated(1, sound=2).sound == 2


@pytest.mark.parametrize(
    ("annotation", "default"),
    [(int, ...), ("Nowhere", ...), (Video, 3), (Video, Audio()), (Audio | Video, ...)],
)
def test_anything_else_is_refused(annotation: Any, default: Any) -> None:
    members = {"__annotations__": {"main": annotation}, **({} if default is ... else {"main": default})}
    with pytest.raises(TypeError, match=r"^Wrong\.main"):
        type("Wrong", (Output,), members)


def test_a_sample_rate_is_positive() -> None:
    with pytest.raises(TypeError, match="sample_rate"):
        Audio(sample_rate=0)
