"""Unions: the choice of the member that a value is structured as.

For most unions the kind of the JSON value decides. Among several classes, the keys of the object and the
values of its `Literal` and `Enum` fields decide, before any other field is looked at. If several classes are
left, they are tried in the author's order. The result of a try is kept: otherwise a class that contains
itself would be tried again for each level above it, and the number of tries would double with each level.
"""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Any, Final

import attrs

from reactor_trio.contract import type_tree as tree
from reactor_trio.contract.faults import Findings, Misfit, listed, plainly, shown, summary
from reactor_trio.contract.json_values import ALL_JSON, json_key, wire_value
from reactor_trio.contract.upload_fields import CONTEXT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reactor_trio.contract.hooks import Hook

_NUMBERS: Final[frozenset[type]] = frozenset((int, float))


@attrs.frozen
class Outline:
    """The keys and kinds of values that a class requires of an object: a cheap check before structuring.

    An object that is refused here would be refused by the class too.
    """

    names: frozenset[str]
    required: frozenset[str]
    tags: Mapping[str, tuple[Any, ...]]
    """By field: the JSON values that are allowed. Only for fields with a few of them."""
    kinds: Mapping[str, frozenset[type]]
    """By field: the kinds of JSON values that are allowed."""

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
        """How much an object that fits no class is like this class; the first number counts most."""
        present = [(value[name], allowed) for name, allowed in self.tags.items() if name in value]
        right = sum(_is_among(each, allowed) for each, allowed in present)
        common = len(self.names & value.keys())
        return 2 * right - len(present), common, -len(self.required - value.keys())


@attrs.frozen(eq=False)
class Member:
    """One member of a union. A class has the same `key` in all unions of a payload."""

    hook: Hook
    key: int
    outline: Outline | None
    """None if the member takes any keys."""

    def may_be(self, value: dict[str, Any]) -> bool:
        """Whether an object may be this member, by its keys and tags."""
        return self.outline is None or self.outline.fits(value)


def union_hook(hooks: Sequence[tuple[tree.Node, Hook]]) -> Hook:
    """The hook of a union, from its members in the author's order, each with its hook."""
    described = _in_words([node for node, _ in hooks])
    by_kind = {kind: _kind_hook(kind, hooks, described) for kind in ALL_JSON}

    def structure(value: Any, _: Any) -> Any:
        hook = by_kind.get(value.__class__)
        if hook is None:
            raise Misfit(f"must be {described}, not {shown(value)}")
        return hook(value, None)

    return structure


def needs_trying(union: tree.Union) -> bool:
    """Whether members may have to be tried, to find out which of them an object or a list is."""
    if tree.optional_of(union) is not None:
        return False
    return any(sum(kind in json_types(member) for member in union.members) > 1 for kind in (dict, list))


def json_types(node: tree.Node) -> frozenset[type]:
    """Python's types of the JSON values that may fit."""
    match node:
        case tree.Anything():
            return ALL_JSON
        case tree.Union(members=members):
            return frozenset().union(*map(json_types, members))
        case tree.Values(values=values):
            return frozenset().union(*(_with_numbers(type(wire_value(value))) for value in values))
        case tree.List() | tree.OpenTuple() | tree.FixedTuple():
            return frozenset((list,))
        case tree.Scalar(type=tp):
            return _with_numbers(tp)
    return frozenset((dict,))


def _with_numbers(kind: type) -> frozenset[type]:
    for each in (bool, int, float, str):
        if issubclass(kind, each):
            return _NUMBERS if each in _NUMBERS else frozenset((each,))
    return frozenset((kind,))


def _in_words(members: Sequence[tree.Node]) -> str:
    *firsts, last = map(_described, members)
    return f"{', '.join(firsts)} or {last}"


def _described(node: tree.Node) -> str:
    match node:
        case tree.Anything():
            return "anything"
        case tree.Scalar(type=tp):
            return _SCALARS[tp]
        case tree.Values(values=values):
            return listed([plainly(wire_value(value)) for value in values])
        case tree.List() | tree.OpenTuple() | tree.FixedTuple():
            return "a list"
        case tree.Upload():
            return 'an upload ({"upload_id": "..."})'
        case tree.Record(type=cls):
            return f"an object that is a {cls.__name__}"
        case tree.Union(members=members):
            return _in_words(members)
    return "an object"


