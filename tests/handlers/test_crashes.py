"""The process dies before and after every single call, and the saga arrives all the same.

The sweeper is off: it would hide a lost message. What recovers is the message in
hand, which nobody deleted, and for the start the client, who has no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
from tests.handlers.stage import SECOND, Stage, Staged

Judge = Callable[[Stage, str], SagaInstance]


# -- every call ----------------------------------------------------------------------------


class KillAt:
    """A kill at the nth moment of a run; counts the moments."""

    def __init__(self, nth: int) -> None:
        self.nth = nth
        self.moments: list[str] = []

    def __call__(self, moment: str) -> None:
        self.moments.append(moment)
        if len(self.moments) == self.nth:
            raise Killed


def order_killed_at(
    nth: int, staged: Staged, context: Mapping[str, object], judge: Judge
) -> list[str]:
    """Run an order with a kill at the nth moment; give the moments that it had."""
    with staged() as stage:
        kill = KillAt(nth)
        stage.watch(kill)
        saga_id = stage.start(context=context)
        stage.run_until_quiet()
        judge(stage, saga_id)
        # One crash costs one visibility time-out, and the delivery after it.
        assert waited(stage) <= VISIBILITY + SECOND
        return kill.moments


@pytest.mark.parametrize(
    ("context", "judge", "points"),
    [(TEA, completed_once, 44), (DECLINED, compensated_once, 54)],
    ids=["completing", "compensating"],
)
def test_an_order_survives_a_kill_before_and_after_every_call(staged, context, judge, points):
    moments = order_killed_at(0, staged, context, judge)
    assert len(moments) == points
    assert {"before put_item", "after send_message", "after execute reserve_stock"} <= {*moments}
    failed = {}
    for nth in range(1, points + 1):
        try:
            order_killed_at(nth, staged, context, judge)
        except AssertionError as error:
            failed[nth, moments[nth - 1]] = error
    print(f"{points} crash points")  # noqa: T201 - shown by pytest -rP
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
