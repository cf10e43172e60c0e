# ruff: noqa: N803 - the parameters are called what botocore calls them
"""Standard SQS queues in memory: the client that senders use, and a side for the scheduler.

A standard queue promises little, and here the scheduler decides how little: which
visible message is received next (reordering), whether one is delivered again that
is in flight or was just deleted (at least once), whether one is lost. Time is the
world's; nothing moves by itself.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from tests.simulation.aws_errors import RefusedError, client_error

Reply: TypeAlias = dict[str, Any]

MAX_DELAY = 900  # seconds, of SendMessage
MAX_VISIBILITY = 43_200  # seconds, of ChangeMessageVisibility, and of a message's time in flight
MAX_BODY = 1024 * 1024  # bytes
DAY_MS = 86_400_000
_GROUP = re.compile(r"[\x21-\x7e]{1,128}")
# What a body may hold (SQS API reference, SendMessage); XML 1.0 has it from there.
_BODY = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """A queue as it is deployed.

    Attributes:
        url: Under which it is addressed.
        visibility_ms: For how long a received message is hidden.
        max_receives: After so many receives a message goes to the dead letters.
        dead_letters: The URL of that queue; None: it stays.
        retention_ms: From its first sending, in whatever queue it then is.
    """

    url: str
    visibility_ms: int = 30_000
    max_receives: int = 0
    dead_letters: str | None = None
    retention_ms: int = 4 * DAY_MS


class Fate(StrEnum):
    """What has become of a message."""

    WAITING = "waiting"  # it will be, or is, visible
    IN_FLIGHT = "in_flight"
    DELETED = "deleted"
    LOST = "lost"  # by SQS, which does not happen, and against which there is a sweeper
    EXPIRED = "expired"


@dataclass(slots=True)
class Message:
    """One message, wherever it is now.

    Attributes:
        visible_at: When it can be received (again).
        receives: In the queue where it is now; the last one was at ``received_at``.
        handles: Of its receives there, the newest last.
    """

    id: str
    queue: str
    body: str
    sent_at: int
    visible_at: int
    group: str | None
    fate: Fate = Fate.WAITING
    receives: int = 0
    received_at: int = 0
    handles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """One delivery of a message."""

    message_id: str
    receipt_handle: str
    body: str
    receives: int
    sent_at: int


class FakeSqs:
    """Queues, and the client to them.

    Args:
        queues: What exists.
        now: The true time in milliseconds.
        old_handle_works: Whether the next use of an outdated receipt handle
            has an effect; AWS leaves it open.

    Attributes:
        calls: How often each operation was called, refused calls included.
        messages: Every message there ever was, by its id.
    """

    def __init__(
        self,
        *queues: QueueSettings,
        now: Callable[[], int],
        old_handle_works: Callable[[], bool] = lambda: True,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.messages: dict[str, Message] = {}
        self._queues = {q.url: q for q in queues}
        self._now = now
        self._old_handle_works = old_handle_works
        self._by_handle: dict[str, Message] = {}

    # -- the client -------------------------------------------------------------------

    def send_message(
        self,
        *,
        QueueUrl: str,
        MessageBody: str,
        DelaySeconds: int = 0,
        MessageGroupId: str | None = None,
    ) -> Reply:
        """Take a message."""
        with self._operation("SendMessage"):
            queue = self._queue(QueueUrl)
            _check_range("DelaySeconds", DelaySeconds, MAX_DELAY)
            if not MessageBody:
                raise RefusedError(
                    "MissingParameter", "The request must contain the parameter MessageBody."
                )
            if not _BODY.fullmatch(MessageBody):
                raise RefusedError("InvalidMessageContents", "Invalid characters found in the body")
            if len(MessageBody.encode()) > MAX_BODY:
                raise _invalid(
                    f"One or more parameters are invalid. Reason: Message must be shorter than"
                    f" {MAX_BODY} bytes."
                )
            if MessageGroupId is not None and not _GROUP.fullmatch(MessageGroupId):
                raise _invalid("MessageGroupId can only include ASCII letters, digits, punctuation")
            now = self._now()
            message = Message(
                id=f"m{len(self.messages) + 1}",
                queue=queue.url,
                body=MessageBody,
                sent_at=now,
                visible_at=now + DelaySeconds * 1000,
                group=MessageGroupId,
            )
            self.messages[message.id] = message
            digest = hashlib.md5(MessageBody.encode(), usedforsecurity=False).hexdigest()
            return _reply(MessageId=message.id, MD5OfMessageBody=digest)

    def change_message_visibility(
        self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int
    ) -> Reply:
        """Have a message in flight become visible so many seconds from now."""
        with self._operation("ChangeMessageVisibility"):
            self._queue(QueueUrl)
            _check_range("VisibilityTimeout", VisibilityTimeout, MAX_VISIBILITY)
            message = self._held(QueueUrl, ReceiptHandle)
            self._settle(QueueUrl)
            if message.queue != QueueUrl or message.fate in _GONE:
                raise _invalid(
                    f"Value {ReceiptHandle} for parameter ReceiptHandle is invalid. Reason: Message"
                    " does not exist or is not available for visibility timeout change."
                )
            if message.fate is not Fate.IN_FLIGHT:
                raise RefusedError(
                    "AWS.SimpleQueueService.MessageNotInflight", "The message is not in flight."
                )
            visible_at = self._now() + VisibilityTimeout * 1000
            if visible_at > message.received_at + MAX_VISIBILITY * 1000:
                raise _invalid(
                    f"Value {VisibilityTimeout} for parameter VisibilityTimeout is invalid. Reason:"
                    f" Total VisibilityTimeout for the message is beyond the limit"
                    f" [{MAX_VISIBILITY} seconds]"
                )
            if self._works(message, ReceiptHandle):
                message.visible_at = visible_at
            return _reply()

    # -- the scheduler ------------------------------------------------------------------

    def receivable(self, queue: str) -> list[Message]:
        """What a receive can return now, the longest visible first."""
        self._settle(queue)
        now = self._now()
        visible = (m for m in self.live(queue) if m.fate is Fate.WAITING and m.visible_at <= now)
        return sorted(visible, key=lambda m: m.visible_at)

    def receive(self, queue: str, message_id: str | None = None) -> Received | None:
        """Deliver a visible message: this one, or the longest visible; None if there is none."""
        self.calls["ReceiveMessage"] += 1
        found = [m for m in self.receivable(queue) if message_id in (None, m.id)]
        return self._deliver(found[0]) if found else None

    def deliver_again(self, message_id: str) -> Received | None:
        """Deliver a message that is in flight or deleted, as a queue may at least once.

        A deleted one lives on, on the server that had missed the deletion, until it
        is deleted again. None if the message was lost, or has expired.
        """
        message = self.messages[message_id]
        self._settle(message.queue)
        return self._deliver(message) if message.fate not in (Fate.LOST, Fate.EXPIRED) else None

    def delete(self, receipt_handle: str) -> bool:
        """What DeleteMessage does; it answers well in any case. True when the message is gone."""
        self.calls["DeleteMessage"] += 1
        message = self._by_handle[receipt_handle]
        if message.fate in _GONE:
            return True
        # A handle does not outlive the move to another queue.
        if receipt_handle in message.handles and self._works(message, receipt_handle):
            message.fate = Fate.DELETED
        return message.fate is Fate.DELETED

    def lose(self, message_id: str) -> None:
        """Have a message vanish, as SQS never does."""
        self.messages[message_id].fate = Fate.LOST

    def live(self, queue: str) -> list[Message]:
        """Every message of a queue that is not gone: delayed, visible or in flight."""
        return [m for m in self.messages.values() if m.queue == queue and m.fate not in _GONE]

    def next_visible_at(self, queue: str) -> int | None:
        """When the next message can be received; None: there is none to come."""
        self._settle(queue)
        return min((m.visible_at for m in self.live(queue)), default=None)

    # -- parts ----------------------------------------------------------------------

    def _settle(self, url: str) -> None:
        """What has come to pass: visibility ran out, retention ended, receives are spent.

        A message moves to the dead letters when a receive would return it once too
        often, which is not before it is visible again.
        """
        queue, now = self._queues[url], self._now()
        for message in self.live(url):
            if message.sent_at + queue.retention_ms <= now:
                message.fate = Fate.EXPIRED
                continue
            if message.visible_at > now:
                continue
            message.fate = Fate.WAITING
            if queue.dead_letters is not None and message.receives >= queue.max_receives:
                message.queue, message.receives = queue.dead_letters, 0
                message.handles = ()

    def _deliver(self, message: Message) -> Received:
        now = self._now()
        message.receives += 1
        message.received_at = now
        message.fate = Fate.IN_FLIGHT
        message.visible_at = now + self._queues[message.queue].visibility_ms
        handle = f"{message.id}/{message.queue}/{message.receives}"
        message.handles += (handle,)
        self._by_handle[handle] = message
        return Received(message.id, handle, message.body, message.receives, message.sent_at)

    def _held(self, queue: str, handle: str) -> Message:
        message = self._by_handle.get(handle)
        if message is None or f"/{queue}/" not in handle:
            raise RefusedError(
                "ReceiptHandleIsInvalid",
                f'The input receipt handle "{handle}" is not a valid receipt handle.',
            )
        return message

    def _works(self, message: Message, handle: str) -> bool:
        return handle == message.handles[-1] or self._old_handle_works()

    def _queue(self, url: str) -> QueueSettings:
        if url not in self._queues:
            raise RefusedError(
                "AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist."
            )
        return self._queues[url]

    @contextmanager
    def _operation(self, operation: str) -> Iterator[None]:
        self.calls[operation] += 1
        try:
            yield
        except RefusedError as exc:
            raise client_error(operation, exc.code, str(exc), **exc.members) from None


_GONE = frozenset({Fate.DELETED, Fate.LOST, Fate.EXPIRED})


def lambda_event(queue: str, batch: list[Received]) -> Reply:
    """What an event source mapping makes of a batch."""
    records = [
        {
            "messageId": r.message_id,
            "receiptHandle": r.receipt_handle,
            "body": r.body,
            "attributes": {
                "ApproximateReceiveCount": str(r.receives),
                "SentTimestamp": str(r.sent_at),
            },
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": queue,
        }
        for r in batch
    ]
    return {"Records": records}


def _check_range(name: str, value: int, largest: int) -> None:
    if not 0 <= value <= largest:
        raise _invalid(
            f"Value {value} for parameter {name} is invalid. Reason: Must be between 0 and"
            f" {largest}, if provided."
        )


def _invalid(message: str) -> RefusedError:
    return RefusedError("InvalidParameterValue", message)


def _reply(**members: object) -> Reply:
    return {"ResponseMetadata": {"HTTPStatusCode": 200, "RetryAttempts": 0}, **members}