_SCALARS: Final[dict[type, str]] = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    NoneType: "null",
}


def _kind_hook(kind: type, hooks: Sequence[tuple[tree.Node, Hook]], described: str) -> Hook | None:
    fitting = [(node, hook) for node, hook in _exact_first(hooks, kind) if kind in json_types(node)]
    if len(fitting) < 2:
        return fitting[0][1] if fitting else None
    if kind is dict:
        return _object_hook([_member(node, hook) for node, hook in fitting], described)
    if kind is list:
        return _array_hook([_member(node, hook) for node, hook in fitting])
    return _scalar_hook([hook for _, hook in fitting], described)


def _exact_first(hooks: Sequence[tuple[tree.Node, Hook]], kind: type) -> Sequence[tuple[tree.Node, Hook]]:
    # 1.0 stays a float in `int | float`; otherwise the order is the author's.
    return sorted(hooks, key=lambda pair: pair[0].type is not kind) if kind in _NUMBERS else hooks


def _member(node: tree.Node, hook: Hook) -> Member:
    return Member(hook, id(node.type) if isinstance(node, tree.Record) else id(hook), _outline(node))


def _outline(node: tree.Node) -> Outline | None:
    if isinstance(node, tree.Upload):
        only = frozenset(("upload_id",))
        return Outline(only, only, {}, {"upload_id": frozenset((str,))})
    if not isinstance(node, tree.Record):
        return None
    fields = node.fields
    tags = {field.name: _tag_values(field.node) for field in fields}
    return Outline(
        names=frozenset(field.name for field in fields),
        required=frozenset(field.name for field in fields if field.default is attrs.NOTHING),
        tags={name: allowed for name, allowed in tags.items() if allowed is not None},
        kinds={field.name: json_types(field.node) for field in fields},
    )


def _tag_values(node: tree.Node) -> tuple[Any, ...] | None:
    """The JSON values that a field may have, if there are a few; None for every other field."""
    members = tree.members_of(node)
    if all(isinstance(member, tree.Values) or tree.is_null(member) for member in members):
        several = [member.values if isinstance(member, tree.Values) else (None,) for member in members]
        return tuple(wire_value(value) for values in several for value in values)
    choices = None if node.rules is None else node.rules.info.choices
    if choices is not None:
        nullable = (None,) if any(map(tree.is_null, members)) else ()
        return (*(wire_value(choice) for choice in choices), *nullable)
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
        # The first error among those with the fewest faults. A wrong length counts as more than all items.
        raise min(
            result, key=lambda error: len(value) + 1 if isinstance(error, Misfit) else summary(error).count
        )

    return structure


@attrs.frozen
class Tag:
    """A field that all classes of a union have, with a few values in each: its value chooses the class."""

    name: str
    by_value: Mapping[tuple[str, Any], Sequence[Member]]
    others: Sequence[Member]
    """The members that take any keys."""
    words: Sequence[str]
    """All values, for the text of an error."""

    def members(self, value: dict[str, Any], members: Sequence[Member]) -> Sequence[Member]:
        """The members that an object may be, by its tag. Raises an error for a tag that no member has."""
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
        # The error of the first member among those that are most alike. The keys are right for all of them.
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
    """The member that is most like an object that fits none. Raises `Misfit` if none shares a key with it."""
    best = max(members, key=lambda member: _likeness(member, value))
    if not _likeness(best, value)[1]:
        raise Misfit(f"must be {described}, not {shown(value)}")
    return best


def _likeness(member: Member, value: dict[str, Any]) -> tuple[int, int, int]:
    return (0, 0, 0) if member.outline is None else member.outline.likeness(value)


def _try_each(value: Any, members: Sequence[Member]) -> tuple[bool, Any]:
    """True and the result of the first member that fits; or False and the errors of all members.

    If no member fits, but one of them only waits for uploads, raises the error of that one.
    """
    context, errors = CONTEXT.get(), []
    is_outermost, context.is_trying = not context.is_trying, True
    try:
        for member in members:
            # A value is tried again only by a try of a value around it: the outermost result is not kept.
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
        summary(error)  # drops the tracebacks inside, which would keep the frames alive with the result
        return False, error.with_traceback(None)
