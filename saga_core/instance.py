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
    FORWARD_FAILED = "FORWARD_FAILED"  # a step that cannot be rolled back failed for good
    CHILD_FAILED = "CHILD_FAILED"  # a saga that it started is FAILED


class CauseKind(StrEnum):
    """Why a saga rolls back."""

    STEP_FAILED = "step_failed"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    PARENT = "parent_rolled_back"  # the saga that started it undoes it


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
class Parent:
    """The saga that started this one, of the same tenant, and the place of its step."""

    saga_id: str
    step: int


@dataclass(frozen=True, slots=True)
class Key:
    """Addresses one saga. Both parts are free of ``#``."""

    tenant: str
    saga_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenAnswer:
    """What somebody outside answered for a step.

    Attributes:
        digest: Tells a repeat from another answer.
        ok: The step is done; otherwise it is known not to have happened.
        fields: What it sets in the context, as JSON text; None once it is in there.
        error: What was said of a failure.
        late: It came after the step had been given up, and changes nothing.
    """

    digest: str
    ok: bool
    by: str
    at: int
    fields: str | None = None
    error: StepError | None = None
    late: bool = False


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
        chosen: Its ``when`` was asked and said yes.
        answer: What was answered for it.
        result: What it changed of the context, until its group is done.
        settled_by: Of a branch that was not the last: the claim that settled it, so that
            its holder recognises its own write.
        child: Id of the saga that it started.
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
    chosen: bool = False
    answer: GivenAnswer | None = None
    result: str | None = None
    settled_by: str | None = None
    child: str | None = None


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
        wait_ms: How long an answer is awaited, from the latest heartbeat on.
        woken: The saga that its step started came to rest while an attempt was in
            flight: the wait after it is none.
        branch: It is the lane of one step of a group, open besides the others;
            otherwise the saga's main lane.
        order: Of a branch, the saga's version at its first claim: ranks its
            start among all starts.
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
    wait_ms: int | None = None
    woken: bool = False
    branch: bool = False
    order: int | None = None

    @property
    def number(self) -> int | None:
        """How a message names it: the place of a branch's step, None for the main lane."""
        return self.index if self.branch else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """A step as users read it.

    Attributes:
        due_at: Of a step that comes next: no attempt before then. Of one that
            waits: when the wait is over.
        child: Id of the saga that it started.
    """

    name: str
    status: StepStatus
    error: StepError | None = None
    attempts: int = 0
    undo_attempts: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    due_at: int | None = None
    child: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaInstance:
    """A saga as it stands. Frozen: a move makes a new one.

    Attributes:
        id: URL-safe.
        incarnation: 8 random hex digits; tells apart two sagas that share an id.
        definition: ``name@version#fingerprint``, pinned at the start.
        input_fingerprint: SHA-256 over the saga's name and input.
        status: As stored: any SagaState but CREATED, which is derived.
        lane: The main lane. While a group is open it waits at its first step.
        branches: The lanes of the open group's steps that are not settled yet.
        context_text: The context as JSON text. While a group is open, as it was
            when the group began.
        secret: 128 bits in hex from which the answer tokens are made.
        parent: Whose step started it, if one did.
        version: Counts the state writes; the optimistic lock.
        cause: Why it rolls back, once it does.
        why: Why it is FAILED; ``failure`` says what exactly was in the way.
        stalls: Visits to the dead letters since the last commit.
        hops: Claims since the start or the last resume (the loop guard).
        sweep_at: When the sweeper looks after it. None once it has ended.
        sweeps: Sweeps since the last progress.
        expires_at: When it may be forgotten. None while it is open or FAILED, and
            of a child until its parent has ended.
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
    branches: tuple[Lane, ...] = ()
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
    secret: str = field(default="", repr=False)
    parent: Parent | None = None
    decoder: Callable[[str], object] = field(default=json.loads, repr=False, compare=False)

    @property
    def key(self) -> Key:
        """Its address."""
        return Key(self.tenant, self.id)

    @property
    def state(self) -> SagaState:
        """The state; CREATED is a saga that nobody has claimed yet."""
        if self.status is SagaState.RUNNING and self._untouched():
            return SagaState.CREATED
        return self.status

    def _untouched(self) -> bool:
        lanes = (self.lane, *self.branches)
        fresh = (StepCode.NOT_STARTED, StepCode.SKIPPED)  # skipped by its ``when``
        return all(n.epoch == 1 and n.tries == 0 for n in lanes) and all(
            s.code in fresh for s in self.steps
        )

    @property
    def open_lanes(self) -> tuple[Lane, ...]:
        """The lanes along which it moves: the branches while a group is open, else the main one."""
        return self.branches or (self.lane,)

    def open_lane(self, number: int | None) -> Lane | None:
        """The open lane that a message means by this number, or None if it is not open."""
        return next((n for n in self.open_lanes if n.number == number), None)

    def direction(self, lane: Lane) -> Direction:
        """Which way this lane goes. A branch never goes back: undoing is the main lane's."""
        return Direction.FORWARD if lane.branch else self.phase

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
        return tuple(self._result_of(s) for s in self.steps)

    def _result_of(self, s: StepRecord) -> StepResult:
        lane = self._lane_at(s)
        tries = lane.tries if lane is not None else 0
        forward = lane is not None and self.direction(lane) is Direction.FORWARD
        began = lane.began_at if lane is not None else None
        idle = lane is not None and lane.lease is None and self.live
        return StepResult(
            name=s.name,
            status=self._status_of(s),
            error=s.error,
            attempts=max(s.attempts, tries) if forward else s.attempts,
            undo_attempts=s.undo_attempts if forward else max(s.undo_attempts, tries),
            started_at=s.started_at or began,
            ended_at=s.ended_at,
            due_at=lane.due_at if lane is not None and idle else None,
            child=s.child,
        )

    def raise_for_state(self) -> None:
        """Return quietly unless the saga rolls or was rolled back, or is FAILED.

        Raises:
            StepFailedError: A step failed, and the saga rolls or was rolled back.
            SagaTimeoutError: The deadline passed, likewise.
            SagaCancelledError: It was cancelled, likewise.
            CompensationFailedError: A compensation is spent; effects stand.
            SagaStalledError: Nothing could move it, or a step that cannot be
                rolled back failed for good.
        """
        if self.why is Why.COMPENSATION_FAILED:
            failed = next(s for s in self.steps if s.code is StepCode.COMPENSATION_FAILED)
            raise CompensationFailedError(self.id, failed.name, failed.undo_attempts, self.standing)
        if self.why is not None:
            raise SagaStalledError(self.id, _told(self.failure))
        if self.cause is None:
            return
        if self.cause.kind is CauseKind.PARENT:
            raise SagaCancelledError(self.id, self.cause.by or "its parent")
        if self.cause.kind is CauseKind.DEADLINE:
            raise SagaTimeoutError(self.id)
        if self.cause.kind is CauseKind.CANCELLED:
            raise SagaCancelledError(self.id, self.cause.by or "unknown")
        step = next(s for s in self.steps if s.name == self.cause.step)
        raise StepFailedError(self.id, step.name, step.attempts, _told(self.cause.error))

    def _lane_at(self, step: StepRecord) -> Lane | None:
        """The open lane that is at this step."""
        if self.status in CLOSED:
            return None
        return next((n for n in self.open_lanes if self.steps[n.index].name == step.name), None)

    def _possibly_started(self, step: StepRecord) -> bool:
        lane = self._lane_at(step)
        if lane is None or self.direction(lane) is Direction.COMPENSATION:
            return False
        return lane.tries > lane.clean

    def _status_of(self, step: StepRecord) -> StepStatus:
        lane = self._lane_at(step)
        if lane is None:
            return _STATUS[step.code]
        if self.direction(lane) is Direction.FORWARD and lane.tries:
            if lane.lease is not None:
                return StepStatus.RUNNING
            if step.code is StepCode.WAITING:
                return StepStatus.WAITING
            if self._possibly_started(step):
                return StepStatus.IN_DOUBT
        if step.code in (StepCode.DONE, StepCode.UNKNOWN):
            return StepStatus.COMPENSATING  # forward, the step one is at is neither, or in doubt
        return _STATUS[step.code]


def _newest_first(step: StepRecord) -> int:
    return -(step.order if step.order is not None else 1 << 30)


def _told(error: StepError | None) -> str:
    return f"{error.kind}: {error.message}" if error is not None else "unknown"
