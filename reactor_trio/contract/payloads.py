"""The payload of an event: an attrs class, and the tree of its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from reactor_trio.contract.constraints import BadRule, check_default
from reactor_trio.contract.faults import Misfit
from reactor_trio.contract.type_parser import Unsupported, parse_type, payload_record
from reactor_trio.declare.fields import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reactor_trio.contract.type_tree import Node, Record
    from reactor_trio.declare.fields import InputFieldInfo


@attrs.frozen(eq=False)
class PayloadField:
    """One field: its type with its rules, and its default."""

    node: Node
    default: Any
    """A value, an `attrs.Factory`, or `attrs.NOTHING`."""


def make_payload(event: str, fields: Mapping[str, PayloadField], module: str) -> Record:
    """The class of an event's payload, named after it in PascalCase, as the tree of its fields."""
    name = "".join(word.capitalize() for word in event.split("_"))
    attributes = {
        field: attrs.field(default=each.default, type=each.node.type, alias=field)
        for field, each in fields.items()
    }
    payload_class = attrs.make_class(name, attributes, frozen=True, slots=True, kw_only=True)
    payload_class.__module__ = module
    return payload_record(payload_class, {field: each.node for field, each in fields.items()})


def payload_field(
    info: InputFieldInfo, tp: Any, refuse: Callable[[str], TypeError], factory: Any = None
) -> PayloadField:
    """A field from its type and its `InputField`. A `factory`, if given, makes its default.

    Raises the error that `refuse` makes of a reason, or `Unresolved` if an annotation in a class inside the
    type names something that is not there.
    """
    try:
        node = parse_type(tp, info)
        default = attrs.NOTHING if info.default is MISSING else check_default(info.default, node)
    except (Unsupported, BadRule) as exc:
        raise refuse(str(exc)) from None
    except Misfit as exc:
        raise refuse(f"the default does not fit: {exc}") from None
    return PayloadField(node, factory or default)
