"""Unions: which of its members a value is.

The kind of the JSON value says it for most. Of several classes the one is chosen whose `Literal` and `Enum`
fields and whose keys are those of the object, before a single field is looked into. Only if there are still
several are they tried, in the author's order, and what came of a try is kept: a class that contains itself
would else be tried again for each level above it, twice as often with each.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

import attrs

from reactor_trio.contract.faults import Findings, Misfit, listed, plainly, shown, summary
from reactor_trio.contract.hooks import ALL_JSON, describe, exact_first, json_types
from reactor_trio.contract.types import (
    NoneType,
    RecordField,
    is_enum,
    is_literal,
    is_record,
    is_union,
    json_key,
    literal_values,
    record_fields,
    upload_rule,
    wire_value,
)
from reactor_trio.contract.upload_fields import CONTEXT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reactor_trio.contract.hooks import Hook


@attrs.frozen
class Outline:
    """What a class asks of an object before its values are looked into. Cheap, and never wrong to refuse."""

    names: frozenset[str]
    required: frozenset[str]
    tags: Mapping[str, tuple[Any, ...]]
    """By field: the JSON values that it may have, where these are a few."""
    kinds: Mapping[str, frozenset[type]]
    """By field: the kinds of JSON values that it may have."""

    def fits(self, value: dict[str, Any]) -> bool:
        """Whether an object may be of this class."""
        if not self.required <= value.keys() <= self.names:
            return False
        kinds, tags = self.kinds, self.tags
        for name, each in value.items():
            if each.__class__ not in kinds[name]:
                return False
            if name in tags and not _is_among(each, tags[name]):
                return False
        return True

    def likeness(self, value: dict[str, Any]) -> tuple[int, int, int]:
        """How much an object that fits no class looks like one of this; the first number counts most."""
        present = [(value[name], allowed) for name, allowed in self.tags.items() if name in value]
        right = sum(_is_among(each, allowed) for each, allowed in present)
        common = len(self.names & value.keys())
        return 2 * right - len(present), common, -len(self.required - value.keys())


@attrs.frozen(eq=False)
class Member:
    """One member of a union. `key` is the same for the same class in all unions of a payload."""

    hook: Hook
    key: int
    outline: Outline | None
    """None: it takes any keys."""

    def may_be(self, value: dict[str, Any]) -> bool:
        """Whether an object may be this, by its keys and tags."""
        return self.outline is None or self.outline.fits(value)


def union_hook(hooks: Sequence[tuple[Any, Hook]]) -> Hook:
    """The hook of a union, given its members in the author's order, each with its own hook."""
    *firsts, last = [describe(tp) for tp, _ in hooks]
    described = f"{', '.join(firsts)} or {last}"
    by_kind = {kind: _kind_hook(kind, hooks, described) for kind in ALL_JSON}

    def structure(value: Any, _: Any) -> Any:
        hook = by_kind.get(value.__class__)
        if hook is None:
            raise Misfit(f"must be {described}, not {shown(value)}")
        return hook(value, None)

    return structure


def needs_trying(members: Sequence[Any]) -> bool:
    """Whether it may take a try to find out which member of a union an object or a list is."""
    return any(sum(kind in json_types(tp) for tp in members) > 1 for kind in (dict, list))


def _kind_hook(kind: type, hooks: Sequence[tuple[Any, Hook]], described: str) -> Hook | None:
    fitting = [(tp, hook) for tp, hook in exact_first(list(hooks), kind) if kind in json_types(tp)]
    if len(fitting) < 2:
        return fitting[0][1] if fitting else None
    if kind is dict:
        return _object_hook([_member(tp, hook) for tp, hook in fitting], described)
    if kind is list:
        return _array_hook([_member(tp, hook) for tp, hook in fitting])
    return _scalar_hook([hook for _, hook in fitting], described)


def _member(tp: Any, hook: Hook) -> Member:
    return Member(hook, id(tp) if is_record(tp) else id(hook), _outline(tp))


def _outline(tp: Any) -> Outline | None:
    if upload_rule(tp) is not None:
        only = frozenset(("upload_id",))
        return Outline(only, only, {}, {"upload_id": frozenset((str,))})
    if not is_record(tp):
        return None
    fields = record_fields(tp)
    tags = {field.name: _tag_values(field) for field in fields}
    return Outline(
        names=frozenset(field.name for field in fields),
        required=frozenset(field.name for field in fields if field.default is attrs.NOTHING),
        tags={name: allowed for name, allowed in tags.items() if allowed is not None},
        kinds={field.name: json_types(field.type) for field in fields},
    )


def _tag_values(field: RecordField) -> tuple[Any, ...] | None:
    """The JSON values of a field that has but a few; None for every other."""
    parts = typing.get_args(field.type) if is_union(field.type) else (field.type,)
    if all(is_literal(part) or is_enum(part) or part is NoneType for part in parts):
        several = [(None,) if part is NoneType else literal_values(part) for part in parts]
        return tuple(wire_value(value) for values in several for value in values)
    if field.info is not None and field.info.choices is not None:
        nullable = (None,) if NoneType in parts else ()
        return (*(wire_value(choice) for choice in field.info.choices), *nullable)
    return None


