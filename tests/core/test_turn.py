from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from saga_core.actions import Compensate, Execute, Settle
from saga_core.calls import Direction
from saga_core.definition import SagaDefinition
from saga_core.effects import (
    Call,
    Claim,
    Commit,
    Create,
    Ended,
    Find,
    MarkSwept,
    Pause,
    Postpone,
    Record,
    Redispatch,
    Send,
    TooLarge,
    Unavailable,
)
from saga_core.errors import ItemTooLargeError
from saga_core.events import (
    CancelRequested,
    CompensationFailed,
    CompensationSucceeded,
    ResumeRequested,
    SkipRequested,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    Withheld,
    Withhold,
)
from saga_core.instance import Key, Lease, Nudge, SagaState, Why
from saga_core.outcome import Done, Failed, InDoubt, StepError
from saga_core.ports import DueSaga, Refused, Written
from saga_core.retry import RetryPolicy
from saga_core.transition import MAX_DELAY_MS, NUDGE_MS, Reason, swept
from saga_core.turn import (
    COMMIT_MARGIN_MS,
    LEASE_MARGIN_MS,
    RETRY_PAUSE_MS,
    SPREAD_MS,
    STEP_MARGIN_MS,
    SUPPRESSED_MS,
    Answer,
    Delivery,
    Starting,
    Verdict,
    WorkMessage,
    request,
    revive,
    start,
    sweep,
    work,
)
from tests.core.driver import AMBIGUOUS, STEP_MS, THROTTLED, WORKER_MS, World, play
from tests.core.sagas import BOOM, HOUR, LEASE, MINUTE, SECOND, T0, Walk, new, saga, step

D = saga("a", "b")
SENT, NOT_SENT = True, False  # what the queue says
LOST_ANSWER = Unavailable(AMBIGUOUS, T0)
DOWN = Unavailable(THROTTLED, T0)
TOO_LARGE = TooLarge(ItemTooLargeError("s1", 400_000, 358_400), T0)
KEY = Key("default", "s1")


def delivery(at: int = T0, *, jitter: float = 0.0, time_left: int = WORKER_MS) -> Delivery:
    return Delivery("d1", at, at + time_left, STEP_MS, jitter)


def message(walk: Walk, *, epoch: int | None = None, definition: str | None = None) -> WorkMessage:
    return WorkMessage(
        walk.i.key,
        walk.i.lane.epoch if epoch is None else epoch,
        walk.i.definition if definition is None else definition,
        "step",
        "x",
    )


def known(*definitions: SagaDefinition):
    """The lookup of a deployment with these definitions."""
    return {d.ref: d for d in definitions}.get


def working(walk: Walk, *, jitter: float = 0.0, epoch: int | None = None):
    return work(
        message(walk, epoch=epoch), delivery(walk.now, jitter=jitter), known(walk.definition)
    )


def claim_it(walk: Walk):
    """The reply of a store that grants the claim to d1."""

    def reply(effect: Claim) -> Written:
        claimed = walk.event(
            replace(walk.claiming(effect.claim_id), until=effect.until, epoch=effect.epoch)
        )
        return Written(claimed.i)

    return reply


def commit_it(effect: Commit) -> Written:
    """The reply of a store that takes the commit."""
    return Written(replace(effect.after, version=effect.before.version + 1))


def record_it(effect: Record) -> Written:
    """The reply of a store that takes the record."""
    return Written(replace(effect.after, version=effect.before.version + 1))


def done(context: str = "{}", at: int = T0) -> Ended:
    return Ended(Done(context), at, 0.5)


def kinds(effects) -> list[str]:
    return [type(e).__name__ for e in effects]


# -- start ---------------------------------------------------------------------------


def test_a_start_stores_the_saga_and_then_announces_it():
    fresh = new(D)
    stored = replace(fresh, version=1)
    effects, started = play(start(fresh, D, ends_at=T0 + WORKER_MS), Written(stored), SENT)
    assert effects == [Create(fresh), Send(stored, 0, "start")]
    assert (started.result, started.instance, started.announced) == (
        Starting.CREATED,
        stored,
        SENT,
    )


def test_a_start_whose_announcement_fails_is_a_start_all_the_same():
    fresh = new(D)
    _, started = play(start(fresh, D, ends_at=T0 + WORKER_MS), Written(fresh), NOT_SENT)
    assert (started.result, started.announced) == (Starting.CREATED, False)


def test_a_repeated_start_finds_the_saga_that_exists_and_announces_it_again():
    fresh = new(D)
    theirs = replace(fresh, incarnation="other", version=1)
    effects, started = play(start(fresh, D, ends_at=T0 + WORKER_MS), Refused(theirs), SENT)
    assert effects[1] == Send(theirs, 0, "start")
    assert (started.result, started.instance) == (Starting.EXISTED, theirs)


@pytest.mark.parametrize("moved", ["claimed", "second attempt", "second step", "closed"])
def test_a_repeated_start_of_a_saga_that_has_moved_announces_nothing(moved):
    walk = Walk(saga("a", "b")).claim()
    if moved == "second attempt":
        walk.event(walk.taking_over())
    if moved == "second step":
        walk.done()
    if moved == "closed":
        walk.fail()
    theirs = replace(walk.i, incarnation="other")
    effects, started = play(start(new(D), D, ends_at=T0 + WORKER_MS), Refused(theirs))
    assert kinds(effects) == ["Create"]
    assert (started.result, started.instance, started.announced) == (
        Starting.EXISTED,
        theirs,
        SENT,
    )


def test_a_key_that_was_used_with_another_input_is_refused_with_the_saga_that_has_it():
    theirs = replace(new(D), input_fingerprint="other")
    effects, started = play(start(new(D), D, ends_at=T0 + WORKER_MS), Refused(theirs))
    assert kinds(effects) == ["Create"]
    assert (started.result, started.instance) == (Starting.KEY_REUSED, theirs)


def test_a_start_that_does_not_fit_stores_nothing():
    _, started = play(start(new(D), D, ends_at=T0 + WORKER_MS), TOO_LARGE)
    assert (started.result, started.instance) == (Starting.TOO_LARGE, None)


@pytest.mark.parametrize("reply", [DOWN, Refused(None)], ids=["throttled", "refused by nobody"])
def test_a_start_that_the_store_does_not_take_is_unavailable(reply):
    effects, started = play(start(new(D), D, ends_at=T0 + WORKER_MS), reply)
    assert kinds(effects) == ["Create"]
    assert (started.result, started.instance) == (Starting.UNAVAILABLE, None)


def test_a_start_whose_answer_was_lost_is_repeated_and_recognises_itself():
    fresh = new(D)
    stored = replace(fresh, version=1)
    effects, started = play(
        start(fresh, D, ends_at=T0 + WORKER_MS), LOST_ANSWER, T0 + 50, Refused(stored), SENT
    )
    assert effects == [
        Create(fresh),
        Pause(RETRY_PAUSE_MS),
        Create(fresh),
        Send(stored, 0, "start"),
    ]
    assert started.result is Starting.CREATED


def test_a_lost_answer_is_asked_for_again_only_while_time_remains():
    ends_at = T0 + WORKER_MS
    last = ends_at - COMMIT_MARGIN_MS
    replies = (LOST_ANSWER, last - 1, LOST_ANSWER, last)
    effects, started = play(start(new(D), D, ends_at=ends_at), *replies)
    assert kinds(effects) == ["Create", "Pause", "Create", "Pause"]
    assert started.result is Starting.UNAVAILABLE


# -- work: the good path -------------------------------------------------------------


def test_one_move_is_claim_call_commit_send():
    walk = Walk(D)
    effects, decision = play(
        working(walk, jitter=0.9), claim_it(walk), done('{"x":1}', T0 + 7), commit_it, SENT
    )
    assert kinds(effects) == ["Claim", "Call", "Commit", "Send"]
    assert effects[0] == Claim(KEY, 1, D.ref, "d1", T0, T0 + WORKER_MS + LEASE_MARGIN_MS)
    after = decision.after
    assert after is not None
    assert effects[3] == Send(after, 0, "step")
    assert after.context_text == '{"x":1}'
    assert (after.lane.index, after.lane.epoch, after.lane.last_id) == (1, 2, "d1")
    assert after.updated_at == T0 + 7
    assert decision.verdict is Verdict.COMMITTED
    assert decision.acknowledge
    assert decision.recognised == 0
    assert decision.action == Execute("a", 1)
    assert decision.event == StepSucceeded(claim_id="d1", context='{"x":1}', at=T0 + 7)
    assert decision.before is not None
    assert decision.before.lane.lease == Lease("d1", T0 + WORKER_MS + LEASE_MARGIN_MS)


