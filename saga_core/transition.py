"""Every transition of a saga. Nothing else in this package changes an instance.

Rule 1: whatever moves a saga lives in this file. Drivers claim, call and write;
they never decide. Rule 2: everything here is a pure function of its arguments;
time, ids, jitter and what a condition said come in from outside. Rule 3: every
(state, event) pair has an answer: the new instance, or a named reason why
nothing changes. What cannot happen raises IllegalEventError.

Theory of operation
-------------------
A saga goes forward through its steps, and at most once turns round:

    CREATED -> RUNNING -> COMPLETED
                  |
                  v  one write, with the cause
             COMPENSATING -> COMPENSATED
        FAILED <-> RUNNING | COMPENSATING     (stopped; a person resumes it)

* An attempt is claimed before the handler runs and settled after it. A claim
  that is never settled may have run the handler: the step is then *in doubt*,
  and stays so through later clean failures, because a clean failure says
  nothing about the attempt before it.
* Compensation covers the steps that are done or in doubt, newest start first,
  and never one that did not start or is known not to have happened. Once it has
  begun no forward step runs, by any event.
* Cancel and deadline turn the saga round; neither ends it. A result that comes
  in under a cancel is recorded first, so that it is undone too. The commit that
  completes the last step beats the deadline, not the cancel.
* Once the *pivot* is done, or may be, nothing turns the saga round any more:
  what cannot go forward stops, visibly, and goes on when a person resumes it.
* The steps of a *group* have a lane each, a *branch*. They see the context as it
  was when the group began; what they changed is put together when the last of
  them is settled, the *join*. A branch that fails for good turns the saga round at
  once, and those in flight settle before the first undo.
* A step that *waits* for an answer holds no lease. The answer, its time-out and
  a cancel race for one write. An answer that comes before the wait is stored is
  kept; one that comes after the step was given up is kept too, and changes nothing.
* A *condition* is asked by the turn that makes its step current, and what it said
  is stored by the same write. It is never asked again.
* A *child* is a saga that a step started and waits for. Its parent looks at it and
  believes what it finds. COMPLETED, it can still be undone: by its parent alone.
* Budgets: ``max_attempts`` bounds the failures that were reported, ``max_lost``
  the attempts that vanished. A spent step rolls back; a spent compensation
  stops the saga, visibly.
* Settled means: the lane's epoch moves on, the lease goes, and the id of the
  lease stays behind, so that a writer whose answer was lost recognises its own
  write.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias, assert_never

from saga_core.actions import Action, Compensate, Execute, Inquire, Rest, Settle, WakeAt
from saga_core.calls import Direction
from saga_core.contexts import Delta
from saga_core.definition import SagaDefinition
from saga_core.errors import IllegalEventError
from saga_core.events import (
    AnswerGiven,
    AttemptResult,
    CancelRequested,
    ChildRests,
    ChildStopped,
    ChildWaits,
    Claimed,
    CompensationFailed,
    CompensationSucceeded,
    DeliveryExhausted,
    Event,
    HeartbeatReceived,
    ParentEnded,
    ResumeRequested,
    SkipRequested,
    StepAwaits,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    TakenOver,
    UndoRequested,
    Withheld,
    Withhold,
)
from saga_core.instance import (
    CLOSED,
    Cancel,
    Cause,
    CauseKind,
    GivenAnswer,
    Lane,
    Lease,
    Nudge,
    Parent,
    SagaInstance,
    SagaState,
    StepCode,
    StepRecord,
    Why,
)
from saga_core.outcome import StepError
from saga_core.retry import RetryPolicy

# All in milliseconds.
EARLY_MS = 1_000  # a message this much too early is on time: queue delays are whole seconds
MAX_DELAY_MS = 900_000  # the longest delay of an SQS message
LONG_TIMER_LEAD_MS = 600_000  # the sweeper hands longer waits to SQS this long before they end
NUDGE_MS = 60_000  # the shortest gap between two surplus messages of one saga
FIRST_SWEEP_MS = 120_000  # after a write whose send nobody would repeat (start, cancel, resume)
GRACE_MS = 360_000  # twice the default visibility time-out: by then a message has come back
BUCKET_MS = 300_000  # an index key that moves in steps costs fewer index writes
SWEEP_STEP_MS, SWEEP_CAP_MS = 300_000, 3_600_000
STALL_STEP_MS = 30_000
MAX_STALLS = 5  # visits to the dead letters before a person is asked


class Reason(StrEnum):
    """Why an event changed nothing."""

    OWN_CLAIM = "own_claim"  # this very claim is already stored
    CLOSED = "closed"  # the saga has ended
    PARKED = "parked"  # it is FAILED and waits for a person
    STALE_CLAIMED = "stale_claimed"  # an older work item, and the current one is being worked on
    STALE_UNCLAIMED = "stale_unclaimed"  # an older work item, and nobody has the current one
    LEASED = "leased"  # an attempt is in flight
    EARLY = "early"  # not due yet
    NUDGED = "nudged"  # a surplus message was sent moments ago
    ALREADY_RECORDED = "already_recorded"  # a repeat of the result that settled the last attempt
    STALE_TOKEN = "stale_token"  # noqa: S105 - a late answer to a claim that is no longer held
    ALREADY_CANCELLED = "already_cancelled"
    ROLLING_BACK = "rolling_back"
    ROLL_BACK_STOPPED = "roll_back_stopped"  # FAILED while compensating: resume it instead
    PAST_PIVOT = "past_pivot"  # the point of no return is done, or may be
    LIVE = "live"  # it moves by itself
    OTHER_STEP = "other_step"  # not the step that the saga stopped at
    NOT_ASKED = "not_asked"  # the step waits for no answer
    REPEATED = "repeated"  # this very answer is known
    ANSWERED = "answered"  # another answer was first
    LATE = "late"  # the step had been given up


@dataclass(frozen=True, slots=True)
class Moved:
    """The instance as it is after the event. Writing it is the caller's part."""

    instance: SagaInstance


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing changes, and why. Normal where queues deliver twice."""

    reason: Reason


Transition: TypeAlias = Moved | Ignored


def create(
    definition: SagaDefinition,
    *,
    saga_id: str,
    tenant: str,
    incarnation: str,
    input_fingerprint: str,
    context: str,
    at: int,
    secret: str = "",
    parent: Parent | None = None,
) -> SagaInstance:
    """A new saga, not stored yet: version 0, at its first step.

    When that step is conditional, ``undecided`` names it, and ``choose`` comes first.
    """
    new = SagaInstance(
        id=saga_id,
        tenant=tenant,
        incarnation=incarnation,
        definition_name=definition.name,
        definition=definition.ref,
        input_fingerprint=input_fingerprint,
        lane=Lane(due_at=at),
        steps=tuple(StepRecord(name=s.name) for s in definition.steps),
        context_text=context,
        created_at=at,
        updated_at=at,
        deadline_at=at + _ms(definition.timeout.total_seconds()),
        secret=secret,
        parent=parent,
    )
    return _announced_soon(_enter(definition, new, 0, at), at)


def tombstone(definition: SagaDefinition, new: SagaInstance, at: int) -> SagaInstance:
    """In place of a child that was never started: its parent's late start finds it undone."""
    cause = Cause(CauseKind.PARENT, at)
    i = replace(new, branches=(), phase=Direction.COMPENSATION, cause=cause)
    return replace(_close(definition, i, SagaState.COMPENSATED, at), sweep_at=None)


