"""A work item that ran out of deliveries comes back, with growing pauses and never as a copy."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from examples.services import ServiceError, world
from saga_core.instance import SagaState, Why
from saga_core.retry import RetryPolicy
from tests.fakes.faults import Fault, Killed
from tests.handlers.sagas import (
    VISIBILITY,
    at,
    chain,
    completed_once,
    die_at,
    ended,
    step,
    tries,
    waited,
)
from tests.handlers.stage import HOUR, MINUTE, SECOND, Stage, Staged, nothing

DLQ = "DeadLetterQueue"


def to_the_dead_letters(stage: Stage) -> None:
    """The message that is due runs out of deliveries."""
    (message,) = stage.receive("WorkQueue")
    stage.send(DLQ, message["Body"])
    stage.delete("WorkQueue", message)


def last(stage: Stage) -> str:
    return stage.sink.decisions("dead_letters")[-1]


# -- the whole way -------------------------------------------------------------------------


def exhausted(stage: Stage) -> str:
    """An order whose first message has had five deliveries in vain."""
    saga_id = stage.start()
    stage.dynamodb.fail_next("update_item", *[Fault.THROTTLED] * 5)
    for _ in range(5):
        assert stage.deliver().error is not None
        stage.leap()
    assert not stage.deliver().messages  # this receive moves it on
    assert len(stage.bodies(DLQ)) == 1
    return saga_id


def test_a_message_that_runs_out_of_deliveries_comes_back_and_burns_nothing(stage):
    saga_id = exhausted(stage)
    stage.deliver(DLQ)
    assert last(stage) == "revived"
    saga = stage.saga(saga_id)
    assert (saga.stalls, saga.lane.tries) == (1, 0)
    (body,) = stage.bodies("WorkQueue")
    assert json.loads(body)["r"] == "dead_letter"
    assert not stage.deliver().messages  # after a pause
    before = stage.clock.now
    stage.run_until_quiet()
    completed_once(stage, saga_id)
    assert stage.clock.now - before == MINUTE + 1
    assert stage.saga(saga_id).stalls == 0
    assert tries(stage) == {1}
    assert stage.sink.total("DlqHandled") == 1


def revived_with_a_kill_at(nth: int, staged: Staged) -> int:
    """The dead letters' function dies at its nth moment; the sweeper is off."""
    with staged() as stage:
        saga_id = exhausted(stage)
        moments = []

        def boundary(moment: str) -> None:
            moments.append(moment)
            if len(moments) == nth:
                raise Killed

        stage.watch(boundary)
        stage.deliver(DLQ)
        count = len(moments)
        stage.watch(nothing)
        stage.run_until_quiet()
        completed_once(stage, saga_id)
        assert tries(stage) == {1}
        return count


def test_a_kill_before_and_after_every_call_of_its_function_loses_nothing(staged: Staged):
    points = revived_with_a_kill_at(0, staged)
    assert points == 8  # the function, a read, a write and a send
    for nth in range(1, points + 1):
        revived_with_a_kill_at(nth, staged)


def test_a_saga_that_nobody_can_move_stops_after_five_visits(stage):
    """Nobody knows why: the definition is there, and every delivery fails."""
    saga_id = stage.start()

    def break_claims(moment: str) -> None:
        if moment == "before handlers.worker.handler":
            stage.dynamodb.fail_next("update_item", Fault.DENIED)

    stage.watch(break_claims)
    stage.run_until_quiet()
    saga = ended(stage, saga_id, SagaState.FAILED)
    assert saga.why is Why.STALLED
    assert saga.failure is not None
    assert saga.failure.kind == "DeliveryExhausted"
    assert world.calls == []
    body = stage.http("GET", f"/sagas/{saga_id}").body
    assert body["failure"]["to_do"] == (
        "Find out what keeps create_order from running, then resume the saga, or cancel it."
    )
    stage.heal()
    assert stage.http("POST", f"/sagas/{saga_id}/resume").status == 202
    stage.run_until_quiet()
    completed_once(stage, saga_id)


@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.SERVER_ERROR, Fault.THROTTLED])
@pytest.mark.parametrize("operation", ["get_item", "update_item", "send_message"])
def test_trouble_at_each_of_its_calls_loses_nothing(stage, operation, fault):
    saga_id = exhausted(stage)
    client = stage.sqs if operation == "send_message" else stage.dynamodb
    client.fail_next(operation, fault)
    stage.run_until_quiet()
    completed_once(stage, saga_id)
    assert tries(stage) == {1}
    assert waited(stage) <= HOUR


# -- one row of the guard each -------------------------------------------------------------


def test_a_dead_letter_of_no_saga_is_deleted(stage):
    stage.start()
    (body,) = stage.bodies("WorkQueue")
    stage.send(DLQ, body.replace("default#", "default#x"))
    assert stage.deliver(DLQ).returned == ()
    assert last(stage) == "orphan"
    assert stage.sink.total("OrphanMessage") == 1


