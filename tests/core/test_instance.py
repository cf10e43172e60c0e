from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import timedelta

import pytest

from saga_core.calls import Direction
from saga_core.errors import (
    CompensationFailedError,
    SagaCancelledError,
    SagaStalledError,
    SagaTimeoutError,
    StepFailedError,
)
from saga_core.events import Withhold
from saga_core.instance import (
    CLOSED,
    LIVE,
    Key,
    SagaState,
    StepCode,
    StepResult,
    StepStatus,
    Why,
)
from saga_core.outcome import StepError
from saga_core.retry import RetryPolicy
from tests.core.sagas import BOOM, HOUR, T0, Walk, saga, step

AGAIN = RetryPolicy(max_attempts=3, base=timedelta(0))


def walk(*steps) -> Walk:
    return Walk(saga(*(steps or ("a", "b"))))


def statuses(w: Walk) -> list[str]:
    return [r.status.value for r in w.i.step_results]


# -- the state -----------------------------------------------------------------------


def test_every_state_is_open_or_closed_or_failed():
    assert {SagaState.FAILED} | LIVE | CLOSED == set(SagaState)
    assert not LIVE & CLOSED
    assert [s.value for s in SagaState] == [
        "CREATED",
        "RUNNING",
        "COMPLETED",
        "COMPENSATING",
        "COMPENSATED",
        "FAILED",
    ]


def test_a_saga_that_nobody_has_claimed_is_created():
    w = walk()
    assert w.i.state is SagaState.CREATED
    assert w.i.status is SagaState.RUNNING
    assert w.i.live
    assert w.claim().i.state is SagaState.RUNNING


def test_a_saga_that_was_claimed_and_lost_is_not_created_any_more():
    w = walk().claim()
    w.event(w.taking_over())
    assert w.i.state is SagaState.RUNNING


def test_a_saga_that_was_resumed_is_not_created_any_more():
    assert walk().stall().resume().i.state is SagaState.RUNNING


def test_a_saga_that_stalled_before_its_first_claim_is_failed():
    w = walk().stall()
    assert w.i.state is SagaState.FAILED
    assert not w.i.live


# -- what it says of itself ----------------------------------------------------------


def test_an_instance_is_addressed_by_tenant_and_id():
    assert walk().i.key == Key("default", "s1")


def test_the_version_is_read_from_the_definition():
    i = Walk(saga("a", version="2.1-b")).i
    assert i.definition_version == "2.1-b"
    assert i.definition_name == "order"


def test_an_instance_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        walk().i.version = 2  # type: ignore[misc]  # that is the point


def test_the_context_is_decoded_anew_at_every_access():
    i = replace(walk().i, context_text='{"x":[1]}')
    context = i.context
    assert context == {"x": [1]}
    assert isinstance(context, dict)
    context["x"] = 2
    assert i.context == {"x": [1]}


def test_the_decoder_is_no_part_of_the_value():
    i = walk().i
    other = replace(i, decoder=lambda text: ("decoded", text))
    assert other.context == ("decoded", "{}")
    assert other == i
    assert "decoder" not in repr(other)


def test_the_current_step_is_an_index_that_ends_beyond_the_last():
    w = walk().claim()
    assert w.i.current_step == 0
    assert w.done().i.current_step == 1
    assert w.claim().done().i.current_step == 2


# -- its steps, as users read them ---------------------------------------------------


def test_a_step_is_pending_running_and_completed():
    w = walk()
    assert statuses(w) == ["PENDING", "PENDING"]
    w.claim().wait(5)
    assert statuses(w) == ["RUNNING", "PENDING"]
    assert w.i.step_results[0] == StepResult(
        name="a", status=StepStatus.RUNNING, attempts=1, started_at=T0
    )
    w.done()
    assert statuses(w) == ["COMPLETED", "PENDING"]
    assert w.i.step_results[0] == StepResult(
        name="a", status=StepStatus.COMPLETED, attempts=1, started_at=T0, ended_at=T0 + 5
    )
    assert w.i.step_results[1] == StepResult(name="b", status=StepStatus.PENDING, due_at=T0 + 5)


