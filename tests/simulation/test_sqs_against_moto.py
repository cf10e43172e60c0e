"""The model of the queues and moto go through the same scripts alike.

Where they differ AWS decides (SQS API reference and guide), and test_sqs.py has it:
moto keeps a message's receive count when it moves to the dead letters, counts the
twelve hours of a visibility time-out from the sending, lets a visible message be
postponed, and takes any text as a body, an empty one, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import moto.sqs.models
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from tests.simulation.clock import WorldTime
from tests.simulation.side_by_side import REGION
from tests.simulation.sqs import FakeSqs, QueueSettings

VISIBILITY = 30
RECEIVES = 3
Delivery = tuple[str, str]  # receipt handle and body

# What happens: an action and its arguments. ``handle`` is the n-th delivery's.
Step = tuple[Any, ...]
SCRIPTS: dict[str, list[Step]] = {
    "a delay": [
        ("send", "a", 5),
        ("receive",),
        ("wait", 4),
        ("receive",),
        ("wait", 2),
        ("receive",),
    ],
    "visibility runs out": [
        ("send", "a", 0),
        ("receive",),
        ("receive",),
        ("wait", VISIBILITY - 1),
        ("receive",),
        ("wait", 2),
        ("receive",),
    ],
    "a postponement": [
        ("send", "a", 0),
        ("receive",),
        ("postpone", 0, 100),
        ("wait", VISIBILITY + 1),
        ("receive",),
        ("wait", 70),
        ("receive",),
    ],
    "brought forward": [
        ("send", "a", 0),
        ("receive",),
        ("postpone", 0, 0),
        ("wait", 1),
        ("receive",),
    ],
    "a deletion": [
        ("send", "a", 0),
        ("send", "b", 0),
        ("receive",),
        ("delete", 0),
        ("wait", VISIBILITY + 1),
        ("receive",),
        ("receive",),
    ],
    "a deletion after the visibility": [
        ("send", "a", 0),
        ("receive",),
        ("wait", VISIBILITY + 1),
        ("delete", 0),
        ("receive",),
    ],
    "too many receives": [
        ("send", "a", 0),
        *[("receive",), ("wait", VISIBILITY + 1)] * RECEIVES,
        ("dead",),
        ("receive",),
        ("dead",),
        ("wait", VISIBILITY + 1),
        ("receive",),
    ],
    "a delay that is too long": [("send", "a", 901), ("receive",)],
    "an unknown handle": [("send", "a", 0), ("receive",), ("postpone", "nonsense", 5)],
    "a visibility that is too long": [("send", "a", 0), ("receive",), ("postpone", 0, 43_201)],
}


@dataclass
class Side:
    """One of the two, with what it has delivered."""

    client: Any
    work: str
    take: Callable[[str], Delivery | None]
    delete: Callable[[str], object]
    dead: str
    wait: Callable[[int], None]
    handles: list[str] = field(default_factory=list)

    def play(self, script: list[Step]) -> list[str | None]:
        """What the steps come to: bodies, error codes, nothing."""
        return [self._step(*step) for step in script]

    def _step(self, action: str, *args: Any) -> str | None:
        try:
            match action:
                case "send":
                    self.client.send_message(
                        QueueUrl=self.work,
                        MessageBody=args[0],
                        DelaySeconds=args[1],
                        MessageGroupId="tenant",
                    )
                case "receive":
                    return self._received(self.work)
                case "dead":
                    return self._received(self.dead)
                case "postpone":
                    self.client.change_message_visibility(
                        QueueUrl=self.work,
                        ReceiptHandle=self._handle(args[0]),
                        VisibilityTimeout=args[1],
                    )
                case "delete":
                    self.delete(self._handle(args[0]))
                case "wait":
                    self.wait(args[0] * 1000)
                case _:
                    raise AssertionError(action)
        except ClientError as exc:
            return exc.response["Error"]["Code"]
        return None

    def _received(self, queue: str) -> str | None:
        delivery = self.take(queue)
        if delivery is None:
            return None
        self.handles.append(delivery[0])
        return delivery[1]

    def _handle(self, which: int | str) -> str:
        return self.handles[which] if isinstance(which, int) else which


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> WorldTime:
    """The world's time, by which moto's queues go, too."""
    world = WorldTime()
    monkeypatch.setattr(moto.sqs.models, "unix_time", lambda: world() / 1000)
    monkeypatch.setattr(moto.sqs.models, "unix_time_millis", lambda: float(world()))
    return world


@pytest.fixture
def moto_side(time: WorldTime) -> Iterator[Side]:
    with mock_aws():
        client: Any = boto3.client("sqs", region_name=REGION)
        dead = client.create_queue(QueueName="dead")["QueueUrl"]
        arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])
        policy = {
            "deadLetterTargetArn": arn["Attributes"]["QueueArn"],
            "maxReceiveCount": RECEIVES,
        }
        attributes = {"VisibilityTimeout": str(VISIBILITY), "RedrivePolicy": json.dumps(policy)}
        work = client.create_queue(QueueName="work", Attributes=attributes)["QueueUrl"]

        def take(queue: str) -> Delivery | None:
            found = client.receive_message(QueueUrl=queue).get("Messages", ())
            return (found[0]["ReceiptHandle"], found[0]["Body"]) if found else None

        def delete(handle: str) -> object:
            return client.delete_message(QueueUrl=work, ReceiptHandle=handle)

        yield Side(client, work, take, delete, dead, time.advance)


@pytest.fixture
def fake_side() -> Side:
    world = WorldTime()
    work = QueueSettings(
        url="work", visibility_ms=VISIBILITY * 1000, max_receives=RECEIVES, dead_letters="dead"
    )
    sqs = FakeSqs(work, QueueSettings(url="dead"), now=world)

    def take(queue: str) -> Delivery | None:
        found = sqs.receive(queue)
        return None if found is None else (found.receipt_handle, found.body)

    return Side(sqs, "work", take, sqs.delete, "dead", world.advance)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_script_comes_to_the_same(script: list[Step], moto_side: Side, fake_side: Side):
    assert fake_side.play(script) == moto_side.play(script)
