"""JSON -> the values that a handler gets. Strict: what does not fit is refused, never converted.

cattrs generates the code that makes an instance of a class from an object; everything inside it is a hook of
ours (`hooks`, `unions`). One walk makes the values and collects all faults; it looks at each value once, or
where several members of a union are tried once for each of them, so its price grows with the payload and with
nothing else. Nothing here is async, and every call stands for itself: any thread may make it.
"""

from __future__ import annotations

import itertools
import typing
from typing import TYPE_CHECKING, Any

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn_from_attrs, override

from reactor_trio.contract.constraints import compile_checks, conform, ruled_type
from reactor_trio.contract.faults import INVALID_PAYLOAD, MAX_FAULTS, Misfit, shown, summary, walk
from reactor_trio.contract.hooks import (
    SIMPLE,
    checked,
    dict_hook,
    list_hook,
    tuple_hook,
    values_hook,
)
from reactor_trio.contract.types import (
    NoneType,
    RecordField,
    has_uploads,
    is_dict,
    is_enum,
    is_list,
    is_literal,
    is_record,
    is_tuple,
    is_union,
    item_of,
    items_of,
    record_fields,
    upload_rule,
    value_of,
)
from reactor_trio.contract.unions import needs_trying, union_hook
from reactor_trio.contract.upload_fields import CONTEXT, Context, PendingUploads, upload_hook
from reactor_trio.errors import FieldError, InvalidPayload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.contract.hooks import Hook
    from reactor_trio.contract.upload_fields import Files


class Structurer:
    """Makes instances of one payload class."""

    def __init__(self, event: str, payload_class: type) -> None:
        self._event = event
        self._class = payload_class
        hooks = _Hooks()
        self._hook = hooks.hook(payload_class)
        self.has_uploads = has_uploads(payload_class)
        self.hands_on = hooks.hands_on
        """Whether parts of a payload are handed on as they are: where the type is `Any`."""
        self.needs_trying = hooks.needs_trying
        """Whether there is a union in it whose members may have to be tried: that is slow."""

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
            error = exc.with_traceback(None)  # it would refer to this frame, and so to itself
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
    """Builds a hook for each type, and keeps those of classes, which may contain themselves."""

    def __init__(self) -> None:
        self.needs_trying = False
        """Whether there is a union among them whose members may have to be tried."""
        self.hands_on = False
        """Whether there is one that gives what it was given."""
        self._records: dict[type, Hook] = {}
        # In its detailed mode what cattrs generates goes on behind a fault, and collects them.
        self._converter = Converter(detailed_validation=True, forbid_extra_keys=True)

    def hook(self, tp: Any) -> Hook:
        self.hands_on = self.hands_on or tp is Any
        simple = SIMPLE.get(tp)
        if simple is not None:
            return simple
        rule = upload_rule(tp)
        if rule is not None:
            return upload_hook(rule)
        if is_union(tp):
            return self._union(typing.get_args(tp))
        if is_enum(tp) or is_literal(tp):
            return values_hook(tp)
        if is_record(tp):
            return self._record(tp)  # pyright: ignore[reportArgumentType]  what it takes from SIMPLE.get(tp)
        return self._collection(tp)

    def _collection(self, tp: Any) -> Hook:
        if is_list(tp):
            return list_hook(self.hook(item_of(tp)))
        if is_dict(tp):
            return dict_hook(self.hook(value_of(tp)))
        if not is_tuple(tp):
            raise TypeError(f"there is no hook for {tp!r}")  # `check_type` has let it through.
        kinds = items_of(tp)
        if kinds is None:
            items = list_hook(self.hook(item_of(tp)))
            return lambda value, _: tuple(items(value, None))
        return tuple_hook([self.hook(kind) for kind in kinds])

    def _union(self, members: tuple[Any, ...]) -> Hook:
        if len(members) == 2 and NoneType in members:
            # The usual case; what is wrong is then said of the type alone.
            inner = self.hook(next(member for member in members if member is not NoneType))
            return lambda value, _: None if value is None else inner(value, None)
        self.needs_trying = self.needs_trying or needs_trying(members)
        return union_hook([(member, self.hook(member)) for member in members])

    def _record(self, cls: type) -> Hook:
        if cls not in self._records:
            # Found by the fields of a class that contains itself, while its own hook is being made.
            self._records[cls] = lambda value, _: self._records[cls](value, None)
            self._records[cls] = self._make_record(cls)
        return self._records[cls]

    def _make_record(self, cls: type) -> Hook:
        fields = record_fields(cls)
        preset = {field.name: conform(field.type, field.default) for field in fields if field.has_preset}
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

    def _field(self, field: RecordField, preset: Mapping[str, Any]) -> Hook:
        info = field.info
        if info is None:
            return self.hook(field.type)
        hook = checked(self.hook(ruled_type(field.type, info)), compile_checks(info, field.type))
        if field.name not in preset:
            return hook
        default = preset[field.name]
        return lambda value, _: default if value is default else hook(value, None)


def _for_cattrs(field: RecordField) -> attrs.Attribute[Any]:
    default = attrs.NOTHING if field.says_default_itself else field.attribute.default
    # By keyword, so that fields with and without a default may stand in any order.
    return field.attribute.evolve(default=default, kw_only=True, type=Any)
