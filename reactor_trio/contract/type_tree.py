"""The types of fields as trees: each annotation is parsed once, and everything else reads its tree.

`contract/type_parser.py` makes a tree, and refuses a type that a field cannot have. Structuring
(`structure.py`, `unions.py`), the checks of defaults and choices (`constraints.py`), and the schema
(`schema.py`) walk over it, and take the words of their errors from it. A name of a type (`NewType`, `type X =
...`) has no node of its own, and the `InputField` of an `Annotated` is the node's `rules`, wherever in a type
it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from reactor_trio.declare.fields import MISSING, InputFieldInfo
from reactor_trio.declare.hints import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@attrs.frozen(eq=False)
class Rules:
    """The arguments of an `InputField`, and the checks made of them."""

    info: InputFieldInfo
    checks: tuple[Callable[[Any], None], ...] = ()
    """Each raises `Misfit` if a value, which has the node's type and is not None, breaks a rule."""


@attrs.frozen(eq=False, kw_only=True)
class Node:
    """A type, or a part of one."""

    type: Any
    """The type for Python, without names and rules."""
    rules: Rules | None = None

    @property
    def name(self) -> str:
        """The type as an author writes it."""
        return name_of(self.type)


@attrs.frozen(eq=False, kw_only=True)
class Anything(Node):
    """`Any`: every JSON value."""


@attrs.frozen(eq=False, kw_only=True)
class Scalar(Node):
    """`int`, `float`, `str`, `bool` or None; in a message also times, a UUID, and numpy's scalars."""


@attrs.frozen(eq=False, kw_only=True)
class Values(Node):
    """A `Literal` or an `Enum`."""

    values: tuple[Any, ...]
    """In order; those of an `Enum` are its members."""
    is_enum: bool


@attrs.frozen(eq=False, kw_only=True)
class Union(Node):
    """`A | B`, `Union[A, B]` or `Optional[A]`."""

    members: tuple[Node, ...]


@attrs.frozen(eq=False, kw_only=True)
class List(Node):
    """`list` or `list[T]`."""

    item: Node


@attrs.frozen(eq=False, kw_only=True)
class OpenTuple(Node):
    """A tuple of any length: `tuple` or `tuple[T, ...]`."""

    item: Node


@attrs.frozen(eq=False, kw_only=True)
class FixedTuple(Node):
    """A tuple of fixed length: `tuple[A, B]`."""

    items: tuple[Node, ...]


@attrs.frozen(eq=False, kw_only=True)
class Dict(Node):
    """`dict` or `dict[str, V]`."""

    value: Node


@attrs.frozen
class UploadRule:
    """`max_size` (bytes) and `mime_types` (in lower case) of the `InputField` of an upload."""

    max_size: int | None = None
    mime_types: tuple[str, ...] = ()


@attrs.frozen(eq=False, kw_only=True)
class Upload(Node):
    """An `UploadedFile`."""

    rule: UploadRule = UploadRule()


@attrs.frozen(eq=False, kw_only=True)
class Field:
    """A field of a record."""

    name: str
    node: Node
    attribute: attrs.Attribute[Any]
    default: Any
    """The value of a field that the payload leaves out: a value, an `attrs.Factory`, or `attrs.NOTHING`."""
    preset: Any = MISSING
    """The default that is given to the class where an `InputField` stands in the place of a default: the
    class would take the `InputField` for it."""

    @property
    def description(self) -> str | None:
        """For the client: the text of the `InputField`, or of the attribute's metadata."""
        rules = self.node.rules
        return self.attribute.metadata.get("description") if rules is None else rules.info.description

    @property
    def class_default(self) -> Any:
        """The default that the class itself knows, or `attrs.NOTHING`."""
        default = self.attribute.default
        return attrs.NOTHING if isinstance(default, InputFieldInfo) else default


@attrs.frozen(eq=False, kw_only=True)
class Record(Node):
    """An attrs class or a dataclass. It may contain itself, so a tree may have circles."""

    known: Mapping[Any, tuple[Field, ...]] = attrs.field(repr=False)
    """The fields of all records of a tree. A record may be made before its fields are."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields that a client sends, or a message shows. They are complete once the parser has
        returned."""
        return self.known[self.type]


def described(node: Node, info: InputFieldInfo) -> Node:
    """The node with the arguments of an `InputField`, but without checks."""
    return attrs.evolve(node, rules=Rules(info))


def is_null(node: Node) -> bool:
    """Whether it is the type of None."""
    return isinstance(node, Scalar) and node.type is type(None)


def optional_of(union: Union) -> Node | None:
    """`T` of `T | None`; None for every other union."""
    others = [member for member in union.members if not is_null(member)]
    return others[0] if len(others) == 1 and len(union.members) == 2 else None


def members_of(node: Node) -> tuple[Node, ...]:
    """The members of a union; every other node alone."""
    return node.members if isinstance(node, Union) else (node,)


def parts_of(node: Node) -> tuple[Node, ...]:
    """The nodes that a node is made of, one level down."""
    match node:
        case Union(members=parts) | FixedTuple(items=parts):
            return parts
        case List(item=part) | OpenTuple(item=part) | Dict(value=part):
            return (part,)
        case Record():
            return tuple(field.node for field in node.fields)
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """The node and all nodes below it. A record that occurs several times is entered once."""
    seen: set[type] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Record):
            if node.type in seen:
                continue
            seen.add(node.type)
        yield node
        waiting.extend(parts_of(node))
