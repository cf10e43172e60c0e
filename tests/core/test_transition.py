from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from saga_core.actions import Compensate, Execute, Rest, Settle, WakeAt
from saga_core.calls import Direction
from saga_core.errors import IllegalEventError
from saga_core.events import StepFailed, StepInDoubt, StepSucceeded, Withheld, Withhold
from saga_core.instance import Cancel, Cause, CauseKind, Lane, Lease, Nudge, SagaState, Why
from saga_core.outcome import StepError
from saga_core.retry import RetryPolicy
from saga_core.transition import (
    EARLY_MS,
    FIRST_SWEEP_MS,
    GRACE_MS,
    LONG_TIMER_LEAD_MS,
    MAX_DELAY_MS,
    NUDGE_MS,
    Ignored,
    Moved,
    Reason,
    create,
    dispatch_delay,
    next_actions,
    nudge,
    refusal,
    swept,
)
from tests.core.sagas import BOOM, DAY, HOUR, LEASE, MINUTE, SECOND, T0, Walk, saga, step

D = saga("a", "b")
OTHER = StepError("Other", "something else")
TWICE = RetryPolicy(max_attempts=2, base=timedelta(seconds=10))
LONG = timedelta(days=30)


def walk(*steps, **options) -> Walk:
    return Walk(saga(*(steps or ("a", "b")), **options))


def then(w: Walk, now: int | None = None):
    """The one thing to do next."""
    (action,) = next_actions(w.definition, w.i, w.now if now is None else now)
    return action


def rolling_back(*, on_compensation_failure="halt", **options) -> Walk:
    """Three steps are done and the fourth is not: c is to be undone next."""
    steps = [step(name, **options) for name in "abcd"]
    w = Walk(saga(*steps, on_compensation_failure=on_compensation_failure, timeout=LONG))
    for _ in "abc":
        w.claim().done()
    return w.claim().fail(fatal=True)


# -- a new saga ----------------------------------------------------------------------


def test_a_new_saga_is_due_at_once_and_pinned_to_its_definition():
    definition = saga("a", "b", timeout=timedelta(seconds=7))
    i = create(
        definition,
        saga_id="id",
        tenant="acme",
        incarnation="inc",
        input_fingerprint="fp",
        context='{"x":1}',
        at=T0,
    )
    assert (i.id, i.tenant, i.incarnation, i.input_fingerprint) == ("id", "acme", "inc", "fp")
    assert (i.definition_name, i.definition) == ("order", definition.ref)
    assert i.context_text == '{"x":1}'
    assert i.state is SagaState.CREATED
    assert i.phase is Direction.FORWARD
    assert i.version == 0
    assert i.lane == Lane(due_at=T0)
    assert [s.name for s in i.steps] == ["a", "b"]
    assert {s.code for s in i.steps} == {"-"}
    assert (i.created_at, i.updated_at, i.deadline_at) == (T0, T0, T0 + 7 * SECOND)
    assert i.sweep_at == T0 + FIRST_SWEEP_MS
    assert i.expires_at is None


# -- what to do next -----------------------------------------------------------------


def test_a_new_saga_executes_its_first_step():
    assert then(walk()) == Execute("a", 1)


def test_before_it_is_due_there_is_a_moment_to_wait_for():
    w = walk(step("a", retry=TWICE)).claim().fail()
    assert w.i.lane.due_at == T0 + 10 * SECOND
    assert then(w, T0 + 10 * SECOND - 1) == WakeAt(T0 + 10 * SECOND)
    assert then(w, T0 + 10 * SECOND) == Execute("a", 2)


def test_who_holds_the_claim_makes_the_attempt_that_was_counted():
    w = walk().claim()
    assert then(w) == Execute("a", 1)
    w.lose()
    w.event(w.taking_over())
    assert then(w) == Execute("a", 2)


def test_who_holds_the_claim_does_not_wait():
    w = walk().claim()
    w.i = replace(w.i, lane=replace(w.i.lane, due_at=w.now + 1))
    assert then(w) == Execute("a", 1)


def test_a_saga_that_rolls_back_undoes_and_says_whether_it_is_in_doubt():
    w = walk().claim().done().claim().doubt(final=True)
    assert then(w) == Compensate("b", 1, in_doubt=True)
    w.claim()
    assert then(w) == Compensate("b", 1, in_doubt=True)
    w.undone()
    assert then(w) == Compensate("a", 1, in_doubt=False)


@pytest.mark.parametrize("state", [SagaState.COMPLETED, SagaState.COMPENSATED, SagaState.FAILED])
def test_a_saga_that_rests_has_nothing_to_do(state):
    w = walk("a")
    if state is SagaState.COMPLETED:
        w.claim().done()
    elif state is SagaState.COMPENSATED:
        w.claim().fail()
    else:
        w.stall()
    assert w.i.state is state
    assert then(w) == Rest()
    w.i = replace(w.i, lane=replace(w.i.lane, due_at=w.now + 1))
    assert then(w) == Rest()


def test_from_the_deadline_on_no_forward_call_is_made():
    w = walk()
    assert then(w, w.i.deadline_at - 1) == Execute("a", 1)
    assert then(w, w.i.deadline_at) == Settle(Withhold.DEADLINE)


def test_the_deadline_does_not_hold_up_a_compensation():
    w = walk().claim().done().claim().fail()
    assert then(w, w.i.deadline_at + DAY) == Compensate("a", 1, in_doubt=False)


def test_a_cancel_withholds_the_next_call_whatever_else_there_is():
    w = walk(step("a", retry=RetryPolicy(max_lost=1)))
    w.claim().lose().cancel()
    w.event(w.taking_over())
    assert then(w, w.i.deadline_at) == Settle(Withhold.CANCELLED)


@pytest.mark.parametrize("back", [False, True], ids=["forward", "back"])
def test_attempts_may_be_lost_as_often_as_the_policy_says(back):
    policy = RetryPolicy(max_lost=2)
    w = walk(step("a", retry=policy, compensation_retry=policy), "b", timeout=LONG)
    if back:
        w.claim().done().claim().fail()
    for attempt in (1, 2):
        assert then(w).attempt == attempt
        w.claim()
        assert then(w).attempt == attempt
        w.lose()
        w.event(w.taking_over())
    assert then(w) == Settle(Withhold.LOST)
    w.claim()
    assert then(w) == Settle(Withhold.LOST)