def undecided(definition: SagaDefinition, i: SagaInstance) -> tuple[str, ...]:
    """Names of the steps at hand whose condition was not asked yet.

    An instance that has any is on its way from one stored state to the next:
    ``choose`` takes it there.
    """
    if i.phase is Direction.COMPENSATION or not i.live or i.lane.tries:
        return ()
    stage = definition.stage(i.lane.index)
    return tuple(
        i.steps[n].name
        for n in stage
        if definition.steps[n].when is not None
        and not i.steps[n].chosen
        and i.steps[n].code is StepCode.NOT_STARTED
    )


def choose(
    definition: SagaDefinition,
    i: SagaInstance,
    choices: Mapping[str, bool | StepError],
    at: int,
    *,
    soon: bool,
) -> SagaInstance:
    """The saga once its undecided steps are decided; perhaps others are undecided then.

    A condition that raised is its step failing for good, before it began.
    ``soon``: it is on its way by a start or a request, whose send nobody repeats.
    """
    broken = next(((n, c) for n, c in choices.items() if isinstance(c, StepError)), None)
    if broken is not None:
        return _marked(_undecidable(definition, i, *broken, at), at, soon=soon)
    steps = tuple(_chosen(s, choices[s.name], at) if s.name in choices else s for s in i.steps)
    i = replace(i, steps=steps, branches=())
    return _marked(_enter(definition, i, i.lane.index, at), at, soon=soon)


def _chosen(step: StepRecord, yes: bool | StepError, at: int) -> StepRecord:  # noqa: FBT001 - a condition's answer, not a flag
    if yes:
        return replace(step, chosen=True, error=None)
    return replace(step, code=StepCode.SKIPPED, error=None, ended_at=at)


def _undecidable(
    d: SagaDefinition, i: SagaInstance, name: str, error: StepError, at: int
) -> SagaInstance:
    steps = tuple(replace(s, error=error) if s.name == name else s for s in i.steps)
    i = replace(i, steps=steps, branches=())
    if _past_pivot(d, i):
        return _park(i, Why.FORWARD_FAILED, error)
    return _turn_round(d, i, Cause(CauseKind.STEP_FAILED, at, step=name, error=error), at)


def next_actions(definition: SagaDefinition, i: SagaInstance, now: int) -> tuple[Action, ...]:
    """What the saga needs next, for each lane along which it moves.

    Who may do it is settled by the claim. For a claimed lane: what the attempt
    that holds the claim has to do.
    """
    if not i.live:
        return (Rest(),)
    return tuple(next_action(definition, i, lane, now) for lane in i.open_lanes)


def next_action(definition: SagaDefinition, i: SagaInstance, lane: Lane, now: int) -> Action:
    """What a live saga needs next along one of its open lanes."""
    if lane.lease is None and lane.due_at > now:
        return WakeAt(lane.due_at)
    return due_action(definition, i, lane, now)


def due_action(
    definition: SagaDefinition, i: SagaInstance, lane: Lane, now: int
) -> Settle | Execute | Compensate | Inquire:
    """What the attempt has to do that holds the lane, or that may claim it now."""
    reason = _withhold(definition, i, lane, now)
    if reason is not None:
        return Settle(reason)
    step = i.steps[lane.index]
    attempt = lane.tries + (1 if lane.lease is None else 0)
    if i.direction(lane) is Direction.COMPENSATION:
        return Compensate(step.name, attempt, step.doubt)
    if step.code is StepCode.WAITING:
        return Inquire(step.name, attempt)
    return Execute(step.name, attempt)


def _withhold(d: SagaDefinition, i: SagaInstance, lane: Lane, now: int) -> Withhold | None:
    """Why the attempt must not call its handler, if it must not."""
    forward = i.direction(lane) is Direction.FORWARD
    step = i.steps[lane.index]
    if forward and _pending(step) is not None:
        return Withhold.ANSWERED
    if forward and i.phase is Direction.COMPENSATION:
        return Withhold.ROLLING_BACK
    if forward and i.cancel is not None:
        return Withhold.CANCELLED
    in_hand = 1 if lane.lease is not None else 0
    if lane.attempts - in_hand - lane.reported >= _policy(d, i, lane).max_lost:
        return Withhold.LOST
    if i.hops > d.hop_max:
        return Withhold.HOPS
    if forward and now >= i.deadline_at and not _no_return(d, i, lane, in_hand):
        return Withhold.DEADLINE
    if forward and step.code is StepCode.WAITING and d.steps[lane.index].child is None:
        return Withhold.UNANSWERED
    return None


def refusal(
    i: SagaInstance,
    *,
    claim_id: str,
    epoch: int,
    definition: str,
    now: int,
    branch: int | None = None,
) -> Reason | None:
    """Why a claim is refused. The order of the checks matters.

    Simulation found it: the lease is looked at before the due time, because
    under a skewed clock a leased work item looks early, and whoever drops the
    lease holder's message leaves nothing behind to recover with.
    """
    lane = i.open_lane(branch)
    if lane is not None and lane.lease is not None and lane.lease.id == claim_id:
        return Reason.OWN_CLAIM
    if not i.live:
        return _at_rest(i)
    if lane is None or epoch != lane.epoch or definition != i.definition:
        return _stale(i, branch)
    if lane.lease is not None and lane.lease.until >= now:
        return Reason.LEASED
    if lane.due_at > now + EARLY_MS:
        return Reason.EARLY
    return None


def _stale(i: SagaInstance, branch: int | None) -> Reason:
    """What became of the work item that a message announced, and who has its successor.

    A successor that is claimed has a message of its own, which its holder has
    not deleted yet. So has every lane of an open group for the message of a
    branch of the same group that is settled: whoever settled it had none to
    announce. A branch of a group before this one may have been its last, whose
    holder died before it announced this one.
    """
    lane = i.open_lane(branch)
    if lane is not None:
        claimed = lane.lease is not None
    elif branch is not None and i.branches and branch >= i.lane.index:
        claimed = True
    else:
        claimed = all(n.lease is not None for n in i.open_lanes)
    return Reason.STALE_CLAIMED if claimed else Reason.STALE_UNCLAIMED


def superseded(i: SagaInstance, lane: Lane) -> bool:
    """A later work item than the lane's is held, and has a message of its own."""
    now = i.open_lane(lane.number)
    moved = now is None or now.epoch != lane.epoch
    return moved and _stale(i, lane.number) is Reason.STALE_CLAIMED


def guard_lane(i: SagaInstance, branch: int | None) -> Lane:
    """The lane whose guard a surplus message needs: the branch, if it is open, or the main lane."""
    return i.open_lane(branch) or i.lane


def nudge(i: SagaInstance, *, nudge_id: str, now: int, branch: int | None = None) -> Transition:
    """Reserve the right to send one surplus message for each unclaimed lane.

    Not a state write: the version stays, so that it never disturbs a commit.
    """
    if not i.live:
        return Ignored(_at_rest(i))
    lane = guard_lane(i, branch)
    if lane.lease is not None:
        return Ignored(Reason.LEASED)
    if _nudged(lane, now):
        return Ignored(Reason.NUDGED)
    return Moved(_put(i, replace(lane, nudge=Nudge(nudge_id, now))))


