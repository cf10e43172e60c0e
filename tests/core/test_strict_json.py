from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_core.strict_json import MAX_DEPTH, strict_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('ab[{\\"', max_size=4), inner)
    ),
    max_leaves=10,
)


@given(values)
def test_plain_json_is_read_as_it_is(value):
    text = json.dumps(value)
    assert strict_json(text) == value
    assert strict_json(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("{'a':1}", "not JSON"),
        ("1e999", "not JSON"),
        ('{"a":-1e999}', "not JSON"),
        ("1" * 5000, "not JSON"),
        ('{"a":1,"a":2}', "a key stands twice in one object"),
        ('[{"b":{"a":1,"a":1}}]', "a key stands twice in one object"),
        ("NaN", "NaN and Infinity are not JSON"),
        ("[Infinity]", "NaN and Infinity are not JSON"),
        ("-Infinity", "NaN and Infinity are not JSON"),
        ('"\\ud800"', "not valid Unicode"),
        (b'"\xff"', "not valid Unicode"),
        ("[" * 33 + "]" * 33, "nested deeper than 32"),
        ('{"a":' * 33 + "1" + "}" * 33, "nested deeper than 32"),
        ("[" * 100_000, "nested deeper than 32"),
        ("[X" * 33, "nested deeper than 32"),
        ("X" * 33, "not JSON"),
        ("[" * 32 + "],[[", "nested deeper than 32"),
        ("[" * 32 + "],[", "not JSON"),
    ],
    ids=range(20),
)
def test_what_is_ambiguous_or_made_to_hurt_is_refused(text, reason):
    with pytest.raises(ValueError, match=f"^{reason}$") as caught:
        strict_json(text)
    assert caught.value.__suppress_context__


def test_thirty_two_levels_are_the_deepest():
    assert MAX_DEPTH == 32
    assert strict_json("[" * 32 + "]" * 32) == json.loads("[" * 32 + "]" * 32)
    assert strict_json("[" + "[]," * 99 + "{}]") is not None


@pytest.mark.parametrize(
    "text",
    [
        "[" * 33,
        "{" * 33,
        '\\"' + "[" * 33,
        "\\\\" + "[" * 33,
    ],
    ids=["lists", "objects", "after a quote", "after a backslash"],
)
def test_brackets_in_a_text_are_not_levels(text):
    quoted = json.dumps(text)
    assert strict_json(quoted) == text
    assert strict_json(f"[{quoted}, {quoted}]") == [text, text]


def test_brackets_after_a_text_that_ends_in_a_backslash_are_levels():
    with pytest.raises(ValueError, match="nested deeper"):
        strict_json('["\\\\", ' + "[" * 32)


def test_the_value_is_never_quoted():
    with pytest.raises(ValueError, match="not JSON") as caught:
        strict_json('{"secret": hunter2}')
    assert "hunter2" not in str(caught.value)