def test_the_call_says_everything_about_the_attempt():
    walk = Walk(D).claim().done('{"x":1}').claim().lose()
    effects, _ = play(working(walk), claim_it(walk), done(), commit_it)
    call = effects[1]
    assert isinstance(call, Call)
    assert (call.step, call.direction, call.context) == ("b", Direction.FORWARD, '{"x":1}')
    assert call.call.saga_id == "s1"
    assert call.call.step == "b"
    assert call.call.direction is Direction.FORWARD
    assert call.call.attempt == 2
    assert call.call.idempotency_key == "s1.abcd1234:b:F"
    assert call.call.execute_key == "s1.abcd1234:b:F"
    assert call.call.fence == walk.i.version
    ends = datetime.fromtimestamp((walk.now + WORKER_MS - STEP_MARGIN_MS) / 1000, UTC)
    assert call.call.deadline == ends
    assert call.call.deadline.tzinfo is UTC
    assert call.call.reason is None
    assert call.call.in_doubt is False


@pytest.mark.parametrize(("doubt", "kind"), [(True, "U"), (False, "OK")])
def test_a_compensations_call_carries_the_reason_and_the_forward_calls_key(doubt, kind):
    walk = Walk(saga("a", "b")).claim()
    if doubt:
        walk.doubt()
    else:
        walk.done().claim().fail()
    assert walk.record("a").code == kind
    effects, decision = play(working(walk), claim_it(walk), done(), commit_it)
    call = effects[1]
    assert isinstance(call, Call)
    assert (call.step, call.direction) == ("a", Direction.COMPENSATION)
    assert call.call.direction is Direction.COMPENSATION
    assert call.call.idempotency_key == "s1.abcd1234:a:C"
    assert call.call.execute_key == "s1.abcd1234:a:F"
    assert call.call.reason == "step_failed"
    assert call.call.in_doubt is doubt
    assert decision.action == Compensate("a", 1, doubt)


def test_the_last_move_sends_nothing():
    walk = Walk(saga("a"))
    effects, decision = play(working(walk), claim_it(walk), done(), commit_it)
    assert kinds(effects) == ["Claim", "Call", "Commit"]
    assert decision.after is not None
    assert decision.after.state is SagaState.COMPLETED
    assert decision.acknowledge


def test_the_next_attempt_is_announced_with_the_pause_that_the_policy_asks_for():
    policy = RetryPolicy(max_attempts=2, base=timedelta(seconds=10))
    walk = Walk(saga(step("a", retry=policy)))
    failed = Ended(Failed(BOOM), T0 + SECOND, 0.5)
    effects, decision = play(working(walk), claim_it(walk), failed, commit_it, SENT)
    assert decision.after is not None
    assert effects[3] == Send(decision.after, 5 * SECOND, "step")


def test_a_pause_that_the_queue_cannot_hold_sends_nothing():
    policy = RetryPolicy(max_attempts=2, base=timedelta(hours=2), cap=timedelta(hours=2))
    walk = Walk(saga(step("a", retry=policy), timeout=timedelta(days=1)))
    effects, decision = play(working(walk), claim_it(walk), Ended(Failed(BOOM), T0, 0.5), commit_it)
    assert kinds(effects) == ["Claim", "Call", "Commit"]
    assert decision.verdict is Verdict.COMMITTED
    assert decision.after is not None
    assert decision.after.lane.due_at == T0 + HOUR
    assert decision.after.sweep_at == T0 + HOUR - 10 * MINUTE


@pytest.mark.parametrize(
    ("outcome", "event"),
    [
        (Done("[]"), StepSucceeded(claim_id="d1", context="[]", at=T0 + 1)),
        (
            Failed(BOOM),
            StepFailed(claim_id="d1", error=BOOM, fatal=False, jitter=0.25, at=T0 + 1),
        ),
        (
            Failed(BOOM, fatal=True),
            StepFailed(claim_id="d1", error=BOOM, fatal=True, jitter=0.25, at=T0 + 1),
        ),
        (
            InDoubt(BOOM),
            StepInDoubt(claim_id="d1", error=BOOM, final=False, jitter=0.25, at=T0 + 1),
        ),
        (
            InDoubt(BOOM, final=True),
            StepInDoubt(claim_id="d1", error=BOOM, final=True, jitter=0.25, at=T0 + 1),
        ),
    ],
    ids=["done", "failed", "fatal", "in doubt", "in doubt for good"],
)
def test_an_outcome_going_forward_becomes_an_event_of_its_own(outcome, event):
    walk = Walk(saga("z", step("a", retry=RetryPolicy(max_attempts=5)), "b")).claim().done()
    ended = Ended(outcome, T0 + 1, 0.25)
    _, decision = play(working(walk), claim_it(walk), ended, commit_it, SENT)
    assert decision.event == event


@pytest.mark.parametrize(
    ("outcome", "event"),
    [
        (Done("[]"), CompensationSucceeded(claim_id="d1", context="[]", at=T0 + 1)),
        (
            Failed(BOOM),
            CompensationFailed(claim_id="d1", error=BOOM, fatal=False, jitter=0.25, at=T0 + 1),
        ),
        (
            InDoubt(BOOM),
            CompensationFailed(claim_id="d1", error=BOOM, fatal=False, jitter=0.25, at=T0 + 1),
        ),
    ],
    ids=["done", "failed", "in doubt"],
)
def test_an_outcome_going_back_becomes_an_event_of_its_own(outcome, event):
    walk = Walk(saga("a", "b", "c")).claim().done().claim().done().claim().fail()
    _, decision = play(working(walk), claim_it(walk), Ended(outcome, T0 + 1, 0.25), commit_it, SENT)
    assert decision.event == event


@pytest.mark.parametrize(
    "outcome", [Failed(BOOM, fatal=True), InDoubt(BOOM, final=True)], ids=["failed", "in doubt"]
)
def test_a_compensation_that_will_never_work_is_not_tried_again(outcome):
    walk = Walk(saga("a", "b")).claim().done().claim().fail()
    _, decision = play(working(walk), claim_it(walk), Ended(outcome, T0 + 1, 0.25), commit_it)
    assert decision.event == CompensationFailed(
        claim_id="d1", error=BOOM, fatal=True, jitter=0.25, at=T0 + 1
    )
    assert decision.after is not None
    assert decision.after.why is Why.COMPENSATION_FAILED


def test_an_attempt_that_may_not_call_is_settled_without_a_call():
    walk = Walk(D).cancel()
    effects, decision = play(working(walk), claim_it(walk), commit_it)
    assert kinds(effects) == ["Claim", "Commit"]
    assert decision.action == Settle(Withhold.CANCELLED)
    assert decision.event == Withheld(claim_id="d1", reason=Withhold.CANCELLED, at=T0)
    assert decision.after is not None
    assert decision.after.state is SagaState.COMPENSATED


# -- work: before the claim ----------------------------------------------------------


def test_without_the_definition_nothing_is_touched_and_the_message_comes_back():
    walk = Walk(D)
    effects, decision = play(work(message(walk), delivery(), known()))
    assert effects == []
    assert decision.verdict is Verdict.DEFINITION_MISSING
    assert decision.acknowledge is False
    assert decision.before is None


def test_without_the_time_for_a_step_nothing_is_touched_and_the_message_comes_back():
    walk = Walk(D)
    short = delivery(time_left=STEP_MS + STEP_MARGIN_MS - 1)
    effects, decision = play(work(message(walk), short, known(D)))
    assert effects == []
    assert decision.verdict is Verdict.NO_TIME
    assert not decision.acknowledge


