from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from saga_cli import connect
from saga_cli.local.clock import VirtualClock
from saga_cli.local.stack import LocalStack
from saga_cli.problems import Exit

TEA = '{"sku": "tea", "quantity": 2}'


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    """One for all: nothing here changes it."""
    with LocalStack(clock=VirtualClock(now_ms=time.time_ns() // 1_000_000)) as running:
        yield running


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("nothing", "--context", "{}"), Exit.NOT_FOUND, "nothing is not among examples."),
        (("order", "--context", '{"quantity": 0}'), Exit.USAGE, "sku: Field required; quantity: "),
        (("order",), Exit.USAGE, "sku: Field required"),
        (("order", "--context", "{"), Exit.USAGE, "the context cannot be read: not JSON"),
        (("order", "--context-file", "no/such"), Exit.USAGE, "No such file"),
        (("order", "--context", TEA, "--idempotency-key", "a b"), Exit.USAGE, "idempotency key"),
    ],
    ids=["unknown", "fields", "empty", "not-json", "no-file", "bad-key"],
)
def test_a_start_that_cannot_be_says_why_on_one_line(saga, here, words, status, told):
    ran = saga("start", *words, *here)
    assert ran.exit == status
    assert told in ran.err
    assert len(ran.err.splitlines()) == 1
    assert ran.out == ""


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize(
    "id_", ["nothing", "a/b", "a#b", "x" * 1000], ids=["unknown", "slash", "hash", "long"]
)
@pytest.mark.parametrize("command", ["get", "resume", "cancel"])
def test_an_id_that_is_unknown_is_status_3(saga, here, command, id_):
    ran = saga(command, id_, *here)
    assert ran.exit == Exit.NOT_FOUND
    assert ran.err.startswith("saga: there is no saga ")
    assert len(ran.err) < 120


@pytest.mark.usefixtures("stack")
def test_a_cursor_of_somebody_else_is_status_2(saga, here):
    ran = saga("list", "--cursor", "nonsense", *here)
    assert ran.exit == Exit.USAGE
    assert "--cursor" in ran.err


# -- where ------------------------------------------------------------------------


def test_a_command_must_be_told_where(saga, monkeypatch):
    monkeypatch.delenv("SAGA_TABLE", raising=False)
    ran = saga("get", "x", "--region", "us-east-1")
    assert ran.exit == Exit.USAGE
    assert "say where: --local, --stack NAME" in ran.err


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize(
    "words",
    [
        ("get", "x"),
        ("list",),
        ("resume", "x"),
        ("cancel", "x"),
        ("start", "order", "--context", TEA),
    ],
    ids=lambda words: words[0],
)
def test_a_table_that_is_not_there_is_status_5(saga, here, words):
    ran = saga(*words, *here, "--table", "nothing")
    assert ran.exit == Exit.UNAVAILABLE
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--profile", "no-such-profile", "--region", "us-east-1"),
        ("--region", "us-east-1", "--endpoint-url", "no url"),
        ("--region", "no region!"),
        ("--local", "--definitions", "examples.order:nothing"),
    ],
    ids=["profile", "endpoint", "region", "definitions"],
)
def test_a_place_that_cannot_be_is_status_2(saga, words):
    ran = saga("get", "x", "--table", "t", "--queue-url", "http://localhost/q", *words)
    assert ran.exit == Exit.USAGE
    assert len(ran.err.splitlines()) == 1


def test_nobody_listening_is_status_5(saga):
    ran = saga("get", "x", "--local", "--port", "1")
    assert ran.exit == Exit.UNAVAILABLE
    assert len(ran.err.splitlines()) == 1


def test_the_local_names_are_the_template_s(stack):
    assert stack.template.name_of("SagaTable") == connect.LOCAL_TABLE
    assert stack.template.queue_url("WorkQueue").endswith(f"/{connect.LOCAL_QUEUE}")
