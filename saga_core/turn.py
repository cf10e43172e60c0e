"""The choreography of one move, as generators that yield effects and perform none.

One text serves three drivers: the Lambda functions, the in-process
orchestrator, and the simulator, for which every ``yield`` is a place to crash,
repeat, delay or lose an answer.

What keeps a saga alive without a transaction between table and queue: whoever
writes the state and then has to send a message is itself processing a message
that is not deleted yet. If it dies in between, that message comes back, finds
its work item settled and nobody at the new one, and sends again. So: never
acknowledge before the send, and never acknowledge on a conflict, because the
message in hand may be the only one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from saga_core.actions import Action, Compensate, Execute, Inquire, Settle
from saga_core.calls import Direction, StepCall, derive_key
from saga_core.contexts import Delta
from saga_core.definition import SagaDefinition
from saga_core.effects import (
    Call,
    CheckContext,
    Claim,
    Commit,
    Create,
    Decide,
    Effect,
    Ended,
    Find,
    MarkSwept,
    Pause,
    Postpone,
    Record,
    Redispatch,
    Send,
    TooLarge,
    Turn,
    Unavailable,
    WriteReply,
)
from saga_core.events import (
    AnswerGiven,
    AttemptResult,
    CancelRequested,
    ChildRests,
    ChildStopped,
    ChildWaits,
    CompensationFailed,
    CompensationSucceeded,
    DeliveryExhausted,
    HeartbeatReceived,
    ParentEnded,
    Request,
    ResumeRequested,
    SkipRequested,
    StepAwaits,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    UndoRequested,
    Withheld,
)
from saga_core.identity import (
    answer_token,
    child_id,
    child_incarnation,
    child_secret,
    input_fingerprint,
    parse_token,
    same_token,
)
from saga_core.instance import CLOSED, Key, Lane, Parent, SagaInstance, SagaState, StepCode
from saga_core.outcome import Done, Failed, InDoubt, StepError, Waits
from saga_core.ports import DueSaga, Refused, Written
from saga_core.transition import (
    Ignored,
    Moved,
    Reason,
    apply,
    choose,
    context_for,
    create,
    delivery_exhausted,
    dispatch_delay,
    due_action,
    guard_lane,
    held_by,
    nudge,
    refusal,
    settled_by,
    superseded,
    swept,
    to_announce,
    tombstone,
    undecided,
)

# All in milliseconds.
LEASE_MARGIN_MS = 5_000  # a holder that is still running can never outlive its lease
STEP_MARGIN_MS = 5_000  # left to a handler's caller to record the result
COMMIT_MARGIN_MS = 1_000  # left to the invocation to answer
RETRY_PAUSE_MS = 50  # between two tries of one write
SUPPRESSED_MS = 60_000  # a message whose surplus was refused comes back after the guard
CHILD_RETRY_MS = 30_000  # when the table did not answer what was asked about a child
CHILD_POLL_MS = 3_600_000  # a parent looks after its child by itself, should nobody wake it
_RACES = 10  # a wake-up races with the moves of one saga; it loses a few at most
SPREAD_MS = 5_000  # postponed messages come back spread over this time

Lookup: TypeAlias = Callable[[str], SagaDefinition | None]


@dataclass(frozen=True, slots=True)
class WorkMessage:
    """A hint that a work item may be due. It commands nothing and holds no payload.

    ``branch`` is the place of a group's step; None means the main lane.
    """

    key: Key
    epoch: int
    definition: str
    reason: str
    correlation_id: str
    branch: int | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a message to one worker.

    Attributes:
        id: Fresh for every delivery; becomes the lease's id.
        at: Now.
        ends_at: When the worker is killed.
        step_ms: The least time that must remain for a step to be started.
        jitter: A fraction in [0, 1).
    """

    id: str
    at: int
    ends_at: int
    step_ms: int
    jitter: float


