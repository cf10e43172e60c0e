"""Every transition of a saga. Nothing else in this package changes an instance.

Rule 1: whatever moves a saga lives in this file. Drivers claim, call and write;
they never decide. Rule 2: everything here is a pure function of its arguments;
time, ids and jitter come in with the events. Rule 3: every (state, event) pair
has an answer: the new instance, or a named reason why nothing changes. What
cannot happen raises IllegalEventError.

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
* Budgets: ``max_attempts`` bounds the failures that were reported, ``max_lost``
  the attempts that vanished. A spent step rolls back; a spent compensation
  stops the saga, visibly.
* Settled means: the epoch moves on, the lease goes, and the id of the lease
  stays behind, so that a writer whose answer was lost recognises its own write.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias, assert_never

from saga_core.actions import Action, Compensate, Execute, Rest, Settle, WakeAt
from saga_core.calls import Direction
from saga_core.definition import SagaDefinition, StepDefinition
from saga_core.errors import IllegalEventError
from saga_core.events import (
    AttemptResult,
    CancelRequested,
    Claimed,
    CompensationFailed,
    CompensationSucceeded,
    DeliveryExhausted,
    Event,
    ResumeRequested,
    SkipRequested,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    TakenOver,
    Withheld,
    Withhold,
)
from saga_core.instance import (
    CLOSED,
    Cancel,
    Cause,
    CauseKind,
    Lane,
    Lease,
    Nudge,
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
    LIVE = "live"  # it moves by itself
    OTHER_STEP = "other_step"  # not the step that the saga stopped at


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
) -> SagaInstance:
    """A new saga, not stored yet: version 0, due at once."""
    return SagaInstance(
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
        sweep_at=at + FIRST_SWEEP_MS,
    )


def next_actions(definition: SagaDefinition, i: SagaInstance, now: int) -> tuple[Action, ...]:
    """What the saga needs next. Who may do it is settled by the claim.

    For a claimed saga: what the attempt that holds the claim has to do.
    """
    if not i.live:
        return (Rest(),)
    held = i.lane.lease is not None
    if not held and i.lane.due_at > now:
        return (WakeAt(i.lane.due_at),)
    reason = _withhold(definition, i, now)
    if reason is not None:
        return (Settle(reason),)
    step = i.steps[i.lane.index]
    attempt = i.lane.tries + (0 if held else 1)
    if i.phase is Direction.COMPENSATION:
        return (Compensate(step.name, attempt, step.doubt),)
    return (Execute(step.name, attempt),)


def _withhold(d: SagaDefinition, i: SagaInstance, now: int) -> Withhold | None:
    """Why the attempt must not call its handler, if it must not."""
    if i.phase is Direction.FORWARD and i.cancel is not None:
        return Withhold.CANCELLED
    in_hand = 1 if i.lane.lease is not None else 0
    if i.lane.attempts - in_hand - i.lane.reported >= _policy(d, i).max_lost:
        return Withhold.LOST
    if i.hops > d.hop_max:
        return Withhold.HOPS
    if i.phase is Direction.FORWARD and now >= i.deadline_at:
        return Withhold.DEADLINE
    return None


def refusal(
    i: SagaInstance, *, claim_id: str, epoch: int, definition: str, now: int
) -> Reason | None:
    """Why a claim is refused. The order of the checks matters.

    Simulation found it: the lease is looked at before the due time, because
    under a skewed clock a leased work item looks early, and whoever drops the
    lease holder's message leaves nothing behind to recover with.
    """
    lane = i.lane
    if lane.lease is not None and lane.lease.id == claim_id:
        return Reason.OWN_CLAIM
    if not i.live:
        return Reason.CLOSED if i.status in CLOSED else Reason.PARKED
    if epoch != lane.epoch or definition != i.definition:
        return Reason.STALE_UNCLAIMED if lane.lease is None else Reason.STALE_CLAIMED
    if lane.lease is not None and lane.lease.until >= now:
        return Reason.LEASED
    if lane.due_at > now + EARLY_MS:
        return Reason.EARLY
    return None


def nudge(i: SagaInstance, *, nudge_id: str, now: int) -> Transition:
    """Reserve the right to send one surplus message for an unclaimed saga.

    Not a state write: the version stays, so that it never disturbs a commit.
    """
    if not i.live:
        return Ignored(Reason.CLOSED if i.status in CLOSED else Reason.PARKED)
    if i.lane.lease is not None:
        return Ignored(Reason.LEASED)
    if _nudged(i, now):
        return Ignored(Reason.NUDGED)
    return Moved(replace(i, lane=replace(i.lane, nudge=Nudge(nudge_id, now))))


def swept(i: SagaInstance, now: int) -> SagaInstance:
    """When to look again after a sweep that found no progress.

    The gap doubles up to an hour, so that a backlog is not amplified by the
    sweeper. Not a state write.
    """
    lease_end = i.lane.lease.until if i.lane.lease is not None else 0
    gap = min(SWEEP_STEP_MS << min(i.sweeps, 16), SWEEP_CAP_MS)
    return replace(
        i, sweep_at=_bucket(max(now, i.lane.due_at, lease_end) + gap), sweeps=i.sweeps + 1
    )


def dispatch_delay(i: SagaInstance, now: int) -> int | None:
    """Milliseconds by which to delay the message of the current work item.

    None when none is to be sent: the saga rests, or the wait is longer than a
    queue can hold and the sweeper has it.
    """
    wait = max(0, i.lane.due_at - now)
    return wait if i.live and wait <= MAX_DELAY_MS else None


def apply(definition: SagaDefinition, instance: SagaInstance, event: Event) -> Transition:
    """What is true after the event.

    The version is left alone: the store counts it with the write.

    Raises:
        IllegalEventError: The event cannot exist in this state.
    """
    match event:
        case Claimed():
            return claim(instance, event)
        case StepSucceeded() | StepFailed() | StepInDoubt():
            return _settle(definition, instance, event, Direction.FORWARD)
        case CompensationSucceeded() | CompensationFailed():
            return _settle(definition, instance, event, Direction.COMPENSATION)
        case Withheld():
            return _settle(definition, instance, event, instance.phase)
        case CancelRequested():
            return _cancel(definition, instance, event)
        case ResumeRequested():
            return _resume(definition, instance, event)
        case SkipRequested():
            return _skip(definition, instance, event)
        case DeliveryExhausted():
            return delivery_exhausted(instance, event)
        case TakenOver():
            return _taken_over(instance, event)
        case _:
            assert_never(event)


# -- the claim ------------------------------------------------------------------


def claim(i: SagaInstance, e: Claimed) -> Transition:
    """Part of ``apply``; a claim needs no definition."""
    no = refusal(i, claim_id=e.claim_id, epoch=e.epoch, definition=e.definition, now=e.at)
    if no is not None:
        return Ignored(no)
    lane = replace(
        i.lane,
        attempts=i.lane.attempts + 1,
        tries=i.lane.tries + 1,
        lease=Lease(e.claim_id, e.until),
        began_at=i.lane.began_at if i.lane.began_at is not None else e.at,
    )
    return Moved(replace(i, lane=lane, hops=i.hops + 1, updated_at=e.at))


def _taken_over(i: SagaInstance, e: TakenOver) -> Transition:
    """The attempt in flight is lost: it stays counted, its lease goes."""
    if not i.live:
        return Ignored(Reason.CLOSED if i.status in CLOSED else Reason.PARKED)
    if i.lane.lease is None:
        return Ignored(Reason.LIVE)
    return Moved(replace(i, lane=replace(i.lane, lease=None), updated_at=e.at))


# -- the result of an attempt ---------------------------------------------------


def _settle(
    d: SagaDefinition, i: SagaInstance, e: AttemptResult, direction: Direction
) -> Transition:
    """Record what the attempt came to, then decide what follows."""
    if i.lane.lease is None or i.lane.lease.id != e.claim_id:
        repeat = i.lane.last_id == e.claim_id
        return Ignored(Reason.ALREADY_RECORDED if repeat else Reason.STALE_TOKEN)
    if direction is not i.phase:
        raise IllegalEventError(f"saga {i.id} in phase {i.phase} got {type(e).__name__}")
    match e:
        case StepSucceeded():
            after = _step_succeeded(d, i, e)
        case StepFailed():
            after = _step_failed(d, i, e)
        case StepInDoubt():
            after = _step_in_doubt(d, i, e)
        case CompensationSucceeded():
            after = _compensation_succeeded(d, i, e)
        case CompensationFailed():
            after = _compensation_failed(d, i, e)
        case Withheld():
            after = _withheld(d, i, e)
        case _:
            assert_never(e)
    return Moved(_committed(after, e.claim_id, e.at))


def _committed(i: SagaInstance, claim_id: str, at: int) -> SagaInstance:
    """What every settled attempt leaves behind."""
    lane = replace(
        i.lane, epoch=i.lane.epoch + 1, lease=None, nudge=None, began_at=None, last_id=claim_id
    )
    return _scheduled(replace(i, lane=lane, stalls=0, sweeps=0, updated_at=at), at)


def _step_succeeded(d: SagaDefinition, i: SagaInstance, e: StepSucceeded) -> SagaInstance:
    i = replace(_recorded(i, StepCode.DONE, e.at, doubt=False, error=None), context_text=e.context)
    if i.cancel is not None:
        return _turn_round(d, i, _cancelled(i, e.at), e.at)
    return _go_forward(d, i, e.at)


def _step_failed(d: SagaDefinition, i: SagaInstance, e: StepFailed) -> SagaInstance:
    lane = replace(i.lane, reported=i.lane.reported + 1, clean=i.lane.clean + 1)
    i = replace(i, lane=lane)
    doubt = lane.tries > lane.clean
    spent = e.fatal or lane.reported >= _policy(d, i).max_attempts
    if spent or i.cancel is not None:
        code = StepCode.UNKNOWN if doubt else StepCode.NO
        i = _recorded(i, code, e.at, doubt=doubt, error=e.error)
        return _turn_round(d, i, _step_cause(i, e.error, e.at), e.at)
    code = StepCode.UNKNOWN if doubt else StepCode.RUNNING
    return _retry_later(d, _recorded(i, code, None, doubt=doubt, error=e.error), e)


def _step_in_doubt(d: SagaDefinition, i: SagaInstance, e: StepInDoubt) -> SagaInstance:
    i = replace(i, lane=replace(i.lane, reported=i.lane.reported + 1))
    spent = e.final or i.lane.reported >= _policy(d, i).max_attempts
    if spent or i.cancel is not None:
        i = _recorded(i, StepCode.UNKNOWN, e.at, doubt=True, error=e.error)
        return _turn_round(d, i, _step_cause(i, e.error, e.at), e.at)
    return _retry_later(d, _recorded(i, StepCode.UNKNOWN, None, doubt=True, error=e.error), e)


def _compensation_succeeded(
    d: SagaDefinition, i: SagaInstance, e: CompensationSucceeded
) -> SagaInstance:
    i = _recorded(i, StepCode.COMPENSATED, e.at, error=_current(i).error)
    if e.context is not None:
        i = replace(i, context_text=e.context)
    return _go_back(d, i, e.at)


def _compensation_failed(d: SagaDefinition, i: SagaInstance, e: CompensationFailed) -> SagaInstance:
    i = replace(i, lane=replace(i.lane, reported=i.lane.reported + 1))
    if e.fatal or i.lane.reported >= _policy(d, i).max_attempts:
        return _compensation_spent(d, i, e.error, e.at)
    return _retry_later(d, _recorded(i, _current(i).code, None, error=e.error), e)


def _compensation_spent(
    d: SagaDefinition, i: SagaInstance, error: StepError, at: int
) -> SagaInstance:
    i = _recorded(i, StepCode.COMPENSATION_FAILED, at, error=error)
    if d.on_compensation_failure == "continue":
        return _go_back(d, i, at)
    return _park(i, Why.COMPENSATION_FAILED, error)


def _withheld(d: SagaDefinition, i: SagaInstance, e: Withheld) -> SagaInstance:
    """The claim made no call: take it out of the counts, then do what it stood for."""
    i = replace(i, lane=replace(i.lane, tries=i.lane.tries - 1, attempts=i.lane.attempts - 1))
    if e.reason is Withhold.HOPS:
        limit = StepError("HopLimit", f"{i.hops} moves are more than any honest failure needs")
        return _park(i, Why.STALLED, limit)
    if e.reason is Withhold.LOST:
        n = i.lane.attempts - i.lane.reported
        error = StepError("AttemptsLost", f"{n} attempts vanished without a report")
        if i.phase is Direction.COMPENSATION:
            return _compensation_spent(d, i, error, e.at)
        i = _recorded(i, StepCode.UNKNOWN, e.at, doubt=True, error=error)
        return _turn_round(d, i, _step_cause(i, error, e.at), e.at)
    if i.phase is Direction.COMPENSATION:
        raise IllegalEventError(f"saga {i.id} compensates; {e.reason} cannot stop it")
    i = _left_open(i, e.at)
    cause = Cause(CauseKind.DEADLINE, e.at)
    if e.reason is Withhold.CANCELLED:
        cause = _cancelled(i, e.at)
    return _turn_round(d, i, cause, e.at)


# -- what follows ---------------------------------------------------------------


def _go_forward(d: SagaDefinition, i: SagaInstance, at: int) -> SagaInstance:
    following = i.lane.index + 1
    i = replace(i, lane=_fresh(i.lane, following, at))
    return _close(d, i, SagaState.COMPLETED, at) if following == len(i.steps) else i


def _turn_round(d: SagaDefinition, i: SagaInstance, cause: Cause, at: int) -> SagaInstance:
    """The one way into compensation. It is entered once, with its cause."""
    return _go_back(d, replace(i, phase=Direction.COMPENSATION, cause=cause), at)


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
    return replace(
        i, status=status, expires_at=_whole_seconds(at + _ms(d.retention.total_seconds()))
    )


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
    lane = replace(i.lane, lease=None, nudge=None)
    return replace(i, status=SagaState.FAILED, why=why, failure=error, lane=lane)


def _retry_later(
    d: SagaDefinition, i: SagaInstance, e: StepFailed | StepInDoubt | CompensationFailed
) -> SagaInstance:
    due = e.at + _policy(d, i).delay_ms(i.lane.reported, e.jitter)
    if i.phase is Direction.FORWARD:
        due = min(due, max(e.at, i.deadline_at))  # the deadline is not slept through
    return replace(i, lane=replace(i.lane, due_at=due))


# -- requests -------------------------------------------------------------------


def _cancel(d: SagaDefinition, i: SagaInstance, e: CancelRequested) -> Transition:
    if i.status in CLOSED:
        return Ignored(Reason.CLOSED)
    if i.phase is Direction.COMPENSATION:
        return Ignored(Reason.ROLLING_BACK if i.live else Reason.ROLL_BACK_STOPPED)
    if i.cancel is not None and i.live:
        return Ignored(Reason.ALREADY_CANCELLED)
    i = replace(i, cancel=i.cancel or Cancel(e.by, e.at), updated_at=e.at)
    if i.live:
        # Whatever is in flight settles first; the claim after it turns the saga round.
        lane = replace(i.lane, due_at=min(i.lane.due_at, e.at))
        return Moved(replace(i, lane=lane, sweep_at=e.at + FIRST_SWEEP_MS))
    i = _unparked(_left_open(i, e.at), e.at)
    return Moved(_scheduled_by_request(_turn_round(d, i, _cancelled(i, e.at), e.at), e.at))


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
    stuck = {s.name for s in i.steps if s.code is StepCode.COMPENSATION_FAILED}
    if _current(i).code is not StepCode.COMPENSATED:
        stuck.add(_current(i).name)
    if e.step not in stuck:
        return Ignored(Reason.OTHER_STEP)
    note = StepError("Skipped", f"by {e.by}")
    steps = tuple(
        replace(s, code=StepCode.SKIPPED, doubt=False, error=note, ended_at=e.at)
        if s.name == e.step
        else s
        for s in i.steps
    )
    i = replace(i, steps=steps)
    if i.phase is Direction.COMPENSATION:
        return Moved(_resumed(d, i, e.at))
    i = _unparked(i, e.at)
    if i.cancel is not None:
        i = _turn_round(d, i, _cancelled(i, e.at), e.at)
    else:
        i = replace(_go_forward(d, i, e.at), deadline_at=e.at + _ms(d.timeout.total_seconds()))
    return Moved(_scheduled_by_request(i, e.at))


def _resumed(d: SagaDefinition, i: SagaInstance, at: int) -> SagaInstance:
    i = _unparked(i, at)
    if i.phase is Direction.FORWARD:
        i = replace(i, deadline_at=at + _ms(d.timeout.total_seconds()))
        return _scheduled_by_request(i, at)
    steps = tuple(
        replace(s, code=StepCode.UNKNOWN if s.doubt else StepCode.DONE, ended_at=None)
        if s.code is StepCode.COMPENSATION_FAILED
        else s
        for s in i.steps
    )
    return _scheduled_by_request(_go_back(d, replace(i, steps=steps), at), at)


def _unparked(i: SagaInstance, at: int) -> SagaInstance:
    """Give the saga new budgets. ``tries`` stays: *possibly started* is not forgotten."""
    lane = replace(
        i.lane,
        epoch=i.lane.epoch + 1,
        attempts=0,
        reported=0,
        due_at=at,
        lease=None,
        nudge=None,
    )
    return replace(
        i,
        status=SagaState.RUNNING,
        lane=lane,
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
        return Ignored(Reason.CLOSED if i.status in CLOSED else Reason.PARKED)
    lease = i.lane.lease
    if lease is not None and lease.until >= e.at:
        return Ignored(Reason.LEASED)
    if _nudged(i, e.at):
        return Ignored(Reason.NUDGED)
    if e.epoch != i.lane.epoch or e.definition != i.definition:
        return Ignored(Reason.STALE_UNCLAIMED if lease is None else Reason.STALE_CLAIMED)
    if i.lane.due_at > e.at:
        return Ignored(Reason.EARLY)
    i = replace(i, stalls=i.stalls + 1, updated_at=e.at)
    if i.stalls >= MAX_STALLS:
        return Moved(_scheduled(_park(i, Why.STALLED, e.error), e.at))
    due = e.at + min(STALL_STEP_MS << i.stalls, MAX_DELAY_MS)
    lane = replace(i.lane, nudge=Nudge(e.nudge_id, e.at), due_at=due)
    return Moved(_scheduled(replace(i, lane=lane), e.at))


# -- small parts ----------------------------------------------------------------


def _current(i: SagaInstance) -> StepRecord:
    return i.steps[i.lane.index]


def _policy(d: SagaDefinition, i: SagaInstance) -> RetryPolicy:
    step: StepDefinition = d.step(_current(i).name)
    return step.retry if i.phase is Direction.FORWARD else step.compensation_retry


def _fresh(lane: Lane, index: int, at: int) -> Lane:
    """The counters start anew with another step or direction."""
    return replace(
        lane, index=index, attempts=0, reported=0, tries=0, clean=0, due_at=at, began_at=None
    )


def _recorded(
    i: SagaInstance,
    code: StepCode,
    ended_at: int | None,
    *,
    error: StepError | None,
    doubt: bool | None = None,
) -> SagaInstance:
    """The current step with a new code, its counts and its times."""
    old = _current(i)
    new = replace(old, code=code, error=error, ended_at=ended_at)
    if doubt is not None:
        new = replace(new, doubt=doubt)
    if i.phase is Direction.COMPENSATION:
        new = replace(new, undo_attempts=i.lane.tries)
    else:
        new = replace(
            new,
            attempts=i.lane.tries,
            order=old.order if old.order is not None else _next_order(i),
            started_at=old.started_at if old.started_at is not None else i.lane.began_at,
        )
    n = i.lane.index
    return replace(i, steps=(*i.steps[:n], new, *i.steps[n + 1 :]))


def _left_open(i: SagaInstance, at: int) -> SagaInstance:
    """The current step as the turn finds it: in doubt, known failed, or never started."""
    doubt = i.lane.tries > i.lane.clean
    if doubt:
        return _recorded(i, StepCode.UNKNOWN, at, doubt=True, error=_current(i).error)
    if i.lane.clean:
        return _recorded(i, StepCode.NO, at, error=_current(i).error)
    return i


def _next_order(i: SagaInstance) -> int:
    return 1 + max((s.order for s in i.steps if s.order is not None), default=0)


def _cancelled(i: SagaInstance, at: int) -> Cause:
    if i.cancel is None:
        raise IllegalEventError(f"saga {i.id} was not cancelled")
    return Cause(CauseKind.CANCELLED, at, by=i.cancel.by)


def _step_cause(i: SagaInstance, error: StepError, at: int) -> Cause:
    """The step is the cause, unless somebody had asked for the roll-back before."""
    if i.cancel is not None:
        return _cancelled(i, at)
    return Cause(CauseKind.STEP_FAILED, at, step=_current(i).name, error=error)


def _nudged(i: SagaInstance, now: int) -> bool:
    return i.lane.nudge is not None and i.lane.nudge.at > now - NUDGE_MS


def _scheduled(i: SagaInstance, at: int) -> SagaInstance:
    """When the sweeper looks after it: late enough to find only what was lost."""
    if i.status in CLOSED:
        return replace(i, sweep_at=None)
    if not i.live:
        return replace(i, sweep_at=at)
    due = max(at, i.lane.due_at)
    if due - at > MAX_DELAY_MS:
        return replace(i, sweep_at=due - LONG_TIMER_LEAD_MS)
    return replace(i, sweep_at=_bucket(due + GRACE_MS))


def _scheduled_by_request(i: SagaInstance, at: int) -> SagaInstance:
    """After a person's write nobody repeats a lost send, so the sweeper comes soon."""
    return replace(i, sweep_at=None if i.status in CLOSED else at + FIRST_SWEEP_MS)


def _bucket(at: int) -> int:
    return -(-at // BUCKET_MS) * BUCKET_MS


def _whole_seconds(at: int) -> int:
    return at // 1000 * 1000  # the table's time to live counts seconds


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