def test_an_attempt_that_reported_is_not_lost():
    policy = RetryPolicy(max_attempts=9, max_lost=1, base=timedelta(0))
    w = walk(step("a", retry=policy))
    for attempt in range(1, 8):
        w.claim()
        assert then(w) == Execute("a", attempt)
        w.fail()
    assert then(w) == Execute("a", 8)


def test_the_loop_guard_stops_a_saga_that_moves_too_often():
    w = walk()
    w.i = replace(w.i, hops=w.definition.hop_max)
    assert then(w) == Execute("a", 1)
    w.i = replace(w.i, hops=w.definition.hop_max + 1)
    assert then(w) == Settle(Withhold.HOPS)
    assert then(w, w.i.deadline_at) == Settle(Withhold.HOPS)


def test_lost_attempts_are_named_before_the_loop_guard():
    w = walk(step("a", retry=RetryPolicy(max_lost=1))).claim().lose()
    w.event(w.taking_over())
    w.i = replace(w.i, hops=w.definition.hop_max + 1)
    assert then(w) == Settle(Withhold.LOST)


# -- the claim -----------------------------------------------------------------------


def test_a_claim_counts_the_attempt_before_it_is_made():
    w = walk().wait(SECOND)
    before = w.i
    w.claim()
    lane = w.i.lane
    assert lane.lease == Lease("c1", w.now + LEASE)
    assert (lane.attempts, lane.tries, lane.reported, lane.clean) == (1, 1, 0, 0)
    assert lane.began_at == w.now
    assert lane.epoch == before.lane.epoch
    assert w.i.hops == 1
    assert w.i.updated_at == w.now
    assert w.i.sweep_at == before.sweep_at
    assert w.i.state is SagaState.RUNNING


def test_a_second_claim_of_an_item_keeps_the_moment_of_the_first():
    w = walk().claim().lose().claim()
    assert (w.i.lane.attempts, w.i.lane.tries, w.i.hops) == (2, 2, 2)
    assert w.i.lane.began_at == T0
    assert w.i.lane.lease == Lease("c2", w.now + LEASE)


def test_ones_own_claim_is_recognised_before_anything_else():
    w = walk().claim()
    again = w.claiming("c1", epoch=99)
    assert w.ignores(replace(again, definition="x@1#y")) is Reason.OWN_CLAIM
    w.i = replace(w.i, status=SagaState.FAILED)
    assert w.ignores(again) is Reason.OWN_CLAIM


def refused(
    w: Walk, *, epoch: int | None = None, definition: str | None = None, now: int | None = None
):
    return refusal(
        w.i,
        claim_id="x",
        epoch=w.i.lane.epoch if epoch is None else epoch,
        definition=w.i.definition if definition is None else definition,
        now=w.now if now is None else now,
    )


def test_a_free_item_that_is_due_is_not_refused():
    assert refused(walk()) is None


def test_a_closed_saga_refuses_as_closed_and_a_failed_one_as_parked():
    assert refused(walk("a").claim().done(), epoch=1) is Reason.CLOSED
    assert refused(walk("a").claim().fail(), epoch=1) is Reason.CLOSED
    assert refused(walk().stall(), epoch=9) is Reason.PARKED


@pytest.mark.parametrize("other", ["older", "newer", "another definition"])
def test_another_work_item_is_stale_by_whether_the_current_one_is_claimed(other):
    w = walk().claim().done()
    epoch = {"older": 1, "newer": 3}.get(other)
    definition = "order@2#0" if epoch is None else None
    assert refused(w, epoch=epoch, definition=definition) is Reason.STALE_UNCLAIMED
    w.claim()
    assert refused(w, epoch=epoch, definition=definition) is Reason.STALE_CLAIMED
    w.lose()
    assert refused(w, epoch=epoch, definition=definition) is Reason.STALE_CLAIMED


def test_a_lease_holds_until_its_last_millisecond():
    w = walk().claim()
    assert refused(w, now=w.now + LEASE) is Reason.LEASED
    assert refused(w, now=w.now + LEASE + 1) is None


def test_a_message_may_come_a_second_early_and_not_more():
    w = walk()
    assert refused(w, now=T0 - EARLY_MS) is None
    assert refused(w, now=T0 - EARLY_MS - 1) is Reason.EARLY


def test_the_lease_is_looked_at_before_the_due_time():
    w = walk().claim()
    assert refused(w, now=T0 - HOUR) is Reason.LEASED


# -- the re-dispatch guard, the sweeper, the delay -----------------------------------


def nudged(w: Walk):
    return nudge(w.i, nudge_id="n1", now=w.now)


def test_the_guard_is_reserved_without_any_other_change():
    w = walk()
    w.i = replace(w.i, version=7)
    outcome = nudged(w)
    assert outcome == Moved(replace(w.i, lane=replace(w.i.lane, nudge=Nudge("n1", T0))))


def test_the_guard_is_reserved_once_a_minute():
    w = walk()
    w.i = replace(w.i, lane=replace(w.i.lane, nudge=Nudge("n0", T0)))
    assert nudged(w.wait(NUDGE_MS - 1)) == Ignored(Reason.NUDGED)
    assert isinstance(nudged(w.wait(1)), Moved)


def test_the_guard_is_for_sagas_that_nobody_has():
    assert nudged(walk().claim().lose()) == Ignored(Reason.LEASED)
    assert nudged(walk("a").claim().done()) == Ignored(Reason.CLOSED)
    assert nudged(walk("a").stall()) == Ignored(Reason.PARKED)


def test_a_commit_takes_the_guard_away():
    w = walk()
    w.i = replace(w.i, lane=replace(w.i.lane, nudge=Nudge("n0", T0)))
    assert w.claim().i.lane.nudge is not None
    assert w.done().i.lane.nudge is None


@pytest.mark.parametrize(
    ("sweeps", "minutes"), [(0, 5), (1, 10), (2, 20), (3, 40), (4, 60), (5, 60), (16, 60), (99, 60)]
)
def test_the_sweeper_comes_back_later_each_time(sweeps, minutes):
    i = replace(walk().i, sweeps=sweeps)
    after = swept(i, T0 - 1)
    assert after.sweep_at == T0 + minutes * MINUTE
    assert after.sweeps == sweeps + 1
    assert after == replace(i, sweep_at=after.sweep_at, sweeps=after.sweeps)


def test_the_sweeper_counts_from_the_due_time_or_the_leases_end_if_they_are_later():
    w = walk()
    due = replace(w.i, lane=replace(w.i.lane, due_at=T0 + 10 * MINUTE))
    assert swept(due, T0).sweep_at == T0 + 15 * MINUTE
    leased = replace(w.i, lane=replace(w.i.lane, lease=Lease("x", T0 + 20 * MINUTE)))
    assert swept(leased, T0).sweep_at == T0 + 25 * MINUTE