class Verdict(StrEnum):
    """What became of a message, by name: the audit trail says these words."""

    COMMITTED = "committed"
    REDISPATCHED = "redispatched"
    STALE = "stale"
    CLOSED = "closed"
    ORPHAN = "orphan"
    LONG_TIMER = "long_timer"
    NOT_DUE = "not_due"
    SENT = "sent"
    LEFT_ALONE = "left_alone"
    REVIVED = "revived"
    STALLED = "stalled"
    # From here on the message is not acknowledged: it comes back.
    LEASE_CONFLICT = "lease_conflict"
    EARLY = "early"
    SUPPRESSED = "suppressed"
    FENCED = "fenced"
    CONTENDED = "contended"
    DEFINITION_MISSING = "definition_missing"
    NO_TIME = "no_time"
    STORE_UNAVAILABLE = "store_unavailable"
    SEND_FAILED = "send_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a turn came to.

    Attributes:
        acknowledge: The message may be deleted. Otherwise it must come back.
        before: The saga as this turn found it, if it came to see it.
        after: The saga as it was left.
        action: What the attempt had to do, and ``event`` what came of it.
        recognised: Own writes that were recognised after a lost answer.
    """

    verdict: Verdict
    acknowledge: bool
    before: SagaInstance | None = None
    after: SagaInstance | None = None
    action: Action | None = None
    event: AttemptResult | None = None
    recognised: int = 0


def decided(
    definition: SagaDefinition, i: SagaInstance, at: int, *, soon: bool
) -> Turn[SagaInstance]:
    """The saga with the conditions asked of the steps at hand, before it is written."""
    while names := undecided(definition, i):
        choices = yield from Decide(definition, names, i.context_text)
        i = choose(definition, i, choices, at, soon=soon)
    return i


# -- start ----------------------------------------------------------------------


class Starting(StrEnum):
    """What a start came to."""

    CREATED = "created"
    EXISTED = "existed"
    KEY_REUSED = "key_reused"
    UNAVAILABLE = "unavailable"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class Started:
    """The saga that stands under the key, and whether its first message is out."""

    result: Starting
    instance: SagaInstance | None = None
    announced: bool = True


def start(new: SagaInstance, definition: SagaDefinition, *, ends_at: int) -> Turn[Started]:
    """Store the saga, then announce it: never the other way round.

    Starting is idempotent: the same key and input find the saga that is there.
    If the announcement fails the saga is safe all the same; the sweeper
    announces it within minutes.
    """
    new = yield from decided(definition, new, new.created_at, soon=True)
    reply = yield from _write(Create(new), ends_at)
    match reply:
        case Written(instance):
            pass
        case Refused(found):
            if found is None:
                return Started(Starting.UNAVAILABLE)
            if found.input_fingerprint != new.input_fingerprint:
                return Started(Starting.KEY_REUSED, found)
            instance = found
        case TooLarge():
            return Started(Starting.TOO_LARGE)
        case Unavailable():
            return Started(Starting.UNAVAILABLE)
    announced = True
    if instance.state is SagaState.CREATED:
        announced = yield from _send(instance, instance.open_lanes, new.created_at, "start")
    mine = instance.incarnation == new.incarnation
    return Started(Starting.CREATED if mine else Starting.EXISTED, instance, announced)


# -- work -----------------------------------------------------------------------


def work(message: WorkMessage, delivery: Delivery, definition_of: Lookup) -> Turn[Decision]:
    """Move a saga by one attempt: claim, call, commit, announce what follows."""
    definition = definition_of(message.definition)
    if definition is None:  # before the claim: nothing is spent, nothing is touched
        return _keep(Verdict.DEFINITION_MISSING)
    longest = max(delivery.step_ms, definition.longest_step_ms)
    if delivery.ends_at - delivery.at < longest + STEP_MARGIN_MS:
        return _keep(Verdict.NO_TIME)
    claim = Claim(
        message.key,
        message.epoch,
        message.definition,
        delivery.id,
        delivery.at,
        delivery.ends_at + LEASE_MARGIN_MS,
        message.branch,
    )
    reply = yield from _write(claim, delivery.ends_at)
    recognised = 0
    match reply:
        case Written(claimed):
            pass
        case Refused(found):
            if found is None:
                return _done(Verdict.ORPHAN)
            reason = _refusal(found, message, delivery)
            if reason is not Reason.OWN_CLAIM:
                decision = yield from _refused(reason, found, message.branch, delivery)
                return (yield from _family_told(decision, found, delivery, definition_of))
            claimed, recognised = found, 1
        case Unavailable() | TooLarge():
            return _keep(Verdict.STORE_UNAVAILABLE)
    decision = yield from _attempt(claimed, delivery, definition, definition_of)
    if decision.after is not None and decision.verdict is Verdict.COMMITTED:
        decision = yield from _family_told(decision, decision.after, delivery, definition_of)
    return replace(decision, recognised=decision.recognised + recognised)


def _refusal(found: SagaInstance, message: WorkMessage, delivery: Delivery) -> Reason | None:
    return refusal(
        found,
        claim_id=delivery.id,
        epoch=message.epoch,
        definition=message.definition,
        now=delivery.at,
        branch=message.branch,
    )


def _refused(
    reason: Reason | None, found: SagaInstance, branch: int | None, delivery: Delivery
) -> Turn[Decision]:
    """What a message is worth whose claim was refused."""
    spread = int(delivery.jitter * SPREAD_MS)
    lane = guard_lane(found, branch)
    match reason:
        case Reason.CLOSED | Reason.PARKED:
            return _done(Verdict.CLOSED, found)
        case Reason.STALE_CLAIMED:
            # The current work item's own message exists: its holder has not settled.
            return _done(Verdict.STALE, found)
        case Reason.STALE_UNCLAIMED:
            return (yield from _redispatch(found, branch, delivery.id, delivery.at, spread))
        case Reason.LEASED:
            # Never acknowledge: this may be a second delivery of the holder's message.
            end = lane.lease.until if lane.lease else delivery.at
            yield from Postpone(end - delivery.at + spread)
            return _keep(Verdict.LEASE_CONFLICT, found)
        case Reason.EARLY:
            if dispatch_delay(found, delivery.at, lane) is None:
                return _done(Verdict.LONG_TIMER, found)
            # Never a copy: under duplication copies outgrow the work.
            yield from Postpone(lane.due_at - delivery.at)
            return _keep(Verdict.EARLY, found)
        case _:
            return _keep(Verdict.CONTENDED, found)


def _redispatch(
    found: SagaInstance, branch: int | None, nudge_id: str, at: int, spread: int
) -> Turn[Decision]:
    """Announce what is current once more; the only path that makes an extra message.

    For a branch that is open, its work item. For anything else, whatever nobody
    has claimed: the message in hand may stand for all branches of a group.
    """
    lane = found.open_lane(branch)
    lanes = found.open_lanes if lane is None else (lane,)
    if not any(dispatch_delay(found, at, n) is not None for n in lanes):
        return _done(Verdict.LONG_TIMER, found)
    won = yield from _win_guard(found, branch, nudge_id, at)
    if won is None:
        return _keep(Verdict.STORE_UNAVAILABLE, found)
    if not won:
        # Not acknowledged: it may be a second delivery of the winner's message,
        # and the winner may die before it has sent.
        yield from Postpone(SUPPRESSED_MS + spread)
        return _keep(Verdict.SUPPRESSED, found)
    unclaimed = tuple(n for n in lanes if n.lease is None)
    if not (yield from _send(found, unclaimed, at, "redispatch")):
        return _keep(Verdict.SEND_FAILED, found)
    return _done(Verdict.REDISPATCHED, found)


def _win_guard(
    found: SagaInstance, branch: int | None, nudge_id: str, at: int
) -> Turn[bool | None]:
    """The right to send a surplus message; None when the store does not say who has it."""
    branch = guard_lane(found, branch).number
    if isinstance(nudge(found, nudge_id=nudge_id, now=at, branch=branch), Ignored):
        return False
    reply = yield from Redispatch(found, nudge_id, at, branch)
    match reply:
        case Written():
            return True
        case Refused(now_found):  # by this very write, repeated after a lost answer?
            return now_found is not None and _nudged_by(now_found, branch, nudge_id)
        case Unavailable() | TooLarge():
            return None


def _nudged_by(i: SagaInstance, branch: int | None, nudge_id: str) -> bool:
    held = guard_lane(i, branch).nudge
    return held is not None and held.id == nudge_id


def _attempt(
    claimed: SagaInstance, delivery: Delivery, definition: SagaDefinition, definition_of: Lookup
) -> Turn[Decision]:
    """Make the attempt that is claimed, and settle it."""
    lane = held_by(claimed, delivery.id)
    if lane is None:  # the store granted what it does not show
        return _keep(Verdict.CONTENDED, claimed)
    action = due_action(definition, claimed, lane, delivery.at)
    event: AttemptResult | None
    child = definition.steps[lane.index].child
    if isinstance(action, Settle):
        event = Withheld(claim_id=delivery.id, reason=action.reason, at=delivery.at)
    elif child is not None:
        kin = Kin(definition, child, claimed, lane, delivery)
        event = yield from _move_child(kin, action, definition_of)
    else:  # never an Inquire: only a saga is asked for what it has come to
        ended = yield from _call(definition, claimed, lane, action, delivery)
        event = _result(claimed.direction(lane), delivery.id, ended)
    if event is None:  # the table did not answer; the lease runs out, and it is tried again
        return _keep(Verdict.STORE_UNAVAILABLE, claimed, action=action)
    return (yield from _commit(claimed, action, event, delivery, definition, lane=lane))


def _call(
    d: SagaDefinition,
    i: SagaInstance,
    lane: Lane,
    action: Execute | Compensate | Inquire,
    delivery: Delivery,
) -> Effect[Ended]:
    direction = i.direction(lane)
    back = direction is Direction.COMPENSATION
    step = d.step(action.step)
    timeout = int(step.timeout.total_seconds() * 1000) if step.timeout is not None else None
    ends_at = delivery.ends_at - STEP_MARGIN_MS
    if timeout is not None:
        ends_at = min(ends_at, delivery.at + timeout)
    call = StepCall(
        saga_id=i.id,
        step=action.step,
        direction=direction,
        attempt=action.attempt,
        idempotency_key=derive_key(i.id, i.incarnation, action.step, direction),
        execute_key=derive_key(i.id, i.incarnation, action.step, Direction.FORWARD),
        fence=i.version,
        deadline=_datetime(ends_at),
        reason=i.cause.kind.value if back and i.cause is not None else None,
        in_doubt=isinstance(action, Compensate) and action.in_doubt,
        token="" if back else answer_token(i.id, i.incarnation, i.secret, lane.index),
    )
    return Call(action.step, direction, call, context_for(i, lane), timeout)


def _result(direction: Direction, claim_id: str, ended: Ended) -> AttemptResult:
    """The event that an outcome makes of an attempt, by direction."""
    back = direction is Direction.COMPENSATION
    at, jitter = ended.at, ended.jitter
    match ended.outcome:
        case Done(context):
            if back:
                return CompensationSucceeded(claim_id=claim_id, context=context, at=at)
            return StepSucceeded(claim_id=claim_id, context=context, at=at)
        case Failed(error, fatal):
            if back:
                return CompensationFailed(
                    claim_id=claim_id, error=error, fatal=fatal, jitter=jitter, at=at
                )
            return StepFailed(claim_id=claim_id, error=error, fatal=fatal, jitter=jitter, at=at)
        case InDoubt(error, final):
            if back:
                return CompensationFailed(
                    claim_id=claim_id, error=error, fatal=final, jitter=jitter, at=at
                )
            return StepInDoubt(claim_id=claim_id, error=error, final=final, jitter=jitter, at=at)
        case Waits(context, timeout_ms):
            return StepAwaits(claim_id=claim_id, context=context, timeout_ms=timeout_ms, at=at)


def _commit(
    before: SagaInstance,
    action: Action,
    event: AttemptResult,
    delivery: Delivery,
    definition: SagaDefinition,
    *,
    lane: Lane,
) -> Turn[Decision]:
    """Settle the attempt under its lease, then announce what follows."""
    recognised = 0
    while True:
        outcome = apply(definition, before, event)
        if isinstance(outcome, Ignored):  # no longer
            return _fenced(before, lane, action, event)
        moved = yield from decided(definition, outcome.instance, event.at, soon=False)
        reply = yield from _write(Commit(before, moved, delivery.id), delivery.ends_at)
        match reply:
            case Written(after):
                break
            case Refused(found):
                if found is not None and settled_by(found, delivery.id):
                    after, recognised = found, 1
                    break
                if found is None:
                    return _fenced(found, lane, action, event)
                # Decide again from what is true now, never from what was true then. If it
                # is still my lease, a cancel moved the version, or another branch.
                before = found
                if held_by(found, delivery.id) is None:
                    continue
            case TooLarge(error):
                event = _without_context(event, StepError.of(error))
            case Unavailable():
                return _keep(Verdict.STORE_UNAVAILABLE, before, action=action, event=event)
        if (yield from Pause(RETRY_PAUSE_MS)) >= delivery.ends_at - COMMIT_MARGIN_MS:
            return _keep(Verdict.STORE_UNAVAILABLE, before, action=action, event=event)
    result = Decision(
        verdict=Verdict.COMMITTED,
        acknowledge=True,
        before=before,
        after=after,
        action=action,
        event=event,
        recognised=recognised,
    )
    if not (yield from _send(after, to_announce(before, after), event.at, "step")):
        return replace(result, verdict=Verdict.SEND_FAILED, acknowledge=False)
    return result


def _without_context(event: AttemptResult, error: StepError) -> AttemptResult:
    """The same result, when the context it came with cannot be kept.

    Going forward the step is in doubt for us: what it did is not fully known to
    the steps after it, so it is undone with the last context that fitted.
    Going back the step is undone all the same.
    """
    if isinstance(event, CompensationSucceeded):
        return replace(event, context=None)
    if not isinstance(event, StepSucceeded | StepAwaits):
        return event  # it brought no context: nothing can be left out
    return StepInDoubt(claim_id=event.claim_id, error=error, final=True, jitter=0.0, at=event.at)


def _fenced(
    found: SagaInstance | None, lane: Lane, action: Action, event: AttemptResult
) -> Decision:
    """Somebody else has the saga: the result is discarded.

    The message is given up only if the saga cannot need it: it has ended, or a
    later work item is held, whose own message exists. Otherwise it may be the
    last one: whoever moved the saga on may have died before it announced that,
    and its message may be a second delivery of this one (ADR 13).
    """
    given_up = found is None or not found.live or superseded(found, lane)
    return Decision(
        verdict=Verdict.FENCED,
        acknowledge=given_up,
        before=found,
        action=action,
        event=event,
    )


# -- sagas within sagas -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kin:
    """A saga at a step that stands for another one, and the attempt in hand."""

    definition: SagaDefinition
    child: SagaDefinition
    parent: SagaInstance
    lane: Lane
    delivery: Delivery

    @property
    def key(self) -> Key:
        """The child's address."""
        return _child_key(self.parent, self.lane.index)

    @property
    def known(self) -> bool:
        """The child is on record: it was there once."""
        return self.parent.steps[self.lane.index].child is not None

    def born(self, context: str, at: int) -> SagaInstance:
        """The child, not stored yet. Every attempt would make the same one."""
        i = self.parent
        key = derive_key(i.id, i.incarnation, i.steps[self.lane.index].name, Direction.FORWARD)
        return create(
            self.child,
            saga_id=self.key.saga_id,
            tenant=i.tenant,
            incarnation=child_incarnation(key),
            input_fingerprint=input_fingerprint(self.child.name, context),
            context=context,
            at=at,
            secret=child_secret(i.secret, key),
            parent=Parent(i.id, self.lane.index),
        )

    def failed(self, kind: str, text: str, *, fatal: bool) -> CompensationFailed:
        """The child could not be undone."""
        return CompensationFailed(
            claim_id=self.delivery.id,
            error=StepError(kind, text),
            fatal=fatal,
            jitter=self.delivery.jitter,
            at=self.delivery.at,
        )

    def waits(self, at: int) -> ChildWaits:
        """The child is not at rest yet."""
        return ChildWaits(
            claim_id=self.delivery.id, child=self.key.saga_id, wait_ms=CHILD_POLL_MS, at=at
        )

    def later(self) -> ChildWaits:
        """The table did not answer. No attempt is lost by that: nothing was called."""
        return ChildWaits(
            claim_id=self.delivery.id, child=None, wait_ms=CHILD_RETRY_MS, at=self.delivery.at
        )


