"""JSON -> the values that a handler gets. A value that does not fit is refused, and never converted.

cattrs generates the function that makes an instance of a class from an object; the function calls our hooks
(`hooks.py`, `unions.py`) for the fields. One walk over a payload makes the values and collects all faults. It
looks at each value once, or once for each member of a union that has to be tried, so its time is proportional
to the length of the payload. Nothing here is async, and calls share no state: any thread may call.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from cattrs import Converter
from cattrs.gen import make_dict_structure_fn_from_attrs, override

from reactor_trio.contract import type_tree as tree
from reactor_trio.contract.faults import INVALID_PAYLOAD, MAX_FAULTS, Misfit, shown, summary, walk
from reactor_trio.contract.hooks import (
    checked,
    dict_hook,
    list_hook,
    scalar_hook,
    structure_any,
    tuple_hook,
    values_hook,
)
from reactor_trio.contract.unions import needs_trying, union_hook
from reactor_trio.contract.upload_fields import CONTEXT, Context, PendingUploads, upload_hook
from reactor_trio.declare.fields import MISSING
from reactor_trio.errors import FieldError, InvalidPayload

if TYPE_CHECKING:
    from collections.abc import Mapping

    import attrs

    from reactor_trio.contract.hooks import Hook
    from reactor_trio.contract.upload_fields import Files


class Structurer:
    """Makes instances of one payload class."""

    def __init__(self, event: str, payload: tree.Record) -> None:
        self._event = event
        self._class = payload.type
        self._hook = _Hooks().hook(payload)
        parts = list(tree.walk(payload))
        self.has_uploads = any(isinstance(part, tree.Upload) for part in parts)
        """Whether a file may be in a payload."""
        self.hands_on = any(isinstance(part, tree.Anything) for part in parts)
        """Whether parts of a payload reach the handler as they are, since their type is `Any`."""
        self.needs_trying = any(isinstance(part, tree.Union) and needs_trying(part) for part in parts)
        """Whether there is a union whose members may have to be tried, which is slow."""

    def structure(self, data: Mapping[str, Any], files: Files) -> Any:
        """Raises `InvalidPayload` with all faults, or `PendingUploads`."""
        try:
            if not (self.has_uploads or self.needs_trying):
                return self._hook(data, None)
            token = CONTEXT.set(Context(files))
            try:
                return self._hook(data, None)
            finally:
                CONTEXT.reset(token)
        except Exception as exc:
            error = exc.with_traceback(None)  # a traceback would refer to this frame, and so to the error
        raise self._refusal(error, data) from None

    def _refusal(self, error: Exception, data: Mapping[str, Any]) -> InvalidPayload | PendingUploads:
        try:
            found = summary(error)
            faults = list(itertools.islice(walk(error, data, self._class), MAX_FAULTS))
        except RecursionError:
            return InvalidPayload([FieldError("", "is nested too deeply")], event=self._event)
        wrong = [fault for fault in faults if fault.pending is None]
        if not wrong:
            return PendingUploads(tuple(dict.fromkeys(fault.pending for fault in faults if fault.pending)))
        codes = {fault.code for fault in wrong}
        return InvalidPayload(
            [FieldError(fault.path, fault.message) for fault in wrong],
            code=codes.pop() if len(codes) == 1 else INVALID_PAYLOAD,
            more=found.count - len(faults),
            is_partial=found.is_partial,
            event=self._event,
        )


class _Hooks:
    """Builds a hook for each node. Keeps the hooks of classes, as a class may contain itself."""

    def __init__(self) -> None:
        self._records: dict[type, Hook] = {}
        # In detailed mode a generated function goes on after a fault, and collects all of them.
        self._converter = Converter(detailed_validation=True, forbid_extra_keys=True)

    def hook(self, node: tree.Node) -> Hook:
        hook = self._plain(node)
        return hook if node.rules is None else checked(hook, node.rules.checks)

    def _plain(self, node: tree.Node) -> Hook:
        match node:
            case tree.Anything():
                return structure_any
            case tree.Scalar(type=tp):
                return scalar_hook(tp)
            case tree.Values(values=values):
                return values_hook(values)
            case tree.Upload(rule=rule):
                return upload_hook(rule)
            case tree.List(item=item):
                return list_hook(self.hook(item))
            case tree.OpenTuple(item=item):
                items = list_hook(self.hook(item))
                return lambda value, _: tuple(items(value, None))
            case tree.FixedTuple(items=kinds):
                return tuple_hook([self.hook(kind) for kind in kinds])
            case tree.Dict(value=each):
                return dict_hook(self.hook(each))
            case tree.Record():
                return self._record(node)
            case tree.Union():
                return self._union(node)
        raise TypeError(f"there is no hook for {node!r}")

    def _union(self, union: tree.Union) -> Hook:
        optional = tree.optional_of(union)
        if optional is not None:
            # The usual union: its errors are those of the other member alone.
            inner = self.hook(optional)
            return lambda value, _: None if value is None else inner(value, None)
        return union_hook([(member, self.hook(member)) for member in union.members])

    def _record(self, record: tree.Record) -> Hook:
        cls = record.type
        if cls not in self._records:
            # A field of this class, within the class, finds this hook while its own hook is being made.
            self._records[cls] = lambda value, _: self._records[cls](value, None)
            self._records[cls] = self._make_record(record)
        return self._records[cls]

    def _make_record(self, record: tree.Record) -> Hook:
        cls, fields = record.type, record.fields
        preset = {field.name: field.preset for field in fields if field.preset is not MISSING}
        hooks: dict[str, Any] = {
            field.name: override(struct_hook=self._field(field, preset)) for field in fields
        }
        generated: Any = make_dict_structure_fn_from_attrs(
            [_for_cattrs(field) for field in fields],
            cls,
            self._converter,
            _cattrs_use_linecache=False,
            **hooks,
        )

        def structure(value: Any, _: Any) -> Any:
            if not isinstance(value, dict):
                raise Misfit(f"must be an object, not {shown(value)}")
            return generated({**preset, **value} if preset else value, cls)

        return structure

    def _field(self, field: tree.Field, preset: Mapping[str, Any]) -> Hook:
        hook = self.hook(field.node)
        if field.name not in preset:
            return hook
        default = preset[field.name]
        return lambda value, _: default if value is default else hook(value, None)


def _for_cattrs(field: tree.Field) -> attrs.Attribute[Any]:
    # By keyword, so that required fields may stand behind fields with a default.
    return field.attribute.evolve(default=field.class_default, kw_only=True, type=Any)
