"""Attribute values: copies, numbers, sizes."""

from __future__ import annotations

from decimal import Decimal

import pytest
from botocore.exceptions import ParamValidationError
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.aws_errors import ValidationError
from tests.simulation.drawn import ITEMS
from tests.simulation.values import (
    MAX_DEPTH,
    Item,
    Value,
    item_copy,
    item_size,
    number,
    number_value,
    value_copy,
    value_size,
)


@given(item=ITEMS)
def test_a_copy_is_equal_and_shares_nothing(item: Item):
    copy = item_copy(item)
    assert copy == item
    ids = {id(v) for v in _containers(item)}
    assert not ids & {id(v) for v in _containers(copy)}


def _containers(value: object) -> list[object]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [value] if isinstance(value, dict | list) else []
    return [*found, *(v for part in inside for v in _containers(part))]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("007", "7"),
        ("-0", "0"),
        ("1.50", "1.5"),
        ("1e3", "1000"),
        ("1E-3", "0.001"),
        ("+5", "5"),
        ("0.0", "0"),
        ("100", "100"),
        ("1" * 38, "1" * 38),
    ],
)
def test_a_number_has_one_spelling(written: str, kept: str):
    assert value_copy({"N": written}) == {"N": kept}


@pytest.mark.parametrize(
    "text", ["", "one", "1_000", "NaN", "Infinity", "1" * 39, "1e126", "1e-131"]
)
def test_what_is_no_number_of_dynamodb_s_is_refused(text: str):
    with pytest.raises(ValidationError):
        value_copy({"N": text})


@given(n=st.integers(-(10**38) + 1, 10**38 - 1))
def test_integers_come_back_as_they_were(n: int):
    assert number(number_value(n)["N"]) == n


@given(n=st.decimals(-(10**9), 10**9, places=6))
def test_decimals_come_back_as_they_were(n: Decimal):
    assert number(number_value(n)["N"]) == n


@pytest.mark.parametrize(
    "value",
    [{"S": 5}, {"N": 5}, {"S": b"x"}, {"B": "x"}, {"BOOL": 1}, {"L": {}}, {"M": []}, {"X": "x"}],
    ids=str,
)
def test_botocore_refuses_a_value_of_another_type(value: Value):
    with pytest.raises(ParamValidationError):
        value_copy(value)


@pytest.mark.parametrize("value", [{}, {"S": "a", "N": "1"}], ids=str)
def test_a_value_has_one_type(value: Value):
    with pytest.raises(ValidationError):
        value_copy(value)


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(ValidationError):
        value_copy({"S": "\ud800"})


def test_values_nest_so_deep_and_no_deeper():
    value: Value = {"S": "x"}
    for _ in range(MAX_DEPTH):
        value = {"L": [value]}
    assert value_copy(value) == value
    with pytest.raises(ValidationError):
        value_copy({"L": [value]})


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ({"S": ""}, 0),
        ({"S": "abc"}, 3),
        ({"S": "é"}, 2),
        ({"B": b"abc"}, 3),
        ({"BOOL": True}, 1),
        ({"NULL": True}, 1),
        ({"N": "0"}, 1),
        ({"N": "7"}, 2),
        ({"N": "10"}, 2),
        ({"N": "-10"}, 3),
        ({"N": "1000"}, 2),
        ({"N": "120"}, 3),
        ({"N": "0.5"}, 2),
        ({"N": "1700000000000"}, 3),
        ({"N": "1700000123456"}, 8),
        ({"L": []}, 3),
        ({"L": [{"S": "ab"}, {"NULL": True}]}, 3 + 3 + 2),
        ({"M": {}}, 3),
        ({"M": {"key": {"S": "ab"}}}, 3 + 1 + 3 + 2),
    ],
    ids=str,
)
def test_a_value_takes_so_many_bytes(value: Value, size: int):
    assert value_size(value) == size
    assert item_size({"name": value}) == len("name") + size
