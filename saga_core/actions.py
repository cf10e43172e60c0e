"""What may be done next with a saga, as data. Nothing here is performed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from saga_core.events import Withhold


@dataclass(frozen=True, slots=True)
class Execute:
    """Run the step forward."""

    step: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Compensate:
    """Undo the step."""

    step: str
    attempt: int
    in_doubt: bool


@dataclass(frozen=True, slots=True)
class Inquire:
    """Look what became of the saga that the step started."""

    step: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Record that no call is made, and why."""

    reason: Withhold


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Nothing to do before this moment (milliseconds since the epoch)."""

    at: int


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing will happen by itself: the saga has ended, or waits for a person."""


Action: TypeAlias = Execute | Compensate | Inquire | Settle | WakeAt | Rest