def test_just_the_time_for_a_step_is_enough():
    walk = Walk(D)
    enough = delivery(time_left=STEP_MS + STEP_MARGIN_MS)
    _, decision = play(
        work(message(walk), enough, known(D)), claim_it(walk), done(), commit_it, SENT
    )
    assert decision.verdict is Verdict.COMMITTED


# -- work: every row of W1 -----------------------------------------------------------


def test_a_message_of_a_saga_that_is_gone_is_acknowledged():
    effects, decision = play(working(Walk(D)), Refused(None))
    assert kinds(effects) == ["Claim"]
    assert decision.verdict is Verdict.ORPHAN
    assert decision.acknowledge


def test_a_claim_whose_answer_was_lost_below_is_recognised_and_the_attempt_made():
    walk = Walk(D)
    walk.event(walk.claiming("d1"))
    effects, decision = play(working(walk), Refused(walk.i), done(), commit_it, SENT)
    assert kinds(effects) == ["Claim", "Call", "Commit", "Send"]
    assert decision.verdict is Verdict.COMMITTED
    assert decision.recognised == 1
    assert decision.action == Execute("a", 1)


def test_a_claim_whose_answer_was_lost_here_is_repeated_with_the_same_id():
    walk = Walk(D)

    def already_mine(_: Claim) -> Refused:
        return Refused(walk.event(walk.claiming("d1")).i)

    effects, decision = play(
        working(walk), LOST_ANSWER, T0 + 50, already_mine, done(), commit_it, SENT
    )
    assert kinds(effects) == ["Claim", "Pause", "Claim", "Call", "Commit", "Send"]
    assert effects[0] == effects[2]
    assert decision.recognised == 1
    assert decision.action == Execute("a", 1)


@pytest.mark.parametrize("reply", [DOWN, TOO_LARGE], ids=["throttled", "too large"])
def test_a_claim_that_the_store_does_not_take_is_left_to_the_next_delivery(reply):
    effects, decision = play(working(Walk(D)), reply)
    assert kinds(effects) == ["Claim"]
    assert decision.verdict is Verdict.STORE_UNAVAILABLE
    assert not decision.acknowledge


@pytest.mark.parametrize("state", [SagaState.COMPLETED, SagaState.COMPENSATED, SagaState.FAILED])
def test_a_message_of_a_saga_that_rests_is_acknowledged(state):
    walk = Walk(saga("a"))
    if state is SagaState.FAILED:
        walk.stall()
    elif state is SagaState.COMPLETED:
        walk.claim().done()
    else:
        walk.claim().fail()
    assert walk.i.state is state
    effects, decision = play(working(walk), Refused(walk.i))
    assert kinds(effects) == ["Claim"]
    assert decision.verdict is Verdict.CLOSED
    assert decision.acknowledge
    assert decision.before == walk.i


def test_a_message_of_an_older_item_is_acknowledged_while_the_current_one_is_claimed():
    walk = Walk(D).claim().done().claim()
    effects, decision = play(working(walk, epoch=1), Refused(walk.i))
    assert kinds(effects) == ["Claim"]
    assert decision.verdict is Verdict.STALE
    assert decision.acknowledge
    assert decision.before == walk.i


def test_a_claim_with_a_lapsed_lease_still_counts_as_claimed_for_an_older_message():
    walk = Walk(D).claim().done().claim().lose()
    _, decision = play(working(walk, epoch=1), Refused(walk.i))
    assert decision.verdict is Verdict.STALE


def test_a_message_of_an_older_item_announces_the_current_one_that_nobody_has():
    walk = Walk(D).claim().done()
    effects, decision = play(working(walk, epoch=1), Refused(walk.i), Written(walk.i), SENT)
    assert effects[1:] == [Redispatch(walk.i, "d1", walk.now), Send(walk.i, 0, "redispatch")]
    assert decision.verdict is Verdict.REDISPATCHED
    assert decision.acknowledge
    assert decision.before == walk.i


def test_a_message_of_another_definition_is_an_older_message():
    walk = Walk(D)
    other = message(walk, definition="order@0#0123456789abcdef")
    effects, decision = play(
        work(other, delivery(), {other.definition: D}.get), Refused(walk.i), Written(walk.i), SENT
    )
    assert kinds(effects) == ["Claim", "Redispatch", "Send"]
    assert decision.verdict is Verdict.REDISPATCHED


