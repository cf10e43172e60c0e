"""What a turn asks its driver to do, as data.

An effect is performed by yielding it: ``reply = yield from Claim(...)`` hands it
to the driver and gives back the driver's reply. A driver is a loop that matches
on the effect; a simulator is a driver that also crashes, repeats and delays.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar, cast

from saga_core.calls import Direction, StepCall
from saga_core.definition import SagaDefinition
from saga_core.errors import ItemTooLargeError, StoreError
from saga_core.instance import Key, SagaInstance
from saga_core.outcome import Outcome, StepError
from saga_core.ports import Refused, Written

R_co = TypeVar("R_co", covariant=True)  # the reply
T = TypeVar("T")  # what a turn comes to


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The store did not do it, or did not say whether it did."""

    error: StoreError
    at: int


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The saga would not fit into one item. Nothing was written."""

    error: ItemTooLargeError
    at: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The handler came back. ``jitter`` is the fraction for a next attempt's pause."""

    outcome: Outcome
    at: int
    jitter: float


WriteReply: TypeAlias = Written | Refused | Unavailable | TooLarge


@dataclass(frozen=True, slots=True)
class Effect(Generic[R_co]):
    """Something to be done by the driver; ``yield from`` gives the reply."""

    def __iter__(self) -> Generator[Effect[object], object, R_co]:
        """Hand it to the driver. The driver's part is to send the right reply type."""
        return cast("R_co", (yield self))


Turn: TypeAlias = Generator[Effect[object], object, T]


@dataclass(frozen=True, slots=True)
class Create(Effect[WriteReply]):
    """Store a new saga."""

    instance: SagaInstance


@dataclass(frozen=True, slots=True)
class Find(Effect["SagaInstance | Unavailable | None"]):
    """Read the saga, consistently."""

    key: Key
    at: int


@dataclass(frozen=True, slots=True)
class Claim(Effect[WriteReply]):
    """Take the work item that the message names, of a branch or of the main lane."""

    key: Key
    epoch: int
    definition: str
    claim_id: str
    at: int
    until: int
    branch: int | None = None


@dataclass(frozen=True, slots=True)
class Call(Effect[Ended]):
    """Run the user's handler once. ``timeout_ms`` is the step's own time-out, if it has one."""

    step: str
    direction: Direction
    call: StepCall
    context: str
    timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Decide(Effect[Mapping[str, "bool | StepError"]]):
    """Ask the conditions of these steps; a StepError is what one of them raised."""

    definition: SagaDefinition
    steps: tuple[str, ...]
    context: str


@dataclass(frozen=True, slots=True)
class CheckContext(Effect[tuple[tuple[str, str], ...]]):
    """Whether a context can be one of the definition's: (place, what is wrong) pairs."""

    definition: SagaDefinition
    context: str


@dataclass(frozen=True, slots=True)
class Commit(Effect[WriteReply]):
    """Write the result of an attempt."""

    before: SagaInstance
    after: SagaInstance
    claim_id: str


@dataclass(frozen=True, slots=True)
class Redispatch(Effect[WriteReply]):
    """Reserve the right to send a surplus message, for one branch or for all that is open."""

    instance: SagaInstance
    nudge_id: str
    at: int
    branch: int | None = None


@dataclass(frozen=True, slots=True)
class Record(Effect[WriteReply]):
    """Write what a request or the dead letters decided."""

    before: SagaInstance
    after: SagaInstance


@dataclass(frozen=True, slots=True)
class MarkSwept(Effect[WriteReply]):
    """Write when to look after the saga next."""

    before: SagaInstance
    after: SagaInstance


@dataclass(frozen=True, slots=True)
class Send(Effect[bool]):
    """Announce a lane's current work item; the reply says whether the queue took it."""

    instance: SagaInstance
    delay_ms: int
    reason: str
    branch: int | None = None


@dataclass(frozen=True, slots=True)
class Postpone(Effect[None]):
    """Have the message in hand delivered again after this time. Best effort."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class Pause(Effect[int]):
    """Wait a moment; the reply is the time after it."""

    delay_ms: int
