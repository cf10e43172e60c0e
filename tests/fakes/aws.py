"""AWS on this machine: moto, with the table and the queues that template.yaml describes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from moto import mock_aws
from moto.dynamodb.responses import DynamoHandler

from infra.clients import dynamodb_client, sqs_client
from tests.fakes import template
from tests.fakes.faults import FaultyClient

REGION = "us-east-1"

_lock = threading.RLock()
_names = count(1)


def install_lock() -> None:
    """Make moto's conditional writes atomic between threads.

    Without it two writers win on one version, and a test of a race proves
    nothing. Installed once; a second time changes nothing.
    """
    unlocked = DynamoHandler.call_action
    if getattr(unlocked, "locked", False):
        return

    def call_action(self: DynamoHandler) -> Any:
        with _lock:
            return unlocked(self)

    call_action.locked = True  # type: ignore[attr-defined]  # a mark on our own function
    DynamoHandler.call_action = call_action  # type: ignore[method-assign]  # that is the point


@dataclass(frozen=True, slots=True)
class LocalAws:
    """One moto, shared by many tests: each makes a table and queues of its own.

    The clients are real ones in a FaultyClient, hence Any.
    """

    dynamodb: Any
    sqs: Any

    def new_table(self) -> str:
        """Name of a new, empty table with the template's keys and indexes."""
        name = f"sagas-{next(_names)}"
        arguments = template.table_arguments(template.load(), name)
        self.dynamodb.wrapped.create_table(**arguments)
        return name

    def new_queues(self) -> dict[str, str]:
        """URLs of new queues like the template's, by logical id, dead letters connected."""
        described, prefix = template.load(), f"q{next(_names)}"
        sqs = self.sqs.wrapped
        urls = {
            name: sqs.create_queue(
                QueueName=f"{prefix}-{name}",
                Attributes=template.queue_attributes(described, name),
            )["QueueUrl"]
            for name in template.resources(described, "AWS::SQS::Queue")
        }
        for name, url in urls.items():
            redrive = template.redrive(described, name)
            if redrive is not None:
                policy = {
                    "deadLetterTargetArn": self.arn(urls[redrive[0]]),
                    "maxReceiveCount": redrive[1],
                }
                attributes = {"RedrivePolicy": json.dumps(policy)}
                sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)
        return urls

    def new_queue(self, attributes: dict[str, str]) -> str:
        """URL of a new queue."""
        name = f"q{next(_names)}"
        reply = self.sqs.wrapped.create_queue(QueueName=name, Attributes=attributes)
        return str(reply["QueueUrl"])

    def arn(self, url: str) -> str:
        """A queue's name in redrive policies and event source mappings."""
        reply = self.sqs.wrapped.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        arn: str = reply["Attributes"]["QueueArn"]
        return arn


@contextmanager
def local_aws() -> Iterator[LocalAws]:
    """Moto in this process until the block ends."""
    install_lock()
    before = os.environ.get("AWS_DEFAULT_REGION")
    os.environ["AWS_DEFAULT_REGION"] = REGION
    try:
        with mock_aws():
            yield LocalAws(FaultyClient(dynamodb_client()), FaultyClient(sqs_client()))
    finally:
        if before is None:
            del os.environ["AWS_DEFAULT_REGION"]
        else:
            os.environ["AWS_DEFAULT_REGION"] = before