def settled_by(i: SagaInstance, claim_id: str) -> bool:
    """Whether this claim was the last to settle its lane."""
    lanes = (i.lane, *i.branches)
    return any(n.last_id == claim_id for n in lanes) or any(
        s.settled_by == claim_id for s in i.steps
    )


def held_by(i: SagaInstance, claim_id: str) -> Lane | None:
    """The lane that this claim holds."""
    return next(
        (n for n in i.open_lanes if n.lease is not None and n.lease.id == claim_id),
        None,
    )


def swept(i: SagaInstance, now: int) -> SagaInstance:
    """When to look again after a sweep that found no progress.

    The gap doubles up to an hour, so that a backlog is not amplified by the
    sweeper. Not a state write.
    """
    gap = min(SWEEP_STEP_MS << min(i.sweeps, 16), SWEEP_CAP_MS)
    marks = [_swept_lane(lane, now, gap) for lane in i.open_lanes]
    return replace(i, sweep_at=min(marks), sweeps=i.sweeps + 1)


def _swept_lane(lane: Lane, now: int, gap: int) -> int:
    if lane.due_at - now > MAX_DELAY_MS:
        return lane.due_at - LONG_TIMER_LEAD_MS  # it was too early to send anything
    lease_end = lane.lease.until if lane.lease is not None else 0
    return _bucket(max(now, lane.due_at, lease_end) + gap)


def dispatch_delay(i: SagaInstance, now: int, lane: Lane | None = None) -> int | None:
    """Milliseconds by which to delay the message of a lane's current work item.

    None when none is to be sent: the saga rests, or the wait is longer than a
    queue can hold and the sweeper has it.
    """
    wait = max(0, (lane or i.lane).due_at - now)
    return wait if i.live and wait <= MAX_DELAY_MS else None


def to_announce(before: SagaInstance, after: SagaInstance) -> tuple[Lane, ...]:
    """The lanes whose work item is a new one, and for whose message the writer has to care."""
    if not after.live:
        return ()
    return tuple(n for n in after.open_lanes if _is_news(before, n))


def _is_news(before: SagaInstance, lane: Lane) -> bool:
    old = before.open_lane(lane.number)
    return old is None or old.epoch != lane.epoch


def apply(definition: SagaDefinition, instance: SagaInstance, event: Event) -> Transition:
    """What is true after the event.

    The version is left alone: the store counts it with the write.

    Raises:
        IllegalEventError: The event cannot exist in this state.
    """
    match event:
        case Claimed():
            return claim(instance, event)
        case StepSucceeded() | StepFailed() | StepInDoubt() | StepAwaits():
            return _settle(definition, instance, event, Direction.FORWARD)
        case CompensationSucceeded() | CompensationFailed():
            return _settle(definition, instance, event, Direction.COMPENSATION)
        case Withheld() | ChildWaits() | ChildStopped():
            return _settle(definition, instance, event, None)
        case CancelRequested():
            return _cancel(definition, instance, event)
        case ResumeRequested():
            return _resume(definition, instance, event)
        case SkipRequested():
            return _skip(definition, instance, event)
        case AnswerGiven():
            return _answer(definition, instance, event)
        case HeartbeatReceived():
            return _heartbeat(definition, instance, event)
        case UndoRequested():
            return _undo(definition, instance, event)
        case ChildRests():
            return _child_rests(definition, instance, event)
        case ParentEnded():
            return _parent_ended(definition, instance, event)
        case DeliveryExhausted():
            return delivery_exhausted(instance, event)
        case TakenOver():
            return _taken_over(instance, event)
        case _:
            assert_never(event)


# -- the claim ------------------------------------------------------------------


def claim(i: SagaInstance, e: Claimed) -> Transition:
    """Part of ``apply``; a claim needs no definition."""
    no = refusal(
        i,
        claim_id=e.claim_id,
        epoch=e.epoch,
        definition=e.definition,
        now=e.at,
        branch=e.branch,
    )
    lane = i.open_lane(e.branch)
    if no is not None or lane is None:
        return Ignored(no or Reason.STALE_CLAIMED)
    lane = replace(
        lane,
        attempts=lane.attempts + 1,
        tries=lane.tries + 1,
        lease=Lease(e.claim_id, e.until),
        began_at=lane.began_at if lane.began_at is not None else e.at,
        order=i.version if lane.branch and lane.order is None else lane.order,
    )
    return Moved(replace(_put(i, lane), hops=i.hops + 1, updated_at=e.at))


def _taken_over(i: SagaInstance, e: TakenOver) -> Transition:
    """The attempts in flight are lost: they stay counted, their leases go."""
    if not i.live:
        return Ignored(_at_rest(i))
    held = [n for n in i.open_lanes if n.lease is not None]
    if not held:
        return Ignored(Reason.LIVE)
    for lane in held:
        i = _put(i, replace(lane, lease=None))
    return Moved(replace(i, updated_at=e.at))


# -- the result of an attempt ---------------------------------------------------


def _settle(
    d: SagaDefinition, i: SagaInstance, e: AttemptResult, direction: Direction | None
) -> Transition:
    """Record what the attempt came to, then decide what follows."""
    lane = held_by(i, e.claim_id)
    if lane is None:
        known = settled_by(i, e.claim_id)
        return Ignored(Reason.ALREADY_RECORDED if known else Reason.STALE_TOKEN)
    if direction not in (i.direction(lane), None):
        raise IllegalEventError(f"saga {i.id} in phase {i.phase} got {type(e).__name__}")
    if d.steps[lane.index].child is not None and not isinstance(e, Withheld):
        # However often the child is looked at, that is one attempt.
        lane = replace(lane, tries=max(lane.clean, lane.reported) + 1)
        i = _put(i, lane)
    match e:
        case StepSucceeded():
            if e.child is not None:
                i = _with_step(i, lane.index, child=e.child)
            after = _step_succeeded(d, i, lane, e.context, e.at)
        case StepFailed():
            after = _step_failed(d, i, lane, e)
        case StepInDoubt():
            after = _step_in_doubt(d, i, lane, e)
        case StepAwaits():
            after = _step_awaits(d, i, lane, e)
        case CompensationSucceeded():
            after = _compensation_succeeded(d, i, e)
        case CompensationFailed():
            after = _compensation_failed(d, i, e)
        case ChildWaits():
            after = _child_waits(d, i, lane, e)
        case ChildStopped():
            after = _child_stopped(i, lane, e)
        case Withheld():
            after = _withheld(d, i, lane, e)
        case _:
            assert_never(e)
    return Moved(_committed(i, after, lane, e.claim_id, e.at))


def _committed(
    before: SagaInstance, i: SagaInstance, lane: Lane, claim_id: str | None, at: int
) -> SagaInstance:
    """What every settled attempt leaves behind, and an answer to one."""
    group = {n.index for n in before.branches}
    still_open = {n.index for n in i.branches} & group  # not those of a group that follows
    if lane.branch and lane.index in still_open:
        i = _put(i, _settled(next(n for n in i.branches if n.index == lane.index), claim_id))
    elif still_open:  # the lane is gone, the others go on: the step tells whose commit it was
        i = _with_step(i, lane.index, settled_by=claim_id)
    else:
        i = replace(i, lane=_settled(i.lane, claim_id))
    return _scheduled(replace(i, stalls=0, sweeps=0, updated_at=at), at)