def test_a_step_that_is_to_be_tried_again_is_running_with_its_error():
    w = walk(step("a", retry=AGAIN)).claim().fail()
    assert w.i.step_results[0] == StepResult(
        name="a",
        status=StepStatus.RUNNING,
        attempts=1,
        started_at=T0,
        error=BOOM,
        due_at=w.i.lane.due_at,
    )
    assert w.claim().i.step_results[0].attempts == 2


def test_a_step_of_which_an_attempt_is_lost_is_in_doubt():
    w = walk().claim()
    w.event(w.taking_over())
    assert statuses(w) == ["IN_DOUBT", "PENDING"]
    assert w.i.step_results[0].attempts == 1
    assert w.stall().i.step_results[0].status is StepStatus.IN_DOUBT


def test_a_step_whose_attempt_reported_a_doubt_is_in_doubt():
    w = walk(step("a", retry=AGAIN)).claim().doubt()
    assert statuses(w) == ["IN_DOUBT"]
    assert w.claim().i.step_results[0].status is StepStatus.RUNNING


def test_a_step_that_is_known_to_have_failed_is_failed():
    w = walk().claim().fail()
    assert statuses(w) == ["FAILED", "PENDING"]
    assert w.i.step_results[0].error == BOOM


def test_a_step_is_compensating_and_compensated():
    w = walk("a", "b", "c").claim().done().claim().done().claim().fail()
    assert statuses(w) == ["COMPLETED", "COMPENSATING", "FAILED"]
    w.claim()
    assert statuses(w) == ["COMPLETED", "COMPENSATING", "FAILED"]
    b = w.i.step_results[1]
    assert (b.attempts, b.undo_attempts, b.started_at) == (1, 1, T0)
    w.undone()
    assert statuses(w) == ["COMPENSATING", "COMPENSATED", "FAILED"]
    assert w.i.step_results[0].undo_attempts == 0


def test_a_step_in_doubt_is_compensating_too():
    assert statuses(walk().claim().doubt()) == ["COMPENSATING", "PENDING"]


def test_a_compensation_that_is_spent_says_so():
    w = walk().claim().done().claim().fail().claim().undo_fails(fatal=True)
    assert statuses(w) == ["COMPENSATION_FAILED", "FAILED"]
    assert w.i.step_results[0].undo_attempts == 1
    assert w.resume().claim().i.step_results[0].undo_attempts == 2


def test_a_step_that_was_skipped_says_so():
    assert statuses(walk().stall().skip("a")) == ["SKIPPED", "PENDING"]


def test_every_code_has_a_status_that_users_know():
    w = walk()
    shown = []
    for code in StepCode:
        steps = (w.i.steps[0], replace(w.i.steps[1], code=code))
        shown.append(replace(w.i, steps=steps).step_results[1].status)
    assert shown == [
        StepStatus.PENDING,
        StepStatus.RUNNING,
        StepStatus.WAITING,
        StepStatus.COMPLETED,
        StepStatus.IN_DOUBT,
        StepStatus.FAILED,
        StepStatus.COMPENSATED,
        StepStatus.COMPENSATION_FAILED,
        StepStatus.SKIPPED,
    ]


def test_the_last_attempt_of_a_saga_that_has_ended_is_not_shown_as_running():
    w = walk("a").claim().done()
    assert statuses(w) == ["COMPLETED"]
    w = walk("a").claim().fail()
    assert w.i.step_results[0] == StepResult(
        name="a", status=StepStatus.FAILED, attempts=1, started_at=T0, ended_at=T0, error=BOOM
    )


def test_a_step_that_need_not_be_undone_stays_in_doubt_when_the_saga_has_ended():
    w = walk(step("a", compensatable=False)).claim().doubt()
    assert w.i.state is SagaState.COMPENSATED
    assert statuses(w) == ["IN_DOUBT"]


def test_the_undo_of_a_step_does_not_count_for_its_forward_attempts():
    policy = RetryPolicy(max_attempts=5, base=timedelta(0))
    w = walk(step("a", compensation_retry=policy), "b").claim().done().claim().fail()
    for _ in range(3):
        w.claim().undo_fails()
    a = w.i.step_results[0]
    assert (a.attempts, a.undo_attempts) == (1, 3)
    assert w.claim().i.step_results[0].undo_attempts == 4
    assert w.i.step_results[0].attempts == 1


