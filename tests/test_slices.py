"""A long JSON text is parsed slice by slice, with the same result as in one piece."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor_trio.protocol import slices

# Strings full of characters that could mislead a search for commas and brackets.
confusing = st.text(st.sampled_from('",:\\[]{} ab\u00e9\u2028\U0001f600\x00'), max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | confusing,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(confusing, inner, max_size=6),
    max_leaves=25,
)
sizes = st.integers(1, 40)


def outcome(loads: Any, text: str) -> Any:
    """The parsed value as text, which shows the order of keys; or the type and text of the error."""
    try:
        return orjson.dumps(loads(text)).decode()
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


@given(values, sizes, st.sampled_from([None, 1]), st.booleans())
def test_json_is_what_orjson_says(value: Any, size: int, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert outcome(lambda text: slices.loads(text, size), text) == outcome(orjson.loads, text)


@given(values, sizes, st.data())
def test_what_is_no_json_is_refused_as_orjson_refuses_it(value: Any, size: int, data: st.DataObject) -> None:
    text = json.dumps(value)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 2))
        text = text[:at] + data.draw(st.sampled_from(["", *'",:[]{}\\1 '])) + text[at + cut :]
    assert outcome(lambda text: slices.loads(text, size), text) == outcome(orjson.loads, text)


@given(st.text(st.sampled_from('",:[]{}\\1a '), max_size=30), sizes)
def test_any_text_is_treated_as_orjson_treats_it(text: str, size: int) -> None:
    assert outcome(lambda text: slices.loads(text, size), text) == outcome(orjson.loads, text)


@pytest.mark.parametrize(
    "text",
    [
        "[" + "1," * 100_000 + "1]",
        "[" + "1," * 100_000 + "]",
        "[" + "1," * 50_000 + "," + "1," * 50_000 + "1]",
        "[" + "[]," * 100_000 + "[}]",
        "{" + ",".join(f'"{number}":[{number}]' for number in range(50_000)) + "}",
        '{"a":{"b":[' + ",".join(['{"c":"]}\\""}'] * 50_000) + "]}}",
        '{"a":1,' + " " * 100_000 + '"a":2}',
        '["' + "x," * 100_000 + '"]',
        '["' + "\\\\" * 100_000 + '","\\\\\\""]',
        "[" * 200 + "1" + "]" * 200 + " " * 40_000,
        "[" * 200_000,
        "]" * 200_000,
        '"' + "x" * 100_000,
        "\ud800" * 50_000,
        "",
    ],
)
def test_long_texts(text: str) -> None:
    assert outcome(slices.loads, text) == outcome(orjson.loads, text)


def test_what_is_nested_too_deeply_is_refused_before_it_is_parsed() -> None:
    deep = "[" * 101 + "1" + "]" * 101
    with pytest.raises(ValueError, match="depth limit"):
        slices.loads(deep, max_depth=100)
    assert slices.loads(deep[1:-1], max_depth=100)
    assert slices.loads('["' + "[" * 101 + '"]', max_depth=100) == ["[" * 101]