def _settled(lane: Lane, claim_id: str | None) -> Lane:
    return replace(
        lane,
        epoch=lane.epoch + 1,
        lease=None,
        nudge=None,
        began_at=None,
        woken=False,
        last_id=claim_id if claim_id is not None else lane.last_id,
    )


def _step_succeeded(
    d: SagaDefinition, i: SagaInstance, lane: Lane, context: str, at: int
) -> SagaInstance:
    kept = _with_context(d, i, lane, context)
    if isinstance(kept, StepError):
        i = _recorded(i, lane, StepCode.UNKNOWN, at, doubt=True, error=kept)
        return _given_up(d, i, lane, kept, at)
    i = _recorded(kept, lane, StepCode.DONE, at, doubt=False, error=None)
    answer = i.steps[lane.index].answer
    if answer is not None:
        i = _with_step(i, lane.index, answer=replace(answer, fields=None))
    if lane.branch:
        return _branch_done(d, i, lane, at)
    if i.cancel is not None:
        return _turn_round(d, i, _cancelled(i, at), at)
    return _enter(d, i, d.stage(lane.index).stop, at)


def _step_failed(d: SagaDefinition, i: SagaInstance, lane: Lane, e: StepFailed) -> SagaInstance:
    answer = _pending(i.steps[lane.index])
    if answer is not None:  # whoever was asked knows better than the one who asked
        return _answered(d, i, _uncounted(lane), answer, e.at)
    lane = replace(lane, reported=lane.reported + 1, clean=lane.clean + 1)
    return _not_done(d, i, lane, e, doubt=lane.tries > lane.clean, final=e.fatal)


def _step_in_doubt(d: SagaDefinition, i: SagaInstance, lane: Lane, e: StepInDoubt) -> SagaInstance:
    answer = _pending(i.steps[lane.index])
    if answer is not None:
        return _answered(d, i, _uncounted(lane), answer, e.at)
    lane = replace(lane, reported=lane.reported + 1)
    return _not_done(d, i, lane, e, doubt=True, final=e.final)


def _not_done(
    d: SagaDefinition,
    i: SagaInstance,
    lane: Lane,
    e: StepFailed | StepInDoubt,
    *,
    doubt: bool,
    final: bool,
) -> SagaInstance:
    """A reported failure: another attempt while the policy allows, then the way back."""
    policy = _policy(d, i, lane)
    i = _put(i, lane)
    if final or policy.spent(lane.reported) or _turning(i):
        code = StepCode.UNKNOWN if doubt else StepCode.NO
        i = _recorded(i, lane, code, e.at, doubt=doubt, error=e.error)
        return _given_up(d, i, lane, e.error, e.at)
    code = StepCode.UNKNOWN if doubt else StepCode.RUNNING
    i = _recorded(i, lane, code, None, doubt=doubt, error=e.error)
    if policy.max_attempts is None:
        i = replace(i, hops=i.hops - 1)  # the loop guard is for what nobody asked for
    return _retry_later(d, i, lane, e.at, e.jitter)


def _step_awaits(d: SagaDefinition, i: SagaInstance, lane: Lane, e: StepAwaits) -> SagaInstance:
    """The attempt is neither over nor lost: it is out with somebody else."""
    lane = replace(_uncounted(lane), wait_ms=e.timeout_ms)
    i = replace(_put(i, lane), hops=i.hops - 1)
    kept = _with_context(d, i, lane, e.context)
    if isinstance(kept, StepError):
        i = _recorded(i, lane, StepCode.UNKNOWN, e.at, doubt=True, error=kept)
        return _given_up(d, i, lane, kept, e.at)
    answer = _pending(kept.steps[lane.index])
    if answer is not None:  # it was faster than we
        return _answered(d, kept, lane, answer, e.at)
    if _turning(i):
        error = StepError("AnswerAwaited", "the saga was rolled back before the answer came")
        i = _recorded(kept, lane, StepCode.UNKNOWN, e.at, doubt=True, error=error)
        return _given_up(d, i, lane, error, e.at)
    i = _recorded(kept, lane, StepCode.WAITING, None, error=None)
    return _put(i, replace(lane, due_at=_due(d, i, lane, e.at, e.timeout_ms)))


def _compensation_succeeded(
    d: SagaDefinition, i: SagaInstance, e: CompensationSucceeded
) -> SagaInstance:
    i = _recorded(i, i.lane, StepCode.COMPENSATED, e.at, error=_current(i).error)
    if e.context is not None:
        i = replace(i, context_text=e.context)
    return _go_back(d, i, e.at)


def _compensation_failed(d: SagaDefinition, i: SagaInstance, e: CompensationFailed) -> SagaInstance:
    lane = replace(i.lane, reported=i.lane.reported + 1)
    i = _put(i, lane)
    policy = _policy(d, i, lane)
    if e.fatal or policy.spent(lane.reported):
        return _compensation_spent(d, i, e.error, e.at)
    if policy.max_attempts is None:
        i = replace(i, hops=i.hops - 1)
    i = _recorded(i, lane, _current(i).code, None, error=e.error)
    return _retry_later(d, i, lane, e.at, e.jitter)


def _compensation_spent(
    d: SagaDefinition, i: SagaInstance, error: StepError, at: int
) -> SagaInstance:
    i = _recorded(i, i.lane, StepCode.COMPENSATION_FAILED, at, error=error)
    if d.on_compensation_failure == "continue":
        return _go_back(d, i, at)
    return _park(i, Why.COMPENSATION_FAILED, error)


def _withheld(d: SagaDefinition, i: SagaInstance, lane: Lane, e: Withheld) -> SagaInstance:
    """The claim made no call: take it out of the counts, then do what it stood for."""
    lane = replace(lane, tries=lane.tries - 1, attempts=lane.attempts - 1)
    i = _put(i, lane)
    forward = i.direction(lane) is Direction.FORWARD
    if e.reason is Withhold.HOPS:
        limit = StepError("HopLimit", f"{i.hops} moves are more than any honest failure needs")
        return _park(i, Why.STALLED, limit)
    answer = _pending(i.steps[lane.index]) if forward else None
    if answer is not None:  # whatever was decided before it came
        return _answered(d, i, lane, answer, e.at)
    if e.reason is Withhold.LOST:
        n = lane.attempts - lane.reported
        error = StepError("AttemptsLost", f"{n} attempts vanished without a report")
        if not forward:
            return _compensation_spent(d, i, error, e.at)
        i = _recorded(i, lane, StepCode.UNKNOWN, e.at, doubt=True, error=error)
        return _given_up(d, i, lane, error, e.at, why=Why.STALLED)
    if not forward:
        raise IllegalEventError(f"saga {i.id} compensates; {e.reason} cannot stop it")
    if e.reason is Withhold.ANSWERED:
        raise IllegalEventError(f"saga {i.id} was not answered")
    if e.reason is Withhold.UNANSWERED:
        return _unanswered(d, i, lane, e)
    i = _left_open(i, lane, e.at)
    if i.phase is Direction.COMPENSATION:  # another branch was first, whatever stopped this one
        return _branch_gone(d, i, lane, e.at)
    if e.reason is Withhold.ROLLING_BACK:
        raise IllegalEventError(f"saga {i.id} does not roll back")
    cause = Cause(CauseKind.DEADLINE, e.at)
    if e.reason is Withhold.CANCELLED:
        cause = _cancelled(i, e.at)
    return _turn_round(d, i, cause, e.at, lane)


