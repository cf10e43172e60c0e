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


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A worker took the current work item and will make one attempt."""

    claim_id: str
    epoch: int
    definition: str
    until: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSucceeded:
    """The step happened. ``context`` is the new context as JSON text."""

    claim_id: str
    context: str
    at: int


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
class CancelRequested:
    """Somebody wants the saga undone."""

    by: str
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
class DeliveryExhausted:
    """The message of the current work item ended in the dead letters."""

    epoch: int
    definition: str
    nudge_id: str
    error: StepError
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """The caller knows that the process that held the attempt is gone."""

    at: int


AttemptResult: TypeAlias = (
    StepSucceeded | StepFailed | StepInDoubt | CompensationSucceeded | CompensationFailed | Withheld
)
Request: TypeAlias = CancelRequested | ResumeRequested | SkipRequested
Event: TypeAlias = Claimed | AttemptResult | Request | DeliveryExhausted | TakenOver
