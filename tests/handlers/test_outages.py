"""A table that refuses, fails or does not answer, and a queue likewise: nothing is burnt."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import pytest

from examples.services import world
from handlers._records import OutageError
from saga_core.instance import SagaInstance, SagaState
from tests.fakes.faults import Fault
from tests.handlers.sagas import (
    DECLINED,
    TEA,
    VISIBILITY,
    at,
    chain,
    compensated_once,
    completed_once,
    die_at,
    ended,
    tries,
    waited,
)
from tests.handlers.stage import SECOND, Stage, Staged, nothing

DONE = [Fault.ANSWER_LOST, Fault.SERVER_ERROR_DONE, Fault.REPEATED]
NOT_DONE = [Fault.THROTTLED, Fault.NOT_CONNECTED]


def trouble(stage: Stage, operation: str, fault: Fault, nth: int) -> None:
    """Let the nth call of this operation, counted from now, go wrong."""
    client = stage.sqs if operation == "send_message" else stage.dynamodb
    strike = at(f"before {operation}", lambda: client.fail_next(operation, fault), nth)
    stage.watch(strike)


def doubts(saga: SagaInstance) -> list[str]:
    return [step.name for step in saga.steps if step.doubt]


# -- answers that get lost -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "judge"), [(TEA, completed_once), (DECLINED, compensated_once)], ids=["ok", "undo"]
)
@pytest.mark.parametrize("fault", DONE)
def test_when_no_write_is_ever_answered_no_attempt_is_burnt(stage, fault, context, judge):
    """Each one is done; the repeat finds what the first left, and knows it for its own."""
    first = cycle([True]) if fault is Fault.REPEATED else cycle([True, False])

    def lose(moment: str) -> None:
        if moment == "before update_item" and next(first):
            stage.dynamodb.fail_next("update_item", fault)

    stage.watch(lose)
    stage.dynamodb.fail_next("put_item", fault)
    saga_id = stage.start(context=context)
    stage.run_until_quiet()
    judge(stage, saga_id)
    assert tries(stage) == {1}
    assert waited(stage) <= SECOND
    assert stage.sink.total("OwnWriteRecognised") == 2 * len(stage.attempts)
    assert stage.sink.total("SagaStarted") == 1


@pytest.mark.parametrize(
    ("context", "judge"), [(TEA, completed_once), (DECLINED, compensated_once)], ids=["ok", "undo"]
)
def test_when_no_send_is_ever_answered_no_attempt_is_burnt(stage, context, judge):
    stage.sqs.fail_next("send_message", *[Fault.ANSWER_LOST] * 100)
    saga_id = stage.start(context=context)
    stage.run_until_quiet()
    judge(stage, saga_id)
    assert tries(stage) == {1}
    # What came back is stale, and is at most announced once more for every move.
    assert stage.sqs.calls["send_message"] <= 2 * len(stage.attempts) + 1


@pytest.mark.parametrize("nth", range(1, 5))
@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.ANSWER_LOST])
def test_one_write_that_may_or_may_not_be_done_burns_nothing(staged: Staged, fault, nth):
    """A 500 says neither; done or not, the same write again settles it."""
    with staged(chain("one", "two")) as stage:
        saga_id = stage.start("chain", {})
        trouble(stage, "update_item", fault, nth)
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPLETED)
        assert tries(stage) == {1}
        assert stage.dynamodb.calls["update_item"] == 5
        assert stage.sink.total("OwnWriteRecognised") == (fault is Fault.ANSWER_LOST)


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("fault", [Fault.NOT_CONNECTED, Fault.THROTTLED, Fault.ANSWER_LOST])
def test_one_send_that_fails_costs_one_visibility_time_out(staged: Staged, fault, nth):
    with staged(chain("one", "two", "three")) as stage:
        saga_id = stage.start("chain", {})
        trouble(stage, "send_message", fault, nth)
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPLETED)
        assert tries(stage) == {1}
        assert stage.sink.decisions("worker").count("send_failed") == 1
        assert waited(stage) <= VISIBILITY + SECOND


@pytest.mark.parametrize("fault", [*DONE, Fault.SERVER_ERROR, *NOT_DONE])
@pytest.mark.parametrize("operation", ["update_item", "send_message"])
def test_trouble_while_a_work_item_is_announced_anew_loses_nothing(staged, operation, fault):
    """The worker had died before its send; now the guard, or the send after it, goes wrong."""
    with staged(chain("one", "two")) as stage:
        saga_id = stage.start("chain", {})
        stage.watch(die_at("before send_message"))
        stage.deliver()
        stage.watch(nothing)
        stage.leap()
        # The first write of the next delivery is the claim that is refused.
        trouble(stage, operation, fault, 2 if operation == "update_item" else 1)
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPLETED)
        assert tries(stage) == {1}
        assert waited(stage) <= 3 * VISIBILITY


# -- a table that refuses ------------------------------------------------------------------


@pytest.mark.parametrize("fault", NOT_DONE)
def test_a_claim_that_is_throttled_is_left_to_the_next_delivery(stage, fault):
    saga_id = stage.start()
    stage.dynamodb.fail_next("update_item", fault)
    batch = stage.deliver()
    assert isinstance(batch.error, OutageError)
    assert stage.attempts == []
    assert stage.saga(saga_id).lane.tries == 0
    assert stage.dynamodb.calls["update_item"] == 1  # somebody tries again later, at no cost
    stage.run_until_quiet()
    completed_once(stage, saga_id)
    assert tries(stage) == {1}


@pytest.mark.parametrize("fault", [*NOT_DONE, Fault.SERVER_ERROR])
def test_a_commit_that_is_throttled_is_repeated_while_time_remains(stage, fault):
    saga_id = stage.start()
    strike = at(
        "after execute create_order", lambda: stage.dynamodb.fail_next("update_item", *[fault] * 20)
    )
    stage.watch(strike)
    stage.run_until_quiet()
    completed_once(stage, saga_id)
    assert tries(stage) == {1}
    assert waited(stage) == 20 * 50


def test_a_commit_that_is_throttled_to_the_end_is_an_attempt_that_vanished(stage):
    """The lease runs out, and the step runs again under the same key."""
    saga_id = stage.start()
    strike = at(
        "after execute create_order",
        lambda: stage.dynamodb.fail_next("update_item", *[Fault.THROTTLED] * 10_000),
    )
    stage.watch(strike)
    batch = stage.deliver()
    assert isinstance(batch.error, OutageError)
    assert 25 * SECOND < waited(stage) < 30 * SECOND  # it gave up before it was killed
    stage.heal()
    stage.run_until_quiet()
    saga = completed_once(stage, saga_id)
    assert saga.step_results[0].attempts == 2
    assert doubts(saga) == []  # it succeeded in the end


def test_a_denied_table_keeps_the_message(stage):
    saga_id = stage.start()
    stage.dynamodb.fail_next("update_item", Fault.DENIED)
    assert isinstance(stage.deliver().error, OutageError)
    stage.run_until_quiet()
    completed_once(stage, saga_id)


# -- how the poller hears of it ------------------------------------------------------------


@pytest.fixture
def three(staged: Staged) -> Iterator[Stage]:
    """Three sagas whose first messages are in the queue."""
    with staged(chain("one")) as stage:
        for key in "abc":
            stage.start("chain", {}, key=key)
        yield stage


def test_an_outage_of_the_whole_batch_raises_so_that_the_poller_slows_down(three: Stage):
    three.dynamodb.fail_next("update_item", *[Fault.THROTTLED] * 3)
    batch = three.deliver(most=3)
    assert isinstance(batch.error, OutageError)
    three.run_until_quiet()
    assert {three.saga(saga_id).state for saga_id in three.ids()} == {SagaState.COMPLETED}
    assert tries(three) == {1}


def test_an_outage_of_a_part_keeps_that_part_alone(three: Stage):
    three.dynamodb.fail_next("update_item", Fault.THROTTLED)
    batch = three.deliver(most=3)
    assert batch.error is None
    assert batch.returned == (batch.messages[0]["MessageId"],)
    assert world.effects("one") == 2
    three.run_until_quiet()
    assert world.effects("one") == 3


def test_a_postponed_message_is_no_outage(stage):
    """With batches of one every postponement is the whole batch; the poller shall not slow down."""
    stage.start()
    seen = []
    stage.watch(
        at(
            "before execute create_order",
            lambda: seen.append(stage.hand_over("WorkQueue", stage.in_hand)),
        )
    )
    stage.deliver()
    (batch,) = seen
    assert batch.error is None
    assert batch.returned


@pytest.mark.parametrize("queue", ["DeadLetterQueue", "StartQueue"])
def test_the_other_functions_raise_on_an_outage_too(stage, queue):
    saga_id = stage.start()
    (body,) = stage.bodies("WorkQueue")
    if queue == "StartQueue":
        body = '{"saga":"order","context":{"sku":"tea"}}'
    stage.send(queue, body)
    for operation in ("get_item", "put_item"):
        stage.dynamodb.fail_next(operation, Fault.THROTTLED)
    assert isinstance(stage.deliver(queue).error, OutageError)
    stage.heal()
    stage.run_until_quiet()
    assert stage.saga(saga_id).state is SagaState.COMPLETED


def test_postponing_is_best_effort(stage):
    """A queue that refuses it costs time: the message comes back after the queue's own."""
    saga_id = stage.start()
    stage.sqs.fail_next("change_message_visibility", Fault.DENIED)
    stage.watch(
        at(
            "before execute create_order",
            lambda: stage.hand_over("WorkQueue", stage.in_hand),
        )
    )
    stage.deliver()
    stage.watch(nothing)
    stage.run_until_quiet()
    completed_once(stage, saga_id)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/sagas/{}"), ("GET", "/sagas"), ("POST", "/sagas/{}/cancel")]
)
def test_over_http_an_outage_is_a_503_that_says_to_try_again(stage, method, path):
    saga_id = stage.start()
    for operation in ("get_item", "query"):
        stage.dynamodb.fail_next(operation, Fault.THROTTLED)
    answer = stage.http(method, path.format(saga_id))
    assert (answer.status, answer.problem) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
