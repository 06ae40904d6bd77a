"""The model that `benchmarks/payloads.py` serves: fields of the kinds that cost the most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from command_model import Echo

from reactor_trio import InputField, event


@dataclass
class Box:
    x: float = InputField(ge=0, le=1)
    y: float = InputField(ge=0, le=1)
    label: str = ""


@dataclass
class Circle:
    kind: Literal["circle"]
    r: float


@dataclass
class Rect:
    kind: Literal["rect"]
    w: float


@dataclass
class One:
    size: int
    name: str = ""


@dataclass
class Two:
    size: float
    name: str = ""


@dataclass
class Tree:
    v: int | Tree | Other | None = None


@dataclass
class Other:
    v: Tree | Other | int | None = None


class Payloads(Echo):
    """Takes them all, and does nothing."""

    @event
    def integers(self, x: list[int]) -> None: ...

    @event
    def lists(self, x: list[list[int]]) -> None: ...

    @event
    def strings(self, x: dict[str, str]) -> None: ...

    @event
    def rows(self, x: list[Box]) -> None: ...

    @event
    def shapes(self, x: list[Circle | Rect]) -> None: ...

    @event
    def alike(self, x: list[One | Two]) -> None: ...

    @event
    def trees(self, x: list[Tree | Other]) -> None: ...

    @event
    def anything(self, x: Any) -> None: ...

    @event
    def named(self, x: str = InputField(pattern=r"^([a-z0-9]+\.?)+@x$")) -> None: ...