def _move_child(
    kin: Kin, action: Execute | Compensate | Inquire, definition_of: Lookup
) -> Turn[AttemptResult | None]:
    """Start the saga that the step stands for, look after it, or have it undone.

    None when it is not known whether it was started: like a handler's death, that
    is for the next attempt to find out.
    """
    match action:
        case Compensate():
            return (yield from _undo_child(kin, definition_of))
        case Inquire():
            return (yield from _look_after(kin))
        case Execute():
            ended = yield from _call(kin.definition, kin.parent, kin.lane, action, kin.delivery)
            if not isinstance(ended.outcome, Done):
                return _result(Direction.FORWARD, kin.delivery.id, ended)
            return (yield from _begin_child(kin, ended.outcome.context, ended.at))


def _look_after(kin: Kin) -> Turn[AttemptResult]:
    """What the child has come to."""
    at = kin.delivery.at
    found = yield from Find(kin.key, at)
    if isinstance(found, Unavailable):
        return kin.later()
    if found is None:
        error = StepError("ChildGone", f"there is no saga {kin.key.saga_id} any more")
        return StepInDoubt(claim_id=kin.delivery.id, error=error, final=True, jitter=0.0, at=at)
    return _child_forward(kin, found, at)


def _begin_child(kin: Kin, context: str, at: int) -> Turn[AttemptResult | None]:
    """Start the child, or find the one that an earlier attempt has started."""
    started = yield from start(kin.born(context, at), kin.child, ends_at=kin.delivery.ends_at)
    if started.result is Starting.TOO_LARGE:
        error = StepError("ChildTooLarge", "the saga would not fit into one item")
        return StepFailed(claim_id=kin.delivery.id, error=error, fatal=True, jitter=0.0, at=at)
    if started.instance is None:
        return None
    # Another input makes no other child: the key is the step's, and what runs under it counts.
    return _child_forward(kin, started.instance, at)


