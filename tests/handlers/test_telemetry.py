"""The audit trail: one line for each decision, and the numbers that the alarms watch."""

from __future__ import annotations

import hashlib

import pytest

from examples.services import world
from tests.handlers.sagas import DECLINED, TEA, at, die_at
from tests.handlers.stage import SECOND, nothing

ALWAYS = {
    "function",
    "decision",
    "acknowledged",
    "correlation_id",
    "own_writes_recognised",
    "saga_id",
    "tenant_hash",
    "saga",
    "definition",
    "epoch",
    "ver",
    "to",
}
OF_AN_ATTEMPT = {"from", "step", "phase", "attempt", "result"}


def test_every_delivery_to_the_worker_is_one_line(stage):
    stage.start(context=DECLINED)
    deliveries = 0
    while stage.deliver().messages:
        deliveries += 1
    lines = [fields for _, _, fields in stage.sink.lines if fields.get("function") == "worker"]
    assert len(lines) == deliveries == 5
    assert [(f["step"], f["phase"], f["attempt"], f["result"], f["to"]) for f in lines] == [
        ("create_order", "forward", 1, "StepSucceeded", "RUNNING"),
        ("reserve_stock", "forward", 1, "StepSucceeded", "RUNNING"),
        ("charge_card", "forward", 1, "StepFailed", "COMPENSATING"),
        ("reserve_stock", "compensation", 1, "CompensationSucceeded", "COMPENSATING"),
        ("create_order", "compensation", 1, "CompensationSucceeded", "COMPENSATED"),
    ]
    assert lines[2]["error_kind"] == "CardDeclinedError"
    assert lines[2]["error_length"] == len("the card was declined")


@pytest.mark.parametrize("context", [TEA, DECLINED], ids=["completing", "compensating"])
def test_a_line_says_what_is_asked_for_in_an_incident(stage, context):
    saga_id = stage.start(context=context)
    stage.run_until_quiet()
    correlation = stage.sink.of("saga.started")[0]["correlation_id"]
    assert correlation
    for level, message, fields in stage.sink.lines[1:]:
        assert (level, message) == ("INFO", "saga.committed")
        assert fields.keys() - {"error_kind", "error_length"} == ALWAYS | OF_AN_ATTEMPT
        assert fields["saga_id"] == saga_id
        assert fields["saga"] == "order"
        assert fields["tenant_hash"] == hashlib.sha256(b"default").hexdigest()[:12]
        assert fields["correlation_id"] == correlation  # from the request to the last step
    versions = [fields["ver"] for _, _, fields in stage.sink.lines]
    assert versions == sorted(versions)


def test_a_saga_counts_its_beginning_its_end_and_what_it_took(stage):
    stage.start()

    def dawdle() -> None:
        stage.clock.now += 2 * SECOND

    stage.watch(at("after execute reserve_stock", dawdle))
    stage.run_until_quiet()
    assert stage.sink.metrics[0] == ("order", {"SagaStarted": 1})
    saga, last = stage.sink.metrics[-1]
    assert saga == "order"
    assert last["SagaCompleted"] == 1
    assert last["SagaDurationMs"] == 2 * SECOND
    assert last["ContextBytes"] > 0
    assert 0 < last["HopBudgetUsedPercent"] < 10
    assert stage.sink.total("StepRetries") == 0


def test_a_retry_counts(stage):
    world.refuse("stock.reserve", ValueError("no"))
    stage.start()
    stage.run_until_quiet()
    assert stage.sink.total("StepRetries") == 1
    assert stage.sink.total("SagaCompleted") == 1


def test_each_kind_of_trouble_counts_under_its_name(stage):
    saga_id = stage.start()
    (message,) = stage.receive("WorkQueue")

    def again() -> None:
        stage.hand_over("WorkQueue", [message])

    stage.watch(at("before execute create_order", again))
    stage.hand_over("WorkQueue", [message])
    stage.watch(nothing)
    assert stage.sink.total("LeaseConflict") == 1
    again()  # stale, and nobody has the next
    assert stage.sink.total("Redispatch") == 1
    again()  # within the minute
    assert stage.sink.total("RedispatchSuppressed") == 1
    body = message["Body"].replace(saga_id, "somebody-else")
    stage.send("WorkQueue", body)
    stage.run_until_quiet()
    assert stage.sink.total("OrphanMessage") == 1


def test_trouble_is_a_warning_and_the_rest_is_not(stage):
    saga_id = stage.start()
    stage.watch(die_at("before send_message"))
    stage.deliver()
    stage.watch(nothing)
    stage.deploy()
    stage.run_until_quiet()
    assert stage.saga(saga_id).why is not None
    levels = {(message, level) for level, message, _ in stage.sink.lines}
    assert ("saga.definition_missing", "WARNING") in levels
    assert ("saga.stalled", "WARNING") in levels
    assert ("saga.revived", "INFO") in levels
    stalled = stage.sink.of("saga.stalled")
    assert [line["why"] for line in stalled] == ["STALLED"]


def test_a_line_names_the_saga_also_where_the_saga_was_not_read(stage):
    saga_id = stage.start()
    stage.deploy()
    stage.deliver()
    (line,) = stage.sink.of("saga.definition_missing")
    assert line["saga_id"] == saga_id
    assert line["tenant_hash"] == hashlib.sha256(b"default").hexdigest()[:12]
    assert line["definition"].startswith("order@1#")