# -- answers from outside -------------------------------------------------------


def _answer(d: SagaDefinition, i: SagaInstance, e: AnswerGiven) -> Transition:
    index = d.index(e.step)
    step = i.steps[index]
    if step.answer is not None:
        same = step.answer.digest == _digest(e)
        if step.answer.late:
            return Ignored(Reason.LATE)
        return Ignored(Reason.REPEATED if same else Reason.ANSWERED)
    if i.status in CLOSED:
        return Ignored(Reason.CLOSED)
    lane = next((n for n in i.open_lanes if n.index == index), None)
    forward = lane is not None and i.direction(lane) is Direction.FORWARD
    asked = forward and lane is not None and lane.tries > lane.clean
    answer = GivenAnswer(
        digest=_digest(e), ok=e.ok, by=e.by, at=e.at, fields=e.fields, error=e.error
    )
    if lane is None or not asked:
        if not step.doubt or forward:  # it never asked, or is done without
            return Ignored(Reason.NOT_ASKED)
        late = replace(answer, late=True, fields=None)
        return Moved(replace(_with_step(i, index, answer=late), updated_at=e.at))
    if i.live and lane.lease is None:
        # The claim that asked may yet have to recognise its commit, whose answer was lost.
        after = _committed(i, _answered(d, i, lane, answer, e.at), lane, lane.last_id, e.at)
        return Moved(_announced_soon(after, e.at))
    # An attempt is in flight, or the saga has stopped: kept until a claim finds it.
    return Moved(replace(_with_step(i, index, answer=answer), updated_at=e.at))


def _answered(
    d: SagaDefinition, i: SagaInstance, lane: Lane, answer: GivenAnswer, at: int
) -> SagaInstance:
    """Settle the step as the answer says; of the answer itself, only its trace is kept.

    The attempt that asked is not among the lane's counted ones. A refusal is
    certain for the first attempt that fails only: all attempts share a token, and
    messages come twice.
    """
    fields = json.loads(answer.fields or "{}")
    if answer.ok:
        i = _with_step(i, lane.index, answer=answer)
        context = Delta(fields).applied(_seen_by(i, lane))
        return _step_succeeded(d, i, lane, context, at)
    # The next attempt asks anew, under the same token.
    i = _with_step(i, lane.index, answer=None)
    lane = replace(lane, attempts=lane.attempts + 1)
    error = answer.error or StepError("AnsweredFailed", "")
    if lane.clean:  # it may be the refusal of an earlier attempt, delivered again
        doubt = StepInDoubt(claim_id="", error=error, final=False, jitter=_FULL, at=at)
        after = _step_in_doubt(d, _put(i, lane), lane, doubt)
    else:
        failed = StepFailed(claim_id="", error=error, fatal=False, jitter=_FULL, at=at)
        after = _step_failed(d, _put(i, lane), lane, failed)
    if after.steps[lane.index].ended_at is None:
        return after
    return _with_step(after, lane.index, answer=replace(answer, fields=None))


def _unanswered(d: SagaDefinition, i: SagaInstance, lane: Lane, e: Withheld) -> SagaInstance:
    """The wait is over: the attempt that asked reports, by its silence, that it cannot tell."""
    lane = replace(lane, attempts=lane.attempts + 1)
    error = StepError("AnswerOverdue", "nobody answered in time")
    doubt = StepInDoubt(claim_id=e.claim_id, error=error, final=False, jitter=_FULL, at=e.at)
    return _step_in_doubt(d, _put(i, lane), lane, doubt)


def _heartbeat(d: SagaDefinition, i: SagaInstance, e: HeartbeatReceived) -> Transition:
    index = d.index(e.step)
    lane = next((n for n in i.open_lanes if n.index == index), None)
    if i.status in CLOSED:
        return Ignored(Reason.CLOSED)
    if lane is None or i.direction(lane) is Direction.COMPENSATION or not lane.tries:
        return Ignored(Reason.LATE if i.steps[index].doubt else Reason.NOT_ASKED)
    if lane.lease is not None:
        return Ignored(Reason.LEASED)  # its attempt is in flight: the wait has not begun
    if i.steps[index].code is not StepCode.WAITING or lane.wait_ms is None:
        return Ignored(Reason.NOT_ASKED)
    due = max(lane.due_at, _due(d, i, lane, e.at, lane.wait_ms))
    return Moved(_scheduled(replace(_put(i, replace(lane, due_at=due)), updated_at=e.at), e.at))


def _digest(e: AnswerGiven) -> str:
    told = [e.ok, json.loads(e.fields), e.error.message if e.error is not None else None]
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# -- sagas within sagas ---------------------------------------------------------
#
# Parent and child are two items, and no write spans them. The parent looks at the child and
# believes what it finds; the child, when it comes to rest, only wakes the parent, so a wake-up
# may be lost or repeated: the parent looks by itself from time to time.


def _child_waits(d: SagaDefinition, i: SagaInstance, lane: Lane, e: ChildWaits) -> SagaInstance:
    """The attempt is out with the child, neither over nor lost."""
    lane = _uncounted(lane)
    i = replace(_put(i, lane), hops=i.hops - 1)
    code = i.steps[lane.index].code
    if i.direction(lane) is Direction.FORWARD:
        code = StepCode.WAITING
        if _turning(i):
            i = _with_step(i, lane.index, child=e.child or i.steps[lane.index].child)
            error = StepError("ChildRuns", "the saga that it started is undone with this one")
            i = _recorded(i, lane, StepCode.UNKNOWN, e.at, doubt=True, error=error)
            return _given_up(d, i, lane, error, e.at)
    i = _recorded(i, lane, code, None, error=i.steps[lane.index].error)
    i = _with_step(i, lane.index, child=e.child or i.steps[lane.index].child)
    due = e.at if lane.woken else _due(d, i, lane, e.at, e.wait_ms)
    return _put(i, replace(lane, due_at=due))


def _child_stopped(i: SagaInstance, lane: Lane, e: ChildStopped) -> SagaInstance:
    """This saga can go neither way before somebody has repaired the child."""
    lane = _uncounted(lane)
    i = _with_step(_put(i, lane), lane.index, child=e.child)
    error = StepError("ChildFailed", f"saga {e.child} is FAILED: repair and resume it")
    return _park(i, Why.CHILD_FAILED, error)


def _child_rests(d: SagaDefinition, i: SagaInstance, e: ChildRests) -> Transition:
    if i.status in CLOSED:
        return Ignored(Reason.CLOSED)
    lane = next((n for n in i.open_lanes if n.index == e.step), None)
    if lane is None or not lane.tries:
        return Ignored(Reason.OTHER_STEP)
    if not i.live:
        if i.why is not Why.CHILD_FAILED:
            return Ignored(Reason.PARKED)
        return Moved(_resumed(d, i, e.at))
    if lane.lease is not None:
        lane = replace(lane, woken=True)
    lane = replace(lane, due_at=min(lane.due_at, e.at))
    return Moved(_announced_soon(replace(_put(i, lane), updated_at=e.at), e.at))


