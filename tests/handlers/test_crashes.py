"""The process dies before and after every single call, and the saga arrives all the same.

The sweeper is off: it would hide a lost message. What recovers is the message in
hand, which nobody deleted, and for the start the client, who has no answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from examples.services import WorkerKilledError, world
from saga_core.instance import SagaInstance, SagaState, StepStatus
from tests.fakes.faults import Killed
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
    same_keys,
    waited,
)
from tests.handlers.stage import FED, SECOND, Stage, Staged

Judge = Callable[[Stage, str], SagaInstance]


# -- every call ----------------------------------------------------------------------------


@dataclass
class Run:
    """The moments of a run, what was lasting at each of them, and a kill at one of them."""

    stage: Stage
    kill_at: int | None = None
    moments: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)

    def __call__(self, moment: str) -> None:
        self.moments.append(moment)
        if self.kill_at is None:
            self.states.append(lasting(self.stage))
        elif len(self.moments) == self.kill_at + 1:
            raise Killed


def lasting(stage: Stage) -> str:
    """All that a killed process leaves behind: the table, the queues, the world, the time."""
    items = stage.dynamodb.wrapped.scan(TableName=stage.table)["Items"]
    messages = [
        (queue, m.body, m.approximate_receive_count, m.visible_at, m.delayed_until)
        for queue in FED
        for m in stage.messages(queue)
    ]
    return repr((stage.clock.now, items, messages, world.calls))


def order_killed_at(
    moment: int | None, staged: Staged, context: Mapping[str, object], judge: Judge
) -> Run:
    """Run an order with a kill at this moment."""
    with staged() as stage:
        run = Run(stage, moment)
        stage.watch(run)
        saga_id = stage.start(context=context)
        stage.run_until_quiet()
        judge(stage, saga_id)
        # One crash costs one visibility time-out, and the delivery after it.
        assert waited(stage) <= VISIBILITY + SECOND
        return run


@pytest.mark.parametrize(
    ("context", "judge", "moments", "states"),
    [(TEA, completed_once, 44, 22), (DECLINED, compensated_once, 54, 27)],
    ids=["completing", "compensating"],
)
def test_an_order_survives_a_kill_before_and_after_every_call(
    staged, context, judge, moments, states
):
    """From the start request on: calls to AWS, to the steps' handlers and to our functions.

    After one call is often before the next, with the same state left behind: then
    one kill stands for both, unless HYPOTHESIS_PROFILE=deep asks for all of them.
    """
    run = order_killed_at(None, staged, context, judge)
    assert {"before put_item", "after send_message", "after execute reserve_stock"} <= {
        *run.moments
    }
    points = [n for n, state in enumerate(run.states) if state not in run.states[:n]]
    print(f"{len(run.moments)} crash points leave {len(points)} states")  # noqa: T201 - pytest -rP
    assert (len(run.moments), len(points)) == (moments, states)
    if os.environ.get("HYPOTHESIS_PROFILE") == "deep":
        points = list(range(moments))
    failed = {}
    for point in points:
        try:
            order_killed_at(point, staged, context, judge)
        except AssertionError as error:
            failed[point, run.moments[point]] = error
    assert not failed


# -- the two crashes that sagas are famous for ---------------------------------------------


def test_a_kill_between_the_state_write_and_the_send_loses_nothing(stage):
    saga_id = stage.start()
    stage.watch(die_at("before send_message"))
    assert stage.deliver().killed
    assert stage.saga(saga_id).lane.epoch == 2  # the result is stored
    (left,) = stage.bodies("WorkQueue")  # and nothing announces what follows
    assert '"e":1' in left
    stage.run_until_quiet()
    completed_once(stage, saga_id)
    assert stage.sink.decisions("worker").count("redispatched") == 1
    assert waited(stage) <= VISIBILITY + SECOND


@pytest.mark.parametrize("done", [False, True], ids=["before its effect", "after its effect"])
def test_a_kill_in_the_middle_of_a_step_runs_it_again_under_the_same_key(stage, done):
    plan = world.lose_reply if done else world.refuse
    plan("payments.charge", WorkerKilledError())
    saga_id = stage.start()
    assert [stage.deliver().killed for _ in range(3)] == [False, False, True]
    charging = stage.saga(saga_id)
    assert charging.lane.lease is not None  # nothing is recorded but the claim
    assert charging.step_results[2].status is StepStatus.RUNNING
    assert world.effects("payments.charge") == (1 if done else 0)
    stage.run_until_quiet()
    saga = completed_once(stage, saga_id)
    charges = [call for call in stage.attempts if call.step == "charge_card"]
    assert [call.attempt for call in charges] == [1, 2]
    assert saga.step_results[2].attempts == 2


def test_an_async_step_that_is_killed_is_not_recorded_as_an_outcome(stage):
    trip = {"hotel": "Ritz", "flight": "LH 1", "car": "compact"}
    stage.watch(die_at("after execute flight"))
    saga_id = stage.start("travel", trip)
    stage.run_until_quiet()
    saga = ended(stage, saga_id, SagaState.COMPLETED)
    assert [result.attempts for result in saga.step_results] == [1, 2, 1]
    assert [world.effects(f"{kind}.book") for kind in ("hotel", "flight", "car")] == [1, 1, 1]
    same_keys(stage)


def test_a_step_that_kills_every_worker_is_given_up_and_undone_too(staged):
    with staged(chain("first", "deadly")) as stage:

        def kill(moment: str) -> None:
            if moment == "after execute deadly":
                raise Killed

        stage.watch(kill)
        saga_id = stage.start("chain", {})
        stage.run_until_quiet()
        saga = ended(stage, saga_id, SagaState.COMPENSATED)
        assert saga.cause is not None
        assert saga.cause.error is not None
        assert saga.cause.error.kind == "AttemptsLost"
        deadly = [call for call in stage.attempts if call.step == "deadly"]
        assert [(call.direction.value, call.attempt) for call in deadly] == [
            ("F", 1),
            ("F", 2),
            ("F", 3),
            ("C", 1),
        ]
        assert world.effects("deadly") == 1
        assert world.standing() == []


def test_a_worker_that_dies_after_a_failure_leaves_the_step_in_doubt(stage):
    """A clean failure says nothing of the attempt that vanished before it."""
    world.lose_reply("payments.charge", WorkerKilledError())
    saga_id = stage.start()
    assert [stage.deliver().killed for _ in range(3)] == [False, False, True]
    for _ in range(3):
        world.refuse("payments.charge", ValueError("no"))
    stage.run_until_quiet()
    ended(stage, saga_id, SagaState.COMPENSATED)
    refunds = [call for call in stage.attempts if call.step == "charge_card"][-1:]
    assert [(call.direction.value, call.in_doubt) for call in refunds] == [("C", True)]
    assert world.standing() == []


@pytest.mark.parametrize("seconds", [24, 0])
def test_an_invocation_without_time_for_a_step_touches_nothing(stage, seconds):
    saga_id = stage.start()
    before = stage.saga(saga_id)
    (message,) = stage.receive("WorkQueue")

    def dawdle() -> None:  # the records before it in the batch took this long
        stage.clock.now += 30 * SECOND - seconds * SECOND

    stage.watch(at("before handlers.worker.handler", dawdle))
    with stage.counting() as calls:
        assert stage.hand_over("WorkQueue", [message]).returned
    assert calls == {}
    assert stage.sink.decisions("worker") == ["no_time"]
    assert stage.saga(saga_id) == before
    stage.run_until_quiet()
    completed_once(stage, saga_id)
