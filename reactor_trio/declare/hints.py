"""Annotations -> types, also where `from __future__ import annotations` made strings of them.

A model made inside a function, as in a test, names classes that no module knows. A name is looked up, in this
order, in the class body, in the closure of the method, in the module, and last in the local variables of the
running functions around the class statement.
"""

from __future__ import annotations

import functools
import inspect
import operator
import re
import sys
import types
import typing
from collections import ChainMap
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from reactor_trio.declare.fields import InputFieldInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableMapping

_REFERENCE: Final = re.compile(r"ForwardRef\('([^']+)'(?:, [^()]*)?\)")
"""A `ForwardRef` in the representation of a type: its text, and the notes of Python behind it."""

_CLASS_HINTS: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()


class Unresolved(Exception):
    """An annotation of `field` names something that is not there, or not there yet."""

    def __init__(self, field: str, annotation: object, reason: str) -> None:
        super().__init__(field, annotation, reason)
        self.field = field
        self.annotation = annotation
        self.cause = reason

    @property
    def reason(self) -> str:
        """A sentence for the author."""
        return f"the annotation {_written(self.annotation)!r} cannot be resolved: {self.cause}"


# The two functions below are the only ones that ask Python for annotations. From Python 3.14 on (PEP 649)
# annotations are computed on demand, so `vars(cls)` has none of them, and an annotation that names something
# that is not there yet is a `ForwardRef`, as it is a string under `from __future__ import annotations`.


def own_annotations(cls: type) -> dict[str, Any]:
    """The annotations in the body of a class, as they stand there, without those of its bases."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(cls)


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """The parameters of a function, with the annotations as they stand there."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def names_class(annotation: object, name: str) -> bool:
    """Whether an annotation that cannot be resolved is the name of a class, alone or behind its module's."""
    written = _written(annotation)
    return isinstance(written, str) and written.strip("'\" ").rpartition(".")[2] == name


def class_hints(cls: type) -> dict[str, Any]:
    """Field name -> type, for the annotations of a class and its bases. Raises `Unresolved`.

    The result is kept: a local class that is in sight while `cls` is made may be out of sight later.
    """
    known = _CLASS_HINTS.get(cls)
    if known is not None:
        return known
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        module = sys.modules.get(base.__module__)
        for field, annotation in own_annotations(base).items():
            hints[field] = _resolve(field, annotation, vars(module) if module else {}, base, {})
    _CLASS_HINTS[cls] = hints
    return hints


def attribute_hint(owner: type, field: str) -> Any:
    """The type of one annotation in the body of `owner`. Raises `Unresolved`."""
    module = sys.modules.get(owner.__module__)
    annotation = own_annotations(owner)[field]
    return _resolve(field, annotation, vars(module) if module else {}, owner, {})


def parameter_hint(field: str, annotation: object, function: Callable[..., Any], owner: type) -> Any:
    """The type of one parameter (or of `return`) of a method that `owner` defines. Raises `Unresolved`."""
    inner = inspect.unwrap(function)
    return _resolve(field, annotation, getattr(inner, "__globals__", {}), owner, closure(inner))


