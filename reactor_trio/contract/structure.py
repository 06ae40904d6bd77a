"""JSON -> the values that a handler gets. Strict: what does not fit is refused, never converted.

cattrs generates the code that makes an instance of a class from an object; everything inside it is a hook of
ours. A fast set of hooks stops at the first fault; only if it finds one, the detailed set goes over
the payload again and collects them all.

Nothing here is async and nothing may be called from a worker thread: the uploads of the command at hand
are kept in an attribute while its payload is structured, since hooks take no context.
"""

from __future__ import annotations

import math
import typing
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs
from cattrs import Converter
from cattrs.errors import BaseValidationError, IterableValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn_from_attrs, override

from reactor_trio.contract.constraints import check_upload, compile_checks, conform, ruled_type
from reactor_trio.contract.faults import (
    INVALID_PAYLOAD,
    MAX_FAULTS,
    UNRESOLVED_UPLOAD,
    Fault,
    Misfit,
    StillArriving,
    listed,
    plainly,
    shown,
    walk,
)
from reactor_trio.contract.types import (
    MAX_SAFE_INTEGER,
    NoneType,
    RecordField,
    UploadRule,
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
    json_key,
    literal_values,
    record_fields,
    upload_rule,
    value_of,
    wire_value,
)
from reactor_trio.errors import FieldError, InvalidPayload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from reactor_trio.authoring.uploads import UploadedFile

    Hook: TypeAlias = Callable[[Any, Any], Any]
    """Takes a JSON value (and, as cattrs wants it, a type that is not looked at)."""


@attrs.frozen
class PendingUpload:
    """An upload that was announced and is still arriving."""

    upload_id: str
    name: str
    mime_type: str
    size: int


class PendingUploads(Exception):  # noqa: N818  (nothing is wrong)
    """All that keeps a payload from being structured is that these uploads are still arriving."""

    def __init__(self, upload_ids: tuple[str, ...]) -> None:
        super().__init__(upload_ids)
        self.upload_ids = upload_ids


Files: TypeAlias = "Mapping[str, UploadedFile | PendingUpload]"

_ALL_JSON: Final[frozenset[type]] = frozenset((str, int, float, bool, NoneType, list, dict))
_NUMBERS: Final[frozenset[type]] = frozenset((int, float))


class Structurer:
    """Makes instances of one payload class."""

    def __init__(self, event: str, payload_class: type) -> None:
        self._event = event
        self._class = payload_class
        self._context = _Context()
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


class _Context:
    """What hooks need to know of the payload at hand."""

    def __init__(self) -> None:
        self.files: Files = {}
        self.faults = 0


class _Hooks:
    """Builds a hook for each type, and keeps those of classes, which may contain themselves."""

    def __init__(self, context: _Context, *, detailed: bool) -> None:
        self._context = context
        self._detailed = detailed
        self._records: dict[type, Hook] = {}
        self._converter = Converter(detailed_validation=detailed, forbid_extra_keys=True)

    def hook(self, tp: Any) -> Hook:
        simple = _SIMPLE.get(tp)
        if simple is not None:
            return simple
        rule = upload_rule(tp)
        if rule is not None:
            return _upload_hook(rule, self._context)
        if is_union(tp):
            return self._union(typing.get_args(tp))
        if is_enum(tp) or is_literal(tp):
            return _values_hook(tp)
        if is_record(tp):
            return self._record(tp)
        return self._collection(tp)

    def _collection(self, tp: Any) -> Hook:
        collect = self._collect if self._detailed else _collect_fast
        if is_list(tp):
            return _list_hook(self.hook(item_of(tp)), collect)
        if is_dict(tp):
            return _dict_hook(self.hook(value_of(tp)), collect)
        if not is_tuple(tp):
            raise TypeError(f"there is no hook for {tp!r}")  # `check_type` has let it through.
        kinds = items_of(tp)
        if kinds is None:
            items = _list_hook(self.hook(item_of(tp)), collect)
            return lambda value, _: tuple(items(value, None))
        return _tuple_hook([self.hook(kind) for kind in kinds], collect)

    def _collect(self, pairs: Iterable[tuple[str | int, Any, Hook]]) -> list[Any]:
        values, errors = [], []
        for key, value, hook in pairs:
            try:
                values.append(hook(value, None))
            except Exception as exc:
                exc.__notes__ = [*getattr(exc, "__notes__", ()), IterableValidationNote("", key, Any)]
                errors.append(exc)
                self._context.faults += 1
                if self._context.faults >= MAX_FAULTS:
                    break
        if errors:
            raise IterableValidationError("items do not fit", errors, list)
        return values

    def _union(self, members: tuple[Any, ...]) -> Hook:
        *firsts, last = map(_describe, members)
        described = f"{', '.join(firsts)} or {last}"
        if len(members) == 2 and NoneType in members:
            # The usual case; what is wrong is then said of the type alone.
            inner = self.hook(next(member for member in members if member is not NoneType))
            return lambda value, _: None if value is None else inner(value, None)
        hooks = [(member, self.hook(member)) for member in members]
        by_type: dict[type, list[Hook]] = {
            kind: [hook for member, hook in _exact_first(hooks, kind) if kind in _json_types(member)]
            for kind in _ALL_JSON
        }
        return _union_hook(by_type, described)

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
        hook = _checked(self.hook(ruled_type(field.type, info)), compile_checks(info, field.type))
        if field.name not in preset:
            return hook
        default = preset[field.name]
        return lambda value, _: default if value is default else hook(value, None)


