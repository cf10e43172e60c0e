"""Poison among good messages: it fails alone, and ends where a person finds it with a reason."""

from __future__ import annotations

import gzip
import json
from typing import Any

from examples.services import world
from saga_core.instance import SagaState
from tests.handlers.sagas import FORWARD, TEA, VISIBILITY, waited
from tests.handlers.stage import Stage

CANARY = "k4n4ry"
# Binary data, as far as SQS takes it: no control characters.
JUNK = "".join(c for c in gzip.compress(CANARY.encode() * 9).decode("latin-1") if c >= " ")
OURS: dict[str, Any] = {
    "v": 1,
    "k": "default#abc",
    "e": 1,
    "r": "step",
    "c": CANARY,
    "d": f"{CANARY}@1#0123456789abcdef",
}


def ours(**changed: object) -> str:
    """A message like ours, with something wrong."""
    return json.dumps({**OURS, **changed})


NOT_WORK = {
    "not JSON": ("{" + CANARY, "not JSON"),
    "another's JSON": (json.dumps({"orderId": CANARY, "type": "OrderPlaced"}), "v is not a"),
    "no object": (json.dumps([CANARY]), "not an object"),
    "another version": (ours(v=2), "v is not a version we know"),
    "a version that is no number": (ours(v=True), "v is not a version we know"),
    "a key of nothing": (ours(k=CANARY), "k is not the key of a saga"),
    "a key within a key": (ours(k=f"default#a#{CANARY}"), "k is not the key of a saga"),
    "epoch zero": (ours(e=0), "e is not a positive integer"),
    "NaN": (ours(e=float("nan")), "NaN and Infinity are not JSON"),
    "a field twice": ('{"v":1,' + ours()[1:], "a key stands twice in one object"),
    "nested": ("[" * 40 + "]" * 40, "nested deeper than 32"),
    "binary junk": (JUNK, "not JSON"),
    "huge": (ours(c=CANARY * 40_000), "longer than 2048 characters"),
}


def batches(stage: Stage, queue: str, bad: dict[str, Any], good: str) -> list[str]:
    """Send the bad ones around the good one; give the ids of the bad ones."""
    ids = []
    for n, body in enumerate(bad.values()):
        if n == len(bad) // 2:
            stage.send(queue, good)
        ids.append(stage.send(queue, body[0]))
    return ids


def deliver_all(stage: Stage, queue: str) -> set[str]:
    """Everything that is due, in batches of ten; give what came back."""
    came_back: set[str] = set()
    while (batch := stage.deliver(queue, most=10)).messages:
        assert batch.error is None
        came_back.update(batch.returned)
    return came_back


def refusals(stage: Stage, function: str) -> dict[str, str]:
    """The reason logged for each message."""
    lines = [line for line in stage.sink.of("saga.refused") if line["function"] == function]
    return {line["message_id"]: line["reason"] for line in lines}


def nothing_is_quoted(stage: Stage) -> None:
    assert CANARY not in repr(stage.sink.lines) + repr(stage.sink.metrics)
    assert JUNK[:8] not in repr(stage.sink.lines)


def test_poison_on_the_work_queue_fails_alone_and_ends_in_the_parking_queue(stage):
    saga_id = stage.start()
    (good,) = stage.bodies("WorkQueue")
    stage.deliver()  # the first step is done: the good one is now its duplicate
    ids = batches(stage, "WorkQueue", NOT_WORK, good)
    assert deliver_all(stage, "WorkQueue") == set(ids)
    assert stage.saga(saga_id).state is SagaState.COMPLETED  # in the same batches
    reasons = refusals(stage, "worker")
    for message_id, (_, reason) in zip(ids, NOT_WORK.values(), strict=True):
        assert reasons[message_id].startswith(reason)
    assert stage.sink.total("InvalidInput") == len(ids)
    stage.run_until_quiet()
    assert sorted(stage.bodies("ParkingQueue")) == sorted(body for body, _ in NOT_WORK.values())
    # Five deliveries to the worker, a hundred to the dead letters' function.
    assert stage.sink.total("InvalidInput") == 105 * len(ids)
    assert waited(stage) <= 106 * VISIBILITY
    nothing_is_quoted(stage)


def test_poison_in_the_dead_letters_fails_alone_and_ends_in_the_parking_queue(stage):
    saga_id = stage.start()
    (lost,) = stage.bodies("WorkQueue")
    stage.delete("WorkQueue", stage.receive("WorkQueue")[0])
    ids = batches(stage, "DeadLetterQueue", NOT_WORK, lost)
    assert deliver_all(stage, "DeadLetterQueue") == set(ids)
    reasons = refusals(stage, "dead_letters")
    for message_id, (_, reason) in zip(ids, NOT_WORK.values(), strict=True):
        assert reasons[message_id].startswith(reason)
    stage.run_until_quiet()
    assert stage.saga(saga_id).state is SagaState.COMPLETED
    assert len(stage.bodies("ParkingQueue")) == len(ids)
    nothing_is_quoted(stage)


