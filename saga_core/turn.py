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

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from saga_core.actions import Action, Compensate, Execute, Settle
from saga_core.calls import Direction, StepCall, derive_key
from saga_core.definition import SagaDefinition
from saga_core.effects import (
    Call,
    Claim,
    Commit,
    Create,
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
    AttemptResult,
    CancelRequested,
    CompensationFailed,
    CompensationSucceeded,
    DeliveryExhausted,
    Request,
    ResumeRequested,
    SkipRequested,
    StepFailed,
    StepInDoubt,
    StepSucceeded,
    Withheld,
)
from saga_core.instance import Key, SagaInstance, StepCode
from saga_core.outcome import Done, Failed, InDoubt, StepError
from saga_core.ports import DueSaga, Refused, Written
from saga_core.transition import (
    Ignored,
    Moved,
    Reason,
    apply,
    delivery_exhausted,
    dispatch_delay,
    next_actions,
    nudge,
    refusal,
    swept,
)

# All in milliseconds.
LEASE_MARGIN_MS = 5_000  # a holder that is still running can never outlive its lease
STEP_MARGIN_MS = 5_000  # left to a handler's caller to record the result
COMMIT_MARGIN_MS = 1_000  # left to the invocation to answer
RETRY_PAUSE_MS = 50  # between two tries of one write
SUPPRESSED_MS = 60_000  # a message whose surplus was refused comes back after the guard
SPREAD_MS = 5_000  # postponed messages come back spread over this time

Lookup: TypeAlias = Callable[[str], SagaDefinition | None]


@dataclass(frozen=True, slots=True)
class WorkMessage:
    """A hint that a work item may be due. It commands nothing and holds no payload."""

    key: Key
    epoch: int
    definition: str
    reason: str
    correlation_id: str


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


def start(new: SagaInstance, *, ends_at: int) -> Turn[Started]:
    """Store the saga, then announce it: never the other way round.

    Starting is idempotent: the same key and input find the saga that is there.
    If the announcement fails the saga is safe all the same; the sweeper
    announces it within minutes.
    """
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
    if instance.live and instance.lane.epoch == 1 and instance.lane.tries == 0:
        announced = yield from Send(instance, 0, "start")
    mine = instance.incarnation == new.incarnation
    return Started(Starting.CREATED if mine else Starting.EXISTED, instance, announced)


# -- work -----------------------------------------------------------------------


