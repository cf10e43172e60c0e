"""Messages: what is sent, what is accepted, and what is refused without a word of it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.queue import MAX_BODY, InvalidMessageError, QueueError, SqsSender, body_of, parse
from saga_core.errors import StoreError
from saga_core.identity import saga_id_for
from saga_core.instance import Key, SagaInstance
from saga_core.turn import WorkMessage
from tests.contracts.sagas import new
from tests.fakes.aws import LocalAws
from tests.fakes.faults import Fault, FaultyClient
from tests.infra.instances import ids

SAGA = new(saga_id_for("default", "a key"))
GOOD = {
    "v": 1,
    "k": "default#s1",
    "e": 7,
    "r": "step",
    "c": "corr-1",
    "d": "order@1#0123456789abcdef",
}


@pytest.fixture
def sqs(aws: LocalAws):
    aws.sqs.heal()
    yield aws.sqs
    aws.sqs.heal()


@pytest.fixture
def url(aws: LocalAws) -> str:
    return aws.new_queues()["WorkQueue"]


@pytest.fixture
def sender(sqs: FaultyClient, url: str) -> SqsSender:
    return SqsSender(sqs, url)  # type: ignore[arg-type]  # a real client inside


def send(sender: SqsSender, instance: SagaInstance = SAGA, *, delay_ms: int = 0) -> None:
    sender.send(instance, delay_ms=delay_ms, reason="step", correlation_id="corr-1")


def received(sqs: FaultyClient, url: str) -> list[dict[str, Any]]:
    reply = sqs.wrapped.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0, AttributeNames=["All"]
    )
    messages: list[dict[str, Any]] = reply.get("Messages", [])
    return messages


# -- sending -------------------------------------------------------------------


def test_what_is_sent_is_what_is_parsed(sqs, url, sender):
    send(sender)
    (message,) = received(sqs, url)
    assert parse(message["Body"]) == WorkMessage(
        key=SAGA.key,
        epoch=1,
        definition=SAGA.definition,
        reason="step",
        correlation_id="corr-1",
    )


def test_a_message_names_the_work_item_and_holds_no_payload(sqs, url, sender):
    send(sender, replace(SAGA, context_text='"canary"'))
    (message,) = received(sqs, url)
    assert set(json.loads(message["Body"])) == {"v", "k", "e", "r", "c", "d"}
    assert "canary" not in json.dumps(message)


def test_a_message_is_under_300_bytes(sqs, url, sender):
    send(sender, replace(SAGA, lane=replace(SAGA.lane, epoch=10**6)))
    (message,) = received(sqs, url)
    assert len(message["Body"].encode()) < 300


def test_a_message_is_grouped_by_a_hash_of_its_tenant(sqs, url, sender):
    send(sender)
    send(sender, new("s2"))
    send(sender, new("s3", tenant="x" * 64))
    groups = [m["Attributes"]["MessageGroupId"] for m in received(sqs, url)]
    assert len(set(groups)) == 2
    assert all(len(g) == 32 for g in groups)


@pytest.mark.parametrize(
    ("delay_ms", "seconds"),
    [(-5, 0), (0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (900_000, 900), (10**9, 900)],
)
def test_a_delay_is_rounded_up_to_seconds_within_what_a_queue_can_hold(
    sqs, sender, delay_ms, seconds
):
    send(sender, delay_ms=delay_ms)
    assert sqs.requests[-1][1]["DelaySeconds"] == seconds


@pytest.mark.parametrize(
    "fault", [Fault.THROTTLED, Fault.SERVER_ERROR, Fault.ANSWER_LOST, Fault.NOT_CONNECTED]
)
def test_a_queue_that_does_not_take_it_is_an_error_that_handlers_know(sqs, sender, fault):
    sqs.fail_next("send_message", fault)
    with pytest.raises(QueueError, match=SAGA.id) as trouble:
        send(sender)
    assert isinstance(trouble.value, StoreError)
    assert trouble.value.__cause__ is not None


@given(st.text(max_size=100))
@example("\ud800")
@example("x" * 65)
def test_no_correlation_id_makes_a_message_that_is_refused(correlation_id):
    message = parse(body_of(SAGA, "step", correlation_id))
    assert message.key == SAGA.key
    assert len(message.correlation_id) <= 64


@given(tenant=ids, saga_id=ids, epoch=st.integers(1, 10**9))
def test_every_message_that_can_be_sent_can_be_parsed(tenant, saga_id, epoch):
    instance = new(saga_id, tenant=tenant)
    instance = replace(instance, lane=replace(instance.lane, epoch=epoch))
    message = parse(body_of(instance, "redispatch", "c"))
    assert (message.key, message.epoch) == (Key(tenant, saga_id), epoch)


# -- postponing ------------------------------------------------------------------


def test_a_message_is_postponed(sqs, url, sender):
    send(sender)
    (message,) = received(sqs, url)
    assert sender.postpone(message["ReceiptHandle"], 0) is True
    (again,) = received(sqs, url)
    assert again["MessageId"] == message["MessageId"]


@pytest.mark.parametrize(
    ("delay_ms", "seconds"), [(-1, 0), (0, 0), (1, 1), (1_001, 2), (10**12, 42_300)]
)
def test_a_postponement_is_in_seconds_within_what_a_queue_can_hold(
    sqs, url, sender, delay_ms, seconds
):
    send(sender)
    (message,) = received(sqs, url)
    sender.postpone(message["ReceiptHandle"], delay_ms)
    assert sqs.requests[-1][1]["VisibilityTimeout"] == seconds


@pytest.mark.parametrize("fault", [Fault.DENIED, Fault.SERVER_ERROR, Fault.NOT_CONNECTED])
def test_a_postponement_that_fails_is_told_and_nothing_more(sqs, sender, fault):
    sqs.fail_next("change_message_visibility", fault)
    assert sender.postpone("a handle", 5_000) is False


def test_a_handle_that_is_none_is_told(sender):
    assert sender.postpone("no handle of this queue", 5_000) is False


def test_a_bug_of_ours_is_not_swallowed(sqs, sender):
    def fail() -> None:
        raise ZeroDivisionError

    sqs.before_next("change_message_visibility", fail)
    with pytest.raises(ZeroDivisionError):
        sender.postpone("a handle", 5_000)


# -- parsing -----------------------------------------------------------------------


def test_a_message_is_parsed():
    expected = WorkMessage(
        key=Key("default", "s1"),
        epoch=7,
        definition="order@1#0123456789abcdef",
        reason="step",
        correlation_id="corr-1",
    )
    assert parse(json.dumps(GOOD)) == expected


def test_a_field_of_a_later_version_is_ignored():
    assert parse(json.dumps({**GOOD, "z": "lane", "x": {"y": [1]}})) == parse(json.dumps(GOOD))


@pytest.mark.parametrize("branch", [0, 7, 99])
def test_a_message_may_be_of_a_branch(branch):
    assert parse(json.dumps({**GOOD, "l": branch})).branch == branch
    assert parse(json.dumps(GOOD)).branch is None


@pytest.mark.parametrize("branch", [-1, 100, True, "1", 1.0, [1], 10**30])
def test_what_is_no_place_of_a_step_is_no_branch(branch):
    with pytest.raises(InvalidMessageError, match="l is not the place of a step"):
        parse(json.dumps({**GOOD, "l": branch}))


def test_a_branch_that_is_not_open_has_no_message():
    with pytest.raises(ValueError, match="has no open branch 3"):
        body_of(new(), "step", "x", 3)


def test_a_correlation_id_may_be_empty():
    assert parse(json.dumps({**GOOD, "c": ""})).correlation_id == ""


@pytest.mark.parametrize("name", sorted(GOOD))
@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 1.5, 2**53, [], {}, "", "canary canary", "x" * 200, "\ud800", "a\n"],
    ids=str,
)
def test_a_field_of_the_wrong_form_is_refused_without_quoting_it(name, value):
    if (name, value) == ("c", ""):
        return
    with pytest.raises(InvalidMessageError) as refused:
        parse(json.dumps({**GOOD, name: value}))
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_field_that_is_missing_is_named(name):
    with pytest.raises(InvalidMessageError, match=rf"^{name} is not"):
        parse(json.dumps({n: v for n, v in GOOD.items() if n != name}))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "canary",
        "null",
        "1",
        '"canary"',
        "[1]",
        "{}",
        "{",
        json.dumps(GOOD)[:-1],
        json.dumps(GOOD)[:-1] + ',"e":8}',
        json.dumps(GOOD)[:-1] + ',"x":NaN}',
        json.dumps(GOOD)[:-1] + ',"x":{"y":1,"y":2}}',
        json.dumps({**GOOD, "x": "y" * MAX_BODY}),
        "[" * 2_000,
        '{"a":' * 400,
        json.dumps({**GOOD, "k": "a#b#c"}),
        json.dumps({**GOOD, "k": "#s1"}),
        json.dumps({**GOOD, "k": "default"}),
        json.dumps({**GOOD, "k": "default#../x"}),
        json.dumps({**GOOD, "d": "order@1#0123456789abcdeF"}),
        json.dumps({**GOOD, "v": 1.0}),
        json.dumps({**GOOD, "v": 2}),
        '{"v":1' + "0" * 1_900 + "}",
    ],
    ids=range(23),
)
def test_a_body_that_is_none_of_ours_is_refused_without_quoting_it(body):
    with pytest.raises(InvalidMessageError) as refused:
        parse(body)
    assert "canary" not in str(refused.value)
    assert len(str(refused.value)) < 80
    assert isinstance(refused.value, ValueError)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.one_of(st.text(max_size=200), json_values.map(json.dumps)))
def test_whatever_comes_is_parsed_or_refused(body):
    with suppress(InvalidMessageError):
        parse(body)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), json_values))
def test_whatever_stands_in_a_message_is_parsed_or_refused(changes):
    try:
        message = parse(json.dumps({**GOOD, **changes}))
    except InvalidMessageError:
        return
    assert "#" not in message.key.tenant + message.key.saga_id
    assert message.epoch >= 1
