"""What can happen to a saga. Every event carries the moment at which it happened.

The results of an attempt carry the claim that they answer, and going forward
and going back have events of their own: a repeated "the step succeeded" can
never pass for "its compensation succeeded".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from saga_core.outcome import StepError


class Withhold(StrEnum):
    """Why a claimed attempt makes no call."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    LOST = "lost"  # too many attempts vanished without a report
    HOPS = "hops"  # the loop guard
    ANSWERED = "answered"  # somebody outside has answered for the step
    UNANSWERED = "unanswered"  # nobody did, in time
    ROLLING_BACK = "rolling_back"  # another step of its group has failed meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A worker took the current work item of a lane and will make one attempt."""

    claim_id: str
    epoch: int
    definition: str
    until: int
    at: int
    branch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSucceeded:
    """The step happened. ``context`` is the new context as JSON text.

    ``child`` is the saga that it started, if it did.
    """

    claim_id: str
    context: str
    at: int
    child: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """The attempt is known not to have happened. Earlier attempts may have."""

    claim_id: str
    error: StepError
    fatal: bool
    jitter: float
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInDoubt:
    """The attempt may have happened. ``final``: no further attempt."""

    claim_id: str
    error: StepError
    final: bool
    jitter: float
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAwaits:
    """The step has asked somebody and waits. ``context`` is the new context as JSON text."""

    claim_id: str
    context: str
    timeout_ms: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompensationSucceeded:
    """The step is undone. ``context`` is None when the new one could not be kept."""

    claim_id: str
    context: str | None
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompensationFailed:
    """The undo failed or is in doubt; both mean that it must be tried again."""

    claim_id: str
    error: StepError
    fatal: bool
    jitter: float
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """The claimed attempt made no call, and why."""

    claim_id: str
    reason: Withhold
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildWaits:
    """The saga that the step started, or that its undo rolls back, is not at rest yet.

    ``child`` is None when the table did not say: nothing is known of it.
    """

    claim_id: str
    child: str | None
    wait_ms: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStopped:
    """The saga that the step started is FAILED: what became of the step is open."""

    claim_id: str
    child: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Somebody wants the saga undone."""

    by: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoRequested:
    """The parent of a saga rolls back, and with it what this one has completed."""

    by: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRests:
    """The saga that a step started has ended, or is FAILED: its parent looks after it."""

    step: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentEnded:
    """Nobody will undo this child any more: its retention begins."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequested:
    """A person says that what stopped the saga is repaired."""

    by: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipRequested:
    """A person took care of the step that a FAILED saga stopped at."""

    step: str
    by: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerGiven:
    """Somebody outside says what became of a step that asked.

    Attributes:
        ok: It is done; otherwise it is known not to have happened.
        fields: What it sets in the context: a JSON object as text.
        error: What is said of a failure.
    """

    step: str
    ok: bool
    by: str
    at: int
    fields: str = "{}"
    error: StepError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReceived:
    """Whoever is to answer for a step is still at it: the time-out begins anew."""

    step: str
    by: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryExhausted:
    """The message of a lane's current work item ended in the dead letters."""

    epoch: int
    definition: str
    nudge_id: str
    error: StepError
    at: int
    branch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """The caller knows that the process that held the attempts is gone."""

    at: int


AttemptResult: TypeAlias = (
    StepSucceeded
    | StepFailed
    | StepInDoubt
    | StepAwaits
    | CompensationSucceeded
    | CompensationFailed
    | ChildWaits
    | ChildStopped
    | Withheld
)
Request: TypeAlias = (
    CancelRequested | ResumeRequested | SkipRequested | AnswerGiven | HeartbeatReceived
)
Family: TypeAlias = UndoRequested | ChildRests | ParentEnded
Event: TypeAlias = Claimed | AttemptResult | Request | Family | DeliveryExhausted | TakenOver