def _child_forward(kin: Kin, child: SagaInstance, at: int) -> AttemptResult:
    """What the state of a child makes of the step that started it."""
    claim_id = kin.delivery.id
    match child.status:
        case SagaState.COMPLETED:
            context = context_for(kin.parent, kin.lane)
            into = kin.definition.steps[kin.lane.index].into
            if into is not None:
                context = Delta({into: json.loads(child.context_text)}).applied(context)
            return StepSucceeded(claim_id=claim_id, context=context, child=child.id, at=at)
        case SagaState.COMPENSATED:
            told = child.cause.error if child.cause is not None else None
            why = told.message if told is not None else "undone"
            text = f"saga {child.id} was rolled back: {why}"
            error = StepError.named("ChildCompensated", text)
            return StepFailed(claim_id=claim_id, error=error, fatal=True, jitter=0.0, at=at)
        case SagaState.FAILED:
            return ChildStopped(claim_id=claim_id, child=child.id, at=at)
        case _:
            return kin.waits(at)


def _undo_child(kin: Kin, definition_of: Lookup) -> Turn[AttemptResult]:
    """Have the child undone: cancelled while it runs, rolled back once it is complete."""
    at = kin.delivery.at
    while True:
        found = yield from Find(kin.key, at)
        if found is None and kin.known:
            text = f"there is no saga {kin.key.saga_id} any more"
            return kin.failed("ChildGone", text, fatal=True)
        if found is None:
            found = yield from _bury_child(kin)
        if found is None or isinstance(found, Unavailable):
            return kin.later()
        asked = _undoing(kin.parent, found, at)
        definition = definition_of(found.definition)
        if found.status is not SagaState.COMPENSATED and definition is None:
            text = f"{found.definition} is not deployed"
            return kin.failed("DefinitionMissing", text, fatal=False)
        outcome = apply(definition or kin.child, found, asked)
        if isinstance(outcome, Ignored):
            return _cannot_move(kin, found)
        reply = yield from Record(found, outcome.instance)
        if isinstance(reply, Written):
            # A lost send costs the sweeper's minutes, and the child tells us when it is at rest.
            yield from _send(reply.instance, _idle(reply.instance, at), at, "parent")
            return _cannot_move(kin, reply.instance)
        if (yield from Pause(RETRY_PAUSE_MS)) >= kin.delivery.ends_at - STEP_MARGIN_MS:
            return kin.later()


