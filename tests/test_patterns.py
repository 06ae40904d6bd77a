"""`InputField(pattern=...)`: the meaning of patterns, and refused patterns; no pattern stalls a server."""

from __future__ import annotations

import re
import string
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio.contract.events import read_declarations
from reactor_trio.contract.patterns import compile_pattern
from reactor_trio.declare.decorators import event
from reactor_trio.declare.fields import InputField
from reactor_trio.errors import InvalidPayload


def model_with(pattern: Any) -> type:
    def rename(self: Any, name: str = InputField(pattern=pattern)) -> None: ...

    rename.__qualname__ = "Model.rename"
    return type("Model", (), {"rename": event(rename)})


def refusal(pattern: Any) -> str:
    with pytest.raises(TypeError) as caught:
        read_declarations(model_with(pattern))
    text = str(caught.value)
    assert text.startswith("Model.rename, parameter 'name': ")
    return text.removeprefix("Model.rename, parameter 'name': ")


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("b+", ["abc", "b"], ["ac", ""]),
        ("^b+$", ["b"], ["abc", "b\n"]),
        (r"^\d{2,3}$", ["12", "123"], ["1", "1234", "\u0661\u0662"]),  # ASCII's digits, as in JSON Schema
        (r"^\w+$", ["a_1"], ["\u00e9", "a b"]),
        (r"^\p{L}+$", ["\u00e9\u00df\u4e2d"], ["a1"]),
        (r"^[\u4e00-\u9fff]+$", ["\u4e2d"], ["a", "\\u4e2d"]),
        (r"^\U0001f600\Z", ["\U0001f600"], ["\U0001f600\n"]),
        (r"^\\u0041$", ["\\u0041"], ["A"]),
        ("^a{,2}$", ["", "aa"], ["aaa"]),
        ("^[{,2}]+$", ["{,2}"], ["a"]),
        ("^.$", ["\u4e2d", "\U0001f600"], ["\n", "ab"]),
        ("(?i)^red$", ["RED"], ["blue"]),
        ("(?P<hue>red|blue)", ["a red one"], ["green"]),
    ],
)
def test_what_a_pattern_means(pattern: str, good: list[str], bad: list[str]) -> None:
    structure = read_declarations(model_with(pattern)).events["rename"].structure
    for text in good:
        assert structure({"name": text}, {}).name == text
    for text in bad:
        with pytest.raises(InvalidPayload, match="must match the pattern"):
            structure({"name": text}, {})


ATOMS = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", "^", "$", r"\d", r"\.", "", "x"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{,2}", "{1,2}", "*?"])).map(
            lambda two: f"(?:{two[0]}){two[1]}"
        ),
    ),
    max_leaves=6,
)


@given(PATTERNS, st.text("abx1. \u00e9", max_size=8))
def test_a_pattern_finds_what_pythons_own_engine_finds(pattern: str, text: str) -> None:
    assert compile_pattern(pattern)(text) == (re.search(pattern, text) is not None)


@pytest.mark.parametrize(
    "pattern",
    [r"(a)\1", "(?=a)b", "a(?!b)", "(?<=a)b", "(?<!a)b", "(?P<n>a)(?P=n)", "(?>a+)b", "a++b", "(?x) a"],
)
def test_what_needs_backtracking_is_refused_when_the_class_is_made(
    pattern: str, capfd: pytest.CaptureFixture[str]
) -> None:
    text = refusal(pattern)
    assert text.startswith(f"the pattern {pattern!r} cannot be searched in linear time (")
    assert "check the value in the handler and raise CommandError" in text
    assert capfd.readouterr() == ("", "")  # by default the engine writes errors to standard error


@pytest.mark.parametrize("pattern", ["a{1,5000}", r"(?:\p{L}{1,100}){1,10}"])
def test_a_pattern_has_a_bounded_size(pattern: str) -> None:
    assert "is too large for a search in linear time" in refusal(pattern)
    assert "max_length" in refusal(pattern)


@pytest.mark.parametrize("pattern", ["(", "[a", "a**", "(?P<>a)", "\ud800"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    assert refusal(pattern).startswith(f"the pattern {pattern!r} ")


@pytest.mark.parametrize("pattern", [b"a", 5, re.compile("a")])
def test_a_pattern_is_a_string(pattern: Any) -> None:
    assert refusal(pattern).startswith("pattern is a string, not ")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^(a+)+$", "a" * 100_000 + "!"),
        ("(x+x+)+y", "x" * 100_000),
        (r"^([a-z0-9]+\.?)+@x$", "a" * 100_000),
        (r"^([a-zA-Z0-9._%+-]+)+@([a-zA-Z0-9-]+\.)+[a-zA-Z]{2,}$", "a@" + "a." * 50_000),
        ("(a*)*(a*)*(a*)*b", "a" * 100_000),
        ("^(a|a)*$", "a" * 100_000 + "!"),
    ],
)
def test_no_text_makes_a_search_long(pattern: str, text: str) -> None:
    # Python's own engine would not end. The limit is in seconds of processor time, and far above the need.
    is_found, began = compile_pattern(pattern), time.thread_time()
    assert not is_found(text)
    assert time.thread_time() - began < 2


def test_a_text_without_an_encoding_can_be_searched() -> None:
    assert compile_pattern("^a")("a\ud800")
    assert not compile_pattern("^b")("a\ud800")
    assert compile_pattern(f"^[{re.escape(string.punctuation)}]+$")(string.punctuation)
