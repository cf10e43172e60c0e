"""What a handler is told about the attempt it is making."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Direction(StrEnum):
    """Which way a saga is going. The value is what the table stores."""

    FORWARD = "F"
    COMPENSATION = "C"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCall:
    """One attempt of one step in one direction.

    Attributes:
        saga_id: The saga's id, URL-safe.
        step: The step's name.
        direction: Forward, or compensation.
        attempt: 1 for the first; counts every attempt ever started, also the
            ones that were lost and the ones before a resume.
        idempotency_key: The same on every attempt of this step and direction.
            Hand it to the service you call, which must honour it: a step is
            delivered at least once.
        execute_key: The key that the forward call used. In a compensation it
            finds what there is to undo, also when the forward call's answer
            was lost and nothing of it was saved.
        fence: Grows with every attempt of the saga. A service that remembers
            the highest one can refuse an older call that arrives late.
        deadline: Be done by then (UTC). Set your socket time-outs from it; work
            beyond it is killed and its outcome is unknown.
        reason: In a compensation, why the saga rolls back: ``step_failed``,
            ``deadline``, ``cancelled`` or ``operator``. None going forward.
        token: Hand it to whoever is to answer when the step returns
            ``AwaitAnswer``: unguessable, bound to this saga and step, good for
            any attempt of it, and safe in a URL. Empty in a compensation.
        in_doubt: In a compensation, True when it is not known whether the step
            happened. Then the service may have nothing to undo: that is success.
    """

    saga_id: str
    step: str
    direction: Direction
    attempt: int
    idempotency_key: str
    execute_key: str
    fence: int
    deadline: datetime
    reason: str | None = None
    in_doubt: bool = False
    token: str = field(default="", repr=False)


def derive_key(saga_id: str, incarnation: str, step: str, direction: Direction) -> str:
    """The idempotency key of a step and direction; never random.

    The incarnation tells two sagas apart that share an id, because the client
    used one key again after the first saga's retention was over.
    """
    return f"{saga_id}.{incarnation}:{step}:{direction.value}"
