"""Small sagas, and a walk that brings one where a test wants it, event by event."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypedDict, Unpack

from saga_core.definition import (
    Handler,
    OnCompensationFailure,
    Retention,
    SagaDefinition,
    StepDefinition,
)
from saga_core.errors import IllegalEventError
from saga_core.events import (
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
from saga_core.instance import SagaInstance, StepRecord
from saga_core.outcome import StepError
from saga_core.retry import RetryPolicy
from saga_core.transition import Ignored, Moved, Reason, apply, create

T0 = 1_700_000_100_000  # where every story begins; a multiple of the sweeper's bucket
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
LEASE = 35 * SECOND
BOOM = StepError("Boom", "it broke")


class StepOptions(TypedDict, total=False):
    """What a test may say about a step."""

    compensatable: bool
    retry: RetryPolicy
    compensation_retry: RetryPolicy
    pivot: bool
    group: str
    when: Handler
    delay: timedelta
    timeout: timedelta


class SagaOptions(TypedDict, total=False):
    """What a test may say about a saga."""

    version: str
    timeout: timedelta
    context_type: type | None
    on_compensation_failure: OnCompensationFailure
    retention: timedelta | Retention


def nothing(ctx: object) -> None:
    """A handler that is content."""


def step(name: str, **options: Unpack[StepOptions]) -> StepDefinition:
    """A step whose handlers do nothing."""
    undo = Handler.of(nothing) if options.get("compensatable", True) else None
    return StepDefinition(name=name, execute=Handler.of(nothing), compensate=undo, **options)


def saga(
    *steps: str | StepDefinition, name: str = "order", **options: Unpack[SagaOptions]
) -> SagaDefinition:
    """A saga of these steps."""
    built = tuple(step(s) if isinstance(s, str) else s for s in steps)
    return SagaDefinition(name=name, steps=built, **options)


def new(definition: SagaDefinition, *, at: int = T0, saga_id: str = "s1") -> SagaInstance:
    """A saga that nobody has claimed yet."""
    return create(
        definition,
        saga_id=saga_id,
        tenant="default",
        incarnation="abcd1234",
        input_fingerprint="f",
        context="{}",
        at=at,
    )


@dataclass
class Walk:
    """One saga and the time, moved by hand. Every move returns the walk."""

    definition: SagaDefinition
    now: int = T0
    i: SagaInstance = field(init=False)
    claims: int = 0

    def __post_init__(self) -> None:
        self.i = new(self.definition, at=self.now)

    # -- what happens -----------------------------------------------------------------

    def event(self, event: Event) -> Walk:
        """Apply an event that must move the saga."""
        outcome = apply(self.definition, self.i, event)
        assert isinstance(outcome, Moved), outcome
        assert outcome.instance.version == self.i.version
        self.i = replace(outcome.instance, version=self.i.version + 1)
        return self

    def ignores(self, event: Event) -> Reason:
        """Apply an event that must change nothing, and say why it did not."""
        outcome = apply(self.definition, self.i, event)
        assert isinstance(outcome, Ignored), outcome
        return outcome.reason

    def refuses(self, event: Event) -> str:
        """Apply an event that cannot be, and give the error's message."""
        try:
            outcome = apply(self.definition, self.i, event)
        except IllegalEventError as exc:
            return str(exc)
        raise AssertionError(outcome)

    def wait(self, ms: int) -> Walk:
        """Let time pass."""
        self.now += ms
        return self

    def until_due(self) -> Walk:
        """Let time pass until the saga may be claimed."""
        self.now = max(self.now, self.i.lane.due_at)
        return self

    # -- events, as they would come ---------------------------------------------------

    @property
    def holder(self) -> str:
        """Who holds the claim, or held the last one."""
        lease = self.i.lane.lease
        return lease.id if lease is not None else f"c{self.claims}"

    def claim(self) -> Walk:
        """A worker takes the work item."""
        self.until_due()
        self.claims += 1
        return self.event(self.claiming(f"c{self.claims}"))

    def claiming(self, claim_id: str, *, epoch: int | None = None) -> Claimed:
        """The claim of a worker."""
        return Claimed(
            claim_id=claim_id,
            epoch=self.i.lane.epoch if epoch is None else epoch,
            definition=self.i.definition,
            until=self.now + LEASE,
            at=self.now,
        )

    def lose(self) -> Walk:
        """The worker vanishes and its lease runs out."""
        assert self.i.lane.lease is not None
        self.now = self.i.lane.lease.until + 1
        return self

    def done(self, context: str = "{}") -> Walk:
        """The step happened."""
        return self.event(StepSucceeded(claim_id=self.holder, context=context, at=self.now))

    def fail(self, *, fatal: bool = False, jitter: float = 1.0) -> Walk:
        """The step is known not to have happened."""
        return self.event(self.failing(fatal=fatal, jitter=jitter))

    def failing(self, *, fatal: bool = False, jitter: float = 1.0) -> StepFailed:
        """The report of a known failure."""
        return StepFailed(claim_id=self.holder, error=BOOM, fatal=fatal, jitter=jitter, at=self.now)

    def doubt(self, *, final: bool = False, jitter: float = 1.0) -> Walk:
        """The step may have happened."""
        event = StepInDoubt(
            claim_id=self.holder, error=BOOM, final=final, jitter=jitter, at=self.now
        )
        return self.event(event)

    def undone(self, context: str | None = "{}") -> Walk:
        """The compensation happened."""
        return self.event(CompensationSucceeded(claim_id=self.holder, context=context, at=self.now))

    def undo_fails(self, *, fatal: bool = False, jitter: float = 1.0) -> Walk:
        """The compensation did not happen."""
        event = CompensationFailed(
            claim_id=self.holder, error=BOOM, fatal=fatal, jitter=jitter, at=self.now
        )
        return self.event(event)

    def withheld(self, reason: Withhold) -> Walk:
        """The attempt made no call."""
        return self.event(Withheld(claim_id=self.holder, reason=reason, at=self.now))

    def cancelling(self, by: str = "ops") -> CancelRequested:
        """Somebody wants the saga undone."""
        return CancelRequested(by=by, at=self.now)

    def cancel(self) -> Walk:
        """Somebody wants the saga undone, and gets it."""
        return self.event(self.cancelling())

    def resuming(self) -> ResumeRequested:
        """A person says that it is repaired."""
        return ResumeRequested(by="ops", at=self.now)

    def resume(self) -> Walk:
        """A person says that it is repaired, and it goes on."""
        return self.event(self.resuming())

    def skipping(self, name: str) -> SkipRequested:
        """A person vouches for the step."""
        return SkipRequested(step=name, by="ops", at=self.now)

    def skip(self, name: str) -> Walk:
        """A person vouches for the step, and it goes on."""
        return self.event(self.skipping(name))

    def taking_over(self) -> TakenOver:
        """The process that made the attempt is gone."""
        return TakenOver(at=self.now)

    def dying(self, *, epoch: int | None = None, nudge_id: str = "n1") -> DeliveryExhausted:
        """The message ended in the dead letters."""
        return DeliveryExhausted(
            epoch=self.i.lane.epoch if epoch is None else epoch,
            definition=self.i.definition,
            nudge_id=nudge_id,
            error=StepError("DeliveryExhausted", "gave up"),
            at=self.now,
        )

    def dead_letter(self) -> Walk:
        """The message ended in the dead letters, and the saga heeds it."""
        return self.until_due().wait(MINUTE).event(self.dying())

    def stall(self) -> Walk:
        """The message ends in the dead letters until the saga is FAILED."""
        while self.i.live:
            self.dead_letter()
        return self

    # -- what a test looks at ---------------------------------------------------------

    @property
    def codes(self) -> str:
        """The steps' codes, in order."""
        return " ".join(s.code for s in self.i.steps)

    def record(self, name: str) -> StepRecord:
        """What is remembered of a step."""
        return next(s for s in self.i.steps if s.name == name)