def test_the_sweeper_counts_from_now_whatever_now_is():
    assert swept(walk().i, T0 - 2 * MINUTE).sweep_at == T0 + 5 * MINUTE
    early = replace(walk().i, lane=Lane(due_at=0))
    assert swept(early, 0).sweep_at == 5 * MINUTE


def test_the_sweepers_key_moves_in_steps_of_five_minutes():
    w = walk()
    assert T0 % (5 * MINUTE) == 0
    assert swept(w.i, T0).sweep_at == T0 + 5 * MINUTE
    assert swept(w.i, T0 + 1).sweep_at == T0 + 10 * MINUTE


def test_the_delay_of_a_message_is_what_is_left_until_the_due_time():
    w = walk()
    assert dispatch_delay(w.i, T0 - 5) == 5
    assert dispatch_delay(w.i, T0) == 0
    assert dispatch_delay(w.i, T0 + 5) == 0


def test_a_delay_that_the_queue_cannot_hold_sends_no_message():
    w = walk()
    assert dispatch_delay(w.i, T0 - MAX_DELAY_MS) == MAX_DELAY_MS
    assert dispatch_delay(w.i, T0 - MAX_DELAY_MS - 1) is None


def test_no_message_is_sent_for_a_saga_that_rests():
    assert dispatch_delay(walk("a").claim().done().i, T0) is None
    assert dispatch_delay(walk().stall().i, T0) is None


# -- taking over ---------------------------------------------------------------------


def test_a_take_over_frees_the_item_and_keeps_the_lost_attempt_counted():
    w = walk().claim().wait(SECOND)
    before = w.i
    w.event(w.taking_over())
    lane = replace(before.lane, lease=None)
    assert w.i == replace(before, lane=lane, updated_at=w.now, version=before.version + 1)


def test_there_is_nothing_to_take_over_from_a_saga_that_nobody_has():
    w = walk()
    assert w.ignores(w.taking_over()) is Reason.LIVE
    assert w.stall().ignores(w.taking_over()) is Reason.PARKED
    closed = walk("a").claim().done()
    assert closed.ignores(closed.taking_over()) is Reason.CLOSED


# -- going forward -------------------------------------------------------------------


def test_a_step_that_happened_is_recorded_and_the_next_one_is_due():
    w = walk().claim().wait(SECOND).done('{"x":1}')
    a = w.record("a")
    assert (a.code, a.order, a.doubt, a.attempts, a.undo_attempts) == ("OK", 1, False, 1, 0)
    assert (a.error, a.started_at, a.ended_at) == (None, T0, w.now)
    assert w.i.context_text == '{"x":1}'
    assert w.i.lane == Lane(index=1, epoch=2, due_at=w.now, last_id="c1")
    assert w.i.state is SagaState.RUNNING
    assert w.i.updated_at == w.now


def test_the_last_step_completes_the_saga():
    w = walk(retention=timedelta(days=20)).claim().done().claim().wait(7).done()
    assert w.codes == "OK OK"
    assert w.record("b").order == 2
    assert w.i.state is SagaState.COMPLETED
    assert w.i.current_step == 2
    assert w.i.sweep_at is None
    assert w.i.expires_at == T0 + 20 * DAY
    assert w.i.cause is None


def test_a_saga_is_kept_for_whole_seconds_from_its_end():
    w = walk("a").wait(SECOND + 999).claim().done()
    assert w.i.expires_at == T0 + SECOND + 30 * DAY


def test_a_commit_beats_the_deadline():
    w = walk("a").claim().wait(HOUR).done()
    assert w.i.state is SagaState.COMPLETED


def test_a_known_failure_with_budget_left_is_tried_again_after_a_pause():
    w = walk(step("a", retry=TWICE), timeout=LONG).claim().wait(SECOND).fail(jitter=0.5)
    a = w.record("a")
    assert (a.code, a.doubt, a.attempts, a.error) == ("P", False, 1, BOOM)
    assert (a.started_at, a.ended_at, a.order) == (T0, None, 1)
    lane = w.i.lane
    assert (lane.index, lane.epoch, lane.attempts, lane.reported) == (0, 2, 1, 1)
    assert (lane.tries, lane.clean, lane.lease, lane.last_id) == (1, 1, None, "c1")
    assert lane.began_at is None
    assert lane.due_at == w.now + 5 * SECOND
    assert w.i.state is SagaState.RUNNING
    assert w.i.context_text == "{}"


def test_the_second_attempt_keeps_the_steps_place_and_its_first_start():
    w = walk(step("a", retry=TWICE), timeout=LONG).claim().fail().claim().wait(SECOND).done()
    a = w.record("a")
    assert (a.code, a.order, a.attempts, a.error) == ("OK", 1, 2, None)
    assert a.started_at == T0
    assert a.ended_at == w.now


def test_a_pause_grows_with_the_failures_that_were_reported():
    policy = RetryPolicy(max_attempts=9, base=timedelta(seconds=1), cap=timedelta(seconds=3))
    w = walk(step("a", retry=policy), timeout=LONG)
    pauses = []
    for _ in range(4):
        w.claim().fail()
        pauses.append(w.i.lane.due_at - w.now)
    assert pauses == [SECOND, 2 * SECOND, 3 * SECOND, 3 * SECOND]


def test_a_pause_does_not_sleep_through_the_deadline():
    w = walk(step("a", retry=TWICE), timeout=timedelta(seconds=4)).claim().fail()
    assert w.i.lane.due_at == w.i.deadline_at


def test_a_pause_after_the_deadline_is_none():
    w = walk(step("a", retry=TWICE), timeout=timedelta(seconds=4)).claim().wait(MINUTE).fail()
    assert w.i.lane.due_at == w.now


def test_a_known_failure_without_budget_rolls_back_and_names_its_step():
    w = walk().claim().done().claim().wait(SECOND).fail()
    b = w.record("b")
    assert (b.code, b.doubt, b.attempts, b.error, b.ended_at) == ("NO", False, 1, BOOM, w.now)
    assert w.i.state is SagaState.COMPENSATING
    assert w.i.phase is Direction.COMPENSATION
    assert w.i.cause == Cause(CauseKind.STEP_FAILED, w.now, step="b", error=BOOM)
    assert w.i.lane == Lane(index=0, epoch=3, due_at=w.now, last_id="c2")


