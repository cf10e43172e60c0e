"""One running saga as a value. Times are milliseconds since the epoch, UTC."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from saga_core.calls import Direction
from saga_core.errors import (
    CompensationFailedError,
    SagaCancelledError,
    SagaStalledError,
    SagaTimeoutError,
    StepFailedError,
)
from saga_core.outcome import StepError


class SagaState(StrEnum):
    """Where a saga is. FAILED means stopped: a person is needed, and it can be resumed."""

    CREATED = "CREATED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    COMPENSATING = "COMPENSATING"
    COMPENSATED = "COMPENSATED"
    FAILED = "FAILED"


LIVE = frozenset({SagaState.CREATED, SagaState.RUNNING, SagaState.COMPENSATING})
CLOSED = frozenset({SagaState.COMPLETED, SagaState.COMPENSATED})


class StepStatus(StrEnum):
    """Where a step is, as users read it."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    IN_DOUBT = "IN_DOUBT"
    COMPENSATING = "COMPENSATING"
    COMPENSATED = "COMPENSATED"
    COMPENSATION_FAILED = "COMPENSATION_FAILED"
    SKIPPED = "SKIPPED"


class StepCode(StrEnum):
    """What is recorded of a step. The value is what the table stores."""

    NOT_STARTED = "-"
    RUNNING = "P"  # started, and to be tried again
    WAITING = "W"
    DONE = "OK"
    UNKNOWN = "U"  # may have happened: undone like a step that has
    NO = "NO"  # known not to have happened
    COMPENSATED = "C"
    COMPENSATION_FAILED = "CF"
    SKIPPED = "SK"


_STATUS = {
    StepCode.NOT_STARTED: StepStatus.PENDING,
    StepCode.RUNNING: StepStatus.RUNNING,
    StepCode.WAITING: StepStatus.WAITING,
    StepCode.DONE: StepStatus.COMPLETED,
    StepCode.UNKNOWN: StepStatus.IN_DOUBT,
    StepCode.NO: StepStatus.FAILED,
    StepCode.COMPENSATED: StepStatus.COMPENSATED,
    StepCode.COMPENSATION_FAILED: StepStatus.COMPENSATION_FAILED,
    StepCode.SKIPPED: StepStatus.SKIPPED,
}


class Why(StrEnum):
    """Why a saga is FAILED."""

    STALLED = "STALLED"  # it could not be moved: code missing, or its deliveries ran out
    COMPENSATION_FAILED = "COMPENSATION_FAILED"


class CauseKind(StrEnum):
    """Why a saga rolls back."""

    STEP_FAILED = "step_failed"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Cause:
    """What began the compensation. Written once, with the write that began it."""

    kind: CauseKind
    at: int
    step: str | None = None
    error: StepError | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Who asked for the roll-back, and when."""

    by: str
    at: int


@dataclass(frozen=True, slots=True)
class Key:
    """Addresses one saga. Both parts are free of ``#``."""

    tenant: str
    saga_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What is remembered of one step.

    Attributes:
        order: Rank of the step's first start among all starts; compensation
            runs from the highest down.
        doubt: Some attempt went unreported or reported unknown. It stays set
            through later clean failures; only a known success clears it.
        attempts: Attempts started going forward; ``undo_attempts`` in compensation.
        error: The latest error, of either direction.
    """

    name: str
    code: StepCode = StepCode.NOT_STARTED
    order: int | None = None
    doubt: bool = False
    attempts: int = 0
    undo_attempts: int = 0
    error: StepError | None = None
    started_at: int | None = None
    ended_at: int | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Somebody is making an attempt; nobody else may until the lease runs out."""

    id: str
    until: int


