"""JSON -> the values that a handler gets. Strict: what does not fit is refused, never converted.

One walk makes the values and collects all faults (`hooks`); it looks at each value once, or where several
members of a union are tried (`unions`) once for each of them, so its price grows with the payload and with
nothing else. Nothing here is async, and every call stands for itself: any thread may make it.
"""

from __future__ import annotations

import itertools
import typing
from typing import TYPE_CHECKING, Any

import attrs

from reactor_trio.contract.constraints import compile_checks, conform, ruled_type
from reactor_trio.contract.faults import INVALID_PAYLOAD, MAX_FAULTS, Faults, Misfit, walk
from reactor_trio.contract.hooks import (
    SIMPLE,
    Record,
    checked,
    dict_hook,
    list_hook,
    record_hook,
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
from reactor_trio.contract.unions import union_hook
from reactor_trio.contract.uploads import Context, PendingUploads, upload_hook
from reactor_trio.errors import FieldError, InvalidPayload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reactor_trio.contract.hooks import Hook
    from reactor_trio.contract.uploads import Files


class Structurer:
    """Makes instances of one payload class."""

    def __init__(self, event: str, payload_class: type) -> None:
        self._event = event
        self._hook = _Hooks(payload_class).hook(payload_class)
        self.has_uploads = has_uploads(payload_class)

    def structure(self, data: Mapping[str, Any], files: Files) -> Any:
        """Raises `InvalidPayload` with all faults, or `PendingUploads`."""
        try:
            return self._hook(data, Context(files))
        except RecursionError:
            error: Exception = Misfit("is nested too deeply")
        except Exception as exc:
            error = exc
        raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> InvalidPayload | PendingUploads:
        faults = list(itertools.islice(walk(error), MAX_FAULTS))
        wrong = [fault for fault in faults if fault.pending is None]
        if not wrong:
            return PendingUploads(tuple(dict.fromkeys(fault.pending for fault in faults if fault.pending)))
        known, is_partial = (error.count, error.is_partial) if isinstance(error, Faults) else (1, False)
        codes = {fault.code for fault in wrong}
        return InvalidPayload(
            [FieldError(fault.path, fault.message) for fault in wrong],
            code=codes.pop() if len(codes) == 1 else INVALID_PAYLOAD,
            more=known - len(faults),
            is_partial=is_partial,
            event=self._event,
        )


class _Hooks:
    """Builds a hook for each type, and keeps those of classes, which may contain themselves."""

    def __init__(self, payload_class: type) -> None:
        self._payload_class = payload_class
        self._records: dict[type, Hook] = {}

    def hook(self, tp: Any) -> Hook:
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
            return self._record(tp)
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
            return lambda value, context: tuple(items(value, context))
        return tuple_hook([self.hook(kind) for kind in kinds])

    def _union(self, members: tuple[Any, ...]) -> Hook:
        if len(members) == 2 and NoneType in members:
            # The usual case; what is wrong is then said of the type alone.
            inner = self.hook(next(member for member in members if member is not NoneType))
            return lambda value, context: None if value is None else inner(value, context)
        return union_hook([(member, self.hook(member)) for member in members])

    def _record(self, cls: type) -> Hook:
        if cls not in self._records:
            # Found by the fields of a class that contains itself, while its own hook is being made.
            self._records[cls] = lambda value, context: self._records[cls](value, context)
            self._records[cls] = self._make_record(cls)
        return self._records[cls]

    def _make_record(self, cls: type) -> Hook:
        fields = record_fields(cls)
        record = Record(
            cls,
            owner="this event" if cls is self._payload_class else cls.__name__,
            fields={field.name: (_argument(field), self._field(field)) for field in fields},
            required=frozenset(field.name for field in fields if field.default is attrs.NOTHING),
            presets={
                _argument(field): conform(field.type, field.default) for field in fields if field.has_preset
            },
        )
        return record_hook(record)

    def _field(self, field: RecordField) -> Hook:
        info = field.info
        if info is None:
            return self.hook(field.type)
        return checked(self.hook(ruled_type(field.type, info)), compile_checks(info, field.type))


def _argument(field: RecordField) -> str:
    """What the constructor calls it."""
    return field.attribute.alias or field.name
