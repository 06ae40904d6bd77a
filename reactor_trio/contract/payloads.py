"""What a payload is made of: the attrs class of an event, and its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from reactor_trio.contract.constraints import (
    BadRule,
    check_default,
    check_inner_rules,
    compile_checks,
    ruled_type,
)
from reactor_trio.contract.faults import Misfit
from reactor_trio.contract.types import Unsupported, check_type
from reactor_trio.declare.fields import INPUT_FIELD, MISSING

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactor_trio.declare.fields import InputFieldInfo


def make_payload_class(event: str, fields: dict[str, Any], module: str) -> type:
    """The class of an event's payload, named after it in PascalCase; `fields` are of `payload_field`."""
    name = "".join(word.capitalize() for word in event.split("_"))
    payload_class = attrs.make_class(name, fields, frozen=True, slots=True, kw_only=True)
    payload_class.__module__ = module
    return payload_class


def payload_field(
    name: str,
    info: InputFieldInfo,
    tp: Any,
    refuse: Callable[[str], TypeError],
    factory: Any = None,
) -> Any:
    """The attrs field for a type and what an `InputField` says; `factory` makes its default where it has one.

    Raises what `refuse` makes of a reason, or `Unresolved` if an annotation inside the type's classes names
    what is not there.
    """
    try:
        check_type(tp, "input")
        checks = compile_checks(info, tp)
        ruled_type(tp, info)
        check_inner_rules(tp)
        default = attrs.NOTHING if info.default is MISSING else check_default(info.default, tp, checks)
    except (Unsupported, BadRule) as exc:
        raise refuse(str(exc)) from None
    except Misfit as exc:
        raise refuse(f"the default does not fit: {exc}") from None
    return attrs.field(default=factory or default, type=tp, alias=name, metadata={INPUT_FIELD: info})