def test_a_fatal_failure_does_not_use_its_budget():
    w = walk("a", step("b", retry=TWICE)).claim().done().claim().fail(fatal=True)
    assert w.codes == "OK NO"
    assert w.i.state is SagaState.COMPENSATING


def test_the_budget_bounds_reported_failures():
    w = walk(step("a", retry=TWICE), timeout=LONG).claim().fail().claim().fail()
    assert w.i.state is SagaState.COMPENSATED
    assert w.record("a").attempts == 2


def test_a_saga_whose_first_step_failed_has_nothing_to_undo():
    w = walk().claim().fail()
    assert w.i.state is SagaState.COMPENSATED
    assert w.codes == "NO -"
    assert w.i.expires_at == T0 + 30 * DAY
    assert w.i.sweep_at is None
    assert w.i.lane.attempts == w.i.lane.tries == w.i.lane.clean == 0
    assert w.i.current_step == 0


def test_an_attempt_in_doubt_is_tried_again_while_there_is_budget():
    w = walk(step("a", retry=TWICE), timeout=LONG).claim().wait(SECOND).doubt(jitter=0.5)
    a = w.record("a")
    assert (a.code, a.doubt, a.attempts, a.error, a.ended_at) == ("U", True, 1, BOOM, None)
    assert a.order == 1
    lane = w.i.lane
    assert (lane.attempts, lane.reported, lane.tries, lane.clean) == (1, 1, 1, 0)
    assert lane.due_at == w.now + 5 * SECOND


def test_doubt_without_budget_is_undone_like_a_step_that_happened():
    w = walk().claim().doubt()
    a = w.record("a")
    assert (a.code, a.doubt, a.error, a.ended_at) == ("U", True, BOOM, T0)
    assert w.i.cause == Cause(CauseKind.STEP_FAILED, T0, step="a", error=BOOM)
    assert then(w) == Compensate("a", 1, in_doubt=True)


def test_doubt_for_good_does_not_use_its_budget():
    w = walk(step("a", retry=TWICE)).claim().doubt(final=True)
    assert w.i.state is SagaState.COMPENSATING


def test_a_clean_failure_says_nothing_about_the_doubtful_attempt_before_it():
    w = walk(step("a", retry=TWICE), timeout=LONG).claim().doubt().claim().fail()
    a = w.record("a")
    assert (a.code, a.doubt) == ("U", True)
    assert w.i.state is SagaState.COMPENSATING


def test_a_clean_failure_says_nothing_about_the_lost_attempt_before_it():
    w = walk().claim().lose().claim().fail()
    assert w.codes == "U -"
    assert w.record("a").doubt
    assert w.record("a").attempts == 2


def test_a_lost_attempt_is_not_a_failed_one_even_with_a_budget_of_one():
    w = walk().claim().lose().claim()
    assert then(w) == Execute("a", 2)
    assert w.done().codes == "OK -"
    assert w.record("a").doubt is False


def test_a_lost_attempt_shows_in_the_steps_code_while_there_is_budget():
    policy = RetryPolicy(max_attempts=3, base=timedelta(0))
    w = walk(step("a", retry=policy)).claim().lose().claim().fail()
    assert w.codes == "U"
    assert w.record("a").doubt


def test_a_doubt_while_there_is_budget_shows_in_the_steps_code():
    policy = RetryPolicy(max_attempts=3, base=timedelta(0))
    w = walk(step("a", retry=policy)).claim().doubt().claim().fail()
    assert w.codes == "U"
    assert w.record("a").doubt


def test_a_known_success_clears_the_doubt():
    w = walk(step("a", retry=TWICE), "b", timeout=LONG).claim().doubt().claim().done()
    assert w.record("a").doubt is False
    assert w.record("a").error is None
    assert w.codes == "OK -"


def test_too_many_lost_attempts_leave_the_step_in_doubt_and_roll_back():
    w = walk(step("a", retry=RetryPolicy(max_lost=1)))
    w.claim().lose().claim()
    before = w.i
    w.withheld(Withhold.LOST)
    a = w.record("a")
    lost = StepError("AttemptsLost", "1 attempts vanished without a report")
    assert (a.code, a.doubt, a.error, a.attempts) == ("U", True, lost, 1)
    assert (a.ended_at, a.order, a.started_at) == (w.now, 1, T0)
    assert w.i.cause == Cause(CauseKind.STEP_FAILED, w.now, step="a", error=lost)
    assert w.i.hops == before.hops
    assert then(w) == Compensate("a", 1, in_doubt=True)


def test_only_attempts_that_did_not_report_are_called_lost():
    policy = RetryPolicy(max_attempts=5, max_lost=2, base=timedelta(0))
    w = walk(step("a", retry=policy)).claim().fail().claim().lose().claim().lose().claim()
    assert then(w) == Settle(Withhold.LOST)
    w.withheld(Withhold.LOST)
    assert w.record("a").error == StepError("AttemptsLost", "2 attempts vanished without a report")
    assert w.record("a").attempts == 3


# -- turning round -------------------------------------------------------------------


def test_a_deadline_before_the_first_attempt_leaves_the_step_untouched():
    w = walk().claim().done().wait(HOUR).claim().withheld(Withhold.DEADLINE)
    assert w.codes == "OK -"
    b = w.record("b")
    assert (b.order, b.attempts, b.started_at) == (None, 0, None)
    assert w.i.cause == Cause(CauseKind.DEADLINE, w.now)
    assert then(w) == Compensate("a", 1, in_doubt=False)


def test_a_deadline_after_a_lost_attempt_leaves_the_step_in_doubt():
    w = walk().claim().lose().wait(HOUR).claim().withheld(Withhold.DEADLINE)
    a = w.record("a")
    assert (a.code, a.doubt, a.attempts, a.error, a.ended_at) == ("U", True, 1, None, w.now)


def test_a_deadline_after_a_failure_and_a_lost_attempt_keeps_the_error_that_was_reported():
    w = walk(step("a", retry=TWICE)).claim().fail().claim().lose().wait(HOUR).claim()
    w.withheld(Withhold.DEADLINE)
    a = w.record("a")
    assert (a.code, a.doubt, a.error) == ("U", True, BOOM)


def test_a_deadline_after_a_clean_failure_leaves_the_step_known_failed():
    w = walk(step("a", retry=TWICE)).claim().fail().wait(HOUR).claim()
    w.withheld(Withhold.DEADLINE)
    a = w.record("a")
    assert (a.code, a.doubt, a.attempts, a.error, a.ended_at) == ("NO", False, 1, BOOM, w.now)
    assert w.i.state is SagaState.COMPENSATED
    assert w.i.cause == Cause(CauseKind.DEADLINE, w.now)