def _is_among(value: Any, allowed: tuple[Any, ...]) -> bool:
    if value.__class__ in (list, dict):
        return False
    key = json_key(value)
    return any(key == json_key(each) for each in allowed)


def _scalar_hook(hooks: Sequence[Hook], described: str) -> Hook:
    def structure(value: Any, _: Any) -> Any:
        for hook in hooks:
            try:
                return hook(value, None)
            except Misfit:
                continue
        raise Misfit(f"must be {described}, not {shown(value)}")

    return structure


def _array_hook(members: Sequence[Member]) -> Hook:
    def structure(value: Any, _: Any) -> Any:
        fits, result = _try_each(value, members)
        if fits:
            return result
        # The first one among those in which the least is wrong; a wrong length is wrong of all items.
        raise min(
            result, key=lambda error: len(value) + 1 if isinstance(error, Misfit) else summary(error).count
        )

    return structure


@attrs.frozen
class Tag:
    """A field that all classes of a union have, with a few values in each: it says which one an object is."""

    name: str
    by_value: Mapping[tuple[str, Any], Sequence[Member]]
    others: Sequence[Member]
    """Members that take any keys."""
    words: Sequence[str]
    """All values, for an error's text."""

    def members(self, value: dict[str, Any], members: Sequence[Member]) -> Sequence[Member]:
        """Those of the members that an object may be. Raises what says so if its tag is not one of theirs."""
        if self.name not in value:
            return members
        given = value[self.name]
        chosen = self.others
        if given.__class__ not in (list, dict):
            chosen = self.by_value.get(json_key(given), chosen)
        if chosen:
            return chosen
        found = Findings()
        found.add(self.name, Misfit(f"must be one of {listed(list(self.words))}, not {shown(given)}"))
        raise found.error(is_partial=False)


def _object_hook(members: Sequence[Member], described: str) -> Hook:
    tag = _common_tag(members)

    def structure(value: Any, _: Any) -> Any:
        candidates = members if tag is None else tag.members(value, members)
        if len(candidates) > 1:
            likely = [member for member in candidates if member.may_be(value)]
            candidates = likely or [_closest(value, candidates, described)]
        if len(candidates) == 1:
            return candidates[0].hook(value, None)
        fits, result = _try_each(value, candidates)
        if fits:
            return result
        # The first one of those that are most alike; for all of them the keys are right.
        best = max(range(len(candidates)), key=lambda index: _likeness(candidates[index], value))
        raise result[best]

    return structure


def _common_tag(members: Sequence[Member]) -> Tag | None:
    classes = [(member, member.outline) for member in members if member.outline is not None]
    tags = [outline.tags for _, outline in classes]
    name = next((name for name in tags[0] if all(name in each for each in tags)), None) if tags else None
    if name is None:
        return None
    values = {json_key(value): value for each in tags for value in each[name]}
    by_value = {
        key: [
            member
            for member in members
            if member.outline is None or _is_among(value, member.outline.tags[name])
        ]
        for key, value in values.items()
    }
    others = [member for member in members if member.outline is None]
    return Tag(name, by_value, others, [plainly(value) for value in values.values()])


def _closest(value: dict[str, Any], members: Sequence[Member], described: str) -> Member:
    """The member that is most like an object that fits none. Raises `Misfit` if none has a key of it."""
    best = max(members, key=lambda member: _likeness(member, value))
    if not _likeness(best, value)[1]:
        raise Misfit(f"must be {described}, not {shown(value)}")
    return best


def _likeness(member: Member, value: dict[str, Any]) -> tuple[int, int, int]:
    return (0, 0, 0) if member.outline is None else member.outline.likeness(value)


def _try_each(value: Any, members: Sequence[Member]) -> tuple[bool, Any]:
    """Whether a member fits, and what the first one that does makes of it; else all errors.

    Raises what says that only uploads are missing, if that is so for one and no other fits.
    """
    context, errors = CONTEXT.get(), []
    is_outermost, context.is_trying = not context.is_trying, True
    try:
        for member in members:
            # Nobody comes here again but by trying what is around it.
            fits, result = _try(value, member) if is_outermost else _try_once(value, member, context.tried)
            if fits:
                return True, result
            errors.append(result)
    finally:
        if is_outermost:
            context.is_trying = False
            context.tried.clear()
    for each in errors:
        if summary(each).only_pending:
            raise each
    return False, errors


def _try_once(value: Any, member: Member, tried: dict[tuple[int, int], tuple[bool, Any]]) -> tuple[bool, Any]:
    key = id(value), member.key
    known = tried.get(key)
    if known is None:
        known = tried[key] = _try(value, member)
    return known


def _try(value: Any, member: Member) -> tuple[bool, Any]:
    try:
        return True, member.hook(value, None)
    except Exception as error:
        summary(error)  # which leaves no frames in it: they would be kept for as long as what was tried
        return False, error.with_traceback(None)