@pytest.mark.parametrize("state", [SagaState.COMPLETED, SagaState.FAILED])
def test_a_dead_letter_of_a_saga_that_rests_is_deleted(stage, state):
    saga_id = stage.start()
    (body,) = stage.bodies("WorkQueue")
    if state is SagaState.FAILED:
        stage.deploy()
    stage.run_until_quiet()
    before = stage.saga(saga_id)
    assert before.state is state
    stage.clock.now += 20 * 24 * HOUR
    stage.send(DLQ, body)
    with stage.counting() as calls:
        assert stage.deliver(DLQ).returned == ()
    assert calls == {"get_item": 1}
    assert last(stage) == "closed"
    assert stage.saga(saga_id) == before


def test_a_dead_letter_whose_work_item_is_in_somebodys_hands_is_left(stage):
    saga_id = stage.start()
    (message,) = stage.receive("WorkQueue")
    seen = []

    def visit() -> None:
        stage.send(DLQ, message["Body"])
        seen.append(stage.deliver(DLQ))

    stage.watch(at("before execute create_order", visit))
    stage.hand_over("WorkQueue", [message])
    (batch,) = seen
    assert batch.returned
    assert last(stage) == "suppressed"
    stage.watch(nothing)
    stage.run_until_quiet()
    completed_once(stage, saga_id)


def test_a_dead_letter_of_a_settled_item_is_deleted_when_the_next_had_a_holder(stage):
    """While the holder is at work it is left; later the holder's own message is enough."""
    saga_id = stage.start()
    (message,) = stage.deliver().messages
    stage.send(DLQ, message["Body"])
    seen = []

    def visit_and_die() -> None:
        seen.append(stage.deliver(DLQ))
        raise Killed

    stage.watch(at("before execute reserve_stock", visit_and_die))
    assert stage.deliver().killed
    stage.watch(nothing)
    assert seen[0].returned
    assert last(stage) == "suppressed"
    stage.clock.now += MINUTE  # the lease is over, and neither message is back
    assert stage.hand_over(DLQ, seen[0].messages).returned == ()
    assert last(stage) == "stale"
    stage.run_until_quiet()
    completed_once(stage, saga_id)


def test_a_dead_letter_of_a_settled_item_announces_the_next_if_nobody_has_it(stage):
    """The worker had died between its commit and its send, and this was the last copy."""
    saga_id = stage.start()
    stage.watch(die_at("before send_message"))
    stage.deliver()
    stage.watch(nothing)
    stage.clock.now += VISIBILITY + SECOND
    to_the_dead_letters(stage)
    with stage.counting() as calls:
        assert stage.deliver(DLQ).returned == ()
    assert calls == {"get_item": 1, "update_item": 1, "send_message": 1}
    assert last(stage) == "redispatched"
    assert stage.saga(saga_id).stalls == 0  # no fault of the saga's
    stage.run_until_quiet()
    completed_once(stage, saga_id)


def test_two_dead_letters_of_one_item_make_one_message(stage):
    saga_id = stage.start()
    (body,) = stage.bodies("WorkQueue")
    to_the_dead_letters(stage)
    stage.send(DLQ, body)
    assert stage.deliver(DLQ).returned == ()
    assert stage.deliver(DLQ).returned  # the guard: it comes back after its minute
    assert stage.sink.decisions("dead_letters") == ["revived", "suppressed"]
    assert len(stage.bodies("WorkQueue")) == 1
    stage.run_until_quiet()
    completed_once(stage, saga_id)


def test_a_dead_letter_that_waits_rightly_is_announced_for_its_time(staged: Staged):
    pause = timedelta(minutes=20)
    policy = RetryPolicy(max_attempts=2, base=pause, cap=pause)
    with staged(chain(step("one", retry=policy))) as stage:
        world.refuse("one", ServiceError("not now"))
        saga_id = stage.start("chain", {})
        stage.deliver()
        (waiting,) = stage.messages("WorkQueue")
        waiting.delayed_until = 0.0
        to_the_dead_letters(stage)
        assert stage.deliver(DLQ).returned == ()
        assert last(stage) == "redispatched"
        assert stage.saga(saga_id).stalls == 0
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPLETED)
        assert 10 * MINUTE <= waited(stage) <= 10 * MINUTE + SECOND


def test_a_dead_letter_that_cannot_be_decided_in_five_hours_is_parked(stage):
    """For a person; the saga itself is the sweeper's by then."""
    saga_id = stage.start()
    to_the_dead_letters(stage)
    stage.dynamodb.fail_next("get_item", *[Fault.THROTTLED] * 100)
    stage.run_until_quiet()
    assert len(stage.bodies("ParkingQueue")) == 1
    assert 5 * HOUR <= waited(stage) < 5 * HOUR + VISIBILITY
    assert stage.saga(saga_id).lane.tries == 0
    stage.run_until_quiet(sweeper=True)
    assert stage.saga(saga_id).state is SagaState.COMPENSATED  # its deadline has passed