def work(
    message: WorkMessage, delivery: Delivery, definition: SagaDefinition | None
) -> Turn[Decision]:
    """Move a saga by one attempt: claim, call, commit, announce what follows."""
    if definition is None:  # before the claim: nothing is spent, nothing is touched
        return _keep(Verdict.DEFINITION_MISSING)
    if delivery.ends_at - delivery.at < delivery.step_ms + STEP_MARGIN_MS:
        return _keep(Verdict.NO_TIME)
    claim = Claim(
        message.key,
        message.epoch,
        message.definition,
        delivery.id,
        delivery.at,
        delivery.ends_at + LEASE_MARGIN_MS,
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
                return (yield from _refused(reason, found, delivery))
            claimed, recognised = found, 1
        case Unavailable() | TooLarge():
            return _keep(Verdict.STORE_UNAVAILABLE)
    decision = yield from _attempt(claimed, delivery, definition)
    return replace(decision, recognised=decision.recognised + recognised)


def _refusal(found: SagaInstance, message: WorkMessage, delivery: Delivery) -> Reason | None:
    return refusal(
        found,
        claim_id=delivery.id,
        epoch=message.epoch,
        definition=message.definition,
        now=delivery.at,
    )


def _refused(reason: Reason | None, found: SagaInstance, delivery: Delivery) -> Turn[Decision]:
    """What a message is worth whose claim was refused."""
    spread = int(delivery.jitter * SPREAD_MS)
    match reason:
        case Reason.CLOSED | Reason.PARKED:
            return _done(Verdict.CLOSED, found)
        case Reason.STALE_CLAIMED:
            # The current work item's own message exists: its holder has not settled.
            return _done(Verdict.STALE, found)
        case Reason.STALE_UNCLAIMED:
            return (yield from _redispatch(found, delivery.id, delivery.at, spread))
        case Reason.LEASED:
            # Never acknowledge: this may be a second delivery of the holder's message.
            end = found.lane.lease.until if found.lane.lease else delivery.at
            yield from Postpone(end - delivery.at + spread)
            return _keep(Verdict.LEASE_CONFLICT, found)
        case Reason.EARLY:
            if dispatch_delay(found, delivery.at) is None:
                return _done(Verdict.LONG_TIMER, found)
            # Never a copy: under duplication copies outgrow the work.
            yield from Postpone(found.lane.due_at - delivery.at)
            return _keep(Verdict.EARLY, found)
        case _:
            return _keep(Verdict.CONTENDED, found)


def _redispatch(found: SagaInstance, nudge_id: str, at: int, spread: int) -> Turn[Decision]:
    """Announce the current work item once more; the only path that makes an extra message."""
    delay = dispatch_delay(found, at)
    if delay is None:
        return _done(Verdict.LONG_TIMER, found)
    won = yield from _win_guard(found, nudge_id, at)
    if won is None:
        return _keep(Verdict.STORE_UNAVAILABLE, found)
    if not won:
        # Not acknowledged: it may be a second delivery of the winner's message,
        # and the winner may die before it has sent.
        yield from Postpone(SUPPRESSED_MS + spread)
        return _keep(Verdict.SUPPRESSED, found)
    if not (yield from Send(found, delay, "redispatch")):
        return _keep(Verdict.SEND_FAILED, found)
    return _done(Verdict.REDISPATCHED, found)


def _win_guard(found: SagaInstance, nudge_id: str, at: int) -> Turn[bool | None]:
    """The right to send one surplus message; None when the store does not say who has it."""
    if isinstance(nudge(found, nudge_id=nudge_id, now=at), Ignored):
        return False
    reply = yield from Redispatch(found, nudge_id, at)
    match reply:
        case Written():
            return True
        case Refused(now_found):  # by this very write, repeated after a lost answer?
            held = now_found.lane.nudge if now_found is not None else None
            return held is not None and held.id == nudge_id
        case Unavailable() | TooLarge():
            return None


def _attempt(
    claimed: SagaInstance, delivery: Delivery, definition: SagaDefinition
) -> Turn[Decision]:
    """Make the attempt that is claimed, and settle it."""
    (action,) = next_actions(definition, claimed, delivery.at)
    event: AttemptResult
    if isinstance(action, Settle):
        event = Withheld(claim_id=delivery.id, reason=action.reason, at=delivery.at)
    elif isinstance(action, Execute | Compensate):
        ended = yield from _call(claimed, action, delivery)
        event = _result(claimed, delivery.id, ended)
    else:  # a claim is only granted to a live saga that is due
        return _keep(Verdict.CONTENDED, claimed)
    return (yield from _commit(claimed, action, event, delivery, definition))


def _call(i: SagaInstance, action: Execute | Compensate, delivery: Delivery) -> Effect[Ended]:
    call = StepCall(
        saga_id=i.id,
        step=action.step,
        direction=i.phase,
        attempt=action.attempt,
        idempotency_key=derive_key(i.id, i.incarnation, action.step, i.phase),
        execute_key=derive_key(i.id, i.incarnation, action.step, Direction.FORWARD),
        fence=i.version,
        deadline=_datetime(delivery.ends_at - STEP_MARGIN_MS),
        reason=i.cause.kind.value if i.cause is not None else None,
        in_doubt=isinstance(action, Compensate) and action.in_doubt,
    )
    return Call(action.step, i.phase, call, i.context_text)


def _result(i: SagaInstance, claim_id: str, ended: Ended) -> AttemptResult:
    """The event that an outcome makes of an attempt, by direction."""
    back = i.phase is Direction.COMPENSATION
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


def _commit(
    before: SagaInstance,
    action: Action,
    event: AttemptResult,
    delivery: Delivery,
    definition: SagaDefinition,
) -> Turn[Decision]:
    """Settle the attempt under its lease, then announce what follows."""
    recognised, epoch = 0, before.lane.epoch
    while True:
        outcome = apply(definition, before, event)
        if isinstance(outcome, Ignored):
            return _fenced(before, epoch, action, event)
        reply = yield from _write(Commit(before, outcome.instance, delivery.id), delivery.ends_at)
        match reply:
            case Written(after):
                break
            case Refused(found):
                if found is not None and found.lane.last_id == delivery.id:
                    after, recognised = found, 1
                    break
                if found is None or found.lane.lease is None or found.lane.lease.id != delivery.id:
                    return _fenced(found, epoch, action, event)
                # Still my lease: a cancel moved the version. Decide again from
                # what is true now, never from what was true then.
                before = found
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
    delay = dispatch_delay(after, event.at)
    if delay is not None and not (yield from Send(after, delay, "step")):
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
    if not isinstance(event, StepSucceeded):
        return event  # it brought no context: nothing can be left out
    return StepInDoubt(claim_id=event.claim_id, error=error, final=True, jitter=0.0, at=event.at)


def _fenced(
    found: SagaInstance | None, epoch: int, action: Action, event: AttemptResult
) -> Decision:
    """Somebody else has the saga: the result is discarded.

    The message is given up only if the saga cannot need it: it has ended, or a
    later work item is held, whose own message exists. Otherwise it may be the
    last one: whoever moved the saga on may have died before it announced that,
    and its message may be a second delivery of this one (ADR 13).
    """
    given_up = (
        found is None
        or not found.live
        or (found.lane.epoch != epoch and found.lane.lease is not None)
    )
    return Decision(
        verdict=Verdict.FENCED,
        acknowledge=given_up,
        before=found,
        action=action,
        event=event,
    )


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
        ),
    )
    if isinstance(outcome, Moved):
        return (yield from _revived(found, outcome.instance, delivery))
    match outcome.reason:
        case Reason.CLOSED | Reason.PARKED:
            return _done(Verdict.CLOSED, found)
        case Reason.STALE_CLAIMED:
            return _done(Verdict.STALE, found)
        case Reason.STALE_UNCLAIMED | Reason.EARLY:
            spread = int(delivery.jitter * SPREAD_MS)
            return (yield from _redispatch(found, delivery.id, delivery.at, spread))
        case _:
            return _keep(Verdict.SUPPRESSED, found)


