"""Cancel, resume and skip over HTTP, at every moment at which a person may send them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from examples.services import ServiceError, WorkerKilledError, world
from saga_core.definition import SagaDefinition
from saga_core.instance import CauseKind, SagaState, StepStatus
from saga_core.retry import RetryPolicy
from tests.fakes.faults import Fault
from tests.handlers.sagas import at, chain, completed_once, ended, step, tries, waited
from tests.handlers.stage import HOUR, MINUTE, ORDER, SECOND, Answer, Stage, Staged, nothing

BROKEN = ServiceError("out of order")


def ask(stage: Stage, saga_id: str, what: str, body: object = None) -> Answer:
    return stage.http("POST", f"/sagas/{saga_id}/{what}", body)


def refused(answer: Answer, reason: str, state: SagaState) -> None:
    assert (answer.status, answer.problem) == (409, "not-allowed")
    assert answer.body["reason"] == reason
    assert answer.body["state"] == state.value
    assert answer.body["detail"]


# -- cancel --------------------------------------------------------------------------------


def moments_of_a_run(staged: Staged) -> list[str]:
    moments: list[str] = []
    with staged(chain("one", "two")) as stage:
        saga_id = stage.start("chain", {})
        stage.watch(moments.append)
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPLETED)
    return moments


def cancelled_at(staged: Staged, moment: str, nth: int) -> None:
    """Never COMPLETED, and no forward call starts any more; what had begun is undone."""
    with staged(chain("one", "two")) as stage:
        saga_id = stage.start("chain", {})
        begun: list[int] = []

        def cancel() -> None:
            stage.watch(nothing)
            assert ask(stage, saga_id, "cancel").status == 202
            begun.append(len(stage.attempts))

        stage.watch(at(moment, cancel, nth))
        stage.run_until_quiet()
        saga = ended(stage, saga_id, SagaState.COMPENSATED)
        assert saga.cause is not None
        assert saga.cause.kind is CauseKind.CANCELLED
        assert saga.cause.by == "arn:aws:iam::123456789012:user/local"
        later = stage.attempts[begun[0] :]
        assert {(call.direction.value, call.reason) for call in later} <= {("C", "cancelled")}
        assert world.standing() == []
        assert tries(stage) <= {1}


def test_a_cancel_that_was_accepted_is_kept_at_whatever_moment_it_came(staged: Staged):
    moments = moments_of_a_run(staged)
    # After one call is before the next: half of them will do.
    tried = [n for n, moment in enumerate(moments) if moment.startswith("before ")]
    for n in tried:
        cancelled_at(staged, moments[n], moments[: n + 1].count(moments[n]))
    assert len(tried) == 9


def test_a_cancel_in_the_middle_of_a_step_waits_for_it_and_sends_nothing(stage):
    saga_id = stage.start()
    costs = []

    def cancel() -> None:
        with stage.counting() as calls:
            assert ask(stage, saga_id, "cancel").status == 202
        costs.append(dict(calls))

    stage.watch(at("before execute create_order", cancel))
    with stage.counting() as calls:
        stage.deliver()
    assert costs == [{"get_item": 1, "update_item": 1}]  # its worker will see it
    assert calls["update_item"] == 4  # claim, cancel, a refused commit, the commit
    saga = stage.saga(saga_id)
    assert saga.state is SagaState.COMPENSATING
    assert saga.step_results[0].status is StepStatus.COMPENSATING  # recorded, then undone
    stage.run_until_quiet()
    ended(stage, saga_id, SagaState.COMPENSATED)


def test_a_cancel_before_anything_ran_undoes_nothing(stage):
    saga_id = stage.start()
    assert ask(stage, saga_id, "cancel").status == 202
    stage.run_until_quiet()
    saga = ended(stage, saga_id, SagaState.COMPENSATED)
    assert stage.attempts == []
    assert {result.status for result in saga.step_results} == {StepStatus.PENDING}


def slow_retry(minutes: int) -> SagaDefinition:
    """One, then two, which is tried again after half of this."""
    pause = timedelta(minutes=minutes)
    policy = RetryPolicy(max_attempts=2, base=pause, cap=pause)
    return chain("one", step("two", retry=policy))


@pytest.mark.parametrize("minutes", [20, 120])
def test_a_cancel_does_not_wait_for_a_retry_that_is_due_later(staged: Staged, minutes):
    with staged(slow_retry(minutes)) as stage:
        world.refuse("two", BROKEN)
        saga_id = stage.start("chain", {})
        stage.deliver()
        stage.deliver()
        assert ask(stage, saga_id, "cancel").status == 202
        while stage.deliver().messages:
            pass
        assert stage.saga(saga_id).state is SagaState.COMPENSATED
        assert waited(stage) == 0
        assert world.standing() == []
        stage.run_until_quiet()  # the delayed message of the retry finds nothing to do
        ended(stage, saga_id, SagaState.COMPENSATED)


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_a_repeated_cancel_is_accepted_and_changes_nothing(stage, moves):
    saga_id = stage.start()
    stage.deliver()
    assert ask(stage, saga_id, "cancel").status == 202
    for _ in range(moves):
        stage.deliver()
    before = stage.saga(saga_id)
    again = ask(stage, saga_id, "cancel")
    if before.state is SagaState.COMPENSATED:
        refused(again, "closed", SagaState.COMPENSATED)
    else:
        assert again.status == 202
        assert stage.saga(saga_id).version == before.version
    stage.run_until_quiet()
    ended(stage, saga_id, SagaState.COMPENSATED)


def test_a_cancel_of_a_saga_that_rolls_back_already_is_accepted(stage):
    world.refuse("stock.reserve", BROKEN)
    world.refuse("stock.reserve", BROKEN)
    world.refuse("stock.reserve", BROKEN)
    saga_id = stage.start()
    for _ in stage.moves():
        if stage.saga(saga_id).state is SagaState.COMPENSATING:
            break
    assert ask(stage, saga_id, "cancel").status == 202
    stage.run_until_quiet()
    saga = ended(stage, saga_id, SagaState.COMPENSATED)
    assert saga.cause is not None
    assert saga.cause.kind is CauseKind.STEP_FAILED  # the first cause stands


def test_a_cancel_whose_message_was_lost_is_seen_to_by_the_sweeper(staged: Staged):
    with staged(slow_retry(120)) as stage:
        world.refuse("two", BROKEN)
        saga_id = stage.start("chain", {})
        stage.deliver()
        stage.deliver()
        stage.sqs.fail_next("send_message", Fault.NOT_CONNECTED)
        assert ask(stage, saga_id, "cancel").status == 202
        stage.run_until_quiet(sweeper=True)
        ended(stage, saga_id, SagaState.COMPENSATED)
        assert waited(stage) <= 3 * MINUTE


def test_a_cancel_whose_answer_was_lost_may_be_sent_again(stage):
    saga_id = stage.start()
    stage.dynamodb.fail_next("update_item", Fault.ANSWER_LOST)
    assert ask(stage, saga_id, "cancel").status == 202
    assert ask(stage, saga_id, "cancel").status == 202
    stage.run_until_quiet()
    ended(stage, saga_id, SagaState.COMPENSATED)


@pytest.mark.parametrize("what", ["cancel", "resume", "skip"])
def test_after_the_end_a_request_is_refused_with_the_reason(stage, what):
    saga_id = stage.start()
    stage.run_until_quiet()
    before = stage.saga(saga_id)
    answer = ask(stage, saga_id, what, {"step": "ship"} if what == "skip" else None)
    refused(answer, "closed", SagaState.COMPLETED)
    assert stage.saga(saga_id) == before
    assert stage.bodies("WorkQueue") == []


def test_a_request_races_a_worker_and_loses_only_what_it_must(stage):
    """It is decided anew from what is there, when somebody moved the saga in between."""
    saga_id = stage.start()
    stage.dynamodb.before_next("update_item", stage.step)
    assert ask(stage, saga_id, "cancel").status == 202
    stage.run_until_quiet()
    ended(stage, saga_id, SagaState.COMPENSATED)
    assert world.standing() == []


# -- FAILED, and what gets it out ----------------------------------------------------------


def stuck(stage: Stage) -> str:
    """An order whose refund does not work."""
    world.break_down("payments.refund", BROKEN)
    for _ in range(5):
        world.lose_reply("shipping.ship", ServiceError("no"))
    saga_id = stage.start()
    stage.run_until_quiet()
    assert stage.saga(saga_id).state is SagaState.FAILED
    return saga_id


def test_a_compensation_that_is_spent_stops_the_saga_and_says_what_stands(stage):
    saga_id = stuck(stage)
    body = stage.http("GET", f"/sagas/{saga_id}").body
    assert body["state"] == "FAILED"
    assert body["cause"]["kind"] == "step_failed"
    assert body["failure"]["why"] == "COMPENSATION_FAILED"
    assert body["failure"]["standing"] == ["charge_card", "reserve_stock", "create_order"]
    assert "charge_card" in body["failure"]["to_do"]
    assert [result["status"] for result in body["steps"]] == [
        "COMPLETED",
        "COMPLETED",
        "COMPENSATION_FAILED",
        "FAILED",
    ]
    assert body["steps"][2]["compensation_attempts"] == 3
    assert body["steps"][2]["error"] == {"kind": "ServiceError", "message": "out of order"}
    assert stage.sink.total("CompensationFailed") == 1
    assert stage.bodies("WorkQueue") == []
    assert stage.sweep()["nudged"] == 0  # nothing moves it but a person


def test_a_resume_after_the_repair_finishes_the_roll_back(stage):
    saga_id = stuck(stage)
    world.repair("payments.refund")
    assert ask(stage, saga_id, "resume").status == 202
    stage.run_until_quiet()
    saga = ended(stage, saga_id, SagaState.COMPENSATED)
    assert world.standing() == ["shipping.ship"]  # it lied: it failed, and shipped all the same
    refunds = [call for call in stage.attempts if call.step == "charge_card"][1:]
    assert [call.attempt for call in refunds] == [1, 2, 3, 4]  # not forgotten by the resume
    assert len({call.idempotency_key for call in refunds}) == 1
    assert saga.failure is None


def test_a_resume_before_the_repair_fails_again_visibly(stage):
    saga_id = stuck(stage)
    assert ask(stage, saga_id, "resume").status == 202
    stage.run_until_quiet()
    assert stage.saga(saga_id).state is SagaState.FAILED
    assert stage.sink.total("CompensationFailed") == 2


def test_a_repeated_resume_is_accepted_and_resumes_once(stage):
    saga_id = stuck(stage)
    world.repair("payments.refund")
    assert ask(stage, saga_id, "resume").status == 202
    before = stage.saga(saga_id)
    assert ask(stage, saga_id, "resume").status == 202
    assert stage.saga(saga_id).version == before.version
    stage.run_until_quiet()
    ended(stage, saga_id, SagaState.COMPENSATED)


def test_a_resume_of_a_saga_that_moves_is_accepted_and_changes_nothing(stage):
    saga_id = stage.start()
    stage.deliver()
    before = stage.saga(saga_id)
    assert ask(stage, saga_id, "resume").status == 202
    assert stage.saga(saga_id).version == before.version
    stage.run_until_quiet()
    completed_once(stage, saga_id)
    assert tries(stage) == {1}


def test_a_cancel_of_a_roll_back_that_stopped_is_refused(stage):
    saga_id = stuck(stage)
    refused(ask(stage, saga_id, "cancel"), "roll_back_stopped", SagaState.FAILED)


def test_a_skip_vouches_for_the_step_and_the_rest_is_undone(stage):
    saga_id = stuck(stage)
    refused(ask(stage, saga_id, "skip", {"step": "ship"}), "other_step", SagaState.FAILED)
    refused(ask(stage, saga_id, "skip", {"step": "nothing"}), "other_step", SagaState.FAILED)
    assert ask(stage, saga_id, "skip", {"step": "charge_card"}).status == 202
    assert ask(stage, saga_id, "skip", {"step": "charge_card"}).status == 202  # a repeat
    stage.run_until_quiet()
    saga = ended(stage, saga_id, SagaState.COMPENSATED)
    assert [result.status for result in saga.step_results] == [
        StepStatus.COMPENSATED,
        StepStatus.COMPENSATED,
        StepStatus.SKIPPED,
        StepStatus.FAILED,
    ]
    error = saga.step_results[2].error
    assert error is not None
    assert error.message == "by arn:aws:iam::123456789012:user/local"
    assert len([call for call in world.calls if call.operation == "payments.refund"]) == 3


def test_a_skip_of_a_saga_that_moves_is_refused(stage):
    saga_id = stage.start()
    refused(ask(stage, saga_id, "skip", {"step": "create_order"}), "live", SagaState.CREATED)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (None, "unsupported-media-type"),
        ({}, "invalid-request"),
        ([], "invalid-request"),
        ({"step": 1}, "invalid-request"),
        ("{", "not-json"),
        ({"step": "x" * 5_000}, "too-large"),
    ],
)
def test_a_skip_that_names_no_step_is_refused(stage, body, problem):
    saga_id = stage.start()
    before = stage.saga(saga_id)
    assert ask(stage, saga_id, "skip", body).problem == problem
    assert stage.saga(saga_id) == before


# -- STALLED -------------------------------------------------------------------------------


def stalled(stage: Stage) -> str:
    """An order that could not be moved, because its code was gone."""
    saga_id = stage.start()
    stage.deliver()
    stage.deploy()
    stage.run_until_quiet()
    stage.deploy(ORDER)
    assert stage.saga(saga_id).state is SagaState.FAILED
    return saga_id


def test_a_resume_forward_gets_a_new_deadline(stage):
    saga_id = stalled(stage)
    stage.clock.now += 12 * HOUR  # the order's time was two
    assert stage.saga(saga_id).deadline_at < stage.clock.now
    assert ask(stage, saga_id, "resume").status == 202
    assert stage.saga(saga_id).deadline_at == stage.clock.now + 2 * HOUR
    stage.run_until_quiet()
    completed_once(stage, saga_id)


def test_a_cancel_of_a_saga_that_stalled_going_forward_rolls_it_back(stage):
    saga_id = stalled(stage)
    assert ask(stage, saga_id, "cancel").status == 202
    stage.run_until_quiet()
    ended(stage, saga_id, SagaState.COMPENSATED)
    assert [call.operation for call in world.calls] == ["orders.create", "orders.cancel"]


def test_a_skip_of_a_saga_that_stalled_counts_the_step_as_done(stage):
    saga_id = stalled(stage)
    assert ask(stage, saga_id, "skip", {"step": "reserve_stock"}).status == 202
    stage.run_until_quiet()
    ended(stage, saga_id, SagaState.COMPLETED)
    assert world.standing() == ["orders.create", "payments.charge", "shipping.ship"]


# -- the deadline --------------------------------------------------------------------------


def test_a_deadline_that_passes_rolls_the_saga_back(staged: Staged):
    pause = timedelta(minutes=10)
    patient = RetryPolicy(max_attempts=100, base=pause, cap=pause)
    definition = chain("one", step("two", retry=patient), timeout=timedelta(minutes=12))
    with staged(definition) as stage:
        world.break_down("two", BROKEN)
        saga_id = stage.start("chain", {})
        stage.run_until_quiet()
        saga = ended(stage, saga_id, SagaState.COMPENSATED)
        assert saga.cause is not None
        assert saga.cause.kind is CauseKind.DEADLINE
        assert world.standing() == []
        # It is not slept through: the last wait ends with the deadline.
        assert 12 * MINUTE <= waited(stage) <= 12 * MINUTE + 2 * SECOND
        assert stage.http("GET", f"/sagas/{saga_id}").body["cause"]["kind"] == "deadline"


def test_a_deadline_that_passes_during_the_last_step_does_not_undo_it(staged: Staged):
    with staged(chain("one", timeout=timedelta(seconds=10))) as stage:
        saga_id = stage.start("chain", {})

        def take_long() -> None:
            stage.clock.now += 15 * SECOND

        stage.watch(at("after execute one", take_long))
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPLETED)


def test_a_deadline_leaves_a_step_that_may_have_happened_in_doubt(staged: Staged):
    with staged(chain("one", "two", timeout=timedelta(minutes=1))) as stage:
        saga_id = stage.start("chain", {})
        world.lose_reply("two", WorkerKilledError())
        stage.run_until_quiet()
        saga = ended(stage, saga_id, SagaState.COMPENSATED)
        assert saga.cause is not None
        assert saga.cause.kind is CauseKind.DEADLINE
        assert [call.operation for call in world.calls] == ["one", "two", "undo two", "undo one"]


# -- on_compensation_failure="continue" ----------------------------------------------------


def test_a_saga_may_undo_the_rest_first_and_then_stop(staged: Staged):
    definition = chain("one", "two", "three", on_compensation_failure="continue")
    with staged(definition) as stage:
        world.refuse("three", BROKEN)
        world.break_down("undo two", BROKEN)
        saga_id = stage.start("chain", {})
        stage.run_until_quiet()
        saga = stage.saga(saga_id)
        assert saga.state is SagaState.FAILED
        assert saga.standing == ("two",)
        assert world.standing() == ["two"]  # one is undone
        world.repair("undo two")
        assert ask(stage, saga_id, "resume").status == 202
        stage.run_until_quiet()
        ended(stage, saga_id, SagaState.COMPENSATED)
        assert world.standing() == []
        undone = [call for call in world.calls if call.operation == "undo one"]
        assert [call.outcome for call in undone] == ["done"]  # not a second time