def _undo(d: SagaDefinition, i: SagaInstance, e: UndoRequested) -> Transition:
    """The one way back from COMPLETED: for a child, whose end was never the end of it all."""
    if i.parent is None or i.status is SagaState.COMPENSATED:
        return Ignored(Reason.CLOSED)
    if i.status is not SagaState.COMPLETED:
        return Ignored(Reason.LIVE if i.live else Reason.PARKED)
    if _past_pivot(d, i):
        return Ignored(Reason.PAST_PIVOT)
    i = replace(_unparked(i, e.at), expires_at=None)
    i = replace(i, lane=replace(i.lane, index=len(i.steps) - 1))
    cause = Cause(CauseKind.PARENT, e.at, by=e.by)
    return Moved(_announced_soon(_turn_round(d, i, cause, e.at), e.at))


def _parent_ended(d: SagaDefinition, i: SagaInstance, e: ParentEnded) -> Transition:
    if i.status not in CLOSED or i.expires_at is not None:
        return Ignored(Reason.CLOSED if i.status in CLOSED else Reason.LIVE)
    kept = d.kept_ms(completed=i.status is SagaState.COMPLETED)
    return Moved(replace(i, expires_at=_whole_seconds(e.at + kept), updated_at=e.at))


# -- what follows ---------------------------------------------------------------


def _enter(d: SagaDefinition, i: SagaInstance, index: int, at: int) -> SagaInstance:
    """Make the step at this place current, or open the group that begins there."""
    stage = d.stage(index) if index < len(i.steps) else range(index, index)
    while stage and all(i.steps[n].code is StepCode.SKIPPED for n in stage):
        index = stage.stop
        stage = d.stage(index) if index < len(i.steps) else range(index, index)
    i = replace(i, lane=_fresh(i.lane, index, at))
    if not stage:
        return _close(d, i, SagaState.COMPLETED, at)
    if d.steps[index].group is None:
        return _put(i, replace(i.lane, due_at=_due_after_delay(d, i, i.lane, at)))
    opened = tuple(
        Lane(branch=True, index=n) for n in stage if i.steps[n].code is not StepCode.SKIPPED
    )
    return replace(
        i, branches=tuple(replace(n, due_at=_due_after_delay(d, i, n, at)) for n in opened)
    )


def _due_after_delay(d: SagaDefinition, i: SagaInstance, lane: Lane, at: int) -> int:
    return _due(d, i, lane, at, _ms(d.steps[lane.index].delay.total_seconds()))


def _due(d: SagaDefinition, i: SagaInstance, lane: Lane, at: int, wait_ms: int) -> int:
    """When a wait is over. Going forward the deadline is not slept through."""
    due = at + wait_ms
    if i.direction(lane) is Direction.COMPENSATION or _no_return(d, i, lane, 0):
        return due
    return min(due, max(at, i.deadline_at))


def _branch_done(d: SagaDefinition, i: SagaInstance, lane: Lane, at: int) -> SagaInstance:
    if i.cancel is not None and i.phase is Direction.FORWARD:
        return _turn_round(d, i, _cancelled(i, at), at, lane)
    return _branch_gone(d, i, lane, at)


def _branch_gone(d: SagaDefinition, i: SagaInstance, lane: Lane, at: int) -> SagaInstance:
    """A branch is settled; when it was the last, the group's results are put together."""
    i = _without(i, lane)
    if i.branches:
        return i
    i = _joined(d, i)
    if i.phase is Direction.COMPENSATION:
        return _go_back(d, i, at)
    return _enter(d, i, d.stage(i.lane.index).stop, at)


def _joined(d: SagaDefinition, i: SagaInstance) -> SagaInstance:
    """The context with what the steps of the group changed, in definition order."""
    text = i.context_text
    steps = list(i.steps)
    for n in d.stage(i.lane.index):
        result = steps[n].result
        if result is not None:
            text = Delta.from_text(result).applied(text)
        steps[n] = replace(steps[n], result=None)
    return replace(i, context_text=text, steps=tuple(steps))


def _with_context(
    d: SagaDefinition, i: SagaInstance, lane: Lane, context: str
) -> SagaInstance | StepError:
    """The saga with the context that a handler left behind.

    Of a branch, only what it changed is kept, and beside the others' changes: two
    that write one field would leave it to chance which of them is read.
    """
    if not lane.branch:
        return replace(i, context_text=context)
    mine = Delta.between(i.context_text, context)
    for n in d.stage(i.lane.index):
        other = i.steps[n]
        if n == lane.index or other.result is None:
            continue
        both = sorted(mine.names & Delta.from_text(other.result).names)
        if both:
            here = i.steps[lane.index].name
            text = f"{other.name} and {here} both write {', '.join(both) or 'the context'}"
            return StepError("FieldConflict", text)
    return _with_step(i, lane.index, result=mine.text if mine.names else None)


def _seen_by(i: SagaInstance, lane: Lane) -> str:
    """The context as the step last left it; of a branch, with its own changes and no other's."""
    result = i.steps[lane.index].result
    if not lane.branch or result is None:
        return i.context_text
    return Delta.from_text(result).applied(i.context_text)


def context_for(i: SagaInstance, lane: Lane, e: AnswerGiven | None = None) -> str:
    """The context that the step of a lane works with; with an answer, what it would be after."""
    seen = _seen_by(i, lane)
    return Delta(json.loads(e.fields)).applied(seen) if e is not None else seen


def _given_up(
    d: SagaDefinition,
    i: SagaInstance,
    lane: Lane,
    error: StepError,
    at: int,
    *,
    why: Why = Why.FORWARD_FAILED,
) -> SagaInstance:
    """A step will not be done. It is recorded; what is left is the way back, if there is one."""
    if i.phase is Direction.COMPENSATION:
        return _branch_gone(d, i, lane, at)
    # A pivot that may be done, and that nothing undoes, cannot be gone behind.
    at_pivot = lane.index == d.pivot and i.steps[lane.index].doubt
    if _past_pivot(d, i) or (at_pivot and not d.steps[lane.index].compensatable):
        return _park(i, why, error)
    return _turn_round(d, i, _step_cause(i, lane, error, at), at, lane)


def _turn_round(
    d: SagaDefinition, i: SagaInstance, cause: Cause, at: int, lane: Lane | None = None
) -> SagaInstance:
    """The one way into compensation. It is entered once, with its cause.

    ``lane`` is the one that turned it, and is done with. Other branches start no
    more; those that somebody works on settle first.
    """
    i = replace(i, phase=Direction.COMPENSATION, status=SagaState.COMPENSATING, cause=cause)
    in_a_group = bool(i.branches)
    for other in i.branches:
        mine = lane is not None and other.index == lane.index
        if other.lease is None and not mine:
            i = _left_open(i, other, at)
        if other.lease is None or mine:
            i = _without(i, other)
    if i.branches:
        return i
    return _go_back(d, _joined(d, i) if in_a_group else i, at)