def start(saga: object = "order", context: object = TEA, **more: object) -> str:
    """A start message."""
    return json.dumps({"saga": saga, "context": context, **more})


NOT_A_START = {
    "not JSON": ("{" + CANARY, "not-json"),
    "no object": (json.dumps([CANARY]), "invalid-message"),
    "another's JSON": (json.dumps({"orderId": CANARY}), "invalid-message"),
    "no context": (json.dumps({"saga": "order"}), "invalid-message"),
    "a field too many": (start(tenant=CANARY), "invalid-message"),
    "a saga that is no name": (start(saga=17), "invalid-message"),
    "a key that is no text": (start(idempotency_key=17), "invalid-message"),
    "an empty key": (start(idempotency_key=""), "invalid-idempotency-key"),
    "a long key": (start(idempotency_key=CANARY * 30), "invalid-idempotency-key"),
    "an unknown saga": (start(saga=CANARY), "unknown-saga"),
    "an invalid context": (start(context={"sku": CANARY, "quantity": 0}), "invalid-context"),
    "a context too large": (start(context={"sku": CANARY * 12_000}), "too-large"),
    "NaN": (start(context={"sku": float("nan")}), "not-json"),
    "nested": ('{"saga":"order","context":' + "[" * 40 + "]" * 40 + "}", "not-json"),
    "half a character": ('{"saga":"order","context":{"sku":"\\ud800"}}', "not-json"),
    "binary junk": (JUNK, "not-json"),
    "a work message": (ours(), "invalid-message"),
}


def test_poison_on_the_start_queue_fails_alone_and_ends_in_its_own_dead_letters(stage):
    ids = batches(stage, "StartQueue", NOT_A_START, start(idempotency_key="good"))
    assert deliver_all(stage, "StartQueue") == set(ids)
    reasons = refusals(stage, "starter")
    for message_id, (_, reason) in zip(ids, NOT_A_START.values(), strict=True):
        assert reasons[message_id] == reason
    (saga_id,) = stage.ids()
    stage.run_until_quiet()
    parked = stage.bodies("StartDeadLetterQueue")
    assert sorted(parked) == sorted(body for body, _ in NOT_A_START.values())
    assert stage.bodies("ParkingQueue") == []
    nothing_is_quoted(stage)
    assert stage.saga(saga_id).state is SagaState.COMPLETED
    assert world.standing() == FORWARD


def test_an_invalid_context_names_its_fields_in_the_log_and_no_value(stage):
    context = {"sku": CANARY * 9, "quantity": 0, CANARY: 1}
    stage.send("StartQueue", start(context=context))
    stage.deliver("StartQueue")
    (line,) = stage.sink.of("saga.refused")
    assert {"sku", "quantity"} <= set(line["fields"])


def test_a_bug_met_by_one_message_does_not_cost_the_others(stage):
    ids = [stage.start(key=key) for key in "abc"]

    def stumble() -> None:
        raise RuntimeError(CANARY)

    stage.dynamodb.before_next("update_item", stumble)
    batch = stage.deliver(most=3)
    assert batch.error is None
    assert batch.returned == (batch.messages[0]["MessageId"],)
    (line,) = stage.sink.of("saga.crashed")
    assert line["error_kind"] == "RuntimeError"
    nothing_is_quoted(stage)
    stage.run_until_quiet()
    assert {stage.saga(saga_id).state for saga_id in ids} == {SagaState.COMPLETED}


def test_a_record_of_a_newer_layout_is_left_to_newer_code(stage):
    """In the middle of a deployment an old worker meets it: nothing is spent, nobody else waits."""
    newer, other = stage.start(key="a"), stage.start(key="b")
    change = {
        "TableName": stage.table,
        "Key": {"pk": {"S": f"S#default#{newer}"}, "sk": {"S": "STATE"}},
        "UpdateExpression": "SET v = :v",
    }
    layout = stage.dynamodb.wrapped.get_item(TableName=stage.table, Key=change["Key"])["Item"]["v"]
    stage.dynamodb.wrapped.update_item(**change, ExpressionAttributeValues={":v": {"N": "99"}})
    batch = stage.deliver(most=2)
    assert batch.error is None
    assert len(batch.returned) == 1
    assert {call.saga_id for call in stage.attempts} == {other}
    stage.dynamodb.wrapped.update_item(**change, ExpressionAttributeValues={":v": layout})
    stage.run_until_quiet()
    for saga_id in (newer, other):
        assert stage.saga(saga_id).state is SagaState.COMPLETED
    assert {call.attempt for call in stage.attempts} == {1}