def _revived(found: SagaInstance, after: SagaInstance, delivery: Delivery) -> Turn[Decision]:
    reply = yield from Record(found, after)
    match reply:
        case Written(instance):
            pass
        case Refused(now_found):
            held = now_found.lane.nudge if now_found is not None else None
            if now_found is None or held is None or held.id != delivery.id:
                return _keep(Verdict.CONTENDED, found)
            instance = now_found
        case Unavailable() | TooLarge():
            return _keep(Verdict.STORE_UNAVAILABLE, found)
    delay = dispatch_delay(instance, delivery.at)
    if delay is None:
        return _done(Verdict.STALLED, found, after=instance)
    if not (yield from Send(instance, delay, "dead_letter")):
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
    lease = found.lane.lease
    delay = dispatch_delay(found, at) if lease is None or lease.until < at else None
    if delay is not None and not (yield from Send(found, delay, "sweep")):
        return _keep(Verdict.SEND_FAILED, found)
    yield from MarkSwept(found, swept(found, at))
    return _done(Verdict.SENT if delay is not None else Verdict.LEFT_ALONE, found)


class Answer(StrEnum):
    """What a person's request came to."""

    ACCEPTED = "accepted"
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    DEFINITION_MISSING = "definition_missing"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer, the saga as it stands, and the rule that refused."""

    answer: Answer
    instance: SagaInstance | None = None
    reason: Reason | None = None


def request(
    key: Key, event: Request, definition_of: Lookup, *, nudge_id: str, ends_at: int
) -> Turn[Answered]:
    """Cancel, resume or skip. Repeating one is safe, also after a lost answer."""
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
        reply = yield from Record(found, outcome.instance)
        if isinstance(reply, Written):
            yield from _announce(reply.instance, at)
            return Answered(Answer.ACCEPTED, reply.instance)
        if isinstance(reply, TooLarge) or (
            isinstance(reply, Unavailable) and not reply.error.ambiguous
        ):
            return Answered(Answer.UNAVAILABLE, found)
        # Refused: somebody moved it. Ambiguous: it may be written. Look again.
        if (yield from Pause(RETRY_PAUSE_MS)) >= ends_at - COMMIT_MARGIN_MS:
            return Answered(Answer.UNAVAILABLE, found)


def _announce(instance: SagaInstance, at: int) -> Turn[None]:
    """Wake the saga unless somebody is at it; a lost send costs the sweeper's minutes."""
    lease = instance.lane.lease
    delay = dispatch_delay(instance, at)
    if delay is not None and (lease is None or lease.until < at):
        yield from Send(instance, delay, "request")


def _not_moved(
    found: SagaInstance, event: Request, reason: Reason, nudge_id: str
) -> Turn[Answered]:
    """A repeat is accepted and wakes the saga again; anything else is refused."""
    if not _is_repeat(found, event, reason):
        return Answered(Answer.REFUSED, found, reason)
    won = yield from _win_guard(found, nudge_id, event.at)
    if won is None:  # whoever asks again must be able to: this may be the only announcement
        return Answered(Answer.UNAVAILABLE, found)
    if won:
        yield from _announce(found, event.at)
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


# -- small parts ------------------------------------------------------------------


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