def closure(function: Callable[..., Any]) -> dict[str, Any]:
    """The names that a function takes from the functions around it, with their values.

    A name without a value yet is left out.
    """
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    found = {}
    for name, cell in zip(names, cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # Not assigned yet.
            continue
    return found


def is_class_var(annotation: object) -> bool:
    """Whether it is a `ClassVar`, resolved or still a string."""
    written = _written(annotation)
    if isinstance(written, str):
        return names_class(written.partition("[")[0], "ClassVar")
    return annotation is typing.ClassVar or typing.get_origin(annotation) is typing.ClassVar


def _resolve(
    field: str, annotation: object, module: Mapping[str, Any], owner: type, local: Mapping[str, Any]
) -> Any:
    if isinstance(annotation, type) or annotation is Any or is_class_var(annotation):
        return annotation
    bearer = SimpleNamespace(__annotations__={field: annotation})
    names: MutableMapping[str, Any] = ChainMap(
        _class_body(owner), dict(local), {owner.__name__: owner}, dict(module)
    )
    for scope in (names, ChainMap(*names.maps, *_enclosing_locals(owner))):  # type: ignore[attr-defined]
        try:
            hints = typing.get_type_hints(bearer, dict(module), scope, include_extras=True)
        except NameError as exc:
            reason = str(exc)
            continue
        except Exception as exc:  # Any expression may stand there, and fail in any way.
            raise Unresolved(field, annotation, f"{type(exc).__name__}: {exc}") from exc
        try:
            return plain_type(hints[field])
        except NameError as exc:
            reason = str(exc)
        except RecursionError as exc:
            raise Unresolved(field, annotation, "it is an alias that contains itself") from exc
    raise Unresolved(field, annotation, reason)


def plain_type(tp: Any) -> Any:
    """The type without names: `NewType`s and aliases (`type X = ...`) are replaced, wherever they stand.

    Notes in `Annotated` are dropped, except an `InputField`, which belongs to the field (`declared`). Raises
    the error that the value of an alias raises, and `RecursionError` for an alias that contains itself.
    """
    if isinstance(tp, typing.NewType):
        return plain_type(tp.__supertype__)
    origin, arguments = typing.get_origin(tp), typing.get_args(tp)
    if origin is None and _is_alias(tp):
        return plain_type(tp.__value__)
    if origin is None or origin is typing.Literal:
        return tp
    if origin is typing.Annotated:
        rules = tuple(each for each in tp.__metadata__ if isinstance(each, InputFieldInfo))
        inner = plain_type(tp.__origin__)
        return typing.Annotated[inner, *rules] if rules else inner
    if _is_alias(origin):
        return plain_type(origin.__value__[arguments])
    inner = tuple(map(plain_type, arguments))
    is_union = origin in (typing.Union, types.UnionType)
    found = [rule for rule in map(_rules, inner) if rule is not None] if is_union else []
    if len(found) == 1 and len(inner) == 2 and types.NoneType in inner:
        # `Annotated[int, InputField(ge=0)] | None`: the rules become those of the union; null skips them.
        bare = functools.reduce(operator.or_, [declared(each)[0] for each in inner])
        return typing.Annotated[bare, found[0]]
    if all(now is before for now, before in zip(inner, arguments, strict=True)):
        return tp
    return functools.reduce(operator.or_, inner) if is_union else origin[inner]


def _rules(tp: Any) -> InputFieldInfo | None:
    return declared(tp)[1]


def _is_alias(tp: Any) -> bool:
    """Whether it is an alias: made by `type X = ...`, or by `TypeAliasType` of `typing_extensions`."""
    return type(tp).__name__ == "TypeAliasType"


def declared(tp: Any) -> tuple[Any, InputFieldInfo | None]:
    """The type and the `InputField` of `Annotated[type, InputField(...)]`; of several, the last."""
    if typing.get_origin(tp) is typing.Annotated and isinstance(tp.__metadata__[-1], InputFieldInfo):
        return tp.__origin__, tp.__metadata__[-1]
    return tp, None


def name_of(tp: Any) -> str:
    """The type as an author writes it, or the text of an annotation that was not evaluated."""
    if isinstance(tp, str | typing.ForwardRef):
        return str(_written(tp))
    if isinstance(tp, type) and not typing.get_args(tp):
        return tp.__qualname__
    return str(tp).replace("typing.", "")


def _written(annotation: object) -> object:
    """The text of an annotation that was not evaluated, in whole or in part; every other one as it is."""
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    if isinstance(annotation, str | type):
        return annotation
    shown = repr(annotation)
    text = _REFERENCE.sub(r"\1", shown)
    return annotation if text == shown else text


def _class_body(owner: type) -> dict[str, Any]:
    # Without its methods: an event called `list` must not hide the `list` of `list[int]`.
    return {name: value for name, value in vars(owner).items() if not inspect.isroutine(value)}


def _enclosing_locals(owner: type) -> Iterator[dict[str, Any]]:
    parts = owner.__qualname__.split(".")
    around = {".".join(parts[:count]) for count in range(1, len(parts))}
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_qualname in around and frame.f_globals.get("__name__") == owner.__module__:
            yield dict(frame.f_locals)
        frame = frame.f_back
