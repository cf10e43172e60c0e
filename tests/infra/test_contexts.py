"""Contexts by declared type: what is written can be read, or it is an error at once."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    computed_field,
    field_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from infra.contexts import PydanticContextCodec
from saga_core.contexts import InvalidContextError

CODEC = PydanticContextCodec()


class Line(BaseModel):
    sku: str
    quantity: int = Field(ge=1)


class Order(BaseModel):
    id: UUID = UUID(int=1)
    placed_at: datetime = datetime(2027, 1, 15, tzinfo=UTC)
    total: Decimal = Decimal("1.10")
    lines: list[Line] = []
    note: str | None = None


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")
    customer: str = Field(alias="customerId")
    address: str = Field(validation_alias="shipTo", default="")

    @computed_field  # type: ignore[prop-decorator]  # as pydantic's guide has it
    @property
    def label(self) -> str:
        return f"{self.customer}: {self.address}"


@dataclass
class Plain:
    at: datetime
    tags: list[str] = field(default_factory=list)


class Typed(TypedDict):
    sku: str
    quantity: int


class Measured(BaseModel):
    value: float = 0.0


orders = st.builds(
    Order,
    id=st.uuids(),
    placed_at=st.datetimes(timezones=st.just(UTC)),
    total=st.decimals(allow_nan=False, allow_infinity=False),
    lines=st.lists(st.builds(Line, quantity=st.integers(1)), max_size=3),
)


@given(orders)
def test_a_model_comes_back_as_it_was(order):
    assert CODEC.decode(CODEC.encode(order), Order) == order


@given(st.builds(Plain, at=st.datetimes(timezones=st.just(UTC))))
def test_a_dataclass_comes_back_as_it_was(value):
    assert CODEC.decode(CODEC.encode(value), Plain) == value


def test_a_typed_dict_comes_back_as_it_was():
    value: Typed = {"sku": "x", "quantity": 2}
    assert CODEC.decode(CODEC.encode(value), Typed) == value


@pytest.mark.parametrize("value", [None, 1, "é", [1, None], {"a": {"b": [1.5]}}], ids=str)
@pytest.mark.parametrize("declared", [None, object], ids=["none", "object"])
def test_plain_json_comes_back_as_it_was(value, declared):
    assert CODEC.decode(CODEC.encode(value), declared) == value


def test_a_declared_dict_is_a_dict():
    assert CODEC.decode('{"a":1}', dict) == {"a": 1}
    with pytest.raises(ValidationError):
        CODEC.decode("[1]", dict)


def test_every_reading_is_a_copy():
    text = CODEC.encode(Order())
    assert CODEC.decode(text, Order) is not CODEC.decode(text, Order)


def test_text_is_compact_and_unicode():
    assert CODEC.encode({"a": "é", "b": [1, 2]}) == '{"a":"é","b":[1,2]}'
    assert " " not in CODEC.encode(Line(sku="é", quantity=1))


# -- traps of serialisation ------------------------------------------------------


def test_aliases_are_read_and_so_are_names():
    by_alias = CODEC.decode('{"customerId":"c","shipTo":"here"}', Aliased)
    assert by_alias == CODEC.decode('{"customer":"c","address":"here"}', Aliased)
    assert CODEC.decode(CODEC.encode(by_alias), Aliased) == by_alias


def test_a_computed_field_is_not_written_because_it_could_not_be_read():
    value = CODEC.decode('{"customerId":"c"}', Aliased)
    assert "label" not in json.loads(CODEC.encode(value))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_json_does_not_have_is_an_error_and_not_null(number):
    for context in (Measured(value=number), {"value": number}):
        with pytest.raises(ValueError, match="JSON compliant"):
            CODEC.encode(context)


def test_a_field_that_lost_its_type_is_an_error_when_it_is_written():
    line = Line(sku="x", quantity=1)
    line.quantity = "many"  # type: ignore[assignment]  # what a handler can do
    with pytest.raises(ValueError, match="quantity"):
        CODEC.encode(line)


def test_a_value_that_is_not_json_is_an_error():
    with pytest.raises(TypeError):
        CODEC.encode({"at": datetime(2027, 1, 15, tzinfo=UTC)})
    with pytest.raises(TypeError):
        CODEC.encode({"set": {1}})


def test_a_stored_context_of_another_type_is_an_error():
    with pytest.raises(ValidationError):
        CODEC.decode('{"sku":"x"}', Line)


# -- input -----------------------------------------------------------------------


def test_an_accepted_input_has_its_defaults_and_its_declared_types():
    assert json.loads(CODEC.accept('{"lines":[{"sku":"x","quantity":"2"}]}', Order)) == {
        "id": "00000000-0000-0000-0000-000000000001",
        "placed_at": "2027-01-15T00:00:00Z",
        "total": "1.10",
        "lines": [{"sku": "x", "quantity": 2}],
        "note": None,
    }


def test_an_input_without_a_declared_type_is_accepted_as_it_is():
    assert CODEC.accept('{ "a": 1 }', None) == '{ "a": 1 }'


def invalid(text: str, declared: type) -> dict[str, str]:
    with pytest.raises(InvalidContextError) as refused:
        CODEC.accept(text, declared)
    assert "canary" not in str(refused.value.fields)
    return dict(refused.value.fields)


def test_every_field_at_fault_is_named_and_none_is_quoted():
    lines = '[{"quantity":"canary"},{"sku":"x","quantity":0}]'
    fields = invalid(f'{{"total":"canary","lines":{lines}}}', Order)
    assert set(fields) == {"total", "lines.0.sku", "lines.0.quantity", "lines.1.quantity"}
    assert fields["lines.0.sku"] == "Field required"


@pytest.mark.parametrize("text", ['"canary"', "null", "[1]", "1"])
def test_an_input_that_is_no_object_at_all_is_named_as_a_whole(text):
    assert set(invalid(text, Order)) == {"context"}


def test_a_field_too_many_is_named():
    assert set(invalid('{"customerId":"c","more":"canary"}', Aliased)) == {"more"}


def test_a_misspelt_field_is_named_at_every_level():
    text = '{"notes":"canary","lines":[{"sku":"x","quantity":1,"colour":"canary"}]}'
    assert set(invalid(text, Order)) == {"notes", "lines.0.colour"}


@pytest.mark.parametrize("text", ["1", "[]", "null"])
def test_an_input_without_a_declared_type_is_an_object(text):
    with pytest.raises(InvalidContextError):
        CODEC.accept(text, None)


class Checked(BaseModel):
    code: str = "x"
    size: str = "x"
    at: datetime = datetime(2027, 1, 15, tzinfo=UTC)
    kind: str = "x"

    @field_validator("code")
    @classmethod
    def known(cls, value: str) -> str:
        if value != "x":
            raise ValueError(f"{value} is not known")
        return value

    @field_validator("size")
    @classmethod
    def small(cls, value: str) -> str:
        assert value == "x", f"{value} is too large"
        return value

    @field_validator("kind")
    @classmethod
    def of_a_kind(cls, value: str) -> str:
        if value != "x":
            raise PydanticCustomError("of_a_kind", "{value} is no kind", {"value": value})
        return value


def test_what_a_validator_says_is_not_passed_on_because_it_may_quote():
    fields = invalid('{"code":"canary","size":"canary","at":"canary","kind":"canary"}', Checked)
    assert set(fields) == {"code", "size", "at", "kind"}
    assert "canary" not in str(fields)


def test_an_input_that_could_not_be_kept_is_refused():
    fields = invalid('{"value":"NaN"}', Measured)
    assert fields == {"context": "cannot be kept as JSON: ValueError"}


# -- cold start --------------------------------------------------------------------


def test_pydantic_is_not_imported_before_a_declared_type_needs_it():
    code = """
import sys
import infra.clients, infra.clock, infra.contexts, infra.dynamodb_store, infra.queue
import infra.registry, infra.settings
codec = infra.contexts.PydanticContextCodec()
codec.decode(codec.encode({"a": 1}), None)
codec.accept("{}", None)
print(any(name.split(".")[0] in ("pydantic", "pydantic_core") for name in sys.modules))
"""
    done: Any = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