def test_a_cancel_waits_for_the_claim_after_it():
    w = walk().claim().done().wait(SECOND)
    before = w.i
    w.cancel()
    assert w.i.cancel == Cancel("ops", w.now)
    assert w.i == replace(
        before,
        cancel=w.i.cancel,
        updated_at=w.now,
        sweep_at=w.now + FIRST_SWEEP_MS,
        version=before.version + 1,
    )
    w.claim().withheld(Withhold.CANCELLED)
    assert w.i.cause == Cause(CauseKind.CANCELLED, w.now, by="ops")
    assert then(w) == Compensate("a", 1, in_doubt=False)


def test_a_cancel_ends_a_pause():
    w = walk(step("a", retry=TWICE), timeout=LONG).claim().fail().wait(SECOND)
    assert w.i.lane.due_at > w.now
    assert w.cancel().i.lane.due_at == w.now


def test_a_cancel_does_not_delay_what_is_due():
    assert walk().wait(SECOND).cancel().i.lane.due_at == T0


def test_a_result_that_comes_in_under_a_cancel_is_recorded_and_undone_too():
    w = walk().claim().cancel().done('{"x":1}')
    assert w.codes == "OK -"
    assert w.i.context_text == '{"x":1}'
    assert w.i.cause == Cause(CauseKind.CANCELLED, w.now, by="ops")
    assert then(w) == Compensate("a", 1, in_doubt=False)


def test_a_cancel_beats_the_completion_of_the_last_step():
    w = walk("a").claim().cancel().done()
    assert w.i.state is SagaState.COMPENSATING


@pytest.mark.parametrize("final", [True, False])
def test_a_failure_under_a_cancel_is_not_tried_again_and_the_cancel_is_the_cause(final):
    w = walk("z", step("a", retry=TWICE)).claim().done().claim().cancel().fail(fatal=final)
    assert w.codes == "OK NO"
    assert w.record("a").error == BOOM
    assert w.i.cause == Cause(CauseKind.CANCELLED, w.now, by="ops")


@pytest.mark.parametrize("final", [True, False])
def test_a_doubt_under_a_cancel_is_not_tried_again_and_the_cancel_is_the_cause(final):
    w = walk(step("a", retry=TWICE)).claim().cancel().doubt(final=final)
    assert w.codes == "U"
    assert w.i.cause == Cause(CauseKind.CANCELLED, w.now, by="ops")
    assert then(w) == Compensate("a", 1, in_doubt=True)


def test_too_many_lost_attempts_under_a_cancel_are_the_cancels():
    w = walk(step("a", retry=RetryPolicy(max_lost=1))).claim().lose().claim().cancel()
    w.withheld(Withhold.LOST)
    assert w.i.cause == Cause(CauseKind.CANCELLED, w.now, by="ops")


def test_a_second_cancel_changes_nothing():
    w = walk().cancel()
    assert w.ignores(w.cancelling("somebody else")) is Reason.ALREADY_CANCELLED


def test_a_cancel_that_comes_after_the_turn_or_the_end_changes_nothing():
    w = rolling_back()
    assert w.ignores(w.cancelling()) is Reason.ROLLING_BACK
    w.claim().undo_fails(fatal=True)
    assert w.ignores(w.cancelling()) is Reason.ROLL_BACK_STOPPED
    closed = walk("a").claim().done()
    assert closed.ignores(closed.cancelling()) is Reason.CLOSED
    undone = walk("a").claim().fail()
    assert undone.ignores(undone.cancelling()) is Reason.CLOSED


def test_a_cancel_that_was_not_asked_for_cannot_be_obeyed():
    w = walk().claim()
    message = w.refuses(Withheld(claim_id="c1", reason=Withhold.CANCELLED, at=w.now))
    assert message == "saga s1 was not cancelled"


# -- going back ----------------------------------------------------------------------


def test_steps_are_undone_from_the_newest_start_to_the_oldest():
    w = rolling_back()
    order = []
    while w.i.live:
        action = then(w)
        assert isinstance(action, Compensate)
        order.append(action.step)
        w.claim().undone()
    assert order == ["c", "b", "a"]
    assert w.codes == "C C C NO"
    assert w.i.state is SagaState.COMPENSATED


def test_the_order_of_starts_decides_and_not_the_order_of_the_definition():
    w = rolling_back()
    orders = {"a": 3, "b": 1, "c": 2}
    steps = tuple(replace(s, order=orders.get(s.name, s.order)) for s in w.i.steps)
    w.i = replace(w.i, steps=steps)
    w.claim().undone()
    assert then(w).step == "a"


def test_a_step_that_states_that_nothing_has_to_be_undone_is_passed_over():
    w = walk("a", step("b", compensatable=False), "c").claim().done().claim().done()
    w.claim().fail()
    assert then(w).step == "a"
    w.claim().undone()
    assert w.codes == "C OK NO"
    assert w.i.state is SagaState.COMPENSATED


def test_a_step_that_was_undone_says_so_and_keeps_why_it_had_failed():
    w = walk("a", "b").claim().done().claim().doubt()
    w.claim().wait(SECOND).undone('{"x":2}')
    b = w.record("b")
    assert (b.code, b.undo_attempts, b.attempts, b.error) == ("C", 1, 1, BOOM)
    assert b.ended_at == w.now
    assert w.i.context_text == '{"x":2}'
    assert w.i.state is SagaState.COMPENSATING
    assert w.i.lane == Lane(index=0, epoch=4, due_at=w.now, last_id="c3")


def test_an_undo_whose_context_could_not_be_kept_leaves_the_old_one():
    w = rolling_back().claim().undone(None)
    assert w.i.context_text == "{}"
    assert w.codes == "OK OK C NO"


def test_an_undo_that_fails_is_tried_again_after_a_pause_and_the_step_stays_open():
    w = rolling_back(compensation_retry=TWICE).claim().wait(SECOND).undo_fails(jitter=0.5)
    c = w.record("c")
    assert (c.code, c.error, c.undo_attempts, c.ended_at) == ("OK", BOOM, 1, None)
    lane = w.i.lane
    assert (lane.index, lane.attempts, lane.reported, lane.tries) == (2, 1, 1, 1)
    assert lane.due_at == w.now + 5 * SECOND
    assert then(w) == WakeAt(lane.due_at)


