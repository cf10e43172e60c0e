"""What a saga costs, counted at the clients: this is the price list of the README."""

from __future__ import annotations

import pytest

from examples.services import ServiceError, world
from tests.handlers.sagas import DECLINED, TEA, at, compensated_once, completed_once, tries, waited
from tests.handlers.stage import SECOND

STEP = {"update_item": 2, "send_message": 1}
LAST = {"update_item": 2}


def test_a_start_is_one_write_and_one_send(stage):
    with stage.counting() as calls:
        stage.start()
    assert calls == {"put_item": 1, "send_message": 1}


def test_a_start_over_sqs_costs_the_same(stage):
    stage.send("StartQueue", '{"saga":"order","context":{"sku":"tea"}}')
    with stage.counting() as calls:
        stage.deliver("StartQueue")
    assert calls == {"put_item": 1, "send_message": 1}


@pytest.mark.parametrize(
    ("context", "judge", "moves"),
    [(TEA, completed_once, 4), (DECLINED, compensated_once, 5)],
    ids=["completing", "compensating"],
)
def test_each_step_or_undo_is_two_writes_and_a_send_and_the_last_one_sends_nothing(
    stage, context, judge, moves
):
    saga_id = stage.start(context=context)
    costs = []
    while True:
        with stage.counting() as calls:
            if not stage.deliver().messages:
                break
        costs.append(dict(calls))
    assert costs == [STEP] * (moves - 1) + [LAST]
    judge(stage, saga_id)
    assert tries(stage) == {1}  # without faults nothing is burnt
    assert waited(stage) == 0


def test_a_retry_costs_what_a_step_costs_and_waits_in_the_queue(stage):
    world.refuse("stock.reserve", ServiceError("busy"))
    saga_id = stage.start()
    stage.deliver()
    with stage.counting() as calls:
        stage.deliver()
    assert calls == STEP
    assert not stage.deliver().messages  # delayed
    stage.run_until_quiet()
    completed_once(stage, saga_id)
    assert waited(stage) <= SECOND + 1


def test_a_duplicate_is_one_refused_write_and_nothing_else(stage):
    saga_id = stage.start()
    (first,) = stage.deliver().messages
    seen = []

    def duplicate() -> None:  # while the next work item is in somebody's hands
        with stage.counting() as calls:
            assert stage.hand_over("WorkQueue", [first]).returned == ()
        seen.append(dict(calls))

    stage.watch(at("before execute reserve_stock", duplicate))
    stage.deliver()
    assert seen == [{"update_item": 1}]
    stage.heal()
    stage.run_until_quiet()
    completed_once(stage, saga_id)
    with stage.counting() as calls:  # after the end
        stage.hand_over("WorkQueue", [first])
    assert calls == {"update_item": 1}


def test_reading_a_saga_is_one_read(stage):
    saga_id = stage.start()
    with stage.counting() as calls:
        stage.http("GET", f"/sagas/{saga_id}")
    assert calls == {"get_item": 1}


def test_a_request_is_one_read_one_write_and_one_send(stage):
    saga_id = stage.start()
    with stage.counting() as calls:
        stage.http("POST", f"/sagas/{saga_id}/cancel")
    assert calls == {"get_item": 1, "update_item": 1, "send_message": 1}


def test_a_request_that_cannot_be_right_costs_nothing(stage):
    with stage.counting() as calls:
        stage.http("POST", "/sagas/order", {"sku": ""}, key="a")
        stage.http("GET", "/sagas/a%23b")
        stage.http("POST", "/sagas/nothing", {}, key="a")
    assert calls == {}