def _for_cattrs(field: RecordField) -> attrs.Attribute[Any]:
    default = attrs.NOTHING if field.says_default_itself else field.attribute.default
    # By keyword, so that fields with and without a default may stand in any order.
    return field.attribute.evolve(default=default, kw_only=True, type=Any)


def _checked(hook: Hook, checks: tuple[Callable[[Any], None], ...]) -> Hook:
    if not checks:
        return hook

    def structure(value: Any, _: Any) -> Any:
        fitting = hook(value, None)
        if fitting is not None:
            for check in checks:
                check(fitting)
        return fitting

    return structure


def _collect_fast(pairs: Iterable[tuple[str | int, Any, Hook]]) -> list[Any]:
    return [hook(value, None) for _, value, hook in pairs]


def _list_hook(item: Hook, collect: Callable[..., list[Any]]) -> Hook:
    def structure(value: Any, _: Any) -> list[Any]:
        if value.__class__ is not list:
            raise Misfit(f"must be a list, not {shown(value)}")
        return collect((index, each, item) for index, each in enumerate(value))

    return structure


def _tuple_hook(items: list[Hook], collect: Callable[..., list[Any]]) -> Hook:
    wanted = f"a list of {len(items)} item{'' if len(items) == 1 else 's'}"

    def structure(value: Any, _: Any) -> tuple[Any, ...]:
        if value.__class__ is not list:
            raise Misfit(f"must be {wanted}, not {shown(value)}")
        if len(value) != len(items):
            raise Misfit(f"must be {wanted}, not of {len(value)}")
        return tuple(collect(zip(range(len(items)), value, items, strict=True)))

    return structure