def _undoing(parent: SagaInstance, child: SagaInstance, at: int) -> UndoRequested | CancelRequested:
    by = f"saga {parent.id}"
    if child.status is SagaState.COMPLETED:
        return UndoRequested(by=by, at=at)
    return CancelRequested(by=by, at=at)


def _cannot_move(kin: Kin, child: SagaInstance) -> AttemptResult:
    """What the undo has come to, once the child was asked, or could not be."""
    claim_id, at = kin.delivery.id, kin.delivery.at
    match child.status:
        case SagaState.COMPENSATED:
            return CompensationSucceeded(claim_id=claim_id, context=None, at=at)
        case SagaState.COMPLETED:
            return kin.failed("ChildPastPivot", f"saga {child.id} is past its pivot", fatal=True)
        case SagaState.FAILED:
            return ChildStopped(claim_id=claim_id, child=child.id, at=at)
        case _:
            return kin.waits(at)


def _bury_child(kin: Kin) -> Turn[SagaInstance | None]:
    """Take the place of a child that was never started, so that a late start finds it undone."""
    at = kin.delivery.at
    buried = tombstone(kin.child, kin.born("null", at), at)
    reply = yield from _write(Create(buried), kin.delivery.ends_at)
    match reply:
        case Written(found) | Refused(found):
            return found
        case Unavailable() | TooLarge():
            return None


