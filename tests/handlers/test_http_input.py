"""What comes in over HTTP and is no use: a clear problem, nothing quoted, nothing lost."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal
from urllib.parse import quote
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, field_validator
from pydantic_core import PydanticCustomError

from saga_core.definition import SagaDefinition
from saga_core.identity import encode_cursor
from saga_core.ports import INPUT_LIMIT
from tests.handlers.sagas import TEA, chain, step
from tests.handlers.stage import MINUTE, ORDER, Answer, Stage, Staged

CANARY = "k4n4ry"
ID = "a" * 26


def nothing_happened(stage: Stage, answer: Answer) -> None:
    """No saga, no message, and nothing of the request in the answer or in the log."""
    assert stage.ids() == []
    assert stage.bodies("WorkQueue") == []
    assert CANARY not in answer.text
    assert CANARY not in repr(stage.sink.lines)


def problem(stage: Stage, answer: Answer, status: int, slug: str) -> None:
    assert (answer.status, answer.problem) == (status, slug)
    assert answer.body["type"] == f"urn:saga:problem:{slug}"
    assert answer.body["title"]
    assert answer.body["detail"]
    assert CANARY not in answer.text
    assert stage.sink.of("saga.crashed") == []


# -- the body ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (f'{{"sku": {CANARY}}}', "not JSON"),
        (f'{{"sku": "{CANARY}"}} x', "not JSON"),
        (f'{{"sku": "{CANARY}", "quantity": NaN}}', "NaN and Infinity are not JSON"),
        ('{"quantity": -Infinity}', "NaN and Infinity are not JSON"),
        ('{"quantity": 1e999}', "not JSON"),
        (f'{{"sku": "{CANARY}", "sku": "tea"}}', "a key stands twice in one object"),
        ('{"a": {"b": [{"c": 1, "c": 1}]}}', "a key stands twice in one object"),
        ("[" * 33 + "]" * 33, "nested deeper than 32"),
        ("[" * 30_000, "nested deeper than 32"),
        ('{"sku": "\\ud800"}', "not valid Unicode"),
    ],
    ids=range(12),
)
def test_a_body_that_is_no_json_is_refused_with_the_reason(stage, body, reason):
    answer = stage.http("POST", "/sagas/order", body, key="a")
    problem(stage, answer, 400, "not-json")
    assert answer.body["detail"] == f"The body was refused: {reason}."
    nothing_happened(stage, answer)


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
def test_another_content_type_is_refused_unread(stage, content_type):
    headers = {"Content-Type": content_type}
    answer = stage.http("POST", "/sagas/order", "{", key="a", headers=headers)
    problem(stage, answer, 415, "unsupported-media-type")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_a_content_type_may_be_written_in_other_ways(stage, content_type):
    headers = {"Content-Type": content_type}
    assert stage.http("POST", "/sagas/order", dict(TEA), key="a", headers=headers).status == 202


def encoded(stage: Stage, body: bytes) -> dict[str, Any]:
    """A request whose body API Gateway handed on in base64."""
    event = stage.http_event("POST", "/sagas/order", "", key="a")
    return {**event, "body": base64.b64encode(body).decode(), "isBase64Encoded": True}


@pytest.mark.parametrize("size", [INPUT_LIMIT + 1, 3 * INPUT_LIMIT, 5_000_000])
def test_a_body_that_is_too_large_is_refused_unread(stage, size):
    for answer in (
        stage.http("POST", "/sagas/order", "[" * size, key="a"),
        stage.api(encoded(stage, b"[" * size)),
    ):
        problem(stage, answer, 413, "too-large")
        assert str(INPUT_LIMIT) in answer.body["detail"]


def test_a_body_in_base64_is_a_body(stage):
    answer = stage.api(encoded(stage, json.dumps({**TEA, "sku": "thé"}).encode()))
    assert answer.status == 202
    assert answer.body["context"]["sku"] == "thé"


@pytest.mark.parametrize("body", ["%%%", "e30", "/w=="], ids=["no base64", "cut off", "no UTF-8"])
def test_a_body_in_bad_base64_is_refused(stage, body):
    answer = stage.api({**encoded(stage, b""), "body": body})
    problem(stage, answer, 400, "not-json")
    nothing_happened(stage, answer)


# -- the context ---------------------------------------------------------------------------


def errors(answer: Answer) -> dict[str, str]:
    return {error["field"]: error["message"] for error in answer.body["errors"]}


def test_every_field_at_fault_is_named_and_no_value_is_quoted(stage):
    context = {
        "quantity": 0,
        "card": CANARY,
        "order_id": [CANARY],
        "colour": CANARY,
        "size": {"of": CANARY},
    }
    answer = stage.http("POST", "/sagas/order", context, key="a")
    problem(stage, answer, 422, "invalid-context")
    assert errors(answer) == {
        "sku": "Field required",
        "quantity": "Input should be greater than or equal to 1",
        "card": "String should match pattern '^[0-9]{16}$'",
        "order_id": "Input should be a valid string",
        "colour": "Extra inputs are not permitted",
        "size": "Extra inputs are not permitted",
    }
    nothing_happened(stage, answer)


class Line(BaseModel):
    """One thing of an order."""

    sku: str
    when: str = Field(default="", max_length=3)

    @field_validator("sku")
    @classmethod
    def _known(cls, sku: str) -> str:
        if sku.startswith(CANARY):
            raise ValueError(f"there is no {sku}, sorry")
        assert sku != "x", f"not {CANARY}"
        return sku


class Basket(BaseModel):
    """An order of several lines."""

    lines: list[Line]
    by_colour: dict[str, Line] = {}


@dataclass
class Plain:
    """A dataclass for a context."""

    a: int
    b: str = ""


def typed(context_type: type) -> SagaDefinition:
    return SagaDefinition(name="typed", steps=(step("one"),), context_type=context_type)


def test_fields_within_fields_are_named_by_their_path(staged: Staged):
    with staged(typed(Basket)) as stage:
        context = {
            "lines": [
                {"sku": "tea"},
                {"sku": CANARY},
                {"sku": "x"},
                {"sku": "tea", "when": CANARY, "more": CANARY},
            ],
            "by_colour": {"red": {"colour": CANARY}},
        }
        answer = stage.http("POST", "/sagas/typed", context, key="a")
        problem(stage, answer, 422, "invalid-context")
        assert errors(answer) == {
            "lines.1.sku": "Value error",
            "lines.2.sku": "Assertion failed",
            "lines.3.when": "String should have at most 3 characters",
            "lines.3.more": "Extra inputs are not permitted",
            "by_colour.red.sku": "Field required",
            "by_colour.red.colour": "Extra inputs are not permitted",
        }
        nothing_happened(stage, answer)


class Cat(BaseModel):
    """One of two."""

    kind: Literal["cat"]


class Dog(BaseModel):
    """The other."""

    kind: Literal["dog"]


class Quoting(BaseModel):
    """Fields whose errors would quote what came in, if one let them."""

    pet: Cat | Dog = Field(discriminator="kind")
    own: str
    borrowed: str
    uuid: UUID
    day: date

    @field_validator("own")
    @classmethod
    def _own(cls, own: str) -> str:
        raise PydanticCustomError("my_error", "not {own}", {"own": own})

    @field_validator("borrowed")
    @classmethod
    def _borrowed(cls, borrowed: str) -> str:
        raise PydanticCustomError("value_error", "not {borrowed}", {"borrowed": borrowed})


def test_no_error_of_a_validator_quotes_the_input(staged: Staged):
    with staged(typed(Quoting)) as stage:
        context = {
            "pet": {"kind": CANARY},
            "own": CANARY,
            "borrowed": CANARY,
            "uuid": CANARY,
            "day": f"2027-{CANARY}",
        }
        answer = stage.http("POST", "/sagas/typed", context, key="a")
        problem(stage, answer, 422, "invalid-context")
        assert errors(answer) == {
            "pet": "Input is not valid",
            "own": "Input is not valid",
            "borrowed": "Value error",
            "uuid": "Input should be a valid UUID",
            "day": "Input should be a valid date or datetime",
        }
        nothing_happened(stage, answer)


@pytest.mark.parametrize(
    ("context", "fields"),
    [({"a": CANARY}, ["a"]), ({"a": 1, "c": 1}, ["c"]), ({}, ["a"]), ([CANARY], ["context"])],
)
def test_a_dataclass_is_checked_likewise(staged: Staged, context, fields):
    with staged(typed(Plain)) as stage:
        answer = stage.http("POST", "/sagas/typed", context, key="a")
        problem(stage, answer, 422, "invalid-context")
        assert list(errors(answer)) == fields
        nothing_happened(stage, answer)


@pytest.mark.parametrize("context", [[], [1], "text", 17, None, True], ids=repr)
def test_a_context_without_a_type_is_an_object_all_the_same(staged: Staged, context):
    with staged(chain("one")) as stage:
        answer = stage.http("POST", "/sagas/chain", json.dumps(context), key="a")
        problem(stage, answer, 422, "invalid-context")
        assert errors(answer) == {"context": "Input should be an object"}
        nothing_happened(stage, answer)


def test_an_answer_does_not_name_ten_thousand_fields(stage):
    context = {**TEA, **{f"field-{n}": 0 for n in range(2_000)}}
    answer = stage.http("POST", "/sagas/order", context, key="a")
    problem(stage, answer, 422, "invalid-context")
    assert len(answer.body["errors"]) == 50
    long = stage.http("POST", "/sagas/order", {**TEA, "f" * 60_000: 0}, key="a")
    problem(stage, long, 422, "invalid-context")
    assert len(long.text) < 1_000


# -- the path ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["nothing", "Order", "order ", "order@1", "a" * 65, "%6Frder", "__class__", CANARY]
)
def test_a_saga_that_nobody_deployed_is_not_found(stage, name):
    answer = stage.http("POST", f"/sagas/{name}", dict(TEA), key="a")
    problem(stage, answer, 404, "unknown-saga")
    nothing_happened(stage, answer)


BAD_IDS = {
    "unknown": ID,
    "empty": "",
    "a space": " ",
    "1 KB": "a" * 1024,
    "slashes": "a/b/c",
    "slashes, quoted": quote("a/b", safe=""),
    "a hash": "default#a",
    "a hash, quoted": quote("default#a", safe=""),
    "up": "../sagas",
    "up, quoted": quote("../x", safe=""),
    "a null": "%00",
    "half a character": "%ff",
    "a quote": "a'b\"c",
    "braces": "{id}",
    "a colon": "a:b",
    "unicode": "ä",
}


@pytest.mark.parametrize("saga_id", BAD_IDS.values(), ids=BAD_IDS.keys())
def test_an_id_that_is_none_is_not_found(stage, saga_id):
    for method, path, body in (
        ("GET", "", None),
        ("POST", "/cancel", None),
        ("POST", "/resume", None),
        ("POST", "/skip", {"step": "ship"}),
    ):
        answer = stage.http(method, f"/sagas/{saga_id}{path}", body)
        problem(stage, answer, 404, "not-found")
        assert "aaaa" not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", ""),
        ("GET", "/nothing"),
        ("POST", "/sagas"),
        ("DELETE", f"/sagas/{ID}"),
        ("PUT", f"/sagas/{ID}"),
        ("PATCH", f"/sagas/{ID}/cancel"),
        ("GET", f"/sagas/{ID}/cancel"),
        ("POST", f"/sagas/{ID}/explode"),
        ("GET", f"/sagas/{ID}/steps/1"),
        ("OPTIONS", "/sagas"),
        ("BREW", "/sagas"),
    ],
)
def test_an_unknown_path_or_method_is_not_found(stage, method, path):
    problem(stage, stage.http(method, path), 404, "not-found")


# -- the headers ---------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": ""}], ids=["none", "empty"])
def test_a_start_without_a_key_says_how_to_make_one(stage, headers):
    answer = stage.http("POST", "/sagas/order", dict(TEA), headers=headers)
    problem(stage, answer, 400, "idempotency-key-missing")
    assert "UUID" in answer.body["detail"]
    nothing_happened(stage, answer)


@pytest.mark.parametrize(
    "key",
    [" ", '""', '"', "a b", "ä", "a\tb", "a" * 129, f"{CANARY} {CANARY}"],
    ids=["blank", "quotes", "a quote", "a space", "unicode", "a tab", "long", "two words"],
)
def test_a_key_that_is_none_is_refused(stage, key):
    answer = stage.http("POST", "/sagas/order", dict(TEA), key=key)
    if key == '"':
        assert answer.status == 202  # one printable character
        return
    problem(stage, answer, 400, "invalid-idempotency-key")
    nothing_happened(stage, answer)


@pytest.mark.parametrize("key", ["a", "a" * 128, "8e03978e-40d5-43dd-bc93-6894a57f9324", "~!@#$%"])
def test_a_key_of_printable_characters_will_do(stage, key):
    assert stage.http("POST", "/sagas/order", dict(TEA), key=key).status == 202


# -- lists ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        {"state": "running"},
        {"state": ""},
        {"state": "LOST"},
        {"state": CANARY},
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "-1"},
        {"limit": "1e1"},
        {"limit": "٣"},
        {"limit": ""},
        {"limit": "9" * 5_000},
        {"limit": "000000001000"},
        {"cursor": ""},
        {"cursor": CANARY},
        {"cursor": "ä"},
        {"cursor": "%%%"},
        {"cursor": "a" * 4_000},
        {"cursor": encode_cursor("2027#x")},
        {"cursor": base64.urlsafe_b64encode(b'[2, "1800000000000#a"]').decode()},
        {"cursor": base64.urlsafe_b64encode(b"[" * 5_000).decode()},
        {"cursor": base64.urlsafe_b64encode(b"\xff\xfe").decode()},
        {"tenant": "other"},
        {CANARY: "1"},
    ],
    ids=range(23),
)
def test_a_filter_that_is_none_is_refused(stage, query):
    problem(stage, stage.http("GET", "/sagas", query=query), 400, "invalid-request")


def test_a_list_comes_in_pages_newest_first(stage):
    ids = []
    for n in range(7):
        ids.append(stage.start(key=f"key-{n}"))
        stage.clock.now += MINUTE
    pages: list[list[str]] = []
    more: dict[str, str] = {}
    for _ in range(3):
        body = stage.http("GET", "/sagas", query={"limit": "3", **more}).body
        pages.append([line["id"] for line in body["sagas"]])
        more = {"cursor": body["cursor"]}
    assert body["cursor"] is None
    assert pages == [ids[:3:-1], ids[3:0:-1], ids[:1]]
    line = stage.http("GET", "/sagas").body["sagas"][0]
    assert line == {
        "id": ids[6],
        "name": "order",
        "version": "1",
        "state": "CREATED",
        "created_at": "2027-01-15T08:06:00.000Z",
        "updated_at": "2027-01-15T08:06:00.000Z",
        "deadline_at": "2027-01-15T10:06:00.000Z",
    }


def test_a_page_goes_on_where_the_last_one_ended_while_sagas_move(stage):
    ids = [stage.start(key=f"key-{n}") for n in range(6)]
    first = stage.http("GET", "/sagas", query={"limit": "3"}).body
    stage.run_until_quiet()
    second = stage.http("GET", "/sagas", query={"limit": "3", "cursor": first["cursor"]}).body
    seen = [line["id"] for line in first["sagas"] + second["sagas"]]
    assert sorted(seen) == sorted(ids)


def test_a_list_can_be_of_one_state_or_one_name(stage):
    done = stage.start(key="done")
    stage.run_until_quiet()
    new = stage.start(key="new")
    trip = stage.start("travel", {"hotel": "Ritz", "flight": "LH 1", "car": "compact"}, key="trip")

    def listed(**query: str) -> set[str]:
        body = stage.http("GET", "/sagas", query=query).body
        return {line["id"] for line in body["sagas"]}

    assert listed() == {done, new, trip}
    assert listed(state="COMPLETED") == {done}
    assert listed(state="CREATED") == {new, trip}
    assert listed(state="RUNNING") == set()
    assert listed(name="travel") == {trip}
    assert listed(name="nothing") == set()


# -- tenants -------------------------------------------------------------------------------


@pytest.fixture
def tenants(staged: Staged) -> Iterator[Stage]:
    """A stage where a claim of the token names the tenant."""
    with staged(ORDER, tenant_claim="org") as stage:
        yield stage


ACME, OTHER = {"org": "acme", "sub": "ann"}, {"org": "other", "sub": "bob"}


@pytest.mark.parametrize(
    "claims", [None, {}, {"sub": "ann"}, {"org": ""}, {"org": "a#b"}, {"org": "x" * 65}]
)
def test_a_caller_without_a_tenant_may_do_nothing(tenants, claims):
    for method, path in (
        ("POST", "/sagas/order"),
        ("GET", "/sagas"),
        ("GET", f"/sagas/{ID}"),
        ("POST", f"/sagas/{ID}/cancel"),
    ):
        answer = tenants.http(method, path, dict(TEA), key="a", claims=claims)
        problem(tenants, answer, 403, "no-tenant")
        nothing_happened(tenants, answer)


def test_a_foreign_saga_is_as_unknown_as_one_that_does_not_exist(tenants):
    saga_id = tenants.start(key="a", claims=ACME)
    assert tenants.http("GET", f"/sagas/{saga_id}", claims=ACME).status == 200
    before = tenants.saga(saga_id, "acme")
    for method, path, body in (
        ("GET", "", None),
        ("POST", "/cancel", None),
        ("POST", "/resume", None),
        ("POST", "/skip", {"step": "ship"}),
    ):
        foreign = tenants.http(method, f"/sagas/{saga_id}{path}", body, claims=OTHER)
        unknown = tenants.http(method, f"/sagas/{ID}{path}", body, claims=OTHER)
        problem(tenants, foreign, 404, "not-found")
        assert foreign.text == unknown.text
    assert tenants.saga(saga_id, "acme") == before


def test_tenants_share_neither_keys_nor_lists(tenants):
    acme = tenants.start(key="a", claims=ACME)
    other = tenants.start(key="a", claims=OTHER)
    assert acme != other
    for claims, saga_id in ((ACME, acme), (OTHER, other)):
        lines = tenants.http("GET", "/sagas", claims=claims).body["sagas"]
        assert [line["id"] for line in lines] == [saga_id]
    cursor = encode_cursor("9999999999999#a")  # a forged one stays within the tenant
    lines = tenants.http("GET", "/sagas", query={"cursor": cursor}, claims=OTHER).body["sagas"]
    assert [line["id"] for line in lines] == [other]
    tenants.run_until_quiet()
    assert tenants.saga(acme, "acme").state.value == "COMPLETED"
    assert tenants.saga(other, "other").state.value == "COMPLETED"


def test_who_cancels_is_who_the_token_says(tenants):
    saga_id = tenants.start(key="a", claims=ACME)
    tenants.http("POST", f"/sagas/{saga_id}/cancel", claims=ACME)
    tenants.run_until_quiet()
    body = tenants.http("GET", f"/sagas/{saga_id}", claims=ACME).body
    assert body["cause"]["by"] == "ann"


# -- what is our own fault -----------------------------------------------------------------


@pytest.mark.parametrize(
    "without", ["headers", "body", "queryStringParameters", "requestContext.authorizer"]
)
def test_an_event_that_lacks_what_it_may_lack_is_answered(stage, without):
    event = stage.http_event("POST", "/sagas/order", dict(TEA), key="a")
    event.pop(without, None)
    if "." in without:
        event["requestContext"].pop("authorizer")
    assert stage.api(event).status in (202, 400)
    assert stage.sink.of("saga.crashed") == []


def test_a_bug_of_ours_is_a_500_that_names_the_request_and_quotes_nothing(stage):
    saga_id = stage.start()

    def stumble() -> None:
        raise KeyError(CANARY)

    stage.dynamodb.before_next("get_item", stumble)
    answer = stage.http("GET", f"/sagas/{saga_id}")
    assert (answer.status, answer.problem) == (500, "internal")
    (line,) = stage.sink.of("saga.crashed")
    assert line["correlation_id"] in answer.body["detail"]
    assert line["error_kind"] == "KeyError"
    assert line["place"].startswith("test_http_input.py:")
    assert CANARY not in answer.text + repr(stage.sink.lines)