def _dict_hook(item: Hook, collect: Callable[..., list[Any]]) -> Hook:
    def structure(value: Any, _: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Misfit(f"must be an object, not {shown(value)}")
        return dict(zip(value, collect((key, each, item) for key, each in value.items()), strict=True))

    return structure


def _union_hook(hooks: dict[type, list[Hook]], described: str) -> Hook:
    def structure(value: Any, _: Any) -> Any:
        candidates = hooks.get(value.__class__, ())
        if len(candidates) == 1:
            return candidates[0](value, None)
        pending = None
        for candidate in candidates:
            try:
                return candidate(value, None)
            except Exception as exc:
                if pending is None and _only_pending(exc):
                    pending = exc
        if pending is not None:
            raise pending
        raise Misfit(f"must be {described}, not {shown(value)}")

    return structure


def _upload_hook(rule: UploadRule, context: _Context) -> Hook:
    def structure(value: Any, _: Any) -> UploadedFile:
        upload_id = value.get("upload_id") if isinstance(value, dict) and len(value) == 1 else None
        if not isinstance(upload_id, str):
            raise Misfit('must be an upload, as in {"upload_id": "..."}' + _instead(value))
        file = context.files.get(upload_id)
        if file is None:
            raise Misfit(f"names no upload of this session: {plainly(upload_id)}", UNRESOLVED_UPLOAD)
        check_upload(rule, file.size, file.mime_type)
        if isinstance(file, PendingUpload):
            raise StillArriving(file.upload_id)
        return file

    return structure


def _instead(value: Any) -> str:
    if not isinstance(value, dict):
        return f", not {shown(value)}"
    if "upload_id" not in value:
        return "; upload_id is missing"
    return "; upload_id is a string, and there is nothing beside it"


def _values_hook(tp: Any) -> Hook:
    values = {json_key(wire_value(value)): value for value in literal_values(tp)}
    words = [plainly(wire_value(value)) for value in literal_values(tp)]
    wanted = f"one of {listed(words)}" if len(words) > 1 else words[0]

    def structure(value: Any, _: Any) -> Any:
        try:
            return values[json_key(value)]
        except (KeyError, TypeError):  # A list has no hash.
            raise Misfit(f"must be {wanted}, not {shown(value)}") from None

    return structure


def _structure_int(value: Any, _: Any) -> int:
    if value.__class__ is float:
        if not value.is_integer():
            raise Misfit(f"must be an integer, not {_shown_float(value)}")
        value = int(value)
    elif value.__class__ is not int:
        raise Misfit(f"must be an integer, not {shown(value)}")
    if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
        raise Misfit("must be between -2^53 and 2^53")
    return value


def _structure_float(value: Any, _: Any) -> float:
    if value.__class__ is int:
        if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            raise Misfit("must not be an integer beyond ±2^53")
        return float(value)
    if value.__class__ is not float:
        raise Misfit(f"must be a number, not {shown(value)}")
    if not math.isfinite(value):
        raise Misfit(f"must be a finite number, not {_shown_float(value)}")
    return value


def _structure_str(value: Any, _: Any) -> str:
    if value.__class__ is not str:
        raise Misfit(f"must be a string, not {shown(value)}")
    return value


def _structure_bool(value: Any, _: Any) -> bool:
    if value.__class__ is not bool:
        raise Misfit(f"must be true or false, not {shown(value)}")
    return value


def _structure_none(value: Any, _: Any) -> None:
    if value is not None:
        raise Misfit(f"must be null, not {shown(value)}")


def _structure_any(value: Any, _: Any) -> Any:
    # Without recursion: JSON may be nested deeper than Python's stack.
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if each.__class__ is dict:
            waiting.extend(each.values())
        elif each.__class__ is list:
            waiting.extend(each)
        elif each.__class__ is float:
            if not math.isfinite(each):
                raise Misfit(f"must hold finite numbers, not {_shown_float(each)}")
        elif each.__class__ is int:
            if not -MAX_SAFE_INTEGER <= each <= MAX_SAFE_INTEGER:
                raise Misfit("must hold no integer beyond ±2^53")
        elif each.__class__ not in _ALL_JSON:
            raise Misfit(f"must be JSON, not {shown(each)}")
    return value


_SIMPLE: Final[dict[Any, Hook]] = {
    int: _structure_int,
    float: _structure_float,
    str: _structure_str,
    bool: _structure_bool,
    NoneType: _structure_none,
    Any: _structure_any,
}


def _shown_float(value: float) -> str:
    return _NOT_FINITE.get(str(value)) or repr(value)


_NOT_FINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _only_pending(error: BaseException) -> bool:
    if isinstance(error, BaseValidationError):
        return all(map(_only_pending, error.exceptions))
    return isinstance(error, StillArriving)


def _exact_first(hooks: list[tuple[Any, Hook]], kind: type) -> list[tuple[Any, Hook]]:
    # So that 1.0 stays a float in `int | float`; otherwise the order is the author's.
    return sorted(hooks, key=lambda pair: pair[0] is not kind) if kind in _NUMBERS else hooks


def _json_types(tp: Any) -> frozenset[type]:
    """Python's types of the JSON values that may fit."""
    if tp is Any:
        return _ALL_JSON
    if is_union(tp):
        return frozenset().union(*map(_json_types, typing.get_args(tp)))
    if is_literal(tp) or is_enum(tp):
        return frozenset().union(*(_with_numbers(type(wire_value(value))) for value in literal_values(tp)))
    if is_list(tp) or is_tuple(tp):
        return frozenset((list,))
    return _with_numbers(tp) if tp in _ALL_JSON else frozenset((dict,))


def _with_numbers(kind: type) -> frozenset[type]:
    for each in (bool, int, float, str):
        if issubclass(kind, each):
            return _NUMBERS if each in _NUMBERS else frozenset((each,))
    return frozenset((kind,))


def _describe(tp: Any) -> str:
    """What a member of a union is called in an error."""
    if is_literal(tp) or is_enum(tp):
        return listed([plainly(wire_value(value)) for value in literal_values(tp)])
    if is_list(tp) or is_tuple(tp):
        return "a list"
    if upload_rule(tp) is not None:
        return 'an upload ({"upload_id": "..."})'
    if is_record(tp):
        return f"an object that is a {tp.__name__}"
    return _DESCRIBED.get(tp, "an object")


_DESCRIBED: Final[dict[Any, str]] = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    NoneType: "null",
    Any: "anything",
}