def test_a_held_lease_postpones_the_message_beyond_its_end_and_never_acknowledges():
    walk = Walk(D).claim()
    effects, decision = play(working(walk, jitter=0.5), Refused(walk.i), None)
    assert effects[1:] == [Postpone(LEASE + SPREAD_MS // 2)]
    assert decision.verdict is Verdict.LEASE_CONFLICT
    assert not decision.acknowledge
    assert decision.before == walk.i


def test_the_lease_is_looked_at_before_the_due_time():
    walk = Walk(D).claim()
    leased = replace(walk.i, lane=replace(walk.i.lane, due_at=walk.now + HOUR))
    _, decision = play(working(walk), Refused(leased), None)
    assert decision.verdict is Verdict.LEASE_CONFLICT


def test_a_message_that_comes_early_is_postponed_until_it_is_due():
    walk = Walk(D)
    waiting = replace(walk.i, lane=replace(walk.i.lane, due_at=T0 + 5 * SECOND))
    effects, decision = play(working(walk, jitter=0.5), Refused(waiting), None)
    assert effects[1:] == [Postpone(5 * SECOND)]
    assert decision.verdict is Verdict.EARLY
    assert not decision.acknowledge
    assert decision.before == waiting


def test_a_message_that_comes_far_too_early_is_left_to_the_sweeper():
    walk = Walk(D)
    waiting = replace(walk.i, lane=replace(walk.i.lane, due_at=T0 + MAX_DELAY_MS + 1))
    effects, decision = play(working(walk), Refused(waiting))
    assert kinds(effects) == ["Claim"]
    assert decision.verdict is Verdict.LONG_TIMER
    assert decision.acknowledge
    assert decision.before == waiting


def test_a_claim_that_is_refused_for_no_reason_left_is_tried_again_later():
    walk = Walk(D)
    effects, decision = play(working(walk), Refused(walk.i))
    assert kinds(effects) == ["Claim"]
    assert decision.verdict is Verdict.CONTENDED
    assert not decision.acknowledge
    assert decision.before == walk.i


def test_a_store_that_grants_the_claim_of_a_saga_that_rests_is_not_believed():
    walk = Walk(saga("a")).claim().done()
    effects, decision = play(working(walk), Written(walk.i))
    assert kinds(effects) == ["Claim"]
    assert decision.verdict is Verdict.CONTENDED
    assert decision.before == walk.i
    assert not decision.acknowledge


@pytest.mark.parametrize("claimed", [True, False], ids=["claimed by another", "unclaimed"])
def test_a_store_that_grants_a_claim_and_does_not_write_it_is_not_believed(claimed):
    walk = Walk(saga("a"))
    if claimed:
        walk.claim()
    effects, decision = play(working(walk), Written(walk.i))
    assert kinds(effects) == ["Claim"]
    assert decision.verdict is Verdict.CONTENDED
    assert decision.before == walk.i
    assert not decision.acknowledge


# -- work: the re-dispatch guard -----------------------------------------------------


def stale() -> Walk:
    """A saga at its second work item, which nobody has."""
    return Walk(D).claim().done()


def test_the_guard_that_another_message_holds_is_not_even_asked_for():
    walk = stale()
    nudged = replace(walk.i, lane=replace(walk.i.lane, nudge=Nudge("d0", walk.now - NUDGE_MS + 1)))
    effects, decision = play(working(walk, epoch=1, jitter=0.5), Refused(nudged), None)
    assert effects[1:] == [Postpone(SUPPRESSED_MS + SPREAD_MS // 2)]
    assert decision.verdict is Verdict.SUPPRESSED
    assert not decision.acknowledge
    assert decision.before == nudged


def test_the_guard_opens_again_after_a_minute():
    walk = stale()
    nudged = replace(walk.i, lane=replace(walk.i.lane, nudge=Nudge("d0", walk.now - NUDGE_MS)))
    _, decision = play(working(walk, epoch=1), Refused(nudged), Written(nudged), SENT)
    assert decision.verdict is Verdict.REDISPATCHED


def test_the_loser_of_the_guard_is_postponed_and_never_acknowledged():
    walk = stale()
    taken = replace(walk.i, lane=replace(walk.i.lane, nudge=Nudge("d2", walk.now)))
    effects, decision = play(working(walk, epoch=1), Refused(walk.i), Refused(taken), None)
    assert kinds(effects) == ["Claim", "Redispatch", "Postpone"]
    assert decision.verdict is Verdict.SUPPRESSED
    assert not decision.acknowledge


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "unguarded"])
def test_a_guard_that_cannot_be_had_at_all_postpones_too(gone):
    walk = stale()
    refused = Refused(None if gone else walk.i)
    _, decision = play(working(walk, epoch=1), Refused(walk.i), refused, None)
    assert decision.verdict is Verdict.SUPPRESSED


def test_the_winner_whose_answer_was_lost_recognises_its_guard():
    walk = stale()
    mine = replace(walk.i, lane=replace(walk.i.lane, nudge=Nudge("d1", walk.now)))
    effects, decision = play(working(walk, epoch=1), Refused(walk.i), Refused(mine), SENT)
    assert kinds(effects) == ["Claim", "Redispatch", "Send"]
    assert decision.verdict is Verdict.REDISPATCHED


@pytest.mark.parametrize("reply", [DOWN, LOST_ANSWER, TOO_LARGE])
def test_a_guard_that_the_store_does_not_answer_for_leaves_the_message_in_place(reply):
    walk = stale()
    effects, decision = play(working(walk, epoch=1), Refused(walk.i), reply)
    assert kinds(effects) == ["Claim", "Redispatch"]
    assert decision.verdict is Verdict.STORE_UNAVAILABLE
    assert not decision.acknowledge
    assert decision.before == walk.i


def test_a_surplus_message_that_the_queue_refuses_leaves_the_message_in_place():
    walk = stale()
    _, decision = play(working(walk, epoch=1), Refused(walk.i), Written(walk.i), NOT_SENT)
    assert decision.verdict is Verdict.SEND_FAILED
    assert not decision.acknowledge
    assert decision.before == walk.i


def test_a_surplus_message_is_sent_with_the_delay_that_is_left():
    walk = stale()
    later = replace(walk.i, lane=replace(walk.i.lane, due_at=walk.now + 7 * SECOND))
    effects, _ = play(working(walk, epoch=1), Refused(later), Written(later), SENT)
    assert effects[2] == Send(later, 7 * SECOND, "redispatch")


def test_no_surplus_message_is_sent_for_a_long_timer():
    walk = stale()
    later = replace(walk.i, lane=replace(walk.i.lane, due_at=walk.now + HOUR))
    effects, decision = play(working(walk, epoch=1), Refused(later))
    assert kinds(effects) == ["Claim"]
    assert decision.verdict is Verdict.LONG_TIMER
    assert decision.acknowledge
    assert decision.before == later


# -- work: the commit ----------------------------------------------------------------


def test_a_commit_whose_answer_was_lost_below_is_recognised():
    walk = Walk(D)

    def mine(effect: Commit) -> Refused:
        return Refused(commit_it(effect).instance)

    effects, decision = play(working(walk), claim_it(walk), done(), mine, SENT)
    assert kinds(effects) == ["Claim", "Call", "Commit", "Send"]
    assert decision.verdict is Verdict.COMMITTED
    assert decision.recognised == 1
    assert decision.after is not None
    assert decision.after.lane.index == 1


def test_a_commit_whose_answer_was_lost_here_is_repeated_and_recognised():
    walk = Walk(D)

    def mine(effect: Commit) -> Refused:
        return Refused(commit_it(effect).instance)

    effects, decision = play(
        working(walk), claim_it(walk), done(), LOST_ANSWER, T0 + 50, mine, SENT
    )
    assert kinds(effects) == ["Claim", "Call", "Commit", "Pause", "Commit", "Send"]
    assert effects[2] == effects[4]
    assert effects[3] == Pause(RETRY_PAUSE_MS)
    assert decision.recognised == 1


def test_both_writes_of_a_move_may_be_recognised():
    walk = Walk(D)
    walk.event(walk.claiming("d1"))

    def mine(effect: Commit) -> Refused:
        return Refused(commit_it(effect).instance)

    _, decision = play(working(walk), Refused(walk.i), done(), mine, SENT)
    assert decision.recognised == 2


def test_a_throttled_commit_is_repeated_while_time_remains():
    walk = Walk(D)
    effects, decision = play(
        working(walk), claim_it(walk), done(), DOWN, T0 + 50, DOWN, T0 + 100, commit_it, SENT
    )
    assert kinds(effects).count("Commit") == 3
    assert decision.verdict is Verdict.COMMITTED
    assert decision.recognised == 0


@pytest.mark.parametrize("reply", [DOWN, LOST_ANSWER], ids=["throttled", "lost"])
def test_a_commit_that_finds_no_time_is_given_up_and_the_message_comes_back(reply):
    walk = Walk(D)
    ends = T0 + WORKER_MS - COMMIT_MARGIN_MS
    effects, decision = play(working(walk), claim_it(walk), done(), reply, ends - 1, reply, ends)
    assert kinds(effects) == ["Claim", "Call", "Commit", "Pause", "Commit", "Pause"]
    assert decision.verdict is Verdict.STORE_UNAVAILABLE
    assert not decision.acknowledge
    assert decision.action == Execute("a", 1)
    assert isinstance(decision.event, StepSucceeded)
    assert decision.before == walk.i


def cancelled_meanwhile(walk: Walk):
    def reply(_: Commit) -> Refused:
        return Refused(walk.cancel().i)

    return reply


def test_a_cancel_that_came_in_meanwhile_is_decided_on_with_the_result():
    walk = Walk(D)
    effects, decision = play(
        working(walk),
        claim_it(walk),
        done(),
        cancelled_meanwhile(walk),
        T0 + 50,
        commit_it,
        SENT,
    )
    assert kinds(effects) == ["Claim", "Call", "Commit", "Pause", "Commit", "Send"]
    assert effects[3] == Pause(RETRY_PAUSE_MS)
    again = effects[4]
    assert isinstance(again, Commit)
    assert again.before == walk.i
    assert decision.before == walk.i
    assert decision.after is not None
    assert decision.after.state is SagaState.COMPENSATING
    assert decision.after.cause is not None
    assert decision.after.cause.by == "ops"
    assert [s.code for s in decision.after.steps] == ["OK", "-"]
    assert decision.recognised == 0


def test_deciding_again_is_bounded_by_time_and_not_by_a_count():
    walk = Walk(D)
    ends = T0 + WORKER_MS - COMMIT_MARGIN_MS

    def moved(_: Commit) -> Refused:
        walk.i = replace(walk.i, version=walk.i.version + 1)
        return Refused(walk.i)

    replies: list[object] = []
    for n in range(20):
        replies += [moved, T0 + n]
    effects, decision = play(working(walk), claim_it(walk), done(), *replies, moved, ends)
    assert kinds(effects).count("Commit") == 21
    assert decision.verdict is Verdict.STORE_UNAVAILABLE
    assert not decision.acknowledge
    assert decision.before == walk.i
    assert decision.event is not None
    assert decision.action is not None


def test_a_holder_that_was_fenced_off_by_a_new_holder_keeps_its_message():
    walk = Walk(D)

    def taken(_: Commit) -> Refused:
        walk.lose()
        return Refused(walk.event(walk.claiming("d2")).i)

    _, decision = play(working(walk), claim_it(walk), done(), taken)
    assert decision.verdict is Verdict.FENCED
    assert not decision.acknowledge  # the same work item: the message may be the only one
    assert decision.before == walk.i
    assert decision.action == Execute("a", 1)
    assert isinstance(decision.event, StepSucceeded)


def test_a_holder_whose_work_item_was_settled_but_not_announced_keeps_its_message():
    walk = Walk(D)

    def settled(_: Commit) -> Refused:
        walk.lose().event(walk.claiming("d2"))
        return Refused(walk.done().i)

    _, decision = play(working(walk), claim_it(walk), done(), settled)
    assert decision.verdict is Verdict.FENCED
    assert not decision.acknowledge  # whoever settled it may have died before its send


def test_a_holder_whose_successor_is_at_the_next_work_item_drops_its_message():
    walk = Walk(D)

    def settled(_: Commit) -> Refused:
        walk.lose().event(walk.claiming("d2"))
        return Refused(walk.done().claim().i)

    _, decision = play(working(walk), claim_it(walk), done(), settled)
    assert decision.verdict is Verdict.FENCED
    assert decision.acknowledge


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "stopped"])
def test_a_holder_whose_saga_rests_drops_its_message(ended):
    walk = Walk(saga("a"))

    def rests(_: Commit) -> Refused:
        walk.lose()
        if ended:
            walk.event(walk.claiming("d2")).done()
        else:
            walk.stall()
        return Refused(walk.i)

    _, decision = play(working(walk), claim_it(walk), done(), rests)
    assert decision.verdict is Verdict.FENCED
    assert decision.acknowledge