def _child_key(i: SagaInstance, index: int) -> Key:
    key = derive_key(i.id, i.incarnation, i.steps[index].name, Direction.FORWARD)
    return Key(i.tenant, child_id(i.tenant, key))


def _family_told(
    decision: Decision, i: SagaInstance, delivery: Delivery, definition_of: Lookup
) -> Turn[Decision]:
    """A saga that has come to rest wakes its parent, and lets go of its children.

    Before the message is acknowledged: if that fails, it comes back and does it then.
    """
    if i.live or not decision.acknowledge:
        return decision
    told = yield from _at_rest(i, delivery.at, definition_of)
    return decision if told else replace(decision, verdict=Verdict.SEND_FAILED, acknowledge=False)


def _at_rest(i: SagaInstance, at: int, definition_of: Lookup) -> Turn[bool]:
    """True when everybody who has to know was told."""
    if i.parent is not None:
        key = Key(i.tenant, i.parent.saga_id)
        return (yield from _tell(key, ChildRests(step=i.parent.step, at=at), at, definition_of))
    if i.status not in CLOSED:
        return True
    return (yield from _let_go(i, at, definition_of))


def _let_go(i: SagaInstance, at: int, definition_of: Lookup) -> Turn[bool]:
    """The retention of the sagas that this one started begins, and of those that they did."""
    definition = definition_of(i.definition)
    if definition is None:
        return True  # without its code nobody knows whom it started: they are kept for good
    done = True
    for n, step in enumerate(definition.steps):
        if step.child is not None:
            key = _child_key(i, n)
            done = (yield from _tell(key, ParentEnded(at=at), at, definition_of)) and done
    return done


def _tell(key: Key, event: ChildRests | ParentEnded, at: int, definition_of: Lookup) -> Turn[bool]:
    """Record what became of a relative. False when the table did not take it."""
    for _ in range(_RACES):
        found = yield from Find(key, at)
        if isinstance(found, Unavailable):
            return False
        definition = definition_of(found.definition) if found is not None else None
        if found is None or definition is None:
            return True  # a parent that is stopped for want of its code is resumed by a person
        outcome = apply(definition, found, event)
        if isinstance(outcome, Ignored):
            if isinstance(event, ChildRests) and outcome.reason is Reason.CLOSED:
                return (yield from _orphaned(found, event, at, definition_of))
            return True
        reply = yield from Record(found, outcome.instance)
        if isinstance(reply, Written):
            after = reply.instance
            if isinstance(event, ParentEnded):
                return (yield from _let_go(after, at, definition_of))
            return (yield from _send(after, _idle(after, at), at, "child"))
        if isinstance(reply, Unavailable) and not reply.error.ambiguous:
            return False
    return False


def _orphaned(
    parent: SagaInstance, event: ChildRests, at: int, definition_of: Lookup
) -> Turn[bool]:
    """The parent ended before this child did: it lets go of it now."""
    if parent.parent is not None:
        return True
    key = _child_key(parent, event.step)
    return (yield from _tell(key, ParentEnded(at=at), at, definition_of))


# -- dead letters, sweeps, requests -----------------------------------------------


