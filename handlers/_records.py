"""A batch of SQS records, each on its own: one that fails takes no other with it.

Twenty lines instead of a library: Powertools' batch processor raises when the
whole batch failed, which with batches of one is every failure, and Lambda then
slows the poller down. A postponed message is no reason to slow down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias, TypedDict

from handlers._telemetry import Telemetry


class LambdaContext(Protocol):
    """What Lambda tells a function about its invocation."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation is killed."""


class SqsRecord(TypedDict):
    """The parts of an SQS record that are read."""

    messageId: str
    receiptHandle: str
    body: str


class SqsEvent(TypedDict):
    """What an SQS event source mapping hands to a function."""

    Records: list[SqsRecord]


class ItemFailure(TypedDict):
    """Names a message that must come back."""

    itemIdentifier: str


class BatchResponse(TypedDict):
    """Which messages must come back; all others are deleted."""

    batchItemFailures: list[ItemFailure]


class OutageError(Exception):
    """Nothing in the batch could be worked on, because the store is out of reach.

    Raised, so that Lambda slows the poller down; nothing is lost by it, since
    no message of the batch was to be deleted.
    """


class Fate(Enum):
    """What becomes of a record."""

    DELETE = "delete"
    KEEP = "keep"
    OUTAGE = "outage"  # keep, and the reason is not the message's


@dataclass(frozen=True, slots=True)
class Record:
    """One message as delivered."""

    id: str
    body: str
    receipt_handle: str


Work: TypeAlias = Callable[[Record], Fate]


def each(function: str, event: SqsEvent, telemetry: Telemetry, work: Work) -> BatchResponse:
    """Work on every record and name the ones that must come back.

    Raises:
        OutageError: Every record met an outage.
    """
    fates = {record.id: _guarded(function, record, telemetry, work) for record in _records(event)}
    if fates and all(fate is Fate.OUTAGE for fate in fates.values()):
        raise OutageError(f"{function}: the store is out of reach")
    kept = [name for name, fate in fates.items() if fate is not Fate.DELETE]
    return {"batchItemFailures": [{"itemIdentifier": name} for name in kept]}


def _records(event: SqsEvent) -> Iterator[Record]:
    for record in event["Records"]:
        yield Record(record["messageId"], record["body"], record["receiptHandle"])


def _guarded(function: str, record: Record, telemetry: Telemetry, work: Work) -> Fate:
    try:
        return work(record)
    except Exception as exc:  # noqa: BLE001 - a bug met by one message must not cost the others
        telemetry.crashed(function, exc, message_id=record.id)
        return Fate.KEEP