def test_a_holder_whose_saga_is_gone_drops_its_message():
    walk = Walk(D)
    _, decision = play(working(walk), claim_it(walk), done(), Refused(None))
    assert decision.verdict is Verdict.FENCED
    assert decision.acknowledge
    assert decision.before is None


def test_a_holder_that_was_taken_over_and_lost_its_lease_is_fenced_off():
    walk = Walk(D)

    def unleased(_: Commit) -> Refused:
        return Refused(walk.event(walk.taking_over()).i)

    _, decision = play(working(walk), claim_it(walk), done(), unleased)
    assert decision.verdict is Verdict.FENCED
    assert not decision.acknowledge


def test_a_context_that_does_not_fit_makes_the_step_doubtful_and_rolls_back():
    walk = Walk(saga(step("a", retry=RetryPolicy(max_attempts=5)), "b"))
    effects, decision = play(
        working(walk), claim_it(walk), done('"huge"'), TOO_LARGE, T0 + 50, commit_it, SENT
    )
    assert kinds(effects) == ["Claim", "Call", "Commit", "Pause", "Commit", "Send"]
    assert isinstance(decision.event, StepInDoubt)
    assert decision.event.final
    assert decision.event.claim_id == "d1"
    assert decision.event.at == T0
    assert decision.event.jitter == 0.0
    assert decision.event.error.kind == "ItemTooLargeError"
    assert "400000 bytes" in decision.event.error.message
    assert decision.after is not None
    assert decision.after.state is SagaState.COMPENSATING
    assert decision.after.context_text == "{}"
    assert decision.after.steps[0].code == "U"


def test_a_compensations_context_that_does_not_fit_leaves_the_old_one_and_the_step_undone():
    walk = Walk(saga("a", "b")).claim().done('{"x":1}').claim().fail()
    _, decision = play(working(walk), claim_it(walk), done('"huge"'), TOO_LARGE, T0 + 50, commit_it)
    assert decision.event == CompensationSucceeded(claim_id="d1", context=None, at=T0)
    assert decision.after is not None
    assert decision.after.state is SagaState.COMPENSATED
    assert decision.after.context_text == '{"x":1}'


@pytest.mark.parametrize("back", [False, True], ids=["forward", "back"])
def test_a_failure_that_does_not_fit_is_still_that_failure(back):
    walk = Walk(saga("a", "b"))
    if back:
        walk.claim().done().claim().fail()
    failed = Ended(Failed(BOOM), T0, 0.5)
    ends = T0 + WORKER_MS - COMMIT_MARGIN_MS
    _, decision = play(working(walk), claim_it(walk), failed, TOO_LARGE, T0 + 50, TOO_LARGE, ends)
    assert isinstance(decision.event, CompensationFailed if back else StepFailed)
    assert decision.verdict is Verdict.STORE_UNAVAILABLE


def test_a_move_whose_announcement_fails_is_committed_but_not_acknowledged():
    walk = Walk(D)
    _, decision = play(working(walk), claim_it(walk), done(), commit_it, NOT_SENT)
    assert decision.verdict is Verdict.SEND_FAILED
    assert decision.acknowledge is False
    assert decision.after is not None
    assert decision.after.lane.index == 1
    assert decision.action == Execute("a", 1)


# -- revive: the dead letters --------------------------------------------------------


def reviving(walk: Walk, *, epoch: int | None = None, deployed: bool = True, jitter: float = 0.0):
    def lookup(ref: str):
        return walk.definition if deployed and ref == walk.definition.ref else None

    return revive(message(walk, epoch=epoch), delivery(walk.now, jitter=jitter), lookup)


def test_a_dead_letter_of_the_current_item_comes_back_with_a_delay():
    walk = Walk(D)
    effects, decision = play(reviving(walk), walk.i, record_it, SENT)
    assert kinds(effects) == ["Find", "Record", "Send"]
    assert effects[0] == Find(KEY, T0)
    recorded = effects[1]
    assert isinstance(recorded, Record)
    assert recorded.before == walk.i
    assert recorded.after.lane.nudge == Nudge("d1", T0)
    assert recorded.after.stalls == 1
    assert decision.verdict is Verdict.REVIVED
    assert decision.acknowledge
    assert decision.before == walk.i
    assert decision.after is not None
    assert effects[2] == Send(decision.after, MINUTE, "dead_letter")


def last_visit(walk: Walk, *, deployed: bool = True):
    for _ in range(4):
        walk.dead_letter()
    walk.until_due().wait(MINUTE)
    return play(reviving(walk, deployed=deployed), walk.i, record_it)


def test_a_message_that_dies_too_often_makes_the_saga_failed():
    walk = Walk(D)
    effects, decision = last_visit(walk)
    assert kinds(effects) == ["Find", "Record"]
    assert decision.verdict is Verdict.STALLED
    assert decision.acknowledge
    assert decision.before == walk.i
    assert decision.after is not None
    assert decision.after.state is SagaState.FAILED
    assert decision.after.why is Why.STALLED
    assert decision.after.failure == StepError(
        "DeliveryExhausted", "no delivery of work item 1 settled it"
    )


def test_a_saga_that_failed_for_want_of_its_definition_says_which():
    _, decision = last_visit(Walk(D), deployed=False)
    assert decision.after is not None
    assert decision.after.failure == StepError("DefinitionMissing", f"{D.ref} is not deployed")


def test_a_dead_letter_of_a_saga_that_is_gone_is_dropped():
    _, decision = play(reviving(Walk(D)), None)
    assert decision.verdict is Verdict.ORPHAN
    assert decision.acknowledge


def test_a_dead_letter_waits_for_a_store_that_does_not_answer():
    effects, decision = play(reviving(Walk(D)), DOWN)
    assert kinds(effects) == ["Find"]
    assert decision.verdict is Verdict.STORE_UNAVAILABLE
    assert not decision.acknowledge


@pytest.mark.parametrize("parked", [True, False], ids=["parked", "closed"])
def test_a_dead_letter_of_a_saga_that_rests_is_dropped(parked):
    walk = Walk(saga("a"))
    if parked:
        walk.stall()
    else:
        walk.claim().done()
    _, decision = play(reviving(walk), walk.i)
    assert decision.verdict is Verdict.CLOSED
    assert decision.acknowledge
    assert decision.before == walk.i


def test_a_dead_letter_of_an_older_item_is_dropped_while_the_current_one_is_claimed():
    walk = stale().claim().lose()
    _, decision = play(reviving(walk, epoch=1), walk.i)
    assert decision.verdict is Verdict.STALE
    assert decision.acknowledge
    assert decision.before == walk.i


def test_a_dead_letter_of_an_older_item_announces_the_current_one_under_the_guard():
    walk = stale()
    effects, decision = play(reviving(walk, epoch=1), walk.i, Written(walk.i), SENT)
    assert effects[1:] == [Redispatch(walk.i, "d1", walk.now), Send(walk.i, 0, "redispatch")]
    assert decision.verdict is Verdict.REDISPATCHED


