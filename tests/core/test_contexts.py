from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from pydantic import BaseModel, ValidationError

from saga_core.contexts import InvalidContextError, StandardContextCodec

CODEC = StandardContextCodec()


@dataclass
class Address:
    city: str


@dataclass
class Order:
    sku: str
    to: Address | None = None
    notes: list[str] = field(default_factory=list)


class Model(BaseModel):
    sku: str
    quantity: int = 1


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ({"b": 1, "a": [1.5, None, True]}, '{"b":1,"a":[1.5,null,true]}'),
        ("é", '"é"'),
        (None, "null"),
        (Order("tea", Address("Bern")), '{"sku":"tea","to":{"city":"Bern"},"notes":[]}'),
        (Model(sku="tea"), '{"sku":"tea","quantity":1}'),
    ],
    ids=["dictionary", "text", "nothing", "dataclass", "model"],
)
def test_a_context_is_compact_json(context, text):
    assert CODEC.encode(context) == text


@pytest.mark.parametrize(
    "context",
    [{1, 2}, object(), float("nan"), float("inf"), Order],
    ids=["set", "object", "nan", "inf", "class"],
)
def test_what_is_not_json_is_refused(context):
    with pytest.raises((TypeError, ValueError)):
        CODEC.encode(context)


def test_without_a_type_a_context_is_the_plain_value():
    assert CODEC.decode('{"a":[1]}', None) == {"a": [1]}


def test_a_type_that_is_neither_dataclass_nor_model_gives_the_plain_value():
    assert CODEC.decode('{"a":1}', dict) == {"a": 1}


def test_a_dataclass_is_built_from_its_fields():
    assert CODEC.decode('{"sku":"tea","notes":["x"]}', Order) == Order("tea", None, ["x"])
    with pytest.raises(TypeError):
        CODEC.decode('{"unknown":1}', Order)


def test_a_model_validates():
    assert CODEC.decode('{"sku":"tea"}', Model) == Model(sku="tea")
    with pytest.raises(ValidationError):
        CODEC.decode('{"quantity":1}', Model)


def test_an_input_that_is_no_context_names_its_fields_and_not_their_values():
    error = InvalidContextError((("sku", "missing"), ("lines.0.quantity", "not a number")))
    assert error.fields == (("sku", "missing"), ("lines.0.quantity", "not a number"))
    assert str(error) == "sku, lines.0.quantity"
    assert isinstance(error, ValueError)


def test_every_decoding_gives_a_fresh_value():
    text = '{"a":[1]}'
    assert CODEC.decode(text, None) is not CODEC.decode(text, None)