def revive(message: WorkMessage, delivery: Delivery, definition_of: Lookup) -> Turn[Decision]:
    """Bring back a work item that ended in the dead letters, with growing delay.

    Bounded and guarded: whatever is not the current, due and unclaimed work item
    makes no new message, or queue and dead letters would feed each other for ever.
    """
    found = yield from Find(message.key, delivery.at)
    if isinstance(found, Unavailable):
        return _keep(Verdict.STORE_UNAVAILABLE)
    if found is None:
        return _done(Verdict.ORPHAN)
    error = StepError("DeliveryExhausted", f"no delivery of work item {message.epoch} settled it")
    if definition_of(found.definition) is None:
        error = StepError("DefinitionMissing", f"{found.definition} is not deployed")
    outcome = delivery_exhausted(
        found,
        DeliveryExhausted(
            epoch=message.epoch,
            definition=message.definition,
            nudge_id=delivery.id,
            error=error,
            at=delivery.at,
            branch=message.branch,
        ),
    )
    if isinstance(outcome, Moved):
        decision = yield from _revived(found, outcome.instance, message.branch, delivery)
        rests = decision.after if decision.after is not None else found
        return (yield from _family_told(decision, rests, delivery, definition_of))
    match outcome.reason:
        case Reason.CLOSED | Reason.PARKED:
            closed = _done(Verdict.CLOSED, found)
            return (yield from _family_told(closed, found, delivery, definition_of))
        case Reason.STALE_CLAIMED:
            return _done(Verdict.STALE, found)
        case Reason.STALE_UNCLAIMED | Reason.EARLY:
            spread = int(delivery.jitter * SPREAD_MS)
            return (yield from _redispatch(found, message.branch, delivery.id, delivery.at, spread))
        case _:
            return _keep(Verdict.SUPPRESSED, found)


def _revived(
    found: SagaInstance, after: SagaInstance, branch: int | None, delivery: Delivery
) -> Turn[Decision]:
    reply = yield from Record(found, after)
    match reply:
        case Written(instance):
            pass
        case Refused(now_found):
            if now_found is None or not _nudged_by(now_found, branch, delivery.id):
                return _keep(Verdict.CONTENDED, found)
            instance = now_found
        case Unavailable() | TooLarge():
            return _keep(Verdict.STORE_UNAVAILABLE, found)
    if not instance.live:
        return _done(Verdict.STALLED, found, after=instance)
    lane = guard_lane(instance, branch)
    if not (yield from _send(instance, (lane,), delivery.at, "dead_letter")):
        return _keep(Verdict.SEND_FAILED, found)
    return _done(Verdict.REVIVED, found, after=instance)


def sweep(due: DueSaga, *, at: int) -> Turn[Decision]:
    """Announce a saga that has not moved for long, in case its message was lost.

    Sends first and writes then: a crash in between makes a duplicate, not a gap.
    """
    found = yield from Find(due.key, at)
    if isinstance(found, Unavailable):
        return _keep(Verdict.STORE_UNAVAILABLE)
    if found is None or not found.live or found.sweep_at != due.sweep_at:
        return _done(Verdict.NOT_DUE, found)  # the index lags; whoever moved it took care
    lanes = _idle(found, at)
    if not (yield from _send(found, lanes, at, "sweep")):
        return _keep(Verdict.SEND_FAILED, found)
    yield from MarkSwept(found, swept(found, at))
    return _done(Verdict.SENT if lanes else Verdict.LEFT_ALONE, found)


class Answer(StrEnum):
    """What a request came to."""

    ACCEPTED = "accepted"
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    INVALID = "invalid"
    DEFINITION_MISSING = "definition_missing"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer, the saga as it stands, and the rule that refused.

    ``fields``: of a context that an answer would not have made one of the
    saga's, (place, what is wrong) pairs.
    """

    answer: Answer
    instance: SagaInstance | None = None
    reason: Reason | None = None
    fields: tuple[tuple[str, str], ...] = ()


def request(
    key: Key, event: Request, definition_of: Lookup, *, nudge_id: str, ends_at: int
) -> Turn[Answered]:
    """Cancel, resume, skip, answer, heartbeat. Repeating one is safe, also after a lost reply."""
    at = event.at
    while True:
        found = yield from Find(key, at)
        if isinstance(found, Unavailable):
            return Answered(Answer.UNAVAILABLE)
        if found is None:
            return Answered(Answer.NOT_FOUND)
        definition = definition_of(found.definition)
        if definition is None:
            return Answered(Answer.DEFINITION_MISSING, found)
        outcome = apply(definition, found, event)
        if isinstance(outcome, Ignored):
            return (yield from _not_moved(found, event, outcome.reason, nudge_id))
        if isinstance(event, AnswerGiven) and event.ok:
            wrong = yield from _wrong_fields(definition, found, event)
            if wrong:
                return Answered(Answer.INVALID, found, fields=wrong)
        moved = yield from decided(definition, outcome.instance, at, soon=True)
        reply = yield from Record(found, moved)
        if isinstance(reply, Written):
            after = reply.instance
            yield from _send(after, _to_wake(event, found, after), at, "request")
            if not after.live:  # unless this is told, the parent finds it out by itself, later
                yield from _at_rest(after, at, definition_of)
            return _recorded(event, after)
        if isinstance(reply, TooLarge) or (
            isinstance(reply, Unavailable) and not reply.error.ambiguous
        ):
            return Answered(Answer.UNAVAILABLE, found)
        # Refused: somebody moved it. Ambiguous: it may be written. Look again.
        if (yield from Pause(RETRY_PAUSE_MS)) >= ends_at - COMMIT_MARGIN_MS:
            return Answered(Answer.UNAVAILABLE, found)


def answer(
    key: Key,
    token: str,
    event: AnswerGiven | HeartbeatReceived,
    definition_of: Lookup,
    *,
    nudge_id: str,
    ends_at: int,
) -> Turn[Answered]:
    """A request that whoever holds the token of a step may make, and nobody else.

    The step of the event is the one that the token names.
    """
    found = yield from Find(key, event.at)
    if isinstance(found, Unavailable):
        return Answered(Answer.UNAVAILABLE)
    if found is None:
        return Answered(Answer.NOT_FOUND)
    _, place = parse_token(token)
    right = answer_token(found.id, found.incarnation, found.secret, place)
    if place >= len(found.steps) or not same_token(right, token):
        return Answered(Answer.NOT_FOUND)
    event = replace(event, step=found.steps[place].name)
    return (yield from request(key, event, definition_of, nudge_id=nudge_id, ends_at=ends_at))


def _wrong_fields(
    definition: SagaDefinition, found: SagaInstance, event: AnswerGiven
) -> Turn[tuple[tuple[str, str], ...]]:
    """What keeps an answer's fields from being fields of the context."""
    index = definition.index(event.step)
    lane = next((n for n in found.open_lanes if n.index == index), found.lane)
    return (yield from CheckContext(definition, context_for(found, lane, event)))


