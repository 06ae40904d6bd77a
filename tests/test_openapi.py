"""The OpenAPI document of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reactor_trio.contract.contract import read_contract
from reactor_trio.contract.openapi import openapi
from reactor_trio.declare.decorators import event
from reactor_trio.declare.tracks import Output, Video
from reactor_trio.model.messages import ModelMessage


@dataclass
class Box:
    width: int
    inner: Box | None = None


class Drawn(ModelMessage):
    """It is done."""

    box: Box


class Picture(Output):
    main_video: Video


def other_box() -> type:
    @dataclass
    class Box:
        height: int

    return Box


OtherBox = other_box()


class Painter:
    """Paints."""

    @event(description="Draw a box", dedupe=True)
    def draw(self, box: Box) -> Drawn: ...

    @event
    def stack(self, boxes: list[Box], other: OtherBox | None = None) -> None: ...  # type: ignore[valid-type]

    @event
    def reset(self) -> None: ...


def document() -> dict[str, Any]:
    found = openapi(read_contract(Painter), version="1.2")
    assert json.loads(json.dumps(found)) == found
    return found


def test_events_are_paths_and_messages_are_webhooks() -> None:
    found = document()
    assert found["openapi"].startswith("3.1")
    assert found["info"] == {"title": "Painter", "description": "Paints.", "version": "1.2"}
    assert list(found["paths"]) == ["/events/draw", "/events/stack", "/events/reset"]
    assert list(found["webhooks"]) == ["drawn"]
    assert found["x-reactor"]["tracks"] == [{"name": "main_video", "kind": "video", "direction": "out"}]
    draw = found["paths"]["/events/draw"]["post"]
    assert (draw["operationId"], draw["description"]) == ("draw", "Draw a box")
    assert draw["x-reactor"] == {"dedupe": True}
    assert draw["responses"]["200"]["x-reactor"] == {"reply": "drawn"}
    assert draw["requestBody"]["required"]
    assert not found["paths"]["/events/reset"]["post"]["requestBody"]["required"]
    assert found["webhooks"]["drawn"]["post"]["description"] == "It is done."


def references(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for each in node:
            yield from references(each)
    elif isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for each in node.values():
            yield from references(each)


def test_every_reference_leads_somewhere() -> None:
    found = document()
    assert "$defs" not in json.dumps(found)
    targets = set(references(found))
    assert targets
    for target in targets:
        node = found
        for step in target.removeprefix("#/").split("/"):
            node = node[step]
        assert node["type"] == "object"


def test_classes_are_shared_unless_they_differ() -> None:
    schemas = document()["components"]["schemas"]
    assert list(schemas["Box"]["properties"]) == ["width", "inner"]
    assert schemas["Box"]["properties"]["inner"]["anyOf"][0] == {"$ref": "#/components/schemas/Box"}
    assert any(list(schema["properties"]) == ["height"] for schema in schemas.values())


def test_operation_ids_are_unique() -> None:
    found = document()
    ids = [item["post"]["operationId"] for part in ("paths", "webhooks") for item in found[part].values()]
    assert len(ids) == len(set(ids))