def _go_back(d: SagaDefinition, i: SagaInstance, at: int) -> SagaInstance:
    """On to the newest step that is not undone yet; if there is none, the end."""
    i = replace(i, status=SagaState.COMPENSATING)
    target = _newest_open(d, i)
    if target is not None:
        lane = _fresh(i.lane, target, at)
        return replace(i, lane=replace(lane, tries=i.steps[target].undo_attempts))
    spent = [s for s in i.steps if s.code is StepCode.COMPENSATION_FAILED]
    if spent:
        return _park(i, Why.COMPENSATION_FAILED, spent[-1].error)
    return _close(d, replace(i, lane=_fresh(i.lane, i.lane.index, at)), SagaState.COMPENSATED, at)


def _close(d: SagaDefinition, i: SagaInstance, status: SagaState, at: int) -> SagaInstance:
    """The end. From here on nothing changes it but its retention."""
    kept = d.kept_ms(completed=status is SagaState.COMPLETED)
    # A child must outlive its parent, which may yet have to undo it.
    expires = _whole_seconds(at + kept) if i.parent is None else None
    return replace(i, status=status, expires_at=expires)


def _newest_open(d: SagaDefinition, i: SagaInstance) -> int | None:
    """Index of the step to undo next: done or in doubt, newest start first."""
    return max(
        (
            n
            for n, s in enumerate(i.steps)
            if s.code in (StepCode.DONE, StepCode.UNKNOWN) and d.step(s.name).compensatable
        ),
        key=lambda n: i.steps[n].order or 0,
        default=None,
    )


def _park(i: SagaInstance, why: Why, error: StepError | None) -> SagaInstance:
    """Stop, visibly, until a person resumes it. Whoever holds a lease is fenced off."""
    for lane in (i.lane, *i.branches):
        i = _put(i, replace(lane, lease=None, nudge=None))
    return replace(i, status=SagaState.FAILED, why=why, failure=error)


def _retry_later(
    d: SagaDefinition, i: SagaInstance, lane: Lane, at: int, jitter: float
) -> SagaInstance:
    wait = _policy(d, i, lane).delay_ms(lane.reported, jitter)
    return _put(i, replace(lane, due_at=_due(d, i, lane, at, wait)))


# -- requests -------------------------------------------------------------------


def _cancel(d: SagaDefinition, i: SagaInstance, e: CancelRequested) -> Transition:
    if i.status in CLOSED:
        return Ignored(Reason.CLOSED)
    if i.phase is Direction.COMPENSATION:
        return Ignored(Reason.ROLLING_BACK if i.live else Reason.ROLL_BACK_STOPPED)
    if any(_no_return(d, i, n, 0) for n in i.open_lanes):
        return Ignored(Reason.PAST_PIVOT)
    if i.cancel is not None and i.live:
        return Ignored(Reason.ALREADY_CANCELLED)
    i = replace(i, cancel=i.cancel or Cancel(e.by, e.at), updated_at=e.at)
    if i.live:
        # Whatever is in flight settles first; the claim after it turns the saga round.
        for lane in i.open_lanes:
            i = _put(i, replace(lane, due_at=min(lane.due_at, e.at)))
        return Moved(_announced_soon(i, e.at))
    i = _unparked(i, e.at)
    if not i.branches:
        i = _left_open(i, i.lane, e.at)
    return Moved(_announced_soon(_turn_round(d, i, _cancelled(i, e.at), e.at), e.at))


def _resume(d: SagaDefinition, i: SagaInstance, e: ResumeRequested) -> Transition:
    if i.status in CLOSED:
        return Ignored(Reason.CLOSED)
    if i.live:
        return Ignored(Reason.LIVE)
    return Moved(_resumed(d, i, e.at))


def _skip(d: SagaDefinition, i: SagaInstance, e: SkipRequested) -> Transition:
    """A person vouches for the step: forward it counts as done, backward as undone."""
    if i.status in CLOSED:
        return Ignored(Reason.CLOSED)
    if i.live:
        return Ignored(Reason.LIVE)
    stuck = {s.name: None for s in i.steps if s.code is StepCode.COMPENSATION_FAILED}
    lanes = {i.steps[n.index].name: n for n in i.open_lanes}
    if e.step not in stuck and (
        e.step not in lanes or i.steps[lanes[e.step].index].code is StepCode.COMPENSATED
    ):
        return Ignored(Reason.OTHER_STEP)
    note = StepError("Skipped", f"by {e.by}")
    i = _with_step(
        i, d.index(e.step), code=StepCode.SKIPPED, doubt=False, error=note, ended_at=e.at
    )
    if i.phase is Direction.COMPENSATION:
        return Moved(_resumed(d, i, e.at))
    i = _unparked(i, e.at)
    if i.cancel is not None:
        i = _turn_round(d, i, _cancelled(i, e.at), e.at)
    else:
        i = _stepped_over(d, _later_deadline(d, i, e.at), e.step, e.at)
    return Moved(_announced_soon(i, e.at))


def _stepped_over(d: SagaDefinition, i: SagaInstance, step: str, at: int) -> SagaInstance:
    lane = next(n for n in i.open_lanes if i.steps[n.index].name == step)
    if lane.branch:
        return _branch_gone(d, i, lane, at)
    return _enter(d, i, d.stage(lane.index).stop, at)


def _resumed(d: SagaDefinition, i: SagaInstance, at: int) -> SagaInstance:
    i = _unparked(i, at)
    if i.phase is Direction.FORWARD:
        for lane in i.open_lanes:
            if _pending(i.steps[lane.index]) is None:  # it may be asked for anew
                i = _with_step(i, lane.index, answer=None)
        return _announced_soon(_later_deadline(d, i, at), at)
    if i.branches:  # stopped while those in flight settled: they are withheld, and then undone
        return _announced_soon(replace(i, status=SagaState.COMPENSATING), at)
    steps = tuple(
        replace(s, code=StepCode.UNKNOWN if s.doubt else StepCode.DONE, ended_at=None)
        if s.code is StepCode.COMPENSATION_FAILED
        else s
        for s in i.steps
    )
    return _announced_soon(_go_back(d, replace(i, steps=steps), at), at)


def _later_deadline(d: SagaDefinition, i: SagaInstance, at: int) -> SagaInstance:
    return replace(i, deadline_at=at + _ms(d.timeout.total_seconds()))


def _unparked(i: SagaInstance, at: int) -> SagaInstance:
    """Give the saga new budgets. ``tries`` stays: *possibly started* is not forgotten."""
    for lane in (i.lane, *i.branches):
        i = _put(
            i,
            replace(
                lane,
                epoch=lane.epoch + 1,
                attempts=0,
                reported=0,
                due_at=at,
                lease=None,
                nudge=None,
            ),
        )
    return replace(
        i,
        status=SagaState.RUNNING,
        why=None,
        failure=None,
        stalls=0,
        hops=0,
        sweeps=0,
        updated_at=at,
    )