@dataclass(frozen=True, slots=True)
class Nudge:
    """A surplus message was sent; no other is for a while (the re-dispatch guard)."""

    id: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """The token of one line of work: which step is next, and who may do it.

    Attributes:
        index: The current step.
        epoch: Number of the work item; a message carries it, a commit moves it on.
        attempts: Claims since the step became current or the saga was resumed
            (a budget).
        reported: Of those, the ones that reported a failure or a doubt.
        tries: Claims ever taken on this step and direction. A resume does not
            reset it: ``tries > clean`` means *possibly started*.
        clean: Of ``tries``, the ones that reported a known failure.
        due_at: No claim before then.
        last_id: The lease of the last commit: recognises one's own write.
        began_at: When the first attempt since the last commit was claimed.
    """

    index: int = 0
    epoch: int = 1
    attempts: int = 0
    reported: int = 0
    tries: int = 0
    clean: int = 0
    due_at: int = 0
    lease: Lease | None = None
    last_id: str | None = None
    nudge: Nudge | None = None
    began_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """A step as users read it."""

    name: str
    status: StepStatus
    error: StepError | None = None
    attempts: int = 0
    undo_attempts: int = 0
    started_at: int | None = None
    ended_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaInstance:
    """A saga as it stands. Frozen: a move makes a new one.

    Attributes:
        id: URL-safe.
        incarnation: 8 random hex digits; tells apart two sagas that share an id.
        definition: ``name@version#fingerprint``, pinned at the start.
        input_fingerprint: SHA-256 over the saga's name and input.
        status: As stored: any SagaState but CREATED, which is derived.
        context_text: The context as JSON text.
        version: Counts the state writes; the optimistic lock.
        cause: Why it rolls back, once it does.
        why: Why it is FAILED; ``failure`` says what exactly was in the way.
        stalls: Visits to the dead letters since the last commit.
        hops: Claims since the start or the last resume (the loop guard).
        sweep_at: When the sweeper looks after it. None once it has ended.
        sweeps: Sweeps since the last progress.
        expires_at: When it may be forgotten. None while it is open or FAILED.
        decoder: How ``context`` reads the text; not part of the value.
    """

    id: str
    tenant: str = "default"
    incarnation: str
    definition_name: str
    definition: str
    input_fingerprint: str
    status: SagaState = SagaState.RUNNING
    phase: Direction = Direction.FORWARD
    lane: Lane
    steps: tuple[StepRecord, ...]
    context_text: str
    version: int = 0
    created_at: int
    updated_at: int
    deadline_at: int
    cancel: Cancel | None = None
    cause: Cause | None = None
    why: Why | None = None
    failure: StepError | None = None
    stalls: int = 0
    hops: int = 0
    sweep_at: int | None = None
    sweeps: int = 0
    expires_at: int | None = None
    decoder: Callable[[str], object] = field(default=json.loads, repr=False, compare=False)

    @property
    def key(self) -> Key:
        """Its address."""
        return Key(self.tenant, self.id)

    @property
    def state(self) -> SagaState:
        """The state; CREATED is a saga that nobody has claimed yet."""
        untouched = self.lane.epoch == 1 and self.lane.tries == 0
        if self.status is SagaState.RUNNING and untouched:
            return SagaState.CREATED
        return self.status

    @property
    def live(self) -> bool:
        """It moves, or will by itself."""
        return self.status in LIVE

    @property
    def definition_version(self) -> str:
        """The version part of ``definition``."""
        return self.definition.partition("@")[2].rpartition("#")[0]

    @property
    def current_step(self) -> int:
        """Index of the step it is at; the number of steps once all are done."""
        return self.lane.index

    @property
    def context(self) -> object:
        """The context, decoded anew at every access: changing it changes nothing here."""
        return self.decoder(self.context_text)

    @property
    def standing(self) -> tuple[str, ...]:
        """Names of the steps whose effect stands, or may stand, newest first."""
        open_codes = {StepCode.DONE, StepCode.UNKNOWN, StepCode.COMPENSATION_FAILED}
        started = [s for s in self.steps if s.code in open_codes or self._possibly_started(s)]
        return tuple(s.name for s in sorted(started, key=_newest_first))

    @property
    def step_results(self) -> tuple[StepResult, ...]:
        """Every step in definition order, as users read it."""
        return tuple(
            StepResult(
                name=s.name,
                status=self._status_of(s),
                error=s.error,
                attempts=max(s.attempts, self.lane.tries)
                if self._at(s, forward=True)
                else s.attempts,
                undo_attempts=(
                    max(s.undo_attempts, self.lane.tries)
                    if self._at(s, forward=False)
                    else s.undo_attempts
                ),
                started_at=s.started_at or (self.lane.began_at if self._at(s) else None),
                ended_at=s.ended_at,
            )
            for s in self.steps
        )

    def raise_for_state(self) -> None:
        """Return quietly unless the saga rolls or was rolled back, or is FAILED.

        Raises:
            StepFailedError: A step failed, and the saga rolls or was rolled back.
            SagaTimeoutError: The deadline passed, likewise.
            SagaCancelledError: It was cancelled, likewise.
            CompensationFailedError: A compensation is spent; effects stand.
            SagaStalledError: Nothing could move it.
        """
        if self.why is Why.COMPENSATION_FAILED:
            failed = next(s for s in self.steps if s.code is StepCode.COMPENSATION_FAILED)
            raise CompensationFailedError(self.id, failed.name, failed.undo_attempts, self.standing)
        if self.why is Why.STALLED:
            raise SagaStalledError(self.id, _told(self.failure))
        if self.cause is None:
            return
        if self.cause.kind is CauseKind.DEADLINE:
            raise SagaTimeoutError(self.id)
        if self.cause.kind is CauseKind.CANCELLED:
            raise SagaCancelledError(self.id, self.cause.by or "unknown")
        step = next(s for s in self.steps if s.name == self.cause.step)
        raise StepFailedError(self.id, step.name, step.attempts, _told(self.cause.error))

    def _at(self, step: StepRecord, *, forward: bool | None = None) -> bool:
        """The saga is at this step (and going that way)."""
        if self.status in CLOSED:
            return False
        here = self.steps[self.lane.index].name == step.name
        return here and (forward is None or forward == (self.phase is Direction.FORWARD))

    def _possibly_started(self, step: StepRecord) -> bool:
        return self._at(step, forward=True) and self.lane.tries > self.lane.clean

    def _status_of(self, step: StepRecord) -> StepStatus:
        if self._at(step, forward=True) and self.lane.tries:
            if self.lane.lease is not None:
                return StepStatus.RUNNING
            if self._possibly_started(step):
                return StepStatus.IN_DOUBT
        if self._at(step) and step.code in (StepCode.DONE, StepCode.UNKNOWN):
            return StepStatus.COMPENSATING  # forward, the step one is at is neither, or in doubt
        return _STATUS[step.code]


def _newest_first(step: StepRecord) -> int:
    return -(step.order if step.order is not None else 1 << 30)


def _told(error: StepError | None) -> str:
    return f"{error.kind}: {error.message}" if error is not None else "unknown"
