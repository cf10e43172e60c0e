"""Attribute values in the form that goes over the wire: ``{"N": "7"}``, ``{"L": [...]}``.

Kept in that form inside the fake table too: equality of values is then equality
of dictionaries, provided that every number has one spelling. Sets are not
modelled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

from botocore.exceptions import ParamValidationError

from tests.simulation.aws_errors import ValidationError

Value: TypeAlias = dict[str, Any]
Item: TypeAlias = dict[str, Value]

ITEM_LIMIT = 400 * 1024  # bytes of an item, names included
MAX_DEPTH = 32  # of lists and maps in one another
MAX_DIGITS = 38
_LARGEST_EXPONENT = 125
_SMALLEST_EXPONENT = -130

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,37}")
_NEEDLESS_PAIRS = re.compile(r"^(?:00)+|(?:00)+$")


# -- copies -------------------------------------------------------------------------


def item_copy(item: Mapping[str, Mapping[str, Any]]) -> Item:
    """A deep copy that shares nothing, with every number spelled as DynamoDB spells it.

    Raises:
        ValidationError: DynamoDB refuses a value.
        ParamValidationError: botocore does.
    """
    return {name: value_copy(value) for name, value in item.items()}


def value_copy(value: Mapping[str, Any], depth: int = 0) -> Value:
    """The same for one value."""
    try:
        ((tag, content),) = value.items()
    except (ValueError, AttributeError):
        raise ValidationError(
            "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes"
            if not value
            else "Supplied AttributeValue has more than one datatypes set, must contain exactly one"
            " of the supported datatypes"
        ) from None
    if tag == "S" and type(content) is str:
        if not content.isascii():
            _check_text(content)
        return {"S": content}
    if tag == "N" and type(content) is str:
        return {"N": content if _PLAIN_INTEGER.fullmatch(content) else _number_text(content)}
    if tag == "M" and type(content) is dict:
        _check_depth(depth)
        return {"M": {n: value_copy(v, depth + 1) for n, v in content.items()}}
    if tag == "L" and type(content) in (list, tuple):
        _check_depth(depth)
        return {"L": [value_copy(v, depth + 1) for v in content]}
    if tag == "B" and type(content) in (bytes, bytearray):
        return {"B": bytes(content)}
    if tag == "BOOL" and type(content) is bool:
        return {"BOOL": content}
    if tag == "NULL" and content is True:
        return {"NULL": True}
    if tag in ("SS", "NS", "BS"):
        raise NotImplementedError("sets are not modelled")
    raise ParamValidationError(report=f"{tag}: a value of type {type(content).__name__}")


def given_out(item: Item) -> Item:
    """A deep copy of an item that is stored, and so needs no checking."""
    return {name: _given_out(value) for name, value in item.items()}


def _given_out(value: Value) -> Value:
    for tag, content in value.items():
        if tag == "M":
            return {"M": {n: _given_out(v) for n, v in content.items()}}
        if tag == "L":
            return {"L": [_given_out(v) for v in content]}
    return {**value}


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise ValidationError("Nesting Levels have exceeded supported limits")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValidationError("a string is not Unicode") from None


# -- numbers ------------------------------------------------------------------------


def number(text: str) -> int | Decimal:
    """The number of a stored value; exact."""
    try:
        return int(text)
    except ValueError:
        return Decimal(text)


def number_value(n: int | Decimal) -> Value:
    """The value of a computed number.

    Raises:
        ValidationError: It has more digits than DynamoDB keeps, or is out of its range.
    """
    text = str(n)
    return {"N": text if _PLAIN_INTEGER.fullmatch(text) else _number_text(text)}


def _number_text(text: str) -> str:
    """The one spelling: no exponent, no needless zeros."""
    if not _NUMBER.fullmatch(text):
        raise ValidationError(f"The parameter cannot be converted to a numeric value: {text}")
    n = Decimal(text)
    if not n:
        return "0"
    sign, digits, exponent = n.as_tuple()
    spelled = "".join(map(str, digits))
    kept = spelled.rstrip("0")
    exponent = int(exponent) + len(spelled) - len(kept)
    if len(kept) > MAX_DIGITS:
        raise ValidationError("Attempting to store more than 38 significant digits in a Number")
    if n.adjusted() > _LARGEST_EXPONENT:
        raise ValidationError(
            "Number overflow. Attempting to store a number with magnitude larger than supported"
            " range"
        )
    if n.adjusted() < _SMALLEST_EXPONENT:
        raise ValidationError(
            "Number underflow. Attempting to store a number with magnitude smaller than supported"
            " range"
        )
    return format(Decimal((sign, tuple(map(int, kept)), exponent)), "f")


# -- order --------------------------------------------------------------------------


def rank(value: Value) -> Any:
    """What a value is ordered by among values of its type; None: its type has no order.

    Strings go by their UTF-8 bytes, which is the order of code points, Python's own.
    """
    ((tag, content),) = value.items()
    if tag == "N":
        return number(content)
    return content if tag in ("S", "B") else None


# -- sizes --------------------------------------------------------------------------


def item_size(item: Item) -> int:
    """Bytes as DynamoDB counts them (guide, "DynamoDB item sizes and formats").

    The guide is vague about numbers: "approximately" a byte for two digits.
    Measured, it is a byte for each pair of digits counted from the decimal
    point, one for the exponent, and one for a minus sign.
    """
    return sum([_length(name) + value_size(value) for name, value in item.items()])


def value_size(value: Value) -> int:
    """Bytes of one value, without its name."""
    for tag, content in value.items():
        if tag == "S":
            return len(content) if content.isascii() else len(content.encode())
        if tag == "N":
            return _number_size(content)
        if tag == "M":
            return 3 + sum([1 + _length(n) + value_size(v) for n, v in content.items()])
        if tag == "L":
            return 3 + sum([1 + value_size(v) for v in content])
        if tag == "B":
            return len(content)
    return 1  # BOOL, NULL


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


@lru_cache(maxsize=1 << 14)
def _number_size(text: str) -> int:
    whole, _, fraction = text.lstrip("-").partition(".")
    digits = "0" * (len(whole) % 2) + whole + fraction + "0" * (len(fraction) % 2)
    return 1 + len(_NEEDLESS_PAIRS.sub("", digits)) // 2 + (text[0] == "-")