def _recorded(event: Request, after: SagaInstance) -> Answered:
    """What was written; of an answer that came too late, that it was."""
    if isinstance(event, AnswerGiven):
        given = next(s.answer for s in after.steps if s.name == event.step)
        if given is not None and given.late:
            return Answered(Answer.REFUSED, after, Reason.LATE)
    return Answered(Answer.ACCEPTED, after)


def _to_wake(event: Request, before: SagaInstance, after: SagaInstance) -> tuple[Lane, ...]:
    """The lanes to be announced once a request is written.

    Cancel, resume and skip make everything due that nobody works on. An answer
    moves its own lane; a heartbeat none.
    """
    if isinstance(event, AnswerGiven | HeartbeatReceived):
        return to_announce(before, after)
    return _idle(after, event.at)


def _idle(i: SagaInstance, at: int) -> tuple[Lane, ...]:
    """The lanes that nobody works on, as far as the queue can hold what they wait for."""
    if not i.live:
        return ()
    return tuple(
        n
        for n in i.open_lanes
        if (n.lease is None or n.lease.until < at) and dispatch_delay(i, at, n) is not None
    )


def _not_moved(
    found: SagaInstance, event: Request, reason: Reason, nudge_id: str
) -> Turn[Answered]:
    """A repeat is accepted and wakes the saga again; anything else is refused."""
    if not _is_repeat(found, event, reason):
        return Answered(Answer.REFUSED, found, reason)
    if not found.live:
        return Answered(Answer.ACCEPTED, found)  # an answer may be repeated after the end
    won = yield from _win_guard(found, None, nudge_id, event.at)
    if won is None:  # whoever asks again must be able to: this may be the only announcement
        return Answered(Answer.UNAVAILABLE, found)
    if won:
        yield from _send(found, _idle(found, event.at), event.at, "request")
    return Answered(Answer.ACCEPTED, found)


def _is_repeat(found: SagaInstance, event: Request, reason: Reason) -> bool:
    """What is asked for was asked for before, and is under way."""
    match event:
        case CancelRequested():
            return reason in (Reason.ALREADY_CANCELLED, Reason.ROLLING_BACK)
        case ResumeRequested():
            return reason is Reason.LIVE
        case SkipRequested(step=name):
            skipped = any(s.name == name and s.code is StepCode.SKIPPED for s in found.steps)
            return reason is Reason.LIVE and skipped
        case AnswerGiven():
            return reason is Reason.REPEATED
        case HeartbeatReceived():
            return reason is Reason.LEASED


# -- small parts ------------------------------------------------------------------


def _send(i: SagaInstance, lanes: tuple[Lane, ...], at: int, reason: str) -> Turn[bool]:
    """Announce these lanes. False when the queue did not take one of them."""
    for lane in lanes:
        delay = dispatch_delay(i, at, lane)
        if delay is not None and not (yield from Send(i, delay, reason, lane.number)):
            return False
    return True


def _write(effect: Effect[WriteReply], ends_at: int) -> Turn[WriteReply]:
    """Repeat a write whose answer was lost: the same write, with the same id.

    A write that is known not to have happened is repeated too, unless it is a
    claim or a start: those have somebody who tries again later at no cost.
    """
    while True:
        reply = yield from effect
        if not isinstance(reply, Unavailable):
            return reply
        if not reply.error.ambiguous and not isinstance(effect, Commit):
            return reply
        if (yield from Pause(RETRY_PAUSE_MS)) >= ends_at - COMMIT_MARGIN_MS:
            return reply


def _done(
    verdict: Verdict, found: SagaInstance | None = None, *, after: SagaInstance | None = None
) -> Decision:
    return Decision(verdict=verdict, acknowledge=True, before=found, after=after)


def _keep(
    verdict: Verdict,
    found: SagaInstance | None = None,
    *,
    action: Action | None = None,
    event: AttemptResult | None = None,
) -> Decision:
    return Decision(verdict=verdict, acknowledge=False, before=found, action=action, event=event)


def _datetime(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