# -- what stands ---------------------------------------------------------------------


def test_nothing_stands_of_a_saga_that_has_not_begun():
    assert walk().i.standing == ()


def test_what_happened_or_may_have_stands_newest_first():
    w = walk("a", "b", "c").claim().done().claim().done().claim()
    seen = [w.i.standing, w.fail().i.standing, w.claim().i.standing, w.undone().i.standing]
    assert seen == [("c", "b", "a"), ("b", "a"), ("b", "a"), ("a",)]
    assert w.claim().undone().i.standing == ()


def test_a_step_that_is_known_to_have_failed_so_far_does_not_stand():
    w = walk(step("a", retry=AGAIN)).claim().fail()
    assert w.i.standing == ()
    assert w.claim().i.standing == ("a",)


def test_a_spent_compensation_leaves_its_step_standing():
    w = walk().claim().doubt().claim().undo_fails(fatal=True)
    assert w.i.standing == ("a",)


def test_the_order_of_starts_decides_what_is_newest():
    w = walk("a", "b", "c").claim().done().claim().done().claim().done()
    orders = {"a": 2, "b": 3, "c": 1}
    i = replace(w.i, steps=tuple(replace(s, order=orders[s.name]) for s in w.i.steps))
    assert i.standing == ("b", "a", "c")


# -- as an exception -----------------------------------------------------------------


def test_a_saga_that_goes_well_raises_nothing():
    w = walk("a")
    for i in (w.i, w.claim().i, w.done().i):
        i.raise_for_state()


def test_a_failed_step_is_raised_with_its_attempts_and_its_error():
    w = walk("z", step("a", retry=AGAIN)).claim().done().claim().fail().claim().fail(fatal=True)
    for i in (w.i, w.claim().undone().i):
        with pytest.raises(StepFailedError) as caught:
            i.raise_for_state()
        assert (caught.value.saga_id, caught.value.step, caught.value.attempts) == ("s1", "a", 2)
        assert str(caught.value).endswith("at attempt 2: Boom: it broke")


def test_a_failed_step_without_an_error_is_raised_all_the_same():
    w = walk("a").claim().fail()
    assert w.i.cause is not None
    with pytest.raises(StepFailedError, match=r"at attempt 1: unknown$"):
        replace(w.i, cause=replace(w.i.cause, error=None)).raise_for_state()


def test_a_deadline_is_raised():
    w = walk().wait(HOUR).claim().withheld(Withhold.DEADLINE)
    with pytest.raises(SagaTimeoutError, match="saga s1"):
        w.i.raise_for_state()


def test_a_cancel_is_raised_with_who_asked_for_it():
    w = walk().cancel()
    w.i.raise_for_state()  # not rolled back yet
    w.claim().withheld(Withhold.CANCELLED)
    with pytest.raises(
        SagaCancelledError, match=r"^saga s1: cancelled by .+ and rolled back$"
    ) as c:
        w.i.raise_for_state()
    assert w.i.cause is not None
    assert (c.value.saga_id, c.value.by) == ("s1", w.i.cause.by)
    with pytest.raises(SagaCancelledError, match="by unknown"):
        replace(w.i, cause=replace(w.i.cause, by=None)).raise_for_state()


def test_a_spent_compensation_is_raised_before_its_cause():
    w = walk("a", "b", "c").claim().done().claim().done().claim().fail()
    w.claim().undo_fails(fatal=True)
    assert w.i.why is Why.COMPENSATION_FAILED
    with pytest.raises(CompensationFailedError) as caught:
        w.i.raise_for_state()
    error = caught.value
    assert (error.saga_id, error.step, error.attempts) == ("s1", "b", 1)
    assert error.standing == ("b", "a")


def test_a_saga_that_stalled_is_raised_with_what_kept_it():
    w = walk().stall()
    assert w.i.failure == StepError("DeliveryExhausted", "gave up")
    with pytest.raises(SagaStalledError, match=r"DeliveryExhausted: gave up$") as caught:
        w.i.raise_for_state()
    assert caught.value.saga_id == "s1"


def test_directions_are_stored_by_a_letter():
    assert (Direction.FORWARD.value, Direction.COMPENSATION.value) == ("F", "C")
