"""A work queue under test, with its dead letters, and a way to let time pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from infra.queue import SqsSender
from tests.fakes.aws import LocalAws

VISIBILITY_MS = 2_000  # short, because an engine behind HTTP lets real time pass
POLL_MS = 100
PATIENCE_MS = 15_000
RECEIVES, DEAD_RECEIVES = 2, 3  # after so many a message moves on

PassTime = Callable[[int], object]  # milliseconds


@dataclass
class QueueUnderTest:
    """Three queues in a row, as template.yaml has them: work, dead letters, parking."""

    aws: LocalAws
    work: str
    dead: str
    parking: str
    pass_time: PassTime

    @property
    def sender(self) -> SqsSender:
        """What is under test, on the work queue."""
        return SqsSender(self.aws.sqs.wrapped, self.work)

    def put(self, body: str) -> str:
        """Send a message of somebody else's; give its id."""
        sent = self.aws.sqs.wrapped.send_message(QueueUrl=self.work, MessageBody=body)
        return str(sent["MessageId"])

    def receive(self, url: str | None = None, *, most: int = 10) -> list[Any]:
        """Take what is due, as an event source mapping does. No call takes no time."""
        self.pass_time(1)
        reply = self.aws.sqs.wrapped.receive_message(
            QueueUrl=url or self.work,
            MaxNumberOfMessages=most,
            WaitTimeSeconds=0,
            MessageSystemAttributeNames=["All"],
        )
        messages: list[Any] = reply.get("Messages", [])
        return messages

    def next(self, url: str | None = None) -> Any:
        """The one message that comes next, waited for; in flight from now on."""
        (message,) = self.next_of(1, url)
        return message

    def next_of(self, number: int, url: str | None = None) -> list[Any]:
        """The messages that come next; a receive may give fewer than there are."""
        messages: list[Any] = []
        for _ in range(PATIENCE_MS // POLL_MS):
            messages += self.receive(url)
            if len(messages) >= number:
                assert len({m["MessageId"] for m in messages}) == number
                return messages
            self.pass_time(POLL_MS)
        raise AssertionError(f"{len(messages)} of {number} messages came")

    def returned(self, message: Any, url: str) -> bool:
        """Have it come back at once."""
        sender = SqsSender(self.aws.sqs.wrapped, url)
        return sender.postpone(message["ReceiptHandle"], 0)

    def delete(self, message: Any, url: str | None = None) -> None:
        """Acknowledge it."""
        self.aws.sqs.wrapped.delete_message(
            QueueUrl=url or self.work, ReceiptHandle=message["ReceiptHandle"]
        )

    def depths(self) -> tuple[int, int, int]:
        """How many messages of the work queue are visible, in flight, delayed."""
        names = ("", "NotVisible", "Delayed")
        reply = self.aws.sqs.wrapped.get_queue_attributes(
            QueueUrl=self.work, AttributeNames=["All"]
        )
        visible, in_flight, delayed = (
            int(reply["Attributes"][f"ApproximateNumberOfMessages{name}"]) for name in names
        )
        return visible, in_flight, delayed


def queue(aws: LocalAws, pass_time: PassTime) -> QueueUnderTest:
    """Three new queues, connected."""
    urls = [aws.new_queue({"VisibilityTimeout": str(VISIBILITY_MS // 1000)}) for _ in range(3)]
    for url, then, receives in zip(urls, urls[1:], (RECEIVES, DEAD_RECEIVES), strict=False):
        policy = {"deadLetterTargetArn": aws.arn(then), "maxReceiveCount": receives}
        aws.sqs.wrapped.set_queue_attributes(
            QueueUrl=url, Attributes={"RedrivePolicy": json.dumps(policy)}
        )
    work, dead, parking = urls
    return QueueUnderTest(aws, work, dead, parking, pass_time)