def test_the_pause_of_an_undo_is_not_cut_short_by_the_deadline():
    w = walk(step("a", compensation_retry=TWICE), "b", timeout=timedelta(seconds=1))
    w.claim().done().claim().fail().claim().undo_fails()
    assert w.i.lane.due_at == w.now + 10 * SECOND


@pytest.mark.parametrize("fatal", [True, False])
def test_a_compensation_that_is_spent_stops_the_saga_visibly(fatal):
    policy = TWICE if fatal else RetryPolicy(max_attempts=1)
    w = rolling_back(compensation_retry=policy).claim().wait(SECOND).undo_fails(fatal=fatal)
    assert w.codes == "OK OK CF NO"
    assert w.record("c").error == BOOM
    assert w.record("c").ended_at == w.now
    assert w.i.state is SagaState.FAILED
    assert w.i.why is Why.COMPENSATION_FAILED
    assert w.i.failure == BOOM
    assert w.i.lane.lease is None
    assert w.i.lane.nudge is None
    assert w.i.expires_at is None
    assert w.i.sweep_at == w.now


def test_a_compensation_whose_attempts_are_lost_stops_the_saga_too():
    w = rolling_back(compensation_retry=RetryPolicy(max_lost=1)).claim().lose().claim()
    w.withheld(Withhold.LOST)
    lost = StepError("AttemptsLost", "1 attempts vanished without a report")
    assert w.codes == "OK OK CF NO"
    assert (w.i.why, w.i.failure) == (Why.COMPENSATION_FAILED, lost)
    assert w.record("c").undo_attempts == 1
    assert w.record("c").ended_at == w.now


def test_if_the_definition_says_so_the_rest_is_undone_before_the_saga_stops():
    w = rolling_back(on_compensation_failure="continue").claim().undo_fails(fatal=True)
    assert then(w).step == "b"
    w.claim().undone().claim().undone()
    assert w.codes == "C C CF NO"
    assert w.i.state is SagaState.FAILED
    assert w.i.why is Why.COMPENSATION_FAILED
    assert w.i.failure == BOOM


def test_the_oldest_of_several_spent_compensations_is_the_one_that_is_named_last():
    w = rolling_back(on_compensation_failure="continue").claim().undo_fails(fatal=True)
    w.claim().undone().claim()
    lost = replace(w.i.steps[2], error=OTHER)
    w.i = replace(w.i, steps=(*w.i.steps[:2], lost, w.i.steps[3]))
    w.undo_fails(fatal=True)
    assert w.codes == "CF C CF NO"
    assert w.i.failure == OTHER


def test_an_answer_of_the_other_direction_is_illegal():
    w = walk().claim()
    before = w.i
    for undo in (w.undone, w.undo_fails):
        with pytest.raises(IllegalEventError, match=r"^saga s1 in phase F got Compensation"):
            undo()
    assert w.i == before
    w = rolling_back().claim()
    for forward in (w.done, w.fail, w.doubt):
        with pytest.raises(IllegalEventError, match=r"^saga s1 in phase C got Step"):
            forward()


@pytest.mark.parametrize("reason", [Withhold.CANCELLED, Withhold.DEADLINE])
def test_neither_cancel_nor_deadline_can_withhold_a_compensation(reason):
    w = rolling_back().claim()
    message = w.refuses(Withheld(claim_id=w.holder, reason=reason, at=w.now))
    assert message == f"saga s1 compensates; {reason.value} cannot stop it"


# -- answers that come twice, late, or from nowhere ----------------------------------


@pytest.mark.parametrize("kind", [StepSucceeded, StepFailed, StepInDoubt, Withheld])
def test_a_repeated_answer_is_recognised_and_a_late_one_is_refused(kind):
    def answer(claim_id: str):
        if kind is StepSucceeded:
            return StepSucceeded(claim_id=claim_id, context="{}", at=T0)
        if kind is StepFailed:
            return StepFailed(claim_id=claim_id, error=BOOM, fatal=False, jitter=0.0, at=T0)
        if kind is StepInDoubt:
            return StepInDoubt(claim_id=claim_id, error=BOOM, final=False, jitter=0.0, at=T0)
        return Withheld(claim_id=claim_id, reason=Withhold.DEADLINE, at=T0)

    w = walk("a", "b", "c").claim().lose().claim().done()
    assert w.ignores(answer("c2")) is Reason.ALREADY_RECORDED
    assert w.ignores(answer("c1")) is Reason.STALE_TOKEN
    assert w.ignores(answer("who")) is Reason.STALE_TOKEN
    w.claim()
    assert w.ignores(answer("c2")) is Reason.ALREADY_RECORDED
    assert w.ignores(answer("c1")) is Reason.STALE_TOKEN


def test_a_repeated_success_never_passes_for_the_success_of_its_compensation():
    w = rolling_back()
    assert w.ignores(StepSucceeded(claim_id="c3", context="{}", at=T0)) is Reason.STALE_TOKEN
    assert w.codes == "OK OK OK NO"


# -- the loop guard ------------------------------------------------------------------


def test_a_saga_that_the_loop_guard_stops_is_failed_and_has_spent_nothing():
    w = walk().claim().done().claim()
    w.i = replace(w.i, hops=77)
    w.withheld(Withhold.HOPS)
    assert w.i.state is SagaState.FAILED
    assert w.i.why is Why.STALLED
    assert w.i.failure == StepError("HopLimit", "77 moves are more than any honest failure needs")
    assert (w.i.lane.tries, w.i.lane.attempts) == (0, 0)
    assert w.codes == "OK -"
    assert w.resume().i.hops == 0
    assert then(w) == Execute("b", 1)


# -- the dead letters ----------------------------------------------------------------


def test_a_dead_letter_of_the_current_item_puts_it_off_and_counts_the_stall():
    w = walk().wait(SECOND)
    before = w.i
    w.event(w.dying())
    assert w.i == replace(
        before,
        stalls=1,
        updated_at=w.now,
        lane=replace(before.lane, nudge=Nudge("n1", w.now), due_at=w.now + MINUTE),
        sweep_at=T0 + 10 * MINUTE,
        version=before.version + 1,
    )


