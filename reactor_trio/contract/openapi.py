"""A model's contract as an OpenAPI 3.1 document: events are paths, messages are webhooks.

The HTTP interface that the document describes does not exist: commands and messages travel over the
WebSocket. OpenAPI is the format because there are tools for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from reactor_trio.contract.contract import Contract, MessageSpec
    from reactor_trio.contract.events import EventSpec

PROTOCOL: Final = 1
_LOCAL: Final = "#/$defs/"
_SHARED: Final = "#/components/schemas/"


def openapi(contract: Contract, *, version: str) -> dict[str, Any]:
    """The document of a contract. `version` is the version of the model or of the runtime."""
    shared = _SharedSchemas()
    events, messages = contract.declarations.events.values(), contract.messages.values()
    document = {
        "openapi": "3.1.0",
        "info": {"title": contract.name, "description": contract.description, "version": version},
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "paths": {f"/events/{event.name}": {"post": _event(event, shared)} for event in events},
        "webhooks": {message.name: {"post": _message(message, shared)} for message in messages},
        "x-reactor": {"protocol": PROTOCOL, "tracks": contract.welcome()["tracks"]},
    }
    return {**document, "components": {"schemas": shared.schemas}} if shared.schemas else document


class _SharedSchemas:
    """The `$defs` of all events and messages, in the place that the `$ref`s of the document point to."""

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = {}

    def inline(self, schema: Any, owner: str) -> Any:
        """The schema without `$defs`. `owner` is put before the names of classes that are taken by others."""
        names = self._names(schema.get("$defs", {}), owner)
        for name, inner in schema.get("$defs", {}).items():
            self.schemas[names[name]] = _renamed(inner, names)
        return _renamed({key: value for key, value in schema.items() if key != "$defs"}, names)

    def _names(self, definitions: dict[str, Any], owner: str) -> dict[str, str]:
        plain = {name: name for name in definitions}
        if all(self.schemas.get(name, inner) == inner for name, inner in self._as_shared(definitions, plain)):
            return plain
        return {name: f"{owner}.{name}" for name in definitions}

    def _as_shared(self, definitions: dict[str, Any], names: dict[str, str]) -> list[tuple[str, Any]]:
        return [(names[name], _renamed(inner, names)) for name, inner in definitions.items()]


def _event(event: EventSpec, shared: _SharedSchemas) -> dict[str, Any]:
    operation = {
        "operationId": event.name,
        "tags": ["events"],
        "requestBody": _body(
            shared.inline(event.schema, event.name), required=bool(event.schema.get("required"))
        ),
        "responses": {"200": _response(event)},
        "x-reactor": {"dedupe": event.dedupe},
    }
    return _with_description(operation, event.description)


def _response(event: EventSpec) -> dict[str, Any]:
    if event.reply is None:
        return {"description": "Acknowledged."}
    name = event.reply.__wire_name__
    # A webhook has no address that a $ref could name, so the reply points to it by its name.
    return {"description": f"Answered with the message `{name}`.", "x-reactor": {"reply": name}}


def _message(message: MessageSpec, shared: _SharedSchemas) -> dict[str, Any]:
    operation = {
        "operationId": f"on_{message.name}",
        "tags": ["messages"],
        "requestBody": _body(shared.inline(message.schema, message.name), required=True),
        "responses": {"200": {"description": "Nothing is sent back."}},
    }
    return _with_description(operation, message.description)


def _body(schema: Any, *, required: bool) -> dict[str, Any]:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _with_description(operation: dict[str, Any], description: str) -> dict[str, Any]:
    return {**operation, "description": description} if description else operation


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    """A copy in which every `$ref` points to the shared schemas."""
    if isinstance(schema, list):
        return [_renamed(each, names) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _SHARED + names[value.removeprefix(_LOCAL)]
        if key == "$ref" and isinstance(value, str) and value.startswith(_LOCAL)
        else _renamed(value, names)
        for key, value in schema.items()
    }
