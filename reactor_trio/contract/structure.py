"""JSON -> the values that a handler gets. Strict: what does not fit is refused, never converted.

cattrs generates the code that makes an instance of a class from an object; everything inside it is a hook of
ours. A fast set of hooks stops at the first fault; only if it finds one, the detailed set goes over
the payload again and collects them all.

Nothing here is async and nothing may be called from a worker thread: the uploads of the command at hand
are kept in an attribute while its payload is structured, since hooks take no context.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

import attrs
from cattrs import Converter
from cattrs.errors import IterableValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn_from_attrs, override

from reactor_trio.contract.constraints import compile_checks, conform, ruled_type
from reactor_trio.contract.faults import INVALID_PAYLOAD, MAX_FAULTS, Fault, Misfit, shown, walk
from reactor_trio.contract.hooks import (
    ALL_JSON,
    SIMPLE,
    checked,
    collect_fast,
    describe,
    dict_hook,
    exact_first,
    json_types,
    list_hook,
    tuple_hook,
    union_hook,
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
from reactor_trio.contract.uploads import Context, PendingUploads, upload_hook
from reactor_trio.errors import FieldError, InvalidPayload

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from reactor_trio.contract.hooks import Hook
    from reactor_trio.contract.uploads import Files


class Structurer:
    """Makes instances of one payload class."""

    def __init__(self, event: str, payload_class: type) -> None:
        self._event = event
        self._class = payload_class
        self._context = Context()
        self._fast = _Hooks(self._context, detailed=False).hook(payload_class)
        self._detailed = _Hooks(self._context, detailed=True).hook(payload_class)
        self.has_uploads = has_uploads(payload_class)

    def structure(self, data: Mapping[str, Any], files: Files) -> Any:
        """Raises `InvalidPayload` with all faults, or `PendingUploads`."""
        if not self.has_uploads:
            try:
                return self._fast(data, None)
            except Exception:
                return self._again(data)
        outer, self._context.files = self._context.files, files
        try:
            return self._fast(data, None)
        except Exception:
            return self._again(data)
        finally:
            self._context.files = outer

    def _again(self, data: Mapping[str, Any]) -> Any:
        self._context.faults = 0
        try:
            return self._detailed(data, None)
        except Exception as exc:
            error = exc
        raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> InvalidPayload | PendingUploads:
        try:
            faults = list(walk(error, self._class))
        except RecursionError:
            faults = [Fault("", "is nested too deeply")]
        wrong = [fault for fault in faults if fault.pending is None]
        if not wrong:
            return PendingUploads(tuple(dict.fromkeys(fault.pending for fault in faults if fault.pending)))
        codes = {fault.code for fault in wrong}
        errors = [FieldError(fault.path, fault.message) for fault in wrong[:MAX_FAULTS]]
        code = codes.pop() if len(codes) == 1 else INVALID_PAYLOAD
        return InvalidPayload(errors, code=code, event=self._event)


class _Hooks:
    """Builds a hook for each type, and keeps those of classes, which may contain themselves."""

    def __init__(self, context: Context, *, detailed: bool) -> None:
        self._context = context
        self._detailed = detailed
        self._records: dict[type, Hook] = {}
        self._converter = Converter(detailed_validation=detailed, forbid_extra_keys=True)

    def hook(self, tp: Any) -> Hook:
        simple = SIMPLE.get(tp)
        if simple is not None:
            return simple
        rule = upload_rule(tp)
        if rule is not None:
            return upload_hook(rule, self._context)
        if is_union(tp):
            return self._union(typing.get_args(tp))
        if is_enum(tp) or is_literal(tp):
            return values_hook(tp)
        if is_record(tp):
            return self._record(tp)
        return self._collection(tp)

    def _collection(self, tp: Any) -> Hook:
        collect = self._collect if self._detailed else collect_fast
        if is_list(tp):
            return list_hook(self.hook(item_of(tp)), collect)
        if is_dict(tp):
            return dict_hook(self.hook(value_of(tp)), collect)
        if not is_tuple(tp):
            raise TypeError(f"there is no hook for {tp!r}")  # `check_type` has let it through.
        kinds = items_of(tp)
        if kinds is None:
            items = list_hook(self.hook(item_of(tp)), collect)
            return lambda value, _: tuple(items(value, None))
        return tuple_hook([self.hook(kind) for kind in kinds], collect)

    def _collect(self, pairs: Iterable[tuple[str | int, Any, Hook]]) -> list[Any]:
        values, errors = [], []
        for key, value, hook in pairs:
            try:
                values.append(hook(value, None))
            except Exception as exc:
                exc.__notes__ = [*getattr(exc, "__notes__", ()), _note(key)]
                errors.append(exc)
                self._context.faults += 1
                if self._context.faults >= MAX_FAULTS:
                    break
        if errors:
            # pyright takes the arguments of ExceptionGroup for those of its subclass.
            raise IterableValidationError("items do not fit", errors, list)  # pyright: ignore[reportCallIssue]
        return values

    def _union(self, members: tuple[Any, ...]) -> Hook:
        *firsts, last = map(describe, members)
        described = f"{', '.join(firsts)} or {last}"
        if len(members) == 2 and NoneType in members:
            # The usual case; what is wrong is then said of the type alone.
            inner = self.hook(next(member for member in members if member is not NoneType))
            return lambda value, _: None if value is None else inner(value, None)
        hooks = [(member, self.hook(member)) for member in members]
        by_type: dict[type, list[Hook]] = {
            kind: [hook for member, hook in exact_first(hooks, kind) if kind in json_types(member)]
            for kind in ALL_JSON
        }
        return union_hook(by_type, described)

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


def _note(key: str | int) -> Any:
    return IterableValidationNote("", key, Any)


def _for_cattrs(field: RecordField) -> attrs.Attribute[Any]:
    default = attrs.NOTHING if field.says_default_itself else field.attribute.default
    # By keyword, so that fields with and without a default may stand in any order.
    return field.attribute.evolve(default=default, kw_only=True, type=Any)
