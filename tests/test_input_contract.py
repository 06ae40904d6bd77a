"""`Input`: a class whose fields are tracks, and the annotation that binds the class to a model."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import pytest

from reactor_trio import Audio, Input, Output, ReactorModel, Video, event
from reactor_trio.contract.contract import read_contract
from reactor_trio.contract.inputs import bound_inputs
from reactor_trio.declare.tracks import TrackSpec
from reactor_trio.errors import NoSession
from reactor_trio.testing import open_session


class Camera(Input):
    webcam: Video
    mic: Audio = Audio(sample_rate=16_000)


class Depth(Input):
    depth: Video


class Unbound(Input):
    nobody: Video


class Model(ReactorModel):
    input: Camera


def names(model: type) -> list[tuple[str, str]]:
    return [(track.name, track.direction) for track in read_contract(model).tracks]


# ---- the class


def test_fields_are_tracks_and_inherited() -> None:
    class Better(Camera):
        depth: Video

    assert Better.__tracks__ == (
        TrackSpec("webcam", "video", "in"),
        TrackSpec("mic", "audio", "in", 16_000),
        TrackSpec("depth", "video", "in"),
    )


@pytest.mark.parametrize("decorator", [dataclass, dataclass(slots=True), dataclass(frozen=True)])
async def test_a_decorator_on_top_changes_nothing(decorator: Any) -> None:
    @decorator
    class Decorated(Camera):
        depth: Video

    decorating = type("Decorating", (ReactorModel,), {"__annotations__": {"it": Decorated}})
    async with open_session(decorating) as client:
        it = client.session.model.it  # type: ignore[attr-defined]
        assert [track.spec.name for track in (it.webcam, it.mic, it.depth)] == ["webcam", "mic", "depth"]


def test_nobody_makes_one() -> None:
    with pytest.raises(TypeError, match=r"Camera declares input tracks.*`input: Camera`"):
        Camera(webcam=1)


@pytest.mark.parametrize(
    ("annotation", "default"),
    [(int, ...), ("Nowhere", ...), (Video, 3), (Video, Audio()), (Audio | Video, ...)],
)
def test_anything_else_is_refused(annotation: Any, default: Any) -> None:
    members = {"__annotations__": {"main": annotation}, **({} if default is ... else {"main": default})}
    with pytest.raises(TypeError, match=r"^Wrong\.main"):
        type("Wrong", (Input,), members)


def test_a_track_needs_its_colon() -> None:
    with pytest.raises(TypeError, match=r"webcam has no annotation: write `webcam: Video`"):
        type("Wrong", (Input,), {"webcam": Video})


# ---- binding


def test_the_contract_has_the_tracks_that_are_bound() -> None:
    assert names(Model) == [("webcam", "in"), ("mic", "in")]
    tracks = read_contract(Model).welcome(["jpeg"])["tracks"]
    assert tracks == [
        {"name": "webcam", "kind": "video", "direction": "in", "codecs": ["jpeg", "raw"]},
        {"name": "mic", "kind": "audio", "direction": "in", "rate": 16_000, "codecs": ["pcm_s16le"]},
    ]


def test_any_name_and_several_inputs() -> None:
    class Two(ReactorModel):
        eyes: Camera
        more: Depth
        pipe: Any
        limit: ClassVar[int] = 3
        elsewhere: TypeCheckedOnly  # type: ignore[name-defined]  # noqa: F821

    assert dict(bound_inputs(Two)) == {"eyes": Camera, "more": Depth}
    assert names(Two) == [("webcam", "in"), ("mic", "in"), ("depth", "in")]


def test_a_subclass_inherits_adds_replaces_and_hides() -> None:
    class Wider(Camera):
        depth: Video

    class Child(Model):
        pass

    class Adding(Model):
        more: Depth

    class Replacing(Model):
        input: Wider  # pyright: ignore[reportIncompatibleVariableOverride]

    class Hiding(Model):
        input = None  # type: ignore[assignment]

    assert names(Child) == names(Model)
    assert names(Adding) == [*names(Model), ("depth", "in")]
    assert names(Replacing) == [*names(Model), ("depth", "in")]
    assert names(Hiding) == []
    assert names(Model) == [("webcam", "in"), ("mic", "in")]


def test_a_mixin_may_bind() -> None:
    class Seeing:
        eyes: Camera

    class Mixed(Seeing, ReactorModel):
        pass

    assert names(Mixed) == names(Model)


def test_a_class_made_in_a_function_is_found() -> None:
    class Local(Input):
        here: Video

    class Inner(ReactorModel):
        input: Local

    assert names(Inner) == [("here", "in")]


async def test_each_session_has_its_own_tracks() -> None:
    with pytest.raises(NoSession, match=r"Model\.input needs a session"):
        Model().input  # noqa: B018
    async with open_session(Model) as client:
        inputs = client.session.model.input  # type: ignore[attr-defined]
        assert isinstance(inputs, Camera)
        assert inputs.webcam is inputs.webcam
        assert inputs.mic.spec.rate == 16_000
        info = client.welcome.tracks["mic"]
        assert (info.direction, info.rate, info.codecs) == ("in", 16_000, ("pcm_s16le",))
    with pytest.raises(AttributeError, match=r"Model\.input is bound to the input tracks of Camera"):
        Model().input = 3  # type: ignore[assignment]


# ---- mistakes


def refusal(**members: Any) -> str:
    with pytest.raises(TypeError) as refused:
        type("Wrong", (ReactorModel,), {"__module__": __name__, **members})
    return str(refused.value)


def annotated(**annotations: Any) -> str:
    return refusal(__annotations__=annotations)


def test_an_input_that_is_not_there_is_told() -> None:
    assert annotated(input="Nowhere") == (
        "Wrong.input: the annotation 'Nowhere' cannot be resolved: name 'Nowhere' is not defined"
    )


def test_two_input_tracks_of_one_name_are_told() -> None:
    assert annotated(one=Camera, two=Camera) == (
        "Wrong: two input tracks are named 'webcam': one (Camera) and two (Camera)"
    )


@pytest.mark.parametrize("name", ["output", "connected", "send", "fps", "load"])
def test_names_of_the_runtime_are_told(name: str) -> None:
    assert (
        annotated(**{name: Camera})
        == f"Wrong.{name}: {name!r} is a name of the runtime's own; choose another"
    )


def test_a_name_that_is_taken_is_told() -> None:
    @event
    def seen(self: Any) -> None: ...

    class Base(ReactorModel):
        @event
        def look(self) -> None: ...

    assert "there is a method of that name too" in refusal(__annotations__={"seen": Camera}, seen=seen)
    assert "there is a value of that name too" in refusal(__annotations__={"seen": Camera}, seen=None)
    with pytest.raises(TypeError, match="there is a method of that name too"):
        type("Child", (Base,), {"__annotations__": {"look": Camera}})


@pytest.mark.parametrize("hint", [typing.Optional[Camera], list[Camera], "Camera | None"])  # noqa: UP045
def test_an_input_is_bound_by_its_name_alone(hint: Any) -> None:
    assert "by the name of their class alone" in annotated(input=hint)


def test_an_input_without_tracks_is_told() -> None:
    class Empty(Input):
        pass

    assert annotated(input=Empty).endswith("Empty declares no track")
    assert annotated(input=Input) == "Wrong.input: Input declares no track"


def test_an_output_of_the_same_name_is_told_when_the_class_is_made() -> None:
    class Picture(Output):
        webcam: Video

    with pytest.raises(
        TypeError,
        match=r"two tracks are named 'webcam' and differ: .*Picture \(video\) and .*Camera \(input, video\)",
    ):

        class Both(ReactorModel):
            Shown = Picture
            input: Camera


LATE = """
from __future__ import annotations
from reactor_trio import Audio, Input, Output, ReactorModel, Video

class Sees(ReactorModel):
    eyes: Later

class Later(Input):
    left: Video

class Shows(ReactorModel):
    input: Later

class Picture(Output):
    left: Video
"""


def test_what_stands_below_the_model_is_told_when_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("late_inputs")
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    exec(LATE, vars(module))
    with pytest.raises(TypeError, match=r"Sees\.eyes: the Input class stands below the model"):
        read_contract(module.Sees)
    with pytest.raises(TypeError, match=r"two tracks are named 'left' and differ"):
        read_contract(module.Shows)