def test_each_dead_letter_waits_twice_as_long_as_the_one_before():
    w = walk()
    waits = []
    for _ in range(4):
        w.dead_letter()
        waits.append((w.i.lane.due_at - w.now) // MINUTE)
    assert waits == [1, 2, 4, 8]
    w.dead_letter()
    assert w.i.state is SagaState.FAILED


def test_the_wait_after_a_dead_letter_is_one_that_a_queue_can_hold():
    w = walk()
    w.i = replace(w.i, stalls=3)
    assert w.dead_letter().i.lane.due_at - w.now == 480 * SECOND


def test_the_last_dead_letter_stops_the_saga_and_says_what_was_in_the_way():
    w = walk().stall()
    assert w.i.stalls == 5
    assert w.i.why is Why.STALLED
    assert w.i.failure == StepError("DeliveryExhausted", "gave up")
    assert w.i.sweep_at == w.now
    assert w.i.updated_at == w.now
    assert w.i.lane.nudge is None
    assert w.i.lane.epoch == 1


def test_any_settled_attempt_forgets_the_stalls_and_the_sweeps():
    w = walk().dead_letter().dead_letter()
    w.i = replace(w.i, sweeps=3)
    w.claim()
    assert (w.i.stalls, w.i.sweeps) == (2, 3)
    w.done()
    assert (w.i.stalls, w.i.sweeps) == (0, 0)


def test_a_dead_letter_of_a_saga_that_rests_or_is_in_hand_changes_nothing():
    w = walk()
    w.i = replace(w.i, lane=replace(w.i.lane, nudge=Nudge("n0", T0)))
    assert w.wait(NUDGE_MS - 1).ignores(w.dying()) is Reason.NUDGED
    assert w.ignores(w.dying(epoch=0)) is Reason.NUDGED
    w = walk().claim().wait(LEASE)
    assert w.ignores(w.dying()) is Reason.LEASED
    assert w.ignores(w.dying(epoch=0)) is Reason.LEASED
    w.wait(1).event(w.dying())
    assert w.i.stalls == 1
    w = walk().stall()
    assert w.ignores(w.dying()) is Reason.PARKED
    w = walk("a").claim().done()
    assert w.ignores(w.dying()) is Reason.CLOSED


def test_a_dead_letter_of_another_item_is_stale_by_whether_the_current_one_is_claimed():
    w = walk().claim().done()
    assert w.ignores(w.dying(epoch=1)) is Reason.STALE_UNCLAIMED
    other = replace(w.dying(), definition="order@2#0")
    assert w.ignores(other) is Reason.STALE_UNCLAIMED
    w.claim().lose()
    assert w.ignores(w.dying(epoch=1)) is Reason.STALE_CLAIMED


def test_a_dead_letter_of_a_saga_that_waits_as_it_should_changes_nothing():
    w = walk(step("a", retry=TWICE), timeout=LONG).claim().fail()
    w.wait(10 * SECOND - 1)
    assert w.ignores(w.dying()) is Reason.EARLY
    w.wait(1).event(w.dying())


def test_a_saga_stopped_in_the_middle_of_an_attempt_fences_the_holder_off():
    w = walk().claim()
    w.i = replace(w.i, stalls=4)
    w.lose().event(w.dying())
    assert w.i.state is SagaState.FAILED
    assert w.i.lane.lease is None
    assert w.ignores(StepSucceeded(claim_id="c1", context="{}", at=w.now)) is Reason.STALE_TOKEN


# -- resume --------------------------------------------------------------------------


def test_resume_gives_new_budgets_and_a_new_deadline_and_forgets_no_doubt():
    w = walk(step("a", retry=RetryPolicy(max_attempts=3, base=timedelta(0))))
    w.claim().fail().claim().lose().stall().wait(SECOND)
    before = w.i
    assert (before.lane.tries, before.lane.clean) == (2, 1)
    w.resume()
    assert w.i.state is SagaState.RUNNING
    assert (w.i.why, w.i.failure) == (None, None)
    assert w.i.deadline_at == w.now + 5 * MINUTE
    assert w.i.lane == replace(
        before.lane,
        epoch=before.lane.epoch + 1,
        attempts=0,
        reported=0,
        due_at=w.now,
        lease=None,
        nudge=None,
    )
    assert (w.i.stalls, w.i.hops, w.i.sweeps) == (0, 0, 0)
    assert w.i.sweep_at == w.now + FIRST_SWEEP_MS
    assert w.i.updated_at == w.now
    assert then(w) == Execute("a", 3)
    w.claim().fail(fatal=True)
    assert w.codes == "U"


def test_resume_is_not_led_astray_by_how_the_saga_was_left():
    w = walk().stall()
    leased = replace(w.i.lane, lease=Lease("x", w.now), nudge=Nudge("y", w.now))
    w.i = replace(w.i, lane=leased, sweeps=4)
    w.resume()
    assert (w.i.lane.lease, w.i.lane.nudge, w.i.sweeps) == (None, None, 0)


def test_resume_of_a_roll_back_goes_on_at_the_newest_step_that_is_open():
    w = rolling_back().claim().undo_fails().until_due().claim().undo_fails(fatal=True).wait(SECOND)
    assert w.record("c").undo_attempts == 2
    deadline = w.i.deadline_at
    w.resume()
    assert w.i.state is SagaState.COMPENSATING
    assert w.i.deadline_at == deadline
    c = w.record("c")
    assert (c.code, c.ended_at, c.error) == ("OK", None, BOOM)
    assert (w.i.lane.attempts, w.i.lane.reported, w.i.lane.tries) == (0, 0, 2)
    assert w.i.lane.due_at == w.now
    assert w.i.sweep_at == w.now + FIRST_SWEEP_MS
    assert then(w) == Compensate("c", 3, in_doubt=False)


def test_resume_remembers_that_a_step_was_in_doubt():
    w = walk().claim().doubt().claim().undo_fails(fatal=True).resume()
    assert w.codes == "U -"
    assert then(w) == Compensate("a", 2, in_doubt=True)


def test_resume_opens_every_compensation_that_was_spent():
    w = rolling_back(on_compensation_failure="continue").claim().undo_fails(fatal=True)
    w.claim().undone().claim().undo_fails(fatal=True)
    assert w.codes == "CF C CF NO"
    w.resume()
    assert w.codes == "OK C OK NO"
    assert then(w).step == "c"


def test_resume_of_a_saga_that_moves_or_has_ended_changes_nothing():
    w = walk()
    assert w.ignores(w.resuming()) is Reason.LIVE
    w = walk("a").claim().done()
    assert w.ignores(w.resuming()) is Reason.CLOSED


def test_a_saga_that_was_cancelled_and_stalled_is_rolled_back_when_it_is_resumed():
    w = walk().claim().done().cancel().stall().resume()
    assert then(w) == Settle(Withhold.CANCELLED)


def test_a_resumed_roll_back_never_goes_forward_again():
    w = rolling_back().stall().resume()
    assert w.i.state is SagaState.COMPENSATING
    assert then(w).step == "c"


# -- cancel of a FAILED saga ---------------------------------------------------------


def test_a_cancel_of_a_stalled_saga_rolls_it_back_at_once():
    w = walk().claim().done().stall().wait(SECOND)
    epoch = w.i.lane.epoch
    w.cancel()
    assert w.i.state is SagaState.COMPENSATING
    assert w.i.cause == Cause(CauseKind.CANCELLED, w.now, by="ops")
    assert (w.i.why, w.i.failure, w.i.stalls, w.i.hops) == (None, None, 0, 0)
    assert w.i.lane.epoch == epoch + 1
    assert w.i.lane.due_at == w.now
    assert w.i.sweep_at == w.now + FIRST_SWEEP_MS
    assert w.i.updated_at == w.now
    assert then(w) == Compensate("a", 1, in_doubt=False)


def test_a_cancel_of_a_stalled_saga_undoes_the_step_that_may_have_started():
    w = walk().claim().stall().wait(SECOND).cancel()
    a = w.record("a")
    assert (a.code, a.doubt, a.ended_at) == ("U", True, w.now)
    assert then(w) == Compensate("a", 1, in_doubt=True)


def test_a_cancel_of_a_stalled_saga_with_nothing_to_undo_ends_it():
    w = walk().stall().cancel()
    assert w.i.state is SagaState.COMPENSATED
    assert w.i.sweep_at is None
    assert w.i.expires_at is not None


def test_the_first_cancel_is_the_one_that_counts():
    w = walk().claim().done().cancel().stall()
    first = w.i.cancel
    w.event(w.cancelling("somebody else"))
    assert w.i.cancel == first
    assert w.i.cause == Cause(CauseKind.CANCELLED, w.now, by="ops")


# -- skip ----------------------------------------------------------------------------


def test_a_step_that_is_skipped_going_forward_counts_as_done_and_is_never_undone():
    w = walk("a", "b", "c").claim().done().claim().lose().stall().wait(SECOND).skip("b")
    b = w.record("b")
    assert (b.code, b.doubt, b.error, b.ended_at) == (
        "SK",
        False,
        StepError("Skipped", "by ops"),
        w.now,
    )
    assert w.i.state is SagaState.RUNNING
    assert w.i.deadline_at == w.now + 5 * MINUTE
    assert w.i.sweep_at == w.now + FIRST_SWEEP_MS
    assert w.i.updated_at == w.now
    assert (w.i.why, w.i.stalls) == (None, 0)
    assert then(w) == Execute("c", 1)
    w.claim().fail()
    assert then(w).step == "a"


def test_the_step_after_a_skipped_one_started_when_it_did():
    w = walk("a", "b").claim().stall().wait(HOUR).skip("a").claim().done()
    assert w.record("b").started_at == w.now


def test_a_step_in_doubt_that_is_skipped_is_in_doubt_no_more():
    w = walk(step("a", retry=TWICE), "b").claim().doubt().stall()
    assert w.record("a").doubt
    w.skip("a")
    assert w.record("a").doubt is False


def test_skipping_the_last_step_completes_the_saga():
    w = walk("a").stall().skip("a")
    assert w.i.state is SagaState.COMPLETED
    assert w.i.sweep_at is None
    assert w.i.expires_at is not None


def test_skipping_a_step_of_a_saga_that_was_cancelled_rolls_it_back():
    w = walk("a", "b", "c").claim().done().cancel().stall().skip("b")
    assert w.codes == "OK SK -"
    assert w.i.cause == Cause(CauseKind.CANCELLED, w.now, by="ops")
    assert then(w) == Compensate("a", 1, in_doubt=False)


def test_a_compensation_that_is_skipped_counts_as_undone():
    w = rolling_back().claim().undo_fails(fatal=True).wait(SECOND).skip("c")
    c = w.record("c")
    assert (c.code, c.error, c.ended_at) == ("SK", StepError("Skipped", "by ops"), w.now)
    assert w.i.state is SagaState.COMPENSATING
    assert then(w) == Compensate("b", 1, in_doubt=False)


def test_every_spent_compensation_may_be_skipped_and_the_others_are_tried_again():
    w = rolling_back(on_compensation_failure="continue").claim().undo_fails(fatal=True)
    w.claim().undo_fails(fatal=True).claim().undone()
    assert w.codes == "C CF CF NO"
    w.skip("b")
    assert w.codes == "C SK OK NO"
    assert then(w).step == "c"


def test_a_compensation_that_stalled_may_be_skipped():
    w = rolling_back().stall().skip("c")
    assert w.codes == "OK OK SK NO"


def test_a_step_that_was_undone_is_not_what_the_saga_stopped_at():
    w = rolling_back(on_compensation_failure="continue").claim().undo_fails(fatal=True)
    w.claim().undone().claim().undone()
    assert w.codes == "C C CF NO"
    assert w.ignores(w.skipping("a")) is Reason.OTHER_STEP


def test_a_step_that_the_saga_did_not_stop_at_is_not_skipped():
    w = walk().stall()
    assert w.ignores(w.skipping("b")) is Reason.OTHER_STEP
    assert w.ignores(w.skipping("unknown")) is Reason.OTHER_STEP


def test_a_saga_that_moves_or_has_ended_has_no_step_to_skip():
    w = walk()
    assert w.ignores(w.skipping("a")) is Reason.LIVE
    w = walk("a").claim().done()
    assert w.ignores(w.skipping("a")) is Reason.CLOSED


# -- when the sweeper comes ----------------------------------------------------------


def test_the_sweeper_comes_when_a_lost_message_would_have_come_back():
    w = walk().claim().done()
    assert GRACE_MS == 6 * MINUTE
    assert w.i.sweep_at == T0 + 10 * MINUTE


def test_the_sweeper_counts_from_the_due_time():
    policy = RetryPolicy(max_attempts=2, base=timedelta(minutes=15), cap=timedelta(minutes=15))
    w = walk(step("a", retry=policy), timeout=LONG).claim().fail()
    assert w.i.lane.due_at == T0 + MAX_DELAY_MS
    assert w.i.sweep_at == T0 + 25 * MINUTE


def test_the_sweeper_hands_a_longer_wait_to_the_queue_before_it_ends():
    policy = RetryPolicy(
        max_attempts=2, base=timedelta(minutes=15, milliseconds=1), cap=timedelta(hours=1)
    )
    w = walk(step("a", retry=policy), timeout=LONG).claim().fail()
    assert w.i.sweep_at == T0 + MAX_DELAY_MS + 1 - LONG_TIMER_LEAD_MS