def delivery_exhausted(i: SagaInstance, e: DeliveryExhausted) -> Transition:
    """A work item that nobody could move: try again later, in the end ask a person.

    Part of ``apply``; also called without a definition, because a definition
    that is not deployed is one way to end in the dead letters.
    """
    if not i.live:
        return Ignored(_at_rest(i))
    lane = guard_lane(i, e.branch)
    lease = lane.lease
    if lease is not None and lease.until >= e.at:
        return Ignored(Reason.LEASED)
    if _nudged(lane, e.at):
        return Ignored(Reason.NUDGED)
    current = i.open_lane(e.branch) is not None and e.epoch == lane.epoch
    if not current or e.definition != i.definition:
        return Ignored(_stale(i, e.branch))
    if lane.due_at > e.at:
        return Ignored(Reason.EARLY)
    i = replace(i, stalls=i.stalls + 1, updated_at=e.at)
    if i.stalls >= MAX_STALLS:
        return Moved(_scheduled(_park(i, Why.STALLED, e.error), e.at))
    due = e.at + min(STALL_STEP_MS << i.stalls, MAX_DELAY_MS)
    lane = replace(lane, nudge=Nudge(e.nudge_id, e.at), due_at=due)
    return Moved(_scheduled(_put(i, lane), e.at))


# -- small parts ----------------------------------------------------------------

_FULL = 1.0  # of a pause whose jitter nobody drew: the longest


def _at_rest(i: SagaInstance) -> Reason:
    return Reason.CLOSED if i.status in CLOSED else Reason.PARKED


def _current(i: SagaInstance) -> StepRecord:
    return i.steps[i.lane.index]


def _put(i: SagaInstance, lane: Lane) -> SagaInstance:
    """The saga with this lane in place of what it was."""
    if not lane.branch:
        return replace(i, lane=lane)
    return replace(i, branches=tuple(lane if n.index == lane.index else n for n in i.branches))


def _without(i: SagaInstance, lane: Lane) -> SagaInstance:
    return replace(i, branches=tuple(n for n in i.branches if n.index != lane.index))


def _with_step(i: SagaInstance, index: int, **changes: object) -> SagaInstance:
    new = replace(i.steps[index], **changes)  # type: ignore[arg-type]  # fields of StepRecord
    return replace(i, steps=(*i.steps[:index], new, *i.steps[index + 1 :]))


def _policy(d: SagaDefinition, i: SagaInstance, lane: Lane) -> RetryPolicy:
    step = d.steps[lane.index]
    forward = i.direction(lane) is Direction.FORWARD
    return step.retry if forward else step.compensation_retry


def _past_pivot(d: SagaDefinition, i: SagaInstance) -> bool:
    """The point of no return is behind: done, or vouched for by a person."""
    if d.pivot is None:
        return False
    return i.steps[d.pivot].code in (StepCode.DONE, StepCode.SKIPPED)


def _no_return(d: SagaDefinition, i: SagaInstance, lane: Lane, in_hand: int) -> bool:
    """The pivot is done, or may be: neither cancel nor deadline turns the saga round.

    ``in_hand`` attempts of the lane are known not to have called yet.
    """
    started = lane.index == d.pivot and lane.tries - in_hand > lane.clean
    return _past_pivot(d, i) or (started and i.phase is Direction.FORWARD)


def _pending(step: StepRecord) -> GivenAnswer | None:
    """An answer that was given and not used yet."""
    answer = step.answer
    return answer if answer is not None and answer.fields is not None else None


def _uncounted(lane: Lane) -> Lane:
    """The lane without the attempt in hand among those that report or get lost."""
    return replace(lane, attempts=lane.attempts - 1)


def _turning(i: SagaInstance) -> bool:
    """No further attempt is made going forward: somebody cancelled, or a branch has failed."""
    return i.cancel is not None or i.phase is Direction.COMPENSATION


def _fresh(lane: Lane, index: int, at: int) -> Lane:
    """The counters start anew with another step or direction."""
    return replace(
        lane,
        index=index,
        attempts=0,
        reported=0,
        tries=0,
        clean=0,
        due_at=at,
        began_at=None,
        wait_ms=None,
    )


def _recorded(
    i: SagaInstance,
    lane: Lane,
    code: StepCode,
    ended_at: int | None,
    *,
    error: StepError | None,
    doubt: bool | None = None,
) -> SagaInstance:
    """The lane's step with a new code, its counts and its times."""
    old = i.steps[lane.index]
    new = replace(old, code=code, error=error, ended_at=ended_at)
    if doubt is not None:
        new = replace(new, doubt=doubt)
    if i.direction(lane) is Direction.COMPENSATION:
        new = replace(new, undo_attempts=lane.tries)
    else:
        order = lane.order if lane.branch else _next_order(i)
        new = replace(
            new,
            attempts=lane.tries,
            order=old.order if old.order is not None else order,
            started_at=old.started_at if old.started_at is not None else lane.began_at,
        )
    return replace(i, steps=(*i.steps[: lane.index], new, *i.steps[lane.index + 1 :]))


def _left_open(i: SagaInstance, lane: Lane, at: int) -> SagaInstance:
    """The lane's step as the turn finds it: in doubt, known failed, or never started."""
    if lane.tries > lane.clean:
        error = i.steps[lane.index].error
        return _recorded(i, lane, StepCode.UNKNOWN, at, doubt=True, error=error)
    if lane.clean:
        return _recorded(i, lane, StepCode.NO, at, error=i.steps[lane.index].error)
    return i


def _next_order(i: SagaInstance) -> int:
    return 1 + max((s.order for s in i.steps if s.order is not None), default=0)


def _cancelled(i: SagaInstance, at: int) -> Cause:
    if i.cancel is None:
        raise IllegalEventError(f"saga {i.id} was not cancelled")
    return Cause(CauseKind.CANCELLED, at, by=i.cancel.by)


def _step_cause(i: SagaInstance, lane: Lane, error: StepError, at: int) -> Cause:
    """The step is the cause, unless somebody had asked for the roll-back before."""
    if i.cancel is not None:
        return _cancelled(i, at)
    return Cause(CauseKind.STEP_FAILED, at, step=i.steps[lane.index].name, error=error)


def _nudged(lane: Lane, now: int) -> bool:
    return lane.nudge is not None and lane.nudge.at > now - NUDGE_MS


def _scheduled(i: SagaInstance, at: int) -> SagaInstance:
    """When the sweeper looks after it: late enough to find only what was lost."""
    if i.status in CLOSED:
        return replace(i, sweep_at=None)
    if not i.live:
        return replace(i, sweep_at=at)
    return replace(i, sweep_at=min(_sweep_of(lane, at) for lane in i.open_lanes))


def _sweep_of(lane: Lane, at: int) -> int:
    due = max(at, lane.due_at)
    if due - at > MAX_DELAY_MS:
        return due - LONG_TIMER_LEAD_MS
    return _bucket(due + GRACE_MS)


def _announced_soon(i: SagaInstance, at: int) -> SagaInstance:
    """After a start or a request nobody repeats a lost send, so the sweeper comes soon."""
    i = _scheduled(i, at)
    if not i.live or min(n.due_at for n in i.open_lanes) - at > MAX_DELAY_MS:
        return i  # there was none to lose
    return replace(i, sweep_at=at + FIRST_SWEEP_MS)


def _marked(i: SagaInstance, at: int, *, soon: bool) -> SagaInstance:
    return _announced_soon(i, at) if soon else _scheduled(i, at)


def _bucket(at: int) -> int:
    return -(-at // BUCKET_MS) * BUCKET_MS


def _whole_seconds(at: int) -> int:
    return at // 1000 * 1000  # the table's time to live counts seconds


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