def test_a_dead_letter_of_a_saga_that_waits_spends_nothing():
    walk = Walk(D)
    walk.i = replace(walk.i, lane=replace(walk.i.lane, due_at=T0 + MINUTE))
    effects, decision = play(reviving(walk), walk.i, Written(walk.i), SENT)
    assert effects[1:] == [Redispatch(walk.i, "d1", T0), Send(walk.i, MINUTE, "redispatch")]
    assert decision.acknowledge


def test_a_dead_letter_that_loses_the_guard_stays_where_it_is():
    walk = stale()
    taken = replace(walk.i, lane=replace(walk.i.lane, nudge=Nudge("d2", walk.now)))
    effects, decision = play(reviving(walk, epoch=1, jitter=0.5), walk.i, Refused(taken), None)
    assert effects[2] == Postpone(SUPPRESSED_MS + SPREAD_MS // 2)
    assert decision.verdict is Verdict.SUPPRESSED
    assert not decision.acknowledge


@pytest.mark.parametrize("held", [True, False], ids=["leased", "nudged"])
def test_a_dead_letter_of_a_saga_that_is_being_worked_on_stays_where_it_is(held):
    walk = Walk(D)
    if held:
        walk.claim()
    else:
        walk.i = replace(walk.i, lane=replace(walk.i.lane, nudge=Nudge("d2", T0)))
    effects, decision = play(reviving(walk), walk.i)
    assert kinds(effects) == ["Find"]
    assert decision.verdict is Verdict.SUPPRESSED
    assert not decision.acknowledge
    assert decision.before == walk.i


def test_a_dead_letter_whose_own_record_is_found_sends_all_the_same():
    walk = Walk(D)

    def mine(effect: Record) -> Refused:
        return Refused(effect.after)

    effects, decision = play(reviving(walk), walk.i, mine, SENT)
    sent = effects[2]
    assert isinstance(sent, Send)
    assert sent.instance.stalls == 1
    assert decision.verdict is Verdict.REVIVED


@pytest.mark.parametrize("found", ["gone", "no guard", "another's guard"])
def test_a_dead_letter_that_lost_a_race_stays_where_it_is(found):
    walk = Walk(D)
    theirs = {
        "gone": None,
        "no guard": walk.i,
        "another's guard": replace(walk.i, lane=replace(walk.i.lane, nudge=Nudge("d2", T0))),
    }[found]
    _, decision = play(reviving(walk), walk.i, Refused(theirs))
    assert decision.verdict is Verdict.CONTENDED
    assert not decision.acknowledge
    assert decision.before == walk.i


@pytest.mark.parametrize("reply", [DOWN, LOST_ANSWER, TOO_LARGE])
def test_a_dead_letter_whose_record_is_not_answered_stays_where_it_is(reply):
    walk = Walk(D)
    _, decision = play(reviving(walk), walk.i, reply)
    assert decision.verdict is Verdict.STORE_UNAVAILABLE
    assert not decision.acknowledge
    assert decision.before == walk.i


def test_a_dead_letter_whose_send_fails_stays_where_it_is():
    walk = Walk(D)
    _, decision = play(reviving(walk), walk.i, record_it, NOT_SENT)
    assert decision.verdict is Verdict.SEND_FAILED
    assert not decision.acknowledge
    assert decision.before == walk.i


# -- sweep ---------------------------------------------------------------------------


def sweeping(walk: Walk):
    assert walk.i.sweep_at is not None
    walk.now = walk.i.sweep_at
    return sweep(DueSaga(walk.i.key, walk.i.sweep_at), at=walk.now)


def test_the_sweeper_sends_first_and_writes_then():
    walk = Walk(D)
    effects, decision = play(sweeping(walk), walk.i, SENT, Written(walk.i))
    assert effects == [
        Find(KEY, walk.now),
        Send(walk.i, 0, "sweep"),
        MarkSwept(walk.i, swept(walk.i, walk.now)),
    ]
    assert decision.verdict is Verdict.SENT
    assert decision.acknowledge
    assert decision.before == walk.i


@pytest.mark.parametrize("held", [True, False], ids=["held", "lapsed"])
def test_the_sweeper_sends_nothing_for_a_saga_that_is_being_worked_on(held):
    walk = Walk(D).claim()
    turn = sweeping(walk)
    until = walk.now if held else walk.now - 1
    walk.i = replace(walk.i, lane=replace(walk.i.lane, lease=Lease("c1", until)))
    replies = () if held else (SENT,)
    effects, decision = play(turn, walk.i, *replies, Written(walk.i))
    assert kinds(effects) == ["Find", *(["Send"] if not held else []), "MarkSwept"]
    assert decision.verdict is (Verdict.LEFT_ALONE if held else Verdict.SENT)


def test_the_sweeper_sends_nothing_for_a_timer_that_no_queue_can_hold():
    walk = Walk(D)
    turn = sweeping(walk)
    walk.i = replace(walk.i, lane=replace(walk.i.lane, due_at=walk.now + HOUR))
    effects, decision = play(turn, walk.i, Written(walk.i))
    assert kinds(effects) == ["Find", "MarkSwept"]
    assert decision.verdict is Verdict.LEFT_ALONE


def test_the_sweeper_leaves_its_mark_when_the_queue_refuses():
    walk = Walk(D)
    effects, decision = play(sweeping(walk), walk.i, NOT_SENT)
    assert kinds(effects) == ["Find", "Send"]
    assert decision.verdict is Verdict.SEND_FAILED
    assert not decision.acknowledge
    assert decision.before == walk.i


def test_the_sweeper_does_not_insist_on_its_mark():
    walk = Walk(D)
    _, decision = play(sweeping(walk), walk.i, SENT, Refused(walk.i))
    assert decision.verdict is Verdict.SENT


@pytest.mark.parametrize("found", ["gone", "closed", "moved"])
def test_the_sweeper_believes_the_saga_and_not_the_index(found):
    walk = Walk(saga("a"))
    turn = sweeping(walk)
    if found == "closed":
        walk.claim().done()
        walk.i = replace(walk.i, sweep_at=walk.now)
    if found == "moved":
        walk.i = replace(walk.i, sweep_at=walk.now + 1)
    effects, decision = play(turn, None if found == "gone" else walk.i)
    assert kinds(effects) == ["Find"]
    assert decision.verdict is Verdict.NOT_DUE
    assert decision.acknowledge
    assert decision.before == (None if found == "gone" else walk.i)


def test_the_sweeper_comes_again_when_the_store_does_not_answer():
    effects, decision = play(sweeping(Walk(D)), DOWN)
    assert kinds(effects) == ["Find"]
    assert decision.verdict is Verdict.STORE_UNAVAILABLE
    assert not decision.acknowledge


# -- request -------------------------------------------------------------------------


def asking(walk: Walk, event, *, deployed: bool = True):
    return request(
        walk.i.key,
        event,
        lambda ref: walk.definition if deployed and ref == walk.definition.ref else None,
        nudge_id="r1",
        ends_at=walk.now + WORKER_MS,
    )


def test_a_cancel_is_recorded_and_wakes_the_saga():
    walk = stale()
    effects, answered = play(asking(walk, walk.cancelling()), walk.i, record_it, SENT)
    assert kinds(effects) == ["Find", "Record", "Send"]
    assert effects[0] == Find(KEY, walk.now)
    recorded = effects[1]
    assert isinstance(recorded, Record)
    assert recorded.before == walk.i
    assert answered.answer is Answer.ACCEPTED
    assert answered.instance is not None
    assert answered.instance.cancel is not None
    assert effects[2] == Send(answered.instance, 0, "request")


def test_a_cancel_does_not_wake_a_saga_that_is_being_worked_on():
    walk = Walk(D).claim()
    effects, answered = play(asking(walk, walk.cancelling()), walk.i, record_it)
    assert kinds(effects) == ["Find", "Record"]
    assert answered.answer is Answer.ACCEPTED


@pytest.mark.parametrize("past_the_end", [0, 1])
def test_a_cancel_wakes_a_saga_whose_lease_has_run_out(past_the_end):
    walk = Walk(D).claim()
    lease = walk.i.lane.lease
    assert lease is not None
    walk.now = lease.until + past_the_end
    sends = (SENT,) if past_the_end else ()
    effects, _ = play(asking(walk, walk.cancelling()), walk.i, record_it, *sends)
    assert kinds(effects) == ["Find", "Record", *["Send"] * past_the_end]


def test_a_cancel_that_closes_the_saga_wakes_nobody():
    walk = Walk(D).stall()
    effects, answered = play(asking(walk, walk.cancelling()), walk.i, record_it)
    assert kinds(effects) == ["Find", "Record"]
    assert answered.instance is not None
    assert answered.instance.state is SagaState.COMPENSATED


def test_a_request_is_accepted_even_if_the_queue_refuses():
    walk = stale()
    _, answered = play(asking(walk, walk.cancelling()), walk.i, record_it, NOT_SENT)
    assert answered.answer is Answer.ACCEPTED


def test_a_request_that_was_overtaken_looks_again():
    walk = Walk(D)

    def overtaken(_: Record) -> Refused:
        return Refused(walk.claim().i)

    effects, answered = play(
        asking(walk, walk.cancelling()), walk.i, overtaken, T0 + 50, lambda _: walk.i, record_it
    )
    assert kinds(effects) == ["Find", "Record", "Pause", "Find", "Record"]
    assert effects[2] == Pause(RETRY_PAUSE_MS)
    assert answered.answer is Answer.ACCEPTED
    assert answered.instance is not None
    assert answered.instance.lane.lease is not None


def test_a_request_looks_again_only_while_time_remains():
    walk = Walk(D)
    last = T0 + WORKER_MS - COMMIT_MARGIN_MS
    effects, answered = play(
        asking(walk, walk.cancelling()),
        walk.i,
        Refused(walk.i),
        last - 1,
        walk.i,
        LOST_ANSWER,
        last,
    )
    assert kinds(effects) == ["Find", "Record", "Pause"] * 2
    assert answered.answer is Answer.UNAVAILABLE
    assert answered.instance == walk.i


def test_a_request_whose_answer_was_lost_finds_itself_done():
    walk = Walk(D)

    def applied(effect: Record) -> Unavailable:
        walk.i = effect.after
        return LOST_ANSWER

    effects, answered = play(
        asking(walk, walk.cancelling()),
        walk.i,
        applied,
        T0 + 50,
        lambda _: walk.i,
        lambda e: Written(e.instance),
        SENT,
    )
    assert kinds(effects) == ["Find", "Record", "Pause", "Find", "Redispatch", "Send"]
    assert answered.answer is Answer.ACCEPTED


@pytest.mark.parametrize("reply", [DOWN, TOO_LARGE], ids=["throttled", "too large"])
def test_a_request_that_the_store_does_not_take_is_unavailable(reply):
    walk = Walk(D)
    effects, answered = play(asking(walk, walk.cancelling()), walk.i, reply)
    assert kinds(effects) == ["Find", "Record"]
    assert answered.answer is Answer.UNAVAILABLE
    assert answered.instance == walk.i


def test_a_request_for_an_unknown_saga_is_not_found():
    walk = Walk(D)
    _, answered = play(asking(walk, walk.cancelling()), None)
    assert (answered.answer, answered.instance) == (Answer.NOT_FOUND, None)


def test_a_request_that_cannot_read_is_unavailable():
    walk = Walk(D)
    _, answered = play(asking(walk, walk.cancelling()), DOWN)
    assert (answered.answer, answered.instance) == (Answer.UNAVAILABLE, None)


def test_a_request_is_not_decided_without_the_definition():
    walk = Walk(D)
    _, answered = play(asking(walk, walk.cancelling(), deployed=False), walk.i)
    assert (answered.answer, answered.instance) == (Answer.DEFINITION_MISSING, walk.i)


@pytest.mark.parametrize("back", [False, True], ids=["before the turn", "after it"])
def test_a_repeated_cancel_is_accepted_and_wakes_the_saga_under_the_guard(back):
    walk = stale().cancel()
    if back:
        walk.claim().withheld(Withhold.CANCELLED)
    guarded = replace(walk.i, lane=replace(walk.i.lane, nudge=Nudge("r1", walk.now)))
    effects, answered = play(asking(walk, walk.cancelling()), walk.i, Written(guarded), SENT)
    assert effects[1:] == [Redispatch(walk.i, "r1", walk.now), Send(walk.i, 0, "request")]
    assert (answered.answer, answered.instance) == (Answer.ACCEPTED, walk.i)
    assert answered.reason is None


def test_a_repeated_cancel_recognises_its_own_guard():
    """The SDK repeats a write whose answer was lost, and the repeat is refused."""
    walk = stale().cancel()
    guarded = replace(walk.i, lane=replace(walk.i.lane, nudge=Nudge("r1", walk.now)))
    effects, answered = play(asking(walk, walk.cancelling()), walk.i, Refused(guarded), SENT)
    assert kinds(effects) == ["Find", "Redispatch", "Send"]
    assert answered.answer is Answer.ACCEPTED


def test_a_repeated_cancel_whose_guard_is_not_written_is_not_accepted():
    """Accepted, nobody would ask again; and the announcement may be the only one."""
    walk = stale().cancel()
    effects, answered = play(asking(walk, walk.cancelling()), walk.i, DOWN)
    assert kinds(effects) == ["Find", "Redispatch"]
    assert (answered.answer, answered.instance) == (Answer.UNAVAILABLE, walk.i)


@pytest.mark.parametrize("gone", [False, True], ids=["to another", "with the saga"])
def test_a_repeated_cancel_sends_nothing_when_the_guard_is_lost(gone):
    walk = stale().cancel()
    other = replace(walk.i, lane=replace(walk.i.lane, nudge=Nudge("r2", walk.now)))
    refused = Refused(None if gone else other)
    effects, answered = play(asking(walk, walk.cancelling()), walk.i, refused)
    assert kinds(effects) == ["Find", "Redispatch"]
    assert answered.answer is Answer.ACCEPTED


def test_a_repeated_cancel_does_not_nudge_a_saga_that_is_being_worked_on():
    walk = stale().cancel().claim()
    effects, answered = play(asking(walk, walk.cancelling()), walk.i)
    assert kinds(effects) == ["Find"]
    assert answered.answer is Answer.ACCEPTED


@pytest.mark.parametrize("state", ["completed", "compensated", "compensation failed"])
def test_a_cancel_that_comes_too_late_is_refused_with_the_rule(state):
    walk = Walk(saga("a", "b")).claim().done().claim()
    if state == "completed":
        walk.done()
        rule = Reason.CLOSED
    else:
        walk.fail().claim()
        if state == "compensated":
            walk.undone()
            rule = Reason.CLOSED
        else:
            walk.undo_fails(fatal=True)
            rule = Reason.ROLL_BACK_STOPPED
    effects, answered = play(asking(walk, walk.cancelling()), walk.i)
    assert kinds(effects) == ["Find"]
    assert (answered.answer, answered.instance, answered.reason) == (
        Answer.REFUSED,
        walk.i,
        rule,
    )


def test_a_resume_of_a_failed_saga_wakes_it():
    walk = Walk(D).stall()
    effects, answered = play(asking(walk, walk.resuming()), walk.i, record_it, SENT)
    assert kinds(effects) == ["Find", "Record", "Send"]
    assert answered.answer is Answer.ACCEPTED
    assert answered.instance is not None
    assert answered.instance.state is SagaState.RUNNING


def test_a_resume_of_a_saga_that_moves_is_a_repeat_and_wakes_it_under_the_guard():
    walk = Walk(D)
    effects, answered = play(asking(walk, walk.resuming()), walk.i, Written(walk.i), SENT)
    assert kinds(effects) == ["Find", "Redispatch", "Send"]
    assert answered.answer is Answer.ACCEPTED


def test_a_resume_of_a_closed_saga_is_refused():
    walk = Walk(saga("a")).claim().done()
    _, answered = play(asking(walk, walk.resuming()), walk.i)
    assert (answered.answer, answered.reason) == (Answer.REFUSED, Reason.CLOSED)


def test_a_skip_of_the_step_that_stopped_the_saga_is_recorded():
    walk = Walk(D).stall()
    effects, answered = play(asking(walk, walk.skipping("a")), walk.i, record_it, SENT)
    assert kinds(effects) == ["Find", "Record", "Send"]
    assert answered.answer is Answer.ACCEPTED


def test_a_skip_of_another_step_is_refused():
    walk = Walk(D).stall()
    _, answered = play(asking(walk, walk.skipping("b")), walk.i)
    assert (answered.answer, answered.reason) == (Answer.REFUSED, Reason.OTHER_STEP)


def test_a_repeated_skip_is_accepted():
    walk = Walk(D).stall().skip("a")
    effects, answered = play(asking(walk, walk.skipping("a")), walk.i, Written(walk.i), SENT)
    assert kinds(effects) == ["Find", "Redispatch", "Send"]
    assert answered.answer is Answer.ACCEPTED


def test_a_skip_of_a_saga_that_moves_is_not_accepted_as_if_it_had_been_done():
    walk = Walk(D)
    effects, answered = play(asking(walk, walk.skipping("a")), walk.i)
    assert kinds(effects) == ["Find"]
    assert (answered.answer, answered.reason) == (Answer.REFUSED, Reason.LIVE)


# -- all of it, in a world -----------------------------------------------------------


def test_a_saga_runs_to_its_end_in_two_writes_and_one_send_a_step():
    world = World(saga("a", "b", "c"))
    world.start()
    verdicts = [d.verdict for d in world.drain()]
    assert verdicts == [Verdict.COMMITTED] * 3
    assert world.saga.state is SagaState.COMPLETED
    one_step = ["Claim", "Call", "Commit", "Send"]
    assert world.trace == ["Create", "Send", *one_step * 2, *one_step[:3]]


def test_a_saga_is_rolled_back_in_a_world():
    world = World(saga("a", "b", "c"), outcomes={"c:F": [Failed(BOOM)]})
    world.start()
    world.drain()
    assert world.saga.state is SagaState.COMPENSATED
    assert [f"{c.step}:{c.direction}" for c in world.calls] == ["a:F", "b:F", "c:F", "b:C", "a:C"]


def test_a_duplicate_of_a_message_moves_nothing():
    world = World(D)
    world.start()
    first = world.message()
    world.deliver()
    decision = world.run(world.working(first))
    assert decision.verdict is Verdict.REDISPATCHED  # nobody has the current item
    world.drain()
    assert [c.step for c in world.calls] == ["a", "b"]
    assert world.run(world.working(first)).verdict is Verdict.CLOSED


def test_two_workers_with_one_message_make_one_attempt():
    world = World(D)
    world.start()
    one, other = world.working(world.message()), world.working(world.message())
    held = world.hold(one, Call)
    assert world.run(other).verdict is Verdict.LEASE_CONFLICT
    assert world.run(one, world.perform(held)).verdict is Verdict.COMMITTED
    assert len(world.calls) == 1


def test_a_worker_that_was_taken_over_is_fenced_off():
    world = World(D)
    world.start()
    slow = world.working(world.message())
    held = world.hold(slow, Call)
    world.now += VISIBLE_AGAIN
    world.deliver()
    assert world.run(slow, world.perform(held)).verdict is Verdict.FENCED
    assert [s.code for s in world.saga.steps] == ["OK", "-"]
    assert world.saga.lane.epoch == 2


VISIBLE_AGAIN = 3 * MINUTE


def test_a_worker_that_dies_in_the_middle_is_followed_by_another_under_the_same_key():
    world = World(D)
    world.start()
    world.hold(world.working(world.message()), Commit)  # called, and never heard of again
    world.queue[0].visible_at = world.now + VISIBLE_AGAIN
    world.drain()
    assert world.saga.state is SagaState.COMPLETED
    keys = [(c.call.idempotency_key, c.call.attempt) for c in world.calls]
    assert keys[:2] == [("s1.abcd1234:a:F", 1), ("s1.abcd1234:a:F", 2)]


def test_a_worker_that_dies_between_its_write_and_its_send_is_made_up_for():
    world = World(D)
    world.start()
    world.hold(world.working(world.message()), Send)
    world.queue[0].visible_at = world.now + VISIBLE_AGAIN
    verdicts = [d.verdict for d in world.drain()]
    assert verdicts == [Verdict.REDISPATCHED, Verdict.COMMITTED]
    assert world.saga.state is SagaState.COMPLETED


@pytest.mark.parametrize("effect", ["Create", "Claim", "Commit"])
def test_an_answer_that_is_lost_burns_no_attempt(effect):
    world = World(D, faults={effect: [AMBIGUOUS, AMBIGUOUS]})
    world.start()
    world.drain()
    assert world.saga.state is SagaState.COMPLETED
    assert [c.call.attempt for c in world.calls] == [1, 1]
    assert len(world.calls) == 2


def test_a_cancel_while_a_step_is_in_flight_undoes_that_step_too():
    world = World(D)
    world.start()
    world.before["Commit"] = lambda: world.ask(CancelRequested(by="ops", at=world.now))
    world.drain()
    assert world.saga.state is SagaState.COMPENSATED
    assert [f"{c.step}:{c.direction}" for c in world.calls] == ["a:F", "a:C"]
    assert world.calls[1].call.reason == "cancelled"


def test_a_context_that_grows_too_large_is_undone_with_the_last_one_that_fitted():
    world = World(D)
    world.outcomes["a:F"] = [Done('{"x":1}')]
    world.outcomes["b:F"] = [Done('"' + "x" * 400_000 + '"')]
    world.start()
    world.drain()
    assert world.saga.state is SagaState.COMPENSATED
    assert [(f"{c.step}:{c.direction}", c.call.in_doubt) for c in world.calls[2:]] == [
        ("b:C", True),
        ("a:C", False),
    ]
    assert world.saga.context_text == '{"x":1}'


def test_a_lost_start_message_is_made_up_for_by_the_sweeper():
    world = World(D, queue_refuses=True)
    assert not world.start().announced
    world.queue_refuses = False
    world.now += 2 * MINUTE
    assert [d.verdict for d in world.sweep()] == [Verdict.SENT]
    world.drain()
    assert world.saga.state is SagaState.COMPLETED


def test_a_long_timer_ends_through_the_sweeper_to_the_second():
    policy = RetryPolicy(max_attempts=2, base=timedelta(hours=2), cap=timedelta(hours=2))
    world = World(saga(step("a", retry=policy), timeout=timedelta(days=1)))
    world.outcomes["a:F"] = [Failed(BOOM)]
    world.start()
    world.drain()
    due = world.saga.lane.due_at
    assert due == T0 + HOUR
    assert world.queue == []
    world.now = due - 10 * MINUTE - 1
    assert world.sweep() == []
    world.now += 1
    world.sweep()
    (envelope,) = world.queue
    assert envelope.visible_at == due
    world.drain()
    assert world.saga.state is SagaState.COMPLETED


def test_a_saga_whose_code_is_missing_fails_after_its_stalls_and_goes_on_when_it_is_back():
    world = World(D, deployed=False)
    world.start()
    decisions = world.drain()
    verdicts = [d.verdict for d in decisions]
    assert verdicts.count(Verdict.REVIVED) == 4
    assert verdicts[-1] is Verdict.STALLED
    assert set(verdicts) == {Verdict.DEFINITION_MISSING, Verdict.REVIVED, Verdict.STALLED}
    assert not world.saga.live
    assert world.saga.failure == StepError("DefinitionMissing", f"{D.ref} is not deployed")
    assert world.saga.hops == 0
    assert world.calls == []
    assert world.ask(ResumeRequested(by="ops", at=world.now)).answer is Answer.DEFINITION_MISSING

    world.deployed = True
    assert world.ask(ResumeRequested(by="ops", at=world.now)).answer is Answer.ACCEPTED
    world.drain()
    assert world.saga.state is SagaState.COMPLETED


def test_an_operator_skips_the_step_that_stopped_the_saga():
    world = World(D, deployed=False)
    world.start()
    world.drain()
    world.deployed = True
    answered = world.ask(SkipRequested(step="a", by="ops", at=world.now))
    assert answered.answer is Answer.ACCEPTED
    world.drain()
    assert world.saga.state is SagaState.COMPLETED
    assert [s.code for s in world.saga.steps] == ["SK", "OK"]
    assert [c.step for c in world.calls] == ["b"]
